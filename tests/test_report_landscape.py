"""The exact landscape in the report. REWRITE_SNAPSHOTS=1 in the environment writes the snapshot anew."""

import json
import os
import re
import statistics
from pathlib import Path

import pytest
from record_factory import (
    exact_curve,
    landscape,
    made_up,
    network,
    records,
    robustness,
)
from test_report_page import HOSTILE, Elements, browse, needs_chromium, specs

from compare.report import landscape_charts, markdown
from compare.report.landscape import exact_errors, exact_networks, neighbourhoods
from compare.report.landscape import robustness as robustness_table
from compare.report.page import _script, page
from compare.report.sections import sections
from compare.report.tables import tables
from compare.runs import read_record, read_records

ROOT = Path(__file__).parents[1]
HEADINGS = ("Exact", "Neighbourhood", "Robustness")


def changed(**parts):
    """A binary pair whose landscape has other parts."""
    return made_up(landscape=landscape().model_copy(update=parts))


def hostile():
    """A landscape whose names would break out of a page that does not escape them."""
    around = landscape().neighbourhoods[0]
    layers = tuple(layer.model_copy(update={"weight": f"{layer.weight}{HOSTILE}"}) for layer in around.layers)
    flips = tuple(one.model_copy(update={"weight": HOSTILE}) for one in landscape().robustness[1:2])
    ends = tuple(network("binary", seed).model_copy(update={"name": f"{HOSTILE} {seed}"}) for seed in (0, 1))
    named = around.model_copy(update={"layers": layers})
    parts = landscape().model_copy(update={"neighbourhoods": (named,), "robustness": flips})
    return [made_up(HOSTILE, landscape=parts, networks=ends)]


def text(values, *, scale=100.0, digits=2):
    found = [scale * value for value in values]
    return f"{statistics.fmean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}"


def row(table, *keys):
    (found,) = (one for one in table.rows if one[: len(keys)] == keys)
    return dict(zip(table.header, found, strict=True))


def titles(text):
    return [title for title in re.findall(r"(?:### |<h3>)(\w+)", text) if title in HEADINGS]


def data(chart):
    (rows,) = chart.spec["datasets"].values() if "datasets" in chart.spec else (chart.spec["data"]["values"],)
    return rows


def test_the_landscape_in_markdown_is_the_snapshot():
    file = ROOT / "tests" / "snapshots" / "landscape.md"
    found = markdown(records(landscapes=True))
    found = found[found.index("### Exact") : found.index("### Null controls")]
    if os.environ.get("REWRITE_SNAPSHOTS"):
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("split", ["train", "test"])
def test_numbers_of_exact_curves_are_those_of_the_records(split):
    found = records(landscapes=True)
    (section,) = sections(found)
    kind = ("matched", "re-estimated", "greedy", split)
    curves = [
        curve
        for record in found
        if record.landscape is not None
        for curve in record.landscape.curves
        if (curve.treatment, curve.statistics, curve.order, curve.split) == kind
    ]
    assert len(curves) == 3
    shown = row(exact_errors(section, split), *kind[:3], "binary")
    assert shown == {
        "treatment": "matched",
        "statistics": "re-estimated",
        "order": "greedy",
        "precision": "binary",
        "supremum (%)": text([c.supremum for c in curves]),
        "at t": text([c.supremum_at for c in curves], scale=1),
        "25 points (%)": text([c.grid_supremum for c in curves]),
        "missed (pp)": text([c.missed for c in curves]),
        "missed (samples)": text([c.missed * c.samples for c in curves], scale=1, digits=1),
        "integral (%)": text([c.integral for c in curves]),
        "n": "3",
    }
    counted = row(exact_networks(section), *kind[:3], "binary")
    assert counted["flips"] == text([c.flips for c in curves], scale=1, digits=0)
    assert counted["networks"] == text([c.networks for c in curves], scale=1, digits=0)
    assert (counted["threshold steps"], counted["n"]) == ("1000 ± 0", "3")
    assert "in seconds a pair: binary 12.0 ± 1.0." in exact_networks(section).note


