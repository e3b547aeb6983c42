"""Records of conserved quantities: what is refused; claims follow the intervals; the script goes on where it was."""

import json
import math
import re
from pathlib import Path

import pytest
import reproduce_conserved as script
from pydantic import ValidationError

from compare.report.conserved import document
from compare.report.conserved_charts import conserved_charts
from compare.report.conserved_claims import Verdict, claims
from compare.report.conserved_statistics import (
    LAST_EIGENVALUE,
    RATE,
    SIDES,
    STEPS,
    below,
    cell,
    correlation,
    deviates,
    over,
    ratio,
    ratio_of,
)
from compare.report.conserved_tables import orbit_table
from compare.runs import RecordError, provenance
from compare.runs.conserved import Conserved, Course, Initial, Law, Orbit, Piece, Start, read_conserved, write_conserved

ROOT = Path(__file__).parents[1]
RATES = (0.4, 0.2, 0.1)
CONFIGURATION = {
    "problem": {"inputs": 7, "hidden": 5, "outputs": 2, "eps": 1e-11, "pixels": [1, 7], "channels": 9},
    "problem_time": 2.0,
    "problem_rates": [0.1, 0.2],
    "rates": [0.1],
    "seeds": 4,
    "networks": 4,
    "samples": 9,
    "time": 4.0,
    "hidden": 32,
    "epochs": 3,
    "learning_rate": 0.003,
    "exponents": [-1, 0, 1],
    "input_norm": 8.0,
    "orbit": {"rate": 0.01, "steps": 9, "target": 0.3, "most": 99},
}


def law(case: str, seed: int, slope: float, *, control: bool = False, size: float = 1.0) -> Law:
    drifts = tuple(size * rate**slope for rate in RATES)
    return Law(
        case=case,
        quantity="0, units",
        formula="|u|^2 - |v|^2",
        seed=seed,
        control=control,
        rates=RATES,
        drifts=drifts,
        slope=slope,
        losses=(2.0, 1.0),
    )


def course(precision: str, seed: int, drift: float) -> Course:
    return Course(
        precision=precision,
        seed=seed,
        quantity="0, units",
        formula="|v|^2",
        steps=(0, 5),
        means=(1.0, 2.0),
        drifts=(0.0, drift),
        errors=(0.1, 0.2),
    )


def initial(off: float) -> Initial:
    return Initial(
        scheme="xavier normal",
        inputs=3,
        hidden=4,
        outputs=5,
        networks=10,
        mean=1.0 + off,
        mean_error=1.0,
        variance=2.0,
        variance_error=0.5,
        expected_mean=1.0,
        expected_variance=2.0,
    )


def orbit(seed: int, arm: str, *, rising: bool) -> Orbit:
    """Q of -2, -1, 1 and 2: what is measured rises with |Q|, or falls."""

    def start(value: float) -> Start:
        number = abs(value) + 0.1 * seed if rising else 3 - abs(value) + 0.1 * seed
        return Start(
            exponent=value,
            value=value,
            loss=1.0,
            rate=number,
            first_eigenvalue=number,
            last_eigenvalue=None if value == 1 and seed == 0 else number,
            steps=100 - round(10 * number),
        )

    return Orbit(seed=seed, arm=arm, balanced=(0.1, 0.1), starts=tuple(map(start, (-2.0, -1.0, 1.0, 2.0))))


def conserved(*, good: bool = True) -> Conserved:
    """Everything as the theory has it, or the other way round."""
    seeds = range(4)
    other = 0.0 if good else 1.0
    piece = Piece(
        identity="0",
        name="all",
        seconds=60.0,
        provenance=provenance(threads=1, command="python make.py"),
        laws=(
            *(law("ReLU", seed, 1 - other + 0.01 * seed) for seed in seeds),
            *(law("ReLU", seed, other + 0.01 * seed, control=True) for seed in seeds),
            *(law("on data, full", seed, 1 + 0.01 * seed, size=0.1 if good else 100) for seed in seeds),
            *(law("on data, binary", seed, 0.01 * seed) for seed in seeds),
        ),
        initials=(initial(0.5 if good else 5.0),),
        courses=(
            *(course("full", seed, (0.1 if good else 10) + 0.01 * seed) for seed in seeds),
            *(course("binary", seed, 1 + 0.01 * seed) for seed in seeds),
        ),
        orbits=(
            *(orbit(seed, "same function", rising=good) for seed in seeds),
            *(orbit(seed, "initial scale", rising=True) for seed in seeds),
        ),
    )
    return Conserved(
        data="digits",
        fingerprint="0",
        configuration=CONFIGURATION,
        provenance=piece.provenance,
        pieces=(piece,),
    )


