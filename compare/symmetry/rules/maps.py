"""Linear maps: fully connected, convolutions of every kind, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.spaces import Space
from compare.symmetry.tracing.values import Axis, Draft, Piece, Value, still

Rule: TypeAlias = Callable[..., Any]


def linear_map(*, binarised: bool = False, quantised: bool = False) -> Rule:
    """Rule for a module with ``weight`` and perhaps ``bias``: linear layers and convolutions, transposed ones too.

    Args:
        binarised: The module uses the signs of its weight.
        quantised: The module rounds its weight to several levels.
    """

    def rule(site: Site, x: Value, *rest: Any) -> Value:
        module = site.operation
        weight, bias = site.parameter("weight"), site.parameter("bias")
        assert weight is not None, "a linear map has a weight"
        transposed = bool(getattr(module, "transposed", False))
        draft = Draft(
            name=site.name,
            weight=str(site.own("weight")),
            bias=site.own("bias"),
            axis=1 if transposed else 0,
            binarised=binarised,
            integer=binarised and x.integer,
            quantised=quantised,
        )
        if len(weight.axes) == 2:
            return linear(site, x, weight, bias, draft=draft)
        groups = getattr(module, "groups", 1)
        return convolution(site, x, weight, bias, groups=groups, transposed=transposed, draft=draft)

    return rule


def linear(site: Site, x: Value, weight: Value, bias: Value | None = None, *, draft: Draft | None = None) -> Value:
    """``x @ weight.T + bias``, as ``F.linear``."""
    x = site.mixed(x, -1)
    site.inverse(x.axis(-1), weight.axis(1))
    return _finished(site, [*x.axes[:-1], weight.axis(0)], len(x.axes) - 1, bias, draft, weight)


def convolution(
    site: Site,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    *,
    groups: int = 1,
    transposed: bool = False,
    draft: Draft | None = None,
) -> Value:
    """Convolutions over any number of axes; ``transposed`` ones have the weight's first two axes exchanged."""
    channel = len(x.axes) - (len(weight.axes) - 1)  # an input without a batch has one axis less
    into, out = (0, 1) if transposed else (1, 0)
    for axis in (*x.axes[channel + 1 :], *weight.axes[2:]):
        site.still(axis)
    if groups == 1:
        site.inverse(x.axis(channel), weight.axis(into))
        units = weight.axis(out)
    else:
        units = _grouped(site, x.axis(channel), weight, groups, into)
    sizes = site.result.shape[channel + 1 :]
    axes = [*x.axes[:channel], units, *(still(size) for size in sizes)]
    return _finished(site, axes, channel, bias, draft, weight)


def _grouped(site: Site, channels: Axis, weight: Value, groups: int, into: int) -> Axis:
    """Groups move as wholes; in a group, inputs among themselves and outputs among themselves.

    Returns:
        The axis of all outputs.
    """
    whole, inner = weight.axis(0), weight.axis(1)
    outputs_inner = into == 0
    per_input, per_output = len(channels) // groups, (len(inner) if outputs_inner else len(whole) // groups)
    if per_input == per_output == 1:
        site.one(inner)
        return site.product(channels, whole)
    if per_input == 1 and not outputs_inner:
        return _multiplied(site, channels, weight, per_output)
    if len(channels.pieces) > 1:
        why = "grouped channels are a concatenation"
        for axis in (channels, whole, inner):
            site.still(axis, why)
        return still(groups * per_output)
    # The axis of the weight that holds all units of one side is nested in the groups, and so is the input.
    wholes = _wholes(site, (channels.label[0], whole.label[0]), groups)
    held = _inside(site, weight, wholes, len(inner), groups)
    if outputs_inner:
        site.inverse(channels, whole)
        return Axis(held.pieces)
    for left, right in site.same(channels, Axis(held.pieces)):
        site.one_piece(left.times(right))
    return weight.axis(0)


