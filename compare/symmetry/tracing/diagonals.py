"""The diagonal group: all solutions of the linear equations that rules wrote down, one unknown for each variable.

Signs are a system over GF(2), logarithms of scales one over the rationals; units do not mix, so the same equations hold
for every unit. A basis in reduced echelon form has a pivot for each generator: a variable that no other one moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from compare.symmetry.tracing.spaces import Space
from compare.symmetry.tracing.values import Variable


@dataclass(frozen=True)
class Solution:
    """One generator: exponents of the variables it moves, pivot first, and the space whose units it acts on."""

    exponents: Mapping[Variable, Fraction]
    space: Space


def solutions(
    variables: Sequence[Variable],
    equations: Iterable[Mapping[Variable, int]],
    space_of: Mapping[Variable, Space],
    levels: Iterable[tuple[frozenset[Variable], Space]],
    *,
    binary: bool,
) -> list[Solution]:
    """A basis of all diagonals that keep the function.

    Args:
        variables: In the order in which pivots are preferred.
        equations: Each says that a product of powers is 1.
        space_of: The units that each variable belongs to.
        levels: Variables that are the same for all units of one whole.
        binary: Exponents are counted modulo 2 (signs).

    Returns:
        One generator for each dimension of the group.
    """
    one: Callable[[Any], Any] = (lambda e: Fraction(int(e) % 2)) if binary else Fraction
    rows = [row for equation in equations if (row := {v: one(e) for v, e in equation.items() if one(e)})]
    coarse = [(members, space.only()) for members, space in levels]

    def size(variable: Variable) -> int:
        return min([space_of[variable].size, *(space.size for members, space in coarse if variable in members)])

    found = []
    # Coarse variables first: generators with a pivot of single units then hold none of those that act on wholes.
    for component in _components(sorted(variables, key=size), rows):
        members = set(component)
        own = [row for row in rows if members & row.keys()]
        for exponents in _null_space(component, own, binary=binary):
            space = _level(exponents, space_of, coarse)
            if space is not None:
                found.append(Solution(exponents, space))
    return found


def _components(variables: Sequence[Variable], rows: Sequence[Mapping[Variable, Fraction]]) -> list[list[Variable]]:
    parent = {variable: variable for variable in variables}

    def root(v: Variable) -> Variable:
        while parent[v] != v:
            parent[v] = v = parent[parent[v]]
        return v

    for row in rows:
        first, *rest = row
        for other in rest:
            parent[root(other)] = root(first)
    groups: dict[Variable, list[Variable]] = {}
    for variable in variables:
        groups.setdefault(root(variable), []).append(variable)
    return list(groups.values())


def _null_space(
    variables: Sequence[Variable], rows: Sequence[Mapping[Variable, Fraction]], *, binary: bool
) -> list[dict[Variable, Fraction]]:
    """Gauss-Jordan with the last variables as dependent ones, so that the first ones stay free: the pivots."""
    order = {variable: i for i, variable in enumerate(variables)}
    solved: dict[Variable, dict[Variable, Fraction]] = {}  # dependent variable -> its row, scaled to 1
    for row in rows:
        work = _reduced(dict(row), solved, binary=binary)
        if not work:
            continue
        last = max(work, key=order.__getitem__)
        scale = work[last]
        work = {v: e / scale for v, e in work.items()}
        for other, old in solved.items():
            if last in old:
                solved[other] = _minus(old, work, old[last], binary=binary)
        solved[last] = work
    free = [variable for variable in variables if variable not in solved]
    basis = []
    for pivot in free:
        vector = {pivot: Fraction(1)}
        vector |= {v: (row[pivot] if binary else -row[pivot]) for v, row in solved.items() if pivot in row}
        basis.append(vector)
    return basis


def _reduced(
    row: dict[Variable, Fraction], solved: Mapping[Variable, Mapping[Variable, Fraction]], *, binary: bool
) -> dict[Variable, Fraction]:
    for variable in list(row):
        if variable in row and variable in solved:
            row = _minus(row, solved[variable], row[variable], binary=binary)
    return row


def _minus(
    row: Mapping[Variable, Fraction], other: Mapping[Variable, Fraction], times: Fraction, *, binary: bool
) -> dict[Variable, Fraction]:
    result = dict(row)
    for variable, exponent in other.items():
        value = result.get(variable, Fraction(0)) - times * exponent
        value = Fraction(int(value) % 2) if binary else value
        if value:
            result[variable] = value
        else:
            result.pop(variable, None)
    return result


def _level(
    exponents: Mapping[Variable, Fraction],
    space_of: Mapping[Variable, Space],
    levels: Iterable[tuple[frozenset[Variable], Space]],
) -> Space | None:
    """The coarsest space among those of the variables; None where they are not nested in each other."""
    spaces = {space_of[variable] for variable in exponents}
    spaces |= {space for members, space in levels if members & exponents.keys()}
    coarsest = min(spaces, key=lambda space: space.size)
    return coarsest if all(coarsest in space.chain() for space in spaces) else None
