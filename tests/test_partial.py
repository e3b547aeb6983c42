"""Networks of unequal width: brute force, deleted units, the same function in a wider shape, and what is refused."""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from motifs import MOTIFS, Own, double, real
from reference_nets import Attention
from torch import Tensor, nn
from zoo import FAMILIES, difference, randomised

import binarynets
import fullprecision
from compare.params import ParameterError, Params, call, parameters
from compare.symmetry import Element, Graph, SymmetryError, identity, match, random_element, trace
from compare.symmetry.partial import embedded, match_partial
from compare.symmetry.scores import sign_generators

FULL = FAMILIES["full"][1]


def _mlp(n: int, m: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, n), nn.BatchNorm1d(n), nn.Tanh(), nn.Linear(n, m), nn.ReLU(), nn.Linear(m, 3))


def _flattened(n: int, m: int) -> nn.Module:
    convolution = (nn.Conv2d(2, n, 3), nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*convolution, nn.Linear(n * 6, m), nn.ReLU(), nn.Linear(m, 3))


def _residual(n: int, m: int) -> nn.Module:
    body = nn.Sequential(nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU(), nn.Linear(m, n), nn.BatchNorm1d(n))
    return nn.Sequential(
        *(nn.Linear(4, n), nn.ReLU(), Own(lambda model, x: x + model.body(x), body=body)),
        *(nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 3)),
    )


def _concatenated(n: int, m: int) -> nn.Module:
    branches = {"left": nn.Conv2d(2, n, 3), "right": nn.Conv2d(2, m, 3)}
    joined = Own(lambda model, x: torch.cat([model.left(x), model.right(x)], dim=1), **branches)
    rest = (nn.BatchNorm2d(n + m), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n + m, 3))
    return nn.Sequential(joined, *rest)


def _grouped(n: int, m: int) -> nn.Module:
    convolutions = (nn.Conv2d(2, 2 * n, 3), nn.ReLU(), nn.Conv2d(2 * n, 2 * m, 2, groups=2), nn.ReLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * m, 3))


def _heads(n: int, m: int) -> nn.Module:
    attention = Own(lambda model, x: x + model.attention(x), attention=Attention(6, n))
    rest = (Own(lambda model, x: x.mean(1)), nn.Linear(6, m), nn.GELU(), nn.Linear(m, 3))
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), attention, *rest)


def _gated(n: int, m: int) -> nn.Module:
    gate = Own(lambda model, x: model.value(x) * model.gate(x).sigmoid(), value=nn.Linear(4, n), gate=nn.Linear(4, n))
    return nn.Sequential(gate, nn.Linear(n, m), nn.ReLU(), nn.Linear(m, 3))


Builder = Callable[[int, int], nn.Module]
BUILDERS: dict[str, tuple[Builder, Callable[[int], Tensor]]] = {
    "mlp": (_mlp, real(4)),
    "flattened": (_flattened, real(2, 6, 8)),
    "residual": (_residual, real(4)),
    "concatenated": (_concatenated, real(2, 6, 7)),
    "grouped": (_grouped, real(2, 6, 7)),
    "heads": (_heads, real(5, 4)),
    "gated": (_gated, real(4)),
}
each = pytest.mark.parametrize("name", BUILDERS)


@functools.cache
def _traced(name: str, n: int, m: int) -> tuple[nn.Module, Graph]:
    build, example = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(n, m).eval()
    return model.double(), trace(model, double(example(4)), FULL)


def _drawn(model: nn.Module, seed: int = 0) -> Params:
    types = parameters(model)
    return {name: tensor.to(types[name].dtype) for name, tensor in randomised(model, seed=seed).items()}