def test_claims_follow_the_intervals() -> None:
    good: dict[str, Verdict] = {each.claim: each.verdict for each in claims(conserved())}
    bad = {each.claim: each.verdict for each in claims(conserved(good=False))}
    assert len(good) == 16
    flat = "on data, binary: drift falls in proportion to the step"
    scale = next(claim for claim in good if claim.startswith("initial scale is a confounder"))
    assert good.pop(flat) == bad.pop(flat) == "does not hold"
    assert (good.pop(scale), bad.pop(scale)) == ("not decided", "holds")
    same = "on data, full: drift falls in proportion to the step"
    assert good.pop(same) == bad.pop(same) == "holds"
    assert set(good.values()) == {"holds"}
    assert set(bad.values()) == {"does not hold"}


def test_intervals_that_reach_over_the_edge_decide_nothing() -> None:
    found = conserved()
    (piece,) = found.pieces
    laws = (
        *(law("ReLU", seed, 1.05 + 0.03 * seed) for seed in range(4)),
        *(law("ReLU", seed, 0.3 * seed, control=True) for seed in range(4)),
    )
    courses = (
        *(course("full", seed, 1.0 + 0.5 * seed) for seed in range(4)),
        *(course("binary", seed, 1.1 + 0.5 * seed) for seed in range(4)),
    )
    orbits = tuple(orbit(seed, "same function", rising=bool(seed % 2)) for seed in range(4))
    wide = piece.model_copy(update={"laws": laws, "courses": courses, "orbits": orbits, "initials": ()})
    made = claims(found.model_copy(update={"pieces": (wide,)}))
    assert len(made) == 11
    assert {each.verdict for each in made} == {"not decided"}


def test_a_few_seeds_decide_nothing() -> None:
    found = conserved()
    (piece,) = found.pieces
    few = piece.model_copy(
        update={"laws": tuple(law for law in piece.laws if law.seed < 2), "orbits": piece.orbits[:2]}
    )
    verdicts = {each.claim: each.verdict for each in claims(found.model_copy(update={"pieces": (few,)}))}
    assert verdicts["ReLU: drift falls in proportion to the step"] == "not decided"


def test_correlations_and_ratios_are_those_of_the_starts() -> None:
    up, down = orbit(1, "same function", rising=True), orbit(1, "same function", rising=False)
    assert [correlation(up, RATE, side) for side in SIDES] == pytest.approx([1, 1, 1])
    assert [correlation(down, RATE, side) for side in SIDES] == pytest.approx([-1, -1, -1])
    assert [correlation(up, STEPS, side) for side in SIDES] == pytest.approx([-1, -1, -1])
    assert ratio([up], RATE).value == pytest.approx(2.1 / 1.1)
    assert ratio_of([4.0, 4.0], [2.0, 2.0]).value == pytest.approx(2)
    assert ratio_of([0.0], [2.0]) is None
    assert over([]) is None
    assert cell(None) == "–"  # noqa: RUF001
    assert cell(over([-0.001, 0.0, 0.0])).startswith("0.00 [")
    assert deviates(initial(2.0)) == (2.0, 0.0)


def test_a_measure_of_0_leaves_a_network_out_of_the_ratio() -> None:
    """It is known, so a ratio of the others alone would not be that of the largest to the smallest |Q|."""
    first, *others = orbit(1, "same function", rising=True).starts
    at_once = orbit(1, "same function", rising=True).model_copy(
        update={"starts": (first.model_copy(update={"steps": 0}), *others)}
    )
    assert ratio([at_once], STEPS) is None
    assert ratio([at_once, orbit(1, "same function", rising=True)], STEPS).networks == 1


def _u_shape(seed: int) -> Orbit:
    """A rate that falls first, then rises, where Q < 0: as the kernel's, which is least at c* = 0.53.

    The start nearest to Q = 0 is faster than those around Q = -3.
    """

    def start(exponent: float) -> Start:
        rate = math.cosh(2 * (exponent - 0.53)) + 0.1 * seed
        return Start(
            exponent=exponent,
            value=math.exp(-2 * exponent) - 1.1 * math.exp(2 * exponent),
            loss=1.0,
            rate=rate,
            first_eigenvalue=rate,
            last_eigenvalue=rate,
            steps=round(1000 / rate),
        )

    exponents = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    return Orbit(seed=seed, arm="same function", balanced=(0.53, -2.83), starts=tuple(map(start, exponents)))


