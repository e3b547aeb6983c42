"""Curves whose first layer is not computed anew at each t, against the plain loop over networks."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import binarynets
from binarynets.integer import along as integer
from binarynets.integer.along import along
from compare.evaluation import curve as curves
from compare.evaluation import error_curve, error_curves, evaluate, re_estimated
from compare.evaluation.cut import cut
from compare.evaluation.first_layer import FirstLayer
from compare.evaluation.statistics import calibrator
from compare.geometry import bent_path, geodesic_path, linear_path
from compare.params import call, parameters
from compare.symmetry import trace

TS = (0.0, 0.07, 0.3, 0.5, 0.81, 1.0)


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


def _split(samples: int = 60, *, classes: int = 5, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(pixels(samples, seed=seed), torch.randint(0, classes, (samples,), generator=generator))


def _biased() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(inplace=True), nn.Linear(9, 5)).eval()


def _linear_alone() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)).eval()


class _Arithmetic(nn.Module):
    """A forward of its own: scaled pixels, a view, an activation whose input is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.activation, self.second = nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first((x / 16 + 1).view(x.size(0), -1))
        return self.second(self.activation(z) - 0.1 * z)


class _Read(nn.Module):
    """A forward that reads tensors of its normalisation beside calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(64, 9), nn.BatchNorm1d(9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.first(x.flatten(1)))
        return self.second(nn.functional.relu(z) * self.norm.weight)


MODELS = {
    **{name: small_networks("full")[name] for name in ("mlp", "vgg", "no normalisation")},
    "bias": _biased(),
    "one layer": _linear_alone(),
    "arithmetic": _Arithmetic().eval(),
    "normalisation is read": _Read().eval(),
}


def _path(model: nn.Module, kind: str):
    graph = trace(model, pixels(4).to(next(model.parameters()).dtype), FAMILIES["full"][1])
    a, b, middle = (_typed(randomised(model, seed=seed)) for seed in (1, 2, 3))
    if kind == "linear":
        return linear_path(graph, a, b)
    return geodesic_path(graph, a, b) if kind == "geodesic" else bent_path(graph, a, middle, b, pieces="geodesic")


def _typed(params):
    return {name: x.double() if x.is_floating_point() else x for name, x in params.items()}


def _literal(model: nn.Module, path, split: Split, calibration: Tensor | None = None):
    """One network after the other, each by the model's own forward."""
    found = []
    for t in TS:
        params = path(t) if calibration is None else re_estimated(calibrator(model), path(t), calibration)
        found.append(evaluate(model, params, split))
    return found


@pytest.mark.parametrize("kind", ["linear", "geodesic", "bent"])
@pytest.mark.parametrize("name", MODELS)
def test_mixed_products_give_the_plain_loop_s_curve(name: str, kind: str) -> None:
    model = copy.deepcopy(MODELS[name]).double()
    split = Split(_split(classes=4).x.double(), _split(classes=4).y)
    path, before = _path(model, kind), parameters(model)
    assert FirstLayer.of(model, path, TS) is not None
    found = error_curve(model, path, split, TS)
    plain = _literal(model, path, split)
    assert found.errors == tuple(score.error for score in plain)
    assert found.losses == pytest.approx([score.loss for score in plain], rel=1e-9)
    assert (found.losses[0], found.losses[-1]) == (plain[0].loss, plain[-1].loss)
    assert difference(parameters(model), before) == 0


@pytest.mark.parametrize("kind", ["linear", "geodesic", "bent"])
@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_statistics_are_measured_behind_the_first_layer_as_well(name: str, kind: str) -> None:
    model = copy.deepcopy(MODELS[name]).double()
    split, calibration = Split(_split().x.double(), _split().y), pixels(70, seed=9).double()
    path = _path(model, kind)
    found = error_curve(model, path, split, TS, statistics="re-estimated", calibration=calibration)
    plain = _literal(model, path, split, calibration)
    assert found.errors == tuple(score.error for score in plain)
    assert found.losses == pytest.approx([score.loss for score in plain], rel=1e-9)
    assert (found.losses[0], found.losses[-1]) == (plain[0].loss, plain[-1].loss)


@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
def test_little_memory_changes_nothing(monkeypatch, statistics) -> None:
    model, calibration = MODELS["vgg"], pixels(50, seed=9)
    graph = trace(model, pixels(4), FAMILIES["full"][1])
    path = linear_path(graph, randomised(model, seed=1), randomised(model, seed=2))
    splits = {"train": _split(90), "test": _split(30, seed=1)}
    monkeypatch.setattr(curves, "BATCH", 20)
    whole = error_curves(model, path, splits, TS, statistics=statistics, calibration=calibration)
    layer = FirstLayer.of(model, path, TS)
    monkeypatch.setattr(curves, "MEMORY", layer.size(splits["train"].x[:50]))
    assert [len(block) for block in curves._blocks(layer, splits)] == [2, 3, 2]
    assert error_curves(model, path, splits, TS, statistics=statistics, calibration=calibration) == whole
    monkeypatch.setattr(curves, "MEMORY", 0)  # the calibration inputs do not fit either
    found = error_curves(model, path, splits, TS, statistics=statistics, calibration=calibration)
    for name in splits:
        assert found[name].losses == pytest.approx(whole[name].losses, rel=1e-4)


