"""Where rules work: the state of a tracing, and the place of one operation in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor, nn

from compare.symmetry.graph import SymmetryError
from compare.symmetry.tracing.spaces import Space, Spaces
from compare.symmetry.tracing.values import Axis, Draft, Piece, Value, Variable, still, still_value


@dataclass
class Tracing:
    """What all operations of one network know together; everything but spaces and labels is new in each pass.

    Attributes:
        reference: Parameters and buffers by name.
        aliases: Names of tied parameters, by every name they have.
        spaces: The spaces found so far.
        labels: For each parameter met, its axes.
        ties: Measured rate of pre-activations of exactly 0, for each sign function by its place.
        accept_ties: Largest tie rate at which signs are admitted.
        signs: Sets of variables whose signs must multiply to +1.
        scales: Exponents of variables whose magnitudes must multiply to 1.
        drafts: Linear maps in the order of evaluation.
        unscored: Parameters of normalisations, and biases that one takes up.
        gains: Gains of normalisations, whose signs a standard form makes positive.
        offsets: Parameters that are added.
        levels: Variables that are the same for all units of one whole.
        stepped: Places of sign functions without an offset of their own.
        outputs: Spaces of the network's outputs.
        users: For each parameter the places that use it.
        shared: Parameters that had several users in the pass before.
        notes: Why a group is smaller than a reader may expect, with the spaces concerned.
    """

    reference: Mapping[str, Tensor]
    aliases: Mapping[str, str]
    ties: Mapping[str, float]
    accept_ties: float
    spaces: Spaces = field(default_factory=Spaces)
    labels: dict[str, list[Axis]] = field(default_factory=dict)
    signs: list[frozenset[Variable]] = field(default_factory=list)
    scales: list[Mapping[Variable, int]] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    unscored: set[str] = field(default_factory=set)
    gains: list[str] = field(default_factory=list)
    offsets: list[str] = field(default_factory=list)
    levels: list[tuple[frozenset[Variable], Space]] = field(default_factory=list)
    stepped: list[str] = field(default_factory=list)
    users: dict[str, set[str]] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    outputs: set[Space] = field(default_factory=set)
    notes: list[tuple[Space, str]] = field(default_factory=list)

    def restart(self) -> None:
        """Forget what the next pass finds again."""
        for found in (
            self.signs,
            self.scales,
            self.drafts,
            self.gains,
            self.offsets,
            self.levels,
            self.stepped,
            self.notes,
        ):
            found.clear()
        self.shared = frozenset(name for name, users in self.users.items() if len(users) > 1)
        self.unscored.clear()
        self.users.clear()

    def parameter(self, name: str, *users: str) -> Value:
        """A parameter or buffer as a value, its diagonals variables of their own; ``users`` are places that read it."""
        name = self.aliases[name]
        if not self.reference[name].is_floating_point():
            return still_value(self.reference[name].shape)
        self.users.setdefault(name, set()).update(users)
        if name not in self.labels:
            shape = self.reference[name].shape
            self.labels[name] = [Axis((Piece(self.spaces.new(size)),)) for size in shape]
        axes = tuple(_with_variables(name, i, axis) for i, axis in enumerate(self.labels[name]))
        return Value(axes, parameter=name)


def _with_variables(name: str, index: int, axis: Axis) -> Axis:
    pieces, start = [], 0
    for piece in axis.now().pieces:
        variable = (name, index, start)
        pieces.append(Piece(piece.space, frozenset([variable]), {variable: 1}))
        start += piece.space.size
    return Axis(tuple(pieces), axis.now().within)


@dataclass(frozen=True)
class Site:
    """Where an operation stands in the network, and what a rule may say there.

    Attributes:
        name: Module path, or the node's name where no module stands behind it.
        place: A name of this call alone.
        operation: The module, function, or name of the method.
        result: What the operation gave on the example, a tensor or a tuple of tensors.
        tracing: The state of the tracing.
    """

    name: str
    place: str
    operation: Any
    result: Any
    tracing: Tracing

    @property
    def spaces(self) -> Spaces:
        """The spaces of the network."""
        return self.tracing.spaces

    def refuse(self, why: str) -> NoReturn:
        """Raise the error that names this place and says what to do."""
        raise SymmetryError(f"'{self.name}' ({kind_of(self.operation)}): {why}. {remedy(self.name, self.operation)}")

    def own(self, name: str) -> str | None:
        """The full name of one of the module's own parameters or buffers, None where it has none of that name."""
        full = f"{self.name}.{name}" if self.name else name
        return self.tracing.aliases.get(full)

    def parameter(self, name: str) -> Value | None:
        """One of the module's own parameters or buffers, None where it has none of that name."""
        full = self.own(name)
        return None if full is None else self.tracing.parameter(full, self.place)

    def same(self, a: Axis, b: Axis) -> Iterator[tuple[Piece, Piece]]:
        """Make two axes hold the same units; gives their stretches in pairs."""
        if len(a) != len(b):
            self.refuse(f"expected axes of one length, got {len(a)} and {len(b)}")
        a, b = a.now(), b.now()
        if _wholes(a) != _wholes(b):
            # The same units in wholes that are not the same cannot be said of nested spaces.
            for axis in (a, b):
                self.one(self.freeze(axis, "units inside wholes meet units inside others, or in none"))
            return ((piece, Piece(piece.space)) for piece in a.now().pieces)
        self.spaces.unify([p.space for p in a.pieces], [p.space for p in b.pieces])
        return zip(a.now().pieces, b.now().pieces, strict=False)

    def mixed(self, value: Value, *places: int) -> Value:
        """An operation mixes entries along these axes: units inside wholes that stand there keep their order.

        Entry j of one whole meets entry j of every other, so no whole may order its insides in its own way.
        """
        for place in places:
            label = value.axis(place).label
            for i in range(len(value.axes)):
                if i != place and label and list(value.axis(i).within) == label:
                    kept = self.still(value.axis(i), "an operation mixes wholes, entry by entry")
                    value = value.with_axis(i, kept)
        return value

    def equal(self, a: Axis, b: Axis) -> Axis:
        """Two axes that hold the same units, and on which the same diagonal acts."""
        for left, right in self.same(a, b):
            self.one_piece(left.times(right, -1))
        return a.now()

    def inverse(self, a: Axis, b: Axis) -> None:
        """Two axes that are summed over: the same units, and diagonals that cancel."""
        for left, right in self.same(a, b):
            self.one_piece(left.times(right))

    def product(self, a: Axis, b: Axis) -> Axis:
        """Two axes that hold the same units and are multiplied."""
        pieces = tuple(left.times(right) for left, right in self.same(a, b))
        return Axis(pieces, a.now().within)

    def one(self, *axes: Axis) -> None:
        """No diagonal acts on these axes."""
        for axis in axes:
            for piece in axis.pieces:
                self.one_piece(piece)

    def one_piece(self, piece: Piece) -> None:
        """No diagonal acts on this stretch."""
        self.tracing.signs.append(piece.sign)
        self.tracing.scales.append(piece.scale)

    def positive(self, *axes: Axis) -> None:
        """Units on these axes may not be negated."""
        self.tracing.signs.extend(piece.sign for axis in axes for piece in axis.pieces)

    def unscaled(self, *axes: Axis) -> None:
        """Units on these axes may not be scaled."""
        self.tracing.scales.extend(piece.scale for axis in axes for piece in axis.pieces)

    def freeze(self, axis: Axis, why: str) -> Axis:
        """Let nothing move on this axis, diagonals apart."""
        self.spaces.freeze(axis.label, why, within=axis.now().within)
        return axis.now()

    def still(self, axis: Axis, why: str = "") -> Axis:
        """Let nothing at all act on this axis; ``why`` is told to the reader, unless everybody knows."""
        self.one(self.freeze(axis, why))
        return still(len(axis))

    def note(self, axis: Axis, why: str) -> None:
        """Tell the reader of the units' block."""
        self.tracing.notes += [(piece.space, why) for piece in axis.now().pieces]


def _wholes(axis: Axis) -> int:
    return sum(space.size for space in axis.within)


def kind_of(operation: Any) -> str:
    """The name of a module's type, a function or a method."""
    if isinstance(operation, nn.Module):
        return type(operation).__name__
    return str(getattr(operation, "__name__", operation))


def remedy(name: str, operation: Any) -> str:
    """The ways on from an operation that cannot be traced."""
    key = kind_of(operation)
    return (
        f"There are three ways on: pass a rule for it, compare.trace(..., rules={{{key}: rule}}), see "
        f"compare.symmetry.rules; or mark it opaque, compare.trace(..., opaque=['{name}']), so that nothing it touches "
        "moves; or freeze the blocks it touches, compare.trace(..., frozen=['module that makes them'])"
    )
