"""Laws of the standard form on every motif, with normalisation kept and folded."""

import pytest
import torch
from motifs import MOTIFS, Motif, double
from zoo import FAMILIES, randomised

from compare.params import Params, call, parameters
from compare.symmetry import Element, Graph, dead_units, random_element, standard_form, trace

motifs = pytest.mark.parametrize("motif", MOTIFS.values(), ids=list(MOTIFS))
kinds = pytest.mark.parametrize("normalisation", ["kept", "folded"])


def _setup(motif: Motif, seed: int = 0) -> tuple[torch.nn.Module, Graph, Params, torch.Tensor]:
    model = motif.build()
    graph = trace(model, motif.example(4), FAMILIES[motif.precision][1], certify=False)
    params = randomised(model, seed=seed)
    # Gains of both signs, and no variance so large that what follows is noise.
    generator = torch.Generator().manual_seed(seed)
    for name in graph.gains:
        params[name] = params[name] * (2 * torch.randint(2, params[name].shape, generator=generator) - 1)
    params = {name: t.double() if t.is_floating_point() else t for name, t in params.items()}
    return model.double(), graph, params, double(motif.example(64))


def double_graph(graph: Graph, params: Params) -> Graph:
    """The same graph for float64 parameters."""
    from dataclasses import replace

    return replace(graph, reference=params)


@motifs
@kinds
@pytest.mark.parametrize("seed", range(3))
def test_outputs_and_decisions_stay(motif, normalisation, seed) -> None:
    model, graph, params, x = _setup(motif, seed)
    graph = double_graph(graph, params)
    before = call(model, params, x)
    same = call(model, standard_form(graph, params, invariant="loss", normalisation=normalisation), x)
    assert float((before - same).abs().max()) <= 1e-9 * float(before.abs().max())
    if before.ndim == 2:
        form = standard_form(graph, params, normalisation=normalisation)
        assert torch.equal(before.argmax(1), call(model, form, x).argmax(1))


@motifs
@kinds
def test_the_form_is_a_fixed_point(motif, normalisation) -> None:
    _, graph, params, _ = _setup(motif)
    graph = double_graph(graph, params)
    once = standard_form(graph, params, normalisation=normalisation)
    twice = standard_form(graph, once, normalisation=normalisation)
    assert _close(once, twice)


@motifs
@kinds
@pytest.mark.parametrize("seed", range(2))
def test_scales_and_signs_of_gains_vanish_and_the_rest_follows(motif, normalisation, seed) -> None:
    """c(g x) = h c(x), with h the permutations and the other signs of g."""
    _, graph, params, _ = _setup(motif, seed)
    graph = double_graph(graph, params)
    g = random_element(graph, torch.Generator().manual_seed(seed))
    kept = [d.clone() for d in g.diagonals]
    for block, rows in zip(graph.blocks, kept, strict=True):
        for row, generator in zip(rows, block.generators, strict=True):
            if generator.kind == "scale" or generator.pivot.name in graph.gains:
                row.fill_(1)
    h = Element(graph, g.permutations, tuple(kept))
    expected = h.apply(standard_form(graph, params, normalisation=normalisation))
    assert _close(standard_form(graph, g.apply(params), normalisation=normalisation), expected)


def _close(a: Params, b: Params) -> bool:
    return all(torch.allclose(a[name].double(), b[name].double(), rtol=1e-8, atol=1e-8) for name in a)


@motifs
def test_folded_statistics_are_gone(motif) -> None:
    _, graph, params, _ = _setup(motif)
    graph = double_graph(graph, params)
    form = standard_form(graph, params, normalisation="folded")
    for layer in graph.layers:
        norm = layer.norm
        if norm is None or norm.gain is None or (layer.pooled and bool((form[norm.gain] < 0).any())):
            continue
        if form[layer.weight].shape[layer.axis] != len(form[norm.mean]):
            continue
        assert float(form[norm.mean].abs().max()) == 0
        assert torch.allclose(form[norm.variance], torch.full_like(form[norm.variance], 1 - norm.eps))


def test_the_standard_form_of_a_folded_network_in_the_papers_words() -> None:
    """A literal oracle for an MLP with ReLU: fold, then unit rows with the norms moved on."""
    motif = MOTIFS["batch norm"]
    _, graph, params, _ = _setup(motif)
    graph = double_graph(graph, params)
    form = standard_form(graph, params, normalisation="folded")
    first, last = next(layer for layer in graph.layers if layer.norm), graph.layers[-1]
    norm = first.norm
    scale = params[norm.gain] / torch.sqrt(params[norm.variance] + norm.eps)
    shift = params[first.bias] if first.bias else 0.0
    weight, bias = params[first.weight] * scale[:, None], (shift - params[norm.mean]) * scale + params[norm.offset]
    # Negative gains went into the weights: gains are +1 now.
    size = weight.norm(dim=1)
    assert torch.allclose(form[first.weight], weight / size[:, None])
    assert torch.allclose(form[norm.offset], bias / size)
    assert torch.allclose(form[norm.gain], torch.ones_like(size))
    assert last.last
    assert float(form[last.weight].norm()) == pytest.approx(1)


def test_dead_units_are_counted_in_any_network() -> None:
    motif = MOTIFS["residual cnn"]
    _, graph, params, _ = _setup(motif)
    layer = graph.layers[1]
    params[layer.weight][2] = 0
    params = {name: t.float() if t.is_floating_point() else t for name, t in params.items()}
    assert dead_units(graph, params)[layer.name] == 1
    assert sum(dead_units(graph, parameters(motif.build())).values()) == 0
