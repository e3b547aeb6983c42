"""Rules that claim more than an operation has: the certificate finds them, each in a network that needs the rule."""

import operator
import re
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from groups import ALL
from motifs import Own, real
from torch import nn
from zoo import FAMILIES

import binarynets
from compare.symmetry import SymmetryError, trace
from compare.symmetry.rules import (
    attention,
    homogeneous,
    joins,
    linear_map,
    maps,
    norms,
    odd,
    passes,
    shapes,
)
from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.values import Axis, Draft, Piece, Value, still


def bare(axis: Axis) -> Axis:
    """The units, without diagonals."""
    return Axis(tuple(Piece(piece.space) for piece in axis.pieces), axis.within)


def norm_without(forgotten: str):
    """Batch normalisation, one of whose tensors stays where it is when units move."""

    def rule(site: Site, x: Value) -> Value:
        tensors = {name: site.parameter(name) for name in ("running_mean", "running_var", "weight", "bias")}
        site.still(tensors.pop(forgotten).axis(0), "forgotten")
        units = x.axis(1)
        if "running_mean" in tensors:
            units = site.equal(units, tensors["running_mean"].axis(0))
        site.unscaled(units)
        if "running_var" in tensors:
            site.equal(bare(units), tensors["running_var"].axis(0))
        if "weight" in tensors:
            units = site.product(units, tensors["weight"].axis(0))
        if "bias" in tensors:
            units = site.equal(units, tensors["bias"].axis(0))
        return x.plain(x.with_axis(1, units).axes)

    return rule


def norm_without_sign(site: Site, x: Value) -> Value:
    """Batch normalisation whose mean keeps its sign when the unit is negated."""
    units, mean = x.axis(1), site.parameter("running_mean").axis(0)
    list(site.same(units, mean))
    site.one(mean)
    site.unscaled(units)
    site.equal(bare(units), site.parameter("running_var").axis(0))
    return norms._affine(site, x.with_axis(1, units), 1)


def norm_without_groups(site: Site, x: Value) -> Value:
    """Group normalisation as if all channels were one group."""
    site.one(*x.axes)
    return norms._affine(site, x, 1)


def norm_of_one_sample(site: Site, x: Value) -> Value:
    """A normalisation that lets positive factors pass."""
    return norms._affine(site, x, len(x.axes) - 1 if isinstance(site.operation, nn.LayerNorm) else 1)


def unordered_pool(site: Site, x: Value) -> Value:
    """Max pooling that lets signs pass."""
    return replace(norms._pooled(site, x), integer=x.integer, source=x.source, tail=x.tail)


def slopes_stay(site: Site, x: Value) -> Value:
    """Slopes that do not move with their units."""
    site.still(site.parameter("weight").axis(0), "forgotten")
    return homogeneous(site, x)


def drafted(site: Site) -> Draft:
    """A network has at least one linear map."""
    return Draft(site.name, f"{site.name}.weight", None, 0, False, False)


def without_bias(site: Site, x: Value) -> Value:
    """A linear map whose bias does not move with its units."""
    weight, bias = site.parameter("weight"), site.parameter("bias")
    if bias is not None:
        site.still(bias.axis(0), "forgotten")
    if isinstance(site.operation, nn.Linear):
        return maps.linear(site, x, weight, draft=drafted(site))
    return maps.convolution(site, x, weight, transposed=site.operation.transposed)


def inputs_free(site: Site, x: Value) -> Value:
    """A linear map that does not say what its inputs are."""
    weight, bias = site.parameter("weight"), site.parameter("bias")
    site.still(weight.axis(1), "forgotten")
    site.tracing.drafts.append(drafted(site))
    return Value((*x.axes[:-1], site.equal(weight.axis(0), bias.axis(0))))


