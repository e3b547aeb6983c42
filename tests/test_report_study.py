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
from compare.report.numbers import MISSING, percent
from compare.report.relation_tables import (
    ALL_EQUAL,
    agreement_table,
    claim_table,
    correlation_table,
    embedding_table,
    rules,
)
from compare.report.study import document
from compare.report.study_charts import pictures, study_charts
from compare.report.study_prose import introduction
from compare.report.study_tables import bends, energies, interval_text, pair_distances, pair_heights, quality, sharpness
from compare.report.study_training import meanings, training
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
        "Claims, binary",
        "Claims, full",
        "The same, qualitatively, at all precisions",
        "How claims are decided",
        "Algorithms",
        "Settings of the training",
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
    assert "Verdicts on the claims below: binary: holds 19, not decided 2; full: holds 16, not decided 1." in text
    assert "python scripts/made_up.py" in text


def test_the_introduction_says_whose_claims_and_what_is_measured(text, studies):
    title, *before, made = text[: text.index("python scripts")].split("\n\n")
    assert (title, made) == ("# Flat regions on made-up digits", "```sh\n")
    joined = " ".join(" ".join(before).split())
    for link in ("https://arxiv.org/abs/2202.03038", "../algorithms.md", "../flatness.md", "../bends.md"):
        assert f"]({link})" in joined
    for link in re.findall(r"\]\((\.\./[\w-]+\.md|exact\.md)\)", text):
        assert (ROOT / "docs" / "results" / link).exists()
    assert "A minimum is flat if" in joined
    assert "only this one, the latent path, is in the study" in joined
    assert "[the exact landscape](exact.md)" in joined
    assert "latent" not in " ".join(introduction(studies[1:]))


def test_every_claim_has_its_row(studies):
    found = {study.precision: claims(study, resamples=FEW) for study in studies}
    for study in studies:
        table = claim_table(study, found[study.precision], Roles(), None)
        assert [cells[0] for cells in table.rows] == [claim.text for claim in found[study.precision]]
        assert table.header == ("claim", "refuted by", "measured [95 % interval]", "networks", "verdict")
        assert table.note.startswith("Plain training: sgd. Flatness: local energy, \N{GREEK SMALL LETTER SIGMA} = 0.3")
    claim = next(c for c in found["full"] if c.unit == "rad")
    cells = row(table, claim.text)
    assert cells["measured [95 % interval]"] == f"{interval_text(claim.interval, digits=3)} rad"
    assert (cells["networks"], cells["verdict"]) == ("8", "holds")
    assert table.rows[-1][-2] == "6 bends"


def test_precisions_are_compared_in_a_table_of_their_own(studies, text):
    found = {study.precision: claims(study, resamples=FEW) for study in studies}
    table = agreement_table(found)
    assert [cells[0] for cells in table.rows[:-1]] == [claim.text for claim in found["binary"]]
    assert table.rows[-1] == ("all of them", MISSING, MISSING, "not decided")
    flips = row(table, "rsgd is flatter than plain training: lower rise with bit flips, at equal train error")
    assert (flips["binary"], flips["full"], flips["same at all"]) == ("holds", "not measured", "not measured")
    assert "at all precisions" in text
    assert "at all precisions" not in document(studies[1:], "x", figures={}, resamples=FEW)


def test_the_rules_are_a_list(text):
    listed = text[text.index("### How claims") : text.index("### Algorithms")].split("\n- ")[1:]
    assert [" ".join(item.split()) for item in listed] == list(rules())
    assert any("Fewer than 3 bends of which no two share a network decide nothing" in rule for rule in rules())


def test_the_training_of_each_algorithm(studies, text):
    table = training(studies)
    assert [cells[:2] for cells in table.rows] == [(study.precision, name) for study in studies for name in THREE]
    rsgd = row(table, "full", "rsgd")
    assert rsgd["hyperparameters"] == "replicas 3, coupling 0.02, growth 100000, spread 0.3"
    shown = [rsgd[name] for name in ("optimiser", "learning rate", "weight decay", "epochs", "batch", "networks")]
    assert shown == ["sgd", "0.05", "0", "10", "100", "4"]
    adv = row(table, "full", "adv")
    assert adv["hyperparameters"] == "random_epochs 40, random_error 0"
    assert adv["random labels (%)"] == percent(n.random_error for n in studies[1].networks if n.algorithm == "adv")
    assert row(table, "binary", "sgd")["random labels (%)"] == MISSING
    assert "random labels (%)" not in training([made_up_study("full", ("sgd",), networks=3)]).header
    assert [line.split(":")[0] for line in meanings(studies)] == ["`sgd`", "`rsgd`", "`adv`"]
    assert "- `rsgd`: replicated SGD" in text


def test_other_settings_of_one_algorithm_have_a_row_of_their_own(studies):
    first, *others = studies[1].networks
    longer = first.model_copy(update={"settings": {**first.settings, "epochs": 30}})
    table = training([studies[1].model_copy(update={"networks": (longer, *others)})])
    assert [(cells[1], cells[6], cells[-1]) for cells in table.rows[:2]] == [("sgd", "30", "1"), ("sgd", "10", "3")]


