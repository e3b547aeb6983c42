"""Laws of the representative of an orbit, on every way in which axes are tied, and on units hard to tell apart."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motifs import MOTIFS, double
from torch import Tensor, nn
from zoo import difference, randomised

import binarynets
import fullprecision
from compare.params import ParameterError, Params, call, parameters, sign
from compare.symmetry import Element, Graph, identity, random_element, standard_form, trace
from compare.symmetry.refinement import Refinement
from compare.symmetry.representative import duplicate_units, representative

motifs = pytest.mark.parametrize("name", MOTIFS)
seeds = st.integers(0, 10**6)


@functools.cache
def _motif(name: str) -> tuple[nn.Module, Tensor, Graph]:
    """Network, inputs and graph; in float64 where rounding decides."""
    motif = MOTIFS[name]
    model, x = motif.build(), motif.example(16)
    family = binarynets.FAMILY if motif.precision == "binary" else fullprecision.FAMILY
    if trace(model, x[:4], family, certify=False).exact:
        return model, x, trace(model, x[:4], family, certify=False)
    model, x = model.double(), double(x)
    return model, x, trace(model, x[:4], family, certify=False)


def _random(name: str, seed: int) -> Params:
    model, _, graph = _motif(name)
    drawn = randomised(model, seed=seed)
    if graph.exact:
        return drawn
    return {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in drawn.items()}


def _tolerance(name: str) -> float:
    return 1e-6 if _motif(name)[2].exact else 1e-9


def _sorted(graph: Graph, params: Params) -> Params:
    return standard_form(graph, params, invariant="loss", units="sorted")


def _element(graph: Graph, seed: int) -> Element:
    return random_element(graph, torch.Generator().manual_seed(seed))


def _assert_same(graph: Graph, a: Params, b: Params, tolerance: float) -> None:
    for name, tensor in a.items():
        if name in graph.binarised:
            assert torch.equal(sign(tensor), sign(b[name]))
        assert torch.allclose(tensor.double(), b[name].double(), rtol=tolerance, atol=tolerance), name


@motifs
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_the_representative_is_the_same_for_the_whole_orbit(name: str, seed: int) -> None:
    _, _, graph = _motif(name)
    params = _random(name, seed)
    moved = _element(graph, seed).apply(params)
    _assert_same(graph, _sorted(graph, params), _sorted(graph, moved), _tolerance(name))


@motifs
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_the_representative_is_its_own(name: str, seed: int) -> None:
    _, _, graph = _motif(name)
    once = _sorted(graph, _random(name, seed))
    assert difference(_sorted(graph, once), once) <= 1e-9


@motifs
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_the_representative_computes_the_same(name: str, seed: int) -> None:
    model, x, graph = _motif(name)
    params = _random(name, seed)
    expected, got = call(model, params, x), call(model, _sorted(graph, params), x)
    if graph.exact:
        assert torch.equal(expected, got)
    else:
        assert float((expected - got).abs().max()) <= 1e-9 * float(expected.abs().max())


@motifs
def test_without_sorting_the_order_stays_as_given(name: str) -> None:
    """Guards the laws above against networks in which nothing moves."""
    _, _, graph = _motif(name)
    params = _random(name, 0)
    moved = _element(graph, 1).apply(params)
    kept, other = (standard_form(graph, p, invariant="loss") for p in (params, moved))
    assert difference(kept, other) > 1e-3


@motifs
def test_refinement_alone_tells_random_units_apart(name: str) -> None:
    _, _, graph = _motif(name)
    refinement = Refinement(graph, standard_form(graph, _random(name, 0)))
    state = refinement.start()
    refinement.settle(state)
    assert all(map(state.sorted, range(len(graph.blocks))))
    assert all(bool((signs != 0).all()) for signs in state.signs)


@motifs
def test_only_permutations_and_signs_are_searched(name: str) -> None:
    _, _, graph = _motif(name)
    params = standard_form(graph, _random(name, 0))
    for diagonals in representative(graph, params).diagonals:
        assert bool((diagonals.abs() == 1).all())


def _tied(model: nn.Module, seed: int, gains: list[float]) -> Params:
    """Latents of +1 and -1, few different thresholds: many units agree in much, and some in everything."""
    generator = torch.Generator().manual_seed(seed)
    drawn = parameters(model)
    for name, tensor in drawn.items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            drawn[name] = sign(torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var"):
            drawn[name] = torch.full_like(tensor, 3.0)
        elif name.endswith(("running_mean", "bias")):
            drawn[name] = torch.randint(-2, 3, tensor.shape, generator=generator).float() * (seed % 3 > 0)
        else:
            drawn[name] = torch.tensor(gains)[torch.randint(len(gains), tensor.shape, generator=generator)]
    return drawn


@settings(max_examples=60, deadline=None)
@given(inputs=st.integers(1, 4), hidden=st.lists(st.integers(1, 8), min_size=1, max_size=3), seed=seeds)
def test_bits_with_many_ties(inputs: int, hidden: list[int], seed: int) -> None:
    model = binarynets.mlp(inputs, hidden, 2).eval()
    graph = trace(model, torch.ones(2, inputs), binarynets.FAMILY, certify=False)
    params = _tied(model, seed, [-1.0, 1.0])
    moved = _element(graph, seed).apply(params)
    assert difference(_sorted(graph, params), _sorted(graph, moved)) == 0
    assert duplicate_units(graph, params) == duplicate_units(graph, moved)


@pytest.mark.parametrize("name", [name for name, motif in MOTIFS.items() if motif.precision == "binary"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_motifs_of_bits_with_many_ties(name: str, seed: int) -> None:
    model, _, graph = _motif(name)
    params = _tied(model, seed, [-1.0, 1.0])
    moved = _element(graph, seed).apply(params)
    _assert_same(graph, _sorted(graph, params), _sorted(graph, moved), 1e-6)


@motifs
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_zero_offsets_of_fresh_networks(name: str, seed: int) -> None:
    """Where a pivot is 0, as biases are at first, other entries decide the sign."""
    _, _, graph = _motif(name)
    params = _random(name, seed)
    zeros = {key: t * (t.ndim != 1 or "var" in key or key in graph.gains) for key, t in params.items()}
    moved = _element(graph, seed).apply(zeros)
    _assert_same(graph, _sorted(graph, zeros), _sorted(graph, moved), _tolerance(name))


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_of_exactly_zero_on_real_inputs(seed: int) -> None:
    """A negated one becomes the next float, and decides nothing."""
    model = binarynets.mlp(4, [6], 3).eval()
    graph = trace(model, torch.randn(8, 4), binarynets.FAMILY, certify=False)
    params = parameters(model)
    moved = _element(graph, seed).apply(params)
    _assert_same(graph, _sorted(graph, params), _sorted(graph, moved), 1e-6)


def test_places_of_inputs_tell_units_apart() -> None:
    _, graph = _mlp(4, 24, 3)
    params = {name: torch.ones_like(t, dtype=torch.float64) for name, t in graph.reference.items()}
    params["0.weight"] = torch.tensor([*itertools.permutations([1.0, 2.0, 3.0, 4.0])]).double()
    refinement = Refinement(graph, params)
    state = refinement.start()
    refinement.settle(state)
    assert state.sorted(0)


def _mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> tuple[nn.Module, Graph]:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    model = nn.Sequential(*layers[:-1]).double().eval()
    x = torch.randn(4, sizes[0], dtype=torch.float64)
    return model, trace(model, x, fullprecision.FAMILY, certify=False)


def _cycles(lengths: list[int]) -> Tensor:
    """Each row meets its own column and the next one of its cycle."""
    blocks = [torch.eye(n) + torch.eye(n).roll(1, dims=1) for n in lengths]
    return torch.block_diag(*blocks).double()


@pytest.mark.parametrize("seed", range(6))
def test_choices_that_refinement_cannot_make_are_searched(seed: int) -> None:
    """In two cycles of different length every unit has the same neighbours."""
    _, graph = _mlp(2, 7, 7, 3)
    params = {name: torch.ones_like(t, dtype=torch.float64) for name, t in graph.reference.items()}
    params["2.weight"] = _cycles([4, 3])
    permutations = Element(graph, _element(graph, seed).permutations, identity(graph).diagonals)
    moved = permutations.apply(params)
    assert difference(params, moved) == 1
    assert difference(*(representative(graph, p).apply(p) for p in (params, moved))) == 0
    other = {**params, "2.weight": _cycles([7])}
    assert difference(*(representative(graph, p).apply(p) for p in (params, other))) == 1


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_units_do_not_disturb_the_order(seed: int) -> None:
    """Equal up to the sign that tanh lets through, twice in everything, and once with other consumers."""
    model, graph = _mlp(4, 6, 5, 3, activation=nn.Tanh)
    params = {name: t + torch.randn(t.shape) for name, t in parameters(model).items()}
    for source, target, factor in ((0, 3, 1), (1, 4, -1), (2, 5, 1)):
        params["0.weight"][target] = factor * params["0.weight"][source]
        params["0.bias"][target] = factor * params["0.bias"][source]
        if source < 2:
            params["2.weight"][:, target] = factor * params["2.weight"][:, source]
    params["0.weight"][2] = params["0.weight"][5] = 0
    moved = _element(graph, seed).apply(params)
    assert difference(_sorted(graph, params), _sorted(graph, moved)) < 1e-12
    assert duplicate_units(graph, params) == {"0": 6, "2": 0} == duplicate_units(graph, moved)


def test_units_without_any_weight_are_copies_of_each_other() -> None:
    model, graph = _mlp(4, 9, 3, activation=nn.Tanh)
    params = parameters(model)
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        params[name].narrow(axis, 2, 5).zero_()
    moved = _element(graph, 0).apply(params)
    assert difference(_sorted(graph, params), _sorted(graph, moved)) < 1e-12
    assert duplicate_units(graph, params) == {"0": 5}


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_units_in_different_wholes(seed: int) -> None:
    """Both may go to any place of their own group, neither to the other's."""
    model, _, graph = _motif("grouped conv")
    params = parameters(model)
    for name in ("0.weight", "0.bias"):
        params[name][[0, 1, 4, 5]] = 0
    params["2.weight"][:3, :2] = params["2.weight"][3:, 1:] = 0
    moved = _element(graph, seed).apply(params)
    assert difference(_sorted(graph, params), _sorted(graph, moved)) < 1e-12