def test_numbers_of_neighbourhoods_and_robustness_are_those_of_the_first_networks():
    (section,) = sections(records(landscapes=True))  # seeds 0 and 1 come first, seed 0 in two pairs
    around = [landscape(seed).neighbourhoods[0] for seed in (0, 1)]
    layers = [one.layers[2] for one in around]
    shown = row(neighbourhoods(section), "binary", "1000 train", "head.weight")
    assert (shown["bits"], shown["n"]) == ("320", "2")
    assert shown["unchanging (%)"] == text([layer.unchanging for layer in layers])
    assert shown["raising (%)"] == text([layer.raising for layer in layers])
    assert shown["lowering (%)"] == text([layer.lowering for layer in layers])
    assert shown["mean (samples)"] == text([layer.mean for layer in layers], scale=1000, digits=3)
    assert shown["mean (pp)"] == text([layer.mean for layer in layers], digits=4)
    assert shown["worst (samples)"] == text([layer.worst for layer in layers], scale=1000, digits=1)
    assert shown["worst (pp)"] == text([layer.worst for layer in layers])

    flipped = [robustness(seed) for seed in (0, 1)]
    shown = row(robustness_table(section), "binary", "360 test", "all weights")
    for index, name in enumerate(("0 %", "0.1 %", "1 %", "10 %")):
        assert shown[f"{name} flipped"] == text([one.errors[index] for one in flipped])
    assert shown["standard error (pp)"] == f"{100 * max(flipped[0].standard_errors):.2f}"
    assert (shown["bits"], shown["draws"], shown["n"]) == ("3392", "5", "2")


def test_a_network_that_is_first_in_one_pair_and_second_in_another_counts_once():
    seconds = tuple(one.model_copy(update={"network": "b"}) for one in landscape(1).neighbourhoods)
    first, other = landscape(1, 2), landscape(0, 1).model_copy(update={"neighbourhoods": seconds})
    (section,) = sections([made_up("binary", 1, 2, landscape=first), made_up("binary", 0, 1, landscape=other)])
    ((whose, _),) = section.groups[0].neighbourhoods
    assert whose.name == "seed 1"


def test_a_single_pair_has_no_spread_and_exact_zeros_show():
    (section,) = sections([made_up(landscape=landscape(complete=False))])
    shown = row(exact_errors(section, "train"), "matched", "interpolated", "latent-line, a grid of 25 networks")
    assert (shown["missed (pp)"], shown["missed (samples)"], shown["n"]) == ("0", "0", "1")
    assert not any("±" in cell for table in tables(section) if table.title.startswith(HEADINGS) for cell in table.rows)


def test_a_grid_is_never_averaged_with_complete_curves():
    first, second = landscape(0, 1), landscape(0, 2, complete=False)
    (section,) = sections([made_up("binary", 0, 1, landscape=first), made_up("binary", 0, 2, landscape=second)])
    rows = [one for one in exact_errors(section, "test").rows if one[2].startswith("latent-line")]
    assert [(one[2], one[-1]) for one in rows if one[1] == "interpolated"] == [
        ("latent-line", "1"),
        ("latent-line, a grid of 25 networks", "1"),
    ]


def test_what_missed_means_is_said():
    (section,) = sections(records(landscapes=True))
    assert "Missed: by how much the supremum exceeds the highest error at the 25 points" in (
        exact_errors(section, "train").note
    )


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ({"curves": ()}, {"Neighbourhood", "Robustness"}),
        ({"neighbourhoods": ()}, {"Exact", "Robustness"}),
        ({"robustness": ()}, {"Exact", "Neighbourhood"}),
        ({"curves": (), "neighbourhoods": (), "robustness": ()}, set()),
    ],
)
def test_missing_parts_leave_no_heading(parts, left):
    record = changed(**parts)
    assert set(titles(markdown([record]))) == left
    assert set(titles(page([record]))) == left


def test_records_without_a_landscape_look_as_before(tmp_path):
    old = tmp_path / "old.json"
    content = json.loads(made_up().model_dump_json())
    del content["landscape"]
    old.write_text(json.dumps({**content, "schema_version": 1}))
    found = read_record(old)
    assert found.landscape is None
    assert markdown([found]) == markdown([made_up()])
    assert page([found]) == page([made_up()])
    assert titles(page([found])) == titles(markdown([found])) == []


