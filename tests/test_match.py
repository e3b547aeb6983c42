"""Matching against brute force, planted elements and its own bound."""

import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import binarynets
import fullprecision
from compare.params import ParameterError, parameters, sign
from compare.symmetry import Element, match, random_element, standard_form, trace


def _graph(precision: str, hidden: list[int]):
    module, family = FAMILIES[precision]
    model = module.mlp(6, hidden, 3).eval()
    return model, trace(model, torch.ones(4, 6), family)


def _objective(graph, a, b, element) -> float:
    """The literal definition, through the element's own action."""
    moved = element.apply(b)
    return sum(float((a[layer.weight].double() * moved[layer.weight].double()).sum()) for layer in graph.layers)


def _all_elements(graph):
    """Every permutation with every choice of admissible signs, for all blocks together."""
    choices = []
    for block in graph.blocks:
        signs = itertools.product(*[(1.0, -1.0) if block.signs else (1.0,)] * block.size)
        choices.append(list(itertools.product(itertools.permutations(range(block.size)), signs)))
    for chosen in itertools.product(*choices):
        p = tuple(torch.tensor(permutation) for permutation, _ in chosen)
        d = tuple(torch.tensor(signs, dtype=torch.float64) for _, signs in chosen)
        yield Element(graph, p, d)


@pytest.mark.parametrize(("precision", "units"), [("full", 5), ("full", 2), ("binary", 4), ("binary", 1)])
@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_equals_brute_force_and_the_bound(precision, units, seed) -> None:
    model, graph = _graph(precision, [units])
    a, b = randomised(model, seed=seed), randomised(model, seed=seed + 100)
    found = match(graph, a, b)
    best = max(_objective(graph, a, b, element) for element in _all_elements(graph))
    assert found.objective == pytest.approx(best, rel=1e-9)
    assert found.gap == pytest.approx(0, abs=1e-9 * abs(best))
    assert found.converged


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), precision=st.sampled_from(["binary", "full"]))
def test_the_bound_holds_for_every_element_of_two_small_blocks(seed: int, precision: str) -> None:
    units = [2, 2] if precision == "binary" else [3, 3]
    model, graph = _graph(precision, units)
    a, b = randomised(model, seed=seed), randomised(model, seed=seed + 1)
    best = max(_objective(graph, a, b, element) for element in _all_elements(graph))
    found = match(graph, a, b, seed=seed)
    assert found.objective <= best + 1e-9 * abs(best)
    assert best <= found.bound + 1e-9 * abs(found.bound)
    assert found.objective == pytest.approx(_objective(graph, a, b, found.element), rel=1e-9)


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("name", ["mlp", "deep mlp", "vgg"])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_element_is_recovered(precision, name, seed) -> None:
    model = small_networks(precision)[name]
    graph = trace(model, pixels(4), FAMILIES[precision][1])
    a = standard_form(graph, randomised(model, seed=seed))
    g = random_element(graph, torch.Generator().manual_seed(seed))
    b = standard_form(graph, g.apply(a))
    found = match(graph, a, b, seed=seed)
    assert difference(found.params, a) < 1e-4
    assert found.objective == pytest.approx(sum(float(a[layer.weight].square().sum()) for layer in graph.layers))


def test_the_result_is_never_worse_than_any_start() -> None:
    model, graph = _graph("binary", [9, 8])
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    found = match(graph, a, b, starts=("identity", "random", "sweep"))
    assert found.objective == max(value for _, value in found.starts)
    assert found.objective >= _objective(graph, a, b, random_element(graph, torch.Generator().manual_seed(0)))


def test_descents_end_where_no_single_block_can_be_improved() -> None:
    """Converged means it: every permutation of one block, the others fixed, is no better (a literal check)."""
    model, graph = _graph("full", [4, 4, 4])
    for seed in range(5):
        a, b = randomised(model, seed=seed), randomised(model, seed=seed + 50)
        found = match(graph, a, b, seed=seed, starts=("random",))
        assert found.converged
        for index in range(3):
            for p in itertools.permutations(range(4)):
                permutations = list(found.element.permutations)
                permutations[index] = torch.tensor(p)
                other = Element(graph, tuple(permutations), found.element.diagonals)
                assert _objective(graph, a, b, other) <= found.objective + 1e-9


