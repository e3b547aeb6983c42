"""From two networks to the problem of matching them: tensors cut so that each axis holds one block or none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from compare.params import Params, sign
from compare.symmetry.element import Element, identity, without_zeros
from compare.symmetry.graph import Graph, SymmetryError, Tie
from compare.symmetry.matching.problem import Problem, Term

Weights = Literal["latent", "binarised"]
Gains = Literal["fixed", "free"]

_MOST_SIGNS = 8


def scored(graph: Graph, params: Params, weights: Weights) -> Params:
    """The tensors that matching counts: weights and biases of linear maps, and other parameters, no normalisation.

    Args:
        graph: The network's symmetries.
        params: All parameters and buffers.
        weights: Whether binarised weights count by their latents or by their signs.

    Returns:
        Tensors by name.
    """
    tied = {tie.name for block in graph.blocks for tie in block.ties}
    names = {tie.name for block in graph.blocks for tie in block.ties if tie.scored}
    names |= {layer.weight for layer in graph.layers}
    names |= {layer.bias for layer in graph.layers if layer.bias and layer.norm is None and layer.bias not in tied}
    found = {}
    for name in sorted(names):
        latent = without_zeros(params[name]) if name in graph.binarised else params[name]
        found[name] = sign(latent) if weights == "binarised" and name in graph.binarised else latent
    return found


def sign_generators(graph: Graph, gains: Gains) -> tuple[tuple[int, ...], ...]:
    """For each block the sign generators that matching searches.

    Args:
        graph: The network's symmetries.
        gains: ``"fixed"`` leaves out those that a gain's sign fixes, which the standard form made positive.

    Returns:
        Indices into ``Block.generators``.
    """
    chosen = []
    for block in graph.blocks:
        own = {(tie.name, tie.axis, tie.start) for tie in block.ties}
        chosen.append(
            tuple(
                index
                for index, generator in enumerate(block.generators)
                if generator.kind == "sign"
                and (gains == "free" or graph.gain_of(block, generator) is None)
                # Signs of wholes that act on their parts' entries are left out.
                and all((tie.name, tie.axis, tie.start) in own for tie, _ in generator.factors)
                and any(tie.scored for tie, _ in generator.factors)
            )
        )
    return tuple(chosen)


def problem_of(graph: Graph, a: Mapping[str, Tensor], b: Mapping[str, Tensor], gains: Gains) -> tuple[Problem, float]:
    """The matching of ``b`` onto ``a``, and what the entries that never move contribute.

    Args:
        graph: The network's symmetries.
        a: Tensors that stay, by name.
        b: Tensors that move, of the same names and shapes.
        gains: See ``sign_generators``.

    Returns:
        The problem and the constant part of the objective.

    Raises:
        SymmetryError: For a tensor of which more than two axes move, or a block of too many sign generators.
    """
    generators = sign_generators(graph, gains)
    for block, chosen in zip(graph.blocks, generators, strict=True):
        if len(chosen) > _MOST_SIGNS:
            raise SymmetryError(
                f"block '{block.name}' has {len(chosen)} sign generators, of which each unit would have to try all 2^"
                f"{len(chosen)} choices: expected at most {_MOST_SIGNS}; use gains='fixed' on standard forms"
            )
    moving = {i for i, block in enumerate(graph.blocks) if block.parent is not None or not block.rigid or generators[i]}
    terms: list[Term] = []
    constant = 0.0
    for name in a:
        ties = [(i, tie) for i in sorted(moving) for tie in graph.blocks[i].ties if tie.name == name]
        for left, right, axes in _cut(graph, a[name], b[name], ties):
            if not axes:
                constant += float((left.double() * right.double()).sum())
                continue
            if len(axes) > 2:
                raise SymmetryError(f"'{name}': expected a tensor of which two axes move at most, got {len(axes)}")
            parities = tuple(_parity(graph, block, tie, generators[block]) for block, tie in axes)
            terms.append(Term(left, right, tuple(block for block, _ in axes), parities))
    problem = Problem(
        sizes=tuple(block.size for block in graph.blocks),
        parents=tuple(block.parent for block in graph.blocks),
        rigid=tuple(block.rigid for block in graph.blocks),
        signs=tuple(map(len, generators)),
        terms=tuple(terms),
    )
    return problem, constant


def element_of(graph: Graph, permutations: list[Tensor], signs: list[Tensor], gains: Gains) -> Element:
    """The group element of a solution: its permutations and signs, no scales."""
    diagonals = []
    for rest, chosen, found in zip(identity(graph).diagonals, sign_generators(graph, gains), signs, strict=True):
        full = rest.clone()
        for row, values in zip(chosen, found, strict=True):
            full[row] = values.double()
        diagonals.append(full)
    return Element(graph, tuple(permutations), tuple(diagonals))


def _parity(graph: Graph, block: int, tie: Tie, chosen: tuple[int, ...]) -> tuple[int, ...]:
    key = (tie.name, tie.axis, tie.start)
    return tuple(
        int(any((t.name, t.axis, t.start) == key for t, _ in graph.blocks[block].generators[g].factors)) for g in chosen
    )


_Placed = tuple[int, Tie]


def _cut(graph: Graph, a: Tensor, b: Tensor, ties: list[_Placed]) -> Iterator[tuple[Tensor, Tensor, list[_Placed]]]:
    """Parts in which every axis holds one block, or does not move: ``[units, (units,) rest]``."""
    for block, tie in ties:
        if tie.along is not None:
            a, b = (_spread_wholes(t, tie, graph.blocks[block].size) for t in (a, b))
    stretches = [list(_stretches(graph, ties, axis, size)) for axis, size in enumerate(a.shape)]
    for choice in itertools.product(*stretches):
        left, right = a, b
        for axis, (start, length, _) in enumerate(choice):
            left, right = left.narrow(axis, start, length), right.narrow(axis, start, length)
        placed = [(axis, found) for axis, (_, _, found) in enumerate(choice) if found is not None]
        yield _fronted(graph, left, placed), _fronted(graph, right, placed), [found for _, found in placed]


def _stretches(graph: Graph, ties: list[_Placed], axis: int, size: int) -> Iterator[tuple[int, int, _Placed | None]]:
    """Consecutive parts of an axis: where they begin, how long they are, and the units on them."""
    here = sorted(((tie.start, block, tie) for block, tie in ties if tie.axis == axis), key=lambda found: found[0])
    position = 0
    for start, block, tie in here:
        if start > position:
            yield position, start - position, None
        position = start + graph.blocks[block].size * tie.repeat
        yield start, position - start, (block, tie)
    if position < size:
        yield position, size - position, None


def _fronted(graph: Graph, tensor: Tensor, placed: list[tuple[int, _Placed]]) -> Tensor:
    """Moving axes first, everything else in one last axis."""
    for axis, (block, tie) in reversed(placed):
        shape = tensor.shape
        tensor = tensor.reshape(*shape[:axis], graph.blocks[block].size, tie.repeat, *shape[axis + 1 :])
    fronts = [axis + number for number, (axis, _) in enumerate(placed)]
    tensor = tensor.movedim(fronts, list(range(len(fronts))))
    return tensor.reshape(*tensor.shape[: len(fronts)], -1)


def _spread_wholes(tensor: Tensor, tie: Tie, size: int) -> Tensor:
    """A grouped weight as the dense one it stands for: zero between different wholes."""
    assert tie.along is not None, "called for units inside wholes"
    wholes = size * tie.repeat // tensor.shape[tie.axis]
    view = tensor.movedim((tie.along, tie.axis), (0, 1))
    parts = view.reshape(wholes, -1, *view.shape[1:])
    dense = torch.zeros(wholes, parts.shape[1], wholes, *parts.shape[2:], dtype=tensor.dtype)
    for whole in range(wholes):
        dense[whole, :, whole] = parts[whole]
    return dense.flatten(2, 3).flatten(0, 1).movedim((0, 1), (tie.along, tie.axis))
