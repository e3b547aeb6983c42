"""Products of integers with bits, exactly, in the fastest way that this machine has."""

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Method: TypeAlias = Literal["float32", "int8", "bits"]
"""``float32``: exact below 2**24; ``int8``: products of bytes into 32 bits (AMX, VNNI), where inputs fit; ``bits``: as
``int8``, and perceptrons keep signs packed, 64 in a word."""

_PRODUCTS: tuple[Method, ...] = "float32", "int8"


def multiplied(x: Tensor, bits: Tensor, method: Method | None = None, *, bound: float = math.inf) -> Tensor:
    """``x @ w.T`` for w = +1 where the bit is set and -1 elsewhere.

    Args:
        x: Integers ``[batch, in]``, float32, whose sums stay below 2**24.
        bits: bool ``[out, in]``.
        method: How; None for what was measured to be the fastest. Inputs that do not fit 8 bits take ``float32``; odd
            ones up to 255, such as 2 p - 255, do fit as 2 q + 1.
        bound: The largest magnitude in ``x``, infinite if it has to be found out.

    Returns:
        Integers ``[batch, out]``, float32, the same for each method.

    Raises:
        ValueError: For an unknown method.
    """
    if method is not None and method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, or None, got {method!r}")
    weight = bits.to(torch.int8).mul_(2).sub_(1)
    if (method or fastest(x.device.type)) != "float32" and (bytes_ := _bytes(x, bound)) is not None:
        narrow, odd = bytes_
        found = bytes_product(narrow, weight.T).to(torch.float32)
        return torch.add(weight.sum(1, dtype=torch.float32), found, alpha=2) if odd else found
    return F.linear(x, weight.to(torch.float32))


def bytes_product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight``, int32 ``[batch, out]``, of int8 ``[batch, in]`` and ``[in, out]``."""
    if 1 in (*x.shape, *weight.shape):
        # torch 2.13 leaves (part of) the result unwritten on CPUs where an axis of size 1 has an unusual stride.
        return (x.double() @ weight.double()).to(torch.int32)
    return torch._int_mm(x, weight)


def _bytes(x: Tensor, bound: float) -> tuple[Tensor, bool] | None:
    """``x`` in 8 bits, or q with ``x = 2 q + 1`` and True, None if neither fits."""
    if bound <= 127:
        return x.to(torch.int8), False
    low, high = (float(edge) for edge in torch.aminmax(x))
    if low >= -128 and high <= 127:
        return x.to(torch.int8), False
    if low < -255 or high > 255:
        return None
    halves = (x - 1).mul_(0.5)
    narrow = halves.to(torch.int8)
    return (narrow, True) if torch.equal(narrow.float(), halves) else None


@cache
def fastest(device: str) -> Method:
    """The fastest exact method on this machine, measured once on a small product (some milliseconds).

    Args:
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Its name; a method that is not there, or not exact, is passed over.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (256, 512), generator=generator).mul_(2).sub_(1).to(device, torch.float32)
    bits = torch.randint(0, 2, (512, 512), generator=generator, dtype=torch.bool).to(device)
    expected = (x.double() @ (bits.double() * 2 - 1).T).to(torch.float32)
    times: dict[Method, float] = {}
    for method in _PRODUCTS:
        try:
            if torch.equal(multiplied(x, bits, method, bound=1), expected):
                times[method] = min(_timed(lambda m=method: multiplied(x, bits, m, bound=1)) for _ in range(5))  # type: ignore[misc]
        except RuntimeError:  # what torch raises where a type has no product
            continue
    return min(times, key=lambda method: times[method], default="float32")


def _timed(work: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
