"""The page: what is in it, and that a browser draws it without a network (skipped where there is no Chromium)."""

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import made_up, network, records

from compare.report import charts, markdown, write_report
from compare.report.page import _script, _table, page
from compare.report.sections import sections
from compare.report.table import Table
from compare.runs import OutputError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><img src='http://example.invalid/x.png' onerror='alert(1)'>"

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page was not drawn")


def hostile():
    """Records whose every free text would break out of a page that does not escape it."""
    data = made_up().data.model_copy(update={"name": HOSTILE})
    ends = tuple(network("binary", seed).model_copy(update={"name": f"{HOSTILE} {seed}"}) for seed in (0, 1))
    texts = {"title": HOSTILE, "model": HOSTILE, "notes": (HOSTILE,), "configuration": {HOSTILE: HOSTILE}}
    return [made_up(HOSTILE, data=data, networks=ends, **texts)]


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of scripts."""

    def __init__(self, html):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def specs(html):
    elements = Elements(html)
    return json.loads(next(text for text in elements.scripts if text.startswith("{")))


def test_both_files_are_written_and_the_page_is_returned(tmp_path):
    found = write_report(iter(records()), tmp_path / "new" / "report")
    assert found == tmp_path / "new" / "report" / "index.html"
    assert found.read_text(encoding="utf-8") == page(records())
    assert (found.parent / "table.md").read_text(encoding="utf-8") == markdown(records())
    assert sorted(file.name for file in found.parent.iterdir()) == ["index.html", "table.md"]


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not write"):
        write_report(records(), tmp_path / "file")


def test_each_kind_of_chart_is_there():
    described = [spec["description"] for spec in specs(page(records())).values()]
    assert described == [
        "Error along the straight line, train samples",
        "Error along the straight line, test samples",
        "Error along the geodesic, train samples",
        "Error along the geodesic, test samples",
        "Train and test error by epoch",
        "Flip ratio by epoch",
    ]


def test_charts_without_data_are_left_out():
    straight = tuple(curve for curve in made_up("full").curves if curve.path == "linear")
    ends = tuple(network("full", seed).model_copy(update={"history": ()}) for seed in (0, 1))
    html = page([made_up("full", curves=straight, networks=ends)])
    assert len(specs(html)) == 2
    assert "Error along the geodesic" not in html


def test_tables_and_notes_without_content_are_left_out():
    straight = tuple(curve for curve in made_up().curves if curve.path == "linear" and curve.split == "train")
    html = page([made_up(curves=straight, distances=(), notes=())])
    titles = re.findall(r"<h3>(\w+)", html)
    assert titles == [
        "Summary",
        "Error",
        "Error",
        "Matching",
        "Null",
        "Solution",
        "Training",
        "Training",
        "Where",
        "Made",
        "Configuration",
    ]


def test_each_section_has_its_own_charts_and_a_link():
    html = page([*records(), *records(model="64 - 16 - 10")])
    assert len(specs(html)) == 12
    tags = Elements(html).found
    assert [attributes["href"] for tag, attributes in tags if tag == "a"] == ["#s1", "#s2"]
    assert [attributes["id"] for tag, attributes in tags if tag == "section"] == ["s1", "s2"]
    assert [attributes["id"] for _, attributes in tags if attributes.get("class") == "chart"] == list(specs(html))


def test_a_mean_line_is_the_mean_over_pairs_between_lowest_and_highest():
    (section,) = sections(records(("binary",)))
    rows = data(charts.path_chart(section, "geodesic", "test"))
    wanted = {"treatment": "matched", "statistics": "statistics re-estimated", "t": 0.5}
    (mean,) = (row for row in rows if "mean" in row and wanted.items() <= row.items())
    singles = [row["error"] for row in rows if "pair" in row and wanted.items() <= row.items()]
    group = section.groups[0]
    errors = [100 * curve.midpoint_error for curve in group.curves("matched", "geodesic", "re-estimated", "test")]
    assert sorted(singles) == pytest.approx(sorted(errors))
    assert mean["mean"] == pytest.approx(sum(errors) / 3)
    assert (mean["low"], mean["high"], mean["pairs"]) == (min(errors), max(errors), 3)


def data(chart):
    (rows,) = chart.spec["datasets"].values() if "datasets" in chart.spec else (chart.spec["data"]["values"],)
    return rows


def test_single_pairs_are_drawn_while_they_are_few():
    many = records(("binary",), seeds=tuple(range(5)))
    few, crowd = (sections(part)[0] for part in (many[: charts.FEW_PAIRS], many))
    assert any("pair" in row for row in data(charts.path_chart(few, "linear", "train")))
    assert not any("pair" in row for row in data(charts.path_chart(crowd, "linear", "train")))


def test_long_paths_are_drawn_whole():
    curves = [made_up("binary", a, b, points=201) for a, b in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3))]
    (section,) = sections(curves)
    assert len(data(charts.path_chart(section, "linear", "train"))) == 6 * 6 * 201


def test_flips_of_0_are_drawn_on_a_linear_axis():
    still = network("binary", 0)
    history = tuple(epoch.model_copy(update={"flip_ratio": 0.0}) for epoch in still.history)
    (moving,) = sections([made_up()])
    (stopped,) = sections([made_up(networks=(still.model_copy(update={"history": history}), network("binary", 1)))])
    scales = [charts.flip_chart(s).spec["spec"]["encoding"]["y"]["scale"]["type"] for s in (moving, stopped)]
    assert scales == ["log", "linear"]


@pytest.mark.parametrize("found", [records(), hostile()], ids=["records", "hostile"])
def test_the_page_asks_for_nothing_from_anywhere(found):
    html = page(found)
    library = _script()
    assert html.count(library) == 1
    elements = Elements(html.replace(library, "library"))
    for _, attributes in elements.found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in html.replace(library, "")
    assert "url(" not in html.replace(library, "")
    (policy,) = (a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|\*", policy)


def test_text_from_records_stays_text():
    ours, theirs = (Elements(page(found).replace(_script(), "")).found for found in ([made_up()], hostile()))
    assert [tag for tag, _ in theirs] == [tag for tag, _ in ours]
    assert specs(page(hostile()))["chart-1"]["description"] == "Error along the straight line, train samples"


def test_provenance_shows_each_setting_once_with_the_precisions_it_belongs_to():
    sizes = {"hidden": [64, 32], "text": "[1,\n 2]"}
    html = page([*records(), *records(("full", "k-bit"), seeds=(5, 6), configuration=sizes)])
    titles = re.findall(r"<h3>(Configuration: .*?|Made with: .*?)</h3>", html)
    unknown = "full (epochs not recorded, optimiser not recorded)"
    assert titles == [
        f"Made with: binary, full (epochs 5, optimiser adam), {unknown}, k-bit",
        "Configuration: binary, full (epochs 5, optimiser adam)",
        f"Configuration: {unknown}, k-bit",
    ]
    shown = unescape(re.findall(r"<pre>(\{\n.*?)</pre>", html, re.DOTALL)[-1])
    assert json.loads(shown) == sizes
    assert '"hidden": [ 64, 32 ]' in shown


def test_epochs_are_ticked_at_whole_numbers():
    assert charts._ticks(3) == [1, 2, 3]
    assert charts._ticks(20) == [3, 6, 9, 12, 15, 18]


def test_the_page_says_its_language_title_and_size():
    html = page(records())
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>Connectivity report: made-up digits, 64 - 32 - 32 - 10</title>" in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert '<link rel="icon" href="data:,">' in html


class Grid(HTMLParser):
    """A table's body as a reader sees it: merged cells stand in each row they reach into."""

    def __init__(self, html, columns):
        super().__init__()
        self.rows, self.columns, self.open, self.reach = [], columns, False, {}
        self.feed(html.split("<tbody>")[1])

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([None] * self.columns)
            self.reach = {c: (text, left - 1) for c, (text, left) in self.reach.items() if left > 1}
            for column, (text, _) in self.reach.items():
                self.rows[-1][column] = text
        if tag in ("td", "th"):
            self.column = self.rows[-1].index(None)
            self.rows[-1][self.column] = ""
            self.span = int(dict(attrs).get("rowspan", 1))

    def handle_data(self, data):
        self.rows[-1][self.column] += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.reach[self.column] = (self.rows[-1][self.column], self.span)


