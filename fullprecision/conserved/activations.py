"""What a function between two linear maps says of the quantity that they conserve.

Homogeneous functions are not here: the coupling graph knows their diagonal group. The derivations stand in
``docs/conserved.md``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Linear:
    """Mixes no unit with another and multiplies all of them alike, so that the block's group is GL(h)."""


@dataclass(frozen=True)
class Elementwise:
    """The same function sigma of each unit.

    Attributes:
        antiderivative: Of sigma / sigma', elementwise; any constant of integration will do.
    """

    antiderivative: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Radial:
    """f(|z|) z / |z| of the vector z of all units of one sample.

    Attributes:
        antiderivative: Of f / f', as a function of the radii.
        degree: k where f(r) = r^k, so that all data conserve a quantity, not orthonormal samples alone; else None.
    """

    antiderivative: Callable[[Tensor], Tensor]
    degree: float | None = None


Activation: TypeAlias = Linear | Elementwise | Radial


def _of_tanh(z: Tensor) -> Tensor:
    return torch.sinh(z) ** 2 / 2  # sigma / sigma' = sinh cosh


def _of_sigmoid(z: Tensor) -> Tensor:
    return z + torch.exp(z)  # sigma / sigma' = 1 / (1 - sigma) = 1 + exp


_LINEAR, _TANH, _SIGMOID = Linear(), Elementwise(_of_tanh), Elementwise(_of_sigmoid)

KNOWN: Mapping[Any, Activation] = {
    **dict.fromkeys((nn.Identity, nn.Flatten, torch.flatten, "flatten", "contiguous"), _LINEAR),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _LINEAR),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _LINEAR),
    **dict.fromkeys((nn.Tanh, torch.tanh, F.tanh, "tanh"), _TANH),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid"), _SIGMOID),
}
"""By exact module type, function, or method's name."""
