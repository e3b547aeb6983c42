"""Matching: the group element that brings one network closest to another."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from compare.params import Params
from compare.symmetry.element import Element
from compare.symmetry.graph import Graph
from compare.symmetry.matching import Problem, Start, bound, check_options, solve
from compare.symmetry.scores import Gains, Weights, element_of, problem_of, scored


@dataclass(frozen=True, eq=False)
class Match:
    """The best element found, and how good it is.

    Attributes:
        element: g: permutations, and signs where they are searched.
        params: g applied to b.
        objective: Sum over all weights and biases of linear maps of <a, g b>, float64.
        starts: The objective reached from each start, in order, and by local search where there was a budget.
        sweeps: Rounds over the blocks, summed over starts.
        converged: No block improves any more, from every start.
        seconds: Wall time.
        assignment_seconds: The part of it spent on linear assignments.
        problem: What was solved, free of the network.
        constant: What tensors that do not move contribute to the objective.
    """

    element: Element
    params: Params
    objective: float
    starts: tuple[tuple[str, float], ...]
    sweeps: int
    converged: bool
    seconds: float
    assignment_seconds: float
    problem: Problem = field(repr=False)
    constant: float = field(repr=False)

    @cached_property
    def bound(self) -> float:
        """No element of those searched reaches more; ``objective == bound`` proves the optimum.

        Computed when first asked for. Signs of wholes that act on entries of their parts, a rare kind (see
        ``compare.symmetry.scores.sign_generators``), are not searched and not bounded.
        """
        return bound(self.problem) + self.constant

    @property
    def gap(self) -> float:
        """Bound minus objective."""
        return self.bound - self.objective


def match(
    graph: Graph,
    a: Params,
    b: Params,
    *,
    seed: int = 0,
    starts: Sequence[Start] = ("annealing", "descriptors"),
    weights: Weights = "latent",
    gains: Gains = "fixed",
    budget_s: float | None = None,
) -> Match:
    """Maximise the sum of <a, g b> over the group: annealing, and coordinate descents over blocks.

    For one block, the others fixed, the best permutation and signs are a linear assignment, solved exactly: each pair
    of units scores the largest sum that its signs allow, entries that negation leaves alone counting unsigned. Units of
    groups and heads are assigned inside their wholes, and the wholes with them. Blocks are taken in random order; only
    those whose neighbours changed are solved again [GitReBasin].

    The parameters are taken as they are: bring both to standard form first. Only permutations and signs are searched,
    never scales.

    Args:
        graph: The network's symmetries.
        a: The network that stays.
        b: The network that is moved.
        seed: Seed of the random starts and orders.
        starts: Where descents begin: ``"annealing"``: soft assignments at falling temperatures; ``"descriptors"``:
            each unit's weights sorted, which no renaming changes, assigned block by block; ``"identity"``; ``"sweep"``:
            blocks from the input on, each matched on what comes before; ``"random"``: a random element.
        weights: Binarised weights count by their latents or by their signs.
        gains: ``"fixed"``: signs that the gain of a normalisation fixes are not searched, since the standard form made
            those gains positive, and on a path from +1 to -1 a unit would lose its input. ``"free"``: all signs;
            gains do not count in the sum, so that elements may tie which differ in their gains' signs.
        budget_s: Seconds to spend in all, in place of ``starts``: annealing with as many temperatures as fit into most
            of them, then a local search that shuffles some units, descends again and keeps what is better. The result
            depends on the machine's speed.

    Returns:
        The best element found.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
        ValueError: For an unknown start, ``weights`` or ``gains``, or a budget that is not positive and finite.
        SymmetryError: If ``gains="free"`` leaves a block too many signs to try.
    """
    began = time.perf_counter()
    for name, value, known in (("weights", weights, ("latent", "binarised")), ("gains", gains, ("fixed", "free"))):
        if value not in known:
            raise ValueError(f"{name}: expected {known[0]!r} or {known[1]!r}, got {value!r}")
    check_options(starts, budget_s)
    graph.check(a, "a")
    graph.check(b, "b")
    problem, constant = problem_of(graph, scored(graph, a, weights), scored(graph, b, weights), gains)
    left = None if budget_s is None else max(1e-3, budget_s - (time.perf_counter() - began))
    found = solve(problem, starts=starts, seed=seed, budget_s=left)
    element = element_of(graph, list(found.permutations), list(found.signs), gains)
    return Match(
        element=element,
        params=element.apply(b),
        objective=found.objective + constant,
        starts=tuple((name, value + constant) for name, value in found.starts),
        sweeps=found.sweeps,
        converged=found.converged,
        seconds=time.perf_counter() - began,
        assignment_seconds=found.assignment_seconds,
        problem=problem,
        constant=constant,
    )
