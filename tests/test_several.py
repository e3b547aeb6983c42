"""Matching of several networks: ways around are the identity, the objective is the literal one and never falls."""

import itertools
import math

import pytest
import torch
from torch import nn
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import binarynets
import fullprecision
from compare.params import ParameterError, Params, parameters, sign
from compare.symmetry import Element, Graph, identity, match, random_element, standard_form, trace
from compare.symmetry.matching import solve
from compare.symmetry.scores import problem_of, scored
from compare.symmetry.several import Matches, match_many


def _traced(precision: str, name: str) -> tuple[nn.Module, Graph]:
    model = small_networks(precision)[name]
    return model, trace(model, pixels(4), FAMILIES[precision][1])


def _unrelated(precision: str, name: str, count: int) -> tuple[Graph, list[Params]]:
    model, graph = _traced(precision, name)
    return graph, [standard_form(graph, randomised(model, seed=seed)) for seed in range(count)]


def _noisy(model: nn.Module, graph: Graph, count: int, noise: float) -> tuple[list[Params], list[Params]]:
    """Copies of one network with noise on its weights: as they are, and moved by random elements; in standard form."""
    generator = torch.Generator().manual_seed(5)
    base = standard_form(graph, randomised(model, seed=1))
    weights = {layer.weight for layer in graph.layers}
    still, moved = [], []
    for _ in range(count):
        copied = {
            n: t * (1 + noise * torch.randn(t.shape, generator=generator)) if n in weights else t
            for n, t in base.items()
        }
        still.append(standard_form(graph, copied))
        moved.append(standard_form(graph, random_element(graph, generator).apply(copied)))
    return still, moved


def _exactly(element: Element, other: Element) -> bool:
    """Equal, signs included, with no tolerance."""
    return all(map(torch.equal, element.permutations, other.permutations)) and all(
        map(torch.equal, element.diagonals, other.diagonals)
    )


def _literal(graph: Graph, networks: list[Params], found: Matches) -> float:
    moved = [element.apply(x) for element, x in zip(found.elements, networks, strict=True)]
    return sum(
        float((x[layer.weight].double() * y[layer.weight].double()).sum())
        for x, y in itertools.combinations(moved, 2)
        for layer in graph.layers
    )


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("reference", ["mean", 2])
def test_ways_around_are_the_identity_exactly(precision, reference) -> None:
    graph, networks = _unrelated(precision, "vgg", 4)
    found = match_many(graph, networks, reference=reference, starts=("descriptors",))
    one = identity(graph)
    assert any(not _exactly(element, one) for element in found.elements)
    for i, j, k in itertools.product(range(4), repeat=3):
        around = found.between(i, j).compose(found.between(j, k)).compose(found.between(k, i))
        assert _exactly(around, one)
        assert _exactly(found.between(i, j).compose(found.between(j, k)), found.between(i, k))
    assert _exactly(found.elements[0 if reference == "mean" else 2], one)


@pytest.mark.parametrize("precision", FAMILIES)
def test_between_brings_one_network_onto_another_as_the_frame_has_them(precision) -> None:
    graph, networks = _unrelated(precision, "mlp", 3)
    found = match_many(graph, networks)
    for i, j in itertools.permutations(range(3), 2):
        moved = found.between(i, j).apply_linear(networks[j])
        inner = sum(
            float((networks[i][layer.weight].double() * moved[layer.weight].double()).sum()) for layer in graph.layers
        )
        assert inner == pytest.approx(float(found.objectives[i, j]), rel=1e-6)


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("name", ["mlp", "vgg"])
@pytest.mark.parametrize("reference", ["mean", 1])
def test_the_objective_is_the_literal_one_and_never_falls(precision, name, reference) -> None:
    graph, networks = _unrelated(precision, name, 4)
    found = match_many(graph, networks, reference=reference)
    assert found.objective == pytest.approx(_literal(graph, networks, found), rel=1e-6)
    assert found.objective == pytest.approx(found.history[-1], rel=1e-12)
    assert all(later >= earlier for earlier, later in itertools.pairwise(found.history))
    assert found.rounds == len(found.history)
    assert found.converged
    assert torch.equal(found.objectives, found.objectives.T)


def test_later_rounds_gain_over_the_first_network_as_reference() -> None:
    gains = []
    for name in ("mlp", "deep mlp"):
        graph, networks = _unrelated("full", name, 5)
        found = match_many(graph, networks, starts=("descriptors",))
        onto_first = match_many(graph, networks, reference=0, starts=("descriptors",))
        assert found.history[0] == pytest.approx(onto_first.objective)
        gains.append(found.objective / onto_first.objective)
    assert min(gains) > 1.05


