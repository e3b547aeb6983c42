"""Factor and offset of each channel, as batch normalisation computes with them, and the integer threshold they make.

In evaluation mode torch's batch normalisation is one fused multiply-add a number, x * gain + offset, with gain and
offset made once a channel. Here these two are read off it, so that whatever it rounds is rounded here as well.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from binarynets.integer.plan import Scaling
from compare.errors import CompareError
from compare.params import Params

LIMIT = 2**30
"""A threshold that no sum reaches: beyond it a unit is constant."""

_EXACT = 2.0**22
"""Biases up to this leave neighbouring integers apart in float32."""


class IntegerError(CompareError, ValueError):
    """A network, or a number in it, that has no integer form; the message names the module and the reason."""


@dataclass(frozen=True, eq=False)
class Affine:
    """What happens to an integer sum before it is decided on: ``(sum + shift) * gain + offset``, channel by channel.

    Attributes:
        gain: ``[..., channels]``, in the network's own floating-point type.
        offset: Likewise.
        shift: Bias that is added before normalisation, or None.
    """

    gain: Tensor
    offset: Tensor
    shift: Tensor | None = None

    def __call__(self, sums: Tensor) -> Tensor:
        """Apply to sums ``[batch, channels, ...]``, with gains ``[channels]`` or ``[1]``, rounding as the network."""
        x = sums.to(self.gain.dtype)
        if self.shift is not None:
            x = x + self.shift.view(-1, *[1] * (x.ndim - 2))
        gain, offset = (part.expand(x.shape[1]).contiguous() for part in (self.gain, self.offset))
        return _fused(x, gain, offset)

    def thresholds(self) -> tuple[Tensor, Tensor]:
        """The sums that pass the sign function.

        Returns:
            ``threshold``, int64, and ``negated``, bool, both in the shape of ``gain``: the sign of a sum is +1 where
            ``(sum >= threshold) != negated``. A channel of gain 0 is constant: its threshold is beyond ``LIMIT``.

        Raises:
            IntegerError: If a gain, offset or shift is not finite, or a float32 shift so large that sums round.
        """
        shift = torch.zeros_like(self.gain) if self.shift is None else self.shift.expand_as(self.gain)
        for part in (self.gain, self.offset, shift):
            if not bool(torch.isfinite(part).all()):
                raise IntegerError(
                    "expected finite gains and offsets of normalisation, got NaN or infinity (a variance below 0?)"
                )
        if self.gain.dtype == torch.float32 and bool((shift.abs() > _EXACT).any()):
            raise IntegerError(
                f"expected biases up to 2**22, above which sum + bias rounds away from the integers, got "
                f"{float(shift.abs().max()):.0f}; put the bias into the normalisation behind it"
            )
        gain, offset, flat_shift = self.gain.reshape(-1), self.offset.reshape(-1), shift.reshape(-1)
        tau = -offset.double() / torch.where(gain == 0, 1.0, gain.double()) - flat_shift.double()
        tau = tau.clamp(-2.0 * LIMIT, 2.0 * LIMIT)
        near = torch.floor(tau) + torch.arange(-1, 3, dtype=torch.float64)[:, None]
        passed = _fused(near.to(gain.dtype) + flat_shift, gain, offset) >= 0
        changed = passed != passed[0]
        # Where rounding hides the change among the neighbours (far out), the real threshold is rounded up.
        found = torch.where(changed.any(0), near[0] + changed.int().argmax(0), torch.ceil(tau))
        negated = gain < 0
        found = torch.where(negated & ~changed.any(0), torch.floor(tau) + 1, found)
        constant = gain == 0
        found = torch.where(constant, torch.where(offset >= 0, -2.0 * LIMIT, 2.0 * LIMIT), found)
        found = found.clamp(-LIMIT, LIMIT).long()
        return found.view_as(self.gain), (negated & ~constant).view_as(self.gain)

    def real_thresholds(self) -> Tensor:
        """``-offset / gain - shift``, float64, in the shape of ``gain``; infinite where the gain is 0."""
        tau = -self.offset.double() / self.gain.double()
        return tau if self.shift is None else tau - self.shift.double()


def _fused(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    zeros, ones = torch.zeros_like(gain), torch.ones_like(gain)
    return F.batch_norm(x, zeros, ones, gain, offset, eps=0.0)


def folded(
    scaling: Scaling, params: Params, channels: int, *, dtype: torch.dtype, steps: tuple[int, ...] = ()
) -> Affine:
    """Factor and offset that stand for everything between an integer sum and a decision.

    Args:
        scaling: What lies there.
        params: Parameters and buffers by name, each ``[*steps, channels]``.
        channels: Their number where there is neither normalisation nor bias.
        dtype: Type in which the network computes.
        steps: Leading axes, none for one network.

    Returns:
        Both, ``[*steps, channels]``, rounding as the network does.
    """
    shift = None if scaling.bias is None else params[scaling.bias]
    if scaling.mean is None or scaling.variance is None:
        ones = torch.ones(*steps, channels, dtype=dtype) if shift is None else torch.ones_like(shift)
        # x * 1 + bias rounds once, as x + bias does.
        return Affine(ones / scaling.divisor, torch.zeros_like(ones) if shift is None else shift)
    gain, offset = (None if name is None else params[name] for name in (scaling.gain, scaling.offset))
    found = _of_normalisation(params[scaling.mean], params[scaling.variance], gain, offset, scaling.eps)
    # The bias is added behind the division. The divisor is a power of two, so that both numbers are exact.
    return Affine(found.gain / scaling.divisor, found.offset, None if shift is None else shift * scaling.divisor)


def _of_normalisation(mean: Tensor, variance: Tensor, gain: Tensor | None, offset: Tensor | None, eps: float) -> Affine:
    """What batch normalisation with these numbers computes with, equal bit for bit."""
    m, v = mean.reshape(-1), variance.reshape(-1)
    g, o = (None if part is None else part.reshape(-1) for part in (gain, offset))
    at_zero = F.batch_norm(torch.zeros(2, len(m), dtype=m.dtype), m, v, g, o, eps=eps)[0]
    factor = F.batch_norm(torch.ones(2, len(m), dtype=m.dtype), torch.zeros_like(m), v, g, None, eps=eps)[0]
    return Affine(factor.view_as(mean), at_zero.view_as(mean))
