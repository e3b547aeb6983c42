"""The report's numbers and its Markdown. REWRITE_SNAPSHOTS=1 in the environment writes the snapshots anew."""

import os
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import bump, controls, made_up, network, records

from compare.report import markdown
from compare.report.numbers import percent, show, spread
from compare.report.sections import sections
from compare.report.table import Table
from compare.report.tables import barriers, distances, matching, quality, summary, tables
from compare.report.text import _table
from compare.runs.record import Control

SNAPSHOTS = Path(__file__).parent / "snapshots"
VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9)


def single():
    """One pair of one precision, without normalisation: no curve is re-estimated."""
    curves = tuple(curve for curve in made_up("full").curves if curve.statistics == "interpolated")
    return [made_up("full", curves=curves, notes=())]


@pytest.mark.parametrize(
    ("name", "found", "brief"),
    [("report", records(), False), ("single", single(), False), ("brief", records(), True)],
)
def test_markdown_is_the_snapshot(name, found, brief):
    file, text = SNAPSHOTS / f"{name}.md", markdown(found, brief=brief)
    if os.environ.get("REWRITE_SNAPSHOTS"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@given(values=VALUES)
@settings(deadline=None, max_examples=50)
def test_spread_is_mean_and_sample_deviation(values):
    found = spread(values)
    assert found is not None
    assert found.n == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    if len(values) == 1:
        assert found.deviation is None
    else:
        squares = sum((value - found.mean) ** 2 for value in values)
        assert found.deviation == pytest.approx((squares / (len(values) - 1)) ** 0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "–"),  # noqa: RUF001
        ([0.0, 0.0], "0"),
        ([1e-9, 0.0], "0.00 ± 0.00"),
        ([-1e-18], "0.00"),
        ([0.5], "50.00"),
        ([0.1, 0.3], "20.00 ± 14.14"),
    ],
)
def test_percent_shows_exact_zeros_and_single_values_as_such(values, expected):
    assert percent(values) == expected


def test_show_scales_before_it_rounds():
    assert show([1.23456], scale=10, digits=1) == "12.3"


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from("|\n"), max_size=8)


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5), keys=st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_every_line_of_a_table_has_the_same_cells_and_width(rows, keys):
    table = Table("title", "note", ("one", "two", "three"), tuple(rows), keys)
    lines = _table(table).split("\n")
    assert len(lines) == 2 + len(rows)
    assert len({len(line) for line in lines}) == 1
    assert {line.replace("\\|", "").count("|") for line in lines} == {4}
    assert lines[1].count(":") == 3 - keys


def row(table, *keys):
    (found,) = (one for one in table.rows if one[: len(keys)] == keys)
    return dict(zip(table.header, found, strict=True))


def test_numbers_in_the_tables_are_those_of_the_records():
    (section,) = sections(records())
    found = [record for record in records() if record.precision == "binary"]
    halfway = [curve.midpoint_error for r in found for curve in r.curves if key(curve) == HALFWAY]
    heights = [curve.barrier for r in found for curve in r.curves if key(curve) == HALFWAY]
    chords = [curve.barrier_over_chord for r in found for curve in r.curves if key(curve) == HALFWAY]
    angles = [d.rms_angle for r in found for d in r.distances if d.treatment == "matched"]
    signs = [d.hamming for r in found for d in r.distances if d.treatment == "matched"]
    errors = [network("binary", seed).errors["test"] for seed in (0, 1, 2)]

    first = row(summary(section), "binary")
    assert (first["½ matched, re-estimated"], first["pairs"]) == (text(halfway), "3")
    assert first["test error"] == text(errors) == row(quality(section), "binary")["test error"]
    path = row(barriers(section, "train"), "matched", "linear", "re-estimated", "binary")
    assert (path["midpoint (%)"], path["barrier (pp)"]) == (text(halfway), text(heights))
    assert (path["over chord (pp)"], path["n"]) == (text(chords), "3")
    distance = row(distances(section), "matched", "binary")
    assert distance["RMS angle (rad)"] == f"{statistics.fmean(angles):.3f} ± {statistics.stdev(angles):.3f}"
    assert distance["Hamming (%)"] == text(signs)


HALFWAY = ("matched", "linear", "re-estimated", "train")


def key(curve):
    return curve.treatment, curve.path, curve.statistics, curve.split


def text(fractions):
    return f"{100 * statistics.fmean(fractions):.2f} ± {100 * statistics.stdev(fractions):.2f}"


def test_only_a_control_that_vanishes_exactly_shows_as_0():
    def shown(height):
        copied = Control(name="symmetric copy", distances=(), curves=(bump(height, (0.1, 0.1), "matched"),))
        (section,) = sections([made_up(controls=(copied, *controls("binary", 0)[1:]))])
        (table,) = (one for one in tables(section) if one.title.startswith("Null"))
        return row(table, "symmetric copy")["barrier matched"]

    assert shown(0.0) == "0"
    assert shown(1e-6) == "0.00"


def test_a_matching_without_a_positive_bound_has_no_share():
    nothing = made_up().match.model_copy(update={"objective": 0.0, "bound": 0.0})
    (section,) = sections([made_up(match=nothing)])
    assert row(matching(section), "binary")["objective / bound (%)"] == "–"  # noqa: RUF001


def test_tables_without_rows_are_left_out():
    bare = made_up(curves=tuple(curve for curve in made_up().curves if curve.split == "train"), distances=())
    (section,) = sections([bare])
    titles = [table.title.split(":")[0] for table in tables(section)]
    assert titles == ["Summary", "Solution quality", "Error on the path, train samples", "Null controls", "Matching"]
    assert "test samples, " not in markdown([bare])


def test_text_from_records_cannot_break_lines_or_cells():
    lines = markdown([made_up("a|b\nc")]).splitlines()
    line = next(line for line in lines if line.startswith("| a\\|b c"))
    assert line.replace("\\|", "").count("|") == 8
    assert "- binary: x y\n" in markdown([made_up(notes=("x\ny",))])
