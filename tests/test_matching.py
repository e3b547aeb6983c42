"""The matching problem by itself: solver, moves and bound against brute force over all states of small problems."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from compare.symmetry.matching import Problem, State, Term, bound, objective, solve
from compare.symmetry.matching.annealing import anneal
from compare.symmetry.matching.moves import Moves, descend
from compare.symmetry.matching.problem import identity, random_state
from compare.symmetry.matching.starts import descriptors

STARTS = ("annealing", "descriptors", "identity", "sweep", "random")


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

for _shapes in (COUPLED, QUADRATIC):
    for _name, _shape in list(_shapes.items()):
        # Parities of blocks without signs are empty; the helpers above give every axis one.
        _counts = _shape.signs or (0,) * len(_shape.sizes)
        _terms = tuple(tuple((b, p[: _counts[b]]) for b, p in axes) for axes in _shape.terms)
        _shapes[_name] = Shape(_shape.sizes, _terms, _shape.parents, _shape.rigid, _shape.signs)


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
    flips = [_flips(count, size) for count, size in zip(problem.signs, problem.sizes, strict=True)]
    for permutations in placements(problem):
        moved = tuple(map(torch.tensor, permutations))
        for signs in itertools.product(*flips):
            yield State(moved, signs)


def _flips(count: int, size: int) -> torch.Tensor:
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


def _size(problem: Problem) -> float:
    return sum(float(term.a.norm() * term.b.norm()) for term in problem.terms)


@pytest.mark.parametrize("name", [*COUPLED, *QUADRATIC])
def test_the_objective_is_the_sum_over_all_entries(name) -> None:
    """x[i] -> s_i x[p_i], entry by entry."""
    problem = {**COUPLED, **QUADRATIC}[name].draw(0)
    state = random_state(problem, torch.Generator().manual_seed(1))
    total = 0.0
    for term in problem.terms:
        for place in itertools.product(*map(range, term.a.shape)):
            sign, source = 1.0, list(place)
            for axis, (block, parity) in enumerate(zip(term.blocks, term.parities, strict=True)):
                unit = place[axis]
                source[axis] = int(state.permutations[block][unit])
                sign *= math.prod(float(state.signs[block][g, unit]) for g, is_odd in enumerate(parity) if is_odd)
            total += float(term.a[place]) * sign * float(term.b[tuple(source)])
    assert objective(problem, state) == pytest.approx(total, rel=1e-12)
    assert literal(problem, state) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", ALONE)
def test_what_one_assignment_solves_equals_brute_force_and_the_bound(name) -> None:
    for seed in range(3):
        problem = ALONE[name].draw(seed)
        best, size = brute_force(problem), _size(problem)
        for start in STARTS:
            found = solve(problem, starts=(start,), seed=seed)
            assert found.objective == pytest.approx(best, abs=1e-6 * size), start
            assert found.converged
            state = State(found.permutations, found.signs)
            assert admissible(problem, state)
            assert literal(problem, state) == pytest.approx(found.objective, abs=1e-12 * size)
        if problem.parents == (None,):
            assert bound(problem) == pytest.approx(best, abs=1e-9 * size)
        assert bound(problem) >= best - 1e-9 * size


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rest=st.integers(1, 3),
    offset=st.sampled_from([0.0, 1.0, -10.0]),
    name=st.sampled_from([*COUPLED, *QUADRATIC]),
)
def test_no_state_exceeds_the_bound(seed: int, rest: int, offset: float, name: str) -> None:
    problem = SMALLER[name].draw(seed, rest=rest, offset=offset)
    best, size = brute_force(problem), _size(problem)
    found = solve(problem, starts=("descriptors", "random"), seed=seed)
    assert found.objective <= best + 1e-9 * size
    assert best <= bound(problem) + 1e-9 * size


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


def _family(problem: Problem, block: int) -> set[int]:
    return {block}.union(*(_family(problem, child) for child in problem.children(block)))


def _variants(problem: Problem, state: State, block: int) -> Iterator[State]:
    """All states that differ from ``state`` in one block alone, and in what is nested in it."""
    family = _family(problem, block)
    fixed = [b not in family for b in range(len(problem.sizes))]
    kept = Problem(problem.sizes, problem.parents, problem.rigid, problem.signs, ())
    for permutations in placements(kept):
        if any(
            fix and tuple(p.tolist()) != q for fix, p, q in zip(fixed, state.permutations, permutations, strict=True)
        ):
            continue
        choices = [[signs] if fix else _flips(*signs.shape) for fix, signs in zip(fixed, state.signs, strict=True)]
        for signs in itertools.product(*choices):
            yield State(tuple(map(torch.tensor, permutations)), signs)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", COUPLED)
def test_descents_end_where_no_block_improves(name, start) -> None:
    for seed in range(2):
        problem = SMALLER[name].draw(seed)
        found = solve(problem, starts=(start,), seed=seed)
        assert found.converged
        state = State(found.permutations, found.signs)
        for block in range(len(problem.sizes)):
            best = max(literal(problem, other) for other in _variants(problem, state, block))
            assert best <= found.objective + 1e-5 * _size(problem)


class Watched(Moves):
    """Moves whose every acceptance is checked against the literal objective."""

    accepted = 0

    def improve(self, state: State, block: int) -> State | None:
        proposal = super().improve(state, block)
        if proposal is not None:
            assert admissible(self.problem, proposal)
            assert literal(self.problem, proposal) > literal(self.problem, state) - 1e-7 * _size(self.problem)
            self.accepted += 1
        return proposal


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([0.0, 3.0, -100.0]),
    name=st.sampled_from([*COUPLED, *QUADRATIC]),
)
def test_no_accepted_move_lowers_the_objective(seed: int, offset: float, name: str) -> None:
    problem = {**COUPLED, **QUADRATIC}[name].draw(seed, offset=offset)
    generator = torch.Generator().manual_seed(seed)
    moves, began = Watched(problem), random_state(problem, generator)
    ended, _, converged = descend(moves, began, generator)
    assert converged
    assert (objective(problem, ended) > objective(problem, began)) == (moves.accepted > 0)


def test_the_moves_accepted_are_many_enough_to_mean_something() -> None:
    problem = Shape((9, 9, 9), COUPLED["chain"].terms).draw(0)
    generator = torch.Generator().manual_seed(0)
    moves = Watched(problem)
    descend(moves, random_state(problem, generator), generator)
    assert moves.accepted > 5


def test_a_chain_takes_several_rounds_and_independent_blocks_one() -> None:
    chain = Shape((9, 9, 9), COUPLED["chain"].terms)
    rounds = [solve(chain.draw(seed), starts=("random",), seed=seed).sweeps for seed in range(5)]
    assert max(rounds) > 3
    apart = Shape((9, 9), (plain(0), plain(1)))
    assert solve(apart.draw(0), starts=("random",)).sweeps == 1


class Counting(Moves):
    """Moves that note the blocks they were asked for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.asked: list[int] = []

    def improve(self, state: State, block: int) -> State | None:
        self.asked.append(block)
        return super().improve(state, block)


