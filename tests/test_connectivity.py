"""The experiment from two networks to a record."""

import pytest
import torch
from torch import nn
from zoo import FAMILIES, difference

import fullprecision
from compare import connect, load_data
from compare.connectivity import ENERGY_SIGMAS, ControlError
from compare.evaluation import evaluate, local_energy
from compare.experiment import build
from compare.family import PrecisionError, families
from compare.params import ParameterError, call, parameters, sign
from compare.runs import Record
from compare.runs.configuration import configure
from compare.symmetry import random_element, standard_form, trace
from compare.training import TrainingSettings, train


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(digits):
    """Two short trainings of each precision."""
    settings = TrainingSettings(epochs=6, learning_rate=1e-2)
    networks = {}
    for precision, (module, family) in FAMILIES.items():
        networks[precision] = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            model = module.mlp(64, [32, 24], 10).eval()
            networks[precision].append(train(model, digits, family.recipe, settings=settings, seed=seed))
    return networks


def _connect(precision, trained, digits, **options) -> Record:
    module, family = FAMILIES[precision]
    a, b = trained[precision]
    model = module.mlp(64, [32, 24], 10).eval()
    return connect(family, model, a.params, b.params, digits, **{"points": 5, "trained": (a, b), **options})


@pytest.fixture(scope="module")
def records(trained, digits):
    return {precision: _connect(precision, trained, digits) for precision in FAMILIES}


def _curve(curves, treatment, *, statistics="interpolated", path="linear", split="train"):
    return next(
        curve
        for curve in curves
        if (curve.treatment, curve.statistics, curve.path, curve.split) == (treatment, statistics, path, split)
    )


@pytest.mark.parametrize("precision", FAMILIES)
def test_a_record_holds_every_treatment_path_and_statistics(records, precision) -> None:
    record = records[precision]
    kinds = {(c.treatment, c.path, c.statistics, c.split) for c in record.curves}
    assert len(kinds) == len(record.curves) == 5 * 2 * 2
    assert {distance.treatment for distance in record.distances} == {"as trained", "standard form", "matched"}
    assert [control.name for control in record.controls] == ["symmetric copy", "untrained"]
    assert record.networks[1].history[-1].epoch == 6
    assert record.model == "64 - 32 - 24 - 10"


@pytest.mark.parametrize("precision", FAMILIES)
def test_every_treatment_has_the_same_ends(records, precision) -> None:
    """Symmetries and standard form change no decision."""
    for split in ("train", "test"):
        ends = {
            (curve.errors[0], curve.errors[-1])
            for curve in records[precision].curves
            if curve.split == split and curve.statistics == "interpolated"
        }
        assert ends == {tuple(network.errors[split] for network in records[precision].networks)}


@pytest.mark.parametrize("precision", FAMILIES)
def test_matching_shortens_the_way_and_lowers_the_barrier(records, precision) -> None:
    record = records[precision]
    angles = {distance.treatment: distance.angle for distance in record.distances}
    assert angles["matched"] < angles["standard form"]
    raw, matched = (_curve(record.curves, treatment).midpoint_error for treatment in ("standard form", "matched"))
    assert matched < raw
    assert record.match.objective <= record.match.bound


@pytest.mark.parametrize("precision", FAMILIES)
def test_null_control_symmetric_copy(records, precision) -> None:
    control = records[precision].controls[0]
    assert _curve(control.curves, "as trained").barrier > 0.1
    assert _curve(control.curves, "matched").barrier == 0
    assert _curve(control.curves, "matched").barrier_over_chord == 0
    matched = next(distance for distance in control.distances if distance.treatment == "matched")
    assert matched.rms_angle < 1e-3
    assert matched.hamming in (0, None)


@pytest.mark.parametrize("precision", FAMILIES)
def test_null_control_untrained(records, precision) -> None:
    curve = _curve(records[precision].controls[1].curves, "matched")
    assert curve.errors[-1] > 0.5
    angles = {d.treatment: d.rms_angle for d in records[precision].controls[1].distances}
    between = {d.treatment: d.rms_angle for d in records[precision].distances}
    assert angles["matched"] > between["matched"]