LETTERS = st.sampled_from("ab")


@given(rows=st.lists(st.tuples(LETTERS, LETTERS, LETTERS, LETTERS), min_size=1, max_size=10), keys=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_merged_cells_show_the_same_table(rows, keys):
    table = Table("title", "note", ("one", "two", "three", "four"), tuple(rows), keys)
    assert Grid("".join(_table(table)), 4).rows == [list(row) for row in rows]


def test_tables_need_neither_torch_nor_charts():
    code = "import sys, compare.report; print(sorted({'torch', 'altair', 'vl_convert'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def browse(html, folder):
    """Open a page: its document after drawing, what it wrote to the console, and the addresses it asked for."""
    file, log = folder / "index.html", folder / "net.json"
    file.write_text(html, encoding="utf-8")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    plain = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--v=0"]
    command = [CHROMIUM, *plain, *quiet, "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'home'}"]
    command += ["--virtual-time-budget=10000", f"--log-net-log={log}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console, asked(json.loads(log.read_text(encoding="utf-8")))


def asked(log):
    """Addresses that pages asked for; those without an origin are the browser's own (its updates, its clock)."""
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    found = [event.get("params", {}) for event in log["events"] if event["type"] == started]
    return {one["url"] for one in found if "url" in one and one["initiator"] != "not an origin"}


@needs_chromium
@pytest.mark.parametrize("found", [records(), hostile()], ids=["records", "hostile"])
def test_a_browser_draws_every_chart_and_asks_no_network(found, tmp_path):
    html = page(found)
    document, console, addresses = browse(html, tmp_path)
    assert console == []
    parts = re.split(r'id="(chart-\d+)"', document)[1:]
    assert parts[::2] == list(specs(html))
    for drawn in parts[1::2]:
        assert re.search(r'<svg[^>]*class="marks"', drawn)
        assert re.search(r'class="mark-line[^>]*>\s*<path[^>]* d="M[^"]*L', drawn)
    assert addresses == set()


@needs_chromium
def test_a_request_or_an_error_would_have_been_seen(tmp_path):
    image, script = "http://example.invalid/x.png", "https://example.invalid/y"
    html = f"<!DOCTYPE html><img src='{image}'><script>fetch('{script}'); undefined_name()</script>"
    _, console, addresses = browse(html, tmp_path)
    assert any("undefined_name" in line for line in console)
    assert addresses == {image, script}
