"""The combinatorial problem of matching two networks, free of any notion of a network, and its solvers."""

from compare.symmetry.matching.bound import bound
from compare.symmetry.matching.problem import Problem, State, Term, objective
from compare.symmetry.matching.solve import Solution, Start, check_options, solve

__all__ = ["Problem", "Solution", "Start", "State", "Term", "bound", "check_options", "objective", "solve"]