def test_more_than_one_sweep_is_needed_and_made() -> None:
    model, graph = _graph("full", [9, 9, 9])
    needed = []
    for seed in range(5):
        a, b = randomised(model, seed=seed), randomised(model, seed=seed + 50)
        needed.append(match(graph, a, b, seed=seed, starts=("random",)).sweeps)
    assert max(needed) > 2


def test_the_sweep_start_takes_incoming_weights_alone(monkeypatch) -> None:
    """Block by block from the input on, against a literal assignment on the rows."""
    model, graph = _graph("full", [5, 4])
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    module = sys.modules["compare.symmetry.match"]
    monkeypatch.setattr(module, "_descend", lambda problem, element, generator: (element, 0, True))
    found = match(graph, a, b, starts=("sweep",)).element
    first, second = (a[layer.weight].double() for layer in graph.layers[:2])
    p = linear_sum_assignment((first @ b["linear1.weight"].double().T).numpy(), maximize=True)[1]
    q = linear_sum_assignment((second @ b["linear2.weight"][:, p].double().T).numpy(), maximize=True)[1]
    assert [permutation.tolist() for permutation in found.permutations] == [p.tolist(), q.tolist()]


def test_the_same_seed_gives_the_same_match() -> None:
    model, graph = _graph("full", [9, 8])
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    first, second = match(graph, a, b, seed=5), match(graph, a, b, seed=5)
    assert difference(first.params, second.params) == 0
    assert first.starts == second.starts


def test_only_permutations_and_signs_are_searched() -> None:
    model, graph = _graph("full", [9, 8])
    a = randomised(model, seed=1)
    b = {name: tensor * 3 if tensor.is_floating_point() else tensor for name, tensor in a.items()}
    found = match(graph, a, b)
    assert all(bool((d == 1).all()) for d in found.element.diagonals)
    assert difference(found.params, b) == 0


def test_biases_without_normalisation_count() -> None:
    """Two units with equal weights that only their biases tell apart."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)).eval()
    graph = trace(model, torch.randn(4, 2), fullprecision.FAMILY)
    a = {"0.weight": torch.ones(2, 2), "0.bias": torch.tensor([1.0, -1.0]), "2.weight": torch.ones(1, 2)}
    a["2.bias"] = torch.zeros(1)
    b = {**a, "0.bias": torch.tensor([-1.0, 1.0])}
    assert match(graph, a, b).element.permutations[0].tolist() == [1, 0]


def test_binarised_weights_count_by_their_signs() -> None:
    model, graph = _graph("binary", [5])
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    signs = [{n: sign(t) if n in graph.binarised else t for n, t in params.items()} for params in (a, b)]
    by_sign = match(graph, a, b, weights="binarised")
    assert by_sign.objective == pytest.approx(_objective(graph, *signs, by_sign.element))
    assert by_sign.objective == max(_objective(graph, *signs, element) for element in _sampled(graph, by_sign.element))


def _sampled(graph, best):
    yield best
    for seed in range(50):
        yield random_element(graph, torch.Generator().manual_seed(seed))


def test_networks_of_different_shape_are_refused() -> None:
    model, graph = _graph("full", [4])
    other, _ = _graph("full", [5])
    with pytest.raises(ParameterError, match=r"b does not fit the network: 'linear1\.weight' has shape"):
        match(graph, parameters(model), parameters(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": ("best",)}, "'identity', 'sweep', 'random'"),
        ({"starts": ()}, "one or more"),
        ({"weights": "effective"}, "'latent' or 'binarised'"),
    ],
)
def test_unknown_options_list_the_known(options, message) -> None:
    model, graph = _graph("full", [4])
    with pytest.raises(ValueError, match=message):
        match(graph, parameters(model), parameters(model), **options)


def test_a_network_without_hidden_units_matches_as_it_is() -> None:
    model = binarynets.mlp(6, [], 3).eval()
    graph = trace(model, torch.ones(2, 6), binarynets.FAMILY)
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    found = match(graph, a, b)
    assert found.gap == pytest.approx(0)
    assert difference(found.params, b) == 0
