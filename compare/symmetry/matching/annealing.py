"""Deterministic annealing: soft assignments, all blocks in turn, while the temperature falls.

Each block's permutation is replaced by a doubly stochastic matrix, the softmax of its similarities at a temperature,
balanced by Sinkhorn's iteration; signs by their expectations. At a high temperature everything is undecided and the
blocks settle on what they agree on before details are decided. Source: Gold and Rangarajan, 'A graduated assignment
algorithm for graph matching', IEEE PAMI 18(4), 1996; balancing: Sinkhorn and Knopp, 1967.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from compare.symmetry.matching.moves import Moves
from compare.symmetry.matching.problem import Problem, State, factor, identity
from compare.symmetry.matching.similarity import Parity, acting, sign_choices

_HOT, _COLD = 0.075, 0.01
"""First and last temperature, in units of what a pair of equal units would score in the block."""

_BALANCING = 20
"""Sinkhorn iterations at each temperature."""

_FEWEST, _USUAL, _MOST = 4, 40, 150


def anneal(moves: Moves, generator: torch.Generator, seconds: float | None = None) -> State:
    """Soft assignments from hot to cold, as many temperatures as fit into the time; then each block placed.

    Blocks nested in wholes, and wholes, are assigned hard at each temperature.

    Args:
        moves: The problem's moves.
        generator: Source of the order of blocks and of what breaks the symmetry at the beginning.
        seconds: Time to use, for at least 4 and at most 150 temperatures; without it 40 are visited.

    Returns:
        The state at the end, not yet a local optimum.
    """
    problem = moves.problem
    soft = [b for b in range(len(problem.sizes)) if _single(problem, b)]
    # What one unit would score against an equal one.
    units = [max(1e-30, whole / n) for whole, n in zip(moves.workspace.sizes, problem.sizes, strict=True)]
    beliefs = {b: _undecided(moves, b, generator) for b in range(len(problem.sizes))}
    state = identity(problem)
    rest = [b for b in range(len(problem.sizes)) if problem.parents[b] is None and b not in soft]
    began, step, steps = time.perf_counter(), 0, _USUAL if seconds is None else _FEWEST
    while step < steps:
        temperature = _HOT * (_COLD / _HOT) ** (step / max(1, steps - 1))
        for index in torch.randperm(len(soft), generator=generator).tolist():
            block = soft[index]
            beliefs[block] = _belief(moves, block, beliefs, temperature * units[block])
        state = _hardened(moves, state, rest, beliefs)
        step += 1
        if seconds is not None:
            used = time.perf_counter() - began
            steps = max(_FEWEST, min(_MOST, int(seconds * step / max(used, 1e-9))))
    for block in soft:
        zero = (0,) * problem.signs[block]
        found = moves.workspace.soft(block, beliefs)
        permutation = moves.permutation(block, beliefs[block][zero], state)
        state = state.replaced(block, permutation, moves.signs(block, found, permutation))
    return state


def _single(problem: Problem, block: int) -> bool:
    return not (problem.children(block) or problem.parents[block] is not None or problem.rigid[block])


def _undecided(moves: Moves, block: int, generator: torch.Generator) -> dict[Parity, Tensor]:
    size = moves.problem.sizes[block]
    noise = torch.randn(size, size, generator=generator) / size
    parities = moves.workspace.parities(block) | {(0,) * moves.problem.signs[block]}
    return {p: 0.01 * noise if any(p) else (1 / size + 0.01 * noise).clamp_min(0) for p in parities}


def _belief(
    moves: Moves, block: int, beliefs: dict[int, dict[Parity, Tensor]], temperature: float
) -> dict[Parity, Tensor]:
    """Softmax over partners and signs, balanced so that every unit of both sides is used once."""
    found = moves.workspace.soft(block, beliefs)
    choices = sign_choices(moves.problem.signs[block])
    logits = torch.stack([_total(found, choice) for choice in choices]) / temperature
    joint = torch.logsumexp(logits, 0) if len(choices) > 1 else logits[0]
    balanced = _sinkhorn(joint)
    parities = set(beliefs[block])
    if len(choices) == 1:
        return dict.fromkeys(parities, balanced)
    chances = torch.softmax(logits, 0)
    expected = {
        p: sum((acting(p, z) * c for z, c in zip(choices, chances, strict=True)), torch.zeros(())) for p in parities
    }
    return {p: balanced * e if any(p) else balanced for p, e in expected.items()}


def _total(found: dict[Parity, Tensor], choice: tuple[int, ...]) -> Tensor:
    return torch.stack([acting(parity, choice) * s for parity, s in found.items()]).sum(0)


def _sinkhorn(logits: Tensor) -> Tensor:
    kernel = torch.exp(logits - logits.max(1, keepdim=True).values)
    # Numbers below this change nothing, and subnormal ones are slow.
    kernel = torch.where(kernel < 1e-20, 0.0, kernel)
    columns = torch.ones(len(kernel))
    rows = columns
    for _ in range(_BALANCING):
        rows = 1 / (kernel @ columns).clamp_min(1e-12)
        columns = 1 / (rows @ kernel).clamp_min(1e-12)
    return rows[:, None] * kernel * columns


def _hardened(moves: Moves, state: State, blocks: list[int], beliefs: dict[int, dict[Parity, Tensor]]) -> State:
    """Wholes and what is nested in them, assigned by similarities to the soft blocks."""
    for block in blocks:
        members = moves.members(block)
        found = {member: moves.workspace.soft(member, beliefs) for member in members}
        state = moves.by_similarities(state, block, found)
        for member in members:
            beliefs[member] = _certain(moves.problem, member, state, set(beliefs[member]))
    return state


def _certain(problem: Problem, block: int, state: State, parities: set[Parity]) -> dict[Parity, Tensor]:
    matrix = torch.eye(problem.sizes[block])[state.permutations[block]]
    found = {}
    for parity in parities:
        signs = factor(state.signs[block], parity)
        found[parity] = matrix if signs is None else matrix * signs[:, None]
    return found
