"""What each pair of units scores while all other blocks stand still; hard and soft assignments alike."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from compare.symmetry.matching.problem import Problem, State, factor

Parity: TypeAlias = tuple[int, ...]
Similarities: TypeAlias = dict[Parity, Tensor]
"""``[units of a, units of b]`` for each way in which signs act on the tensors behind it."""


@dataclass(frozen=True, eq=False)
class _Role:
    """One block's view of a term: ``a`` ``[other * rest, units]``, ``b`` ``[other, rest * units]``."""

    a: Tensor
    b: Tensor
    parity: Parity
    other: int
    other_parity: Parity


class Workspace:
    """Terms of a problem in float32, laid out so that each block's similarities are one matrix product a term.

    Attributes:
        problem: What is laid out.
        sizes: For each block the sum over its terms of the products of norms: what its score cannot exceed.
    """

    def __init__(self, problem: Problem) -> None:
        """Lay out all terms; what no other block can change is summed once."""
        self.problem = problem
        self.sizes = [0.0] * len(problem.sizes)
        self._constant: list[Similarities] = [{} for _ in problem.sizes]
        self._roles: list[list[_Role]] = [[] for _ in problem.sizes]
        for term in problem.terms:
            a, b = term.a.float(), term.b.float()
            for block in set(term.blocks):
                self.sizes[block] += float(a.norm() * b.norm())
            if len(term.blocks) == 1:
                self._fixed(term.blocks[0], term.parities[0], a, b)
                continue
            for me, other in ((0, 1), (1, 0)):
                left, right = (t.movedim((other, 2, me), (0, 1, 2)).contiguous() for t in (a, b))
                role = _Role(
                    a=left.flatten(0, 1),
                    b=right.flatten(1, 2),
                    parity=term.parities[me],
                    other=term.blocks[other],
                    other_parity=term.parities[other],
                )
                self._roles[term.blocks[me]].append(role)

    def _fixed(self, block: int, parity: Parity, a: Tensor, b: Tensor) -> None:
        found = a.flatten(1) @ b.flatten(1).T
        sums = self._constant[block]
        sums[parity] = sums[parity] + found if parity in sums else found

    def neighbours(self, block: int) -> set[int]:
        """Blocks that share a term with this one."""
        return {role.other for role in self._roles[block]}

    def has_itself(self, block: int) -> bool:
        """Whether a term has the block on both axes, so that no assignment is exact."""
        return block in self.neighbours(block)

    def similarity(self, block: int, state: State, *, only: Collection[int] | None = None) -> Similarities:
        """Scores of pairs with other blocks as in ``state``; ``only`` counts terms with these other blocks."""
        found = dict(self._constant[block])
        for role in self._roles[block]:
            if only is not None and role.other not in only:
                continue
            right = role.b.index_select(0, state.permutations[role.other])
            signs = factor(state.signs[role.other], role.other_parity)
            if signs is not None:
                right = right * signs[:, None]
            _add(found, role.parity, role.a.T @ right.view(role.a.shape))
        return self._complete(block, found)

    def soft(self, block: int, beliefs: Mapping[int, Mapping[Parity, Tensor]]) -> Similarities:
        """Likewise, with doubly stochastic matrices ``[units of a, units of b]`` in place of permutations."""
        found = dict(self._constant[block])
        for role in self._roles[block]:
            right = beliefs[role.other][role.other_parity] @ role.b
            _add(found, role.parity, role.a.T @ right.view(role.a.shape))
        return self._complete(block, found)

    def parities(self, block: int) -> set[Parity]:
        """The ways in which signs of this block act on tensors."""
        found = set(self._constant[block]) | {role.parity for role in self._roles[block]}
        return found or {(0,) * self.problem.signs[block]}

    def _complete(self, block: int, found: Similarities) -> Similarities:
        size = self.problem.sizes[block]
        return found or {(0,) * self.problem.signs[block]: torch.zeros(size, size)}


def _add(sums: Similarities, parity: Parity, found: Tensor) -> None:
    sums[parity] = sums[parity] + found if parity in sums else found


def sign_choices(count: int) -> list[tuple[int, ...]]:
    """All sign vectors of a unit: +1 or -1 for each generator, all +1 first."""
    return list(itertools.product((1, -1), repeat=count))


def acting(parity: Parity, choice: tuple[int, ...]) -> int:
    """The factor of a tensor under a choice of signs."""
    product = 1
    for odd, sign in zip(parity, choice, strict=True):
        product *= sign if odd else 1
    return product


def scores(found: Similarities, count: int) -> tuple[Tensor, Tensor]:
    """The best score of each pair over all choices of signs, and which choice that is.

    For one generator that is the unsigned part plus the magnitude of the signed one.

    Returns:
        ``[units, units]`` scores and indices into ``sign_choices(count)``.
    """
    options = [sum(acting(parity, choice) * s for parity, s in found.items()) for choice in sign_choices(count)]
    if len(options) == 1:
        first = options[0]
        assert isinstance(first, Tensor), "a block has similarities"
        return first, torch.zeros(first.shape, dtype=torch.int64)
    best = torch.stack([option for option in options if isinstance(option, Tensor)]).max(0)
    return best.values, best.indices


def value_of(found: Similarities, permutation: Tensor, signs: Tensor) -> float:
    """What a permutation and signs of one block score."""
    rows = torch.arange(len(permutation))
    total = 0.0
    for parity, s in found.items():
        entries = s[rows, permutation].double()
        by = factor(signs, parity)
        total += float((entries if by is None else entries * by).sum())
    return total
