"""Normalisations and poolings."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import nn

from compare.symmetry.graph import Norm
from compare.symmetry.tracing.site import Site, kind_of
from compare.symmetry.tracing.values import Axis, Piece, Value, still


def batch_norm(site: Site, x: Value, *rest: Any) -> Value:
    """Batch normalisation with running statistics, which move with the units.

    w, mean, gain -> -w, -mean, -gain leaves the unit as it was. A positive factor s before it is no generator: it would
    be taken up by mean and variance, were it not for eps (a standard form uses that and corrects the gain); and
    w, mean, gain -> s w, s mean, gain / s, which is exact, leaves statistics that are not those of the data, so that
    re-estimating them changes the function.
    """
    module = site.operation
    if not module.track_running_stats:
        site.refuse("expected normalisation with running statistics; without them outputs depend on the batch")
    mean, variance = site.parameter("running_mean"), site.parameter("running_var")
    assert mean is not None, "there are running statistics"
    assert variance is not None, "there are running statistics"
    units = site.equal(x.axis(1), mean.axis(0))
    site.unscaled(units)
    site.equal(Axis(tuple(Piece(p.space) for p in units.pieces)), variance.axis(0))
    site.tracing.unscored |= {str(site.own("running_mean")), str(site.own("running_var"))}
    result = _affine(site, x.with_axis(1, units), 1)
    draft = x.source
    if draft is None or draft.norm is not None:
        return result
    draft.norm = Norm(
        gain=site.own("weight"),
        offset=site.own("bias"),
        mean=str(site.own("running_mean")),
        variance=str(site.own("running_var")),
        eps=module.eps,
    )
    site.tracing.unscored |= {draft.bias} if draft.bias else set()
    return replace(result, source=draft, tail=x.tail)


def _affine(site: Site, x: Value, *places: int) -> Value:
    """Times the module's ``weight``, plus its ``bias``, on the axes named; no diagonal acts on the others."""
    weight, bias = site.parameter("weight"), site.parameter("bias")
    site.one(*(axis for i, axis in enumerate(x.axes) if i not in places))
    axes = list(x.axes)
    for number, place in enumerate(places):
        if weight is not None:
            axes[place] = site.product(axes[place], weight.axis(number))
        if bias is not None:
            axes[place] = site.equal(axes[place], bias.axis(number))
    for name, kind in (("weight", site.tracing.gains), ("bias", site.tracing.offsets)):
        full = site.own(name)
        if full is not None:
            kind.append(full)
            site.tracing.unscored.add(full)
    return Value(tuple(axes))


def layer_norm(site: Site, x: Value, *rest: Any) -> Value:
    """Layer normalisation: entries of the normalised axes may be renamed; gains are free."""
    return _over_last(site, x)


def _over_last(site: Site, x: Value) -> Value:
    site.one(*x.axes)
    places = range(len(x.axes) - len(site.operation.normalized_shape), len(x.axes))
    return _affine(site, site.mixed(x, *places), *places)


def prelu(site: Site, x: Value, *rest: Any) -> Value:
    """ReLU with learned slopes, one for each channel or one for all: positive factors pass."""
    slopes = site.parameter("weight")
    assert slopes is not None, "a learned slope is a parameter"
    site.positive(*x.axes)
    site.one(*slopes.axes)
    site.tracing.unscored.add(str(slopes.parameter))
    if len(slopes.axes[0]) > 1:
        list(site.same(x.axis(1), slopes.axis(0)))
    return x.plain()


def rms_norm(site: Site, x: Value, *rest: Any) -> Value:
    """Root mean square normalisation, which no sign changes."""
    site.unscaled(*x.axes)
    places = range(len(x.axes) - len(site.operation.normalized_shape), len(x.axes))
    return _affine(site, site.mixed(x, *places), *places)


def group_norm(site: Site, x: Value, *rest: Any) -> Value:
    """Group normalisation: groups of channels move as wholes, and channels inside them."""
    module = site.operation
    channels = module.num_groups if isinstance(module, nn.GroupNorm) else len(x.axis(1))
    size = len(x.axis(1)) // channels
    if size == 1:
        # A channel alone: normalisation is odd, up to its offset.
        site.unscaled(*x.axes)
        site.one(*(axis for i, axis in enumerate(x.axes) if i != 1))
        return _affine(site, x, 1)
    site.one(*x.axes)
    for space in x.axis(1).label:
        if space.size % size:
            site.spaces.freeze(x.axis(1).label, "groups of the normalisation straddle a concatenation")
            break
        for part in space.now():
            site.spaces.nest(part, part.size // size)
    return _affine(site, x, 1)


def instance_norm(site: Site, x: Value, *rest: Any) -> Value:
    """Instance normalisation: each channel alone; with running statistics it is batch normalisation."""
    return batch_norm(site, x) if site.operation.track_running_stats else group_norm(site, x)


def average(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Average pooling: signs and positive factors pass, integers do not stay integers."""
    draft = x.source
    pooled = _pooled(site, x)
    if draft is None or draft.norm is not None or draft.bias is not None:
        return replace(pooled, tail=x.tail)
    draft.integer = False
    return replace(pooled, source=draft, tail=x.tail)


def max_pool(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Max pooling: positive factors pass. A sign can only act behind it, through a normalisation."""
    if isinstance(site.result, tuple):
        site.refuse("expected pooling that returns no indices")
    site.positive(*x.axes)
    if x.source is not None:
        x.source.pooled = x.source.pooled or x.source.norm is None
    return replace(_pooled(site, x), integer=x.integer, source=x.source, tail=x.tail)


def _pooled(site: Site, x: Value) -> Value:
    """Channels stay; places along the pooled axes change."""
    found = re.search(r"([123])d", kind_of(site.operation))
    channel = len(x.axes) - 1 - int(found[1]) if found else 1
    for axis in x.axes[channel + 1 :]:
        site.still(axis)
    return x.plain([*x.axes[: channel + 1], *(still(size) for size in site.result.shape[channel + 1 :])])


def pad(site: Site, x: Value, padding: Any, mode: str = "constant", value: float | None = None) -> Value:
    """Padding: axes that grow hold still, and no diagonal acts where what is added is not 0."""
    axes = list(x.axes)
    grown = [i for i in range(len(axes)) if any(padding[2 * (len(axes) - 1 - i) :][:2])]
    if mode == "constant" and value:
        site.one(*(axis for i, axis in enumerate(axes) if i not in grown))
    for i in grown:
        if axes[i].still:
            site.one(axes[i])
            axes[i] = still(site.result.shape[i])
            continue
        before = padding[2 * (len(axes) - 1 - i)]
        after = padding[2 * (len(axes) - 1 - i) + 1]
        if mode != "constant" or before < 0 or after < 0:
            site.still(axes[i], "padding of this kind is not known to keep units apart")
            axes[i] = still(site.result.shape[i])
            continue
        rims = [tuple(still(size).pieces) if size else () for size in (before, after)]
        axes[i] = Axis((*rims[0], *axes[i].now().pieces, *rims[1]))
    return x.plain(axes, integer=x.integer)


def resampled(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Interpolation between places: channels pass everything."""
    return _pooled(site, x)