@pytest.mark.parametrize("precision", FAMILIES)
def test_local_energies_are_those_of_the_standard_forms(records, trained, digits, precision) -> None:
    module, family = FAMILIES[precision]
    record = records[precision]
    assert record.bits == {"binary": 1, "full": 32}[precision]
    model = module.mlp(64, [32, 24], 10).eval()
    ends = [one.params for one in trained[precision]]
    graph = trace(model, digits.train.x[:16], family, at=ends)
    names = [f"linear{i}.weight" for i in (1, 2, 3)]
    for name, params, energy in zip("ab", ends, record.energies, strict=True):
        form = standard_form(graph, params, invariant="loss")
        expected = local_energy(model, form, digits.train, ENERGY_SIGMAS, names=names)
        assert energy.model_dump() == {"network": name, "split": "train", **vars(expected)}
        assert (energy.draws, energy.samples) == (10, len(digits.train))
        assert energy.rises[-1] > 0.3


def test_a_network_has_one_local_energy_whatever_its_pair(records, trained, digits) -> None:
    """Nor does the seed of the measurement matter."""
    a, b = trained["full"]
    again = _connect("full", {"full": (b, a)}, digits, points=2, seed=5)
    first, second = records["full"].energies
    assert again.energies == (second.model_copy(update={"network": "a"}), first.model_copy(update={"network": "b"}))


def test_local_energies_are_measured_on_a_part_of_the_samples(trained, digits, monkeypatch) -> None:
    monkeypatch.setattr("compare.connectivity.ENERGY_SAMPLES", 60)
    record = _connect("full", trained, digits, points=2, samples=100)
    assert [energy.samples for energy in record.energies] == [60, 60]
    model, params = fullprecision.mlp(64, [32, 24], 10).eval(), trained["full"][0].params
    assert record.energies[0].error == evaluate(model, params, digits.train.subset(60)).error
    assert _connect("full", trained, digits, points=2, samples=50).energies[0].samples == 50


def test_hamming_is_for_binary_networks(records) -> None:
    assert all(distance.hamming is not None for distance in records["binary"].distances)
    assert all(distance.hamming is None for distance in records["full"].distances)


def test_the_same_seed_gives_the_same_record(records, trained, digits) -> None:
    again = _connect("binary", trained, digits)
    drop = {"provenance": True, "match": {"seconds"}, "landscape": {"seconds"}}
    assert again.model_dump(exclude=drop) == records["binary"].model_dump(exclude=drop)


def test_connecting_changes_no_argument(trained, digits) -> None:
    torch.manual_seed(3)
    model = fullprecision.mlp(64, [32, 24], 10).train()
    before = parameters(model)
    a, b = trained["full"]
    kept = {name: tensor.clone() for name, tensor in a.params.items()}
    connect(fullprecision.FAMILY, model, a.params, b.params, digits, points=2, samples=50)
    assert model.training
    assert difference(parameters(model), before) == 0
    assert difference(a.params, kept) == 0


def test_a_subset_is_measured_where_one_is_asked_for(trained, digits) -> None:
    record = _connect("full", trained, digits, points=2, samples=100)
    assert record.data.evaluated == {"train": 100, "test": 100}
    assert all(curve.samples == 100 for curve in record.curves)


def test_opposite_points_cost_one_curve_and_a_note(trained, digits) -> None:
    """A network against its own copy with signs: in standard form, unmatched, some rows are opposite."""
    module, family = FAMILIES["binary"]
    a = trained["binary"][0].params
    b = {**a, "linear1.weight": -a["linear1.weight"]}
    record = connect(family, module.mlp(64, [32, 24], 10), a, b, digits, points=2, samples=50)
    assert any("no geodesic curve, standard form" in note for note in record.notes)
    assert not [c for c in record.curves if c.path == "geodesic" and c.treatment == "standard form"]


