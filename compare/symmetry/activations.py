"""Matching by what units do on data: correlations of their outputs instead of inner products of weights.

Sources: Li et al., 'Convergent learning', ICLR 2016, arXiv 1511.07543; [GitReBasin], arXiv 2209.04836, section 3.1.
"""

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from compare.params import Params, call
from compare.symmetry.element import Element
from compare.symmetry.graph import Graph, SymmetryError, Tie
from compare.symmetry.matching import Problem, Solution, bound, solve
from compare.symmetry.matching.problem import Term
from compare.symmetry.scores import Gains, element_of, sign_generators

_CONSTANT = 1e-12
"""A unit whose variance is a smaller part of its mean square is constant to rounding: it has no correlations."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BY_CHANNEL = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm),
)


@dataclass(frozen=True, eq=False)
class ActivationMatch:
    """The best element by correlations, and what it rests on.

    Attributes:
        element: g: permutations, and signs where they are searched.
        params: g applied to b.
        objective: Sum of the correlations of all matched pairs of units, over all values; at most one for each.
        values: For each block by name, the modules whose outputs were compared.
        unseen: Blocks that no module's output shows (embedding tables aside: projections inside
            ``nn.MultiheadAttention``, functional layers): their units stay in their order.
        dead: For modules with units that are constant on the data: how many, in a and in b. Nothing places them.
        seconds: Wall time.
        problem: What was solved, free of the network.
    """

    element: Element
    params: Params
    objective: float
    values: Mapping[str, tuple[str, ...]]
    unseen: tuple[str, ...]
    dead: Mapping[str, tuple[int, int]]
    seconds: float
    problem: Problem = field(repr=False)

    @cached_property
    def bound(self) -> float:
        """No element reaches more: the objective itself, but for blocks inside wholes, whose wholes it ignores."""
        return bound(self.problem)

    @property
    def gap(self) -> float:
        """Bound minus objective."""
        return self.bound - self.objective


@dataclass(frozen=True)
class _Value:
    """A stretch of a module's output that holds the units of a block; ``odd``: which searched generators negate it."""

    module: str
    axis: int
    length: int
    block: int
    tie: Tie
    odd: tuple[int, ...]

    def units(self, output: Tensor, size: int) -> Tensor:
        """``[units, entries]``, float64."""
        part = output.movedim(self.axis, 0).narrow(0, self.tie.start, size * self.tie.repeat)
        return part.reshape(size, -1)


def match_activations(
    graph: Graph,
    model: nn.Module,
    a: Params,
    b: Params,
    x: Tensor,
    *,
    gains: Gains = "fixed",
    batch: int = 256,
) -> ActivationMatch:
    """Maximise the sum of correlations between units' outputs of two networks on data.

    For each block the values that carry its units are compared: outputs of linear maps, or of the normalisation behind,
    before any activation; all samples and places are one long vector for each unit, centred, of norm 1. Blocks do not
    interact, so each is one linear assignment, solved exactly; units inside wholes are assigned with them.

    A sign generator negates an output if it negates the offset that is added last. Without one it negates a linear
    map's output with its rows, and a normalisation's with its mean or its gain, not both. Only generators that the
    values compared tell apart are searched.

    Args:
        graph: The network's symmetries.
        model: The network; it is not changed, and evaluated in evaluation mode.
        a: The network that stays.
        b: The network that is moved.
        x: Inputs ``[samples, ...]``, unlabelled. More of them than units in the widest layer, or chance decides.
        gains: ``"fixed"``: generators that negate a normalisation's gain are not searched (standard form makes gains
            positive). ``"free"``: all; outputs of linear maps are then compared beside those of the normalisations.
        batch: Samples that are evaluated at once. Memory is that of one batch's outputs in float64, and
            ``[units, units]`` for each value.

    Returns:
        The best element found.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
        SymmetryError: If no module's output shows the units of any block.
        ValueError: For unknown ``gains``, a batch that is not positive, or no inputs.

    Example:
        >>> import compare, fullprecision
        >>> model = fullprecision.mlp(4, [6], 2)
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> graph, a = compare.trace(model, x, fullprecision.FAMILY), compare.parameters(model)
        >>> g = compare.random_element(graph, torch.Generator().manual_seed(0))
        >>> found = match_activations(graph, model, a, g.apply(a), x)
        >>> torch.equal(found.element.permutations[0], g.inverse().permutations[0]), round(found.objective, 6)
        (True, 8.0)
    """
    began = time.perf_counter()
    _check(graph, a, b, x, gains, batch)
    working = copy.deepcopy(model).eval()
    values = list(_values(graph, working, gains))
    moments = _moments(graph, working, (a, b), torch.split(x, batch), values)
    if not any(moment.count for moment in moments):
        raise SymmetryError(
            "no module's output shows the units of a block: expected linear maps, convolutions or normalisations as "
            "modules; match by weights instead, compare.match(graph, a, b)"
        )
    shown = [(value, moment) for value, moment in zip(values, moments, strict=True) if moment.count]
    told = _told(graph, shown, gains)
    problem, unseen = _problem(graph, shown, told)
    found = solve(problem, starts=("identity",))
    element = _element(graph, found, told, gains)
    return ActivationMatch(
        element=element,
        params=element.apply(b),
        objective=found.objective,
        values=MappingProxyType(_compared(graph, shown)),
        unseen=unseen,
        dead=MappingProxyType(_dead(shown)),
        seconds=time.perf_counter() - began,
        problem=problem,
    )


