"""A conserved quantity as a function of the parameters, and how far it has moved."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from compare.params import Params
from fullprecision.conserved.errors import ConservedError

Kind: TypeAlias = Literal["matrix", "units", "rows", "elementwise", "radial", "layer"]
Condition: TypeAlias = Literal["any data", "batch statistics", "orthonormal samples"]
Terms: TypeAlias = Callable[[Params], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Quantity:
    """What the flow along the gradient keeps, of one block or one layer.

    Attributes:
        name: Of the block's producer, or of the layer.
        kind: ``"matrix"`` (linear), ``"units"`` (one number for each unit that may be scaled), ``"rows"`` (squared
            norms of rows before batch normalisation), ``"elementwise"`` (one for each unit), ``"radial"`` and
            ``"layer"`` (one number in all).
        formula: In words of mathematics, u outgoing and v incoming weights of a unit (bias, gain and offset among
            them), U and V of all. ``"|v|^2"`` also where nothing goes out; ``"sum of e |w|^2 over ties"`` where ties on
            one side have several exponents e.
        condition: When it is conserved: on any data; with batch normalisation in training mode (to eps); with the
            orthonormal samples given as the whole batch.
        reads: Names of the parameters that it is computed from.
        surrogate: A straight-through gradient stands in for the true one, so that nothing is conserved.
        terms: What is added and what is subtracted, float64 of one shape.
    """

    name: str
    kind: Kind
    formula: str
    condition: Condition
    reads: tuple[str, ...]
    surrogate: bool
    terms: Terms = field(repr=False)

    def __call__(self, params: Params) -> Tensor:
        """The values: float64 ``[units]``, ``[units, units]`` for matrices, ``[1]`` for whole layers."""
        plus, minus = self.terms(params)
        return plus - minus

    def scale(self, params: Params) -> float:
        """Size of the values' terms: the Frobenius norm of the sum of their absolute values."""
        return self.measured(params)[1]

    def measured(self, params: Params) -> tuple[Tensor, float]:
        """The values and their scale."""
        plus, minus = self.terms(params)
        return plus - minus, float(torch.linalg.vector_norm(plus.abs() + minus.abs()))


def relative_drift(quantity: Quantity, start: Params, end: Params) -> float:
    """How far a quantity has moved: the Frobenius norm of its change, in units of its scale at the start.

    Args:
        quantity: The quantity.
        start: Parameters by name.
        end: Parameters later on.

    Returns:
        A number that no common factor on the quantity changes; 0 where it did not move.

    Raises:
        ConservedError: If it moved from a start at which all its terms are 0.
    """
    values, scale = quantity.measured(start)
    return moved(quantity, quantity(end) - values, scale)


def moved(quantity: Quantity, change: Tensor, scale: float) -> float:
    """The Frobenius norm of a change in units of a scale; 0 where nothing changed.

    Raises:
        ConservedError: If something changed, and the scale is 0.
    """
    size = float(torch.linalg.vector_norm(change))
    if size and not scale:
        raise ConservedError(
            f"'{quantity.name}', {quantity.formula}: all terms are 0 at the start, so that its drift has no unit: "
            "expected another start"
        )
    return size / scale if size else 0.0
