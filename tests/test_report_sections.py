"""What the report averages, and what it keeps apart."""

import random

import pytest
from record_factory import bump, made_up, network, records

from compare.errors import CompareError
from compare.report import ReportError, markdown, write_report
from compare.report.sections import find, sections
from compare.runs.record import Data

OTHER = Data(
    name="other",
    fingerprint="other",
    classes=10,
    train=100,
    test=50,
    evaluated={"train": 100, "test": 50},
    calibration=100,
)


def test_one_section_holds_all_precisions_of_one_data_set_and_model():
    (section,) = sections(records())
    assert [group.label for group in section.groups] == ["binary", "full"]
    assert [len(group.records) for group in section.groups] == [3, 3]


@pytest.mark.parametrize("changes", [{"data": OTHER}, {"model": "64 - 16 - 10"}])
def test_other_data_or_models_get_sections_of_their_own(changes):
    first, second = sections([*records(), *records(**changes)])
    assert {len(group.records) for section in (first, second) for group in section.groups} == {3}
    assert (second.data, second.model) == (changes.get("data", first.data), changes.get("model", first.model))


def test_the_same_data_set_measured_on_fewer_samples_is_other_data():
    fewer = records()[0].data.model_copy(update={"evaluated": {"train": 100, "test": 100}})
    assert len(sections([*records(), *records(data=fewer)])) == 2


def test_networks_trained_differently_are_not_averaged():
    bop = {"data": "made-up digits", "training": {"epochs": 5, "optimiser": "bop"}}
    (section,) = sections([*records(), *records(("binary",), configuration=bop)])
    assert [group.label for group in section.groups] == ["binary (optimiser adam)", "binary (optimiser bop)", "full"]


def test_ends_that_were_trained_differently_show_both_settings():
    mixed = {"a": {"optimiser": "adam", "seed": 0}, "b": {"optimiser": "bop", "seed": 1}}
    plain = {"a": {"optimiser": "adam", "seed": 0}, "b": {"optimiser": "adam", "seed": 1}}
    (section,) = sections([made_up(configuration=mixed), made_up(configuration=plain)])
    assert [group.label for group in section.groups] == ["binary (optimiser adam / bop)", "binary (optimiser adam)"]


def test_curves_with_other_points_are_not_averaged():
    (section,) = sections([made_up(points=5), made_up(points=9)])
    assert [group.label for group in section.groups] == ["binary (points 5)", "binary (points 9)"]


@pytest.mark.parametrize("configuration", [None, {}, {"training": "by hand"}])
def test_records_need_no_configuration(configuration):
    (section,) = sections(records(configuration=configuration))
    assert [group.label for group in section.groups] == ["binary", "full"]


def test_a_network_counts_once_in_however_many_pairs():
    (section,) = sections(records(("binary",), seeds=(0, 1, 2, 3)))
    assert [one.name for one in section.groups[0].networks] == ["seed 0", "seed 1", "seed 2", "seed 3"]


@pytest.mark.parametrize("unknown", [{"seed": None}, {"seed": None, "history": ()}], ids=["training", "errors"])
def test_networks_of_one_name_are_told_apart_by(unknown):
    a, b, c = (network("binary", seed).model_copy(update={"name": "a", **unknown}) for seed in (0, 1, 2))
    (section,) = sections([made_up(networks=(a, b)), made_up(networks=(b, c))])
    assert section.groups[0].networks == (a, b, c)


def test_a_control_that_pairs_repeat_counts_once():
    (section,) = sections(records(("binary",)))
    assert len(section.groups[0].controls("symmetric copy")) == 2  # of seeds 0 and 1, which are first in three pairs


def made_again(record):
    """The same run another day: all numbers agree but the times it took."""
    slower = tuple(
        end.model_copy(
            update={"history": tuple(e.model_copy(update={"seconds": 2 * e.seconds + 1}) for e in end.history)}
        )
        for end in record.networks
    )
    made = record.provenance.model_copy(update={"created": "2001-01-01T00:00:00+00:00"})
    return record.model_copy(update={"networks": slower, "provenance": made})


def test_a_run_made_twice_counts_once_and_the_report_says_so():
    once = records(("binary",))
    remark = "- binary: 3 of 6 records left out: they repeat a pair (the same networks, measured the same way)\n"
    for again in (once, [made_again(record) for record in once]):
        found = markdown([*once, *again])
        assert remark in found
        assert found.replace(remark, "") == markdown(once)
    (section,) = sections([*once, *map(made_again, once)])
    assert [network.name for network in section.groups[0].networks] == ["seed 0", "seed 1", "seed 2"]


def test_a_pair_measured_with_another_seed_is_no_repeat():
    (section,) = sections([made_up(seed=0), made_up(seed=1)])
    assert (len(section.groups[0].records), section.groups[0].repeats) == (2, 0)


def test_networks_without_history_are_told_apart_by_their_losses():
    a, b = (network("binary", seed).model_copy(update={"history": ()}) for seed in (0, 1))
    other = b.model_copy(update={"losses": {"train": 0.123, "test": 0.456}})
    (section,) = sections([made_up(networks=(a, b)), made_up(networks=(a, other))])
    assert len(section.groups[0].records) == 2


def test_a_run_and_two_checkpoints_of_the_same_training_stand_in_one_row():
    settings = {"epochs": 5, "batch": 100, "optimiser": "adam", "learning_rate": 0.001, "weight_decay": 0.0}
    whole = {"identity": "abc", "data": "digits", "seeds": [0, 1, 2], "training": settings}
    ends = [{"precision": "binary", "data_set": "digits", "data": "digits", "seed": s, **settings} for s in (0, 2)]
    (section,) = sections([made_up(configuration=whole), made_up(b=2, configuration={"a": ends[0], "b": ends[1]})])
    assert [(group.label, len(group.records)) for group in section.groups] == [("binary", 2)]


def test_data_of_one_name_and_size_but_another_fingerprint_are_other_data():
    other = records()[0].data.model_copy(update={"fingerprint": "ba9876543210"})
    found = sections([*records(), *records(data=other)])
    assert [section.data.fingerprint for section in found] == ["0123456789ab", "ba9876543210"]
    assert "(fingerprint ba9876543210)" in " ".join(markdown(records(data=other)).split())


def test_the_order_of_pairs_changes_no_number():
    shuffled = records(("binary",), seeds=(0, 1, 2, 3, 4))
    expected = markdown(shuffled)
    random.Random(0).shuffle(shuffled)
    assert markdown(shuffled) == expected


def test_find_gives_the_curve_of_that_kind_or_none():
    curves = made_up().curves
    found = find(curves, treatment="matched", path="geodesic", statistics="re-estimated", split="test")
    assert found is not None
    assert (found.treatment, found.path, found.statistics, found.split) == (
        "matched",
        "geodesic",
        "re-estimated",
        "test",
    )
    assert find(curves, treatment="as trained", path="geodesic") is None
    assert find([bump(0.1, (0.0, 0.0), "matched")], treatment="standard form") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one record, got none"),
        (["no record"], "expected records.* got str"),
        (made_up(), "expected records.* got tuple"),
    ],
)
def test_what_is_no_record_is_refused_and_nothing_written(given, message, tmp_path):
    with pytest.raises(ReportError, match=message):
        markdown(given)
    with pytest.raises(ValueError, match=message) as caught:
        write_report(given, tmp_path / "report")
    assert isinstance(caught.value, CompareError)
    assert not (tmp_path / "report").exists()
