"""Descents from several starts, and a search for better optima within a budget of time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from compare.symmetry.matching.annealing import anneal
from compare.symmetry.matching.moves import Moves, descend
from compare.symmetry.matching.problem import Problem, State, identity, objective, random_state
from compare.symmetry.matching.starts import descriptors, sweep

Start = Literal["annealing", "descriptors", "identity", "sweep", "random"]

_ANNEALING = 0.6
"""Part of a budget that annealing takes; the rest is for the descent behind it and for local search."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The best state found.

    Attributes:
        permutations: For each block int64 ``[units]``.
        signs: For each block +1 or -1, ``[generators, units]``.
        objective: Sum over terms, float64.
        starts: The objective reached from each start, in order, and by annealing and local search.
        sweeps: Rounds over the blocks in all descents.
        converged: Every descent ended where no block improves.
        seconds: Wall time.
        assignment_seconds: The part of it spent in linear assignments.
    """

    permutations: tuple[Tensor, ...]
    signs: tuple[Tensor, ...]
    objective: float
    starts: tuple[tuple[str, float], ...]
    sweeps: int
    converged: bool
    seconds: float
    assignment_seconds: float


class _Best:
    """The best state so far, and what was tried."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.state, self.value = identity(problem), -float("inf")
        self.starts: list[tuple[str, float]] = []
        self.sweeps, self.converged = 0, True

    def offer(self, name: str, state: State, sweeps: int, converged: bool) -> None:
        value = objective(self.problem, state)
        self.sweeps += sweeps
        self.converged &= converged
        if self.starts and self.starts[-1][0] == name == "local search":
            self.starts[-1] = name, max(value, self.starts[-1][1])
        else:
            self.starts.append((name, value))
        if value > self.value:
            self.state, self.value = state, value


def solve(problem: Problem, *, starts: Sequence[Start], seed: int = 0, budget_s: float | None = None) -> Solution:
    """Make the sum large: coordinate descents, or with a budget annealing and local search.

    Args:
        problem: What is matched.
        starts: Where descents begin; with a budget annealing alone, and what it reached.
        seed: Seed of all that is random. Without a budget the same seed gives the same result; with one the number of
            steps depends on the machine's speed.
        budget_s: Seconds to use, or None.

    Returns:
        The best of all.

    Raises:
        ValueError: For an unknown start, none at all, or a budget that is not positive and finite.
    """
    check_options(starts, budget_s)
    began = time.perf_counter()
    moves, generator = Moves(problem), torch.Generator().manual_seed(seed)
    best = _Best(problem)
    if budget_s is None or not problem.sizes:
        for start in starts:
            best.offer(start, *descend(moves, _started(moves, start, generator), generator))
    else:
        deadline = began + budget_s
        annealed = anneal(moves, generator, _ANNEALING * budget_s)
        best.offer("annealing", *descend(moves, annealed, generator, deadline=deadline))
        _search(moves, best, generator, deadline)
    return Solution(
        permutations=best.state.permutations,
        signs=best.state.signs,
        objective=best.value,
        starts=tuple(best.starts),
        sweeps=best.sweeps,
        converged=best.converged,
        seconds=time.perf_counter() - began,
        assignment_seconds=moves.assignment_seconds,
    )


def check_options(starts: Sequence[str], budget_s: float | None) -> None:
    """Raise ``ValueError`` for an unknown start, none at all, or a budget that is not positive and finite."""
    unknown = [start for start in starts if start not in get_args(Start)]
    if unknown or not starts:
        raise ValueError(f"starts: expected one or more of {', '.join(map(repr, get_args(Start)))}, got {list(starts)}")
    if budget_s is not None and not 0 < budget_s < math.inf:
        raise ValueError(f"budget_s: expected a positive number of seconds, or None, got {budget_s}")


def _started(moves: Moves, start: Start, generator: torch.Generator) -> State:
    if start == "annealing":
        return anneal(moves, generator)
    if start == "sweep":
        return sweep(moves)
    if start == "descriptors":
        return descriptors(moves)
    return random_state(moves.problem, generator) if start == "random" else identity(moves.problem)


def _search(moves: Moves, best: _Best, generator: torch.Generator, deadline: float) -> None:
    """Iterated local search: some units of one block shuffled, a descent from there, kept if better."""
    movable = [b for b, size in enumerate(moves.problem.sizes) if size > 1 and not moves.problem.rigid[b]]
    longest = 0.0
    while movable and time.perf_counter() + longest < deadline:
        began = time.perf_counter()
        block = movable[int(torch.randint(len(movable), (), generator=generator))]
        shuffled = _shuffled(moves.problem, best.state, block, generator)
        due = moves.workspace.neighbours(block) or {block}
        best.offer("local search", *descend(moves, shuffled, generator, due=set(due), deadline=deadline))
        longest = max(longest, time.perf_counter() - began)


def _shuffled(problem: Problem, state: State, block: int, generator: torch.Generator) -> State:
    """Between a quarter and a half of a block's units exchanged among themselves, inside their wholes."""
    size, parent = problem.sizes[block], problem.parents[block]
    wholes = 1 if parent is None else problem.sizes[parent]
    inner = size // wholes
    permutation, signs = state.permutations[block].clone(), state.signs[block].clone()
    for whole in range(wholes):
        share = 0.25 + 0.25 * float(torch.rand((), generator=generator))
        count = max(2, int(share * inner))
        places = whole * inner + torch.randperm(inner, generator=generator)[:count]
        mixed = places[torch.randperm(len(places), generator=generator)]
        permutation[places], signs[:, places] = permutation[mixed], signs[:, mixed]
    if problem.children(block):
        return _carried(problem, state, block, permutation, signs)
    return state.replaced(block, permutation, signs)


def _carried(problem: Problem, state: State, block: int, permutation: Tensor, signs: Tensor) -> State:
    """Wholes at new places, with their insides as they were."""
    order = torch.argsort(state.permutations[block])[permutation]
    moved = state.replaced(block, permutation, signs)
    for child in problem.children(block):
        inner = problem.sizes[child] // len(order)
        places = (order[:, None] * inner + torch.arange(inner)).flatten()
        moved = (
            _carried(problem, moved, child, state.permutations[child][places], state.signs[child][:, places])
            if problem.children(child)
            else moved.replaced(child, state.permutations[child][places], state.signs[child][:, places])
        )
    return moved
