"""The best move of one block, or of wholes with everything nested in them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compare.symmetry.matching.problem import Problem, State, objective
from compare.symmetry.matching.similarity import Similarities, Workspace, scores, sign_choices, value_of

_RELATIVE = 1e-6
"""Gains below this part of the present value are rounding: two equal solutions would alternate for ever."""

_MOST_SWEEPS = 100


class Moves:
    """Improving moves on a problem; counts the time that assignments take.

    Attributes:
        problem: What is solved.
        workspace: Its terms.
        assignment_seconds: Time spent in linear assignments so far.
        longest: The longest time that one block took.
    """

    def __init__(self, problem: Problem) -> None:
        """Lay out the problem."""
        self.problem = problem
        self.workspace = Workspace(problem)
        self.assignment_seconds = 0.0
        self.longest = 0.0

    def improve(self, state: State, block: int) -> State | None:
        """The state with the block's units (and what is nested in them) placed best; None if that is no better."""
        children = self.problem.children(block)
        if children or self.workspace.has_itself(block):
            proposal = self._family(state, block) if children else self.placed(state, block)
            after, before = objective(self.problem, proposal), objective(self.problem, state)
            return proposal if self._better(block, after, before) else None
        found = self.workspace.similarity(block, state)
        permutation, signs = self.assign(block, found, state)
        before = value_of(found, state.permutations[block], state.signs[block])
        after = value_of(found, permutation, signs)
        return state.replaced(block, permutation, signs) if self._better(block, after, before) else None

    def _better(self, block: int, after: float, before: float) -> bool:
        """Whether a gain is more than float32 rounding of the products that were summed."""
        rounding = _RELATIVE * abs(before) + 1e-7 * self.workspace.sizes[block]
        return after > before + max(1e-30, rounding)

    def placed(self, state: State, block: int) -> State:
        """The state with one block assigned anew, better or not."""
        return state.replaced(block, *self.assign(block, self.workspace.similarity(block, state), state))

    def assign(self, block: int, found: Similarities, state: State) -> tuple[Tensor, Tensor]:
        """The best permutation and signs for given similarities, wholes staying where they are."""
        permutation = self.permutation(block, scores(found, self.problem.signs[block])[0], state)
        return permutation, self.signs(block, found, permutation)

    def permutation(self, block: int, score: Tensor, state: State) -> Tensor:
        """The assignment that scores most, inside the wholes where there are any."""
        parent = self.problem.parents[block]
        if self.problem.rigid[block]:
            return self._rigid(block, state)
        if parent is None:
            return self._assignment(score)
        wholes = state.permutations[parent]
        inner = self.problem.sizes[block] // len(wholes)
        parts = score.view(len(wholes), inner, len(wholes), inner)
        return torch.cat([o * inner + self._assignment(parts[n, :, o]) for n, o in enumerate(wholes.tolist())])

    def signs(self, block: int, found: Similarities, permutation: Tensor) -> Tensor:
        """The best signs of units that are placed, ``[generators, units]``."""
        count = self.problem.signs[block]
        choice = scores(found, count)[1][torch.arange(len(permutation)), permutation]
        return torch.tensor(sign_choices(count), dtype=torch.float32).view(2**count, count)[choice].T.contiguous()

    def _rigid(self, block: int, state: State) -> Tensor:
        parent, size = self.problem.parents[block], self.problem.sizes[block]
        if parent is None:
            return torch.arange(size)
        wholes = state.permutations[parent]
        inner = size // len(wholes)
        return (wholes[:, None] * inner + torch.arange(inner)).flatten()

    def _assignment(self, score: Tensor) -> Tensor:
        began = time.perf_counter()
        columns = linear_sum_assignment(score.numpy(), maximize=True)[1]
        self.assignment_seconds += time.perf_counter() - began
        return torch.from_numpy(columns)

    def _family(self, state: State, block: int) -> State:
        """Wholes assigned by what their insides reach at best, then insides assigned once more in full.

        Terms between two blocks of the family say nothing of other places, since both must move together; they are left
        out of the proposal.
        """
        members = self.members(block)
        outside = set(range(len(self.problem.sizes))) - members
        found = {member: self.workspace.similarity(member, state, only=outside) for member in members}
        proposal = self.by_similarities(state, block, found)
        for member in sorted(members):
            if not self.problem.children(member):
                proposal = self.placed(proposal, member)
        return proposal

    def by_similarities(self, state: State, block: int, found: Mapping[int, Similarities]) -> State:
        """A block and everything nested in it, placed and signed by given similarities."""
        members = self.members(block)
        tables = {member: scores(found[member], self.problem.signs[member])[0] for member in members}
        proposal = self.assigned_family(state, block, tables)
        for member in members:
            signs = self.signs(member, found[member], proposal.permutations[member])
            proposal = proposal.replaced(member, proposal.permutations[member], signs)
        return proposal

    def assigned_family(self, state: State, block: int, tables: Mapping[int, Tensor]) -> State:
        """A block and everything nested in it assigned by tables of scores; wholes above it and signs stay."""
        values = self._values(block, tables)
        state = state.replaced(block, self.permutation(block, values, state), state.signs[block])
        for member in sorted(self.members(block) - {block}):
            inner = self._values(member, tables)
            state = state.replaced(member, self.permutation(member, inner, state), state.signs[member])
        return state

    def members(self, block: int) -> set[int]:
        """The block and everything nested in it."""
        return {block}.union(*(self.members(child) for child in self.problem.children(block)))

    def _values(self, block: int, tables: Mapping[int, Tensor]) -> Tensor:
        """For each pair of wholes the most that their own and their insides' scores can reach."""
        total = tables[block].clone()
        wholes = self.problem.sizes[block]
        for child in self.problem.children(block):
            inner = self._values(child, tables)
            size = self.problem.sizes[child] // wholes
            parts = inner.view(wholes, size, wholes, size)
            for new in range(wholes):
                for old in range(wholes):
                    part = parts[new, :, old]
                    columns = torch.arange(size) if self.problem.rigid[child] else self._assignment(part)
                    total[new, old] += part[torch.arange(size), columns].sum()
        return total


