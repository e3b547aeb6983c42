"""Matching networks: its sum against literal oracles, planted elements, signs of gains, and its errors."""

import functools
import itertools
import math

import planted
import pytest
import torch
from motifs import MOTIFS
from reference_nets import resnet18, vit
from torch import nn
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import binarynets
import fullprecision
from compare.params import ParameterError, Params, parameters, sign
from compare.symmetry import Element, Graph, identity, match, random_element, standard_form, trace
from compare.symmetry.matching import objective
from compare.symmetry.matching.problem import random_state
from compare.symmetry.matching.similarity import Workspace, scores
from compare.symmetry.scores import element_of, problem_of, scored

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)

every_motif = pytest.mark.parametrize("name", MOTIFS)
both = pytest.mark.parametrize("gains", ["fixed", "free"])


@functools.cache
def motif(name: str) -> tuple[nn.Module, Graph]:
    """A small network and its symmetries."""
    model = MOTIFS[name].build()
    return model, trace(model, MOTIFS[name].example(8), FAMILIES[MOTIFS[name].precision][1])


def counted(name: str) -> set[str]:
    """What matching counts, by hand: no normalisation, nor the biases it takes up, nor slopes of activations."""
    model, graph = motif(name)
    left_out = {layer.bias for layer in graph.layers if layer.norm}
    return {
        f"{path}.{own}" if path else own
        for path, module in model.named_modules()
        if not isinstance(module, (*NORMS, nn.PReLU))
        for own, _ in module.named_parameters(recurse=False)
        if f"{path}.{own}".lstrip(".") in graph.reference
    } - left_out


def _sum(names: set[str], a: Params, b: Params) -> float:
    return sum(float((a[name].double() * b[name].double()).sum()) for name in names)


@every_motif
@both
def test_the_problem_is_the_sum_over_scored_tensors(name, gains) -> None:
    """The objective of a state is <a, g b>, with g acting as the group itself acts."""
    model, graph = motif(name)
    names = counted(name)
    a, b = ({n: t.double() for n, t in scored(graph, randomised(model, seed=s), "latent").items()} for s in (1, 2))
    assert set(a) == names
    problem, constant = problem_of(graph, a, b, gains)
    for seed in range(2):
        state = random_state(problem, torch.Generator().manual_seed(seed))
        element = element_of(graph, list(state.permutations), list(state.signs), gains)
        size = sum(float(a[n].norm() * b[n].norm()) for n in names)
        literal = _sum(names, a, element.apply_linear(b))
        assert objective(problem, state) + constant == pytest.approx(literal, abs=1e-12 * size)


@every_motif
def test_planted_elements_are_found(name) -> None:
    model, graph = motif(name)
    a = standard_form(graph, randomised(model, seed=1))
    g = random_element(graph, torch.Generator().manual_seed(1))
    b = standard_form(graph, g.apply(a))
    before = [{n: t.clone() for n, t in params.items()} for params in (a, b)]
    found = match(graph, a, b)
    assert difference(found.params, a) < 1e-4
    names = counted(name)
    best = _sum(names, a, a)
    assert found.objective == pytest.approx(best, rel=1e-5)
    assert found.objective == pytest.approx(_sum(names, a, found.params), rel=1e-6)
    assert difference(found.element.apply(b), found.params) == 0
    assert found.converged
    assert found.gap >= -1e-6 * best
    assert [difference(*pair) for pair in zip((a, b), before, strict=True)] == [0, 0], "arguments stay as they are"


@pytest.mark.parametrize(
    ("precision", "name"), [*itertools.product(FAMILIES, ["mlp", "deep mlp", "vgg"]), ("full", "no normalisation")]
)
def test_planted_elements_are_found_in_ordinary_networks(precision, name) -> None:
    model = small_networks(precision)[name]
    graph = trace(model, pixels(4), FAMILIES[precision][1])
    for seed in range(3):
        a = standard_form(graph, randomised(model, seed=seed))
        g = random_element(graph, torch.Generator().manual_seed(seed))
        assert difference(match(graph, a, standard_form(graph, g.apply(a)), seed=seed).params, a) < 1e-4


