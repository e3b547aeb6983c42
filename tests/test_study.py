"""A study's parts against the functions that they are made of, and against ``connect``."""

import dataclasses
import functools

import pytest
import torch

import binarynets
import compare
import fullprecision
from compare.data.split import reduced
from compare.errors import CompareError
from compare.evaluation import evaluate
from compare.family import Family
from compare.params import ParameterError
from compare.runs import RecordError, provenance
from compare.runs.study import Bend, Member, Pair, Study, read_part, write_part
from compare.study import Measures, Origin, Site, all_pairs, bend, member, pair, prepared, study
from compare.training import BendSettings, Trained, TrainingSettings, train

FAMILIES = {family.name: family for family in (binarynets.FAMILY, fullprecision.FAMILY)}
MEASURES = Measures(
    samples=100,
    points=5,
    flat_samples=60,
    sigmas=(0.3, 0.5),
    fractions=(0.01, 0.1),
    draws=3,
    flipped=0.01,
    curved_samples=50,
    plane=(3, 3),
)
SETTINGS = TrainingSettings(epochs=2, batch=50, learning_rate=3e-3)
ORIGIN = Origin("abc", provenance(threads=1, command="python study.py"))
each_precision = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def _data() -> compare.Data:
    return reduced(compare.load_data("digits"), 300, calibration=50)


@functools.cache
def _made(name: str) -> tuple[Site, tuple[Trained, ...]]:
    family: Family = FAMILIES[name]
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = family.networks["mlp"](64, (12, 10), 10)
        found.append(train(model, _data(), family.recipe, settings=SETTINGS, seed=seed))
    return prepared(family, model, _data(), MEASURES), tuple(found)


def test_a_smaller_data_set_keeps_the_test_images_and_calibrates_on_its_own() -> None:
    whole = compare.load_data("digits")
    data = reduced(whole, 300, calibration=50)
    assert (len(data.train), len(data.train.calibration), data.test.x is whole.test.x) == (300, 50, True)
    rows = {tuple(x.flatten().tolist()) for x in data.train.x}
    assert all(tuple(x.flatten().tolist()) in rows for x in data.test.calibration)
    measured = {tuple(x.flatten().tolist()) for x in data.train.subset(250).x}
    assert not any(tuple(x.flatten().tolist()) in measured for x in data.train.calibration)
    assert data.fingerprint != whole.fingerprint
    with pytest.raises(CompareError, match="at least 1 image"):
        reduced(whole, 300, calibration=0)


def test_a_smaller_data_set_may_have_fewer_test_images_too() -> None:
    whole = compare.load_data("digits")
    data, same = reduced(whole, 300, calibration=50, test=40), reduced(whole, 300, calibration=50)
    assert len(data.test) == 40
    assert torch.equal(data.test.x, whole.test.subset(40).x)
    assert torch.equal(data.train.x, same.train.x)
    assert torch.equal(data.test.calibration, same.test.calibration)
    assert data.fingerprint != same.fingerprint
    with pytest.raises(CompareError, match="test: expected at least 1 image"):
        reduced(whole, 300, calibration=50, test=0)


@each_precision
def test_a_network_is_measured_as_by_the_functions_themselves(name: str) -> None:
    site, (trained, _) = _made(name)
    before = {n: t.clone() for n, t in trained.params.items()}
    found = member(site, trained, "sgd", ORIGIN)
    assert found.name == "sgd-0"
    assert found.errors["test"] == evaluate(site.model, trained.params, _data().test).error
    assert found.errors["train"] == evaluate(site.model, trained.params, _data().train).error
    form = compare.standard_form(site.graph, trained.params, invariant="loss")
    names = {layer.weight for layer in site.graph.layers}
    energy = compare.local_energy(site.model, form, _data().train.subset(60), (0.3, 0.5), names=names, draws=3)
    assert (found.energy.rises, found.energy.standard_errors) == (energy.rises, energy.standard_errors)
    assert (found.flips is None) == (name == "full")
    assert found.worst is not None
    assert found.worst.worst_loss > found.worst.loss
    assert (found.worst.ball, found.worst.surrogate) == (("weights", False) if name == "full" else ("bits", True))
    assert found.curvature is not None
    assert found.curvature.surrogate == (name == "binary")
    assert found.settings["epochs"] == 2
    assert all(torch.equal(t, before[n]) for n, t in trained.params.items())