def test_a_converged_match_cannot_be_improved_one_network_at_a_time() -> None:
    """Every element of a small group, for each network in turn, against the others as they stand."""
    model = fullprecision.mlp(6, [4], 3).eval()
    graph = trace(model, torch.randn(4, 6), FAMILIES["full"][1])
    networks = [standard_form(graph, randomised(model, seed=seed)) for seed in range(4)]
    found = match_many(graph, networks)
    for index in range(4):
        for p in itertools.permutations(range(4)):
            elements = list(found.elements)
            elements[index] = Element(
                graph, (torch.tensor(p), *identity(graph).permutations[1:]), identity(graph).diagonals
            )
            other = Matches(tuple(elements), (), torch.zeros(4, 4), (), 0, True, 0.0)
            assert _literal(graph, networks, other) <= found.objective * (1 + 1e-6)


def test_converged_means_that_no_descent_from_where_a_network_stands_gains() -> None:
    """Wherever the matchings began: random starts alone would leave networks short of that."""
    graph, networks = _unrelated("full", "deep mlp", 3)
    found = match_many(graph, networks, starts=("random",))
    assert found.converged
    for index in range(3):
        others = [x for i, x in enumerate(found.params) if i != index]
        mean = {name: sum(x[name].double() for x in others) / 2 for name in others[0]}
        tensors = [scored(graph, x, "latent") for x in (mean, found.params[index])]
        problem, _ = problem_of(graph, *tensors, "fixed")
        stands = solve(problem, starts=("identity",))
        assert all(torch.equal(p, torch.arange(len(p))) for p in stands.permutations)


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_noisy_copies_are_all_recovered_onto_each_other(precision, name) -> None:
    model, graph = _traced(precision, name)
    still, moved = _noisy(model, graph, 4, 0.05)
    found = match_many(graph, moved)
    assert found.params[0].keys() == moved[0].keys()
    for i, j in itertools.permutations(range(4), 2):
        planted = sum(float((still[i][y.weight].double() * still[j][y.weight].double()).sum()) for y in graph.layers)
        assert float(found.objectives[i, j]) == pytest.approx(planted, rel=1e-5)


def test_copies_without_noise_become_equal() -> None:
    model, graph = _traced("full", "mlp")
    _, moved = _noisy(model, graph, 3, 0.0)
    found = match_many(graph, moved)
    assert difference(found.params[0], moved[0]) == 0
    assert max(difference(found.params[0], other) for other in found.params) < 1e-5


def test_two_networks_onto_the_first_are_one_match() -> None:
    graph, networks = _unrelated("full", "mlp", 2)
    found = match_many(graph, networks, reference=0, starts=("descriptors",))
    assert found.objective == pytest.approx(match(graph, *networks, starts=("descriptors",)).objective, rel=1e-9)
    assert found.rounds == 1


def test_binarised_weights_count_by_their_signs() -> None:
    model = binarynets.mlp(6, [5], 3).eval()
    graph = trace(model, torch.ones(2, 6), binarynets.FAMILY)
    networks = [standard_form(graph, randomised(model, seed=seed)) for seed in range(3)]
    signs = [{n: sign(t) if n in graph.binarised else t for n, t in x.items()} for x in networks]
    found = match_many(graph, networks, weights="binarised")
    assert found.objective == pytest.approx(_literal(graph, signs, found), rel=1e-9)
    assert float(found.objectives[0, 0]) == sum(networks[0][layer.weight].numel() for layer in graph.layers)


def test_the_same_seed_gives_the_same_and_nothing_given_changes() -> None:
    graph, networks = _unrelated("full", "deep mlp", 3)
    kept = [{name: tensor.clone() for name, tensor in x.items()} for x in networks]
    first, second = (match_many(graph, networks, seed=3, starts=("random",)) for _ in range(2))
    assert all(map(_exactly, first.elements, second.elements))
    assert max(map(difference, kept, networks)) == 0
    assert not math.isnan(first.objective)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "first"}, "'mean' or an index from 0 to 1"),
        ({"reference": 2}, "'mean' or an index from 0 to 1"),
        ({"weights": "effective"}, "'latent' or 'binarised'"),
        ({"gains": "none"}, "'fixed' or 'free'"),
        ({"starts": ("best",)}, "'annealing'"),
        ({"most_rounds": 0}, "most_rounds"),
    ],
)
def test_unknown_options_list_the_known(options, message) -> None:
    graph, networks = _unrelated("full", "mlp", 2)
    with pytest.raises(ValueError, match=message):
        match_many(graph, networks, **options)


def test_too_few_networks_and_those_of_another_shape_are_refused() -> None:
    graph, networks = _unrelated("full", "mlp", 2)
    with pytest.raises(ValueError, match="two or more, got 1"):
        match_many(graph, networks[:1])
    other = parameters(small_networks("full")["deep mlp"])
    with pytest.raises(ParameterError, match=r"networks\[1\] does not fit"):
        match_many(graph, [networks[0], other])