def test_records_of_version_1_in_the_documents_have_no_landscape_to_show():
    found = [record for record in read_records([ROOT / "docs" / "results" / "mnist"]) if record.schema_version == 1]
    if not found:
        pytest.skip("the documents' records were all made with a newer version")
    assert titles(markdown(found)) == []


def test_of_repeats_the_one_with_a_landscape_is_kept():
    for both in ([made_up(), made_up(landscapes=True)], [made_up(landscapes=True), made_up()]):
        (section,) = sections(both)
        (group,) = section.groups
        assert (len(group.records), group.repeats) == (1, 1)
        assert group.landscapes == (landscape(),)


def test_brief_leaves_the_landscape_out():
    assert titles(markdown(records(landscapes=True), brief=True)) == []


def described(html):
    return [spec["description"] for spec in specs(html).values()]


def test_each_kind_of_chart_is_there_and_only_where_it_has_data():
    extra = [
        "Exact error along the path: binary, matched, statistics interpolated",
        "Exact error along the path: binary, matched, statistics re-estimated",
        "Neighbourhood, unit by unit: binary, 1000 train samples",
        "Robustness: error against the fraction of flipped bits, 360 test samples",
    ]
    plain, full = described(page(records())), described(page(records(landscapes=True)))
    assert full == [*plain[:4], *extra, *plain[4:]]


def test_an_exact_chart_draws_the_first_pair_its_supremum_the_usual_points_and_other_pairs():
    (section,) = sections(records(landscapes=True))
    rows = data(landscape_charts.exact_charts(section)[0])
    panel = [one for one in rows if (one["order"], one["split"]) == ("latent-line", "test samples")]
    curve = exact_curve(0, 1, split="test")
    band = [one for one in panel if "first" in one]
    assert [one["t"] for one in band] == list(curve.ts)
    assert [one["high"] for one in band] == [100 * error for error in (*curve.highest, curve.highest[-1])]
    assert [one["low"] for one in band] == [100 * error for error in (*curve.lowest, curve.lowest[-1])]
    (top,) = (one for one in panel if "supremum" in one)
    assert (top["t"], top["supremum"]) == (curve.supremum_at, 100 * curve.supremum)
    assert top["missed"] == pytest.approx(100 * 3 / 360)
    usual = [c for c in made_up().curves if (c.treatment, c.path, c.statistics, c.split) == (
        "matched", "linear", "interpolated", "test"
    )]  # fmt: skip
    assert [one["grid"] for one in panel if "grid" in one] == [100 * error for error in usual[0].errors]
    assert {one["pair"] for one in panel if "pair" in one} == {"2: seed 0 and seed 2", "3: seed 1 and seed 2"}
    # On other orders the usual curve has other networks.
    assert not any("grid" in one for one in rows if one["order"] in ("random", "greedy"))


def test_notes_of_exact_charts_say_what_is_drawn():
    every, _ = (chart.note for chart in landscape_charts.exact_charts(sections([made_up(landscapes=True)])[0]))
    assert "of every network between seed 0 and seed 1; columns: orders" in every
    assert "black points: the usual curve of 25 points, where it lies on this path" in every
    grid, _ = landscape_charts.exact_charts(sections([made_up(landscape=landscape(complete=False))])[0])
    assert "of only a grid of networks between seed 0 and seed 1. Band" in grid.note


def test_other_pairs_are_drawn_while_they_are_few():
    many = records(("binary",), seeds=tuple(range(5)), landscapes=True)
    few, crowd = (sections(part)[0] for part in (many[:6], many))
    assert any("pair" in one for one in data(landscape_charts.exact_charts(few)[0]))
    assert not any("pair" in one for one in data(landscape_charts.exact_charts(crowd)[0]))


