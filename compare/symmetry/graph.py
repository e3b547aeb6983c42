"""The coupling graph: which axes of which parameters move together, and by which diagonal group."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor

from compare.errors import CompareError
from compare.params import Coordinate, Params, check

Invariant: TypeAlias = Literal["error", "loss"]
Normalisation: TypeAlias = Literal["kept", "folded"]
StandardForm: TypeAlias = Callable[["Graph", Params, Invariant, Normalisation], Params]


class SymmetryError(CompareError, ValueError):
    """A network whose symmetries are not known, or that does not have the symmetries its graph claims."""


@dataclass(frozen=True)
class Tie:
    """A stretch of one axis of one parameter or buffer that holds the units of a block.

    Attributes:
        name: Parameter or buffer.
        axis: The axis that holds the units.
        start: Where on the axis they begin (concatenations, joint projections).
        repeat: Consecutive entries that belong to one unit (flattened feature maps).
        along: The axis that holds the wholes, where this one holds the units inside one whole (grouped convolutions):
            entry j of it belongs to the unit j // repeat of the whole that the place on ``along`` belongs to.
        scored: Whether matching counts the tensor (weights and biases of linear maps, not normalisation).
    """

    name: str
    axis: int
    start: int = 0
    repeat: int = 1
    along: int | None = None
    scored: bool = False


@dataclass(frozen=True)
class Generator:
    """One diagonal symmetry of a block: the unit's number d multiplies each tie by d to its exponent.

    Attributes:
        kind: ``"sign"``: d is +1 or -1; ``"scale"``: d is positive.
        factors: Ties with exponents, the pivot first: no other generator of this kind moves that one.
    """

    kind: Literal["sign", "scale"]
    factors: tuple[tuple[Tie, float], ...]

    @property
    def pivot(self) -> Tie:
        """The tie by which a standard form fixes this generator."""
        return self.factors[0][0]

    @property
    def names(self) -> frozenset[str]:
        """Parameters and buffers that it moves."""
        return frozenset(tie.name for tie, _ in self.factors)


@dataclass(frozen=True)
class Block:
    """Hidden units that may be renamed together, with the diagonal group they admit beside permutations.

    Attributes:
        name: Module path of what produces the units.
        size: Number of units.
        ties: All axes that move with the units.
        generators: A basis of the diagonal group; empty where only permutations are admitted.
        parent: Index of the block of wholes (groups of channels, attention heads) whose units hold ``size // parent's``
            consecutive units of this block each, and carry them along; None where there are no wholes.
        rigid: Units keep their order inside their whole; without a parent they do not move.
        notes: Why a group is smaller than a reader may expect.
    """

    name: str
    size: int
    ties: tuple[Tie, ...]
    generators: tuple[Generator, ...] = ()
    parent: int | None = None
    rigid: bool = False
    notes: tuple[str, ...] = ()

    @property
    def signs(self) -> bool:
        """Whether units may be negated, by some generator."""
        return any(generator.kind == "sign" for generator in self.generators)

    @property
    def scales(self) -> bool:
        """Whether units may be multiplied by positive numbers, by some generator."""
        return any(generator.kind == "scale" for generator in self.generators)


@dataclass(frozen=True)
class Norm:
    """Names of a batch normalisation's parameters and buffers; ``gain`` and ``offset`` are None without affine part."""

    gain: str | None
    offset: str | None
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True)
class Layer:
    """A linear map, the normalisation behind it, and what follows.

    Attributes:
        name: Module path of the linear map.
        weight: Its weight ``[out, in, ...]``, transposed convolutions ``[in, out, ...]``.
        bias: Its bias ``[out]``, or None.
        axis: The weight's axis of outputs.
        norm: The batch normalisation that alone reads its outputs, or None.
        pooled: A max pooling lies between the linear map and the normalisation.
        block: Index of the block of its outputs; None where they do not move, or belong to several blocks.
        last: Its outputs are those of the network, up to a function that keeps their order.
        binarised: The weight is latent, its signs are used.
        step: The sign function follows: a positive factor before it changes nothing.
        integer: What reaches the normalisation (or the sign function) is an integer, plus the bias if there is one.
        quantised: The weight is latent and rounded to several levels: a factor on it changes more than a factor.
    """

    name: str
    weight: str
    bias: str | None
    axis: int
    norm: Norm | None
    pooled: bool
    block: int | None
    last: bool
    binarised: bool
    step: bool
    integer: bool
    quantised: bool = False

    @property
    def threshold(self) -> str | None:
        """The offset that is added last before the sign function, None where no sign function follows."""
        if not self.step:
            return None
        return self.norm.offset if self.norm else self.bias


