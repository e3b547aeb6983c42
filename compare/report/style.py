"""How the page looks, and the few lines that draw its charts."""

STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --shade: #f6f8fa; --link: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 1180px; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 3rem 0 .5rem; padding-top: 1.25rem;
  border-top: 2px solid var(--ink); overflow-wrap: anywhere; }
h3 { font-size: 1.1rem; margin: 2.25rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 52rem; }
a { color: var(--link); }
.note, figcaption { color: var(--soft); font-size: .92rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .94rem; font-variant-numeric: tabular-nums; margin: .25rem 0 .5rem; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
thead th.number { white-space: normal; }
tbody th { font-weight: 400; white-space: nowrap; }
tbody tr.first > * { border-top: 1px solid var(--line); }
tbody tr:first-child > * { border-top: 0; }
figure { margin: 1rem 0 2rem; }
figure h3 { margin-top: 0; }
.chart { overflow-x: auto; overflow-y: hidden; padding: .25rem 2.5rem .25rem 0; min-height: 3rem; }
.chart .error { color: #b00020; }
.folded { margin: .75rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; }
.folded > :not(summary) { margin-top: .75rem; }
.folded > summary { cursor: pointer; font-weight: 600; }
pre { background: var(--shade); border-radius: 6px; padding: .75rem; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
li { overflow-wrap: anywhere; max-width: 52rem; }
@media (max-width: 600px) { body { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.5rem; } th, td { padding: .3rem .5rem; } }
@media print { .chart, .wide { overflow: visible; } figure, table { break-inside: avoid; } }
"""

# Only saving is offered: the other actions of vega-embed open another site or a new window.
DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const actions = { export: { svg: true, png: true }, source: false, compiled: false, editor: false };
for (const [id, spec] of Object.entries(charts)) {
  vegaEmbed("#" + id, spec, { renderer: "svg", actions }).catch((error) => {
    console.error(error);
    const message = Object.assign(document.createElement("p"), { className: "error" });
    message.textContent = "This chart could not be drawn: " + error.message;
    document.getElementById(id).replaceChildren(message);
  });
}
"""

# Refuses every request, whatever a script asks for; the chart library compiles its expressions, hence unsafe-eval.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
