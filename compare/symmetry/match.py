"""Matching: the group element that brings one network closest to another."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compare.params import Params, sign
from compare.symmetry.bound import upper_bound
from compare.symmetry.element import Element, identity, without_zeros
from compare.symmetry.graph import Graph, Tie

Start = Literal["identity", "sweep", "random"]
Weights = Literal["latent", "binarised"]

_MAX_SWEEPS = 100


@dataclass(frozen=True, eq=False)
class Match:
    """The best element found, and how good it is.

    Attributes:
        element: g: permutations, and signs where they are admitted.
        params: g applied to b.
        objective: Sum over all weights and biases of linear maps of <a, g b>, float64.
        bound: No element reaches more; ``objective == bound`` proves the optimum.
        starts: The objective reached from each start, in order.
        sweeps: Rounds over the blocks, summed over starts.
        converged: No block improves any more, from every start.
        seconds: Wall time.
    """

    element: Element
    params: Params
    objective: float
    bound: float
    starts: tuple[tuple[str, float], ...]
    sweeps: int
    converged: bool
    seconds: float

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
    starts: Sequence[Start] = ("identity", "sweep", "random", "random"),
    weights: Weights = "latent",
) -> Match:
    """Maximise the sum of <a, g b> over the group: coordinate descent over blocks, from several starts.

    For one block, the others fixed, the best permutation and signs are a linear assignment, solved exactly: on S, where
    signs are admitted on |S|, with each pair's sign taken from S; entries that negation leaves alone count unsigned.
    Blocks are taken in random order; only those whose neighbours changed are solved again [GitReBasin].

    The parameters are taken as they are: bring both to standard form first. Only permutations and signs are searched,
    never scales.

    Args:
        graph: The network's symmetries.
        a: The network that stays.
        b: The network that is moved.
        seed: Seed of the random starts and orders.
        starts: Where descents begin: ``"identity"``; ``"sweep"``: blocks from the input on, each matched on its
            incoming weights alone; ``"random"``: a random element.
        weights: Binarised weights count by their latents or by their signs.

    Returns:
        The best of all descents.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
        ValueError: For an unknown start or ``weights``.
    """
    began = time.perf_counter()
    _check_options(starts, weights)
    graph.check(a, "a")
    graph.check(b, "b")
    problem = _Problem(graph, _scored(graph, a, weights), _scored(graph, b, weights))
    generator = torch.Generator().manual_seed(seed)
    descents = [_descend(problem, _started(problem, start, generator), generator) for start in starts]
    objectives = [problem.objective(element) for element, _, _ in descents]
    best = max(range(len(descents)), key=objectives.__getitem__)
    element = descents[best][0]
    return Match(
        element=element,
        params=element.apply(b),
        objective=objectives[best],
        bound=upper_bound(graph, problem.a, problem.b, problem.best_on_block),
        starts=tuple(zip(starts, objectives, strict=True)),
        sweeps=sum(sweeps for _, sweeps, _ in descents),
        converged=all(converged for _, _, converged in descents),
        seconds=time.perf_counter() - began,
    )


def _check_options(starts: Sequence[str], weights: str) -> None:
    unknown = [start for start in starts if start not in ("identity", "sweep", "random")]
    if unknown or not starts:
        raise ValueError(f"starts: expected one or more of 'identity', 'sweep', 'random', got {list(starts)}")
    if weights not in ("latent", "binarised"):
        raise ValueError(f"weights: expected 'latent' or 'binarised', got {weights!r}")


def _scored(graph: Graph, params: Params, weights: Weights) -> Params:
    names = {tie.name for block in graph.blocks for tie in block.ties if tie.scored}
    scored = {}
    for name in sorted(names | {layer.weight for layer in graph.layers}):
        latent = without_zeros(params[name]) if name in graph.binarised else params[name]
        scored[name] = (sign(latent) if weights == "binarised" and name in graph.binarised else latent).double()
    for layer in graph.layers:
        if layer.block is None and layer.bias and layer.norm is None:
            scored[layer.bias] = params[layer.bias].double()
    return scored


class _Problem:
    """<a, g b> over the scored tensors of two networks, block by block."""

    def __init__(self, graph: Graph, a: Params, b: Params) -> None:
        self.graph, self.a, self.b = graph, a, b
        self._ties = [[tie for tie in block.ties if tie.scored] for block in graph.blocks]
        owners: dict[str, list[tuple[int, Tie]]] = {name: [] for name in a}
        for index, ties in enumerate(self._ties):
            for tie in ties:
                owners[tie.name].append((index, tie))
        self._owners = owners

    def neighbours(self, index: int) -> set[int]:
        """Blocks that share a tensor with this one."""
        return {other for tie in self._ties[index] for other, _ in self._owners[tie.name]} - {index}

    def objective(self, element: Element) -> float:
        """The sum of <a, g b>."""
        return float(sum((self.a[name] * self._moved(name, element, None)).sum() for name in self.a))

    def similarity(self, index: int, element: Element, *, incoming: bool = False) -> tuple[Tensor, Tensor]:
        """Inner products of units, ``[units of a, units of b]``: the part that signs leave alone, and the rest."""
        size = self.graph.blocks[index].size
        fixed, signed = torch.zeros(2, size, size, dtype=torch.float64)
        for tie in self._ties[index]:
            if incoming and tie.axis != 0:
                continue
            rows = _units(self.a[tie.name], tie, size) @ _units(self._moved(tie.name, element, index), tie, size).T
            part = signed if tie.negates else fixed
            part += rows
        return fixed, signed

    def solve(self, index: int, fixed: Tensor, signed: Tensor) -> tuple[Tensor, Tensor, float]:
        """The best permutation and signs of one block for given similarities, and the value they reach."""
        signs = self.graph.blocks[index].signs
        score = fixed + (signed.abs() if signs else signed)
        rows, columns = linear_sum_assignment(score.numpy(), maximize=True)
        p = torch.from_numpy(columns)
        d = sign(signed[rows, p]) if signs else torch.ones(len(p), dtype=torch.float64)
        return p, d, float(score[rows, p].sum())

    def best_on_block(self, index: int, names: set[str]) -> float:
        """The largest sum that one block can reach on tensors that belong to it alone."""
        fixed, signed = torch.zeros(2, *[self.graph.blocks[index].size] * 2, dtype=torch.float64)
        for tie in self._ties[index]:
            if tie.name in names:
                size = self.graph.blocks[index].size
                part = signed if tie.negates else fixed
                part += _units(self.a[tie.name], tie, size) @ _units(self.b[tie.name], tie, size).T
        return self.solve(index, fixed, signed)[2]

    def _moved(self, name: str, element: Element, skip: int | None) -> Tensor:
        tensor = self.b[name]
        for index, tie in self._owners[name]:
            if index != skip:
                p, d = element.permutations[index], element.diagonals[index]
                units = _units(tensor, tie, len(p))[p]
                tensor = _back(units * d[:, None] if tie.negates else units, tie, tensor)
        return tensor


def _units(tensor: Tensor, tie: Tie, size: int) -> Tensor:
    """``[units, everything else]``."""
    return tensor.movedim(tie.axis, 0).reshape(size, -1)


def _back(units: Tensor, tie: Tie, like: Tensor) -> Tensor:
    """The inverse of ``_units``."""
    return units.reshape(like.movedim(tie.axis, 0).shape).movedim(0, tie.axis)


def _replaced(element: Element, index: int, p: Tensor, d: Tensor) -> Element:
    permutations, diagonals = list(element.permutations), list(element.diagonals)
    permutations[index], diagonals[index] = p, d
    return Element(element.graph, tuple(permutations), tuple(diagonals))


def _started(problem: _Problem, start: Start, generator: torch.Generator) -> Element:
    element = identity(problem.graph)
    for index, block in enumerate(problem.graph.blocks):
        if start == "sweep":
            p, d, _ = problem.solve(index, *problem.similarity(index, element, incoming=True))
            element = _replaced(element, index, p, d)
        elif start == "random":
            p = torch.randperm(block.size, generator=generator)
            d = 2.0 * torch.randint(2, (block.size,), generator=generator).double() - 1
            element = _replaced(element, index, p, d if block.signs else torch.ones_like(d))
    return element


def _descend(problem: _Problem, element: Element, generator: torch.Generator) -> tuple[Element, int, bool]:
    """Coordinate descent until no block improves: element, sweeps, converged."""
    changed = set(range(len(problem.graph.blocks)))
    for sweep in range(_MAX_SWEEPS):
        if not changed:
            return element, sweep, True
        due, changed = changed, set()
        for index in [i for i in torch.randperm(len(problem.graph.blocks), generator=generator).tolist() if i in due]:
            improved = _improve(problem, element, index)
            if improved is not None:
                element = improved
                changed |= problem.neighbours(index)
    return element, _MAX_SWEEPS, not changed


def _improve(problem: _Problem, element: Element, index: int) -> Element | None:
    fixed, signed = problem.similarity(index, element)
    p, d, value = problem.solve(index, fixed, signed)
    rows = torch.arange(len(p))
    at, signs = element.permutations[index], element.diagonals[index]
    present = float((fixed[rows, at] + signs * signed[rows, at]).sum())
    # Gains within rounding would let two equal solutions alternate for ever.
    if value <= present + 1e-10 * max(1.0, abs(present)):
        return None
    return _replaced(element, index, p, d)
