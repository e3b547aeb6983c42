"""The report as one page that needs nothing beside itself, and no network."""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import altair
import vl_convert

from compare.report import charts
from compare.report.charts import Chart
from compare.report.ladder import ladder, ladder_barriers, local_energies
from compare.report.ladder_charts import ladder_charts
from compare.report.landscape import exact_errors, exact_networks, neighbourhoods, robustness
from compare.report.landscape_charts import exact_charts, neighbourhood_charts, robustness_charts
from compare.report.sections import Section, pair_name, sections
from compare.report.style import DRAW, POLICY, STYLE
from compare.report.table import SPLITS, Table
from compare.report.tables import (
    SPREAD,
    TERMS,
    barriers,
    controls,
    distances,
    matching,
    quality,
    summary,
)
from compare.report.text import heading, lead, notes
from compare.runs.record import Provenance, Record


def page(records: Iterable[Record]) -> str:
    """The whole page.

    Args:
        records: At least one.

    Returns:
        HTML with styles, the chart library (once) and all data inside; a content security policy in it refuses any
        request to any network.

    Raises:
        ReportError: If there is no record, or something else among them.
    """
    found = sections(records)
    specs: dict[str, dict[str, Any]] = {}
    bodies = [_section(section, number, specs) for number, section in enumerate(found, 1)]
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            *_head(found),
            "<body>",
            *_headline(found),
            *itertools.chain.from_iterable(bodies),
            f'<script type="application/json" id="charts">{_json(specs)}</script>',
            f"<script>{_script()}</script>",
            "</body>",
            "</html>",
            "",
        )
    )


def _json(content: object) -> str:
    # "<" would let text in the data end the script element.
    return json.dumps(content).replace("<", "\\u003c")


@functools.cache
def _script() -> str:
    """Vega, Vega-Lite and vega-embed, in the Vega-Lite version that altair writes, with the lines that draw."""
    version = "_".join(altair.SCHEMA_VERSION.split(".")[:2])
    return vl_convert.javascript_bundle(DRAW, vl_version=version).replace("</script", "<\\/script")


def _head(found: Sequence[Section]) -> Iterator[str]:
    about = "; ".join(heading(section) for section in found)
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Connectivity report: {escape(about)}</title>"
    yield '<link rel="icon" href="data:,">'
    yield f"<style>{STYLE}</style>"
    yield "</head>"


def _headline(found: Sequence[Section]) -> Iterator[str]:
    yield "<header><h1>Connectivity report</h1>"
    yield (
        "<p>How well networks of each precision solve the task, how far apart two solutions are, and what the error "
        "does on the way from one to the other.</p>"
    )
    yield from _folded("What the words and the ± mean", (f"<p>{escape(TERMS)}</p>", f"<p>{escape(SPREAD)}</p>"))
    if len(found) > 1:
        links = (f'<li><a href="#s{number}">{escape(heading(s))}</a></li>' for number, s in enumerate(found, 1))
        yield f"<ul>{''.join(links)}</ul>"
    yield "</header>"


def _section(section: Section, number: int, specs: dict[str, dict[str, Any]]) -> list[str]:
    """One section's HTML; the specifications of its charts are added to ``specs``."""
    parts = (
        (f'<section id="s{number}">', f"<h2>{escape(heading(section))}</h2>", f"<p>{escape(lead(section))}</p>"),
        _table(summary(section)),
        *_ladder(section, specs),
        _figures(charts.path_charts(section, "linear"), specs),
        _folded("Error along the geodesic", _figures(charts.path_charts(section, "geodesic"), specs)),
        *(_table(barriers(section, split)) for split in SPLITS),
        *_landscape(section, specs),
        _table(local_energies(section)),
        _table(distances(section)),
        _table(matching(section)),
        _table(controls(section)),
        _table(quality(section)),
        _figures([c for c in (charts.error_chart(section), charts.flip_chart(section)) if c is not None], specs),
        _notes(section),
        _folded("Provenance: configuration, seeds, versions", _provenance(section)),
        ("</section>",),
    )
    return list(itertools.chain.from_iterable(parts))


def _ladder(section: Section, specs: dict[str, dict[str, Any]]) -> Iterator[Iterable[str]]:
    yield _table(ladder(section))
    yield _figures(ladder_charts(section), specs)
    yield _table(ladder_barriers(section))