def test_profiles_of_wide_layers_keep_their_ends():
    around = landscape().neighbourhoods[0]
    wide = around.layers[0].model_copy(update={"unit_means": tuple(float(1000 - i) for i in range(1000))})
    lone = around.layers[1].model_copy(update={"unit_means": (0.5,)})
    bare = around.layers[2].model_copy(update={"unit_means": ()})
    record = changed(neighbourhoods=(around.model_copy(update={"layers": (wide, lone, bare)}),))
    (chart,) = landscape_charts.neighbourhood_charts(sections([record])[0])
    rows = data(chart)
    units = [one["unit"] for one in rows if one["weight"] == "body.0.weight"]
    assert (len(units), units[0], units[-1]) == (200, 1, 1000)
    assert units == sorted(set(units))
    assert all(one["change"] == 1000 * (1001 - one["unit"]) for one in rows if one["weight"] == "body.0.weight")
    assert [(one["unit"], one["change"]) for one in rows if one["weight"] == "body.3.weight"] == [(1, 500.0)]
    assert not any(one["weight"] == "head.weight" for one in rows)


def test_robustness_is_a_mean_with_the_standard_error_of_its_draws_without_0():
    (section,) = sections(records(landscapes=True))
    (chart,) = landscape_charts.robustness_charts(section)
    rows = data(chart)
    both = [robustness(seed) for seed in (0, 1)]
    found = [one for one in rows if one.get("weight") == "all weights"]
    assert [one["flipped"] for one in found] == [0.1, 1.0, 10.0]
    assert [one["mean"] for one in found] == pytest.approx(
        [50 * (a + b) for a, b in zip(both[0].errors[1:], both[1].errors[1:], strict=True)]
    )
    assert [one["error"] for one in found] == pytest.approx(
        [50 * (a**2 + b**2) ** 0.5 for a, b in zip(*(one.standard_errors[1:] for one in both), strict=True)]
    )
    (own,) = (one["own"] for one in rows if "own" in one)
    assert own == pytest.approx(50 * (both[0].errors[0] + both[1].errors[0]))


def test_nothing_flipped_draws_no_robustness():
    still = robustness(0).model_copy(update={"fractions": (0.0,), "errors": (0.1,), "standard_errors": (0.0,)})
    (section,) = sections([changed(robustness=(still,))])
    assert landscape_charts.robustness_charts(section) == []
    assert row(robustness_table(section), "binary", "360 test", "all weights")["0 % flipped"] == "10.00"


def test_fractions_that_only_some_networks_have_are_missing_elsewhere():
    other = robustness(1, "head.weight", 320).model_copy(update={"fractions": (0.0, 0.002, 0.01, 0.1)})
    (section,) = sections([changed(robustness=(robustness(0), other))])
    shown = row(robustness_table(section), "binary", "360 test", "all weights")
    assert shown["0.2 % flipped"] == "–"  # noqa: RUF001
    assert shown["0.1 % flipped"] != "–"  # noqa: RUF001


def test_names_from_records_stay_text():
    plain, theirs = (Elements(page(found).replace(_script(), "")).found for found in ([made_up()], hostile()))
    assert {tag for tag, _ in theirs} == {tag for tag, _ in plain}
    assert not any(tag == "img" for tag, _ in theirs)
    assert len(specs(page(hostile()))) == len(specs(page([made_up(landscapes=True)])))


def test_names_from_records_cannot_break_lines_or_cells():
    around = landscape().neighbourhoods[0]
    layer = around.layers[0].model_copy(update={"weight": "a|b\nc"})
    lines = markdown([changed(neighbourhoods=(around.model_copy(update={"layers": (layer,)}),))]).splitlines()
    line = next(line for line in lines if "a\\|b c" in line)
    assert line.replace("\\|", "").count("|") == 13


@needs_chromium
@pytest.mark.parametrize(
    "found",
    [records(landscapes=True), [made_up(landscape=landscape(complete=False))], hostile()],
    ids=["records", "grid", "hostile"],
)
def test_a_browser_draws_every_chart_and_asks_no_network(found, tmp_path):
    html = page(found)
    document, console, addresses = browse(html, tmp_path)
    assert console == []
    parts = re.split(r'id="(chart-\d+)"', document)[1:]
    assert parts[::2] == list(specs(html))
    for drawn in parts[1::2]:
        assert re.search(r'class="mark-line[^>]*>\s*<path[^>]* d="M[^"]*L', drawn)
    assert addresses == set()
