"""What the steps of a plan make of integers, held in float32: exact, since all sums stay below 2**24."""

import math
from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from binarynets.integer.affine import IntegerError
from binarynets.integer.plan import Add, Convolution, Decide, Linear, Plan, Pool, Step

EXACT = 2**24
"""Sums below this are exact in float32, in which the network itself adds."""

_HALVES = 2**22
"""Up to here float32 holds every half of an integer, and the differences of two."""


def bounds(plan: Plan, bits: Mapping[str, Tensor]) -> tuple[float, ...]:
    """The largest magnitude of each value, by its ``source`` in the plan; infinite where only the input can tell."""
    found = [math.inf]
    for step in plan.steps[:-1]:
        reached = found[step.source] * terms(step, bits)
        if isinstance(step, Add):
            reached += found[step.other]
        found.append(1.0 if isinstance(step, Decide) else reached)
    return tuple(found)


def terms(step: Step, bits: Mapping[str, Tensor]) -> int:
    """How many numbers of its input a step adds up."""
    match step:
        case Linear(weight=weight) | Convolution(weight=weight):
            return bits[weight][0].numel()
        case Pool(kind="sum", window=window):
            return math.prod(window)
        case _:
            return 1


def check_exact(x: Tensor, bound: float, count: int, name: str) -> None:
    """Raise ``IntegerError`` if sums of ``count`` numbers of ``x``, known to be within ``bound``, could be rounded."""
    largest = bound if math.isfinite(bound) else max(abs(float(edge)) for edge in torch.aminmax(x))
    if largest * count >= EXACT:
        raise IntegerError(
            f"'{name}': sums of {count} numbers up to {largest:.0f} may pass 2**24, beyond which the model itself "
            "rounds; expected smaller inputs"
        )


def decided(x: Tensor, threshold: Tensor, negated: Tensor, bound: float) -> Tensor:
    """+1 where ``(x >= threshold) != negated``, else -1, channel by channel of axis 1.

    Args:
        x: Integers ``[batch, channels, ...]``, float32.
        threshold: int32 ``[channels]``.
        negated: bool ``[channels]``.
        bound: The largest magnitude in ``x``, infinite if not known.

    Returns:
        float32, a new tensor in the shape of ``x``.
    """
    shape = (-1, *[1] * (x.ndim - 2))
    way = torch.where(negated, -1.0, 1.0).view(shape)
    limit = threshold.to(torch.float32).view(shape)
    if bound < _HALVES:
        # One pass: way * (x - threshold + 1/2) is never 0. Comparisons to bool are not vectorised.
        return torch.addcmul(way * (0.5 - limit.clamp(-_HALVES, _HALVES)), x, way).sign_()
    return (x - limit).sign_().add_(0.5).sign_().mul_(way)


def convolved(x: Tensor, bits: Tensor, step: Convolution) -> Tensor:
    """Sums over windows."""
    channels = bits.shape[1] * step.groups
    if x.ndim != bits.ndim or x.shape[1] != channels:
        expected = ", ".join(["batch", str(channels), *["..."] * (bits.ndim - 2)])
        raise IntegerError(f"'{step.name}': expected [{expected}], got {list(x.shape)}")
    weight = bits.to(torch.float32).mul_(2).sub_(1)
    before, after = zip(*step.padding, strict=True)
    if before != after:
        x = F.pad(x, [number for pair in reversed(step.padding) for number in pair])
        before = (0,) * len(before)
    apply = F.conv1d if weight.ndim == 3 else F.conv2d
    # cuDNN may choose algorithms that are not exact on integers (Winograd); what torch has without it is exact.
    with torch.backends.cudnn.flags(enabled=False) if x.is_cuda else nullcontext():
        return apply(x, weight, None, step.stride, before, step.dilation, step.groups)


def pooled(x: Tensor, step: Pool) -> Tensor:
    """The largest, or the sum, of each window."""
    flat = len(step.window) == 1
    if step.kind == "max":
        largest = F.max_pool1d if flat else F.max_pool2d
        found: Tensor = largest(x, step.window, step.stride, step.padding, step.dilation, step.ceil_mode)
        return found
    # The quotient by a power of two is exact, and so is its product.
    mean = F.avg_pool1d if flat else F.avg_pool2d
    return mean(x, step.window, step.stride) * math.prod(step.window)
