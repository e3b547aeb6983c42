"""What is known of a value on its way through the network: the spaces on its axes, and how its entries transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from compare.symmetry.graph import Norm
from compare.symmetry.tracing.spaces import Space, fixed

Variable: TypeAlias = tuple[str, int, int]
"""The diagonal that acts on one stretch of one axis of a parameter: its name, the axis, where the stretch begins."""


@dataclass(frozen=True)
class Piece:
    """A stretch of an axis: its units, and the diagonal that acts on it as a product of parameters' diagonals.

    Attributes:
        space: The units.
        sign: Variables whose signs multiply the entries.
        scale: Variables whose magnitudes multiply the entries, with exponents.
    """

    space: Space
    sign: frozenset[Variable] = frozenset()
    scale: Mapping[Variable, int] = field(default_factory=dict)

    def times(self, other: Piece, power: int = 1) -> Piece:
        """The diagonal times that of ``other`` to a power."""
        scale = {v: self.scale.get(v, 0) + power * other.scale.get(v, 0) for v in {**self.scale, **other.scale}}
        return Piece(self.space, self.sign ^ other.sign, {v: e for v, e in scale.items() if e})


@dataclass(frozen=True)
class Axis:
    """An axis: stretches one after the other.

    Attributes:
        pieces: The stretches; of all wholes together where the axis is inside wholes.
        within: Spaces of wholes that stand on another axis of the same value: the axis holds the units inside one
            whole (channels of a group, one head's entries), and what they are depends on the place on that axis.
    """

    pieces: tuple[Piece, ...]
    within: tuple[Space, ...] = ()

    def __len__(self) -> int:
        """Number of entries."""
        total = sum(piece.space.size for piece in self.pieces)
        return total // sum(space.size for space in self.within) if self.within else total

    def now(self) -> Axis:
        """With every space replaced by what it has become."""
        pieces = tuple(replace(piece, space=part) for piece in self.pieces for part in piece.space.now())
        return Axis(pieces, tuple(part for space in self.within for part in space.now()))

    @property
    def label(self) -> list[Space]:
        """The spaces of the stretches as they are now."""
        return [piece.space for piece in self.now().pieces]

    @property
    def still(self) -> bool:
        """Whether no entry moves."""
        return all(space.fixed or space.size == 1 for space in self.label)


def still(size: int) -> Axis:
    """An axis on which nothing moves."""
    return Axis((Piece(fixed(size)),))


@dataclass
class Draft:
    """A linear map while it is being traced; see ``compare.symmetry.graph.Layer``."""

    name: str
    weight: str
    bias: str | None
    axis: int
    binarised: bool
    integer: bool
    norm: Norm | None = None
    pooled: bool = False
    step: bool = False
    quantised: bool = False


@dataclass(frozen=True)
class Value:
    """A tensor of the network, for any inputs and parameters.

    Attributes:
        axes: Its axes.
        integer: All entries are integers.
        source: The linear map of which this is the output, behind pooling and normalisation at most, used nowhere else.
        tail: The linear map from which only positively homogeneous operations lead here.
        parameter: The parameter or buffer that this is, as it stands.
    """

    axes: tuple[Axis, ...]
    integer: bool = False
    source: Draft | None = None
    tail: Draft | None = None
    parameter: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of entries on each axis."""
        return tuple(len(axis) for axis in self.axes)

    def axis(self, index: int) -> Axis:
        """An axis as it is now; negative numbers count from the end."""
        return self.axes[index].now()

    def plain(self, axes: Iterable[Axis] | None = None, *, integer: bool = False) -> Value:
        """A value computed from this one, of which nothing is known but its axes."""
        return Value(tuple(self.axes if axes is None else axes), integer=integer)

    def with_axis(self, index: int, axis: Axis) -> Value:
        """The same value with another axis in one place."""
        axes = list(self.axes)
        axes[index] = axis
        return replace(self, axes=tuple(axes))


def still_value(shape: Sequence[int], *, integer: bool = False) -> Value:
    """A value of which nothing moves."""
    return Value(tuple(still(size) for size in shape), integer=integer)


def values_in(arguments: Any) -> Iterator[Value]:
    """All values in nested tuples, lists and dictionaries."""
    if isinstance(arguments, Value):
        yield arguments
    elif isinstance(arguments, dict):
        yield from values_in(list(arguments.values()))
    elif isinstance(arguments, tuple | list):
        for item in arguments:
            yield from values_in(item)