def groups_forgotten(site: Site, x: Value) -> Value:
    """A grouped convolution whose outputs may change their group."""
    weight = site.parameter("weight")
    if site.operation.groups == 1:
        return linear_map()(site, x)
    for axis in (x.axis(1), *weight.axes[1:]):
        site.still(axis, "grouped")
    bias = site.parameter("bias")
    units = weight.axis(0) if bias is None else site.equal(weight.axis(0), bias.axis(0))
    return Value((x.axis(0), units, *(still(size) for size in site.result.shape[2:])))


def depthwise_free(site: Site, x: Value) -> Value:
    """A depthwise convolution whose channels are free of those before."""
    weight = site.parameter("weight")
    if site.operation.groups == 1:
        return linear_map()(site, x)
    for axis in weight.axes[1:]:
        site.still(axis, "forgotten")
    site.one(x.axis(1))
    bias = site.parameter("bias")
    units = weight.axis(0) if bias is None else site.equal(weight.axis(0), bias.axis(0))
    return Value((x.axis(0), units, *(still(size) for size in site.result.shape[2:])))


def flattened_inside_out(site: Site, x: Value, *rest, **options) -> Value:
    """Flattening as if channels came last."""
    if len(x.axes) == 2 or len(site.result.shape) != 2:
        return shapes.reshape(site, x, *rest, **options)
    channels = x.axis(1)
    return x.plain([x.axis(0), Axis(channels.pieces * (site.result.shape[1] // len(channels)))])


def first(site: Site, a: Value, *rest, **options) -> Value:
    """An operation on two values that only sees the first one."""
    return (a if isinstance(a, Value) else rest[0]).plain()


def second(site: Site, a: Value, b: Value) -> Value:
    """An operation on two values that only sees the second one."""
    return b.plain()


def reversed_concatenation(site: Site, values, dim: int = 0, **options) -> Value:
    """A concatenation in the wrong order."""
    return joins.concatenate(site, list(values)[::-1], dim, **options)


def loose_concatenation(site: Site, values, dim: int = 0, **options) -> Value:
    """A concatenation that does not say that the other axes agree."""
    joined = tuple(piece for value in values for piece in value.axis(dim).pieces)
    return values[0].with_axis(dim, Axis(joined)).plain()


def loose_product(site: Site, a: Value, b: Value) -> Value:
    """A matrix product that does not tie the axis summed over."""
    for axis in (a.axis(-1), b.axis(-2)):
        site.one(axis)
    return Value((*a.axes[:-1], b.axis(-1)))


def loose_einsum(site: Site, equation: str, a: Value, b: Value) -> Value:
    """``bi,oi->bo`` with nothing said of i."""
    site.one(a.axis(1), b.axis(1))
    return Value((a.axis(0), b.axis(0)))


def queries_for_values(site: Site, query: Value, key: Value, value: Value, *rest, **options) -> Value:
    """Attention that gives out what queries hold."""
    site.inverse(query.axis(-1), key.axis(-1))
    return Value(query.axes)


def heads_mixed_up(site: Site, query: Value, key: Value, value: Value, *rest, **options):
    """Attention whose outputs are ordered as the queries' entries are, not as the values'."""
    weights, biases = attention._projections(site), attention._thirds(site, site.parameter("in_proj_bias"))
    made = [maps.linear(site, *parts) for parts in zip((query, key, value), weights, biases, strict=True)]
    count = site.operation.num_heads
    heads = [shapes.split(site, y.axis(-1), [count, len(y.axis(-1)) // count]) for y in made]
    attention._attend(site, heads)
    joined = shapes.merge(site, [axis.now() for axis in heads[0]])
    out, bias = site.parameter("out_proj.weight"), site.parameter("out_proj.bias")
    return maps.linear(site, Value((*query.axes[:-1], joined)), out, bias), None


def rows_free(site: Site, index: Value) -> Value:
    """An embedding whose rows may change their places."""
    weight = site.parameter("weight")
    site.one(weight.axis(0))
    return Value((*index.axes, weight.axis(1)))


def last_first(site: Site, x: Value, *rest, **options):
    """Parts in the wrong order."""
    found = shapes.unbind(site, x, *rest) if site.operation == "unbind" else shapes.parts(site, x, *rest, **options)
    return found[::-1]


def total_of_anything(site: Site, x: Value, dim, keepdim: bool = False) -> Value:
    """A sum over units that lets each be scaled."""
    axes = [
        still(1) if i == dim % len(x.axes) else axis
        for i, axis in enumerate(x.axes)
        if i != dim % len(x.axes) or keepdim
    ]
    return x.plain(axes)


def half_gate(site: Site, x: Value) -> Value:
    """A gated linear unit that sees one half."""
    half = len(x.axis(1)) // 2
    gate = shapes.sliced(site, x, 1, half, 2 * half)
    site.one(gate.axis(1))
    return shapes.sliced(site, x, 1, 0, half).plain()


def padded_with_nothing(site: Site, x: Value, *rest, **options) -> Value:
    """Padding with a number as if it were with 0."""
    return norms.pad(site, x, rest[0])


@dataclass(frozen=True)
class Wrong:
    """A rule for ``operation`` that claims too much, in the network of that name (or one of those below)."""

    network: str
    operation: object
    rule: object

    def __str__(self) -> str:
        name = getattr(self.operation, "__name__", str(self.operation))
        return f"{self.network}: {name} as {getattr(self.rule, '__name__', 'other')}"


def _function(between, *, outputs: int = 6, **parts) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), Own(between, **parts), nn.Linear(outputs, 3))


OWN = {
    "softmax": lambda: nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 3)),
    "sign between real weights": lambda: nn.Sequential(nn.Linear(4, 6), binarynets.Sign(), nn.Linear(6, 3)),
    "binary weights, real inputs": lambda: nn.Sequential(binarynets.BinaryLinear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
    "einsum": lambda: _function(
        lambda m, x: torch.einsum("bi,oi->bo", x, m.weight), outputs=5, weight=nn.Parameter(torch.randn(5, 6))
    ),
    "average of units": lambda: _function(lambda m, x: x.mean(-1, keepdim=True), outputs=1),
    "absolute": lambda: _function(lambda m, x: x.abs()),
    "squared": lambda: _function(lambda m, x: x**2),
    "quotient": lambda: _function(lambda m, x: x / (1 + m.b(x).square()), b=nn.Linear(6, 6)),
    "tokens padded": lambda: _function(lambda m, x: F.pad(x.unsqueeze(1), (0, 0, 0, 1), value=2.0).mean(dim=1)),
    "clipped": lambda: _function(lambda m, x: x.clamp(-1, 2)),
    "root mean square": lambda: nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), nn.Linear(6, 3)),
}

WRONG = [
    Wrong("linear", nn.ReLU, odd),
    Wrong("linear", nn.Linear, without_bias),
    Wrong("linear", nn.Linear, inputs_free),
    Wrong("leaky relu", nn.LeakyReLU, passes),
    Wrong("prelu", nn.PReLU, slopes_stay),
    Wrong("relu6", nn.ReLU6, homogeneous),
    Wrong("elu", nn.ELU, homogeneous),
    Wrong("gelu", nn.GELU, odd),
    Wrong("gelu", nn.GELU, homogeneous),
    Wrong("silu", nn.SiLU, odd),
    Wrong("tanh", nn.Tanh, homogeneous),
    Wrong("hard tanh", nn.Hardtanh, passes),
    *(
        Wrong("batch norm", nn.BatchNorm1d, norm_without(name))
        for name in ("running_mean", "running_var", "weight", "bias")
    ),
    Wrong("batch norm, tanh", nn.BatchNorm1d, norm_without_sign),
    Wrong("batch norm 2d", nn.BatchNorm2d, norm_without("running_var")),
    Wrong("layer norm", nn.LayerNorm, norms.rms_norm),
    Wrong("mean over tokens", nn.LayerNorm, norm_of_one_sample),
    Wrong("root mean square", nn.RMSNorm, norm_of_one_sample),
    Wrong("group norm", nn.GroupNorm, norm_without_groups),
    Wrong("instance norm", nn.InstanceNorm2d, norm_of_one_sample),
    Wrong("max pool, tanh", nn.MaxPool2d, norms.average),
    Wrong("binary cnn, norm pool sign", nn.MaxPool2d, unordered_pool),
    Wrong("binary cnn, norm sign pool", nn.MaxPool2d, norms.average),
    Wrong("conv2d", nn.Conv2d, without_bias),
    Wrong("transposed conv", nn.ConvTranspose2d, without_bias),
    Wrong("grouped conv", nn.Conv2d, groups_forgotten),
    Wrong("grouped conv twice, nested", nn.Conv2d, groups_forgotten),
    Wrong("binary grouped conv", binarynets.BinaryConv2d, groups_forgotten),
    Wrong("depthwise", nn.Conv2d, depthwise_free),
    Wrong("depthwise, two outputs each", nn.Conv2d, depthwise_free),
    Wrong("binary depthwise", binarynets.BinaryConv2d, depthwise_free),
    Wrong("flatten", nn.Flatten, flattened_inside_out),
    Wrong("conv1d", nn.Flatten, flattened_inside_out),
    Wrong("own parameters", "view", flattened_inside_out),
    Wrong("residual mlp", operator.add, first),
    Wrong("residual cnn", operator.add, first),
    Wrong("binary residual", operator.add, first),
    Wrong("positions", operator.add, first),
    Wrong("concatenation", torch.cat, reversed_concatenation),
    Wrong("binary concatenation", torch.cat, reversed_concatenation),
    Wrong("class token", torch.cat, loose_concatenation),
    Wrong("gated unit", operator.mul, first),
    Wrong("product of two maps", operator.mul, first),
    Wrong("squeeze-excite", operator.mul, first),
    Wrong("mbconv", operator.mul, first),
    Wrong("learnable scale", operator.mul, second),
    Wrong("glu", nn.GLU, half_gate),
    Wrong("multi-head attention", nn.MultiheadAttention, heads_mixed_up),
    Wrong("cross attention", nn.MultiheadAttention, heads_mixed_up),
    Wrong("attention by hand", torch.matmul, loose_product),
    Wrong("attention, packed qkv", "unbind", last_first),
    Wrong("attention, fused", "chunk", last_first),
    Wrong("attention, fused", F.scaled_dot_product_attention, queries_for_values),
    Wrong("embedding", nn.Embedding, rows_free),
    Wrong("binary weights, real inputs", binarynets.BinaryLinear, linear_map()),
    Wrong("binary called twice", binarynets.Sign, odd),
    Wrong("softmax", nn.Softmax, passes),
    Wrong("sign between real weights", binarynets.Sign, homogeneous),
    Wrong("einsum", torch.einsum, loose_einsum),
    Wrong("average of units", "mean", total_of_anything),
    Wrong("absolute", "abs", passes),
    Wrong("squared", operator.pow, passes),
    Wrong("quotient", operator.truediv, first),
    Wrong("tokens padded", F.pad, padded_with_nothing),
    Wrong("clipped", "clamp", odd),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_certificate_catches_a_wrong_rule(wrong) -> None:
    motif = ALL.get(wrong.network)
    torch.manual_seed(0)
    model, x = (motif.build(), motif.example(4)) if motif else (OWN[wrong.network]().eval(), real(4)(4))
    family = FAMILIES["full" if motif and motif.precision == "full" else "binary"][1]
    rules = {wrong.operation: wrong.rule}
    with pytest.raises(SymmetryError, match=r"^the symmetries of '.*' do not hold: outputs changed") as caught:
        trace(model, x, family, rules=rules)
    named = re.findall("'([^']*)'", str(caught.value).split(" do not hold")[0])
    blocks = {block.name for block in trace(model, x, family, rules=rules, certify=False).blocks}
    assert named
    assert set(named) <= blocks
    trace(model, x, family)  # the right rule passes
