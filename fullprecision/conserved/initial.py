"""Where conserved quantities begin: their distribution under the common schemes of initialisation.

The quantity is |u_i|^2 - |v_i|^2 of a hidden unit between V ``[hidden, inputs]`` and U ``[outputs, hidden]``. Mean and
variance are in closed form for one unit; a network with many units has its own average close to the mean.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from fullprecision.conserved.errors import ConservedError

SchemeName: TypeAlias = Literal[
    "xavier normal",
    "xavier uniform",
    "kaiming normal",
    "kaiming uniform",
    "lecun normal",
    "torch default",
    "orthogonal",
]
Shape: TypeAlias = Literal["normal", "uniform", "orthogonal"]


@dataclass(frozen=True)
class Scheme:
    """How one weight is drawn.

    Attributes:
        shape: Of the distribution.
        variance: Of one entry, from fan-in and fan-out; unused for orthogonal weights.
        reference: Where it comes from.
    """

    shape: Shape
    variance: Callable[[int, int], float]
    reference: str


@dataclass(frozen=True)
class Moments:
    """Mean and variance of one unit's quantity."""

    mean: float
    variance: float


def _xavier(fan_in: int, fan_out: int) -> float:
    return 2 / (fan_in + fan_out)


def _kaiming(fan_in: int, fan_out: int) -> float:
    return 2 / fan_in


def _lecun(fan_in: int, fan_out: int) -> float:
    return 1 / fan_in


def _default(fan_in: int, fan_out: int) -> float:
    return 1 / (3 * fan_in)


_GLOROT = "Glorot and Bengio, AISTATS 2010"
_HE = "He et al., ICCV 2015, arXiv 1502.01852"

SCHEMES: Mapping[SchemeName, Scheme] = {
    "xavier normal": Scheme("normal", _xavier, _GLOROT),
    "xavier uniform": Scheme("uniform", _xavier, _GLOROT),
    "kaiming normal": Scheme("normal", _kaiming, _HE),
    "kaiming uniform": Scheme("uniform", _kaiming, _HE),
    "lecun normal": Scheme("normal", _lecun, "LeCun et al., Efficient BackProp, 1998"),
    "torch default": Scheme("uniform", _default, "nn.Linear: uniform up to 1 / sqrt(fan-in)"),
    "orthogonal": Scheme("orthogonal", _lecun, "Saxe et al., ICLR 2014, arXiv 1312.6120"),
}
"""Without biases, which the common schemes set to 0 (torch's own does not: it draws them like weights)."""


def drawn(name: SchemeName, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A weight ``[out, in]``, float64.

    Args:
        name: One of ``SCHEMES``.
        shape: ``(out, in)``.
        generator: Source of randomness; it advances.

    Returns:
        The weight.

    Raises:
        ConservedError: For an unknown scheme, or sizes that are not positive.
    """
    scheme, (out, into) = _checked(name, *shape), shape
    weight = torch.empty(out, into, dtype=torch.float64)
    if scheme.shape == "orthogonal":
        return nn.init.orthogonal_(weight, generator=generator)
    deviation = math.sqrt(scheme.variance(into, out))
    if scheme.shape == "normal":
        return nn.init.normal_(weight, 0.0, deviation, generator=generator)
    bound = math.sqrt(3) * deviation
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


def expected(name: SchemeName, inputs: int, hidden: int, outputs: int) -> Moments:
    """Mean and variance of ``|u_i|^2 - |v_i|^2`` of one hidden unit, without biases.

    Args:
        name: One of ``SCHEMES``.
        inputs: Columns of V.
        hidden: Rows of V, columns of U.
        outputs: Rows of U.

    Returns:
        Both moments.

    Raises:
        ConservedError: For an unknown scheme, or sizes that are not positive.

    Example:
        >>> expected("xavier normal", 4, 4, 4).mean, expected("kaiming normal", 8, 4, 2).mean
        (0.0, -1.0)
    """
    scheme = _checked(name, inputs, hidden, outputs)
    out = _squared_norm(scheme, outputs, hidden, variance=scheme.variance(hidden, outputs))
    into = _squared_norm(scheme, inputs, hidden, variance=scheme.variance(inputs, hidden))
    return Moments(out.mean - into.mean, out.variance + into.variance)


def _squared_norm(scheme: Scheme, length: int, units: int, *, variance: float) -> Moments:
    """Of a unit's ``length`` weights, one of ``units`` such rows (or columns)."""
    if scheme.shape == "orthogonal":
        return _projected(length, units)
    # The fourth moment of an entry is 3 or 9/5 times its variance squared.
    excess = 2.0 if scheme.shape == "normal" else 0.8
    return Moments(length * variance, length * excess * variance**2)


def _projected(length: int, units: int) -> Moments:
    """Units that fit are orthonormal; else a unit is a basis vector projected to a random space: a Beta variable."""
    if units <= length:
        return Moments(1.0, 0.0)
    mean = length / units
    return Moments(mean, 2 * mean * (1 - mean) / (units + 2))


def _checked(name: str, *sizes: int) -> Scheme:
    if name not in get_args(SchemeName):
        raise ConservedError(f"scheme: expected one of {', '.join(SCHEMES)}, got {name!r}")
    if min(sizes) < 1:
        raise ConservedError(f"sizes: expected positive numbers, got {list(sizes)}")
    return {str(known): scheme for known, scheme in SCHEMES.items()}[name]