def test_only_blocks_whose_neighbours_changed_are_solved_again() -> None:
    """Blocks 2 and 3 are far from what moves, and begin where nothing improves."""
    terms = (plain(0), plain(0, 1), plain(1), plain(2), plain(2, 3))
    problem = Shape((8, 8, 8, 8), terms).draw(3)
    settled = solve(problem, starts=("identity",))
    drawn = random_state(problem, torch.Generator().manual_seed(0))
    began = State((*drawn.permutations[:2], *settled.permutations[2:]), settled.signs)
    moves = Counting(problem)
    descend(moves, began, torch.Generator().manual_seed(0))
    assert moves.asked.count(2) == moves.asked.count(3) == 1
    assert moves.asked.count(0) > 1


@pytest.mark.parametrize("name", [*COUPLED, *QUADRATIC])
def test_every_start_is_admissible_and_the_best_is_kept(name) -> None:
    problem = {**COUPLED, **QUADRATIC}[name].draw(1)
    found = solve(problem, starts=STARTS, seed=4)
    assert [start for start, _ in found.starts] == list(STARTS)
    assert found.objective == max(value for _, value in found.starts)
    assert admissible(problem, State(found.permutations, found.signs))
    assert literal(problem, State(found.permutations, found.signs)) == pytest.approx(found.objective, rel=1e-12)
    began = anneal(Moves(problem), torch.Generator().manual_seed(0))
    assert admissible(problem, began)
    assert admissible(problem, descriptors(Moves(problem)))


def test_a_result_is_worth_what_its_start_is_worth_at_least() -> None:
    problem = COUPLED["wholes beside a stream"].draw(0)
    found = dict(solve(problem, starts=STARTS, seed=2).starts)
    assert found["identity"] >= literal(problem, identity(problem))
    assert found["descriptors"] >= literal(problem, descriptors(Moves(problem)))


