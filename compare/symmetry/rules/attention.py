"""Attention: heads move as wholes; inside a head, query with key entries, and value with output entries."""

from __future__ import annotations

from typing import Any

from torch import nn

from compare.symmetry.rules.maps import linear
from compare.symmetry.rules.shapes import merge, sliced, split
from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.values import Axis, Draft, Piece, Value, still


def multi_head(site: Site, query: Value, key: Value, value: Value, *rest: Any, **options: Any) -> tuple[Value, Any]:
    """``nn.MultiheadAttention``; masks must not depend on units."""
    module: nn.MultiheadAttention = site.operation
    if module.bias_k is not None:
        site.refuse("expected attention without bias_k and bias_v")
    weights = _projections(site)
    biases = _thirds(site, site.parameter("in_proj_bias"))
    place = None if len(query.axes) == 2 else 0 if module.batch_first else 1
    masked = _masked(site, (*rest, *options.values()))
    _tokens(site, (query, key, value), place, masked=masked)
    heads = []
    for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
        y = linear(site, x, weight, bias)
        heads.append(split(site, y.axis(-1), [module.num_heads, len(y.axis(-1)) // module.num_heads]))
    _attend(site, heads)
    heads = [[axis.now() for axis in pair] for pair in heads]
    joined = merge(site, heads[2])
    out = site.parameter("out_proj.weight")
    assert out is not None, "attention has an output projection"
    draft = Draft(f"{site.name}.out_proj", str(site.own("out_proj.weight")), site.own("out_proj.bias"), 0, False, False)
    result = linear(site, Value((*query.axes[:-1], joined)), out, site.parameter("out_proj.bias"), draft=draft)
    return result, _shown(site, query, key, heads[0][0])


def _shown(site: Site, query: Value, key: Value, heads: Axis) -> Value | None:
    """The attention weights, of each head or their mean over heads."""
    weights = site.result[1]
    if weights is None:
        return None
    tokens = [
        next((axis for axis in x.axes[:-1] if len(axis) == size), still(size))
        for x, size in zip((query, key), weights.shape[-2:], strict=True)
    ]
    before = [still(size) for size in weights.shape[:-2]]
    if len(before) > len(query.axes) - 2:
        before[-1] = Axis(tuple(Piece(piece.space) for piece in heads.now().pieces))
    return Value((*before, *(Axis(tuple(Piece(p.space) for p in axis.now().pieces)) for axis in tokens)))


def _projections(site: Site) -> tuple[Value, ...]:
    joint = site.parameter("in_proj_weight")
    if joint is not None:
        site.tracing.drafts.append(
            Draft(f"{site.name}.in_proj", str(joint.parameter), site.own("in_proj_bias"), 0, False, False)
        )
        return _thirds(site, joint)  # type: ignore[return-value]
    found = []
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        weight = site.parameter(name)
        assert weight is not None, "attention has either joint or separate projections"
        site.tracing.drafts.append(Draft(f"{site.name}.{name[0]}_proj", str(weight.parameter), None, 0, False, False))
        found.append(weight)
    return tuple(found)


def _thirds(site: Site, joint: Value | None) -> tuple[Value | None, ...]:
    if joint is None:
        return (None, None, None)
    third = len(joint.axes[0]) // 3
    for i in range(3):
        sliced(site, joint, 0, i * third, (i + 1) * third)
    # Cutting gives each third a diagonal of its own: read the parameter again.
    joint = site.tracing.parameter(str(joint.parameter))
    return tuple(sliced(site, joint, 0, i * third, (i + 1) * third) for i in range(3))


def _attend(site: Site, heads: list[list[Axis]]) -> None:
    """Query and key entries cancel in the scores; all three have the same heads."""
    (query_heads, query), (key_heads, key), (value_heads, _) = heads
    site.inverse(query_heads, key_heads)
    list(site.same(query_heads, value_heads))
    site.inverse(query, key)


def _masked(site: Site, arguments: tuple[Any, ...]) -> bool:
    """Whether a mask is among the arguments; nothing in it may move."""
    masks = [x for x in arguments if isinstance(x, Value)]
    for mask in masks:
        for axis in mask.axes:
            site.still(axis)
    return bool(masks)


def _tokens(site: Site, operands: tuple[Value, Value, Value], batch: int | None, *, masked: bool) -> None:
    """Keys and values are of the same tokens; a mask knows tokens by their places; no diagonal acts on them."""
    query, key, value = operands
    for i in range(len(query.axes) - 1):
        axes = [x.axis(i) for x in operands]
        if i == batch:
            site.equal(query.axis(i), key.axis(i))
        site.one(site.equal(key.axis(i), value.axis(i)), query.axis(i))
        if masked and i != batch:
            for axis in axes:
                site.still(axis, "a mask knows tokens by their places")


def scaled_dot_product(site: Site, query: Value, key: Value, value: Value, *rest: Any, **options: Any) -> Value:
    """``F.scaled_dot_product_attention``; a mask must not depend on units."""
    site.inverse(query.axis(-1), key.axis(-1))
    for i in range(len(query.axes) - 2):
        site.inverse(query.axis(i), key.axis(i))
        list(site.same(query.axis(i), value.axis(i)))
    site.one(query.axis(-2), site.equal(key.axis(-2), value.axis(-2)))
    if _masked(site, (*rest, *options.values())) or options.get("is_causal", rest[2:3] == (True,)):
        for x in (query, key):
            site.still(x.axis(-2), "a mask knows tokens by their places")
    return Value((*value.axes[:-2], query.axis(-2), value.axis(-1)))
