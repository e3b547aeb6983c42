"""The script of level sets: what it refuses, a whole study in small, what it keeps and takes up, and its document."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reproduce_topology as script
import topology_images
import topology_tasks as tasks

from compare.report.strings import document
from compare.report.strings_claims import claims
from compare.report.strings_tables import images, regression, tables
from compare.runs.strings import Strings
from compare.runs.topology import Topology, read_topology
from compare.strings import Lowering, StringSettings

ROOT = Path(__file__).parents[1]


def _few(controls: int) -> Iterator[Any]:
    short = Lowering(steps=300, batch=None, learning_rate=0.03)
    for seed in range(2):
        yield tasks.Regression(seed, levels=(0.2, 0.1), points=20, lowering=short)
    yield from (tasks.Control(seed, lowering=short) for seed in range(controls))
    yield tasks.LinearString(0, levels=(0.3,))
    yield from (tasks.Linear(0, sizes, ridge, points=51) for sizes, ridge in (((3, 4, 3), 0.0), ((4, 3, 2), 0.1)))
    yield from (tasks.Width(0, width, samples=40, steps=20) for width in (4, 32))
    yield tasks.TwoUnits()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "small_tasks", lambda regressions, controls, linear: _few(controls))
    monkeypatch.setattr(
        script,
        "Images",
        lambda **fields: topology_images.Images(
            **fields,
            lowering=Lowering(steps=200, batch=50),
            settings=StringSettings(points=3, finer=2, depth=2),
            band=replace(topology_images.BAND, beads=2, sweeps=2, points=3),
        ),
    )


def _words(folder: Path, *more: str) -> list[str]:
    sizes = ["--images", "150", "--calibration", "60", "--hidden", "8", "--levels", "0.6,0.5", "--networks", "2"]
    return [str(folder / "run"), *sizes, "--controls", "1", "--jobs", "1", "--out", str(folder / "out"), *more]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "99"], "--images: expected at least 100, got 99"),
        (["--networks", "1"], "--networks: expected at least 2, got 1"),
        (["--jobs", "0"], "--jobs: expected a number of processes"),
        (["--levels", "0.1,0.2"], "--levels: expected falling fractions between 0 and 1, such as 0.05,0.02, got"),
        (["--levels", "low"], "got 'low'"),
        (["--levels", "2"], "got '2'"),
        (["--records"], "could not read .*topology-digits.json"),
    ],
)
def test_arguments_are_checked(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_words(tmp_path, *words)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        script.parsed(["--help"])
    shown = capsys.readouterr().out.rpartition("example: python scripts/reproduce_topology.py ")[2]
    assert f"example: python scripts/reproduce_topology.py {shown.strip()}" in script.__doc__
    options = script.parsed(shlex.split(shown))
    assert (options.data, options.data_root, options.out) == ("mnist", Path("data/mnist"), Path("docs/results"))


@pytest.mark.usefixtures("small")
def test_a_study_is_kept_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_words(tmp_path)) == 0
    page, records = tmp_path / "out" / "topology-digits.md", tmp_path / "out" / "topology-digits.json"
    text, found = page.read_text(), read_topology(records)
    assert (tmp_path / "out" / "topology-digits-levels.png").read_bytes().startswith(b"\x89PNG")
    # 2 regressions, a control, linear networks, 3 treatments in 2 precisions, copies of 4 networks as such and matched.
    assert (len(found.strings), len(found.bands), len(found.linear), len(found.pruned)) == (18, 6, 2, 3)
    assert all(len(each.levels) == 2 for each in found.strings if each.task.startswith("quadratic"))
    copies = [each for each in found.strings if each.task == "a symmetric copy"]
    assert [each.levels[0].connected for each in copies] == [False, True] * 4
    assert {(each.beads, each.steps) for copy in copies for each in copy.levels} == {(2, 0)}
    assert {(each.precision, each.treatment) for each in found.strings if each.task == "digits"} == {
        (precision, treatment)
        for precision in ("binary", "full")
        for treatment in ("as trained", "standard form", "matched")
    }
    assert all(tree.edges[0][2] == tree.minimax[0][2] for tree in found.trees)
    for heading in ("What was claimed", "Verdicts and cost", "Minimum spanning trees", "Constructed paths"):
        assert f"### {heading}" in text

    # What is there is not made again; what is missing is, and comes out the same but for the time it takes.
    gone = tmp_path / "run" / "string-full-0-1-matched.json"
    before = Strings.model_validate_json(gone.read_text())
    gone.unlink()
    made: list[str] = []
    run = script.Job.run
    monkeypatch.setattr(script.Job, "run", lambda job: (made.append(job.task.name), run(job)))
    assert script.main(_words(tmp_path)) == 0
    assert made == ["string-full-0-1-matched"]
    again = Strings.model_validate_json(gone.read_text())
    assert [replace_seconds(level) for level in again.levels] == [replace_seconds(level) for level in before.levels]

    # The document comes from the records alone.
    text = page.read_text()
    page.unlink()
    assert script.main(_words(tmp_path, "--records")) == 0
    assert page.read_text() == text
    assert made == ["string-full-0-1-matched"]

    # Another study's pieces are not taken for this one's.
    capsys.readouterr()
    assert script.main(_words(tmp_path, "--calibration", "50")) == 2
    assert "belongs to a study with other settings" in capsys.readouterr().err


def replace_seconds(level: Any) -> Any:
    return level.model_copy(update={"seconds": 0.0})


@pytest.mark.usefixtures("small")
def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_job: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script.Job, "run", interrupted)
    assert script.main(_words(tmp_path)) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


# The document, from records alone.

PROVENANCE = {
    "created": "2026-01-01T00:00:00+00:00",
    "revision": "abc",
    "command": "python scripts/reproduce_topology.py",
    "python": "3.11",
    "platform": "Linux",
    "threads": 1,
    "packages": {"torch": "2"},
}


def _level(level: float, beads: int, length: float, *, connected: bool = True) -> dict[str, Any]:
    verdict = "connected at this level within tolerance" if connected else "not shown connected"
    faults = [] if connected else ["the bead in segment 0 was not trained down to 0.1: its energy is 0.2 after 9 steps"]
    numbers = {
        "maximum": level,
        "finer_maximum": level,
        "generations": 1,
        "steps": 10,
        "evaluations": 5,
        "seconds": 1.0,
    }
    about = {"level": level, "verdict": verdict, "faults": faults, "tolerance": 0.1, "beads": beads}
    return {**about, "length": length, "distance": 1.0, **numbers}


def _strings(task: str, seed: int, *levels: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {"identity": "0", "precision": "full", "provenance": PROVENANCE, "task": task, "networks": ["a", f"{seed}"]}
    numbers = {"energy": "mean squared error", "samples": 10, "norm": "norm", "seed": seed, "levels": levels}
    return {**about, **numbers, "settings": {"levels": [0.1, 0.01]}, **more}


def _topology(*strings: dict[str, Any], **more: Any) -> Topology:
    about = {"data": "digits", "fingerprint": "f", "shape": "64 - 8 - 10", "images": 10, "calibration": 5}
    return Topology.model_validate_json(json.dumps({**about, "strings": strings, **more}))


def _verdicts(found: Topology) -> dict[str, str]:
    return {claim.text: claim.verdict for claim in claims(found)}


def test_regressions_are_judged_by_the_interval_of_their_mean() -> None:
    lengths = (1.3, 1.35, 1.45)
    found = _topology(
        *(
            _strings(
                "quadratic regression, 1-4-4-1", i, _level(0.1, 5 + i, length), _level(0.01, 30 + i, length + 0.1 * i)
            )
            for i, length in enumerate(lengths)
        )
    )
    verdicts = _verdicts(found)
    rises = "Quadratic regression: {} rises from the highest to the lowest level connected"
    # Beads rise by 25 each; lengths by 0, 0.1 and 0.2, whose mean may be 0.
    assert verdicts[rises.format("number of beads")] == "holds"
    assert verdicts[rises.format("length")] == "not decided"
    assert verdicts["Quadratic regression, level 0.1: length 1.35, as published"] == "holds"
    assert verdicts["Quadratic regression, level 0.01: beads 13.8, as published"] == "does not hold"
    first, second = regression(found).rows
    assert first[:4] == ("0.1", "3 of 3", "6.0 ± 1.0", "5")
    assert second[3:6] == ("13.8", "1.47 ± 0.18", "1.48")


def test_what_is_not_connected_is_counted_and_told() -> None:
    task = "three points permuted, 2-3-2"
    found = _topology(*(_strings(task, i, _level(0.1, 2, 1.0, connected=False)) for i in range(3)))
    text = "Three points permuted, two of three units swapped: strings do not connect"
    assert _verdicts(found) == {text: "holds"}
    assert f"- {task}, full, level 0.1: a bead was not trained down to its target (3 strings)" in document(found, "x")
    assert "levels.png" not in document(found, "x")
    one = _topology(_strings(task, 0, _level(0.1, 2, 1.0)))
    assert _verdicts(one) == {text: "does not hold"}


def test_strings_on_images_are_compared_pair_by_pair() -> None:
    strings = [
        _strings(
            "digits",
            i,
            _level(0.1, 3, length),
            *([_level(0.01, 9, length + 0.5)] if i else [_level(0.01, 9, 1.0, connected=False)]),
            precision=precision,
            treatment=treatment,
        )
        for precision, extra in (("binary", 2.0), ("full", 0.0))
        for treatment, start in (("as trained", 1.2), ("standard form", 1.5), ("matched", 1.1))
        for i in range(2)
        for length in [start + extra + 0.1 * i * (treatment == "matched") * 6]
    ]
    verdicts = _verdicts(_topology(*strings))
    assert verdicts["digits, full, matched: joined at every level"] == "not decided"
    # 0.4 shorter in one pair, 0.2 longer in the other.
    shorter = "digits, full: strings between networks in standard form shorten when matched"
    assert verdicts[shorter] == "not decided"
    longer = next(text for text in verdicts if "strings of binary networks are longer" in text)
    assert verdicts[longer] == "holds"
    rows = images(_topology(*strings)).rows
    assert rows[0][:4] == ("binary", "as trained", "10", "2 of 2")
    assert rows[1][:4] == ("binary", "as trained", "1", "1 of 2")


def test_copies_stand_by_themselves() -> None:
    def found(*matched: bool) -> Topology:
        return _topology(
            *(
                _strings("a symmetric copy", i, _level(0.1, 2, 1.0, connected=joined), treatment=treatment, settings={})
                for i, each in enumerate(matched)
                for treatment, joined in (("standard form", False), ("matched", each))
            )
        )

    text = "digits, full: a network and its symmetric copy, once matched, are joined by a straight line"
    assert _verdicts(found(True, True)) == {text: "holds"}
    assert _verdicts(found(True, False)) == {text: "does not hold"}
    assert [claim.measured for claim in claims(found(True, False))] == ["1 of 2 matched, 0 of 2 in standard form"]
    assert not images(found(True)).rows
    assert "levels.png" not in document(found(True), "x")


def _pruned(width: int, highest: float) -> dict[str, Any]:
    about = {"identity": "0", "precision": "full", "provenance": PROVENANCE, "task": "regression, 3-h-2"}
    return {**about, "width": width, "seed": 0, "ends": [0.0, 0.0], "highest": highest}


def test_a_bound_that_does_not_fall_leaves_the_gap_open() -> None:
    strings = _strings("linear network, 5-6-4", 0, _level(0.1, 2, 1.0))
    text = "Rectified networks of one hidden layer: the energy gap falls with the width (its computed upper bound)"
    for last, verdict in ((0.1, "holds"), (0.3, "not decided")):
        found = _topology(strings, pruned=[_pruned(8, 0.3), _pruned(16, last)])
        assert _verdicts(found)[text] == verdict


def test_energies_that_are_no_numbers_are_told() -> None:
    odd = {**_level(0.1, 3, 1.0), "finer_maximum": None}
    found = _topology(*(_strings("digits", i, odd, treatment="matched") for i in range(2)))
    assert images(found).rows[0][6] == "no number"
    verdicts = next(table for table in tables(found) if table.title == "Verdicts and cost")
    assert verdicts.rows[0][6] == "2"


def test_what_differs_from_the_publication_is_told() -> None:
    settings = {"settings": {"points": 51}, "lowering": {"steps": 60_000, "learning_rate": 0.003}}
    regressed = _strings("quadratic regression, 1-4-4-1", 0, _level(0.1, 5, 1.3), settings=settings)
    text = " ".join(document(_topology(regressed), "x").split())
    for words in ("51 points a segment instead of 100", "10 inputs on a grid", "falls from 0.003 to 0", "60000 steps"):
        assert words in text
    assert "instead of 100" not in document(_topology(_strings("digits", 0, _level(0.1, 2, 1.0))), "x")


def test_all_that_made_a_study_is_told() -> None:
    other = {**PROVENANCE, "packages": {"torch": "3"}, "platform": "Darwin"}
    strings = [_strings("digits", i, _level(0.1, 2, 1.0), treatment="matched") for i in range(2)]
    strings[1]["provenance"] = other
    text = document(_topology(*strings), "x")
    assert "with torch 2, 3, Python 3.11, 1 thread for each piece, Linux, Darwin" in " ".join(text.split())


def test_a_path_that_rises_refutes() -> None:
    path = {
        "identity": "0",
        "precision": "full",
        "provenance": PROVENANCE,
        "sizes": [2, 3, 2],
        "ridge": 0,
        "seed": 0,
        "ends": [1.0, 2.0],
        "straight": 5.0,
        "highest": 2.1,
        "points": 11,
    }
    strings = _strings("linear network, 5-6-4", 0, _level(0.1, 2, 1.0), _level(0.01, 3, 1.1))
    text = "Linear networks are joined below the worse end's loss: constructed paths"
    assert _verdicts(_topology(strings, linear=[path]))[text] == "does not hold"
    fine = _topology(strings, linear=[{**path, "highest": 2.0}])
    assert _verdicts(fine)[text] == "holds"
    joined = "Linear networks are joined at every level: strings"
    assert _verdicts(fine)[joined] == "holds"
    above = _strings("linear network, 5-6-4", 0, _level(0.1, 2, 1.0), {**_level(0.01, 3, 1.1), "finer_maximum": 0.02})
    assert _verdicts(_topology(above))[joined] == "not decided"
    assert [table.title for table in tables(fine)] == ["Verdicts and cost", "Constructed paths between linear networks"]
