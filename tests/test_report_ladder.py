"""The precision ladder in the report. REWRITE_SNAPSHOTS=1 in the environment writes the snapshot anew."""

import json
import os
import re
import statistics
from pathlib import Path

import pytest
from record_factory import LADDER, energy, made_up, network, records
from test_report_page import HOSTILE, Elements, browse, needs_chromium, specs

from compare.report import markdown
from compare.report.ladder import ladder, ladder_barriers, local_energies, rungs
from compare.report.ladder_charts import ladder_charts
from compare.report.page import _script, page
from compare.report.sections import sections
from compare.report.table import TREATMENTS
from compare.runs import read_record

ROOT = Path(__file__).parents[1]
PRECISIONS = tuple(LADDER)
CHARTS = [f"Precision ladder: {what} against bits" for what in ("error and distance", "barrier", "local energy")]


@pytest.fixture(scope="module")
def found():
    """Three pairs of each precision, most bits first."""
    return records(PRECISIONS[::-1], ladder=True)


@pytest.fixture(scope="module")
def section(found):
    (one,) = sections(found)
    return one


def text(values, *, scale=100.0, digits=2):
    found = [scale * value for value in values]
    return f"{statistics.fmean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}"


def row(table, *keys):
    (found,) = (one for one in table.rows if one[: len(keys)] == keys)
    return dict(zip(table.header, found, strict=True))


def titles(text):
    return re.findall(r"(?:### |<h3>)(Precision ladder: [^\n<]*|Local energy)", text)


def data(chart):
    (rows,) = chart.spec["datasets"].values() if "datasets" in chart.spec else (chart.spec["data"]["values"],)
    return rows


def curves(found, precision, *kind):
    return [
        curve
        for record in found
        if record.precision == precision
        for curve in record.curves
        if (curve.treatment, curve.path, curve.statistics, curve.split) == kind
    ]


def test_the_ladder_in_markdown_is_the_snapshot(found):
    file = ROOT / "tests" / "snapshots" / "ladder.md"
    whole = markdown(found)
    parts = [
        whole[whole.index(a) : whole.index(b)]
        for a, b in (("### Precision", "### Solution"), ("### Local", "### Null"))
    ]
    if os.environ.get("REWRITE_SNAPSHOTS"):
        file.write_text("".join(parts), encoding="utf-8")
    assert "".join(parts) == file.read_text(encoding="utf-8")


def test_precisions_stand_in_the_order_of_their_bits(section):
    assert [one[:2] for one in ladder(section).rows] == [
        ("binary", "1"),
        ("ternary", "1.58"),
        ("int2", "2"),
        ("int4", "4"),
        ("int8", "8"),
        ("full", "32"),
    ]
    assert [one[1] for one in local_energies(section).rows] == list(PRECISIONS)
    assert [one[2] for one in ladder_barriers(section).rows] == 4 * list(PRECISIONS)


@pytest.mark.parametrize("precision", ["binary", "int4"])
def test_numbers_of_the_ladder_are_those_of_the_records(found, section, precision):
    pairs = [record for record in found if record.precision == precision]
    barriers = {
        how: curves(found, precision, "matched", "linear", how, "train") for how in ("interpolated", "re-estimated")
    }
    assert row(ladder(section), precision) == {
        "precision": precision,
        "bits": f"{LADDER[precision]:g}",
        "test error (%)": text([network(precision, seed).errors["test"] for seed in (0, 1, 2)]),
        "RMS angle": text(
            [d.rms_angle for record in pairs for d in record.distances if d.treatment == "matched"], scale=1, digits=3
        ),
        "barrier (pp)": text([curve.barrier for curve in barriers["interpolated"]]),
        "re-estimated (pp)": text([curve.barrier for curve in barriers["re-estimated"]]),
        "rise at 1 (pp)": text([energy(precision, seed).rises[1] for seed in (0, 1, 2)]),
        "n": "3",
    }


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("how", ["interpolated", "re-estimated"])
def test_barriers_of_the_ladder_are_those_of_the_records(found, section, split, how):
    shown = row(ladder_barriers(section), split, how, "full")
    for treatment in TREATMENTS:
        assert shown[treatment] == text([c.barrier for c in curves(found, "full", treatment, "linear", how, split)])
    assert (shown["bits"], shown["n"]) == ("32", "3")


