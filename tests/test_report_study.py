"""The report of studies. REWRITE_SNAPSHOTS=1 in the environment writes the snapshot anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study_factory import made_up_study

from compare.relations import Interval, Roles, Sizes, claims
from compare.relations.intervals import pairs_mean
from compare.relations.measures import Barriers, algorithms, barriers, within
from compare.report import ReportError
from compare.report.numbers import MISSING
from compare.report.relation_tables import claim_table, embedding_table
from compare.report.study import document
from compare.report.study_charts import pictures, study_charts
from compare.report.study_tables import bends, energies, interval_text, pair_distances, pair_heights, quality, sharpness
from compare.runs.study import Plane

ROOT = Path(__file__).parents[1]
FEW = 300
THREE = ("sgd", "rsgd", "adv")
PLANE = Plane(
    statistics="interpolated",
    split="train",
    samples=1000,
    us=(0.0, 1.0, 2.0),
    vs=(0.0, 1.0),
    errors=((0.0, 0.1, 0.0), (0.2, 0.001, 0.3)),
    points={"a": (0.0, 0.0), "b": (2.0, 0.0), "bend": (1.0, 1.0)},
)


@pytest.fixture(scope="module")
def studies():
    """Two precisions, four networks of each of three algorithms, one bend with a plane."""
    binary, full = (made_up_study(precision, THREE, networks=4) for precision in ("binary", "full"))
    flat = binary.bends[0].model_copy(update={"plane": PLANE})
    return [binary.model_copy(update={"bends": (flat, *binary.bends[1:])}), full]


@pytest.fixture(scope="module")
def text(studies):
    return document(studies, "toroids-made-up", figures={}, resamples=FEW)


def row(table, *keys):
    (found,) = (one for one in table.rows if one[: len(keys)] == keys)
    return dict(zip(table.header, found, strict=True))


def data(chart):
    (rows,) = chart.spec["datasets"].values() if "datasets" in chart.spec else (chart.spec["data"]["values"],)
    return rows


def test_the_document_is_the_snapshot(text):
    file = ROOT / "tests" / "snapshots" / "study.md"
    # Stresses depend on the version of scikit-learn.
    kept = re.sub(r"### Two-dimensional embedding.*?(?=### )", "", text, flags=re.DOTALL)
    if os.environ.get("REWRITE_SNAPSHOTS"):
        file.write_text(kept, encoding="utf-8")
    assert kept == file.read_text(encoding="utf-8")


def test_claims_come_first_and_everything_follows(text):
    titles = re.findall(r"^### (.*)$", text, flags=re.MULTILINE)
    assert titles == [
        "Claims",
        "Solution quality: error of the networks (% of samples)",
        "Flatness: local energy (pp)",
        "Flatness: rise of the error with bit flips (pp)",
        "Flatness: worst rise in a ball, and curvature",
        "Distance between two networks",
        "Two-dimensional embedding of the distances",
        "Barrier, train samples (pp)",
        "Barrier, test samples (pp)",
        "Height over the chord, train samples (pp)",
        "Error at the midpoint, train samples (%)",
        "Rank correlation of flatness with test error, distance and barrier",
        "One bend, train samples",
    ]
    assert "Verdicts on the claims below: binary: holds 19; full: holds 16." in text
    assert "python scripts/made_up.py" in text


def test_every_claim_has_its_row(studies):
    found = {study.precision: claims(study, resamples=FEW) for study in studies}
    roles = {"binary": Roles(baseline="sgd"), "full": Roles()}
    table = claim_table(studies, found, roles, None)
    assert [cells[0] for cells in table.rows[:-1]] == [claim.text for claim in found["binary"]]
    assert table.rows[-1][0] == "The same, qualitatively, at all precisions"
    assert table.rows[-1][-1] == "holds"
    flips = row(table, "rsgd is flatter than plain training: lower rise with bit flips, at equal train error")
    assert (flips["full"], flips["full: verdict"]) == (MISSING, "not measured")
    assert flips["same at all precisions"] == "not measured"
    claim = next(c for c in found["binary"] if c.unit == "rad")
    assert row(table, claim.text)["binary"] == f"{interval_text(claim.interval, digits=3)} rad"
    assert "Plain training: sgd (binary), sgd (full)" in table.note


def test_one_precision_has_none_to_agree_with(studies):
    table = claim_table(studies[1:], {"full": claims(studies[1], resamples=FEW)}, {"full": Roles()}, None)
    assert table.header == ("claim", "refuted by", "full", "networks", "full: verdict")
    assert all(len(cells) == 5 for cells in table.rows)


def test_other_roles_for_one_precision(studies):
    other = document(studies, "x", roles={"binary": Roles(wide="adv", sharp="rsgd")}, figures={}, resamples=FEW)
    assert "binary: holds 8, does not hold 11; full: holds 16." in other
    assert "Plain training: sgd (binary), sgd (full)" in other


def test_unequal_train_errors_are_shown():
    study = made_up_study("full", THREE, networks=3)
    changed = tuple(
        n.model_copy(update={"errors": {**n.errors, "train": 0.01}}) if n.algorithm == "adv" else n
        for n in study.networks
    )
    study = study.model_copy(update={"networks": changed})
    table = claim_table([study], {"full": claims(study, resamples=FEW)}, {"full": Roles()}, None)
    worse = row(table, "adv errs more on test samples than plain training, at equal train error")
    assert worse["full"].endswith("pp; train 0.20, 1.00 %")
    assert worse["full: verdict"] == "not decided"


def test_sizes_change_the_measures(studies):
    study, sizes = studies[0], Sizes(energy=0.5, flips=0.01)
    found = {"binary": claims(study, sizes=sizes, resamples=FEW)}
    table = claim_table([study], found, {"binary": Roles()}, sizes)
    assert "0.5; rise with bit flips, 1 % of weights" in table.note


def test_cells_are_the_numbers_of_the_study(studies):
    _, full = studies
    assert row(quality(studies), "full", "adv")["networks"] == "4"
    assert row(quality(studies), "binary", "sgd")["train error"].startswith("0.19 ± ")
    energy = row(energies(studies, "energy"), "full", "sgd")
    values = [n.energy.rises[1] for n in full.networks if n.algorithm == "sgd"]
    assert energy["\N{GREEK SMALL LETTER SIGMA} = 0.3"].startswith(f"{100 * sum(values) / 4:.2f} ± ")
    assert [cells[0] for cells in energies(studies, "flips").rows] == ["binary"] * 3
    assert row(sharpness(studies), "binary", "sgd")["gradient"] == "surrogate"
    assert row(sharpness(studies), "full", "sgd")["gradient"] == "exact"
    matrix = barriers(full, Barriers("matched", "geodesic", "interpolated", "test"))
    wanted = pairs_mean(matrix, algorithms(full), within(full, "adv"), resamples=FEW)
    cells = row(pair_heights(studies, "test", resamples=FEW), "interpolated", "full", "adv")
    assert cells["matched, geodesic"] == interval_text(wanted, scale=100)
    assert cells["pairs"] == "6"
    apart = pair_distances(studies, resamples=FEW)
    assert [cells[1] for cells in apart.rows[:6]] == [*THREE, "sgd, rsgd", "sgd, adv", "rsgd, adv"]
    assert row(apart, "full", "sgd, adv")["pairs"] == "16"
    assert row(apart, "full", "sgd")["Hamming matched (%)"] == MISSING
    bent = row(bends(studies), "interpolated", "binary", "sgd", "matched")
    assert (bent["above ends (pp)"], bent["reached"], bent["n"]) == ("0.05 ± 0.00", "2 of 2", "2")
    assert row(bends(studies), "interpolated", "binary", "sgd", "as trained")["reached"] == "0 of 2"


def test_intervals_as_text():
    assert interval_text(None) == MISSING
    assert interval_text(Interval(-0.001, None, None, networks=2, resamples=0)) == "0.00"
    assert interval_text(Interval(0.5, -0.25, 1.0, networks=5, resamples=9), digits=1) == "0.5 [-0.2, 1.0]"


def test_a_study_without_pairs_still_makes_a_document():
    study = made_up_study("full", THREE, networks=3, pairs=(), bends=())
    text = document([study], "x", resamples=FEW)
    assert "not measured" in text
    assert "![Flatness against test error](x-flatness.png)" in text
    assert "x-barriers.png" not in text
    assert "not all pairs measured" in text
    assert "### Barrier" not in text


def test_missing_pairs_leave_no_embedding(studies):
    fewer = studies[1].model_copy(update={"pairs": studies[1].pairs[1:]})
    assert embedding_table([fewer]).rows == (("full", *["not all pairs measured"] * 2, MISSING, "12"),)
    (found,) = embedding_table(studies[1:]).rows
    assert all(0 <= float(cell) < 0.5 for cell in found[1:-1])


def test_charts_hold_the_numbers(studies):
    charts = study_charts(studies, resamples=FEW)
    assert list(charts) == ["flatness", "barriers", "embedding", "plane-binary"]
    rows = data(charts["flatness"])
    first = studies[0].networks[0]
    shown = next(one for one in rows if one["network"] == first.name)
    assert (shown["flatness"], shown["test"]) == pytest.approx(
        (100 * first.energy.rises[1], 100 * first.errors["test"])
    )
    assert len(rows) == 12 * 5 + 12 * 4
    panels = {one["panel"] for one in data(charts["embedding"])}
    assert len(panels) == 4
    bars = data(charts["barriers"])
    assert len(bars) == 2 * 2 * 5 * 3
    assert all(one["low"] <= one["barrier"] <= one["high"] for one in bars)


def test_pictures_are_drawn(studies):
    found = pictures([study.model_copy(update={"pairs": ()}) for study in studies], resamples=FEW)
    assert list(found) == ["flatness", "plane-binary"]
    assert all(content.startswith(b"\x89PNG") for content in found.values())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda s: [], "at least one study, got none"),
        (lambda s: [s, s], "one study of each precision, got full, full"),
        (
            lambda s: [s, made_up_study("binary", data=s.data.model_copy(update={"fingerprint": "ffff"}))],
            "the same data, got made-up digits 0123456789ab, made-up digits ffff",
        ),
    ],
)
def test_what_makes_no_document_is_refused(made, message):
    with pytest.raises(ReportError, match=message):
        document(made(made_up_study("full", ("sgd",), networks=3)), "x")


def test_the_document_needs_no_torch():
    code = "import sys, compare.report.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