def test_networks_without_normalisation_are_connected(digits) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    graph = trace(model, digits.train.x[:4], fullprecision.FAMILY)
    a = parameters(model)
    b = random_element(graph, torch.Generator().manual_seed(0)).apply(a)
    record = connect(fullprecision.FAMILY, model, a, b, digits, points=3, samples=100)
    assert {curve.statistics for curve in record.curves} == {"interpolated"}
    assert _curve(record.curves, "matched").barrier == 0


def test_a_module_that_cannot_be_reset_needs_an_untrained_network(digits) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(10, 64)), None

        def forward(self, x):
            return x @ self.weight.T

    from compare.symmetry.rules import linear_map

    family = families(("full",))["full"]
    family = type(family)(**{**vars(family), "rules": {Scale: linear_map()}})
    model = nn.Sequential(nn.Flatten(), Scale())
    a = parameters(model)
    with pytest.raises(ControlError, match="Scale holds parameters and has no reset_parameters"):
        connect(family, model, a, a, digits, points=2, samples=50)
    connect(
        family, model, a, a, digits, points=2, samples=50, untrained=parameters(nn.Sequential(nn.Flatten(), Scale()))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("linear1.weight"), r"b does not fit .*'linear1\.weight' is missing"),
        (lambda b: b.update({"linear1.weight": torch.zeros(3, 64)}), r"'linear1\.weight' has shape"),
        (lambda b: b["norm1.bias"].fill_(float("nan")), r"'norm1\.bias' holds 32 NaN"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(trained, digits, change, message) -> None:
    a = trained["full"][0].params
    b = {name: tensor.clone() for name, tensor in a.items()}
    change(b)
    with pytest.raises(ParameterError, match=message):
        connect(fullprecision.FAMILY, fullprecision.mlp(64, [32, 24], 10), a, b, digits)


def test_an_untrained_network_that_does_not_fit_is_found_first(trained, digits, monkeypatch) -> None:
    monkeypatch.setattr("compare.treatments.error_curves", lambda *_, **__: pytest.fail("measured first"))
    with pytest.raises(ParameterError, match="untrained does not fit"):
        _connect("full", trained, digits, untrained={})


def test_latents_without_magnitudes_are_noted(trained, digits) -> None:
    """As Bop leaves them."""
    module, family = FAMILIES["binary"]
    a = {n: sign(t) if t.ndim > 1 else t for n, t in trained["binary"][0].params.items()}
    record = connect(family, module.mlp(64, [32, 24], 10), a, trained["binary"][1].params, digits, points=3, samples=50)
    assert any("linear1.weight: all latents of network a have one magnitude" in note for note in record.notes)
    assert not any("network b" in note for note in record.notes)


def test_effective_parameters_are_those_the_network_computes_with(trained, digits) -> None:
    for precision, (module, family) in FAMILIES.items():
        model = module.mlp(64, [32, 24], 10).eval()
        params = trained[precision][0].params
        used = family.effective(model, params)
        assert torch.equal(call(model, params, digits.test.x), call(model, used, digits.test.x))
        signs = {float(v) for v in used["linear1.weight"].unique()[:3]}
        assert (signs == {-1.0, 1.0}) == (precision == "binary")


@pytest.mark.parametrize("options", [{"points": 1}, {"samples": 1}])
def test_too_few_points_or_samples_are_refused(trained, digits, options) -> None:
    with pytest.raises(ValueError, match="at least 2 points and 2 samples"):
        _connect("full", trained, digits, **options)


def test_both_precisions_start_from_the_same_specification(digits) -> None:
    for network in ("mlp", "vgg", "resnet"):
        configuration = configure({"architecture.network": network})
        shapes = [
            {name: tuple(t.shape) for name, t in parameters(build(family, configuration, digits, seed=0)).items()}
            for family in families().values()
        ]
        assert shapes[0] == shapes[1]


def test_unknown_precisions_list_the_installed() -> None:
    with pytest.raises(PrecisionError, match="unknown precision 'septenary': installed are binary, brevitas, full"):
        families(("septenary",))
