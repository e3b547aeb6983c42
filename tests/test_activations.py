"""Matching by activations: what the hooks see moves as claimed, the optimum is exact, planted elements come back."""

import copy
import functools
import itertools

import pytest
import torch
from motifs import MOTIFS, double
from reference_nets import resnet18
from torch import nn
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import fullprecision
from compare.params import Params, call, parameters
from compare.symmetry import Element, Graph, SymmetryError, identity, random_element, standard_form, trace
from compare.symmetry.activations import _moments, _told, _values, match_activations
from compare.symmetry.element import inside
from compare.symmetry.scores import sign_generators

FULL = FAMILIES["full"][1]
FUNCTIONAL = {"tied autoencoder", "own parameters"}
"""Networks without a module whose output shows hidden units."""

HIDDEN = {"multi-head attention", "cross attention", "class token"}
"""Networks with projections inside a module."""

seen_motifs = pytest.mark.parametrize("name", sorted(set(MOTIFS) - FUNCTIONAL))


@functools.cache
def _traced(name: str) -> tuple[Graph, nn.Module]:
    motif = MOTIFS[name]
    model = motif.build()
    return trace(model, motif.example(4), FAMILIES[motif.precision][1], certify=False), model.double()


def _drawn(model: nn.Module, seed: int = 0) -> Params:
    """Random parameters in the model's own types."""
    types = parameters(model)
    return {name: tensor.to(types[name].dtype) for name, tensor in randomised(model, seed=seed).items()}


def _distinct(found) -> bool:
    """Whether no two units are the same up to a sign: binary ones with few inputs may be, thresholds do not show."""
    return all(float(term.a.abs().sort(1).values[:, -2:-1].max()) < 0.999 for term in found.problem.terms)


def _searched(graph: Graph, gains, seed: int) -> Element:
    """A random element without scales, its signs those that matching searches."""
    drawn = random_element(graph, torch.Generator().manual_seed(seed))
    diagonals = []
    for d, chosen in zip(drawn.diagonals, sign_generators(graph, gains), strict=True):
        kept = torch.ones_like(d)
        kept[list(chosen)] = d[list(chosen)]
        diagonals.append(kept)
    return Element(graph, drawn.permutations, tuple(diagonals))


@seen_motifs
@pytest.mark.parametrize("gains", ["fixed", "free"])
def test_what_the_modules_show_moves_with_the_units(name, gains) -> None:
    """The parity law, literally: values after g are those before it, permuted, negated where it is claimed, scaled."""
    graph, model = _traced(name)
    params, x = _drawn(model), double(MOTIFS[name].example(16))
    g = random_element(graph, torch.Generator().manual_seed(1))
    rest = [torch.ones_like(d) for d in g.diagonals]
    for d, kept, chosen in zip(g.diagonals, rest, sign_generators(graph, gains), strict=True):
        scales = [row for row in range(len(d)) if not bool((d[row] < 0).any()) and bool((d[row] != 1).any())]
        for row in (*chosen, *scales):
            kept[row] = d[row]
    g = Element(graph, g.permutations, tuple(rest))
    values = list(_values(graph, model, gains))
    moments = _moments(graph, copy.deepcopy(model), (g.apply(params), params), (x,), values)
    assert any(moment.count for moment in moments)
    for value, moment in zip(values, moments, strict=True):
        if not moment.count:
            continue
        k = value.block
        signs = torch.ones(graph.blocks[k].size, dtype=torch.float64)
        for odd, row in zip(value.odd, sign_generators(graph, gains)[k], strict=True):
            signs *= g.diagonals[k][row] if odd else 1
        found = moment.correlations()[torch.arange(len(signs)), g.permutations[k]]
        live = moment.deviations()[0] > 0
        torch.testing.assert_close(found[live], signs[live], rtol=0, atol=1e-7)


@seen_motifs
def test_a_planted_element_comes_back(name) -> None:
    graph, model = _traced(name)
    a, x = _drawn(model, seed=2), double(MOTIFS[name].example(64))
    g = _searched(graph, "fixed", 3)
    found = match_activations(graph, model, a, g.apply(a), x)
    live = sum(int((term.a.abs().max(1).values > 0.5).sum()) for term in found.problem.terms)
    assert live > 0
    assert found.objective == pytest.approx(live, abs=1e-6)
    if not found.unseen and not found.dead and _distinct(found):
        assert difference(found.params, a) < 1e-9
    assert bool(found.unseen) == (name in HIDDEN)