def test_signs_that_nothing_decides_are_chosen() -> None:
    """Units of two layers that know only of each other: all of them may be negated together, none alone."""
    model, graph = _mlp(2, 4, 5, 3, activation=nn.Tanh)
    params = {name: t * (name == "2.weight") for name, t in parameters(model).items()}
    moved = _element(graph, 0).apply(params)
    assert difference(_sorted(graph, params), _sorted(graph, moved)) < 1e-12
    assert all(bool((d != 0).all()) for d in representative(graph, params).diagonals)


def test_duplicates_are_counted_inside_their_whole() -> None:
    """The same weights in two groups see different channels."""
    model, _, graph = _motif("grouped conv")
    params = parameters(model)
    params["0.weight"] /= params["0.weight"].flatten(1).norm(dim=1).view(6, 1, 1, 1)
    params["2.weight"][[0, 3]], params["2.bias"][[0, 3]] = 0.25, 0.5
    assert duplicate_units(graph, params) == {"0": 0, "0 (2)": 0, "2": 0, "4": 0}
    params["2.weight"][2], params["2.bias"][2] = 0.75, 1.5
    assert duplicate_units(graph, params) == {"0": 0, "0 (2)": 0, "2": 2, "4": 0}


def test_duplicates_of_bits_count_by_signs_and_thresholds() -> None:
    model, _, graph = _motif("binary mlp")
    params = randomised(model)
    norm = graph.layers[0].norm
    assert norm is not None
    assert duplicate_units(graph, params)["0"] == 0
    params["0.weight"][5] = -torch.tensor([3.0, 0.1, 0.2, 7.0, 1.0]) * sign(params["0.weight"][2])
    for unit, direction in ((2, 1.0), (5, -1.0)):  # thresholds 0.3 and 0.2 from either side
        params[norm.gain][unit], params[norm.offset][unit] = 0.7 * direction, 0.0
        params[norm.mean][unit] = direction * (0.2 if unit == 2 else 0.3)
    assert duplicate_units(graph, params)["0"] == 2
    params[norm.mean][5] = -3.5
    assert duplicate_units(graph, params)["0"] == 0


def test_float32_keeps_the_order_under_scales() -> None:
    torch.manual_seed(0)
    model = fullprecision.mlp(64, [48, 40], 5).eval()
    graph = trace(model, torch.randn(4, 64), fullprecision.FAMILY, certify=False)
    params = randomised(model)
    for seed in range(5):
        _assert_same(graph, _sorted(graph, params), _sorted(graph, _element(graph, seed).apply(params)), 1e-4)


def test_parameters_of_another_network_are_refused() -> None:
    _, graph = _mlp(4, 6, 3)
    with pytest.raises(ParameterError, match="does not fit"):
        duplicate_units(graph, parameters(nn.Linear(4, 3)))