@pytest.mark.parametrize("build", [lambda: resnet18(width=8), lambda: vit(depth=2, width=32)], ids=["resnet", "vit"])
@pytest.mark.parametrize("starts", [("annealing", "descriptors"), ("annealing",), ("descriptors",)], ids="+".join)
def test_planted_elements_are_found_in_well_known_networks(build, starts) -> None:
    torch.manual_seed(0)
    model = build().eval()
    graph = trace(model, torch.randn(2, 3, 32, 32), fullprecision.FAMILY)
    a = standard_form(graph, randomised(model))
    g = random_element(graph, torch.Generator().manual_seed(0))
    found = match(graph, a, standard_form(graph, g.apply(a)), starts=starts)
    assert difference(found.params, a) < 1e-4
    assert found.gap == pytest.approx(0, abs=1e-6 * found.objective)


@pytest.mark.parametrize("group", ["permutations", "permutations and signs"])
@pytest.mark.parametrize(("size", "cases"), [("small", 20), ("large", 3)])
def test_planted_elements_are_found_under_noise(group, size, cases) -> None:
    """``scripts/planted.py`` runs more of them; each level of noise has its turn here."""
    graph = planted.residual(size, group)
    assert all(block.signs == (group != "permutations") for block in graph.blocks)
    for seed, sigma in zip(range(cases), itertools.cycle(reversed(planted.NOISE)), strict=False):
        case = planted.planted(graph, sigma, seed)
        for starts in (None, ("descriptors",)):
            assert planted.recovered(case, starts, seed)[0], (sigma, seed, starts)


def test_the_table_of_planted_elements() -> None:
    table = planted.table({"small": 2, "large": 0}, [0.0, 0.5], ["descriptors"])
    lines = table.splitlines()
    assert lines[0] == "| units | group | start | noise 0 | noise 0.5 | seconds |"
    assert len(lines) == 4
    assert lines[2].startswith("| 30 and 50 | permutations | descriptors | 2/2 | 2/2 | ")
    assert lines[3].startswith("| 30 and 50 | permutations and signs | descriptors | 2/2 | 2/2 | ")


def _gained(name: str) -> tuple[Graph, Params, Params]:
    model, graph = motif(name)
    return graph, *(standard_form(graph, randomised(model, seed=seed)) for seed in (1, 2))


@pytest.mark.parametrize("seed", range(3))
def test_behind_a_max_pooling_a_pair_scores_the_most_that_the_sign_group_allows(seed) -> None:
    """Negating such a unit turns its columns and leaves its row: the score is max over s of row + s column."""
    graph, a, b = _gained("binary cnn, pool norm sign")
    (row,) = [index for index, g in enumerate(graph.blocks[0].generators) if g.kind == "sign"]
    assert graph.blocks[0].generators[row].names & {"0.weight", "4.weight"} == {"4.weight"}
    problem, _ = problem_of(graph, scored(graph, a, "latent"), scored(graph, b, "latent"), "free")
    state = random_state(problem, torch.Generator().manual_seed(seed))
    found, _ = scores(Workspace(problem).similarity(0, state), problem.signs[0])
    element = element_of(graph, list(state.permutations), list(state.signs), "free")
    for i, j in itertools.product(range(6), repeat=2):
        best = -math.inf
        for s in (1.0, -1.0):
            permutation = torch.arange(6)
            permutation[[i, j]] = permutation[[j, i]]
            diagonals = [d.clone() for d in element.diagonals]
            diagonals[0][row, i] = s
            one = Element(graph, (permutation, *element.permutations[1:]), tuple(diagonals))
            moved = one.apply_linear(scored(graph, b, "latent"))
            incoming = float((a["0.weight"][i] * moved["0.weight"][i]).sum())
            best = max(best, incoming + float((a["4.weight"][:, i] * moved["4.weight"][:, i]).sum()))
        assert float(found[i, j]) == pytest.approx(best, rel=1e-4, abs=1e-4)


def test_behind_a_max_pooling_no_signs_are_better() -> None:
    """Brute force over the sign group of all six units, where the units were placed."""
    graph, a, b = _gained("binary cnn, pool norm sign")
    found = match(graph, a, b, gains="free")
    names = counted("binary cnn, pool norm sign")
    row = [g.kind for g in graph.blocks[0].generators].index("sign")
    values = []
    for signs in itertools.product((1.0, -1.0), repeat=6):
        diagonals = [d.clone() for d in found.element.diagonals]
        diagonals[0][row] = torch.tensor(signs)
        moved = Element(graph, found.element.permutations, tuple(diagonals)).apply_linear(b)
        values.append(_sum(names, a, moved))
    assert max(values) == pytest.approx(found.objective, rel=1e-9)
    assert values[0] < found.objective - 1e-3, "some unit has to be negated, or this shows nothing"


