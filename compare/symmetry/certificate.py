"""Proof on data: random elements of the claimed group must leave the network's function as it is."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from compare.params import Params, parameters
from compare.symmetry.element import Element, identity, random_element
from compare.symmetry.graph import Graph, SymmetryError

TOLERANCE = 1e-9


def certify(model: nn.Module, graph: Graph, x: Tensor, *, draws: int = 2, seed: int = 0) -> None:
    """Compare outputs before and after random elements, in float64, on randomised parameters and statistics.

    Parameters and buffers are randomised first, since fresh ones (all means 0, all variances 1) would hide a buffer
    that was forgotten. Where the graph is exact (binary networks on integers), outputs must be equal bit for bit.

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
    x = torch.cat([x.detach(), drawn_like(x, generator).to(x.dtype)])
    x = x.double() if x.is_floating_point() else x
    tolerance = 0.0 if graph.exact else TOLERANCE
    for _ in range(draws):
        params = randomised(parameters(working), generator)
        element = random_element(graph, generator)
        expected = _outputs(working, params, x)
        if _difference(expected, _outputs(working, element.apply(params), x)) <= tolerance:
            continue
        broken = [
            name
            for name, part in _parts(element)
            if not _difference(expected, _outputs(working, part.apply(params), x)) <= tolerance
        ]
        raise SymmetryError(
            f"the symmetries of {', '.join(broken) or 'several blocks together'} do not hold: outputs changed under a "
            "random element of the group. A rule claims more than the operation has: correct the one that was passed, "
            "or take the module into opaque=[...] or frozen=[...]. Or, in a quantised network, sums lie exactly on "
            "thresholds of rounding, where the order of summation decides: a power of two as scale, or normalisation "
            "before the quantiser, avoids that, and certify=False does without the proof. Else please report it"
        )


def drawn_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Inputs of the example's shape: its own entries in another order where they are integers, normal ones else.

    Integers keep their range and parity so: it is by parity that sums of an odd number of signs are never 0. An example
    of one number alone would prove nothing, so integers are drawn around it.
    """
    if not bool((x == x.round()).all()):
        return 3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    if x.is_floating_point() and bool((x == x.flatten()[0]).all()):
        return x + (3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).round()
    return x.flatten()[torch.randint(x.numel(), (x.numel(),), generator=generator)].view(x.shape)


def randomised(params: Params, generator: torch.Generator) -> Params:
    """Parameters and buffers with nothing left at its default; variances stay positive."""
    drawn = {}
    for name, tensor in params.items():
        if not tensor.is_floating_point():
            drawn[name] = tensor
            continue
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        positive = "var" in name.rpartition(".")[2]
        drawn[name] = tensor.abs() + torch.exp(noise) if positive else tensor + 0.1 * noise
    return drawn


def _outputs(model: nn.Module, params: Params, x: Tensor) -> list[Tensor]:
    try:
        with torch.no_grad():
            return list(_tensors(torch.func.functional_call(model, params, (x,))))
    except RuntimeError as error:
        raise SymmetryError(
            f"the certificate runs the network in float64, which {type(model).__name__} does not bear: {error}. "
            "Constant tensors belong into buffers (register_buffer), which follow; or pass certify=False"
        ) from error


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)


def _difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """Largest difference relative to the output's largest magnitude; infinite where there is no number."""
    worst = 0.0
    for whole, other in zip(expected, got, strict=True):
        usable = torch.isfinite(whole)
        if not bool(usable.any()):
            raise SymmetryError(
                "outputs are not finite at random parameters and inputs, so that nothing can be certified: expected a "
                "network that bears inputs of either sign; pass an example_input of its kind, or certify=False"
            )
        a, b = whole[usable], other[usable]
        found = float((a - b).abs().max() / a.abs().max().clamp_min(1e-300))
        worst = max(worst, found if found == found else float("inf"))
    return worst


def _parts(element: Element) -> Iterator[tuple[str, Element]]:
    """Elements that act on one block, with the blocks that it carries along, as ``element`` does."""
    graph, rest = element.graph, identity(element.graph)
    for index, block in enumerate(graph.blocks):
        family = {i for i in range(len(graph.blocks)) if _root(graph, i) == _root(graph, index)}
        yield (
            f"'{block.name}'",
            Element(
                graph,
                tuple((element if i in family else rest).permutations[i] for i in range(len(graph.blocks))),
                tuple((element if i == index else rest).diagonals[i] for i in range(len(graph.blocks))),
            ),
        )


def _root(graph: Graph, index: int) -> int:
    parent = graph.blocks[index].parent
    return index if parent is None else _root(graph, parent)
