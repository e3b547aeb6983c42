"""An upper bound of what matching can reach."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compare.symmetry.matching.problem import Problem, Term
from compare.symmetry.matching.similarity import scores


def bound(problem: Problem) -> float:
    """A number that no state's objective exceeds: the sum of what parts of the objective can reach alone.

    Terms of one block alone are taken together and solved exactly, so that for one hidden layer the bound is the
    optimum; blocks nested in wholes are relaxed to blocks of their own. A term between two blocks is bounded by the
    smaller of two relaxations: orthogonal matrices instead of (signed) permutations, sum of products of singular
    values (von Neumann), for each place of the fixed axis; and each row's entries sorted freely, rows assigned.

    Args:
        problem: The matching problem.

    Returns:
        The bound, to float32 rounding of the terms' products.
    """
    total = 0.0
    for block in range(len(problem.sizes)):
        alone = tuple(term for term in problem.terms if term.blocks == (block,))
        if alone:
            total += _alone(problem, block, alone)
    return total + sum(_between(term) for term in problem.terms if len(term.blocks) == 2)


def _alone(problem: Problem, block: int, terms: tuple[Term, ...]) -> float:
    sums: dict[tuple[int, ...], Tensor] = {}
    for term in terms:
        found = term.a.double().flatten(1) @ term.b.double().flatten(1).T
        sums[term.parities[0]] = sums.get(term.parities[0], torch.zeros((), dtype=torch.float64)) + found
    score = scores(sums, problem.signs[block])[0]
    if problem.rigid[block] and problem.parents[block] is None:
        return float(score.diagonal().sum())
    rows, columns = linear_sum_assignment(score.numpy(), maximize=True)
    return float(score[rows, columns].sum())


def _between(term: Term) -> float:
    a, b = term.a.double(), term.b.double()
    neumann = float((torch.linalg.svdvals(a.movedim(2, 0)) * torch.linalg.svdvals(b.movedim(2, 0))).sum())
    if term.blocks[0] == term.blocks[1]:
        return neumann
    signed = any(any(parity) for parity in term.parities)
    return min(neumann, _sorted_rows(a, b, signed=signed))


def _sorted_rows(a: Tensor, b: Tensor, *, signed: bool) -> float:
    """Rows assigned, each pair's score its largest inner product over all orders (and signs) of entries."""
    left, right = ((t.abs() if signed else t).sort(1).values.flatten(1) for t in (a, b))
    score = left @ right.T
    rows, columns = linear_sum_assignment(score.numpy(), maximize=True)
    return float(score[rows, columns].sum())