def test_flipped_bits_raise_the_error_by_the_mean_over_draws() -> None:
    site, (trained, _) = _made("binary")
    flips = member(site, trained, "sgd", ORIGIN).flips
    assert flips is not None
    form = compare.standard_form(site.graph, trained.params, invariant="loss")
    part = _data().train.subset(60)
    found = binarynets.flip_robustness(site.model, form, part.x, part.y, (0.01, 0.1), draws=3, per_layer=False)
    assert flips.error == found.error
    assert [flips.error + rise for rise in flips.rises] == pytest.approx(found.overall.mean.tolist())


@each_precision
def test_heights_between_two_networks_are_those_of_connect(name: str) -> None:
    site, (a, b) = _made(name)
    found = pair(site, ("sgd-0", "sgd-1"), a.params, b.params, ORIGIN)
    record = compare.connect(site.family, site.model, a.params, b.params, _data(), points=5, samples=100)
    expected = [(c.treatment, c.path, c.statistics, c.split, c.barrier, c.midpoint_error) for c in record.curves]
    assert [(h.treatment, h.path, h.statistics, h.split, h.barrier, h.midpoint) for h in found.heights] == expected
    assert found.distances == record.distances
    assert (found.objective, found.bound) == (record.match.objective, record.match.bound)


@each_precision
def test_bends_start_from_both_kinds_of_ends(name: str) -> None:
    site, (a, b) = _made(name)
    settings = BendSettings(epochs=1, batch=50, points=5)
    found = bend(site, ("sgd-0", "sgd-1"), a.params, b.params, ORIGIN, settings=settings, with_plane=True)
    kinds = [("as trained", "re-estimated"), ("as trained", "interpolated")]
    kinds += [("matched", "re-estimated"), ("matched", "interpolated")]
    assert [(bent.treatment, bent.statistics) for bent in found.bends] == kinds
    for bent in found.bends:
        assert bent.target == max(bent.errors[0], bent.errors[-1]) + settings.tolerance
        assert (bent.samples, bent.ts) == (100, (0, 0.25, 0.5, 0.75, 1))
        assert (bent.errors[0], bent.errors[-1]) == (bent.straight_errors[0], bent.straight_errors[-1])
        assert bent.reached == (max(bent.errors) <= bent.target)
        assert bent.length >= bent.straight_length
    assert found.plane is not None
    assert (len(found.plane.us), len(found.plane.vs)) == (3, 3)
    assert found.plane.points["a"] == (0, 0)


def test_parts_make_a_study_that_is_read_again(tmp_path) -> None:
    site, trained = _made("full")
    networks = [member(site, network, "sgd", ORIGIN) for network in trained]
    between = pair(site, (networks[0].name, networks[1].name), trained[0].params, trained[1].params, ORIGIN)
    found = study(site, networks, [between], [], {"epochs": 2}, ORIGIN)
    for part in (networks[0], between, found):
        write_part(part, tmp_path / "part.json")
        assert read_part(type(part), tmp_path / "part.json") == part
    with pytest.raises(RecordError, match="is no record of a network"):
        read_part(Member, tmp_path / "part.json")
    with pytest.raises(RecordError, match="could not read"):
        read_part(Bend, tmp_path / "nothing.json")
    (tmp_path / "part.json").write_text("{")
    with pytest.raises(RecordError, match="is no record of a pair"):
        read_part(Pair, tmp_path / "part.json")
    foreign = between.model_copy(update={"precision": "binary"})
    with pytest.raises(ValueError, match="expected parts of full, got one of binary"):
        study(site, networks, [foreign], [], {}, ORIGIN)
    for pairs in ([between, between], [between.model_copy(update={"networks": ("sgd-0", "adv-0")})]):
        with pytest.raises(ValueError, match="each pair of two of the study's networks"):
            study(site, networks, pairs, [], {}, ORIGIN)
    with pytest.raises(ValueError, match="expected each network once"):
        study(site, networks * 2, [], [], {}, ORIGIN)
    assert Study.model_validate_json(found.model_dump_json()) == found


def test_parameters_of_another_network_are_refused() -> None:
    site, (a, _) = _made("full")
    other = {**a.params, "surplus": torch.zeros(1)}
    with pytest.raises(ParameterError, match="sgd-1 does not fit the network: 'surplus'"):
        pair(site, ("sgd-0", "sgd-1"), a.params, other, ORIGIN)
    with pytest.raises(ParameterError, match="the trained network does not fit"):
        member(site, dataclasses.replace(a, params=other), "sgd", ORIGIN)


def test_all_pairs() -> None:
    assert all_pairs("abc") == [("a", "b"), ("a", "c"), ("b", "c")]
