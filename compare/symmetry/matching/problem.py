"""Two sets of tensors whose axes belong to blocks of units, and the sum that a matching makes large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Term:
    """Two tensors to be brought together.

    Attributes:
        a: The one that stays, ``[n_i, rest]`` or ``[n_i, n_j, rest]``: leading axes are blocks', the last is fixed.
        b: The one that moves, of the same shape.
        blocks: Block of each leading axis.
        parities: For each leading axis and each sign generator of its block, 1 if the generator negates this tensor.
    """

    a: Tensor
    b: Tensor
    blocks: tuple[int, ...]
    parities: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """A matching problem.

    Attributes:
        sizes: Units of each block.
        parents: For each block the earlier block of wholes it is nested in, or None: its consecutive units come in as
            many equal chunks as the parent has units, and move with them.
        rigid: Whether units keep their order inside their whole (without a parent: do not move).
        signs: Number of sign generators of each block.
        terms: What is summed.
    """

    sizes: tuple[int, ...]
    parents: tuple[int | None, ...]
    rigid: tuple[bool, ...]
    signs: tuple[int, ...]
    terms: tuple[Term, ...]

    def children(self, block: int) -> list[int]:
        """Blocks nested directly in this one."""
        return [child for child, parent in enumerate(self.parents) if parent == block]


@dataclass(frozen=True, eq=False)
class State:
    """A group element: ``(g b)[i] = s_i b[p_i]``.

    Attributes:
        permutations: For each block int64 ``[units]``.
        signs: For each block +1 or -1, float32 ``[generators, units]``.
    """

    permutations: tuple[Tensor, ...]
    signs: tuple[Tensor, ...]

    def replaced(self, block: int, permutation: Tensor, signs: Tensor) -> State:
        """The same but for one block."""
        permutations, kept = list(self.permutations), list(self.signs)
        permutations[block], kept[block] = permutation, signs
        return State(tuple(permutations), tuple(kept))


def identity(problem: Problem) -> State:
    """Nothing moves."""
    return State(
        tuple(torch.arange(size) for size in problem.sizes),
        tuple(torch.ones(count, size) for count, size in zip(problem.signs, problem.sizes, strict=True)),
    )


def random_state(problem: Problem, generator: torch.Generator) -> State:
    """Uniform permutations and signs."""
    permutations: list[Tensor] = []
    for size, parent, rigid in zip(problem.sizes, problem.parents, problem.rigid, strict=True):
        above = torch.zeros(1, dtype=torch.int64) if parent is None else permutations[parent]
        inner = size // len(above)
        rows = [torch.arange(inner) if rigid else torch.randperm(inner, generator=generator) for _ in above]
        permutations.append((above[:, None] * inner + torch.stack(rows)).flatten())
    signs = tuple(
        2.0 * torch.randint(2, (count, size), generator=generator) - 1
        for count, size in zip(problem.signs, problem.sizes, strict=True)
    )
    return State(tuple(permutations), signs)


def factor(signs: Tensor, parity: Sequence[int]) -> Tensor | None:
    """The product of the signs that negate a tensor, ``[units]``; None for none."""
    rows = [row for row, odd in zip(signs, parity, strict=True) if odd]
    if not rows:
        return None
    return torch.stack(rows).prod(0)


def moved(term: Term, state: State) -> Tensor:
    """``g b`` of one term."""
    b = term.b
    for axis, (block, parity) in enumerate(zip(term.blocks, term.parities, strict=True)):
        b = b.index_select(axis, state.permutations[block])
        signs = factor(state.signs[block], parity)
        if signs is not None:
            b = b * signs.to(b.dtype).view([-1 if i == axis else 1 for i in range(b.ndim)])
    return b


def objective(problem: Problem, state: State) -> float:
    """The sum over terms of <a, g b>, in float64."""
    return sum(float((term.a.double() * moved(term, state).double()).sum()) for term in problem.terms)
