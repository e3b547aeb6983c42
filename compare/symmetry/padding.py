"""Two networks of one architecture and different widths, padded to one shape."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from compare.symmetry.graph import Block, Graph, SymmetryError, Tie


class Frame:
    """The padded network that both fit in.

    Attributes:
        graphs: The two graphs.
        graph: The padded one, good for cutting tensors to terms.
        places: For both networks and each block the place of every unit in the padded block.
    """

    def __init__(self, a: Graph, b: Graph) -> None:
        """Lay out both; ``SymmetryError`` where they differ in more than the numbers of units."""
        self.graphs = (a, b)
        _check_alike(a, b)
        self.places: tuple[list[Tensor], list[Tensor]] = ([], [])
        blocks: list[Block] = []
        for one, other in zip(a.blocks, b.blocks, strict=True):
            wholes = 1 if one.parent is None else blocks[one.parent].size
            inner = [block.size // _wholes(graph, block) for graph, block in ((a, one), (b, other))]
            blocks.append(replace(one, size=wholes * max(inner)))
            for places, graph, block, count in zip(self.places, self.graphs, (one, other), inner, strict=True):
                above = torch.zeros(1, dtype=torch.int64) if block.parent is None else places[block.parent]
                assert len(above) == _wholes(graph, block), "wholes come before their parts"
                places.append((above[:, None] * max(inner) + torch.arange(count)).flatten())
        starts: dict[tuple[str, int, int], int] = {}
        self._axes: dict[str, list[tuple[Tensor, Tensor, int]]] = {}
        for name in a.reference:
            self._axes[name] = [self._axis(name, axis, blocks, starts) for axis in range(a.reference[name].ndim)]
        self.graph = replace(a, blocks=tuple(_moved(block, starts) for block in blocks))

    def _axis(
        self, name: str, axis: int, blocks: list[Block], starts: dict[tuple[str, int, int], int]
    ) -> tuple[Tensor, Tensor, int]:
        """For both networks where their entries go on the padded axis, and its length."""
        places: tuple[list[Tensor], list[Tensor]] = ([], [])
        ends, total = [0, 0], 0
        for k, ties in _on_axis(self.graphs, name, axis):
            gaps = [tie.start - end for tie, end in zip(ties, ends, strict=True)]
            _check_equal(name, axis, gaps)
            for side in (0, 1):
                places[side].append(torch.arange(total, total + gaps[side]))
            total += gaps[0]
            starts[name, axis, ties[0].start] = total
            for side, tie in enumerate(ties):
                units, size = self._units(side, k, tie, blocks)
                entries = (units[:, None] * tie.repeat + torch.arange(tie.repeat)).flatten()
                places[side].append(total + entries)
                ends[side] = tie.start + len(entries)
            total += size * ties[0].repeat
        rest = [graph.reference[name].shape[axis] - end for graph, end in zip(self.graphs, ends, strict=True)]
        _check_equal(name, axis, rest)
        for side in (0, 1):
            places[side].append(torch.arange(total, total + rest[side]))
        return torch.cat(places[0]), torch.cat(places[1]), total + rest[0]

    def _units(self, side: int, k: int, tie: Tie, blocks: list[Block]) -> tuple[Tensor, int]:
        """Where the units on a tie go, and the number of places; where it holds units inside wholes, of one whole."""
        places = self.places[side][k]
        if tie.along is None:
            return places, blocks[k].size
        graph = self.graphs[side]
        here = graph.reference[tie.name].shape[tie.axis] // tie.repeat
        level: int | None = k
        while level is not None and graph.blocks[level].size * here != graph.blocks[k].size:
            level = graph.blocks[level].parent
        # All wholes are padded alike, and the first one stays the first.
        return places[:here], blocks[k].size // (1 if level is None else blocks[level].size)

    def padded(self, side: int, name: str, tensor: Tensor) -> Tensor:
        """A tensor of one network among zeros."""
        axes = self._axes[name]
        wide = torch.zeros([axis[2] for axis in axes], dtype=tensor.dtype)
        places = [axis[:2][side] for axis in axes]
        index = [place.view([-1 if i == n else 1 for i in range(len(axes))]) for n, place in enumerate(places)]
        wide[tuple(index)] = tensor
        return wide


def units_at(places: Tensor, size: int) -> Tensor:
    """The unit at each padded place, -1 for padding."""
    units = torch.full((size,), -1)
    units[places] = torch.arange(len(places))
    return units


def _wholes(graph: Graph, block: Block) -> int:
    return 1 if block.parent is None else graph.blocks[block.parent].size


def _check_alike(a: Graph, b: Graph) -> None:
    names = [[block.name for block in graph.blocks] for graph in (a, b)]
    if names[0] != names[1]:
        raise SymmetryError(
            f"graph_b: expected the blocks of graph_a, {', '.join(names[0]) or 'none'}; got "
            f"{', '.join(names[1]) or 'none'}. Both networks must have the same architecture, up to widths"
        )
    for one, other in zip(a.blocks, b.blocks, strict=True):
        if _described(one) != _described(other):
            raise SymmetryError(
                f"block '{one.name}': expected the same tensors, signs and scales in both networks, got different "
                "ones; the networks may differ in the numbers of units only. Trace both alike, with the same options"
            )
        inner = [block.size // _wholes(graph, block) for graph, block in ((a, one), (b, other))]
        if one.rigid and inner[0] != inner[1]:
            raise SymmetryError(
                f"block '{one.name}': its units keep their order, so that none can be left out: expected {inner[0]} of "
                f"them, got {inner[1]}"
            )
    if a.reference.keys() != b.reference.keys() or a.binarised != b.binarised:
        differing = sorted((a.reference.keys() ^ b.reference.keys()) | (a.binarised ^ b.binarised))
        raise SymmetryError(
            f"graph_b: expected the parameters of graph_a, got others: {', '.join(differing[:4])}. Both networks must "
            "have the same architecture and precision, up to widths"
        )


def _described(block: Block) -> tuple[object, ...]:
    """A block without its size, and without where it begins on an axis."""
    ties = [(tie.name, tie.axis, tie.repeat, tie.along, tie.scored) for tie in block.ties]
    generators = [(g.kind, [(tie.name, tie.axis, power) for tie, power in g.factors]) for g in block.generators]
    return ties, generators, block.parent, block.rigid


def _on_axis(graphs: tuple[Graph, Graph], name: str, axis: int) -> Iterator[tuple[int, tuple[Tie, Tie]]]:
    """Blocks on one axis of a tensor in their order there, with their ties in both networks."""
    found: list[list[tuple[int, int, Tie]]] = []
    for graph in graphs:
        ties = [(t.start, k, t) for k, b in enumerate(graph.blocks) for t in b.ties if (t.name, t.axis) == (name, axis)]
        found.append(sorted(ties, key=lambda entry: entry[0]))
    for (_, k, one), (_, other_k, other) in zip(*found, strict=True):
        if k != other_k:
            raise SymmetryError(
                f"'{name}': expected the same blocks in the same order on axis {axis}, got "
                f"'{graphs[0].blocks[k].name}' and '{graphs[1].blocks[other_k].name}'"
            )
        yield k, (one, other)


def _check_equal(name: str, axis: int, lengths: list[int]) -> None:
    if lengths[0] != lengths[1]:
        raise SymmetryError(
            f"'{name}': expected as many entries that do not move on axis {axis} in both networks, got {lengths[0]} "
            f"and {lengths[1]}. Inputs, outputs and sizes of windows must agree"
        )


def _moved(block: Block, starts: dict[tuple[str, int, int], int]) -> Block:
    """A block with its ties where they begin on padded axes."""

    def at(tie: Tie) -> Tie:
        return replace(tie, start=starts.get((tie.name, tie.axis, tie.start), tie.start))

    generators = tuple(
        replace(g, factors=tuple((at(tie), power) for tie, power in g.factors)) for g in block.generators
    )
    return replace(block, ties=tuple(map(at, block.ties)), generators=generators)
