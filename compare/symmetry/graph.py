"""The coupling graph: which axes of which parameters move together, and by which diagonal group."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from compare.errors import CompareError
from compare.params import Coordinate, Params, check

Invariant: TypeAlias = Literal["error", "loss"]
StandardForm: TypeAlias = Callable[["Graph", Params, Invariant], Params]


class SymmetryError(CompareError, ValueError):
    """A network whose symmetries are not known, or that does not have the symmetries its graph claims."""


@dataclass(frozen=True)
class Tie:
    """One axis of one parameter or buffer that moves with a block of units.

    A monomial element with permutation p and diagonal d acts on that axis by
    ``x[i] -> sign(d_i)^[negates] |d_i|^scales x[p_i]``.

    Attributes:
        name: Parameter or buffer.
        axis: The axis that holds the units.
        repeat: Consecutive entries on the axis that belong to one unit (flattened feature maps).
        negates: Whether a negative d negates the entry.
        scales: Power of |d|.
        scored: Whether matching counts the tensor (weights and biases of linear maps, not normalisation).
    """

    name: str
    axis: int
    repeat: int = 1
    negates: bool = False
    scales: Literal[-1, 0, 1] = 0
    scored: bool = False


@dataclass(frozen=True)
class Block:
    """Hidden units that may be renamed together, with the diagonal group they admit beside permutations.

    Attributes:
        name: Module path of the layer that produces the units.
        size: Number of units.
        ties: All axes that move with the units.
        signs: Whether each unit may be negated.
        scales: Whether each unit may be multiplied by a positive number.
        notes: Why a group is smaller than a reader may expect.
    """

    name: str
    size: int
    ties: tuple[Tie, ...]
    signs: bool
    scales: bool
    notes: tuple[str, ...] = ()


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
        weight: Its weight ``[out, in, ...]``.
        bias: Its bias ``[out]``, or None.
        norm: The batch normalisation behind it, or None.
        pooled: A max pooling lies between the linear map and the normalisation.
        block: Index of the block of its outputs; None for the network's last layer.
        binarised: The weight is latent, its signs are used.
        step: The sign function follows: a positive factor before it changes nothing.
        integer: What reaches the normalisation (or the sign function) is an integer, plus the bias if there is one.
    """

    name: str
    weight: str
    bias: str | None
    norm: Norm | None
    pooled: bool
    block: int | None
    binarised: bool
    step: bool
    integer: bool

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
        blocks: Hidden units and their groups.
        reference: Names, shapes and types of all parameters and buffers.
        standardise: The precision's standard form, see ``compare.standard_form``.
        scalable: A positive factor on the last layer is one on the outputs, so that no decision changes; not so where
            an activation follows it.
    """

    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    reference: Mapping[str, Tensor]
    standardise: StandardForm
    scalable: bool

    @property
    def coordinates(self) -> dict[str, Coordinate]:
        """What paths and distances need: hidden rows are spheres, the last weight is one sphere, the rest is linear."""
        found = {name: Coordinate("linear") for name in self.reference}
        for layer in self.layers:
            kind: Literal["rows", "joint"] = "joint" if layer.block is None else "rows"
            found[layer.weight] = Coordinate(kind, layer.binarised)
        return found

    @property
    def binarised(self) -> frozenset[str]:
        """Names of latent weights, of which the network uses the signs."""
        return frozenset(layer.weight for layer in self.layers if layer.binarised)

    @property
    def stepping(self) -> frozenset[str]:
        """Names of thresholds of real-valued pre-activations, which step to the next float when they are negated."""
        return frozenset(layer.threshold for layer in self.layers if layer.threshold and not layer.integer)

    @property
    def notes(self) -> tuple[str, ...]:
        """All blocks' notes, with the blocks' names."""
        return tuple(f"{block.name}: {note}" for block in self.blocks for note in block.notes)

    def consumers(self, block: int) -> tuple[Tie, ...]:
        """The ties of ``block`` that are inputs of a later layer."""
        return tuple(tie for tie in self.blocks[block].ties if tie.axis == 1)

    def check(self, params: Params, what: str = "params") -> None:
        """Raise ``ParameterError`` unless ``params`` are this network's, finite and complete."""
        check(params, self.reference, what=what)
