"""Small matching problems of every kind, and slow oracles for them."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compare.symmetry.matching import Problem, State, Term


@dataclass(frozen=True)
class Shape:
    """A problem but for its numbers; each term is its axes, ``(block, parity)`` each."""

    sizes: tuple[int, ...]
    terms: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
    parents: tuple[int | None, ...] | None = None
    rigid: tuple[bool, ...] | None = None
    signs: tuple[int, ...] | None = None

    def draw(self, seed: int, *, rest: int = 2, offset: float = 0.0) -> Problem:
        """Normal entries around ``offset``, and ``rest`` of them for each place."""
        generator = torch.Generator().manual_seed(seed)
        none = (None,) * len(self.sizes)
        signs = self.signs or (0,) * len(self.sizes)
        terms = []
        for axes in self.terms:
            entries = [*(self.sizes[block] for block, _ in axes), rest]
            a, b = (offset + torch.randn(entries, generator=generator, dtype=torch.float64) for _ in "ab")
            parities = tuple(parity or (0,) * signs[block] for block, parity in axes)
            terms.append(Term(a, b, tuple(block for block, _ in axes), parities))
        rigid = self.rigid or (False,) * len(self.sizes)
        return Problem(self.sizes, self.parents or none, rigid, signs, tuple(terms))


def plain(*blocks: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The axes of a term that no sign touches."""
    return tuple((block, ()) for block in blocks)


