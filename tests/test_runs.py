"""Records, configurations and files: validated when read, written whole or not at all."""

import dataclasses
import errno
import json
import os
import tempfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import records as made_up_records

import compare.family
from compare.data import load_data
from compare.experiment import build, run
from compare.family import PrecisionError, families
from compare.networks import ShapeError
from compare.runs import OutputError, RecordError, files, identity, read_record, read_records, write_record, write_text
from compare.runs.configuration import Configuration, ConfigurationError, claim, configure, read_configuration, to_toml
from compare.runs.files import check_writable, is_free, sole_writer
from compare.runs.provenance import command_line, provenance

SMALL = {
    "precisions": ["full"],
    "seeds": [0, 1],
    "points": 3,
    "samples": 20,
    "architecture.hidden": [4],
    "training.epochs": 1,
}


@pytest.fixture
def record():
    return made_up_records()[0]


def test_a_record_comes_back_as_it_was(tmp_path, record) -> None:
    write_record(record, tmp_path / "a" / "record.json")
    assert read_record(tmp_path / "a" / "record.json") == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=99), "schema version 99, .* reads up to 3: install a newer"),
        (lambda c: c.pop("schema_version"), "is not a record: expected a JSON object with 'schema_version'"),
        (lambda c: c.pop("match"), "match: Field required"),
        (lambda c: c.update(surprise=1), "surprise: Extra inputs"),
        (lambda c: c["curves"][0].update(errors=[2.0]), "less than or equal to 1"),
        (lambda c: c["curves"][0].update(ts=[0.0]), "differ in number"),
        (lambda c: c["match"].update(objective=float("nan")), "finite number"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, record, change, message) -> None:
    content = json.loads(record.model_dump_json())
    change(content)
    file = tmp_path / "record.json"
    file.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message):
        read_record(file)


@pytest.mark.parametrize(("text", "message"), [("not json", "not JSON"), ("[1, 2]", "expected a JSON object")])
def test_other_files_are_refused(tmp_path, text, message) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path / "record.json")


def test_missing_files_and_empty_folders_are_named(tmp_path) -> None:
    with pytest.raises(RecordError, match="could not read"):
        read_record(tmp_path / "none.json")
    with pytest.raises(RecordError, match="holds no records"):
        read_records([tmp_path])