def test_claims_say_where_the_least_lies_and_test_the_distance_from_there() -> None:
    shapes = tuple(_u_shape(seed) for seed in range(4))
    found = conserved()
    (piece,) = found.pieces
    only = piece.model_copy(update={"laws": (), "courses": (), "initials": (), "orbits": shapes})
    made = {each.claim: each for each in claims(found.model_copy(update={"pieces": (only,)}))}
    assert len(made) == 8
    name = "at the same function, |Q| is positively correlated with the rate of convergence, on either side of 0"
    value = next(start.value for start in shapes[0].starts if start.exponent == 0.5)
    assert "Q > 0 (4 starts): 1.00 [1.00, 1.00]; Q < 0 (5 starts): " in made[name].measured
    assert f"the least at Q = {value:.2f} [{value:.2f}, {value:.2f}], not at 0" in made[name].measured
    assert correlation(shapes[0], RATE, below) < 0.5
    balance = "at the same function, the distance from the balanced kernel is positively correlated with the "
    assert made[balance + RATE.name].verdict == "holds"
    assert "1.00 [1.00, 1.00]; the least at c = 0.50 [0.50, 0.50], balance at c* = 0.53" in (
        made[balance + RATE.name].measured
    )
    fewer = "at the same function, the distance from the balanced kernel is negatively correlated with the "
    assert made[fewer + STEPS.name].verdict == "holds"
    assert "the most at c = 0.50" in made[fewer + STEPS.name].measured


def test_the_confounder_is_judged_where_both_kinds_of_starts_are() -> None:
    """At Q > 0 the first layer's scale reaches other values of Q: what happens there must not count."""
    same = [orbit(seed, "same function", rising=True) for seed in range(4)]
    starts = [
        each.model_copy(update={"rate": 9.0 - each.rate}) if each.value > 0 else each
        for each in orbit(0, "initial scale", rising=True).starts
    ]
    other = [Orbit(seed=seed, arm="initial scale", balanced=(0.1, 0.1), starts=tuple(starts)) for seed in range(4)]
    found = conserved()
    (piece,) = found.pieces
    changed = piece.model_copy(update={"orbits": (*same, *other)})
    made = claims(found.model_copy(update={"pieces": (changed,)}))
    (claim,) = (each for each in made if each.claim.startswith("initial scale is a confounder"))
    assert "at Q < 0, which both kinds of starts cover" in claim.claim
    assert claim.measured == "difference 0.00 [0.00, 0.00]"


def test_ratios_of_drifts_name_the_step() -> None:
    made = [each.claim for each in claims(conserved())]
    assert any(claim.startswith("by gradient descent with steps of 0.1, the smallest, ") for claim in made)
    text = document(conserved(), "conserved", conserved_charts(conserved()))
    assert "the ratio grows as steps shrink" in re.sub(r"\s+", " ", text)


def test_the_method_is_told_from_the_configuration() -> None:
    text = re.sub(r"\s+", " ", document(conserved(), "conserved", conserved_charts(conserved())))
    assert "networks with 7 inputs, 5 hidden units and 2 outputs" in text
    assert "inputs of 1 x 7 pixels, 5 and 9 channels" in text
    assert "7 orthonormal samples" in text
    assert "with eps 1e-11" in text


def test_starts_that_did_not_reach_the_target_are_counted() -> None:
    (row,) = (row for row in orbit_table(conserved()).rows if row[:2] == ("same function", LAST_EIGENVALUE.name))
    assert row[-1] == "1"


def test_the_document_begins_with_the_claims() -> None:
    found = conserved()
    charts = conserved_charts(found)
    assert set(charts) == {"drift", "training", "orbits"}
    text = document(found, "conserved", charts)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings[:2] == [
        "Conserved quantities, in theory and on digits",
        "What is claimed, what would refute it, what was measured",
    ]
    assert "python make.py" in text
    assert "in 1.0 minutes of processor time" in text


