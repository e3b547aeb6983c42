"""Null spaces over GF(2) and the rationals, against brute force and numpy."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compare.symmetry.tracing.diagonals import Solution, solutions
from compare.symmetry.tracing.spaces import Space
from compare.symmetry.tracing.values import Variable

MOST = 6


def _variable(number: int) -> Variable:
    return f"w{number}", 0, 0


@st.composite
def systems(draw) -> tuple[int, list[dict[Variable, int]]]:
    """A number of unknowns, and equations with small exponents; some are empty or say the same twice."""
    count = draw(st.integers(1, MOST))
    row = st.dictionaries(st.integers(0, count - 1).map(_variable), st.integers(-2, 2), max_size=count)
    rows = draw(st.lists(row, max_size=MOST))
    return count, rows + rows[: draw(st.integers(0, 1))]


def _solved(count: int, rows, *, binary: bool, size: int = 3) -> list[Solution]:
    space = Space(size)
    variables = [_variable(i) for i in range(count)]
    return solutions(variables, rows, dict.fromkeys(variables, space), [], binary=binary)


def _matrix(count: int, rows) -> np.ndarray:
    return np.array([[row.get(_variable(i), 0) for i in range(count)] for row in rows] or [[0] * count])


def _vectors(found: list[Solution], count: int) -> np.ndarray:
    vectors = [[solution.exponents.get(_variable(i), 0) for i in range(count)] for solution in found]
    return np.array(vectors, dtype=float).reshape(len(found), count)


@given(systems())
@settings(max_examples=150, deadline=None)
def test_scales_are_a_basis_of_the_rational_null_space(system) -> None:
    count, rows = system
    vectors, matrix = _vectors(_solved(count, rows, binary=False), count), _matrix(count, rows)
    assert np.allclose(matrix @ vectors.T, 0)
    assert len(vectors) == count - np.linalg.matrix_rank(matrix)
    assert len(vectors) == 0 or np.linalg.matrix_rank(vectors) == len(vectors)


@given(systems())
@settings(max_examples=150, deadline=None)
def test_signs_span_all_solutions_modulo_two(system) -> None:
    count, rows = system
    matrix = _matrix(count, rows) % 2
    expected = {v for v in itertools.product((0, 1), repeat=count) if not (matrix @ np.array(v) % 2).any()}
    basis = _vectors(_solved(count, rows, binary=True), count).astype(int)
    spanned = {
        tuple(np.array(weights, dtype=int) @ basis % 2) if len(basis) else (0,) * count
        for weights in itertools.product((0, 1), repeat=len(basis))
    }
    assert spanned == expected
    assert 2 ** len(basis) == len(expected)


@given(systems(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_each_pivot_is_moved_by_its_own_generator_alone(system, binary) -> None:
    count, rows = system
    found = _solved(count, rows, binary=binary)
    for solution in found:
        pivot = next(iter(solution.exponents))
        assert solution.exponents[pivot] == 1
        assert all(pivot not in other.exponents for other in found if other is not solution)
        assert all(solution.exponents.values())  # no factor of exponent 0


@given(systems(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_early_variables_are_preferred_as_pivots(system, binary) -> None:
    """A pivot never depends on variables that come before it: it is the first one of its generator."""
    count, rows = system
    order = {_variable(i): i for i in range(count)}
    pivots = [next(iter(solution.exponents)) for solution in _solved(count, rows, binary=binary)]
    matrix = _matrix(count, rows) % 2 if binary else _matrix(count, rows)
    free = {i for i in range(count) if _independent(matrix, i, binary=binary)}
    assert {order[pivot] for pivot in pivots} == free


def _independent(matrix: np.ndarray, i: int, *, binary: bool) -> bool:
    """Whether unknown i is not determined by those before it: its column adds nothing to those behind."""
    behind = matrix[:, i + 1 :]
    both = matrix[:, i:]
    return _rank(behind, binary=binary) == _rank(both, binary=binary)


def _rank(matrix: np.ndarray, *, binary: bool) -> int:
    if not binary:
        return int(np.linalg.matrix_rank(matrix)) if matrix.size else 0
    rows = [int("".join(map(str, row)) or "0", 2) for row in matrix]
    rank = 0
    while rows:
        pivot = rows.pop()
        if pivot:
            rank += 1
            low = pivot & -pivot
            rows = [row ^ pivot if row & low else row for row in rows]
    return rank


def test_exponents_may_be_fractions() -> None:
    a, b = _variable(0), _variable(1)
    (solution,) = _solved(2, [{a: 1, b: 2}], binary=False)
    assert solution.exponents == {a: Fraction(1), b: Fraction(-1, 2)}


def test_even_exponents_leave_signs_free() -> None:
    assert len(_solved(2, [{_variable(0): 2, _variable(1): -2}], binary=True)) == 2


@pytest.mark.parametrize("binary", [True, False])
def test_a_generator_of_two_spaces_acts_on_the_wholes(binary) -> None:
    wholes = Space(2)
    parts, (a, b) = Space(6, wholes), (_variable(0), _variable(1))
    for spaces in ((wholes, parts), (parts, wholes)):
        (solution,) = solutions([a, b], [{a: 1, b: 1}], dict(zip((a, b), spaces, strict=True)), [], binary=binary)
        assert solution.space is wholes


def test_a_level_named_for_a_variable_makes_its_generator_act_on_wholes() -> None:
    wholes = Space(2)
    parts, a = Space(6, wholes, rigid=True), _variable(0)
    (plain,) = solutions([a], [], {a: parts}, [], binary=True)
    (levelled,) = solutions([a], [], {a: parts}, [(frozenset([a]), wholes)], binary=True)
    assert (plain.space, levelled.space) == (parts, wholes)


def test_spaces_that_are_not_nested_share_no_generator() -> None:
    a, b = _variable(0), _variable(1)
    assert solutions([a, b], [{a: 1, b: 1}], {a: Space(2), b: Space(2)}, [], binary=True) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_nested_levels_lose_no_generator(order) -> None:
    """One variable for each of 2 wholes, two for each of 4 parts: all signs that solve a b c = 1 for each part."""
    wholes = Space(2)
    parts, names = Space(4, wholes), [_variable(i) for i in range(3)]
    space_of = dict(zip(names, (wholes, parts, parts), strict=True))
    found = solutions([names[i] for i in order], [dict.fromkeys(names, 1)], space_of, [], binary=True)
    signs = itertools.product((0, 1), repeat=2 + 4 + 4)
    solved = sum(all((s[i // 2] + s[2 + i] + s[6 + i]) % 2 == 0 for i in range(4)) for s in signs)
    assert 2 ** sum(solution.space.size for solution in found) == solved