def test_the_same_seed_gives_the_same_solution_and_arguments_stay() -> None:
    problem = COUPLED["wholes beside a stream"].draw(0)
    copies = [(term.a.clone(), term.b.clone()) for term in problem.terms]
    first, second = (solve(problem, starts=STARTS, seed=7) for _ in range(2))
    assert all(map(torch.equal, first.permutations, second.permutations))
    assert all(map(torch.equal, first.signs, second.signs))
    assert first.starts == second.starts
    for term, (a, b) in zip(problem.terms, copies, strict=True):
        assert torch.equal(term.a, a)
        assert torch.equal(term.b, b)


def test_descriptors_find_what_is_planted_without_a_descent() -> None:
    shape = Shape((8, 3, 12, 6), COUPLED["wholes beside a stream"].terms, (None, None, 1, 1), signs=(1, 0, 0, 1))
    drawn = shape.draw(0, rest=3)
    hidden = random_state(drawn, torch.Generator().manual_seed(5))
    terms = tuple(Term(term.a, _moved(term, hidden), term.blocks, term.parities) for term in drawn.terms)
    problem = Problem(drawn.sizes, drawn.parents, drawn.rigid, drawn.signs, terms)
    found = descriptors(Moves(problem))
    for p, q in zip(found.permutations, hidden.permutations, strict=True):
        assert torch.equal(q[p], torch.arange(len(p)))
    assert literal(problem, found) == pytest.approx(sum(float(term.a.square().sum()) for term in terms), rel=1e-12)


def _moved(term: Term, state: State) -> torch.Tensor:
    b = term.a
    for axis, (block, parity) in enumerate(zip(term.blocks, term.parities, strict=True)):
        b = b.index_select(axis, state.permutations[block])
        for row, is_odd in zip(state.signs[block], parity, strict=True):
            if is_odd:
                b = b * row.double().view([-1 if i == axis else 1 for i in range(b.ndim)])
    return b


def test_the_sweep_takes_what_comes_before_alone() -> None:
    """Block by block from the first on, against a literal assignment on the terms behind it."""
    problem = Shape((5, 4), (plain(0), plain(1, 0))).draw(1, rest=3)
    rows, between = problem.terms
    p = linear_sum_assignment(rows.a.numpy() @ rows.b.numpy().T, maximize=True)[1]
    left, right = between.a.numpy().reshape(4, -1), between.b.numpy()[:, p].reshape(4, -1)
    q = linear_sum_assignment(left @ right.T, maximize=True)[1]
    from compare.symmetry.matching.starts import sweep

    found = sweep(Moves(problem))
    assert [permutation.tolist() for permutation in found.permutations] == [p.tolist(), q.tolist()]


@pytest.mark.parametrize("name", [*COUPLED, *QUADRATIC])
def test_a_budget_means_annealing_and_then_local_search(name) -> None:
    problem = {**COUPLED, **QUADRATIC}[name].draw(2)
    found = solve(problem, starts=("identity",), budget_s=0.1)
    assert found.starts[0][0] == "annealing"
    assert {start for start, _ in found.starts} <= {"annealing", "local search"}
    assert found.objective == max(value for _, value in found.starts)
    assert admissible(problem, State(found.permutations, found.signs))
    assert literal(problem, State(found.permutations, found.signs)) == pytest.approx(found.objective, rel=1e-12)


@pytest.mark.parametrize("budget", [None, 0.05])
def test_nothing_to_match_and_nothing_that_counts(budget) -> None:
    empty = solve(Problem((), (), (), (), ()), starts=("descriptors",), budget_s=budget)
    assert (empty.objective, empty.permutations, empty.converged) == (0.0, (), True)
    assert bound(Problem((), (), (), (), ())) == 0
    uncounted = Problem((3, 6), (None, 0), (False, False), (0, 1), ())
    found = solve(uncounted, starts=STARTS, budget_s=budget)
    assert admissible(uncounted, State(found.permutations, found.signs))
    assert found.objective == 0
    zero = Problem((3,), (None,), (False,), (1,), (Term(torch.zeros(3, 2), torch.zeros(3, 2), (0,), ((1,),)),))
    assert solve(zero, starts=STARTS, budget_s=budget).objective == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": ("best",)}, "'annealing', 'descriptors', 'identity', 'sweep', 'random'.*got .'best'."),
        ({"starts": ()}, "one or more"),
        ({"starts": STARTS, "budget_s": 0.0}, "positive number of seconds, or None, got 0"),
        ({"starts": STARTS, "budget_s": -1.0}, "positive number of seconds, or None, got -1"),
        ({"starts": STARTS, "budget_s": math.nan}, "positive number of seconds, or None, got nan"),
    ],
)
def test_unknown_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        solve(ALONE["2 units"].draw(0), **options)
