"""An upper bound of what matching can reach."""

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compare.params import Params
from compare.symmetry.graph import Graph


def upper_bound(graph: Graph, a: Params, b: Params, best_on_block: Callable[[int, set[str]], float]) -> float:
    """A number that no group element's objective exceeds: tensor by tensor, the best of that tensor alone.

    Tensors that belong to one block only are taken together and solved exactly, so that for one hidden layer the bound
    is the optimum. A tensor between two blocks is bounded by the smaller of two relaxations: orthogonal matrices
    instead of (signed) permutations, sum of products of singular values (von Neumann); and each row's entries sorted
    freely, rows assigned. Tensors no block touches count as they are.

    Args:
        graph: The network's symmetries.
        a: Scored tensors, float64.
        b: Likewise.
        best_on_block: Exact optimum of one block on tensors of its own.

    Returns:
        The bound.
    """
    owners: dict[str, list[int]] = {name: [] for name in a}
    for index, block in enumerate(graph.blocks):
        for tie in block.ties:
            if tie.scored:
                owners[tie.name].append(index)
    total = sum(float((a[name] * b[name]).sum()) for name, blocks in owners.items() if not blocks)
    for index in range(len(graph.blocks)):
        alone = {name for name, blocks in owners.items() if blocks == [index]}
        total += best_on_block(index, alone) if alone else 0.0
    for name, blocks in owners.items():
        if len(blocks) > 1:
            signed = any(graph.blocks[index].signs for index in blocks)
            total += min(_von_neumann(a[name], b[name]), _sorted_rows(a[name], b[name], signed=signed))
    return total


def _von_neumann(a: Tensor, b: Tensor) -> float:
    """Sum over kernel places of the sum of products of singular values of ``[out, in]`` matrices."""
    left, right = (t.flatten(2).movedim(2, 0) if t.ndim > 2 else t[None] for t in (a, b))
    return float((torch.linalg.svdvals(left) * torch.linalg.svdvals(right)).sum())


def _sorted_rows(a: Tensor, b: Tensor, *, signed: bool) -> float:
    """Rows assigned, each pair's score its largest inner product over all orders (and signs) of entries."""
    left, right = ((t.abs() if signed else t).flatten(1).sort(1).values for t in (a, b))
    score = left @ right.T
    rows, columns = linear_sum_assignment(score.numpy(), maximize=True)
    return float(score[rows, columns].sum())
