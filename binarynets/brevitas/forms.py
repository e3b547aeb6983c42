"""What a quantiser of activations computes, as plain arithmetic; found by trying, never by names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from binarynets.brevitas.errors import BrevitasError
from compare.params import sign

About = tuple[Tensor, Tensor, Tensor]
"""Scale, zero point, bit width."""


@dataclass(frozen=True)
class Form:
    """Plain arithmetic that gives a quantiser's bits.

    Attributes:
        kind: ``"sign"``: the scale times the sign; ``"integer"``: rounded to multiples of the scale, clamped.
        low: Smallest integer.
        high: Largest integer.
    """

    kind: Literal["sign", "integer"]
    low: float = -1.0
    high: float = 1.0

    def apply(self, x: Tensor, about: About) -> Tensor:
        """Quantise ``x``, of any shape."""
        scale, zero, _ = about
        if self.kind == "sign":
            found = sign(x)
            return found if bool((scale == 1).all()) else found.mul_(scale)
        found = x / scale
        if bool((zero != 0).any()):
            return found.add_(zero).round_().clamp_(self.low, self.high).sub_(zero).mul_(scale)
        return found.round_().clamp_(self.low, self.high).mul_(scale)


def form_of(proxy: Any, name: str) -> Form | None:
    """The plain form of a Brevitas activation quantiser, or None where none gives the same bits.

    Args:
        proxy: Brevitas's ``input_quant``, ``act_quant`` or ``output_quant``.
        name: Module path, for messages.

    Raises:
        BrevitasError: For a scale that is 0, infinite or NaN.
    """
    fused = proxy.fused_activation_quant_proxy
    if fused is None or not proxy.is_quant_enabled:
        return None
    with torch.no_grad():
        found = fused.tensor_quant(_probe(torch.ones(())))
        if len(found) != 4:
            return None
        scale, zero, bits = (torch.as_tensor(part) for part in found[1:])
        check_scale(scale, f"'{name}': its activation quantiser")
        x = _probe(scale)
        again = fused.tensor_quant(7 * x.abs() + 3)[1]
        if not torch.equal(again, scale):
            return None  # a scale that depends on the input
        expected = fused.tensor_quant(x)[0]
        for form in _candidates(bits):
            if torch.equal(form.apply(x, (scale, zero, bits)), expected):
                return form
    return None


def _candidates(bits: Tensor) -> Iterator[Form]:
    if bits.numel() == 1:
        half = 2.0 ** (float(bits) - 1)
        yield Form("sign")
        for low, high in ((1 - half, half - 1), (-half, half - 1), (0.0, 2 * half - 1), (0.0, 2 * half - 2)):
            yield Form("integer", low, high)


def _probe(scale: Tensor) -> Tensor:
    """Numbers of all sizes, both signs, and everything half-way between two multiples of the scale."""
    sizes = torch.logspace(-30, 4, 200)
    steps = torch.arange(-600, 601) / 2
    x = torch.cat([-sizes, torch.zeros(1), -torch.zeros(1), sizes]).to(scale.dtype)
    shape = (-1, *(1 for _ in scale.shape))
    return torch.cat([x.view(shape) * torch.ones_like(scale), steps.to(scale.dtype).view(shape) * scale])


def check_scale(scale: Tensor, what: str) -> None:
    """Raise ``BrevitasError`` unless all scales are positive and finite."""
    bad = ~(torch.isfinite(scale) & (scale > 0))
    if bool(bad.any()):
        shown = float(scale.flatten()[bad.flatten()][0])
        raise BrevitasError(
            f"{what} has a scale of {shown:g} ({int(bad.sum())} of {scale.numel()}): expected positive finite numbers. "
            "One bit takes a binary quantiser (QuantType.BINARY, as brevitas.quant.SignedBinaryWeightPerTensorConst): "
            "integer quantisers with bit width 1 divide by 0. Weights of which all are 0 have no scale by their size, "
            "and NaN comes from weights or statistics that are NaN"
        )