@pytest.mark.parametrize("name", [name for name in MOTIFS if motif(name)[1].gains])
def test_fixed_gains_are_never_negated(name) -> None:
    graph, a, b = _gained(name)
    found = match(graph, a, b)
    for gain in graph.gains:
        torch.testing.assert_close(found.params[gain].sort().values, b[gain].sort().values, rtol=0, atol=0)
    problem, _ = problem_of(graph, scored(graph, a, "latent"), scored(graph, b, "latent"), "fixed")
    free, _ = problem_of(graph, scored(graph, a, "latent"), scored(graph, b, "latent"), "free")
    assert all(fixed <= most for fixed, most in zip(problem.signs, free.signs, strict=True))


def test_free_gains_reach_at_least_as_much() -> None:
    reached = {}
    for name in ("batch norm, tanh", "binary mlp", "batch norm"):
        graph, a, b = _gained(name)
        fixed, free = (match(graph, a, b, gains=gains, starts=("annealing", "sweep")) for gains in ("fixed", "free"))
        assert free.bound >= fixed.bound - 1e-6 * abs(fixed.bound)
        reached[name] = free.objective - fixed.objective
        assert any(bool((free.params[gain] < 0).any()) for gain in graph.gains), name
    assert min(reached.values()) > 0


@pytest.mark.parametrize("name", ["binary mlp", "tanh", "grouped conv", "attention by hand", "binary called twice"])
@both
def test_the_result_is_what_it_says(name, gains) -> None:
    """Between two networks that have nothing to do with each other."""
    graph, a, b = _gained(name)
    starts = ("annealing", "descriptors", "identity", "sweep", "random")
    found = match(graph, a, b, seed=3, starts=starts, gains=gains)
    names = counted(name)
    assert found.objective == pytest.approx(_sum(names, a, found.params), rel=1e-6)
    assert [start for start, _ in found.starts] == list(starts)
    assert found.objective == max(value for _, value in found.starts)
    assert found.objective >= _sum(names, a, b)
    assert found.objective <= found.bound
    assert found.gap == found.bound - found.objective
    again = match(graph, a, b, seed=3, starts=starts, gains=gains)
    assert again.element == found.element
    assert again.starts == found.starts


def _perceptron(precision: str, hidden: list[int]) -> tuple[nn.Module, Graph]:
    module, family = FAMILIES[precision]
    model = module.mlp(6, hidden, 3).eval()
    return model, trace(model, torch.ones(4, 6), family)


@pytest.mark.parametrize(("precision", "units"), [("full", 5), ("full", 2), ("binary", 4), ("binary", 1)])
@pytest.mark.parametrize("seed", range(2))
def test_one_hidden_layer_equals_brute_force_and_the_bound(precision, units, seed) -> None:
    model, graph = _perceptron(precision, [units])
    a, b = (standard_form(graph, randomised(model, seed=s)) for s in (seed, seed + 100))
    found = match(graph, a, b)
    names = {name for layer in graph.layers for name in (layer.weight, None if layer.norm else layer.bias) if name}
    signs = [g for g in graph.blocks[0].generators if g.kind == "sign" and not g.names & graph.gains]
    assert len(signs) == (precision == "binary")
    row, rest = graph.blocks[0].generators.index(signs[0]) if signs else 0, identity(graph)
    values = []
    for p in itertools.permutations(range(units)):
        for chosen in itertools.product((1.0, -1.0) if signs else (1.0,), repeat=units):
            permutations, diagonals = list(rest.permutations), [d.clone() for d in rest.diagonals]
            permutations[0] = torch.tensor(p)
            if signs:
                diagonals[0][row] = torch.tensor(chosen)
            values.append(_sum(names, a, Element(graph, tuple(permutations), tuple(diagonals)).apply_linear(b)))
    assert found.objective == pytest.approx(max(values), rel=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-6 * abs(max(values)))
    assert found.converged


