"""Colour refinement: units told apart, and their signs decided, by what does not depend on how they were given.

Every unit has a place, the number of units that come before its class, and every sign generator a sign, 0 while it is
undecided. A tensor's entries are summed up for each unit, weighted by fixed random numbers of the other axes' places; a
class splits where two such sums differ, and a sign is decided where the sum that it would turn is not 0. Weights are
positive, so that a positive gain keeps its sign.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from compare.params import Params
from compare.symmetry.element import entries, spread
from compare.symmetry.graph import Block, Graph, Tie

FLOOR = 1e-12
"""Numbers of smaller size count as 0: a threshold of 0 that is negated becomes the next float."""

_CHANNELS = 2
"""Independent sums for each tie: two different units that agree in one of them, to rounding, differ in the other."""

_GOLDEN, _MIX = -0x61C8864680B583EB, (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)

_Factor = tuple[int, int, Tie]


@dataclass
class State:
    """What is known of the units so far.

    Attributes:
        places: For each block int64 ``[units]``: the number of units in lower classes.
        signs: For each block float64 ``[generators, units]``: +1, -1, or 0 while undecided; 1 for scales.
    """

    places: list[Tensor]
    signs: list[Tensor]

    def copy(self) -> State:
        """A state that can be changed without this one."""
        return copy.deepcopy(self)

    def sorted(self, index: int) -> bool:
        """Whether every unit of a block has a place of its own."""
        return _classes(self.places[index]) == len(self.places[index])

    @property
    def decisions(self) -> int:
        """Counts classes and decided signs; both only ever grow."""
        return sum(map(_classes, self.places)) + sum(int((signs != 0).sum()) for signs in self.signs)


@dataclass(frozen=True)
class _Tied:
    """One tensor with all that acts on it."""

    value: Tensor
    positions: tuple[Tensor, ...]
    ties: tuple[tuple[int, Tie], ...]
    factors: tuple[_Factor, ...]


class Refinement:
    """Refines states of one network; made once for its parameters.

    Attributes:
        graph: The network's symmetries.
        values: All tensors on which the group acts, in float64.
        tolerance: Differences of sums below this fraction of their size are rounding.
    """

    def __init__(self, graph: Graph, params: Params) -> None:
        """Gather for each tensor what acts on it.

        Args:
            graph: The network's symmetries.
            params: Its parameters.
        """
        self.graph = graph
        ties = [(i, tie) for i, block in enumerate(graph.blocks) for tie in block.ties]
        factors = [
            (i, row, tie)
            for i, block in enumerate(graph.blocks)
            for row, generator in enumerate(block.generators)
            if generator.kind == "sign"
            for tie, _ in generator.factors
        ]
        names = dict.fromkeys([*(tie.name for _, tie in ties), *(tie.name for _, _, tie in factors)])
        self.values = {name: params[name].double() for name in names}
        self.tolerance = max([1e-10, *(64 * torch.finfo(params[name].dtype).eps for name in names)])
        self._children = [[c for c, b in enumerate(graph.blocks) if b.parent == i] for i in range(len(graph.blocks))]
        self._features = _features(max([1, *(block.size for block in graph.blocks)]), seed=1)
        self._tied = {
            name: _Tied(
                value,
                _positions(graph, value, [tie for _, tie in ties if tie.name == name]),
                tuple(found for found in ties if found[1].name == name),
                tuple(found for found in factors if found[2].name == name),
            )
            for name, value in self.values.items()
        }

    def start(self) -> State:
        """Nothing is known but the order of units that keep it, and that scales are not searched."""
        places, signs = [], []
        for block in self.graph.blocks:
            wholes = 1 if block.parent is None else self.graph.blocks[block.parent].size
            inner = torch.arange(block.size) % (block.size // wholes)
            places.append(inner * wholes if block.rigid else torch.zeros(block.size, dtype=torch.int64))
            kinds = torch.tensor([float(generator.kind != "sign") for generator in block.generators])
            signs.append(kinds.double()[:, None].repeat(1, block.size))
        return State(places, signs)

    def settle(self, state: State) -> None:
        """Refine ``state``, in place, until nothing more is found: block after block, the first produced first."""
        before = -1
        while before != state.decisions:
            before = state.decisions
            for index in range(len(self.graph.blocks)):
                self._decide(state, index)
                self._sort(state, index)

    def _decide(self, state: State, index: int) -> None:
        """Decide signs of a block's units, each generator by its ties in order, the pivot first."""
        block = self.graph.blocks[index]
        for row, generator in enumerate(block.generators):
            for tie, _ in generator.factors if generator.kind == "sign" else ():
                undecided = state.signs[index][row] == 0
                if not bool(undecided.any()):
                    break
                weighted = self._signed(state, tie.name, 0, without=(index, row, tie))
                sums, sizes = _sums(weighted, tie, block)
                clear = (sums.abs() > self.tolerance * sizes) & (sums.abs() > FLOOR)
                state.signs[index][row] = torch.where(undecided & clear, sums.sign(), state.signs[index][row])

    def _sort(self, state: State, index: int) -> None:
        """Split a block's classes by its wholes, its parts and its ties, one after the other."""
        block = self.graph.blocks[index]
        if block.parent is not None:
            parent = state.places[block.parent]
            self._split(state, index, parent.repeat_interleave(block.size // len(parent)).double(), 0.5)
        for child in self._children[index]:
            sums = self._features[0][state.places[child]].view(block.size, -1).sum(dim=1)
            self._split(state, index, sums, self.tolerance * float(sums.max()))
        for tie in block.ties:
            decided = all(bool((state.signs[i][row] != 0).all()) for i, row, _ in self._tied[tie.name].factors)
            for channel in range(_CHANNELS):
                if state.sorted(index):
                    return
                if not decided:
                    self._split_by(state, index, tie, self._unsigned(state, tie.name, channel))
                self._split_by(state, index, tie, self._signed(state, tie.name, channel))

    def _split_by(self, state: State, index: int, tie: Tie, weighted: Tensor) -> None:
        sums, sizes = _sums(weighted, tie, self.graph.blocks[index])
        self._split(state, index, sums, max(FLOOR, self.tolerance * float(sizes.max())))

    def _split(self, state: State, index: int, values: Tensor, tolerance: float) -> None:
        state.places[index] = _split(state.places[index], values, tolerance)

    def _signed(self, state: State, name: str, channel: int, *, without: _Factor | None = None) -> Tensor:
        """Weighted entries with their decided signs, 0 where one is undecided."""
        weights = self._weights(state, name, channel)
        for factor in self._tied[name].factors:
            if factor != without:
                index, row, tie = factor
                weights = weights * spread(state.signs[index][row], tie, self.graph.blocks[index], self.values[name])
        return self.values[name] * weights

    def _unsigned(self, state: State, name: str, channel: int) -> Tensor:
        return self.values[name].abs() * self._weights(state, name, channel)

    def _weights(self, state: State, name: str, channel: int) -> Tensor:
        """What entries weigh by where they stand, in a shape that broadcasts."""
        tied = self._tied[name]
        weights = torch.ones([1] * tied.value.ndim, dtype=torch.float64)
        for position in tied.positions:
            weights = weights * position
        for index, tie in tied.ties:
            feature = self._features[channel][state.places[index]]
            weights = weights * spread(feature, tie, self.graph.blocks[index], tied.value)
        return weights


def _classes(places: Tensor) -> int:
    return 1 + int((places.sort().values.diff() != 0).sum())


def _sums(weighted: Tensor, tie: Tie, block: Block) -> tuple[Tensor, Tensor]:
    own = entries(weighted, tie, block)
    return own.sum(dim=1), own.abs().sum(dim=1)


def _split(places: Tensor, values: Tensor, tolerance: float) -> Tensor:
    """New places: inside each class by value, apart where a gap is wider than ``tolerance``."""
    order = torch.argsort(values, stable=True)
    order = order[torch.argsort(places[order], stable=True)]
    begins = torch.ones(len(places), dtype=torch.bool)
    begins[1:] = (places[order].diff() != 0) | (values[order].diff() > tolerance)
    split = torch.empty_like(places)
    split[order] = torch.arange(len(places))[begins][begins.cumsum(0) - 1]
    return split


def _positions(graph: Graph, value: Tensor, ties: list[Tie]) -> tuple[Tensor, ...]:
    """Weights of places on each axis: an entry's own where nothing moves, else its place inside its unit."""
    sizes = {(tie.name, tie.axis, tie.start): block.size for block in graph.blocks for tie in block.ties}
    found = []
    for axis, length in enumerate(value.shape):
        place = torch.arange(length)
        for tie in ties:
            if tie.axis == axis:
                size = sizes[tie.name, tie.axis, tie.start]
                end = length if tie.along is not None else tie.start + size * tie.repeat
                place[tie.start : end] = tie.start + (place[tie.start : end] - tie.start) % tie.repeat
        weights = _features(length, seed=2 + axis)[0][place]
        found.append(weights.view([-1 if a == axis else 1 for a in range(value.ndim)]))
    return tuple(found)


def _features(count: int, *, seed: int) -> Tensor:
    """Fixed random numbers between 1/2 and 3/2, ``[channels, count]``, the same in every release of every library."""
    numbers = (torch.arange(count)[None] + 1) * _GOLDEN + (torch.arange(_CHANNELS)[:, None] + 16 * seed) * _MIX[0]
    for shift, factor in zip((30, 27), _MIX, strict=True):  # splitmix64; integers wrap around
        numbers = (numbers ^ (numbers >> shift)) * factor
    return 0.5 + (numbers ^ (numbers >> 31)).remainder(2**52).double() / 2**52
