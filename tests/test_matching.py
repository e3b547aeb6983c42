"""The matching problem by itself: solver, moves and bound against brute force over all states of small problems."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from small_problems import (
    ALONE,
    COUPLED,
    QUADRATIC,
    SMALLER,
    Shape,
    admissible,
    brute_force,
    literal,
    plain,
    size_of,
    variants,
)

from compare.symmetry.matching import Problem, State, Term, bound, objective, solve
from compare.symmetry.matching.annealing import anneal
from compare.symmetry.matching.moves import Moves, descend
from compare.symmetry.matching.problem import identity, random_state
from compare.symmetry.matching.solve import _shuffled as shuffled
from compare.symmetry.matching.starts import descriptors, sweep

STARTS = ("annealing", "descriptors", "identity", "sweep", "random")


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
        best, size = brute_force(problem), size_of(problem)
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
    best, size = brute_force(problem), size_of(problem)
    found = solve(problem, starts=("descriptors", "random"), seed=seed)
    assert found.objective <= best + 1e-9 * size
    assert best <= bound(problem) + 1e-9 * size


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", COUPLED)
def test_descents_end_where_no_block_improves(name, start) -> None:
    for seed in range(2):
        problem = SMALLER[name].draw(seed)
        found = solve(problem, starts=(start,), seed=seed)
        assert found.converged
        state = State(found.permutations, found.signs)
        for block in range(len(problem.sizes)):
            best = max(literal(problem, other) for other in variants(problem, state, block))
            assert best <= found.objective + 1e-5 * size_of(problem)


class Watched(Moves):
    """Moves whose every acceptance is checked against the literal objective."""

    accepted = 0

    def improve(self, state: State, block: int) -> State | None:
        proposal = super().improve(state, block)
        if proposal is not None:
            assert admissible(self.problem, proposal)
            assert literal(self.problem, proposal) > literal(self.problem, state) - 1e-7 * size_of(self.problem)
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


@pytest.mark.parametrize("name", ["chain", "wholes beside a stream", "grouped and beside"])
def test_descents_end_where_large_parts_cancel(name) -> None:
    """Rounding of numbers a million times as large as their sum must not count as an improvement for ever."""
    for seed in range(20):
        drawn = {**COUPLED, **QUADRATIC}[name].draw(seed)
        common = torch.tensor([[1000.0, 1000.0], [1000.0, -1000.0]], dtype=torch.float64)
        terms = tuple(
            Term(0.01 * term.a + common[0], 0.01 * term.b + common[1], term.blocks, term.parities)
            for term in drawn.terms
        )
        problem = Problem(drawn.sizes, drawn.parents, drawn.rigid, drawn.signs, terms)
        assert solve(problem, starts=("random", "annealing"), seed=seed).converged


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


@pytest.mark.parametrize(
    "name", ["wholes beside a stream", "wholes in wholes", "insides that meet", "grouped and beside"]
)
def test_shuffled_wholes_carry_their_insides_as_they_are(name) -> None:
    problem = {**COUPLED, **QUADRATIC}[name].draw(0)
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        state = random_state(problem, generator)
        for block in range(len(problem.sizes)):
            if problem.rigid[block] and problem.parents[block] is not None:
                continue
            found = shuffled(problem, state, block, generator)
            assert admissible(problem, found)
            for child in problem.children(block):
                assert insides(problem, found, child) == insides(problem, state, child)


def insides(problem: Problem, state: State, child: int) -> dict[int, list[object]]:
    """For each whole of the network that moves: its units, in order, with their signs."""
    wholes = state.permutations[problem.parents[child]]
    units = state.permutations[child].view(len(wholes), -1)
    signs = state.signs[child].T.reshape(*units.shape, -1)
    return {int(whole): [u.tolist(), s.tolist()] for whole, u, s in zip(wholes, units, signs, strict=True)}


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
        ({"starts": STARTS, "budget_s": math.nan}, "got nan"),
        ({"starts": STARTS, "budget_s": math.inf}, "got inf"),
    ],
)
def test_unknown_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        solve(ALONE["2 units"].draw(0), **options)
