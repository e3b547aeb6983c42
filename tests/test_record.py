"""What a record must hold beside the right types, and where provenance finds the code's revision."""

import importlib
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import bump, energy, made_up
from record_factory import records as made_up_records

from compare.geometry import barrier
from compare.runs import RecordError, read_record, read_records, record, write_record

# The package offers a function of the same name.
provenance_module = importlib.import_module("compare.runs.provenance")

CURVE = {"ts": [0, 0.5, 1], "errors": [0.1, 0.6, 0.3], "losses": [1, 2, 3], "barrier": 0.3, "barrier_over_chord": 0.4}
ENERGY = json.loads(energy("binary", 0).model_dump_json())
REFUSED = {
    "no ts": ("curves.0", {"ts": [], "errors": [], "losses": []}, r"at least 2 ts that increase .*, got \[\]"),
    "one t": ("curves.0", {"ts": [0], "errors": [0.1], "losses": [1]}, r"got \[0.0\]"),
    "ts from elsewhere": ("curves.0", {**CURVE, "ts": [0.1, 0.5, 1]}, "from 0 to 1"),
    "ts to elsewhere": ("curves.0", {**CURVE, "ts": [0, 0.5, 0.9]}, "from 0 to 1"),
    "ts back and forth": ("curves.0", {**CURVE, "ts": [0, 0, 1]}, "increase"),
    "another barrier": ("curves.0", {**CURVE, "barrier": 0.31}, "barrier: expected that of the errors, 0.3, got 0.31"),
    "another over chord": ("curves.0", {**CURVE, "barrier_over_chord": 0.3}, "barrier_over_chord: .* 0.4, got 0.3"),
    "a control's curve": ("controls.1.curves.0", {**CURVE, "barrier": 0}, "controls.1.curves.0: .*barrier"),
    "no curve": ("", {"curves": []}, "curves: .*at least 1 item"),
    "no control": ("", {"controls": []}, "symmetric copy, untrained once, got none"),
    "one control twice": ("controls.1", {"name": "symmetric copy"}, "once, got symmetric copy, symmetric copy"),
    "no test samples": ("data", {"evaluated": {"train": 3}}, "train and test samples, got train"),
    "no bits": ("", {"bits": 0}, "bits: .*greater than 0"),
    "energy of no noise": (
        "",
        {"energies": [{**ENERGY, "sigmas": [0, 1, 2]}]},
        "energies.0.sigmas.0: .*greater than 0",
    ),
    "energy at no sigma": ("", {"energies": [{**ENERGY, "sigmas": []}]}, "energies.0.sigmas: .*at least 1 item"),
    "fewer rises": ("", {"energies": [{**ENERGY, "rises": [0.1]}]}, "3 sigmas, 1 rises and 3 standard errors differ"),
    "one standard error": ("", {"energies": [{**ENERGY, "standard_errors": [0]}]}, "and 1 standard errors differ"),
    "a negative one": (
        "",
        {"energies": [{**ENERGY, "standard_errors": [0, -1, 0]}]},
        "standard_errors.1: .*or equal to 0",
    ),
    "sigmas back": (
        "",
        {"energies": [{**ENERGY, "sigmas": [1, 1, 2]}]},
        r"sigmas that increase, got \[1.0, 1.0, 2.0\]",
    ),
    "above all errors": (
        "",
        {"energies": [{**ENERGY, "rises": [0, 0, 1.0]}]},
        "errors from 0 to 1, from 0.00.*: .*1.0",
    ),
    "below all errors": ("", {"energies": [{**ENERGY, "rises": [0, -0.1, 0]}]}, "errors from 0 to 1"),
    "one draw": ("", {"energies": [{**ENERGY, "draws": 1}]}, "energies.0.draws: .*or equal to 2"),
    "no samples": ("", {"energies": [{**ENERGY, "samples": 0}]}, "energies.0.samples: .*or equal to 1"),
    "energies of another": ("", {"energies": [{**ENERGY, "network": "c"}]}, "energies.0.network: .*'a' or 'b'"),
    "one end twice": ("", {"energies": [ENERGY, ENERGY]}, r"at most once, got a \(train\), a \(train\)"),
    "no time": ("provenance", {"created": "yesterday"}, "provenance.created: .*yesterday"),
    "no time zone": ("provenance", {"created": "2000-01-01T00:00:00"}, "a time with its zone"),
}


