"""Searches that are kept and taken up again, their records, and what is refused."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from string_planes import LEFT, RIGHT, Plane, at, bowl, two_wells

from compare.params import ParameterError, digest
from compare.runs import OutputError
from compare.runs.strings import StringLevel, Strings
from compare.strings import (
    Lowering,
    StoreError,
    String,
    StringError,
    StringSettings,
    recorded,
    sample_string,
    sample_strings,
)

LEVELS = (0.3, 0.03, 0.003)


def _kept(folder: Path, plane: Plane, **changed: object) -> tuple[String, ...]:
    arguments: dict[str, object] = {"levels": LEVELS, "seed": 5, **changed}
    return sample_strings(plane, LEFT, RIGHT, folder=folder, **arguments)


def _same(first: Sequence[String], second: Sequence[String]) -> bool:
    def plain(string: String) -> tuple[object, ...]:
        beads = tuple((digest(bead.params), bead.energy, bead.inserted) for bead in string.beads)
        numbers = string.length, string.distance, string.generations, string.cost, string.seed, string.settings
        return beads, string.level, string.faults, string.maxima, string.finer_maxima, numbers

    return [plain(string) for string in first] == [plain(string) for string in second]


def test_an_interrupted_search_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = Plane()
    expected = _kept(tmp_path / "whole", whole)
    calls = len(whole.calls)
    assert calls > 40
    for stop in (0, 1, 3, 17, calls // 2, calls - 3):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            _kept(folder, Plane(stop_after=stop))
        rest = Plane()
        assert _same(_kept(folder, rest), expected)
        if stop > 3:
            assert len(rest.calls) < calls
    assert _same(sample_strings(Plane(), LEFT, RIGHT, LEVELS, seed=5), expected)


def test_an_interrupted_level_is_taken_up_where_it_was(tmp_path: Path) -> None:
    whole = Plane()
    expected = _kept(tmp_path / "whole", whole, levels=(0.001,))
    calls = len(whole.calls)
    with pytest.raises(KeyboardInterrupt):
        _kept(tmp_path / "part", Plane(stop_after=calls - len(expected[0].beads)), levels=(0.001,))
    rest = Plane()
    assert _same(_kept(tmp_path / "part", rest, levels=(0.001,)), expected)
    assert len(rest.calls) < calls / 2


def test_a_finished_search_is_read(tmp_path: Path) -> None:
    expected = _kept(tmp_path, Plane())
    assert _same(_kept(tmp_path, Plane(stop_after=0)), expected)
    failed = _kept(tmp_path / "failed", Plane(two_wells), levels=(0.5, 0.1))
    assert _same(_kept(tmp_path / "failed", Plane(two_wells, stop_after=0), levels=(0.5, 0.1)), failed)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"levels": (0.3, 0.02)}, "levels"),
        ({"seed": 6}, "seed"),
        ({"settings": StringSettings(points=13)}, "search"),
    ],
    ids=["levels", "seed", "settings"],
)
def test_the_folder_of_another_search_is_refused(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    _kept(tmp_path, Plane())
    with pytest.raises(StoreError, match=rf"another search \({named} differ\): choose another folder"):
        _kept(tmp_path, Plane(), **changed)


def test_the_folder_of_another_landscape_or_other_ends_is_refused(tmp_path: Path) -> None:
    _kept(tmp_path, Plane())
    with pytest.raises(StoreError, match="energy differ"):
        _kept(tmp_path, Plane(bowl))
    with pytest.raises(StoreError, match="ends differ"):
        sample_strings(Plane(), LEFT, at(1, 0.06), LEVELS, seed=5, folder=tmp_path)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    _kept(tmp_path, Plane())
    network = next((tmp_path / "networks").iterdir())
    content = network.read_bytes()
    network.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match="is damaged: remove"):
        _kept(tmp_path, Plane())
    network.write_bytes(content[:-4])
    with pytest.raises(StoreError, match="is no search that can be read"):
        _kept(tmp_path, Plane())
    network.unlink()
    with pytest.raises(StoreError, match="is no search that can be read"):
        _kept(tmp_path, Plane())
    network.write_bytes(content)
    for text in ("{", "{}", "[]", json.dumps({"identity": 3})):
        (tmp_path / "search.json").write_text(text)
        with pytest.raises(StoreError, match="is no search that can be read"):
            _kept(tmp_path, Plane())


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plane = Plane()
    with pytest.raises(OutputError):
        _kept(tmp_path / "file", plane)
    assert not plane.calls


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "levels: expected at least one, all positive and finite, got none"),
        ((0.1, 0.0), "all positive and finite, got 0.1, 0.0"),
        ((math.inf,), "all positive and finite, got inf"),
        ((0.1, 0.1), "levels: expected numbers that fall, got 0.1, 0.1"),
        ((0.1, 0.2), "numbers that fall"),
    ],
)
def test_levels_that_make_no_schedule_are_refused(levels: tuple[float, ...], message: str) -> None:
    with pytest.raises(StringError, match=re.escape(message)):
        sample_strings(Plane(), LEFT, RIGHT, levels)


def test_ends_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match="b does not fit"):
        sample_string(Plane(), LEFT, {"q": torch.zeros(2)}, 0.1)
    with pytest.raises(ParameterError, match=r"a does not fit.*NaN"):
        sample_string(Plane(), at(math.nan, 0), RIGHT, 0.1)
    with pytest.raises(ParameterError, match="convert one of them"):
        sample_string(Plane(), LEFT, {"p": torch.ones(2)}, 0.1)
    with pytest.raises(ParameterError, match="expected networks with parameters p, got none for p"):
        sample_string(Plane(), {"q": torch.zeros(2)}, {"q": torch.ones(2)}, 0.1)


def test_no_processes_are_refused() -> None:
    with pytest.raises(StringError, match="jobs: expected a number of processes, or -1 for one for each core, got 0"):
        sample_string(Plane(), LEFT, RIGHT, 0.1, jobs=0)


def test_a_landscape_that_cannot_be_sent_to_other_processes_is_refused() -> None:
    formula = Plane(lambda x, y: 0.0)
    formula.calls = (call for call in ())  # type: ignore[assignment]
    with pytest.raises(StringError, match="this landscape cannot be sent to other processes: use jobs=1"):
        sample_string(formula, LEFT, RIGHT, 0.1, jobs=2)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (StringSettings, {"tolerance": -0.1}, "tolerance: expected a finite number of at least 0, got -0.1"),
        (StringSettings, {"tolerance": math.nan}, "tolerance: expected a finite number"),
        (StringSettings, {"alpha": 0.0}, "alpha: expected a number above 0 and at most 1, got 0.0"),
        (StringSettings, {"alpha": 1.01}, "alpha: expected"),
        (StringSettings, {"points": 2}, "points: expected a whole number of at least 3, got 2"),
        (StringSettings, {"points": 5.0}, "points: expected a whole number"),
        (StringSettings, {"finer": 0}, "finer: expected a whole number of at least 1"),
        (StringSettings, {"depth": -1}, "depth: expected a whole number of at least 0"),
        (StringSettings, {"beads": True}, "beads: expected a whole number"),
        (StringSettings, {"initial": 3, "beads": 2}, "initial: expected at most the limit of beads, 2, got 3"),
        (StringSettings, {"place": "end"}, "place: expected one of maximum, middle, got 'end'"),
        (StringSettings, {"start": "anew"}, "start: expected one of string before, ends, got 'anew'"),
        (Lowering, {"steps": 0}, "steps: expected a whole number of at least 1"),
        (Lowering, {"batch": 1}, "batch: expected a whole number of at least 2"),
        (Lowering, {"check": 0}, "check: expected a whole number of at least 1"),
        (Lowering, {"optimiser": "lbfgs"}, "optimiser: expected one of adam, sgd, bop, got 'lbfgs'"),
        (Lowering, {"learning_rate": 0.0}, "learning_rate: expected a positive finite number or None, got 0.0"),
        (Lowering, {"weight_decay": -1.0}, "weight_decay: expected a finite number of at least 0, got -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: type, given: dict[str, object], message: str) -> None:
    with pytest.raises(StringError, match=re.escape(message)):
        kind(**given)


def _record(levels: tuple[StringLevel, ...]) -> Strings:
    made = {"created": "2026-01-01T00:00:00+00:00", "revision": "r", "python": "3", "platform": "p", "threads": 1}
    return Strings.model_validate(
        {
            "identity": "i", "precision": "full", "provenance": {**made, "command": None, "packages": {}},
            "task": "ring", "networks": ("a", "b"), "energy": "mean squared error", "samples": 1, "norm": "Euclidean",
            "seed": 0, "levels": levels, "settings": {},
        }
    )  # fmt: skip


def test_records_keep_what_was_found() -> None:
    strings = sample_strings(Plane(), LEFT, RIGHT, (0.3, 0.03))
    failed = sample_string(Plane(two_wells), LEFT, RIGHT, 0.01)
    record = _record(tuple(map(recorded, (*strings, failed))))
    assert Strings.model_validate_json(record.model_dump_json()) == record
    assert [level.connected for level in record.levels] == [True, True, False]
    assert [level.normalised_length for level in record.levels] == [s.normalised_length for s in (*strings, failed)]
    assert record.levels[0].beads == len(strings[0].beads)
    assert record.levels[2].faults == failed.faults


def test_records_that_contradict_themselves_are_refused() -> None:
    good = recorded(sample_string(Plane(), LEFT, RIGHT, 0.3))
    for change in ({"faults": ("one",)}, {"verdict": "not shown connected"}, {"distance": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            StringLevel.model_validate({**good.model_dump(), **change})
    with pytest.raises(ValueError, match="levels that fall"):
        _record((good, good))
    with pytest.raises(ValueError, match="mean cross-entropy"):
        Strings.model_validate({**_record((good,)).model_dump(), "energy": "loss"})


def test_records_of_new_ends_at_each_level_go_on_after_one_that_is_not_connected() -> None:
    failed = recorded(sample_string(Plane(two_wells), LEFT, RIGHT, 0.4))
    connected = recorded(sample_string(Plane(), LEFT, RIGHT, 0.3))
    assert [level.connected for level in _record((failed, connected)).levels] == [False, True]