def test_only_permutations_and_signs_are_searched() -> None:
    model, graph = _perceptron("full", [9, 8])
    a = standard_form(graph, randomised(model, seed=1))
    b = {name: tensor * 3 if tensor.is_floating_point() else tensor for name, tensor in a.items()}
    found = match(graph, a, b)
    assert all(bool((d == 1).all()) for d in found.element.diagonals)
    assert difference(found.params, b) == 0


def test_biases_without_normalisation_count() -> None:
    """Two units with equal weights that only their biases tell apart."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    graph = trace(model, torch.randn(4, 2), fullprecision.FAMILY)
    a = {"0.weight": torch.ones(2, 2), "0.bias": torch.tensor([1.0, -1.0]), "2.weight": torch.ones(1, 2)}
    a["2.bias"] = torch.zeros(1)
    b = {**a, "0.bias": torch.tensor([-1.0, 1.0])}
    assert match(graph, a, b).element.permutations[0].tolist() == [1, 0]


def test_binarised_weights_count_by_their_signs() -> None:
    model, graph = _perceptron("binary", [5])
    a, b = (standard_form(graph, randomised(model, seed=seed)) for seed in (1, 2))
    signs = [{n: sign(t) if n in graph.binarised else t for n, t in params.items()} for params in (a, b)]
    found = match(graph, a, b, weights="binarised")
    assert found.objective == match(graph, *signs).objective
    assert found.objective == pytest.approx(_sum(set(graph.binarised), signs[0], found.element.apply_linear(signs[1])))
    assert found.objective >= _sum(set(graph.binarised), signs[0], match(graph, a, b).element.apply_linear(signs[1]))


def test_a_budget_means_annealing_and_then_local_search() -> None:
    graph, a, b = _gained("binary mlp")
    found = match(graph, a, b, budget_s=0.3)
    assert found.starts[0][0] == "annealing"
    assert {start for start, _ in found.starts} <= {"annealing", "local search"}
    assert found.objective == max(value for _, value in found.starts)
    assert found.objective == pytest.approx(_sum(counted("binary mlp"), a, found.params), rel=1e-6)


@pytest.mark.parametrize("budget", [None, 0.1, 1e-9])
def test_a_network_without_hidden_units_matches_as_it_is(budget) -> None:
    model = binarynets.mlp(6, [], 3).eval()
    graph = trace(model, torch.ones(2, 6), binarynets.FAMILY)
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    found = match(graph, a, b, budget_s=budget)
    assert found.gap == pytest.approx(0, abs=1e-6)
    assert found.objective == pytest.approx(_sum({layer.weight for layer in graph.layers}, a, found.params))


def test_a_budget_smaller_than_the_preparation_still_gives_a_match() -> None:
    graph, a, b = _gained("binary mlp")
    found = match(graph, a, b, budget_s=1e-9)
    assert found.objective == pytest.approx(_sum(counted("binary mlp"), a, found.params), rel=1e-6)


def test_networks_of_different_shape_are_refused() -> None:
    model, graph = _perceptron("full", [4])
    other, _ = _perceptron("full", [5])
    with pytest.raises(ParameterError, match=r"b does not fit the network: 'linear1\.weight' has shape"):
        match(graph, parameters(model), parameters(other))
    with pytest.raises(ParameterError, match="a does not fit the network"):
        match(graph, parameters(other), parameters(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"starts": ("best",)},
            "starts: expected one or more of 'annealing', 'descriptors', 'identity', 'sweep', 'random'",
        ),
        ({"starts": ()}, "one or more"),
        ({"weights": "effective"}, "weights: expected 'latent' or 'binarised', got 'effective'"),
        ({"gains": "positive"}, "gains: expected 'fixed' or 'free', got 'positive'"),
        ({"budget_s": 0}, "budget_s: expected a positive number of seconds, or None, got 0"),
        ({"budget_s": -1.0}, "budget_s: expected a positive number of seconds, or None, got -1"),
        ({"budget_s": math.inf}, "budget_s: expected a .*number of seconds, or None, got inf"),
    ],
)
def test_unknown_options_list_the_known(options, message) -> None:
    model, graph = _perceptron("full", [4])
    with pytest.raises(ValueError, match=message):
        match(graph, parameters(model), parameters(model), **options)
