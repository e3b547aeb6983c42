"""Functions of one entry: units may always be renamed; which diagonals pass depends on the function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.values import Axis, Piece, Value


def passes(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Identity, dropout at evaluation, copies: everything passes."""
    return x


def dropout(site: Site, x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """``F.dropout``, which passes everything when told that it is not training."""
    if training and p > 0:
        site.refuse("it drops entries at evaluation too; expected training=self.training")
    return x


def homogeneous(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """ReLU and its leaky form: f(d x) = d f(x) for d > 0, so positive factors pass, signs do not."""
    _no_tensors(site, rest, options)
    site.positive(*x.axes)
    return replace(x.plain(), tail=x.tail)


def odd(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Odd functions (tanh, softsign): f(-x) = -f(x), so signs pass, positive factors do not."""
    _no_tensors(site, rest, options)
    site.unscaled(*x.axes)
    return x.plain(_signs_of(x))


def even(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Absolute value: signs vanish, positive factors pass."""
    return x.plain(Axis(tuple(Piece(p.space, scale=p.scale) for p in axis.pieces), axis.within) for axis in x.axes)


def pointwise(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Any other function of one entry (GELU, SiLU, sigmoid): units may be renamed, no more."""
    _no_tensors(site, rest, options)
    site.one(*x.axes)
    return x.plain(_bare(x))


def hard_tanh(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Clipping to an interval: odd where the interval is symmetric, homogeneous where it is a half-line from 0."""
    _no_tensors(site, rest, options)
    low, high = _interval(site.operation, rest, options)
    if {low, high} == {0, None}:
        return homogeneous(site, x)
    symmetric = isinstance(low, int | float) and isinstance(high, int | float) and low == -high < 0
    return odd(site, x) if symmetric else pointwise(site, x)


def _interval(operation: Any, rest: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    if isinstance(operation, nn.Hardtanh):
        return operation.min_val, operation.max_val
    # clamp has no bounds of its own, hard tanh has -1 and 1.
    named = {"min": None, "max": None} if operation in (torch.clamp, "clamp") else {"min_val": -1, "max_val": 1}
    low, high = {
        **named,
        **dict(zip(named, rest, strict=False)),
        **{n: options[n] for n in named if n in options},
    }.values()
    return low, high


def step(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """The sign function, sign(0) = +1: positive factors before it change nothing; signs pass where no tie is met.

    Where the sign function follows a linear map and its normalisation or bias, elements break ties by moving that
    offset. Elsewhere the rate of pre-activations of exactly 0 was measured, and decides.
    """
    draft = x.source
    threshold = draft and (draft.norm.offset if draft.norm else draft.bias)
    if draft is not None and threshold and not {draft.weight, threshold} & site.tracing.shared:
        draft.step = True
        return x.plain(_signs_of(x), integer=True)
    rate = site.tracing.ties.get(site.name, 0.0)
    site.tracing.stepped.append(site.name)
    if rate > site.tracing.accept_ties:
        site.positive(*x.axes)
        for axis in x.axes:
            site.note(
                axis,
                f"signs are not admitted: {100 * rate:.3g} % of the pre-activations of '{site.name}' were exactly 0, "
                "where sign gives +1, and no offset can move them (accept_ties admits them at that rate)",
            )
    return x.plain(_signs_of(x), integer=True)


def softmax(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Softmax and its logarithm: entries of the axis may be renamed, no more."""
    dim = getattr(site.operation, "dim", options.get("dim", rest[0] if rest else None))
    if not isinstance(dim, int):
        site.refuse(f"expected dim to be a number, got {dim}")
    return pointwise(site, site.mixed(x, dim))


def square(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """The square: signs vanish, positive factors are squared."""
    doubled = (
        Axis(tuple(Piece(p.space, scale={v: 2 * e for v, e in p.scale.items()}) for p in axis.pieces), axis.within)
        for axis in x.axes
    )
    return x.plain(doubled)


def power(site: Site, x: Any, exponent: Any, *rest: Any, **options: Any) -> Value:
    """A power: squares are known, others are functions of one entry, that of the exponent too."""
    if not isinstance(x, Value):
        return pointwise(site, exponent)
    _no_tensors(site, (exponent,), {})
    return square(site, x) if exponent == 2 else pointwise(site, x)


def _no_tensors(site: Site, rest: tuple[Any, ...], options: dict[str, Any]) -> None:
    """A function of one entry has numbers beside it; a tensor there could tell units apart."""
    if any(isinstance(other, Value) for other in (*rest, *options.values())):
        site.refuse("expected numbers beside the value, got a tensor")


def _signs_of(x: Value) -> list[Axis]:
    return [Axis(tuple(Piece(p.space, sign=p.sign) for p in axis.pieces), axis.within) for axis in x.axes]


def _bare(x: Value) -> list[Axis]:
    return [Axis(tuple(Piece(p.space) for p in axis.pieces), axis.within) for axis in x.axes]
