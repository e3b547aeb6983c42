"""Several networks brought into one frame, so that ways from one to another agree on every detour."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compare.params import Params
from compare.seeds import derived
from compare.symmetry.element import Element, identity
from compare.symmetry.graph import Graph
from compare.symmetry.matching import Start, solve
from compare.symmetry.scores import Gains, Weights, element_of, problem_of, scored

_RELATIVE = 1e-9
"""Smaller gains of the objective are rounding."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Elements that bring each of several networks into one frame.

    Attributes:
        elements: g_i for each network, that of the reference (or of the first network) the identity.
        params: g_i applied to each network.
        objectives: float64 ``[networks, networks]``: <g_i x_i, g_j x_j> over weights and biases of linear maps; on the
            diagonal each network's own squared norm.
        history: The sum over pairs i < j after each round; it never falls.
        rounds: Rounds over all networks.
        converged: The last round changed nothing.
        seconds: Wall time.
    """

    elements: tuple[Element, ...]
    params: tuple[Params, ...]
    objectives: Tensor
    history: tuple[float, ...]
    rounds: int
    converged: bool
    seconds: float

    @property
    def objective(self) -> float:
        """Sum over pairs i < j."""
        return _pairs(self.objectives)

    def between(self, i: int, j: int) -> Element:
        """The element that brings network j onto network i: ``g_i.inverse().compose(g_j)``.

        Permutations and signs compose exactly, so every round trip is the identity, exactly.
        """
        return self.elements[i].inverse().compose(self.elements[j])


def match_many(
    graph: Graph,
    networks: Sequence[Params],
    *,
    reference: Literal["mean"] | int = "mean",
    seed: int = 0,
    starts: Sequence[Start] = ("annealing", "descriptors"),
    weights: Weights = "latent",
    gains: Gains = "fixed",
    most_rounds: int = 20,
) -> Matches:
    """Match several networks with each other so that ways around (A to B to C to A) are the identity.

    Every network is brought into one common frame; pairs are matched through it, which makes them consistent, as the
    universe of C2M3 does (Crisostomi et al., NeurIPS 2024, arXiv 2405.17897). There, all pairs are optimised by
    Frank-Wolfe steps; here, ``reference="mean"`` makes the same sum over pairs large network by network:
    sum_{i<j} <g_i x_i, g_j x_j> depends on g_i through <sum of the others, g_i x_i>, which is one matching. The network
    itself is left out of that sum: with it in, a mean of few networks holds each of them where it is.

    The parameters are taken as they are: bring all to standard form first. Only permutations and signs are searched.

    Args:
        graph: The networks' symmetries.
        networks: Two or more, all parameters and buffers of each.
        reference: ``"mean"``: begin with all matched onto the first, then each in turn onto the mean of the others,
            until no element changes. An index: that network is the frame, and the others are matched onto it alone.
        seed: Seed of all that is random.
        starts: Where each matching begins, see ``match``; after the first round also where the network stands, so that
            the objective never falls.
        weights: Binarised weights count by their latents or by their signs.
        gains: See ``match``.
        most_rounds: Rounds after which the search ends, converged or not.

    Returns:
        The elements, and the objectives of all pairs.

    Raises:
        ParameterError: If a network does not fit the graph.
        ValueError: For fewer than two networks, an unknown reference, start, ``weights`` or ``gains``.

    Example:
        >>> import compare, fullprecision
        >>> model = fullprecision.mlp(4, [6], 2)
        >>> graph, x = compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY), compare.parameters(model)
        >>> draw = torch.Generator().manual_seed(0)
        >>> copies = [compare.random_element(graph, draw) for _ in range(3)]
        >>> found = match_many(graph, [compare.standard_form(graph, g.apply(x)) for g in copies])
        >>> round_trip = found.between(0, 1).compose(found.between(1, 2)).compose(found.between(2, 0))
        >>> round_trip == compare.identity(graph)
        True
    """
    began = time.perf_counter()
    _check(graph, networks, reference, weights, gains, most_rounds)
    search = _Search(graph, [scored(graph, x, weights) for x in networks], tuple(starts), gains, seed)
    frame = 0 if reference == "mean" else reference
    changed = search.onto(frame)
    history, rounds = [search.objective()], 1
    while reference == "mean" and changed and rounds < most_rounds:
        changed = search.onto_the_others(rounds)
        history.append(search.objective())
        rounds += 1
    back = search.elements[frame].inverse()
    elements = tuple(back.compose(element) for element in search.elements)
    return Matches(
        elements=elements,
        params=tuple(element.apply(x) for element, x in zip(elements, networks, strict=True)),
        objectives=search.gram(),
        history=tuple(history),
        rounds=rounds,
        converged=reference != "mean" or not changed,
        seconds=time.perf_counter() - began,
    )


def _check(
    graph: Graph, networks: Sequence[Params], reference: str | int, weights: str, gains: str, most_rounds: int
) -> None:
    if len(networks) < 2:
        raise ValueError(f"networks: expected two or more, got {len(networks)}")
    known = reference == "mean" if isinstance(reference, str) else 0 <= reference < len(networks)
    if not known:
        raise ValueError(f"reference: expected 'mean' or an index from 0 to {len(networks) - 1}, got {reference!r}")
    for name, value, options in (("weights", weights, ("latent", "binarised")), ("gains", gains, ("fixed", "free"))):
        if value not in options:
            raise ValueError(f"{name}: expected {options[0]!r} or {options[1]!r}, got {value!r}")
    if most_rounds < 1:
        raise ValueError(f"most_rounds: expected a positive number, got {most_rounds}")
    for index, params in enumerate(networks):
        graph.check(params, f"networks[{index}]")


class _Search:
    """The elements so far, and the tensors that they bring together."""

    def __init__(self, graph: Graph, tensors: list[Params], starts: tuple[Start, ...], gains: Gains, seed: int) -> None:
        self.graph, self.starts, self.gains, self.seed = graph, starts, gains, seed
        self.elements = [identity(graph) for _ in tensors]
        self.moved = tensors

    def onto(self, frame: int) -> bool:
        """Match all others onto one network; whether there is more to do: with three networks or more there is."""
        for index in range(len(self.moved)):
            if index != frame:
                self._turn(index, self.moved[frame], self.starts, 0)
        return len(self.moved) > 2

    def onto_the_others(self, number: int) -> bool:
        """Match each network onto the mean of the others as they stand; whether one of them moved."""
        moved = False
        for index in range(len(self.moved)):
            others = [x for i, x in enumerate(self.moved) if i != index]
            mean = {name: sum(x[name].double() for x in others) / len(others) for name in others[0]}
            moved |= self._turn(index, mean, ("identity", *self.starts), number)  # type: ignore[arg-type]
        return moved

    def _turn(self, index: int, onto: Params, starts: tuple[Start, ...], number: int) -> bool:
        problem, constant = problem_of(self.graph, onto, self.moved[index], self.gains)
        found = solve(problem, starts=starts, seed=derived(self.seed, "several", number, index))
        before = _inner(onto, self.moved[index])
        if number and found.objective + constant <= before + _RELATIVE * abs(before):
            return False
        element = element_of(self.graph, list(found.permutations), list(found.signs), self.gains)
        self.elements[index] = element.compose(self.elements[index])
        self.moved[index] = element.apply_linear(self.moved[index])
        return True

    def gram(self) -> Tensor:
        """All pairs' inner products."""
        return torch.tensor([[_inner(x, y) for y in self.moved] for x in self.moved], dtype=torch.float64)

    def objective(self) -> float:
        """Sum over pairs i < j."""
        return _pairs(self.gram())


def _inner(x: Params, y: Params) -> float:
    return sum(float((x[name].double() * y[name].double()).sum()) for name in x)


def _pairs(gram: Tensor) -> float:
    return float(gram.triu(1).sum())
