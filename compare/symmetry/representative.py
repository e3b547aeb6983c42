"""The representative of a whole orbit: units in an order, and with signs, that do not depend on how they were given.

Colour refinement (``refinement``) tells units apart; where it does not, one of them is chosen, and every choice that no
symmetry makes equal to another is followed to its end. The least of the networks found is the representative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compare.params import Params, sign
from compare.symmetry.element import Element, entries, identity, inside
from compare.symmetry.graph import Graph, Norm
from compare.symmetry.refinement import FLOOR, Refinement, State

_MOST_CHOICES = 1000
"""Choices that are followed; beyond them the first one is taken."""


def representative(graph: Graph, params: Params) -> Element:
    """The element that brings ``params`` to the representative of their orbit under permutations and signs.

    Every decision rests on numbers that the group leaves as they are, up to rounding: two units whose sums of entries
    differ by about as much as rounding may come in either order (in float32 a chance of about 1e-7 for each pair of
    units of a block; permutations and signs alone do not round). Latent weights count by their values.

    Args:
        graph: The network's symmetries.
        params: Parameters in standard form: scales are not searched.

    Returns:
        Permutations and signs; all scales 1. Units that agree in everything that comes in and goes out are in the order
        given, which cannot be seen in the result. Beyond 1,000 choices among units that refinement does not tell apart
        and that are no such copies, the search ends, and the result may depend on the order given.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(4, [6], 2)
        >>> graph = compare.trace(model, torch.ones(2, 4), binarynets.FAMILY)
        >>> params = compare.standard_form(graph, compare.parameters(model))
        >>> copy = compare.random_element(graph, torch.Generator().manual_seed(0)).apply(params)
        >>> one, other = (representative(graph, p).apply_linear(p)["linear1.weight"] for p in (params, copy))
        >>> torch.equal(one, other)
        True
    """
    return _Search(graph, params).run()


def duplicate_units(graph: Graph, params: Params) -> dict[str, int]:
    """Number of units, by block, that agree with another one of their whole in everything that comes in.

    Weights that are binarised count by their signs, and a sign function's threshold as one number. Units that agree up
    to a sign that their block admits count too. Duplicates may differ in what their outputs are used for.

    Args:
        graph: The network's symmetries.
        params: Its parameters; the standard form that the graph carries removes scales first.

    Returns:
        For each block the number of units that have a twin; two equal units count as 2.

    Raises:
        ParameterError: If ``params`` do not fit the network.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(4, [6], 2)
        >>> graph = compare.trace(model, torch.ones(2, 4), binarynets.FAMILY)
        >>> params = compare.parameters(model)
        >>> params["linear1.weight"][3] = 7 * params["linear1.weight"][0]
        >>> duplicate_units(graph, params)["linear1"] >= 2
        True
    """
    graph.check(params)
    bare = _bare(graph, graph.standardise(graph, params, "loss", "kept"))
    moved = representative(graph, bare).apply_linear(bare)
    consumed = {(layer.weight, axis) for layer in graph.layers for axis in (0, 1) if axis != layer.axis}
    counts = {}
    for block in graph.blocks:
        own = [tie for tie in block.ties if (tie.name, tie.axis) not in consumed]
        wholes = 1 if block.parent is None else graph.blocks[block.parent].size
        keys = [entries(moved[tie.name].double(), tie, block) for tie in own]
        counts[block.name] = _repeated(torch.cat(keys, dim=1).view(wholes, block.size // wholes, -1)) if own else 0
    return counts


def _bare(graph: Graph, params: Params) -> Params:
    """Signs for binarised weights; for each threshold one offset and its gain's direction, nothing for statistics."""
    bare = {name: tensor.double() for name, tensor in params.items() if tensor.is_floating_point()}
    for layer in graph.layers:
        if layer.binarised:
            bare[layer.weight] = sign(bare[layer.weight])
        if layer.norm is not None and layer.step:
            bare |= _bare_threshold(layer.norm, layer.bias, bare)
    return bare


def _bare_threshold(norm: Norm, bias: str | None, bare: Params) -> Params:
    if norm.gain is None or norm.offset is None:
        return {}
    gain, offset = bare[norm.gain], bare[norm.offset]
    slope = gain / torch.sqrt(bare[norm.variance] + norm.eps)
    shift = bare[bias] if bias else torch.zeros_like(gain)
    threshold = shift - bare[norm.mean] + offset / torch.where(slope == 0, 1.0, slope)
    return {
        norm.gain: torch.sign(gain),
        norm.offset: torch.where(slope == 0, torch.sign(offset), threshold * torch.sign(gain)),
        norm.mean: torch.zeros_like(gain),
        norm.variance: torch.ones_like(gain),
    } | ({bias: torch.zeros_like(gain)} if bias else {})


def _repeated(keys: Tensor) -> int:
    """Rows ``[wholes, units, entries]`` that equal another one of their whole, to rounding."""
    scaled = keys / keys.abs().amax(dim=(0, 1)).clamp_min(FLOOR)
    close = torch.cdist(scaled, scaled, p=torch.inf) < 1e-6
    return int((close.sum(dim=2) > 1).sum())