@pytest.mark.parametrize("name", ["batch norm, tanh", "batch norm", "residual cnn", "binary mlp", "binary residual"])
def test_with_free_gains_all_signs_come_back(name) -> None:
    graph, model = _traced(name)
    a, x = _drawn(model, seed=2), double(MOTIFS[name].example(64))
    g = _searched(graph, "free", 3)
    b = g.apply(a)
    found = match_activations(graph, model, a, b, x, gains="free")
    assert not found.dead
    assert difference(found.params, a) < 1e-9
    assert difference(match_activations(graph, model, a, b, x).params, a) > 0.1


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("name", ["mlp", "deep mlp", "vgg"])
def test_planted_elements_of_standard_forms_come_back_in_float32(precision, name) -> None:
    model = small_networks(precision)[name]
    graph = trace(model, pixels(4), FAMILIES[precision][1])
    a = standard_form(graph, _drawn(model, seed=1))
    g = random_element(graph, torch.Generator().manual_seed(1))
    found = match_activations(graph, model, a, standard_form(graph, g.apply(a)), pixels(64, seed=5))
    assert not found.dead
    assert not found.unseen
    assert found.objective == pytest.approx(sum(len(term.a) for term in found.problem.terms), abs=1e-4)
    if _distinct(found):
        assert difference(found.params, a) < 1e-4
    assert _distinct(found) or precision == "binary"