def test_records_come_back_and_others_are_refused(tmp_path: Path) -> None:
    found, file = conserved(), tmp_path / "conserved.json"
    write_conserved(found, file)
    assert read_conserved(Conserved, file) == found
    with pytest.raises(RecordError, match="no record of conserved quantities"):
        read_conserved(Piece, file)
    with pytest.raises(RecordError, match="could not read"):
        read_conserved(Piece, tmp_path / "none.json")
    with pytest.raises(ValidationError, match="differ in number"):
        Law(**{**vars(law("a", 0, 1.0)), "drifts": (1.0,)})
    with pytest.raises(ValidationError, match="differ in number"):
        Course(**{**vars(course("full", 0, 1.0)), "means": (1.0,)})


RESULTS = ROOT / "docs" / "results"


def test_the_committed_document_comes_from_its_records() -> None:
    found = read_conserved(Conserved, RESULTS / "conserved.json")
    text = document(found, "conserved", conserved_charts(found))
    assert (RESULTS / "conserved.md").read_text(encoding="utf-8") == text


def test_the_example_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "conserved.md").read_text(), re.DOTALL)
    exec(code, {})
    assert "steps (0, 15, 30, 45)" in capsys.readouterr().out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "TIME", 0.016)
    monkeypatch.setattr(script, "EXPONENTS", (-0.5, 0.0, 0.5))
    monkeypatch.setattr(script, "ORBIT", {"rate": 0.05, "steps": 5, "target": 1.8, "most": 10})
    kept = {name: script.CASES[name] for name in ("ReLU", "tanh")}
    monkeypatch.setattr(script, "CASES", kept)


def _words(folder: Path, *more: str) -> list[str]:
    sizes = {"seeds": 1, "networks": 1, "draws": 3, "samples": 30, "epochs": 1, "time": 0.05, "jobs": 1}
    options = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    return [str(folder / "run"), *options, "--out", str(folder / "out"), *more]


@pytest.mark.usefixtures("small")
def test_a_measurement_is_kept_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_words(tmp_path)) == 0
    out = tmp_path / "out"
    text = (out / "conserved.md").read_text()
    pictures = re.findall(r"\((conserved-[\w-]+\.png)\)", text)
    assert len(pictures) == 3
    assert all((out / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    found = read_conserved(Conserved, out / "conserved.json")
    assert {law.case for law in found.laws} == {"ReLU", "tanh", "on data, full", "on data, binary"}
    assert {course.precision for course in found.courses} == {"full", "binary"}
    same, changed = found.orbits
    losses = [start.loss for start in same.starts]
    assert max(losses) - min(losses) < 1e-4
    assert same.balanced == changed.balanced
    assert len({round(start.loss, 4) for start in changed.starts}) == 3
    assert len({round(start.value, 2) for start in same.starts}) == 3

    # What is there is not made again; what is missing comes out the same.
    piece = tmp_path / "run" / "pieces" / "laws-tanh-0.json"
    numbers = json.loads(piece.read_text())["laws"]
    piece.unlink()
    made: list[str] = []
    run = script.Job.run
    monkeypatch.setattr(script.Job, "run", lambda job: (made.append(job.name), run(job)))
    assert script.main(_words(tmp_path)) == 0
    assert made == ["tanh"]
    assert json.loads(piece.read_text())["laws"] == numbers
    (out / "conserved.md").unlink()
    assert script.main(_words(tmp_path, "--records")) == 0
    assert re.sub(r"in .* minutes", "", (out / "conserved.md").read_text()) == re.sub(r"in .* minutes", "", text)

    # More seeds are added; other settings are refused.
    made.clear()
    assert script.main(_words(tmp_path, "--networks", "2")) == 0
    assert made == ["relu"]
    capsys.readouterr()
    assert script.main(_words(tmp_path, "--samples", "40")) == 2
    assert "made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds: expected at least 1, got 0"),
        (["--samples", "3"], "--samples: expected at least 20"),
        (["--samples", "1439"], "--samples: expected at most the 1438 training samples, got 1439"),
        (["--time", "0.07"], "--time: expected a positive multiple of 0.05"),
        (["--time", "inf"], "--time: expected a positive multiple of 0.05, got inf"),
        (["--time", "nan"], "--time: expected a positive multiple of 0.05, got nan"),
        (["--jobs", "0"], "--jobs: expected a number of processes"),
        (["--records"], "could not read"),
    ],
)
def test_options_that_make_no_measurement_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert script.main(_words(tmp_path, *words)) == 2
    assert message in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_job: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script.Job, "run", interrupted)
    assert script.main(_words(tmp_path)) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