class _Search:
    """Follows choices among units that refinement does not tell apart."""

    def __init__(self, graph: Graph, params: Params) -> None:
        self._graph = graph
        self._refinement = Refinement(graph, params)
        self._left = _MOST_CHOICES

    def run(self) -> Element:
        return self._best(self._refinement.start())[0]

    def _best(self, state: State) -> tuple[Element, Tensor]:
        """The least network that ``state`` leads to, and its numbers."""
        choices = self._choices(state)
        while len(choices) == 1:
            state = choices[0]
            choices = self._choices(state)
        if not choices:
            return self._end(state)
        best = self._best(choices[0])
        for choice in choices[1:]:
            if self._left <= 0:
                break
            self._left -= 1
            other = self._best(choice)
            if self._less(other[1], best[1]):
                best = other
        return best

    def _choices(self, state: State) -> list[State]:
        """States that may come next, one for each choice that differs; none at the end."""
        self._refinement.settle(state)
        oriented = _element(self._graph, state, moved=False).apply_linear(self._refinement.values)
        found = False
        for index in range(len(self._graph.blocks)):
            for cell in self._cells(state, index):
                twins = self._twins(index, cell, oriented)
                if len(twins) > 1:
                    return [_first(state, index, unit) for unit in twins]
                # Copies of one unit in everything: every order gives the same network.
                state.places[index][cell] += torch.arange(len(cell))
                found = True
        return [state] if found else self._sign_choices(state, oriented)

    def _cells(self, state: State, index: int) -> list[Tensor]:
        """Classes of several units; none where the wholes still have to be told apart."""
        parent = self._graph.blocks[index].parent
        if state.sorted(index) or (parent is not None and not state.sorted(parent)):
            return []
        places = state.places[index]
        counts = torch.bincount(places)
        return [torch.nonzero(places == place).flatten() for place in torch.nonzero(counts > 1).flatten()]

    def _twins(self, index: int, cell: Tensor, oriented: Params) -> list[int]:
        """One unit for each set of units that can be exchanged without any change."""
        found: list[int] = []
        for unit in cell.tolist():
            if not any(self._unchanged(_swap(self._graph, index, unit, other), index, oriented) for other in found):
                found.append(unit)
        return found

    def _sign_choices(self, state: State, oriented: Params) -> list[State]:
        """Undecided signs made +1: all that change nothing at once, else the first.

        No other choice need be followed: with all units told apart, conditions on signs are linear over GF(2), and
        where one is free, both its values lead to the same network (given that no tensor has three moving axes).
        """
        undecided = [(i, *at) for i, signs in enumerate(state.signs) for at in torch.nonzero(signs == 0).tolist()]
        idle = [found for found in undecided if self._unchanged(_flip(self._graph, *found), found[0], oriented)]
        for index, row, unit in idle or undecided[:1]:
            state.signs[index][row, unit] = 1.0
        return [state] if undecided else []

    def _unchanged(self, element: Element, index: int, oriented: Params) -> bool:
        names = _touched(self._graph, index)
        tensors = {name: oriented[name] for name in names}
        moved = element.apply_linear(tensors)
        return all(self._close(moved[name], tensors[name]) for name in names)

    def _close(self, a: Tensor, b: Tensor) -> bool:
        return not bool(self._differ(a, b).any())

    def _differ(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs() > self._refinement.tolerance * torch.maximum(a.abs(), b.abs()) + FLOOR

    def _less(self, a: Tensor, b: Tensor) -> bool:
        differ = self._differ(a, b)
        first = int(differ.int().argmax())
        return bool(differ.any()) and bool(a[first] < b[first])

    def _end(self, state: State) -> tuple[Element, Tensor]:
        element = _element(self._graph, state, moved=True)
        moved = element.apply_linear(self._refinement.values)
        return element, torch.cat([tensor.flatten() for tensor in moved.values()] or [torch.zeros(0)])


def _element(graph: Graph, state: State, *, moved: bool) -> Element:
    """Signs found so far (+1 where undecided) and, if ``moved``, the units in their places."""
    permutations: list[Tensor] = []
    for block, places in zip(graph.blocks, state.places, strict=True):
        above = None if block.parent is None else permutations[block.parent]
        inner = places.view(1 if above is None else len(above), -1).argsort(dim=1)
        inner = inner if moved and not block.rigid else torch.arange(inner.shape[1]).expand_as(inner)
        permutations.append(inside(block, above, inner if above is None else inner[above]))
    signs = (torch.where(signs == 0, 1.0, signs)[:, p] for signs, p in zip(state.signs, permutations, strict=True))
    return Element(graph, tuple(permutations), tuple(signs))


def _flip(graph: Graph, index: int, row: int, unit: int) -> Element:
    flipped = identity(graph)
    flipped.diagonals[index][row, unit] = -1
    return flipped


def _swap(graph: Graph, index: int, one: int, other: int) -> Element:
    """Exchange two units, with all their parts."""
    rest = identity(graph)
    permutations: list[Tensor] = []
    for number, block in enumerate(graph.blocks):
        above = None if block.parent is None else permutations[block.parent]
        wholes = 1 if above is None else len(above)
        permutation = inside(block, above, torch.arange(block.size // wholes).expand(wholes, -1))
        if number == index:
            permutation = permutation.clone()
            permutation[[one, other]] = permutation[[other, one]]
        permutations.append(permutation)
    return Element(graph, tuple(permutations), rest.diagonals)


def _first(state: State, index: int, unit: int) -> State:
    """The unit before all others of its class."""
    chosen = state.copy()
    places = chosen.places[index]
    places[(places == places[unit]) & (torch.arange(len(places)) != unit)] += 1
    return chosen


def _touched(graph: Graph, index: int) -> list[str]:
    """Names of tensors on which a block, or a block inside it, acts."""
    family = {index}
    for number, block in enumerate(graph.blocks):
        if block.parent in family:
            family.add(number)
    tied = {tie.name for i in family for tie in graph.blocks[i].ties}
    turned = {name for i in family for generator in graph.blocks[i].generators for name in generator.names}
    return sorted(tied | turned)