@dataclass(frozen=True, eq=False)
class Graph:
    """All symmetries of a network that are known and proved: blocks, and the layers between them in their order.

    Attributes:
        layers: Linear maps in the order of evaluation.
        blocks: Hidden units and their groups, in the order in which they are first produced; wholes before their parts.
        reference: Names, shapes and types of all parameters and buffers.
        standardise: The precision's standard form, see ``compare.standard_form``.
        scalable: A positive factor on the last layer is one on the outputs, so that no decision changes; not so where
            an activation follows it.
        order: Names of parameters and buffers as the network first uses them.
        gains: Gains of normalisations, whose signs a standard form makes positive.
        exact: Every number that a decision rests on is an integer, so that copies agree bit for bit.
        remarks: Why units that are in no block do not move.
        tie_rates: For each sign function without an offset of its own, by its place: the fraction of pre-activations
            that were exactly 0 on the example, the larger of the model's own and random parameters.
    """

    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    reference: Mapping[str, Tensor]
    standardise: StandardForm
    scalable: bool
    order: tuple[str, ...] = ()
    gains: frozenset[str] = frozenset()
    exact: bool = False
    remarks: tuple[str, ...] = ()
    tie_rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def coordinates(self) -> dict[str, Coordinate]:
        """What paths and distances need: hidden rows are spheres, the last weight is one sphere, the rest is linear."""
        found = {name: Coordinate("linear") for name in self.reference}
        for layer in self.layers:
            kind: Literal["rows", "joint"] = "joint" if layer.last or layer.axis else "rows"
            found[layer.weight] = Coordinate(kind, layer.binarised)
        return found

    @property
    def binarised(self) -> frozenset[str]:
        """Names of latent weights, of which the network uses the signs."""
        return frozenset(layer.weight for layer in self.layers if layer.binarised)

    @property
    def straight_through(self) -> bool:
        """Whether straight-through gradients stand in for those of some weight or activation."""
        return any(layer.binarised or layer.quantised or layer.step for layer in self.layers)

    @property
    def stepping(self) -> frozenset[str]:
        """Names of thresholds of real-valued pre-activations, which step to the next float when they are negated."""
        return frozenset(layer.threshold for layer in self.layers if layer.threshold and not layer.integer)

    @property
    def notes(self) -> tuple[str, ...]:
        """All blocks' notes, with the blocks' names, and why other units do not move at all."""
        return (*(f"{block.name}: {note}" for block in self.blocks for note in block.notes), *self.remarks)

    def gain_of(self, block: Block, generator: Generator) -> Tie | None:
        """The gain whose sign fixes a sign generator: one that no other sign generator of the block moves."""
        if generator.kind != "sign":
            return None
        others = [g for g in block.generators if g.kind == "sign" and g is not generator]
        taken = {(tie.name, tie.axis, tie.start) for other in others for tie, _ in other.factors}
        for tie, _ in generator.factors:
            alone = (tie.name, tie.axis, tie.start) not in taken
            if tie.name in self.gains and self.reference[tie.name].ndim == 1 and alone:
                return tie
        return None

    def check(self, params: Params, what: str = "params") -> None:
        """Raise ``ParameterError`` unless ``params`` are this network's, finite and complete."""
        check(params, self.reference, what=what)