def test_other_roles_for_one_precision(studies):
    other = document(studies, "x", roles={"binary": Roles(wide="adv", sharp="rsgd")}, figures={}, resamples=FEW)
    assert "binary: holds 8, does not hold 11, not decided 2; full: holds 16, not decided 1." in other
    assert other.count("Plain training: sgd. ") == 2


def test_unequal_train_errors_are_shown():
    study = made_up_study("full", THREE, networks=3)
    changed = tuple(
        n.model_copy(update={"errors": {**n.errors, "train": 0.01}}) if n.algorithm == "adv" else n
        for n in study.networks
    )
    study = study.model_copy(update={"networks": changed})
    table = claim_table(study, claims(study, resamples=FEW), Roles(), None)
    worse = row(table, "adv errs more on test samples than plain training, at equal train error")
    assert worse["measured [95 % interval]"].endswith("pp; train 0.20, 1.00 %")
    assert worse["verdict"] == "not decided"


def test_what_is_the_same_for_all_is_not_called_unmeasured():
    study = made_up_study("full", THREE, networks=3)
    same = tuple(n.model_copy(update={"energy": study.networks[0].energy}) for n in study.networks)
    study = study.model_copy(update={"networks": same})
    (cells,) = (one for one in correlation_table([study], None, resamples=FEW).rows if "energy" in one[1])
    assert cells[2:] == (*[ALL_EQUAL] * 7, "9")
    first = claim_table(study, claims(study, resamples=FEW), Roles(), None).rows[0]
    assert (first[2], first[-1]) == (ALL_EQUAL, "not decided")


def test_zero_without_decimals_is_exactly_zero(studies, text):
    study = studies[1]
    low = tuple(
        pair.model_copy(update={"heights": tuple(h.model_copy(update={"barrier": 0.0}) for h in pair.heights)})
        if pair.networks == ("sgd-0", "sgd-1") or "rsgd-0" in pair.networks
        else pair
        for pair in study.pairs
        if not {"rsgd-1", "rsgd-2"} & set(pair.networks)
    )
    table = pair_heights([study.model_copy(update={"pairs": low})], "train", resamples=FEW)
    assert row(table, "interpolated", "full", "rsgd")["matched, linear"] == "0"
    assert row(table, "interpolated", "full", "sgd")["matched, linear"] != "0"
    assert "0 without decimals is exactly zero, every time." in " ".join(text.split())


def test_numbers_of_curvature_keep_their_digits():
    study = made_up_study("full", THREE, networks=3)
    small = tuple(
        n.model_copy(update={"curvature": n.curvature.model_copy(update={"eigenvalues": (0.0012 * (1 + n.seed),)})})
        for n in study.networks
    )
    cells = row(sharpness([study.model_copy(update={"networks": small})]), "full", "sgd")
    assert cells["eigenvalue"] == "0.0024 ± 0.0012"
    assert re.fullmatch(r"\d+\.\d\d ± \d\.\d\d", cells["trace"])


def test_what_pairs_remark_is_noted(studies):
    first, *others = studies[1].pairs
    marked = studies[1].model_copy(update={"pairs": (first.model_copy(update={"notes": ("no geodesic",)}), *others)})
    text = document([marked], "x", figures={}, resamples=FEW)
    assert text.endswith("### Notes\n\n- full: no geodesic (1 pair)\n")


def test_sizes_change_the_measures(studies):
    study, sizes = studies[0], Sizes(energy=0.5, flips=0.01)
    table = claim_table(study, claims(study, sizes=sizes, resamples=FEW), Roles(), sizes)
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
    assert {one["axis"] for one in rows} == {"rise of the error (pp), right is sharper", "nats, right is sharper"}
    # Three abreast, a new line for each precision; each panel has the axis of its measure.
    lines = [line["hconcat"] for line in charts["flatness"].spec["vconcat"]]
    assert [len(line) for line in lines] == [3, 2, 3, 1]
    titles = [[panel["encoding"]["x"]["title"][:4] for panel in line] for line in lines]
    assert titles == [["rise", "rise", "nats"], ["nats"] * 2, ["rise", "nats", "nats"], ["nats"]]
    headers = [panel["title"]["text"] for line in lines for panel in line]
    assert {" ".join(header) for header in headers} == {one["panel"] for one in rows}
    assert any(len(header) > 1 for header in headers)
    assert all(len(part) <= 35 for header in headers for part in header)  # of 250 pixels, nothing is cut
    panels = {one["panel"] for one in data(charts["embedding"])}
    assert len(panels) == 4
    bars = data(charts["barriers"])
    assert len(bars) == 2 * 2 * 5 * 3
    assert all(one["low"] <= one["barrier"] <= one["high"] for one in bars)


def test_pictures_are_drawn(studies):
    charts = study_charts([study.model_copy(update={"pairs": ()}) for study in studies], resamples=FEW)
    found = pictures(studies, charts=charts)
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