def odd(*blocks: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The axes of a term that the one sign of every block negates."""
    return tuple((block, (1,)) for block in blocks)


ALONE = {
    **{f"{n} units": Shape((n,), (plain(0), plain(0))) for n in range(1, 6)},
    **{f"{n} signed units": Shape((n,), (odd(0), odd(0)), signs=(1,)) for n in range(1, 6)},
    "signed and unsigned parts": Shape((4,), (plain(0), odd(0)), signs=(1,)),
    "two signs of different parity": Shape(
        (3,), (((0, (1, 0)),), ((0, (0, 1)),), ((0, (1, 1)),), plain(0)), signs=(2,)
    ),
    "a sign that nothing counts": Shape((3,), (((0, (1, 0)),),), signs=(2,)),
    "rigid": Shape((4,), (plain(0), odd(0)), rigid=(True,), signs=(1,)),
    "two wholes of three": Shape((2, 6), (plain(1),), parents=(None, 0)),
    "three wholes of two": Shape((3, 6), (plain(0), odd(1)), parents=(None, 0), signs=(0, 1)),
    "two children": Shape((3, 6, 6), (plain(0), plain(1), plain(2)), parents=(None, 0, 0)),
    "two children with signs": Shape((2, 6, 4), (plain(1), odd(2)), parents=(None, 0, 0), signs=(0, 0, 1)),
    "signed wholes": Shape((3, 6), (odd(0), plain(1)), parents=(None, 0), signs=(1, 0)),
    "wholes in wholes": Shape((2, 4, 8), (plain(0), plain(1), plain(2)), parents=(None, 0, 1)),
    "rigid insides": Shape(
        (3, 6, 6), (plain(1), odd(2)), parents=(None, 0, 0), rigid=(False, True, False), signs=(0, 0, 1)
    ),
    "rigid wholes": Shape((3, 6), (plain(0), plain(1)), parents=(None, 0), rigid=(True, False)),
}
"""Problems that one assignment solves: terms of one block each."""

COUPLED = {
    "chain": Shape((4, 4, 3), (plain(0), plain(0, 1), plain(1, 2), plain(2))),
    "signed chain": Shape((3, 3, 2), (odd(0), odd(0, 1), odd(1, 2), odd(2)), signs=(1, 1, 1)),
    "signs on one side": Shape((3, 3), (odd(0), ((0, (1,)), (1, ())), plain(1)), signs=(1, 0)),
    "two signs on a chain": Shape(
        (3, 3), (((0, (1, 0)),), ((0, (0, 1)), (1, (1,))), ((0, (1, 1)), (1, ())), odd(1)), signs=(2, 1)
    ),
    "wholes beside a stream": Shape(
        (4, 2, 6, 4), (plain(0), plain(2, 0), odd(3, 0), plain(0, 3)), parents=(None, None, 1, 1), signs=(1, 0, 0, 1)
    ),
    "wholes in wholes": Shape((3, 2, 4, 8), (plain(0), plain(3, 0), plain(2, 0)), parents=(None, None, 1, 2)),
    "rigid insides": Shape((4, 3, 6), (plain(0), plain(2, 0)), parents=(None, None, 1), rigid=(False, False, True)),
}
"""Several blocks at once, where a best move of one block (with all that is nested in it) is still one assignment."""

QUADRATIC = {
    "one block on two axes": Shape((4,), (plain(0), plain(0, 0))),
    "one signed block on two axes": Shape((4,), (odd(0), odd(0, 0)), signs=(1,)),
    "insides that meet": Shape((2, 6, 4), (plain(1), plain(1, 2), odd(2)), parents=(None, 0, 0), signs=(0, 0, 1)),
    "grouped and beside": Shape(
        (2, 4, 4, 3), (plain(1), plain(1, 2), plain(2, 3), plain(3)), parents=(None, 0, 0, None)
    ),
}
"""Problems in which even one block's best place is hard; moves may miss it, but must not make anything worse."""

SMALLER = {
    **COUPLED,
    **QUADRATIC,
    "chain": Shape((3, 3, 2), COUPLED["chain"].terms),
    "signed chain": Shape((2, 2, 2), COUPLED["signed chain"].terms, signs=(1, 1, 1)),
    "two signs on a chain": Shape((2, 2), COUPLED["two signs on a chain"].terms, signs=(2, 1)),
    "wholes beside a stream": Shape(
        (2, 2, 4, 2), COUPLED["wholes beside a stream"].terms, parents=(None, None, 1, 1), signs=(1, 0, 0, 1)
    ),
}
"""The same problems with few enough states for brute force again and again."""


def placements(problem: Problem, block: int = 0, above: tuple[tuple[int, ...], ...] = ()) -> Iterator[Sequence]:
    """All admissible permutations of all blocks from ``block`` on, after those in ``above``."""
    if block == len(problem.sizes):
        yield above
        return
    parent = problem.parents[block]
    wholes = (0,) if parent is None else above[parent]
    inner = problem.sizes[block] // len(wholes)
    orders = [tuple(range(inner))] if problem.rigid[block] else list(itertools.permutations(range(inner)))
    for chosen in itertools.product(orders, repeat=len(wholes)):
        own = tuple(whole * inner + unit for whole, order in zip(wholes, chosen, strict=True) for unit in order)
        yield from placements(problem, block + 1, (*above, own))


def every_state(problem: Problem) -> Iterator[State]:
    """All states: all permutations with all signs."""
    choices = [flips(count, size) for count, size in zip(problem.signs, problem.sizes, strict=True)]
    for permutations in placements(problem):
        moved = tuple(map(torch.tensor, permutations))
        for signs in itertools.product(*choices):
            yield State(moved, signs)


def flips(count: int, size: int) -> torch.Tensor:
    """All signs of one block, ``[choices, generators, units]``."""
    return torch.tensor(list(itertools.product((1.0, -1.0), repeat=count * size))).view(
        2 ** (count * size), count, size
    )


def literal(problem: Problem, state: State) -> float:
    """The sum over terms of <a, g b>, from nothing but the definition of a state."""
    total = 0.0
    for term in problem.terms:
        moved = term.b.numpy()
        for axis, (block, parity) in enumerate(zip(term.blocks, term.parities, strict=True)):
            factor = np.prod([row.numpy() for row, is_odd in zip(state.signs[block], parity, strict=True) if is_odd], 0)
            moved = np.take(moved, state.permutations[block].numpy(), axis)
            moved = moved * np.reshape(factor, [-1 if i == axis and np.ndim(factor) else 1 for i in range(moved.ndim)])
        total += float((term.a.numpy() * moved).sum())
    return total


def brute_force(problem: Problem) -> float:
    """The optimum."""
    return max(literal(problem, state) for state in every_state(problem))


def admissible(problem: Problem, state: State) -> bool:
    """Whether insides move with their wholes, rigid ones in order, and signs are signs."""
    for block, permutation in enumerate(state.permutations):
        parent = problem.parents[block]
        wholes = torch.zeros(1, dtype=torch.int64) if parent is None else state.permutations[parent]
        inner = permutation.view(len(wholes), -1) - wholes[:, None] * (problem.sizes[block] // len(wholes))
        expected = torch.arange(inner.shape[1]).expand_as(inner)
        if not torch.equal(inner if problem.rigid[block] else inner.sort(1).values, expected):
            return False
        if state.signs[block].shape != (problem.signs[block], problem.sizes[block]):
            return False
    return all(bool((signs.abs() == 1).all()) for signs in state.signs)


def size_of(problem: Problem) -> float:
    """What no objective exceeds, to measure rounding by."""
    return sum(float(term.a.norm() * term.b.norm()) for term in problem.terms)


def family(problem: Problem, block: int) -> set[int]:
    """The block and everything nested in it."""
    return {block}.union(*(family(problem, child) for child in problem.children(block)))


def variants(problem: Problem, state: State, block: int) -> Iterator[State]:
    """All states that differ from ``state`` in one block alone, and in what is nested in it."""
    moving = family(problem, block)
    fixed = [b not in moving for b in range(len(problem.sizes))]
    kept = Problem(problem.sizes, problem.parents, problem.rigid, problem.signs, ())
    for permutations in placements(kept):
        if any(
            fix and tuple(p.tolist()) != q for fix, p, q in zip(fixed, state.permutations, permutations, strict=True)
        ):
            continue
        choices = [[signs] if fix else flips(*signs.shape) for fix, signs in zip(fixed, state.signs, strict=True)]
        for signs in itertools.product(*choices):
            yield State(tuple(map(torch.tensor, permutations)), signs)
