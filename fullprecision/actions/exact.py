"""Exact actions: the general linear group on linear blocks, positive diagonals on homogeneous ones and powers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compare.params import Params
from compare.symmetry import Element, Graph, identity
from fullprecision.actions.hidden import ActionError, Hidden

_SINGULAR = 1e12
"""Condition numbers from here on leave fewer than four digits of float64."""


def act_linearly(hidden: Hidden, params: Params, g: Tensor) -> Params:
    """(U, V, b) -> (U g^-1, g V, g b): the same function, for every invertible g, where nothing lies between U and V.

    Args:
        hidden: A linear block.
        params: Parameters and buffers by name; not changed.
        g: ``[units, units]``, invertible.

    Returns:
        New parameters; outputs agree to rounding.

    Raises:
        ActionError: If an activation lies between, or g is no invertible matrix of that size.
    """
    if not hidden.linear:
        raise ActionError(
            f"{hidden.inner}: an activation follows, so the general linear group does not act: use scaling (where it "
            "is homogeneous) or act_on_batch"
        )
    wide = check_element(hidden, g)
    v, b = hidden.inner_of(params)
    moved = torch.linalg.solve(wide.T, hidden.outer_of(params).double().T).T
    return hidden.replaced(params, wide @ v.double(), None if b is None else wide @ b.double(), moved)


def check_element(hidden: Hidden, g: Tensor) -> Tensor:
    """``g`` in float64.

    Raises:
        ActionError: If it is no finite, invertible square matrix of the block's size.
    """
    if g.shape != (hidden.units, hidden.units):
        raise ActionError(
            f"g: expected a matrix [{hidden.units}, {hidden.units}] for the units of {hidden.inner}, "
            f"got {list(g.shape)}"
        )
    beyond = int((~torch.isfinite(g)).sum())
    if beyond:
        raise ActionError(f"g: expected finite entries, got {beyond} of {g.numel()} that are NaN or infinite")
    wide = g.double()
    condition = float(torch.linalg.cond(wide))
    if not condition < _SINGULAR:
        raise ActionError(f"g: expected an invertible matrix, got one of condition {condition:.2g}")
    return wide


def scaling(graph: Graph, block: str, factors: Tensor | Sequence[float]) -> Element:
    """The element that multiplies each unit of one block by a positive number, and has the next layer undo it.

    Args:
        graph: The network's symmetries, from ``compare.trace``.
        block: Name of a block of the graph.
        factors: Positive numbers ``[units]``.

    Returns:
        The element; ``.apply(params)`` acts.

    Raises:
        ActionError: If the graph has no such block, or its activation admits no scales.
        SymmetryError: If factors are not positive, or not one for each unit.

    Example:
        >>> import compare, fullprecision
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> graph = compare.trace(model, torch.randn(4, 3), fullprecision.FAMILY)
        >>> moved = scaling(graph, "0", [2.0, 0.5]).apply(compare.parameters(model))
        >>> torch.equal(moved["0.bias"], model[0].bias * torch.tensor([2.0, 0.5]))
        True
    """
    names = [each.name for each in graph.blocks]
    if block not in names:
        raise ActionError(f"block: expected one of {', '.join(names) or 'none'}, got {block!r}")
    index = names.index(block)
    kinds = [generator.kind for generator in graph.blocks[index].generators]
    if "scale" not in kinds:
        raise ActionError(f"{block}: its activation is not homogeneous, no scales are admitted; use act_on_batch")
    start = identity(graph)
    row = torch.as_tensor(factors, dtype=torch.float64)
    diagonals = list(start.diagonals)
    diagonals[index] = torch.stack(
        [row if place == kinds.index("scale") else each for place, each in enumerate(diagonals[index])]
    )
    return Element(graph, start.permutations, tuple(diagonals))