def test_products_of_one_batch_that_do_not_fit_are_not_made(monkeypatch) -> None:
    model, split = MODELS["vgg"], _split()
    path = linear_path(
        trace(model, pixels(4), FAMILIES["full"][1]), randomised(model, seed=1), randomised(model, seed=2)
    )
    monkeypatch.setattr(curves, "MEMORY", FirstLayer.of(model, path, TS).size(split.x) - 1)
    monkeypatch.setattr(FirstLayer, "network", lambda *_: pytest.fail("the first layer was multiplied once"))
    error_curve(model, path, split, TS)


def test_pieces_that_are_made_anew_in_each_call_take_the_plain_loop() -> None:
    model = MODELS["mlp"]
    graph = trace(model, pixels(4), FAMILIES["full"][1])
    a, b = randomised(model, seed=1), randomised(model, seed=2)

    class Anew:
        def __call__(self, t):
            return linear_path(graph, a, b)(t)

        def piece(self, t):
            return linear_path(graph, a, b), t

    assert FirstLayer.of(model, Anew(), TS) is None
    assert (
        error_curve(model, Anew(), _split(), TS).errors
        == error_curve(model, linear_path(graph, a, b), _split(), TS).errors
    )


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.first(x.flatten(1)))


class _Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.first(x) + x


class _Weights(_Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x.flatten(1)) @ self.first.weight


class _Control(_Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x.flatten(1)) if float(x.sum()) > 0 else x.flatten(1)


class _Scaled(_Around):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.first((x * self.scale).flatten(1))


class _Subclass(nn.Linear):
    pass


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


def _hooked(where: int | None) -> nn.Module:
    model = _biased()
    (model if where is None else model[where]).register_forward_hook(lambda module, x, y: y * 2)
    return model


def _parametrised() -> nn.Module:
    model = _biased()
    parametrizations.weight_norm(model[1])
    return model


PECULIAR = {
    "called twice": _Twice,
    "input read again": _Around,
    "weight read again": _Weights,
    "control flow": _Control,
    "a parameter before": _Scaled,
    "normalised before": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 5)),
    "activation before": lambda: nn.Sequential(nn.Flatten(), nn.PReLU(), nn.Linear(64, 5)),
    "subclass": lambda: nn.Sequential(nn.Flatten(), _Subclass(64, 5)),
    "tied": _tied,
    "hook": lambda: _hooked(1),
    "hook before": lambda: _hooked(0),
    "hook of the whole": lambda: _hooked(None),
    "parametrised": _parametrised,
    "binary": lambda: binarynets.mlp(64, [8], 5),
    "nothing linear": nn.Flatten,
}


@pytest.mark.parametrize("name", PECULIAR)
def test_other_first_layers_take_the_plain_loop(name: str) -> None:
    torch.manual_seed(0)
    model = PECULIAR[name]().eval()
    assert cut(model) is None
    if name == "nothing linear":
        return
    path, split = _Straight(parameters(model), randomised(model, seed=2)), _split()
    found = error_curve(model, path, split, TS)
    assert found.losses == tuple(evaluate(model, path(t), split).loss for t in TS)


class _Straight:
    """A path that tells its coefficients, around the checks of a graph."""

    def __init__(self, a, b) -> None:
        self.a, self.b = a, b

    def __call__(self, t: float):
        return {name: torch.lerp(x, self.b[name], t) if x.is_floating_point() else x for name, x in self.a.items()}

    def piece(self, t: float):
        return self, t

    def coefficients(self, name: str, t: float):
        return torch.tensor([1 - t]).double(), torch.tensor([t]).double()


def test_a_path_of_unknown_shape_takes_the_plain_loop() -> None:
    model, split = MODELS["mlp"], _split()
    networks = {t: randomised(model, seed=i) for i, t in enumerate(TS)}
    assert FirstLayer.of(model, networks.__getitem__, TS) is None
    found = error_curve(model, networks.__getitem__, split, TS)
    assert found.losses == tuple(evaluate(model, networks[t], split).loss for t in TS)