def _searched(graph: Graph, seed: int, gains="fixed") -> Element:
    """A random element without scales, its signs those that matching searches."""
    drawn = random_element(graph, torch.Generator().manual_seed(seed))
    diagonals = [torch.ones_like(d) for d in drawn.diagonals]
    for kept, d, chosen in zip(diagonals, drawn.diagonals, sign_generators(graph, gains), strict=True):
        kept[list(chosen)] = d[list(chosen)]
    return Element(graph, drawn.permutations, tuple(diagonals))


def _filled(wide: Graph, narrow: Graph, params: Params) -> Params:
    """A wider network of which ``params`` is a part; entries added are random, and small, or they match better."""
    first, second = (embedded(narrow, {n: t + s for n, t in params.items()}, wide) for s in (0, 1))
    generator = torch.Generator().manual_seed(9)
    return {
        n: torch.where(first[n] == second[n], 0.2 * torch.randn(t.shape, generator=generator, dtype=torch.float64), t)
        if t.is_floating_point() and "running_var" not in n
        else t
        for n, t in first.items()
    }


@each
@pytest.mark.parametrize("gains", ["fixed", "free"])
def test_a_network_with_units_deleted_is_found_in_the_whole(name, gains) -> None:
    """Deleted, permuted and negated; found again, exactly, whichever of the two is a."""
    (model, narrow), (_, wide) = _traced(name, 3, 4), _traced(name, 5, 6)
    part = _drawn(model, seed=1)
    whole = _filled(wide, narrow, part)
    g, h = _searched(narrow, 1, gains), _searched(wide, 2, gains)
    found = match_partial(wide, whole, narrow, g.apply(part), gains=gains)
    assert difference(found.params, part) < 1e-12
    for places, pairs, extra, block, bigger in zip(
        found.places, found.pairs, found.extra_a, narrow.blocks, wide.blocks, strict=True
    ):
        assert len(pairs) == block.size
        assert len(extra) == bigger.size - block.size
        assert sorted([*places.tolist(), *extra.tolist()]) == list(range(bigger.size))
    assert all(len(extra) == 0 for extra in found.extra_b)
    assert found.share_b == (0.0,) * len(narrow.blocks)
    assert found.objective == pytest.approx(_square(narrow, part), rel=1e-9)
    assert found.gap >= -1e-4 * found.objective

    back = match_partial(narrow, part, wide, h.apply(whole), gains=gains)
    assert back.objective == pytest.approx(found.objective, rel=1e-9)
    for one, other in zip(found.share_a, back.share_b, strict=True):
        assert one == pytest.approx(other)
    x = double(BUILDERS[name][1](8))
    torch.testing.assert_close(call(_traced(name, 5, 6)[0], back.params, x), call(_traced(name, 5, 6)[0], whole, x))


def _square(graph: Graph, params: Params) -> float:
    tied = {tie.name for block in graph.blocks for tie in block.ties if tie.scored}
    names = tied | {y.weight for y in graph.layers} | {y.bias for y in graph.layers if y.bias and not y.norm}
    normalised = {y.bias for y in graph.layers if y.norm}
    return sum(float(params[name].double().square().sum()) for name in names - normalised)


def _one_hidden(size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, size, bias=False), nn.ReLU(), nn.Linear(size, 2, bias=False)).eval()