def test_local_energies_are_means_over_networks_each_counted_once(section):
    """Each of three networks is in two pairs, first in one and second in another."""
    shown = row(local_energies(section), "500 train", "int2")
    own = [energy("int2", seed) for seed in (0, 1, 2)]
    assert shown["own error (%)"] == text([one.error for one in own])
    for index, name in enumerate(("sigma 0.5", "sigma 1", "sigma 2")):
        assert shown[name] == text([one.rises[index] for one in own])
    assert (shown["bits"], shown["standard error"], shown["draws"], shown["n"]) == ("2", "2.00", "10", "3")


def test_the_order_of_records_changes_no_number(found, section):
    (other,) = sections(found[::-1])
    for table in (ladder, ladder_barriers):
        assert table(other) == table(section)
    assert local_energies(other) == local_energies(section)


def test_sizes_of_noise_that_only_some_networks_have_are_missing_elsewhere():
    fewer = energy("binary", 0).model_copy(update={"sigmas": (0.25,), "rises": (0.0,), "standard_errors": (0.0,)})
    other = made_up("full", ladder=True, energies=(energy("full", 0),))
    (section,) = sections([made_up(ladder=True, energies=(fewer,)), other])
    shown = row(local_energies(section), "500 train", "binary")
    assert (shown["sigma 0.25"], shown["sigma 1"], shown["standard error"], shown["n"]) == ("0", "–", "0", "1")  # noqa: RUF001
    assert row(local_energies(section), "500 train", "full")["sigma 0.25"] == "–"  # noqa: RUF001


def test_energies_of_other_samples_are_not_averaged():
    fewer = made_up("binary", 2, 3, ladder=True, energies=(energy("binary", 2, samples=100),))
    (section,) = sections([made_up(ladder=True), fewer])
    assert [(one[0], one[-1]) for one in local_energies(section).rows] == [("500 train", "2"), ("100 train", "1")]


@pytest.mark.parametrize(
    ("given", "heights"),
    [
        (("binary", "full"), 0),
        (("binary", "ternary", "full"), 3),
        (PRECISIONS, 6),
    ],
)
def test_a_ladder_takes_three_precisions(given, heights):
    found = records(given, ladder=True)
    (section,) = sections(found)
    assert len(rungs(section)) == len(ladder(section).rows) == heights
    expected = 2 if heights else 0
    assert [title.startswith("Precision") for title in titles(markdown(found))] == expected * [True] + [False]
    assert [t for t in titles(page(found)) if t in CHARTS] == (CHARTS if heights else [])
    assert len(ladder_charts(section)) == (3 if heights else 0)


def test_one_precision_trained_in_three_ways_is_no_ladder():
    ways = [{"training": {"optimiser": optimiser}} for optimiser in ("adam", "bop", "sgd")]
    (section,) = sections([made_up(ladder=True, configuration=way) for way in ways])
    assert len(section.groups) == 3
    assert rungs(section) == ()


def test_precisions_of_unknown_bits_are_left_out_of_the_ladder(section):
    lost = made_up("other")
    found = [*records(("binary", "int4", "full"), ladder=True), lost]
    assert [group.label for group in rungs(sections(found)[0])] == ["binary", "int4", "full"]
    assert "other" not in [one["precision"] for one in data(ladder_charts(sections(found)[0])[0])]


def test_records_of_older_versions_look_as_before(tmp_path):
    for version in (1, 2):
        content = json.loads(made_up().model_dump_json())
        del content["bits"], content["energies"]
        (tmp_path / "old.json").write_text(json.dumps({**content, "schema_version": version}))
        old = read_record(tmp_path / "old.json")
        assert markdown([old]) == markdown([made_up()])
        assert titles(markdown([old])) == []
    assert page([old]) == page([made_up()])


def test_of_repeats_the_one_with_energies_is_kept():
    for both in ([made_up(), made_up(ladder=True)], [made_up(ladder=True), made_up()]):
        (section,) = sections(both)
        assert section.groups[0].repeats == 1
        assert len(section.groups[0].energies) == 2


def test_bits_without_energies_leave_out_the_rise():
    found = records(("binary", "int4", "full"), ladder=True, energies=())
    (section,) = sections(found)
    assert ladder(section).header[-2:] == ("re-estimated (pp)", "n")
    assert titles(markdown(found)) == [table(section).title for table in (ladder, ladder_barriers)]
    assert [chart.title for chart in ladder_charts(section)] == CHARTS[:2]