def test_activations_overwrite_only_what_nobody_else_reads() -> None:
    parts = cut(MODELS["arithmetic"])
    assert not parts.rest.activation.inplace
    for name in ("mlp", "no normalisation"):
        model = MODELS[name]
        assert any(getattr(module, "inplace", False) for module in cut(model).rest.modules())
        assert not any(getattr(module, "inplace", False) for module in model.modules())


def _binary(name: str = "mlp", *, dtype: torch.dtype = torch.float32, kind: str = "linear"):
    model = copy.deepcopy(small_networks("binary")[name]).to(dtype)
    graph = trace(model, pixels(4).to(dtype), FAMILIES["binary"][1])
    a, b = (
        {n: x.to(dtype) if x.is_floating_point() else x for n, x in randomised(model, seed=s).items()} for s in (1, 2)
    )
    return model, (linear_path if kind == "linear" else geodesic_path)(graph, a, b)


@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
@pytest.mark.parametrize("ts", [TS, (1.0, 0.0, 0.5, 0.49, 0.5), tuple(i / 40 for i in range(41))])
@pytest.mark.parametrize("kind", ["linear", "geodesic"])
@pytest.mark.parametrize("name", ["mlp", "deep mlp"])
def test_binary_curves_are_equal_bit_for_bit(monkeypatch, name, kind, ts, statistics) -> None:
    model, path = _binary(name, kind=kind)
    splits = {"train": _split(150, classes=3), "test": _split(30, classes=3, seed=1)}
    monkeypatch.setattr(curves, "BATCH", 70)
    options = {"statistics": statistics, "calibration": pixels(80, seed=9)}
    wanted = error_curves(model, path, splits, ts, **options)
    assert error_curves(model, path, splits, ts, **options, evaluation=along) == wanted
    monkeypatch.setattr(curves, "MEMORY", 1)
    assert error_curves(model, path, splits, ts, **options, evaluation=along) == wanted


def test_sums_are_changed_where_few_bits_flip_and_made_anew_where_many_do(monkeypatch) -> None:
    model, path = _binary()
    made = []
    product = integer._product
    monkeypatch.setattr(integer, "_product", lambda *operands: made.append(1) or product(*operands))
    error_curve(model, path, _split(), [i / 40 for i in range(41)], evaluation=along)
    assert len(made) == 1
    made.clear()
    error_curve(model, path, _split(), [0.0, 1.0, 0.0], evaluation=along)
    assert len(made) == 3


@pytest.mark.parametrize("kernel", ["float32", "int8"])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 100.0])
def test_inputs_of_any_kind_and_any_product(monkeypatch, scale, kernel) -> None:
    model, path = _binary()
    monkeypatch.setattr(integer, "fastest", lambda device: kernel)
    split = Split(_split().x * scale + (scale == 1), _split().y)  # odd, even, no integers, too large for 8 bits
    assert error_curve(model, path, split, TS, evaluation=along) == error_curve(model, path, split, TS)


def test_other_types_and_networks_without_integer_form_at_some_t() -> None:
    model, path = _binary(dtype=torch.float64)
    split = Split(_split().x.double(), _split().y)
    assert error_curve(model, path, split, TS, evaluation=along) == error_curve(model, path, split, TS)
    dead = path(0.5)
    dead["norm1.weight"][0] = 0.0
    unknown = path(0.5)
    unknown["linear2.weight"][0, 0] = torch.nan
    networks = {0.0: path(0), 0.2: dead, 0.4: path(0.4), 0.6: unknown, 1.0: path(1)}
    ts = tuple(networks)
    fast = error_curve(model, networks.__getitem__, split, ts, evaluation=along)
    slow = error_curve(model, networks.__getitem__, split, ts)
    assert fast.errors == slow.errors
    assert fast.losses == pytest.approx(slow.losses, abs=0, nan_ok=True)


def test_only_perceptrons_of_binary_layers_have_the_integer_evaluation() -> None:
    for name in ("vgg", "vgg without dense"):
        assert along(small_networks("binary")[name]) is None
    assert along(small_networks("full")["mlp"]) is None
    assert along(binarynets.mlp(4, [], 3).eval()) is None
    assert binarynets.FAMILY.evaluation(small_networks("binary")["mlp"]) is not None


def test_more_samples_than_a_tile_of_the_kernel() -> None:
    model, path = _binary()
    split = _split(1100)
    assert error_curve(model, path, split, TS, evaluation=along) == error_curve(model, path, split, TS)


def test_a_batch_that_missed_a_network_is_summed_anew() -> None:
    model, path = _binary()
    x, evaluator = pixels(50), along(model)
    batch = evaluator.prepare(x)
    for t in (0.3, 0.32):
        evaluator.network(t, path(t))([batch])
    evaluator.network(0.34, path(0.34))
    (found,) = evaluator.network(0.36, path(0.36))([batch])
    assert torch.equal(found, call(model, path(0.36), x))
