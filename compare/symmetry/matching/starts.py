"""Where descents begin."""

from __future__ import annotations

import torch
from torch import Tensor

from compare.symmetry.matching.moves import Moves
from compare.symmetry.matching.problem import Problem, State, Term, identity
from compare.symmetry.matching.similarity import Similarities


def sweep(moves: Moves) -> State:
    """Blocks in their order, each matched on terms whose other blocks came before, or that have none [Toroids]."""
    return _in_order(moves, identity(moves.problem), permuting=True)


def descriptors(moves: Moves) -> State:
    """Each unit's entries sorted, which no renaming of other units changes, and one assignment a block.

    Where signs are free magnitudes are sorted; signs follow block by block from those that are known, and are then
    improved with all units in their places.
    """
    problem = moves.problem
    state = identity(problem)
    tables = {block: _table(problem, block) for block in range(len(problem.sizes))}
    for block in range(len(problem.sizes)):
        if problem.parents[block] is None:
            state = moves.assigned_family(state, block, tables)
    if not any(problem.signs):
        return state
    state = _in_order(moves, state, permuting=False)
    for _ in range(100):
        better = state
        for block in range(len(problem.sizes)):
            better = _signed(moves, better, block, moves.workspace.similarity(block, better))
        if all(map(torch.equal, better.signs, state.signs)):
            return state
        state = better
    return state


def _in_order(moves: Moves, state: State, *, permuting: bool) -> State:
    known: set[int] = set()
    for block in range(len(moves.problem.sizes)):
        found = moves.workspace.similarity(block, state, only=known)
        if permuting:
            state = state.replaced(block, *moves.assign(block, found, state))
        else:
            state = _signed(moves, state, block, found)
        known.add(block)
    return state


def _signed(moves: Moves, state: State, block: int, found: Similarities) -> State:
    """The best signs of a block's units where they stand."""
    permutation = state.permutations[block]
    return state.replaced(block, permutation, moves.signs(block, found, permutation))


def _table(problem: Problem, block: int) -> Tensor:
    """Inner products of descriptors, ``[units, units]``; their norms are the same for every assignment."""
    size = problem.sizes[block]
    total = torch.zeros(size, size)
    for term in problem.terms:
        for axis in range(len(term.blocks)):
            if term.blocks[axis] == block:
                total += _descriptor(term, axis, term.a) @ _descriptor(term, axis, term.b).T
    return total


def _descriptor(term: Term, axis: int, tensor: Tensor) -> Tensor:
    """``[units, entries]``: entries of other units sorted, for each place of the fixed axis."""
    entries = tensor.float()
    if any(any(parity) for parity in term.parities):
        entries = entries.abs()
    if len(term.blocks) == 2:
        entries = entries.movedim(axis, 0).sort(dim=1).values
    return entries.flatten(1)