def _landscape(section: Section, specs: dict[str, dict[str, Any]]) -> Iterator[Iterable[str]]:
    yield _figures(exact_charts(section), specs)
    yield from (_table(exact_errors(section, split)) for split in SPLITS)
    yield _table(exact_networks(section))
    yield _figures(neighbourhood_charts(section), specs)
    yield _table(neighbourhoods(section))
    yield _figures(robustness_charts(section), specs)
    yield _table(robustness(section))


def _figures(drawn: Iterable[Chart], specs: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for chart in drawn:
        name = f"chart-{len(specs) + 1}"
        specs[name] = chart.spec
        found.append(
            f'<figure><h3>{escape(chart.title)}</h3><figcaption>{escape(chart.note)}</figcaption>'
            f'<div class="chart" id="{name}"></div></figure>'
        )  # fmt: skip
    return found


def _folded(title: str, content: Iterable[str]) -> list[str]:
    found = list(content)
    return [f'<details class="folded"><summary>{escape(title)}</summary>', *found, "</details>"] if found else []


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    yield f'<h3>{escape(table.title)}</h3><p class="note">{escape(table.note)}</p>'
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(_cell("th", text, number=i >= table.keys) for i, text in enumerate(table.header))
    yield "</tr></thead><tbody>"
    for number, row in enumerate(table.rows):
        yield _row(table, number, row)
    yield "</tbody></table></div>"


def _row(table: Table, number: int, row: Sequence[str]) -> str:
    """One row; leading cells that repeat those above are merged with them."""
    spans = [_span(table.rows, number, column) for column in range(table.keys - 1)] + [1]
    keys = (
        _cell("th", text, attributes=f' rowspan="{span}"' if span > 1 else "")
        for text, span in zip(row[: table.keys], spans, strict=True)
        if span
    )
    cells = (_cell("td", text, number=True) for text in row[table.keys :])
    first = ' class="first"' if all(spans[-2:]) else ""
    return f"<tr{first}>{''.join(keys)}{''.join(cells)}</tr>"


def _span(rows: Sequence[Sequence[str]], number: int, column: int) -> int:
    """How many rows from this one on share their cells up to ``column``; 0 if the row above shares them too."""
    key = rows[number][: column + 1]
    if number and rows[number - 1][: column + 1] == key:
        return 0
    return len(list(itertools.takewhile(lambda row: row[: column + 1] == key, rows[number:])))


def _cell(tag: str, text: str, *, number: bool = False, attributes: str = "") -> str:
    kind = ' class="number"' if number else ""
    return f"<{tag}{kind}{attributes}>{escape(text)}</{tag}>"


def _notes(section: Section) -> Iterator[str]:
    remarks = notes(section)
    if remarks:
        items = (f"<li>{escape(remark)}</li>" for remark in remarks)
        yield f"<h3>Notes</h3><ul>{''.join(items)}</ul>"


def _provenance(section: Section) -> Iterator[str]:
    yield from _table(_origins(section))
    records = [(group.label, record) for group in section.groups for record in group.records]
    yield from _listed("Made with", ((label, _environment(record.provenance)) for label, record in records))
    yield from _listed("Configuration", ((label, record.configuration) for label, record in records))


def _origins(section: Section) -> Table:
    rows = tuple(
        (group.label, pair_name(record), str(record.seed), record.provenance.created)
        for group in section.groups
        for record in group.records
    )
    header = ("precision", "networks", "seed", "made")
    return Table("Where the records come from", "Seed: of matching and controls.", header, rows, keys=len(header))


def _environment(made: Provenance) -> dict[str, Any]:
    return made.model_dump(exclude={"created"}, exclude_none=True)


def _listed(title: str, contents: Iterable[tuple[str, Mapping[str, Any] | None]]) -> Iterator[str]:
    """Each different content once, with the precisions that it belongs to."""
    labels: dict[str, dict[str, None]] = {}
    for label, content in contents:
        if content:
            labels.setdefault(_indented(content), {})[label] = None
    for text, whose in labels.items():
        yield f"<h3>{escape(title)}: {escape(', '.join(whose))}</h3><pre>{escape(text)}</pre>"


def _indented(content: Mapping[str, Any]) -> str:
    """JSON to read: innermost lists on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # JSON has no line breaks inside strings, so these are all between values.
    return re.sub(r"\[\n[^\[\]{}]*\n *\]", lambda found: " ".join(map(str.strip, found[0].split("\n"))), text)
