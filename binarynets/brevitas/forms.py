"""What a quantiser of activations computes, as plain arithmetic; found by trying, never by names."""

from __future__ import annotations

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
        kind: ``"sign"``: the scale times the sign; ``"integer"``: rounded to multiples of the scale, clamped to the
            integers of so many bits.
        signed: Integers of either sign.
        narrow: Without the last integer: the lowest of signed ones, the highest of unsigned ones.
    """

    kind: Literal["sign", "integer"]
    signed: bool = True
    narrow: bool = False

    def apply(self, x: Tensor, about: About) -> Tensor:
        """Quantise ``x``, of any shape."""
        scale, zero, bits = about
        if self.kind == "sign":
            found = sign(x)
            return found if bool((scale == 1).all()) else found.mul_(scale)
        low, high = self._limits(float(bits))
        found = x / scale
        if bool((zero != 0).any()):
            return found.add_(zero).round_().clamp_(low, high).sub_(zero).mul_(scale)
        return found.round_().clamp_(low, high).mul_(scale)

    def _limits(self, bits: float) -> tuple[float, float]:
        if self.signed:
            half = 2.0 ** (bits - 1)
            return -half + self.narrow, half - 1
        return 0.0, 2.0**bits - 1 - self.narrow


_FORMS = (Form("sign"), *(Form("integer", signed, narrow) for signed in (True, False) for narrow in (True, False)))


def form_of(proxy: Any, name: str) -> Form | None:
    """The plain form of a Brevitas activation quantiser, or None where none gives the same bits.

    Args:
        proxy: Brevitas's ``input_quant``, ``act_quant`` or ``output_quant``.
        name: Module path, for messages.

    Returns:
        The form, with whatever scale, zero point and bit width; None for floating-point formats, scales that depend on
        the input, and roundings other than to the nearest.

    Raises:
        BrevitasError: For a scale that is 0, infinite or NaN.
    """
    fused = proxy.fused_activation_quant_proxy
    if fused is None or not proxy.is_quant_enabled:
        return None
    with torch.no_grad():
        found = fused.tensor_quant(one_number(fused))
        if len(found) != 4:
            return None
        scale, zero, bits = (torch.as_tensor(part) for part in found[1:])
        check_scale(scale, f"'{name}': its activation quantiser")
        x = probe(scale, bits)
        again = fused.tensor_quant(7 * x.abs() + 3)[1]
        if not torch.equal(again, scale):
            return None  # a scale that depends on the input
        expected = fused.tensor_quant(x)[0]
        about = scale, zero, bits
        return next(
            (form for form in _FORMS if bits.numel() == 1 and torch.equal(form.apply(x, about), expected)), None
        )


def one_number(fused: Any) -> Tensor:
    """A zero in a shape that scales of any shape can be joined with, in the type of the quantiser's numbers."""
    tensors = [*fused.parameters(), *(t for t in fused.buffers() if t.is_floating_point())]
    axes = max((tensor.ndim for tensor in tensors), default=0)
    return torch.zeros((1,) * max(axes, 1), dtype=tensors[0].dtype if tensors else None)


def probe(scale: Tensor, bits: Tensor) -> Tensor:
    """Numbers of all sizes, both signs, all half-way between multiples of the scale near 0 and where bits end.

    Args:
        scale: Of any shape.
        bits: One number.

    Returns:
        ``[numbers, *scale.shape]``.
    """
    sizes = torch.logspace(-30, 4, 200)
    near = torch.arange(-600, 601) / 2
    ends = [side * 2.0 ** float(bits.max() - less) + torch.arange(-6, 7) / 2 for side in (-1, 1) for less in (0, 1)]
    beyond = torch.tensor([-8.0, -3.0, 3.0, 8.0]) * 2.0 ** float(bits.max())
    steps = torch.cat([near, *ends, beyond]).to(scale.dtype)
    x = torch.cat([-sizes, torch.zeros(1), -torch.zeros(1), sizes]).to(scale.dtype)
    shape = (-1, *(1 for _ in scale.shape))
    return torch.cat([x.view(shape) * torch.ones_like(scale), steps.view(shape) * scale])


def check_scale(scale: Tensor, what: str) -> None:
    """Raise unless all scales are positive and finite.

    Args:
        scale: One or several.
        what: Whose, for the message.

    Raises:
        BrevitasError: If one is NaN, infinite, zero or negative.
    """
    bad = ~(torch.isfinite(scale) & (scale > 0))
    if bool(bad.any()):
        shown = float(scale.flatten()[bad.flatten()][0])
        raise BrevitasError(
            f"{what} has a scale of {shown:g} ({int(bad.sum())} of {scale.numel()}): expected positive finite numbers. "
            "One bit takes a binary quantiser (QuantType.BINARY, as brevitas.quant.SignedBinaryWeightPerTensorConst): "
            "integer quantisers with bit width 1 divide by 0. Weights of which all are 0 have no scale by their size, "
            "and NaN comes from weights or statistics that are NaN"
        )
