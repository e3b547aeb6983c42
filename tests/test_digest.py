"""The digest of a binary network: equal for symmetric copies, different for different functions."""

import itertools
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motifs import MOTIFS
from torch import Tensor, nn
from zoo import pixels, randomised, small_networks

import binarynets
from binarynets import BinaryConv2d, BinaryLinear, Sign, digest
from compare.params import ParameterError, Params, call, parameters
from compare.symmetry import Graph, SymmetryError, random_element, standard_form, trace

EXACT = [name for name, motif in MOTIFS.items() if motif.precision == "binary" and name != "binary residual"]
seeds = st.integers(0, 10**6)


def _graph(model: nn.Module, x: Tensor) -> Graph:
    return trace(model, x, binarynets.FAMILY, certify=False)


def _copy(graph: Graph, params: Params, seed: int) -> Params:
    return random_element(graph, torch.Generator().manual_seed(seed)).apply(params)


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing again for each of many copies of one network would take most of the time."""
    module = sys.modules["binarynets.digest"]
    for name in ("trace", "_reaches"):
        monkeypatch.setattr(module, name, _once(getattr(module, name)))


def _once(function: Callable[..., object]) -> Callable[..., object]:
    kept: list[object] = []

    def once(*arguments: object) -> object:
        if not kept:
            kept.append(function(*arguments))
        return kept[0]

    return once


@pytest.mark.usefixtures("traced_once")
def test_a_thousand_copies_have_one_digest_and_a_hundred_networks_have_a_hundred() -> None:
    torch.manual_seed(0)
    model = binarynets.mlp(6, [7, 6], 3).eval()
    graph, params = _graph(model, torch.zeros(1, 6)), randomised(model)
    copies = {digest(model, _copy(graph, params, seed)) for seed in range(1000)}
    assert copies == {digest(model, params)}
    networks = {digest(model, randomised(model, seed=seed)) for seed in range(100)}
    assert len(networks) == 100
    assert copies <= networks


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=6, deadline=None)
@given(seed=seeds, fresh=st.booleans())
def test_copies_of_every_motif(name: str, seed: int, fresh: bool) -> None:
    model, x = MOTIFS[name].build(), MOTIFS[name].example(4)
    params = parameters(model) if fresh else randomised(model, seed=seed)
    graph = _graph(model, x)
    found = digest(model, params, example_input=x)
    assert digest(model, _copy(graph, params, seed), example_input=x) == found
    assert digest(model, standard_form(graph, params, invariant="loss"), example_input=x) == found
    assert digest(model, standard_form(graph, params, units="sorted", invariant="loss"), example_input=x) == found
    assert digest(model, randomised(model, seed=seed + 1), example_input=x) != found


@pytest.mark.parametrize("name", [*small_networks("binary")])
def test_every_single_part_counts(name: str) -> None:
    """A bit of every unit, a threshold, a class's offset."""
    model, x = small_networks("binary")[name], pixels(2)
    params = randomised(model)
    found = digest(model, params, example_input=x)
    for layer in _graph(model, x).layers:
        changed = {**params, layer.weight: params[layer.weight].clone()}
        changed[layer.weight].flatten(1)[:, 3] *= -1
        assert digest(model, changed, example_input=x) != found
        assert layer.norm is not None
        offset = str(layer.norm.offset)
        changed = {**params, offset: params[offset] + (torch.arange(len(params[offset])) == 1) * 40.0}
        assert digest(model, changed, example_input=x) != found


@pytest.mark.usefixtures("traced_once")
def test_equal_digests_mean_equal_decisions() -> None:
    """Networks of two inputs, three hidden units and two classes, on all inputs within reach of their thresholds."""
    model = nn.Sequential(BinaryLinear(2, 3, bias=True), Sign(), BinaryLinear(3, 2, bias=True)).eval()
    x = torch.tensor([*itertools.product(range(-4, 5), repeat=2)]).float()
    signs = torch.tensor([*itertools.product((-1.0, 1.0), repeat=12)])
    decisions: dict[str, bytes] = {}
    orbits = 0
    for bits in signs[::3]:
        params = {"0.weight": bits[:6].view(3, 2), "0.bias": torch.tensor([0.5, 0.5, -0.5])}
        params |= {"2.weight": bits[6:].view(2, 3), "2.bias": torch.tensor([0.5, 0.0])}
        got = call(model, params, x).argmax(1).numpy().tobytes()
        orbits += digest(model, params) not in decisions
        assert decisions.setdefault(digest(model, params), got) == got
    assert 100 < orbits < len(signs) / 6


