"""Proof on data: random elements of the claimed group must leave the network's function as it is."""

import copy

import torch
from torch import Tensor, nn

from compare.params import Params, call, parameters
from compare.symmetry.element import Element, identity, random_element
from compare.symmetry.graph import Graph, SymmetryError

TOLERANCE = 1e-9


def certify(model: nn.Module, graph: Graph, x: Tensor, *, draws: int = 3, seed: int = 0) -> None:
    """Compare outputs before and after random elements, in float64, on randomised parameters and statistics.

    Parameters and buffers are randomised first, since fresh ones (all means 0, all variances 1) would hide a buffer
    that was forgotten.

    Args:
        model: The network; it is not changed.
        graph: Its claimed symmetries.
        x: Inputs ``[batch, ...]``.
        draws: Number of parameter draws, each with its own element.
        seed: Seed of all draws.

    Raises:
        SymmetryError: If outputs differ by more than 1e-9 of their largest magnitude; the message names the block.
    """
    working = copy.deepcopy(model).eval().double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([x.detach().double(), _drawn_like(x, generator)])
    for _ in range(draws):
        params = _randomised(parameters(working), graph, generator)
        element = random_element(graph, generator)
        if _difference(working, params, element, x) <= TOLERANCE:
            continue
        broken = [
            block.name
            for index, block in enumerate(graph.blocks)
            if _difference(working, params, _only(element, index), x) > TOLERANCE
        ]
        raise SymmetryError(
            f"the symmetries of {', '.join(map(repr, broken)) or 'several blocks together'} do not hold: "
            "outputs changed under a random element of the group. "
            "A rule claims more than the operation has; correct the rule passed to compare.trace"
        )


def _drawn_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Inputs of the example's shape, integers where it has integers: an example may be all zeros, and prove nothing."""
    drawn = 3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return drawn.round() if bool((x == x.round()).all()) else drawn


def _difference(model: nn.Module, params: Params, element: Element, x: Tensor) -> float:
    with torch.no_grad():
        expected, got = call(model, params, x), call(model, element.apply(params), x)
    return float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-300))


def _only(element: Element, index: int) -> Element:
    """The element that acts on one block as ``element`` does, and leaves the others."""
    rest = identity(element.graph)
    pick = range(len(element.permutations))
    return Element(
        element.graph,
        tuple(element.permutations[i] if i == index else rest.permutations[i] for i in pick),
        tuple(element.diagonals[i] if i == index else rest.diagonals[i] for i in pick),
    )


def _randomised(params: Params, graph: Graph, generator: torch.Generator) -> Params:
    positive = {layer.norm.variance for layer in graph.layers if layer.norm}
    drawn = {}
    for name, tensor in params.items():
        if not tensor.is_floating_point():
            drawn[name] = tensor
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        drawn[name] = tensor.abs() + torch.exp(noise) if name in positive else tensor + 0.1 * noise
    return drawn