def test_a_single_pair_has_no_spread():
    found = records(("binary", "int4", "full"), seeds=(0, 1), ladder=True)
    (section,) = sections(found)
    assert (
        row(ladder(section), "int4")["barrier (pp)"]
        == f"{100 * curves(found, 'int4', 'matched', 'linear', 'interpolated', 'train')[0].barrier:.2f}"
    )
    assert row(ladder_barriers(section), "train", "interpolated", "int4")["n"] == "1"


def test_the_terminal_shows_the_ladder_in_120_columns(found):
    brief = markdown(found, brief=True)
    assert titles(brief) == [ladder(sections(found)[0]).title]
    table = brief[brief.index("### Precision") : brief.index("### Distance")]
    assert max(map(len, table.splitlines())) <= 120
    assert titles(markdown(found[:3], brief=True)) == []


def test_charts_of_error_and_distance_draw_means_and_ranges(found, section):
    rows = [one for one in data(ladder_charts(section)[0]) if one["precision"] == "int8"]
    errors = [100 * network("int8", seed).errors["test"] for seed in (0, 1, 2)]
    angles = [d.rms_angle for r in found if r.precision == "int8" for d in r.distances if d.treatment == "matched"]
    for drawn, values in zip(rows, (errors, angles), strict=True):
        assert (drawn["bits"], drawn["n"]) == (8, 3)
        assert drawn["mean"] == pytest.approx(statistics.fmean(values))
        assert (drawn["low"], drawn["high"]) == (min(values), max(values))


def test_charts_of_barriers_draw_all_treatments_statistics_and_splits(found, section):
    rows = data(ladder_charts(section)[1])
    assert len(rows) == 3 * 2 * 2 * len(PRECISIONS)
    (drawn,) = (
        one
        for one in rows
        if (one["precision"], one["treatment"], one["statistics"], one["split"])
        == ("binary", "standard form", "statistics re-estimated", "test samples")
    )
    heights = [100 * c.barrier for c in curves(found, "binary", "standard form", "linear", "re-estimated", "test")]
    assert drawn["mean"] == pytest.approx(statistics.fmean(heights))
    assert (drawn["low"], drawn["high"]) == (min(heights), max(heights))


def test_charts_of_energies_draw_a_line_for_each_size_of_noise(section):
    rows = data(ladder_charts(section)[2])
    assert {one["samples"] for one in rows} == {"500 train samples"}
    drawn = {one["sigma"]: one for one in rows if one["precision"] == "ternary"}
    assert list(drawn) == ["0.5", "1", "2"]
    rises = [100 * energy("ternary", seed).rises[2] for seed in (0, 1, 2)]
    assert drawn["2"]["mean"] == pytest.approx(statistics.fmean(rises))
    assert (drawn["2"]["low"], drawn["2"]["high"]) == (min(rises), max(rises))


def test_bits_are_on_an_axis_of_powers_of_2(section):
    for chart in ladder_charts(section):
        for layer in chart.spec["spec"]["layer"]:
            x = layer["encoding"]["x"]
            assert (x["field"], x["scale"]["type"], x["scale"]["base"]) == ("bits", "log", 2)
            assert x["axis"]["values"] == sorted(LADDER.values())


def hostile():
    """Three precisions with names that would break out of a page that does not escape them."""
    configured = [{"training": {"optimiser": f"{HOSTILE}{i}"}} for i in range(2)]
    return [
        made_up(precision, ladder=True, title=HOSTILE, configuration=one)
        for precision in ("binary", "int4", "full")
        for one in configured
    ]


def test_names_from_records_stay_text():
    plain = {tag for tag, _ in Elements(page([made_up()]).replace(_script(), "")).found}
    assert {tag for tag, _ in Elements(page(hostile()).replace(_script(), "")).found} == plain
    assert rungs(sections(hostile())[0])


@needs_chromium
@pytest.mark.parametrize(
    "given",
    [records(PRECISIONS, ladder=True), records(("binary", "int4", "full"), seeds=(0, 1), ladder=True), hostile()],
    ids=["ladder", "single pairs", "hostile"],
)
def test_a_browser_draws_every_chart_and_asks_no_network(given, tmp_path):
    html = page(given)
    document, console, addresses = browse(html, tmp_path)
    assert console == []
    parts = re.split(r'id="(chart-\d+)"', document)[1:]
    assert parts[::2] == list(specs(html))
    for drawn in parts[1::2]:
        assert re.search(r'class="mark-line[^>]*>\s*<path[^>]* d="M[^"]*L', drawn)
    assert addresses == set()