def test_records_are_found_in_a_runs_folder(tmp_path) -> None:
    both = made_up_records()[:2]
    for index, record in enumerate(both):
        write_record(record, tmp_path / "records" / f"{index}.json")
    assert read_records([tmp_path]) == both
    assert read_records([tmp_path / "records" / "1.json"]) == [both[1]]


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch) -> None:
    file = tmp_path / "record.json"
    write_text(file, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputError, match=r"could not write .*record\.json: No space left on device.*free some space"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_folder_that_is_a_file_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (lambda file: write_text(file, "new"), check_writable):
        with pytest.raises(OutputError, match=r"^could not write .*a file stands where a folder is needed"):
            attempt(tmp_path / "file" / "record.json")


def test_a_file_that_is_a_folder_is_named(tmp_path) -> None:
    for attempt in (lambda file: write_text(file, "new"), check_writable):
        with pytest.raises(OutputError, match=r"^could not write .*: Is a directory.*name a file") as caught:
            attempt(tmp_path)
        assert caught.value.errno == errno.EISDIR
        assert "space" not in str(caught.value)


def test_a_place_is_tried_before_the_work_and_left_as_it_was(tmp_path, monkeypatch) -> None:
    check_writable(tmp_path / "new" / "record.json")
    assert not list(tmp_path.iterdir())

    def forbidden(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", forbidden)
    with pytest.raises(OutputError, match=r"^could not write .*Permission denied.*where you may write"):
        check_writable(tmp_path / "new" / "record.json")


def test_files_get_the_usual_permissions(tmp_path) -> None:
    write_text(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_configuration_survives_toml(tmp_path) -> None:
    configuration = configure(
        {"data": "mnist", "seeds": ["1", "2"], "training.epochs": "3", "architecture.network": "vgg"}
    )
    write_text(tmp_path / "c.toml", to_toml(configuration))
    assert read_configuration(tmp_path / "c.toml") == configuration
    assert configuration.seeds == (1, 2)


def test_options_win_over_the_file(tmp_path) -> None:
    (tmp_path / "c.toml").write_text('data = "mnist"\npoints = 5\n[training]\nepochs = 7\n')
    configuration = configure({"points": "9", "samples": None}, tmp_path / "c.toml")
    assert (configuration.data, configuration.points, configuration.training.epochs) == ("mnist", 9, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "mnst"}, r"data \(--data\): got 'mnst', expected one of digits, mnist, .*; did you mean 'mnist'\?$"),
        ({"seeds": ["1"]}, "at least two different seeds"),
        ({"seeds": ["1", "1"]}, "at least two different seeds"),
        ({"seeds": ["0", "-1"]}, "got '-1', expected greater than or equal to 0"),
        ({"seeds": ["0", str(2**63)]}, "expected less than 9223372036854775808"),
        ({"precisions": ["binary", "binary"]}, "each precision once"),
        ({"precisions": []}, "precisions .*expected at least one"),
        ({"points": "1"}, "points .*got '1', expected greater than or equal to 3"),
        ({"points": "4"}, "got '4', expected an odd number, so that one network lies halfway"),
        ({"points": "many"}, "points .*got 'many', expected a valid integer"),
        ({"samples": "1"}, "samples .*expected greater than or equal to 2"),
        ({"architecture.network": "transformer"}, r"architecture.network \(--network\): .*'mlp', 'vgg' or 'resnet'"),
        ({"architecture.hidden": ["0"]}, "greater than 0"),
        ({"architecture.widths": ["8"]}, "the network 'mlp' has no widths; its shape is: hidden"),
        ({"training.optimiser": "lion"}, "'adam', 'sgd' or 'bop'"),
        ({"training.learning_rate": "-1"}, r"\(--learning-rate\): got '-1', expected greater than 0"),
        ({"colour": "red"}, "unknown name 'colour': expected one of data, precisions, "),
        ({"training.epoch": "3"}, "unknown name 'training.epoch': expected one of epochs, .* mean 'epochs'"),
        ({"epochs": 3}, r"unknown name 'epochs': it belongs into the table \[training\]$"),
        ({"training.points": 3}, "it belongs to the top of the file"),
        ({"training": 3}, "training: expected a table, got 3$"),
    ],
)
def test_bad_configurations_are_refused_by_name(options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configure(options)


@pytest.mark.parametrize(
    ("network", "fields"), [("mlp", {"hidden"}), ("vgg", {"stages", "hidden"}), ("resnet", {"widths", "blocks"})]
)
def test_a_configuration_tells_the_chosen_networks_fields_alone(network, fields, tmp_path) -> None:
    configuration = configure({"architecture.network": network})
    assert configuration.model_dump()["architecture"].keys() == {"network", *fields}
    write_text(tmp_path / "c.toml", to_toml(configuration))
    assert read_configuration(tmp_path / "c.toml") == configuration


def test_files_that_hold_no_configuration_are_refused(tmp_path) -> None:
    (tmp_path / "c.toml").write_text("data =")
    with pytest.raises(ConfigurationError, match="not TOML"):
        read_configuration(tmp_path / "c.toml")
    with pytest.raises(ConfigurationError, match="could not read"):
        configure({}, tmp_path / "none.toml")
    (tmp_path / "c.toml").write_text("training = 3")
    with pytest.raises(ConfigurationError, match="training"):
        configure({"training.epochs": "3"}, tmp_path / "c.toml")


def test_a_folder_belongs_to_one_configuration(tmp_path) -> None:
    first, second = Configuration(), Configuration(points=7)
    claim(tmp_path / "run", first)
    claim(tmp_path / "run", first)
    with pytest.raises(ConfigurationError, match="holds another configuration's run"):
        claim(tmp_path / "run", second)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(ConfigurationError, match="not empty and holds no run"):
        claim(tmp_path / "other", first)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="not empty"):
        claim(tmp_path / "file", first)


def test_what_a_killed_process_left_locks_no_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files.os, "replace", lambda *_: None)
    claim(tmp_path, Configuration())
    monkeypatch.undo()
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    claim(tmp_path, Configuration())
    assert read_configuration(tmp_path / "configuration.toml") == Configuration()


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch) -> None:
    def forbidden(self: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(OutputError, match=r"^could not look into .*: Permission denied"):
        claim(tmp_path, Configuration())


def test_one_process_at_a_time_works_in_a_folder(tmp_path) -> None:
    with sole_writer(tmp_path), pytest.raises(OutputError, match="another process is at work"), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):
        assert is_free(tmp_path)
    with sole_writer(tmp_path):
        pass