def _one_binary(size: int) -> nn.Module:
    first, last = binarynets.BinaryLinear(6, size), binarynets.BinaryLinear(size, 2)
    return nn.Sequential(first, nn.BatchNorm1d(size), binarynets.Sign(), last).eval()


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("seed", range(2))
def test_one_hidden_layer_equals_brute_force_and_the_bound(precision, sizes, seed) -> None:
    build = {"full": _one_hidden, "binary": _one_binary}[precision]
    models = [build(size) for size in sizes]
    graphs = [trace(model, torch.ones(4, 6), FAMILIES[precision][1]) for model in models]
    a, b = (randomised(model, seed=seed + shift) for shift, model in enumerate(models))
    found = match_partial(graphs[0], a, graphs[1], b)
    (w, v), (x, y) = ([params[layer.weight].double() for layer in graphs[0].layers] for params in (a, b))
    table = w @ x.T + v.T @ y
    table = table.abs() if precision == "binary" else table
    few, many = sorted(sizes)
    ordered = table if sizes[0] <= sizes[1] else table.T
    choices = itertools.permutations(range(many), few)
    best = max(sum(float(ordered[i, j]) for i, j in enumerate(chosen)) for chosen in choices)
    assert found.objective == pytest.approx(best, rel=1e-6)
    assert found.gap == pytest.approx(0, abs=1e-6 * abs(best))
    assert len(found.pairs[0]) == few
    assert sum(float(table[i, j]) for i, j in found.pairs[0].tolist()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("name", sorted(MOTIFS))
def test_networks_of_equal_width_match_as_ever(name) -> None:
    motif = MOTIFS[name]
    model = motif.build()
    graph = trace(model, motif.example(4), FAMILIES[motif.precision][1], certify=False)
    a, b = randomised(model, seed=1), randomised(model, seed=2)
    usual = match(graph, a, b, starts=("descriptors",))
    found = match_partial(graph, a, graph, b, starts=("descriptors",))
    assert found.objective == pytest.approx(usual.objective, rel=1e-6)
    assert found.element == usual.element
    assert difference(found.params, usual.params) == 0
    assert all(len(extra) == 0 for extra in (*found.extra_a, *found.extra_b))
    assert all(torch.equal(places, torch.arange(len(places))) for places in found.places)


def test_the_share_of_extra_units_is_their_part_of_the_squared_norm() -> None:
    (small, narrow), (large, wide) = _traced("mlp", 3, 4), _traced("mlp", 5, 6)
    a, b = _drawn(large, seed=1), _drawn(small, seed=2)
    found = match_partial(wide, a, narrow, b)
    extra = found.extra_a[0]
    norms = a["0.weight"].square().sum(1) + a["3.weight"].square().sum(0)
    assert found.share_a[0] == pytest.approx(float(norms[extra].sum() / norms.sum()))


@each
def test_in_a_wider_shape_the_function_is_the_same(name) -> None:
    (model, narrow), (wide_model, wide) = _traced(name, 3, 4), _traced(name, 5, 6)
    params, x = _drawn(model, seed=3), double(BUILDERS[name][1](16))
    expected = call(model, params, x)
    torch.testing.assert_close(call(wide_model, embedded(narrow, params, wide), x), expected, rtol=1e-10, atol=1e-10)
    g = _searched(wide, 4)
    found = match_partial(wide, g.apply(_filled(wide, narrow, params)), narrow, params)
    placed = embedded(narrow, found.params, wide, places=found.places)
    torch.testing.assert_close(call(wide_model, placed, x), expected, rtol=1e-10, atol=1e-10)
    # It stands where its partners stand: the entries are those of the wider network, or none.
    whole = g.apply(_filled(wide, narrow, params))
    for layer in wide.layers:
        assert bool(((placed[layer.weight] - whole[layer.weight]).abs() < 1e-12)[placed[layer.weight] != 0].all())
    wide.check(placed)


def test_networks_of_one_shape_are_embedded_as_they_are() -> None:
    for family, module in ((FULL, fullprecision), (binarynets.FAMILY, binarynets)):
        model = module.mlp(4, [3], 2).eval()
        graph = trace(model, torch.ones(2, 4), family)
        params = randomised(model)
        assert difference(embedded(graph, params, graph), params) == 0


def _error(act: Callable[[], object]) -> str:
    with pytest.raises(SymmetryError) as caught:
        act()
    return str(caught.value)


def test_embedding_refuses_what_would_change_the_function() -> None:
    (model, narrow), (wide_model, wide) = _traced("mlp", 3, 4), _traced("mlp", 5, 6)
    assert "block '0': expected at least as many units in the wider network, got 3 for 5" in _error(
        lambda: embedded(wide, parameters(wide_model), narrow)
    )
    binary = [binarynets.mlp(4, [size], 2) for size in (3, 5)]
    graphs = [trace(each_model, torch.ones(2, 4), binarynets.FAMILY) for each_model in binary]
    assert "latent weights" in _error(lambda: embedded(graphs[0], parameters(binary[0]), graphs[1]))
    normed = [nn.Sequential(nn.Linear(4, n), nn.LayerNorm(n), nn.ReLU(), nn.Linear(n, 3)) for n in (3, 5)]
    graphs = [trace(each_model, torch.randn(2, 4), FULL) for each_model in normed]
    assert "treat each unit alone, got '1.weight'" in _error(
        lambda: embedded(graphs[0], parameters(normed[0]), graphs[1])
    )
    for places in ([0, 1, 1], [0, 1, 5], [0, 1, -1], [0, 1]):
        wrong = (torch.tensor(places), torch.arange(4))
        assert "expected 3 different units from 0 to 4" in _error(
            lambda wrong=wrong: embedded(narrow, parameters(model), wide, places=wrong)
        )


def test_other_architectures_are_refused_by_name() -> None:
    model, graph = _traced("mlp", 3, 4)
    a = parameters(model)

    def against(other: nn.Module, shape: int = 4) -> str:
        other = other.double().eval()
        graph_b = trace(other, torch.randn(4, shape, dtype=torch.float64), FULL)
        return _error(lambda: match_partial(graph, a, graph_b, parameters(other)))

    layers = (nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh())
    assert "expected the blocks of graph_a, 0, 3; got 0" in against(nn.Sequential(*layers, nn.Linear(5, 3)))
    changed = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    assert "block '0': expected the same tensors, signs and scales" in against(changed)
    wider_input = nn.Sequential(nn.Linear(6, 5), *layers[1:], nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    assert "'0.weight': expected as many entries that do not move on axis 1 in both networks, got 4 and 6" in against(
        wider_input, 6
    )
    more_outputs = nn.Sequential(*layers, nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    assert "'5.weight'" in against(more_outputs)


def test_units_that_keep_their_order_are_refused() -> None:
    def build(n: int) -> nn.Module:
        crosswise = (nn.Conv2d(n, n, 2, groups=2), nn.ReLU(), nn.Conv2d(n, n, 2, groups=3), nn.ReLU())
        end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 3))
        return nn.Sequential(nn.Conv2d(2, n, 3), nn.ReLU(), *crosswise, *end)

    models = [build(n) for n in (6, 12)]
    graphs = [trace(model, torch.randn(2, 2, 9, 9), FULL) for model in models]
    assert any(block.rigid for block in graphs[0].blocks)
    assert "its units keep their order" in _error(
        lambda: match_partial(graphs[0], parameters(models[0]), graphs[1], parameters(models[1]))
    )


def test_parameters_of_the_wrong_network_and_unknown_options_are_refused() -> None:
    (small, narrow), (large, wide) = _traced("mlp", 3, 4), _traced("mlp", 5, 6)
    a, b = parameters(large), parameters(small)
    with pytest.raises(ParameterError, match="b does not fit"):
        match_partial(wide, a, narrow, a)
    with pytest.raises(ValueError, match="'latent' or 'binarised'"):
        match_partial(wide, a, narrow, b, weights="none")
    with pytest.raises(ValueError, match="'fixed' or 'free'"):
        match_partial(wide, a, narrow, b, gains="none")


def test_the_element_of_the_result_is_one_of_the_narrower_network() -> None:
    (small, narrow), (large, wide) = _traced("grouped", 3, 4), _traced("grouped", 5, 6)
    found = match_partial(wide, _drawn(large, seed=1), narrow, _drawn(small, seed=2))
    assert found.element.graph is narrow
    assert found.element != identity(narrow)
    assert difference(found.element.apply(_drawn(small, seed=2)), found.params) == 0
