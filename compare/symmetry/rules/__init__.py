"""One rule for each operation: what it says of the spaces on its operands' axes, and of the diagonals on them.

A rule is a function ``rule(site, *operands) -> value``. Operands stand where the operation's own do; tensors come as
``Value``, everything else as it is. The rule may unify axes (``site.same``, ``site.equal``, ``site.inverse``), forbid
signs or scales (``site.positive``, ``site.unscaled``, ``site.one``), stop axes from moving (``site.still``) or refuse
(``site.refuse``). A precision adds rules for its own layers, a user for theirs, by exact module type, function, or
method's name: ``compare.trace(model, x, family, rules={MyActivation: odd})``.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from compare.symmetry.rules import attention, joins, maps, norms, pointwise, shapes
from compare.symmetry.rules.maps import Rule, linear_map
from compare.symmetry.rules.pointwise import even, homogeneous, odd, passes, step
from compare.symmetry.rules.pointwise import pointwise as elementwise

__all__ = [
    "FUNCTION_RULES",
    "MODULE_RULES",
    "Rule",
    "elementwise",
    "even",
    "homogeneous",
    "linear_map",
    "odd",
    "passes",
    "step",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SIZES = ("1d", "2d", "3d")


def _modules(*names: str) -> list[type[nn.Module]]:
    return [getattr(nn, name + size) for name in names for size in _SIZES]


def _functions(*names: str) -> list[Any]:
    return [getattr(F, name + size) for name in names for size in _SIZES]


MODULE_RULES: dict[Any, Rule] = {
    **dict.fromkeys((nn.Linear, *_CONVOLUTIONS), linear_map()),
    nn.Embedding: maps.embedding,
    **dict.fromkeys(_modules("BatchNorm"), norms.batch_norm),
    **dict.fromkeys(_modules("InstanceNorm"), norms.instance_norm),
    nn.LayerNorm: norms.layer_norm,
    nn.RMSNorm: norms.rms_norm,
    nn.GroupNorm: norms.group_norm,
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU), homogeneous),
    **dict.fromkeys((nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink), odd),
    nn.PReLU: norms.prelu,
    nn.Hardtanh: pointwise.hard_tanh,
    nn.GLU: joins.gated_linear_unit,
    **dict.fromkeys(
        (nn.GELU, nn.SiLU, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.ELU, nn.CELU, nn.SELU, nn.ReLU6), elementwise
    ),
    **dict.fromkeys((nn.Hardswish, nn.Hardsigmoid, nn.Mish), elementwise),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.AlphaDropout, *_modules("Dropout")), passes),
    **dict.fromkeys(_modules("AvgPool", "AdaptiveAvgPool"), norms.average),
    **dict.fromkeys(_modules("MaxPool", "AdaptiveMaxPool"), norms.max_pool),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), norms.resampled),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), pointwise.softmax),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), shapes.reshape),
    nn.MultiheadAttention: attention.multi_head,
}

FUNCTION_RULES: dict[Any, Rule] = {
    F.linear: maps.functional_linear,
    F.glu: joins.gated_linear_unit,
    **dict.fromkeys(_functions("conv"), maps.functional_convolution),
    **dict.fromkeys(_functions("conv_transpose"), maps.functional_transposed),
    F.embedding: maps.embedding,
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, F.leaky_relu, "relu", "relu_"), homogeneous),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh", F.softsign), odd),
    **dict.fromkeys((F.hardtanh, torch.clamp, "clamp"), pointwise.hard_tanh),
    **dict.fromkeys((torch.abs, "abs", operator.abs), even),
    **dict.fromkeys((torch.square, "square"), pointwise.square),
    **dict.fromkeys((torch.pow, operator.pow, "pow"), pointwise.power),
    **dict.fromkeys(
        (F.gelu, F.silu, F.elu, F.selu, F.relu6, F.softplus, F.hardswish, F.hardsigmoid, F.mish), elementwise
    ),
    **dict.fromkeys(
        (torch.sigmoid, F.sigmoid, "sigmoid", torch.exp, "exp", torch.sqrt, "sqrt", torch.rsqrt), elementwise
    ),
    **dict.fromkeys((torch.log, "log", torch.sin, torch.cos, torch.erf), elementwise),
    **dict.fromkeys((F.dropout, F.alpha_dropout, *_functions("dropout")), pointwise.dropout),
    **dict.fromkeys(("contiguous", "clone", torch.clone), passes),
    **dict.fromkeys(_functions("avg_pool", "adaptive_avg_pool"), norms.average),
    **dict.fromkeys(_functions("max_pool", "adaptive_max_pool"), norms.max_pool),
    F.interpolate: norms.resampled,
    F.pad: norms.pad,
    **dict.fromkeys(
        (F.softmax, torch.softmax, F.log_softmax, torch.log_softmax, "softmax", "log_softmax"), pointwise.softmax
    ),
    **dict.fromkeys((operator.add, operator.iadd, operator.sub, operator.isub), joins.add),
    **dict.fromkeys((torch.add, torch.sub, "add", "add_", "sub", "sub_"), joins.add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), joins.multiply),
    **dict.fromkeys((operator.truediv, torch.div, "div", "div_"), joins.divide),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), joins.negate),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"), joins.matmul),
    torch.einsum: joins.einsum,
    **dict.fromkeys((torch.cat, torch.concat), joins.concatenate),
    torch.stack: joins.stack,
    **dict.fromkeys(("masked_fill", "masked_fill_", torch.masked_fill), joins.masked_fill),
    **dict.fromkeys((torch.mean, torch.sum, "mean", "sum"), joins.total),
    **dict.fromkeys((torch.amax, "amax"), joins.largest),
    F.scaled_dot_product_attention: attention.scaled_dot_product,
    **dict.fromkeys((torch.flatten, "flatten", "view", "reshape", torch.reshape, "unflatten"), shapes.reshape),
    **dict.fromkeys((torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze"), shapes.reshape),
    **dict.fromkeys((torch.permute, "permute"), shapes.permute),
    **dict.fromkeys((torch.transpose, "transpose", "t", torch.t), shapes.transpose),
    **dict.fromkeys(("expand", "expand_as"), shapes.expand),
    operator.getitem: shapes.getitem,
    **dict.fromkeys((torch.chunk, "chunk", torch.split, "split"), shapes.parts),
    **dict.fromkeys((torch.unbind, "unbind"), shapes.unbind),
    **dict.fromkeys((torch.narrow, "narrow"), shapes.narrow),
}
