"""What a quantiser of weights does, found by trying it on numbers: which symmetries the quantised weight keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compare.params import sign

_LARGE = 2**16


@dataclass(frozen=True)
class Facts:
    """What holds of a quantiser, for every weight of the probe.

    Attributes:
        scale: It gives this constant times the sign of each entry, whatever the weight; None where it does not.
        odd: The negated weight gives the negated result; so does one with any rows or columns negated.
        rows: Rows (axis 0) may be renamed.
        columns: Columns (axis 1) may be renamed.
    """

    scale: float | None
    odd: bool
    rows: bool
    columns: bool


def weight_facts(layer: Any) -> Facts:
    """Try the weight quantiser of a Brevitas layer (with its parameters as they are, one for each channel apart).

    Args:
        layer: A Brevitas linear map in evaluation mode; not changed.

    Returns:
        What holds.
    """
    quantised, probes = _quantising(layer), _probes(layer.weight.shape, layer.weight.dtype)
    by_channel = _learned_by_channel(layer)
    channels = 1 if getattr(layer, "transposed", False) else 0
    with torch.no_grad():
        wholes = [quantised(probe) for probe in probes]
        renamed = [
            (by_channel and axis == channels)
            or all(_renamed(quantised, probe, whole, axis) for probe, whole in zip(probes, wholes, strict=True))
            for axis in (0, 1)
        ]
        return Facts(
            scale=_constant_sign(probes, wholes),
            odd=all(_odd(quantised, probe) for probe in probes),
            rows=renamed[0],
            columns=renamed[1],
        )


def is_plain_sign(layer: Any) -> bool:
    """Whether the layer computes with the signs of its weight, +1 and -1."""
    quantised = _quantising(layer)
    with torch.no_grad():
        return all(
            torch.equal(quantised(probe), sign(probe)) for probe in _probes(layer.weight.shape, layer.weight.dtype)
        )


def _quantising(layer: Any) -> Callable[[Tensor], Tensor]:
    def quantised(weight: Tensor) -> Tensor:
        found = layer.weight_quant(weight.clone())
        value: Tensor = getattr(found, "value", found)
        return value

    return quantised


def _probes(shape: torch.Size, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(shape, generator=generator).to(dtype)
    sizes = torch.exp(6 * torch.randn(shape, generator=generator)).to(dtype)
    grid = (torch.randint(-300, 301, shape, generator=generator) / 2).to(dtype)
    few = [normal, sizes * sign(normal), grid / 127]
    # A large weight meets every case within each of them.
    return few if normal.numel() > _LARGE else [*few, 30 * normal, 0.03 * normal, 0.05 * grid]


def _learned_by_channel(layer: Any) -> bool:
    """Whether parameters have an entry for each channel and move with it, as they do not in a probe."""
    own = [p for p in layer.weight_quant.parameters() if p is not layer.weight]
    return any(parameter.numel() > 1 for parameter in own)


def _constant_sign(probes: list[Tensor], wholes: list[Tensor]) -> float | None:
    scale = float(wholes[0].abs().flatten()[0])
    if not scale > 0:
        return None
    same = (torch.equal(whole, _scaled_sign(probe, scale)) for probe, whole in zip(probes, wholes, strict=True))
    return scale if all(same) else None


def _scaled_sign(x: Tensor, scale: float) -> Tensor:
    return sign(x) * torch.tensor(scale, dtype=x.dtype)


def _odd(quantised: Callable[[Tensor], Tensor], probe: Tensor) -> bool:
    probe = torch.where(probe == 0, torch.full_like(probe, 1e-3), probe)  # where 0 counts as +1 no sign is odd
    rows = _alternating(probe, 0)
    columns = _alternating(probe, 1)
    whole = quantised(probe)
    return all(torch.equal(quantised(s * probe), s * whole) for s in (-torch.ones_like(rows), rows, columns))


def _alternating(x: Tensor, axis: int) -> Tensor:
    signs = torch.ones(x.shape[axis], dtype=x.dtype)
    signs[::2] = -1
    return signs.view([-1 if i == axis else 1 for i in range(x.ndim)])


def _renamed(quantised: Callable[[Tensor], Tensor], probe: Tensor, whole: Tensor, axis: int) -> bool:
    """To rounding: a mean over entries in another order may differ in its last digit."""
    order = torch.randperm(probe.shape[axis], generator=torch.Generator().manual_seed(1))
    got, expected = quantised(probe.index_select(axis, order)), whole.index_select(axis, order)
    return bool((got - expected).abs().max() <= 1e-5 * expected.abs().max())