def descend(
    moves: Moves,
    state: State,
    generator: torch.Generator,
    *,
    due: set[int] | None = None,
    deadline: float = float("inf"),
) -> tuple[State, int, bool]:
    """Coordinate descent until no block improves; only blocks whose neighbours changed are solved again.

    Args:
        moves: The problem's moves.
        state: Where to begin.
        generator: Source of the random order of blocks.
        due: Blocks to begin with; all where not given.
        deadline: No block is taken up after this moment of ``time.perf_counter``.

    Returns:
        The state reached, the number of rounds over the blocks, and whether no block improves any more.
    """
    count = len(moves.problem.sizes)
    pending = set(range(count)) if due is None else due
    sweeps = 0
    while pending and sweeps < _MOST_SWEEPS:
        round_, pending = pending, set()
        sweeps += 1
        for block in torch.randperm(count, generator=generator).tolist():
            if block not in round_:
                continue
            began = time.perf_counter()
            if began + moves.longest > deadline:
                return state, sweeps, False
            improved = moves.improve(state, block)
            moves.longest = max(moves.longest, time.perf_counter() - began)
            if improved is not None:
                changed = [
                    b
                    for b in range(count)
                    if not torch.equal(improved.permutations[b], state.permutations[b])
                    or not torch.equal(improved.signs[b], state.signs[b])
                ]
                state = improved
                for b in changed:
                    pending |= _affected(moves, b)
    return state, sweeps, not pending


def _affected(moves: Moves, block: int) -> set[int]:
    """Blocks whose best place may be another now: neighbours, and the wholes that hold them."""
    found = set(moves.workspace.neighbours(block))
    for other in list(found):
        parent = moves.problem.parents[other]
        while parent is not None:
            found.add(parent)
            parent = moves.problem.parents[parent]
    return found