def _blocks_elements(graph: Graph, index: int):
    """All permutations of one block's units, wholes and insides of the blocks above it."""
    block = graph.blocks[index]
    for above in [None] if block.parent is None else _blocks_elements(graph, block.parent):
        count = 1 if above is None else len(above)
        for inner in itertools.product(itertools.permutations(range(block.size // count)), repeat=count):
            yield inside(block, above, torch.tensor(inner))


def _correlations(model, graph, a, b, x, name: str):
    """Literally: one network after the other, all samples at once, ``torch.corrcoef``."""
    outputs = []
    for params in (a, b):
        network = copy.deepcopy(model).double()
        network.load_state_dict(params)
        kept = []
        network.get_submodule(name).register_forward_hook(lambda m, i, o, kept=kept: kept.append(o.clone()))
        network(x)
        outputs.append(kept[0].movedim(1, 0).flatten(1).detach())
    n = len(outputs[0])
    return torch.corrcoef(torch.cat(outputs))[:n, n:]


@pytest.mark.parametrize("batch", [7, 64])
def test_one_block_is_solved_exactly_signs_too(batch) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    graph = trace(model, torch.randn(4, 4, dtype=torch.float64), FULL)
    x = 3 * torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    a, b = _drawn(model, seed=1), _drawn(model, seed=2)
    table = _correlations(model, graph, a, b, x, "1")
    best = max(sum(float(table[i, p[i]].abs()) for i in range(5)) for p in itertools.permutations(range(5)))
    both = _correlations(model, graph, a, b, x, "0")
    free = match_activations(graph, model, a, b, x, gains="free", batch=batch)
    literal = max(
        sum(float(table[i, p[i]].abs() + both[i, p[i]].abs()) for i in range(5))
        for p in itertools.permutations(range(5))
    )
    assert free.objective == pytest.approx(literal, rel=1e-9)
    assert free.gap == pytest.approx(0, abs=1e-9)
    # The generator that negates the gain is not searched; the other one, which negates offset and mean, is.
    fixed = match_activations(graph, model, a, b, x, batch=batch)
    assert fixed.values == {"0": ("1",)}
    gain, rest = fixed.element.diagonals[0]
    assert bool((gain == 1).all())
    assert bool((rest == -1).any())
    assert fixed.objective == pytest.approx(best, rel=1e-9)


def test_units_inside_groups_are_matched_with_their_groups_exactly() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).double()
    x = torch.randn(9, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace(model, x, FULL)
    wholes, inputs, outputs = graph.blocks
    assert (inputs.parent, outputs.parent, wholes.size) == (0, 0, 2)
    for seed in range(3):
        a, b = _drawn(model, seed=seed), _drawn(model, seed=seed + 10)
        first, second = (_correlations(model, graph, a, b, x, name) for name in ("0", "2"))

        def best(table, whole, block):
            return max(
                (sum(float(table[i, p[i]]) for i in range(block.size)), p[:: block.size // 2].tolist())
                for p in _blocks_elements(graph, graph.blocks.index(block))
                if bool((p[:: block.size // 2] // (block.size // 2) == torch.tensor(whole)).all())
            )[0]

        expected = max(best(first, w, inputs) + best(second, w, outputs) for w in ([0, 1], [1, 0]))
        found = match_activations(graph, model, a, b, x)
        assert found.objective == pytest.approx(expected, rel=1e-9)
        assert found.bound >= found.objective - 1e-9


def test_batches_change_nothing_and_far_means_do_not_cancel() -> None:
    model = fullprecision.mlp(6, [7, 5], 3).double().eval()
    graph = trace(model, torch.randn(4, 6).double(), FULL)
    a, b = _drawn(model, seed=1), _drawn(model, seed=2)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double() + 3e4
    values = [match_activations(graph, model, a, b, x, batch=batch) for batch in (1, 16, 50)]
    for other in values[1:]:
        assert other.objective == pytest.approx(values[0].objective, rel=1e-9)
        assert other.element == values[0].element


def test_nothing_that_was_given_is_changed() -> None:
    model = small_networks("full")["vgg"].train()
    graph = trace(model, pixels(4), FULL)
    before = parameters(model)
    a, b = _drawn(model, seed=1), _drawn(model, seed=2)
    kept = {name: tensor.clone() for name, tensor in a.items()}
    match_activations(graph, model, a, b, pixels(16))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert difference(before, parameters(model)) == difference(kept, a) == 0


def test_dead_units_score_nothing_and_are_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    graph = trace(model, torch.randn(4, 4), FULL)
    a, b = _drawn(model, seed=1), _drawn(model, seed=2)
    a["0.weight"][2] = 0
    b["0.weight"][[1, 4]] = 0
    found = match_activations(graph, model, a, b, torch.randn(30, 4, generator=torch.Generator().manual_seed(0)))
    assert found.dead == {"0": (1, 2)}
    assert bool(torch.isfinite(found.problem.terms[0].a).all())
    assert found.objective <= 5


def test_units_that_are_constant_to_rounding_are_dead() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph, a, b = trace(model, x, FULL), _drawn(model, seed=1), _drawn(model, seed=2)
    a["0.weight"][2], a["0.bias"][2] = 1e-9, 1.0
    assert match_activations(graph, model, a, b, x).dead == {"0": (1, 0)}


def test_of_generators_that_look_alike_one_is_searched() -> None:
    """Behind the normalisation alone, negated gains and negated rows cannot be told apart."""
    graph, model = _traced("batch norm, tanh")
    a, x = _drawn(model), double(MOTIFS["batch norm, tanh"].example(16))
    values = list(_values(graph, model, "free"))
    shown = list(zip(values, _moments(graph, copy.deepcopy(model), (a, a), (x,), values), strict=True))
    assert [value.odd for value in values if value.block == 0] == [(0, 1), (1, 1)]
    assert _told(graph, shown, "free")[0] == [0, 1]
    assert _told(graph, [entry for entry in shown if entry[0].module == "1"], "free")[0] == [0]
    assert _told(graph, [entry for entry in shown if entry[0].module == "0"], "free")[0] == [1]


def test_activations_in_place_do_not_reach_what_is_compared() -> None:
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)]
    plain, inplace = nn.Sequential(*layers).eval(), nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[2]).eval()
    graph = trace(plain, torch.randn(4, 4), FULL)
    a, b = _drawn(plain, seed=1), _drawn(plain, seed=2)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    found = [match_activations(graph, model, a, b, x).objective for model in (plain, inplace)]
    assert found[0] == found[1]


def test_blocks_that_no_module_shows_stay_and_are_named() -> None:
    graph, model = _traced("multi-head attention")
    a, b = _drawn(model, seed=1), _drawn(model, seed=2)
    found = match_activations(graph, model, a, b, double(MOTIFS["multi-head attention"].example(16)))
    names = [block.name for block in graph.blocks]
    assert found.unseen == tuple(name for name in names if name.startswith("1.attention.attention"))
    for index, name in enumerate(names):
        same = torch.equal(found.element.permutations[index], identity(graph).permutations[index])
        assert same == (name in found.unseen)


@pytest.mark.parametrize("name", sorted(FUNCTIONAL))
def test_networks_that_show_nothing_are_refused(name) -> None:
    graph, model = _traced(name)
    a = _drawn(model)
    with pytest.raises(SymmetryError, match="no module's output shows"):
        match_activations(graph, model, a, a, double(MOTIFS[name].example(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gains": "all"}, "'fixed' or 'free'"),
        ({"batch": 0}, "batch: expected"),
        ({"x": torch.ones(1, 6)}, "x: expected"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message) -> None:
    model = fullprecision.mlp(6, [4], 3)
    graph, a = trace(model, torch.randn(4, 6), FULL), parameters(model)
    with pytest.raises(ValueError, match=message):
        match_activations(graph, model, a, a, **{"x": torch.randn(4, 6), **options})


def test_correlations_agree_with_the_weights_on_a_residual_network() -> None:
    model = resnet18(width=4)
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    graph = trace(model, x[:2], FULL)
    a = standard_form(graph, _drawn(model, seed=1))
    g = _searched(graph, "fixed", 3)
    b = g.apply(a)
    found = match_activations(graph, model, a, b, x, batch=8)
    assert found.element == g.inverse()
    expected = call(model.eval(), a, x)
    torch.testing.assert_close(
        call(model, found.params, x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
    )