def _thresholds(model: nn.Sequential, params: Params, tau: list[float]) -> Params:
    """Thresholds of the second hidden layer, whose inputs are signs."""
    norm = model.norm2
    assert isinstance(norm, nn.BatchNorm1d)
    gain = params["norm2.weight"]
    slope = gain / torch.sqrt(params["norm2.running_var"] + norm.eps)
    return {**params, "norm2.bias": slope * (params["norm2.running_mean"] - torch.tensor(tau))}


def test_thresholds_count_by_the_attainable_numbers_beside_them() -> None:
    """Five signs sum up to -5, -3, ..., 5."""
    model = binarynets.mlp(6, [5, 4], 3).eval()
    params = randomised(model)

    def found(*tau: float) -> str:
        return digest(model, _thresholds(model, params, [*tau]))

    assert found(1.1, -0.9, 2, 0) == found(2.9, 0.9, 1.5, 0.5) != found(3.1, 0.9, 1.5, 0.5)
    assert found(1.1, -0.9, 2, 0) != found(0.9, -0.9, 2, 0)
    assert found(5.1, -5.1, 0, 0) == found(700, -90, 0, 0) != found(4.9, -90, 0, 0)
    assert found(700, -5.1, 0, 0) != found(700, -4.9, 0, 0)


def test_padded_layers_count_every_integer() -> None:
    """At the rim a sum has fewer terms, so both parities occur."""
    layers = [BinaryConv2d(2, 3, 3), nn.BatchNorm2d(3), Sign(), BinaryConv2d(3, 2, 3, padding=1)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(2), Sign(), nn.Flatten(), BinaryLinear(32, 3)).eval()
    params = randomised(model)
    params["4.weight"], params["4.running_var"] = torch.ones(2), torch.full((2,), 1 - 1e-5)
    found = []
    for tau in (1.1, 1.9, 2.1, 27.5, 40.0):
        params["4.bias"] = params["4.running_mean"] - tau
        found.append(digest(model, params, example_input=torch.zeros(1, 2, 6, 6)))
    assert found[0] == found[1] != found[2]
    assert found[2] != found[3] == found[4]


def test_sums_of_signs_are_not_taken_for_signs() -> None:
    """A residual sum is -2, 0 or 2: fan-in and parity say nothing there."""
    first = nn.Sequential(BinaryLinear(5, 6), nn.BatchNorm1d(6), Sign())
    model = _Sum(first, nn.Sequential(BinaryLinear(6, 6), nn.BatchNorm1d(6), Sign()), BinaryLinear(6, 4)).eval()
    params = randomised(model)
    params["norm.weight"], params["norm.running_var"] = torch.ones(4), torch.full((4,), 1 - 1e-5)
    params["norm.running_mean"] = torch.zeros(4)
    params["norm.bias"] = torch.tensor([-9.5, 1.0, 1.0, 1.0])
    found = digest(model, params)
    assert found == digest(model, _copy(_graph(model, torch.zeros(1, 5)), params, 0))
    params["norm.bias"] = torch.tensor([-20.5, 1.0, 1.0, 1.0])
    assert digest(model, params) != found


class _Sum(nn.Module):
    def __init__(self, first: nn.Module, body: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.first, self.body, self.after = first, body, after
        self.norm, self.sign, self.head = nn.BatchNorm1d(4), Sign(), BinaryLinear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.head(self.sign(self.norm(self.after(self.body(x) + x))))
        return y


def test_units_that_are_constant_see_nothing() -> None:
    model = binarynets.mlp(6, [5, 4], 3).eval()
    params = _thresholds(model, randomised(model), [0.0, 7.0, -7.0, 0.0])
    found = digest(model, params)
    for unit in (1, 2):
        changed = {**params, "linear2.weight": params["linear2.weight"].clone()}
        changed["linear2.weight"][unit] *= torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])
        assert digest(model, changed) == found
    dead = {**params, "norm2.weight": params["norm2.weight"] * torch.tensor([1.0, 0.0, 1.0, 1.0])}
    dead["norm2.bias"] = torch.where(torch.arange(4) == 1, -0.3, params["norm2.bias"])
    assert digest(model, dead) == found
    dead["norm2.bias"] = torch.where(torch.arange(4) == 1, 0.3, params["norm2.bias"])
    assert digest(model, dead) != found


