"""Records, configurations and files: validated when read, written whole or not at all."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import records as made_up_records

from compare.runs import OutputError, RecordError, files, identity, read_record, read_records, write_record, write_text
from compare.runs.configuration import Configuration, ConfigurationError, claim, configure, read_configuration, to_toml
from compare.runs.provenance import provenance


@pytest.fixture
def record():
    return made_up_records()[0]


def test_a_record_comes_back_as_it_was(tmp_path, record) -> None:
    write_record(record, tmp_path / "a" / "record.json")
    assert read_record(tmp_path / "a" / "record.json") == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=99), "schema version 99, .* reads up to 1: install a newer"),
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
    with pytest.raises(OutputError, match="could not write"):
        write_text(tmp_path / "file" / "record.json", "new")


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
        ({"data": "imagenet"}, "unknown data set 'imagenet', expected one of digits, mnist"),
        ({"seeds": ["1"]}, "at least two different seeds"),
        ({"seeds": ["1", "1"]}, "at least two different seeds"),
        ({"precisions": ["binary", "binary"]}, "each precision once"),
        ({"precisions": []}, "precisions"),
        ({"points": "1"}, "points: .*greater than or equal to 2"),
        ({"points": "many"}, r"points: .*integer.*\(got 'many'\)"),
        ({"architecture.network": "transformer"}, "'mlp', 'vgg' or 'resnet'"),
        ({"architecture.hidden": ["0"]}, "greater than 0"),
        ({"training.optimiser": "lion"}, "'adam', 'sgd' or 'bop'"),
        ({"training.learning_rate": "-1"}, "greater than 0"),
        ({"colour": "red"}, "colour: Extra inputs.*Known names: data, precisions"),
    ],
)
def test_bad_configurations_are_refused_by_name(options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configure(options)


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