def _changed(place: str, change: dict[str, object]) -> str:
    content = json.loads(made_up().model_dump_json())
    part = content
    for step in filter(None, place.split(".")):
        part = part[int(step) if step.isdigit() else step]
    part.update(change)
    return json.dumps(content)


@pytest.mark.parametrize(("place", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_itself_is_refused(tmp_path, place, change, message) -> None:
    file = tmp_path / "record.json"
    file.write_text(_changed(place, change))
    with pytest.raises(RecordError, match=message):
        read_record(file)


def test_the_curve_that_the_refused_ones_start_from_is_accepted(tmp_path) -> None:
    (tmp_path / "record.json").write_text(_changed("curves.0", CURVE))
    assert read_record(tmp_path / "record.json").curves[0].barrier == 0.3


def test_energies_as_they_are_measured_are_accepted(tmp_path) -> None:
    """Of an error of 0 or 1 nothing is left below or above; rounding may lead just outside."""
    ends = [
        {**ENERGY, "error": 0, "rises": [0, -1e-12, 1]},
        {**ENERGY, "network": "b", "error": 1, "rises": [-1, 0, 0]},
    ]
    (tmp_path / "record.json").write_text(_changed("", {"energies": ends, "bits": 1.585}))
    found = read_record(tmp_path / "record.json")
    assert ([one.network for one in found.energies], found.bits) == (["a", "b"], 1.585)


@pytest.mark.parametrize("version", [1, 2])
def test_older_records_have_neither_bits_nor_energies_and_are_read(tmp_path, version) -> None:
    content = json.loads(made_up(landscapes=version == 2).model_dump_json())
    for name in ("bits", "energies", *(["landscape"] if version == 1 else [])):
        del content[name]
    (tmp_path / "record.json").write_text(json.dumps({**content, "schema_version": version}))
    found = read_record(tmp_path / "record.json")
    assert (found.schema_version, found.bits, found.energies) == (version, None, ())
    assert (found.landscape is None) == (version == 1)
    assert made_up().schema_version == record.SCHEMA_VERSION == 3


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_barriers_as_they_are_measured_are_accepted(errors) -> None:
    ts = tuple(i / (len(errors) - 1) for i in range(len(errors)))
    found = barrier(ts, errors)
    heights = {"barrier": found.height, "barrier_over_chord": found.over_chord}
    plain = bump(0.1, (0.0, 0.0), "matched").model_dump()
    values = {**plain, "ts": ts, "errors": tuple(errors), "losses": tuple(errors)}
    record.Curve.model_validate({**values, **heights})
    for name, height in heights.items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            record.Curve.model_validate({**values, **heights, name: math.nextafter(height + 1e-8, 2)})


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_file_nested_too_deeply_is_no_record(tmp_path, depth) -> None:
    nested = _changed("", {"configuration": {"x": "DEEP"}}).replace('"DEEP"', "[" * depth + "]" * depth)
    (tmp_path / "record.json").write_text(nested)
    with pytest.raises(RecordError, match=r"record\.json is not a record"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("method", ["is_dir", "glob"])
def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch, method) -> None:
    def refuse(self: Path, *_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    write_record(made_up_records()[0], tmp_path / "records" / "0.json")
    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(RecordError, match=f"could not look for records at {tmp_path}: Permission denied"):
        read_records([tmp_path])


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, and a copy of the module in it at the path given."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "README").touch()
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "README")
    _git(tmp_path, "commit", "-q", "-m", "first")

    def place(folder: str) -> Path:
        file = tmp_path / folder / "compare" / "runs" / "provenance.py"
        file.parent.mkdir(parents=True)
        file.touch()
        monkeypatch.setattr(provenance_module, "__file__", str(file))
        return tmp_path

    return place


def test_the_revision_is_that_of_the_checkout(checkout) -> None:
    folder = checkout(".")
    _git(folder, "add", "compare")
    _git(folder, "commit", "-q", "-m", "second")
    commit = _git(folder, "rev-parse", "HEAD")
    assert provenance_module.revision() == commit
    (folder / "README").write_text("changed")
    assert provenance_module.revision() == f"{commit}+changes"


@pytest.mark.parametrize("place", [".", ".venv/lib/python3.11/site-packages"], ids=["not tracked", "further down"])
def test_code_inside_a_foreign_repository_tells_its_version(checkout, place) -> None:
    folder = checkout(place)
    if place != ".":
        _git(folder, "add", "-f", ".venv")
    assert provenance_module.revision().endswith("not a checkout")