def _check(graph: Graph, a: Params, b: Params, x: Tensor, gains: str, batch: int) -> None:
    if gains not in ("fixed", "free"):
        raise ValueError(f"gains: expected 'fixed' or 'free', got {gains!r}")
    if batch < 1:
        raise ValueError(f"batch: expected a positive number of samples, got {batch}")
    if x.ndim < 1 or len(x) < 2:
        raise ValueError(f"x: expected two samples or more, [samples, ...], got {list(x.shape)}")
    graph.check(a, "a")
    graph.check(b, "b")


def _carrier(module: nn.Module) -> tuple[str, int, int] | None:
    """Which of a module's tensors has the units of its output, on which axis, and the output's axis that holds them."""
    if isinstance(module, nn.Linear):
        return "weight", 0, -1
    if isinstance(module, _CONVOLUTIONS):
        return "weight", int(module.transposed), 1 - module.weight.ndim
    if isinstance(module, nn.Embedding):
        return "weight", 1, -1
    if isinstance(module, nn.MultiheadAttention):
        return "out_proj.weight", 0, -1
    if isinstance(module, _BY_CHANNEL):
        return "running_mean" if getattr(module, "running_mean", None) is not None else "weight", 0, 1
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return "weight", 0, -1
    return None


def _values(graph: Graph, model: nn.Module, gains: Gains) -> Iterator[_Value]:
    """All that may be compared; modules that are not called themselves (inside attention) drop out later."""
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    normalised = {layer.weight for layer in graph.layers if layer.norm is not None}
    generators = sign_generators(graph, gains)
    for path, module in model.named_modules():
        carrier = _carrier(module)
        if carrier is None:
            continue
        attribute, axis, output = carrier
        name = names.get(id(_attribute(module, attribute)))
        if name is None or (name in normalised and gains == "fixed"):
            continue
        for index, block in enumerate(graph.blocks):
            if generators[index] and _depthwise(module):
                continue
            for tie in block.ties:
                if (tie.name, tie.axis, tie.along) == (name, axis, None):
                    odd = tuple(
                        int(_negated(graph, index, generator, _signed(module, names, name), tie))
                        for generator in generators[index]
                    )
                    yield _Value(path, output, graph.reference[name].shape[axis], index, tie, odd)