def test_a_run_waits_for_no_other(tmp_path) -> None:
    configuration, folder = configure(SMALL), tmp_path / "run"
    claim(folder, configuration)
    with sole_writer(folder), pytest.raises(OutputError, match="another process is at work"):
        run(configuration, load_data("digits"), folder, show=False)


def _other_data(content) -> None:
    content["data"]["fingerprint"] = "another"


def _other_configuration(content) -> None:
    content["configuration"]["identity"] = "another"


def _other_seeds(content) -> None:
    content["networks"].reverse()


def _other_precision(content) -> None:
    content["precision"] = "binary"


def test_a_record_of_something_else_is_not_taken_for_that_of_the_run(tmp_path) -> None:
    data = load_data("digits")
    [made] = run(configure(SMALL), data, tmp_path / "run", show=False)
    file = tmp_path / "run" / "records" / "full-0-1.json"
    good = file.read_text()
    assert run(configure(SMALL), data, tmp_path / "run", show=False) == [made]
    for change in (_other_data, _other_configuration, _other_seeds, _other_precision, dict.clear):
        content = json.loads(good)
        change(content)
        file.write_text(json.dumps(content))
        with pytest.raises(RecordError, match=r"full-0-1\.json .*Remove it; it is measured again$"):
            run(configure(SMALL), data, tmp_path / "run", show=False)


def test_a_network_that_no_memory_holds_is_refused() -> None:
    configuration = configure({"architecture.hidden": [10**11, 10**6]})
    with pytest.raises(ShapeError, match="fits into memory; choose smaller sizes"):
        build(families()["full"], configuration, load_data("digits"), seed=0)


def test_a_network_that_a_precision_does_not_offer_is_refused() -> None:
    family = dataclasses.replace(families()["full"], networks={"mlp": families()["full"].networks["mlp"]})
    with pytest.raises(PrecisionError, match="'full' has no network 'vgg': expected one of mlp"):
        build(family, configure({"architecture.network": "vgg"}), load_data("digits"), seed=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("../full", "fullprecision:FAMILY", "expected a name of letters"),
        ("..", "fullprecision:FAMILY", "expected a name of letters"),
        ("half", "fullprecision:FAMILY", "gives a family of another name, 'full'"),
        (
            "full",
            "no_such_package:FAMILY",
            "the entry point no_such_package:FAMILY of precision 'full' cannot be loaded",
        ),
        ("full", "fullprecision:NOTHING", "cannot be loaded"),
        ("full", "fullprecision:__name__", "gives no compare.Family, but str"),
    ],
)
def test_entry_points_that_give_no_family_are_named(name, value, message, monkeypatch) -> None:
    point = EntryPoint(name, value, "compare.families")
    monkeypatch.setattr(compare.family, "installed", lambda: {name: point})
    with pytest.raises(PrecisionError, match=message):
        families()


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=5))
def test_an_identity_depends_on_every_field_and_on_no_order(settings) -> None:
    assert identity(settings) == identity(dict(reversed(settings.items())))
    for name in settings:
        assert identity({**settings, name: [settings[name]]}) != identity(settings)
    assert len(identity(settings)) == 12


def test_every_field_of_a_configuration_changes_its_identity() -> None:
    known = identity(Configuration().model_dump(mode="json"))
    changes = ({"data": "mnist"}, {"seeds": (0, 1)}, {"points": 3}, {"samples": 7}, {"precisions": ("full",)})
    assert all(identity(Configuration(**change).model_dump(mode="json")) != known for change in changes)


def test_provenance_tells_versions_and_revision() -> None:
    found = provenance(threads=2, command="compare-nets run")
    assert found.packages["torch"].startswith("2.")
    assert found.revision
    assert found.threads == 2


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["/opt/bin/compare-nets", "run", "/data/one run"], "compare-nets run '.../one run'"),
        (["/opt/site-packages/compare/__main__.py", "run", "out"], "compare-nets run out"),
        (["scripts/ladder.py", "--out", "/docs"], "python scripts/ladder.py --out .../docs"),
        (["/home/a/scripts/ladder.py"], "python .../ladder.py"),
    ],
)
def test_the_command_names_what_was_run(typed: list[str], command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", typed)
    assert command_line() == command