@pytest.mark.parametrize("seed", range(4))
def test_duplicates_may_come_in_any_order(seed: int) -> None:
    model = binarynets.mlp(3, [9, 8], 2).eval()
    params = randomised(model, seed=seed)
    for layer, norm in (("linear1", "norm1"), ("linear2", "norm2")):
        params[f"{layer}.weight"][1:4] = params[f"{layer}.weight"][:1].clone()
        for name in ("weight", "bias", "running_mean", "running_var"):
            params[f"{norm}.{name}"][1:4] = params[f"{norm}.{name}"][:1].clone()
    graph = _graph(model, torch.zeros(1, 3))
    assert digest(model, params) == digest(model, _copy(graph, params, seed))


def test_latent_magnitudes_and_types_do_not_count() -> None:
    model = binarynets.mlp(6, [5, 4], 3).eval()
    params = randomised(model)
    found = digest(model, params)
    louder = {name: 3 * t.abs() ** 0.5 * binarynets.ste_sign(t) for name, t in params.items() if "linear" in name}
    assert digest(model, params | louder) == found
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in params.items()}
    assert digest(model, wide) == found
    model.train()
    assert digest(model, params) == found
    assert model.training


def test_zero_latents_count_as_plus_one() -> None:
    model = binarynets.mlp(6, [5], 3).eval()
    params = randomised(model)
    params["linear1.weight"][:, :2] = 1.0
    zeros = {**params, "linear1.weight": params["linear1.weight"].clone()}
    zeros["linear1.weight"][:, :2] = torch.tensor([0.0, -0.0])
    assert digest(model, zeros) == digest(model, params)


def test_the_digest_stays_the_same_in_every_release() -> None:
    model = binarynets.mlp(3, [4], 2).eval()
    drawn = parameters(model)
    params = {name: ((7.0 * torch.arange(t.numel()) + 3) % 11 - 4.5).view(t.shape) for name, t in drawn.items()}
    params |= {name: tensor.abs() for name, tensor in params.items() if name.endswith("var")}
    counters = {name: tensor for name, tensor in drawn.items() if not tensor.is_floating_point()}
    assert digest(model, params | counters) == "f222721127fa34ad"


def test_networks_that_rest_on_more_than_integers_are_refused() -> None:
    motif = MOTIFS["binary residual"]
    with pytest.raises(SymmetryError, match=r"integers alone .* got other numbers in '.*units='sorted'"):
        digest(motif.build(), parameters(motif.build()), example_input=motif.example(2))
    model = binarynets.mlp(4, [3], 2).eval()
    with pytest.raises(SymmetryError, match="got other numbers in 'linear1'"):
        digest(model, parameters(model), example_input=torch.randn(2, 4))


class _Shared(nn.Module):
    """One map, called twice, with a normalisation each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.map, self.head = BinaryLinear(5, 6, bias=True), BinaryLinear(6, 6), BinaryLinear(6, 3)
        self.norm1, self.norm2, self.sign = nn.BatchNorm1d(6), nn.BatchNorm1d(6), Sign()

    def forward(self, x: Tensor) -> Tensor:
        x = self.sign(self.norm1(self.map(self.sign(self.first(x)))))
        y: Tensor = self.head(self.sign(self.norm2(self.map(x))))
        return y


def test_normalisations_of_one_map_are_refused() -> None:
    with pytest.raises(SymmetryError, match=r"called once; .* scales of 'norm1\.bias', 'norm1\.weight'"):
        digest(_Shared().eval(), parameters(_Shared()))


def test_an_example_is_asked_for_where_none_can_be_made() -> None:
    model = small_networks("binary")["vgg"]
    with pytest.raises(SymmetryError, match=r"example_input: expected a batch .* begins with BinaryConv2d"):
        digest(model, parameters(model))


def test_parameters_of_another_network_are_refused() -> None:
    with pytest.raises(ParameterError, match="does not fit"):
        digest(binarynets.mlp(4, [3], 2), parameters(binarynets.mlp(4, [4], 2)))