def _wholes(site: Site, nested: tuple[Space, Space], groups: int) -> Space:
    first, other = (site.spaces.nest(space, groups) for space in nested)
    site.spaces.unify([first], [other])
    return first.only()


def _inside(site: Site, weight: Value, wholes: Space, size: int, groups: int) -> Axis:
    """The weight's second axis as units inside the groups."""
    if weight.parameter is None:
        site.refuse("expected a grouped convolution's weight to be a parameter as it stands")
    label = site.tracing.labels[weight.parameter]
    if not label[1].within:
        space = site.spaces.new(size * groups)
        top = site.spaces.nest(space, groups)
        site.spaces.unify([top], [wholes])
        site.spaces.changes += 1
        label[1] = Axis((Piece(space.only()),), (wholes.only(),))
    else:
        site.spaces.unify(list(label[1].within), [wholes])
    return site.tracing.parameter(weight.parameter).axis(1)


def _multiplied(site: Site, channels: Axis, weight: Value, times: int) -> Axis:
    """A depthwise convolution with several outputs a channel: channels move as wholes with all their outputs."""
    site.one(weight.axis(1))
    for whole, part in zip(
        channels.now().pieces,
        site.spaces.split(weight.axis(0).label, [len(Axis((p,))) * times for p in channels.now().pieces]),
        strict=True,
    ):
        for space in part:
            if space.size != whole.space.size * times:
                site.spaces.freeze([space, whole.space], "outputs of a depthwise convolution are cut")
                continue
            top = site.spaces.nest(space, whole.space.size)
            site.spaces.unify([top], [whole.space.only()])
    outputs = weight.axis(0)
    pieces = tuple(out.times(into) for out, into in zip(outputs.pieces, channels.now().pieces, strict=False))
    return Axis(pieces)


def _finished(
    site: Site, axes: list[Axis], channel: int, bias: Value | None, draft: Draft | None, weight: Value
) -> Value:
    """The output of a linear map: the bias added, and the draft handed on."""
    if bias is not None:
        axes[channel] = site.equal(axes[channel], bias.axis(0))
        site.one(*(axis for i, axis in enumerate(axes) if i != channel))
        if bias.parameter:
            site.tracing.offsets.append(bias.parameter)
    if draft is None:
        return Value(tuple(axes))
    if draft.binarised or draft.quantised:
        # Such a weight takes up no factor, neither to make a scale nor to undo one.
        site.unscaled(*weight.axes)
    site.tracing.drafts.append(draft)
    return Value(tuple(axes), integer=draft.integer and bias is None, source=draft, tail=draft)


def embedding(site: Site, index: Value, *rest: Any) -> Value:
    """Rows of a table looked up by the input."""
    weight = site.parameter("weight") if isinstance(site.operation, nn.Module) else rest[0]
    assert isinstance(weight, Value), "an embedding has a weight"
    site.still(weight.axis(0))
    return Value((*index.axes, weight.axis(1)))


def functional_linear(site: Site, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """``F.linear``."""
    return linear(site, x, weight, bias, draft=_draft(site, x, weight, bias))


def functional_convolution(
    site: Site,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """``F.conv1d`` and its relatives."""
    draft = _draft(site, x, weight, bias)
    return convolution(site, x, weight, bias, groups=groups, draft=draft)


def functional_transposed(
    site: Site,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """``F.conv_transpose1d`` and its relatives."""
    draft = _draft(site, x, weight, bias, axis=1)
    return convolution(site, x, weight, bias, groups=groups, transposed=True, draft=draft)


def _draft(site: Site, x: Value, weight: Value, bias: Value | None, *, axis: int = 0) -> Draft | None:
    """A linear map whose weight (and bias) are parameters as they stand, not computed."""
    if weight.parameter is None or (bias is not None and bias.parameter is None):
        return None
    return Draft(
        name=site.name,
        weight=weight.parameter,
        bias=bias.parameter if bias else None,
        axis=axis,
        binarised=False,
        integer=False,
    )