def _attribute(module: nn.Module, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _depthwise(module: nn.Module) -> bool:
    """Whether the output's sign is the input's times the weight's, so that no tensor of the module's own tells it."""
    return isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels and module.bias is None


def _signed(module: nn.Module, names: Mapping[int, str], carrier: str) -> tuple[str, ...]:
    """Tensors whose signs, multiplied, are the sign of the module's output."""
    offset = names.get(id(getattr(module, "bias", None)))
    if offset is not None:
        return (offset,)
    if not isinstance(module, (*_BY_CHANNEL, nn.LayerNorm)):
        return (carrier,)
    found = (names.get(id(getattr(module, part, None))) for part in ("running_mean", "weight"))
    return tuple(name for name in found if name is not None)


def _negated(graph: Graph, block: int, generator: int, tensors: tuple[str, ...], tie: Tie) -> bool:
    axes = {(t.name, t.start) for t, _ in graph.blocks[block].generators[generator].factors if t.axis == tie.axis}
    return sum((name, tie.start) in axes for name in tensors) % 2 == 1


class _Moments:
    """Sums for the correlations of two networks' units, around the first batch's means so that nothing cancels."""

    def __init__(self) -> None:
        self.count = 0
        self.shifts: tuple[Tensor, ...] = ()
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.cross = torch.zeros((), dtype=torch.float64)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take up ``[units, entries]`` of both."""
        if not self.count:
            self.shifts = (a.mean(1, keepdim=True), b.mean(1, keepdim=True))
            self.sums, self.squares = ([torch.zeros(len(a), dtype=torch.float64) for _ in range(2)] for _ in range(2))
        a, b = a - self.shifts[0], b - self.shifts[1]
        self.count += a.shape[1]
        self.sums = [total + z.sum(1) for total, z in zip(self.sums, (a, b), strict=True)]
        self.squares = [total + z.square().sum(1) for total, z in zip(self.squares, (a, b), strict=True)]
        self.cross = self.cross + a @ b.T

    def deviations(self) -> list[Tensor]:
        """For both networks the norm of each unit's centred values, 0 where they are constant."""
        found = []
        for shift, total, square in zip(self.shifts, self.sums, self.squares, strict=True):
            centred = (square - total.square() / self.count).clamp_min(0)
            raw = self.count * (shift[:, 0] + total / self.count).square() + centred
            found.append(torch.where(centred <= _CONSTANT * raw, 0.0, centred.sqrt()))
        return found

    def correlations(self) -> Tensor:
        """``[units of a, units of b]``, 0 where a unit is constant."""
        left, right = self.deviations()
        covariance = self.cross - torch.outer(*self.sums) / self.count
        norms = torch.outer(left, right)
        return torch.where(norms > 0, covariance / torch.where(norms > 0, norms, 1.0), 0.0)


def _moments(
    graph: Graph, working: nn.Module, networks: tuple[Params, Params], batches: tuple[Tensor, ...], values: list[_Value]
) -> list[_Moments]:
    outputs: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            # A copy: an activation in place would change what is kept.
            outputs.setdefault(path, []).append(tensor.to(torch.float64, copy=True))

        return hook

    for path in {value.module for value in values}:
        working.get_submodule(path).register_forward_hook(keep(path))
    moments = [_Moments() for _ in values]
    for part in batches:
        seen = []
        for params in networks:
            outputs.clear()
            with torch.no_grad():
                call(working, params, part)
            seen.append({path: list(found) for path, found in outputs.items()})
        for value, moment in zip(values, moments, strict=True):
            size = graph.blocks[value.block].size
            for a, b in zip(*(found.get(value.module, []) for found in seen), strict=True):
                if a.shape[value.axis] == value.length:
                    moment.add(value.units(a, size), value.units(b, size))
    return moments


_Shown = list[tuple[_Value, _Moments]]


def _told(graph: Graph, shown: _Shown, gains: Gains) -> list[list[int]]:
    """For each block the searched generators that the values tell apart: rows that are independent over GF(2)."""
    found = []
    for index, generators in enumerate(sign_generators(graph, gains)):
        vectors = [
            sum(value.odd[row] << bit for bit, (value, _) in enumerate(shown) if value.block == index)
            for row in range(len(generators))
        ]
        basis: list[int] = []
        rows = []
        for row, vector in enumerate(vectors):
            for other in basis:
                vector = min(vector, vector ^ other)
            if vector:
                basis = sorted([*basis, vector], reverse=True)
                rows.append(row)
        found.append(rows)
    return found


def _problem(graph: Graph, shown: _Shown, told: list[list[int]]) -> tuple[Problem, tuple[str, ...]]:
    terms = []
    for value, moment in shown:
        found = moment.correlations()
        odd = tuple(value.odd[row] for row in told[value.block])
        # The inner product of a row of correlations with a row of the identity is one correlation.
        terms.append(Term(found, torch.eye(len(found), dtype=found.dtype), (value.block,), (odd,)))
    seen: set[int] = set()
    for value, _ in shown:
        index: int | None = value.block
        while index is not None:
            seen.add(index)
            index = graph.blocks[index].parent
    problem = Problem(
        sizes=tuple(block.size for block in graph.blocks),
        parents=tuple(block.parent for block in graph.blocks),
        rigid=tuple(block.rigid or index not in seen for index, block in enumerate(graph.blocks)),
        signs=tuple(map(len, told)),
        terms=tuple(terms),
    )
    return problem, tuple(block.name for index, block in enumerate(graph.blocks) if index not in seen)


def _element(graph: Graph, found: Solution, told: list[list[int]], gains: Gains) -> Element:
    """The solution as an element, with +1 for generators that were not searched."""
    signs = []
    for generators, rows, part in zip(sign_generators(graph, gains), told, found.signs, strict=True):
        full = torch.ones(len(generators), part.shape[1])
        full[rows] = part
        signs.append(full)
    return element_of(graph, list(found.permutations), signs, gains)


def _compared(graph: Graph, shown: _Shown) -> dict[str, tuple[str, ...]]:
    return {
        block.name: tuple(dict.fromkeys(value.module for value, _ in shown if value.block == index))
        for index, block in enumerate(graph.blocks)
    }


def _dead(shown: _Shown) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for value, moment in shown:
        a, b = (int((found == 0).sum()) for found in moment.deviations())
        before = counts.get(value.module, (0, 0))
        counts[value.module] = (before[0] + a, before[1] + b)
    return {module: found for module, found in counts.items() if any(found)}
