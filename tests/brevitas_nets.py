"""Brevitas networks of every kind, small, and random parameters for them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.core.function_wrapper import TensorClampSte
from brevitas.core.quant import QuantType
from brevitas.core.restrict_val import FloatToIntImplType, RestrictValueType
from brevitas.core.scaling import ScalingImplType
from brevitas.core.stats import StatsOp
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject.enum import BitWidthImplType, ScalingPerOutputType
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    TruncTo8bit,
)
from brevitas.quant.solver import WeightQuantSolver
from brevitas_examples.bnn_pynq.models import model_with_cfg
from brevitas_examples.bnn_pynq.models.tensor_norm import TensorNorm
from torch import Tensor, nn

from binarynets.brevitas import settled

BINARY = SignedBinaryWeightPerTensorConst
TERNARY = SignedTernaryWeightPerTensorConst
PER_TENSOR = Int8WeightPerTensorFloat
PER_CHANNEL = Int8WeightPerChannelFloat
OWN_BIAS = Int8BiasPerTensorFloatInternalScaling
UNIT = {"weight_quant": BINARY, "weight_scaling_const": 1.0, "weight_tensor_clamp_impl": TensorClampSte}
"""Weights +1 and -1, with a clamp that does not write into latents."""

BY_CHANNEL = {
    "scaling_per_output_channel": True,
    "scaling_stats_permute_dims": (1, 0, 2, 3),
    "per_channel_broadcastable_shape": (1, 5, 1, 1),
}
"""A scale for each of 5 channels of activations."""


class XnorWeight(WeightQuantSolver):
    """Mean |w| of each row times the signs (XNOR-Net, arXiv 1603.05279)."""

    quant_type = QuantType.BINARY
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.FP
    float_to_int_impl_type = FloatToIntImplType.ROUND
    bit_width_impl_type = BitWidthImplType.CONST
    bit_width = 1
    zero_point_impl = ZeroZeroPoint
    signed = True


class LearnedWeight(Int8WeightPerTensorFloat):
    """A scale that is a parameter, begun at the largest |w|."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    restrict_scaling_type = RestrictValueType.FP


class LearnedWeightPerChannel(Int8WeightPerChannelFloat):
    """A scale for each row that is a parameter."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    restrict_scaling_type = RestrictValueType.FP


class WideWeight(Int8WeightPerTensorFloat):
    """Levels -128 to 127: not odd where it clamps."""

    narrow_range = False


class GroupwiseWeight(Int8WeightPerTensorFloat):
    """A scale for each few neighbours in a row."""

    proxy_class = GroupwiseWeightQuantProxyFromInjector
    scaling_per_output_type = ScalingPerOutputType.GROUP
    group_dim = 1
    group_size = 4


class LearnedBinaryWeight(SignedBinaryWeightPerTensorConst):
    """Binary, with a scale that is a parameter."""

    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_init = 0.3
    tensor_clamp_impl = TensorClampSte


def step() -> nn.Module:
    """The sign function."""
    return qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst)


def tanh(bits: int = 3) -> nn.Module:
    """An odd activation: as many levels on either side of 0."""
    return qnn.QuantHardTanh(bit_width=bits, narrow_range=True, min_val=-1.0, max_val=1.0, scaling_impl_type="const")


def relu(**settings: Any) -> nn.Module:
    """4 bits and a constant scale."""
    return qnn.QuantReLU(**({"bit_width": 4, "max_val": 3.0, "scaling_impl_type": "const"} | settings))


def identity8(**settings: Any) -> nn.Module:
    """8 bits, a constant scale, one level more below 0 than above."""
    settings = {"min_val": -2.0, "max_val": 2.0, "scaling_impl_type": "const"} | settings
    return qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, **settings)


def perceptron(
    weight: Mapping[str, Any], activation: Callable[[], nn.Module] = step, *, norm: bool = True, bias: bool = False
) -> nn.Sequential:
    """12 inputs, 10 and 7 hidden units, 4 outputs."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((12, 10), (10, 7)):
        layers.append(qnn.QuantLinear(inputs, outputs, bias=bias, **weight))
        layers += [nn.BatchNorm1d(outputs)] if norm else []
        layers.append(activation())
    return nn.Sequential(*layers, qnn.QuantLinear(7, 4, bias=bias, **weight))


def convnet(weight: Mapping[str, Any], activation: Callable[[], nn.Module], *between: nn.Module) -> nn.Sequential:
    """Two convolutions and a linear map on [2, 6, 6]."""
    return nn.Sequential(
        *(qnn.QuantConv2d(2, 5, 3, padding=1, bias=False, **weight), nn.BatchNorm2d(5), activation(), *between),
        *(qnn.QuantConv2d(5, 6, 3, bias=False, **weight), nn.BatchNorm2d(6), activation()),
        *(nn.Flatten(), qnn.QuantLinear(54 if between else 96, 4, bias=False, **weight)),
    )


class Added(nn.Module):
    """Quantised tensors of one scale are added, the activation is shared."""

    def __init__(self) -> None:
        super().__init__()
        weight = {"weight_quant": PER_CHANNEL, "weight_bit_width": 4, "bias": False}
        self.inlet, self.norm = qnn.QuantLinear(12, 8, **weight), nn.BatchNorm1d(8)
        self.inner, self.inner_norm = qnn.QuantLinear(8, 8, **weight), nn.BatchNorm1d(8)
        self.shared, self.out_act = relu(return_quant_tensor=True), relu(return_quant_tensor=True)
        self.head = qnn.QuantLinear(8, 4, bias=True, weight_quant=PER_TENSOR, bias_quant=Int32Bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.norm(self.inlet(x)))
        y = self.shared(self.inner_norm(self.inner(x)))
        return self.head(self.out_act(x + y))


class Tied(nn.Module):
    """One layer twice, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = qnn.QuantLinear(12, 8, bias=False, weight_quant=PER_TENSOR)
        self.twice = qnn.QuantLinear(8, 8, bias=False, weight_quant=PER_TENSOR)
        self.other = qnn.QuantLinear(8, 8, bias=False, weight_quant=PER_TENSOR)
        self.other.weight = self.twice.weight
        self.act, self.head = tanh(), qnn.QuantLinear(8, 4, weight_quant=PER_TENSOR)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.twice(self.act(self.inlet(x))))
        return self.head(self.act(self.other(self.act(self.twice(x)))))


@dataclass(frozen=True)
class Case:
    """A network and inputs for it.

    Attributes:
        make: Makes it.
        shape: Of one input.
        trained: Training forwards before it is used, so that statistics are collected.
        unit: Inputs are from [0, 1].
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (12,)
    trained: int = 0
    unit: bool = field(default=False)


HAND_MADE: dict[str, Case] = {
    "binary": Case(lambda: perceptron(UNIT)),
    "binary, scale 0.1": Case(lambda: perceptron({"weight_quant": BINARY})),
    "binary, bias": Case(lambda: perceptron(UNIT, bias=True)),
    "binary, learned scale": Case(lambda: perceptron({"weight_quant": LearnedBinaryWeight})),
    "mean of each row": Case(lambda: perceptron({"weight_quant": XnorWeight})),
    "ternary": Case(lambda: perceptron({"weight_quant": TERNARY}, lambda: tanh(2))),
    "8 bits": Case(lambda: perceptron({"weight_quant": PER_TENSOR}, relu)),
    "4 bits by channel": Case(lambda: perceptron({"weight_quant": PER_CHANNEL, "weight_bit_width": 4}, relu)),
    "learned scale": Case(lambda: perceptron({"weight_quant": LearnedWeight}, tanh)),
    "learned scales by channel": Case(lambda: perceptron({"weight_quant": LearnedWeightPerChannel}, tanh)),
    "wide weights": Case(lambda: perceptron({"weight_quant": WideWeight}, tanh)),
    "shifted weights": Case(lambda: perceptron({"weight_quant": ShiftedUint8WeightPerTensorFloat}, tanh)),
    "shifted activations": Case(
        lambda: perceptron(
            {"weight_quant": PER_TENSOR}, lambda: qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat)
        ),
        trained=3,
    ),
    "statistics": Case(
        lambda: perceptron({"weight_quant": PER_TENSOR}, lambda: qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat)),
        trained=3,
    ),
    "relu, statistics": Case(lambda: perceptron({"weight_quant": PER_TENSOR}, qnn.QuantReLU), trained=3),
    "relu by channel": Case(
        lambda: nn.Sequential(
            *(qnn.QuantConv2d(2, 5, 3, bias=False, weight_quant=PER_TENSOR), nn.BatchNorm2d(5)),
            qnn.QuantReLU(**BY_CHANNEL),
            *(nn.Flatten(), qnn.QuantLinear(80, 4, weight_quant=PER_TENSOR)),
        ),
        (2, 6, 6),
        trained=3,
    ),
    "tanh": Case(lambda: perceptron({"weight_quant": PER_TENSOR}, lambda: qnn.QuantTanh(bit_width=4))),
    "sigmoid": Case(lambda: perceptron({"weight_quant": PER_TENSOR}, lambda: qnn.QuantSigmoid(bit_width=4))),
    "hard swish": Case(lambda: perceptron({"weight_quant": PER_TENSOR}, qnn.QuantHardSwish), trained=3),
    "asymmetric range": Case(lambda: perceptron({"weight_quant": PER_TENSOR}, identity8)),
    "weights as they are": Case(lambda: perceptron({"weight_quant": None}, relu, bias=True)),
    "activations as they are": Case(
        lambda: perceptron({"weight_quant": PER_TENSOR}, lambda: qnn.QuantReLU(act_quant=None))
    ),
    "nothing quantised": Case(
        lambda: perceptron({"weight_quant": None}, lambda: qnn.QuantIdentity(act_quant=None), bias=True)
    ),
    "8-bit inputs": Case(
        lambda: nn.Sequential(identity8(bit_width=8), *perceptron(UNIT)),
    ),
    "quantised input, output and bias": Case(
        lambda: nn.Sequential(
            qnn.QuantLinear(
                *(12, 10),
                weight_quant=PER_TENSOR,
                bias_quant=Int32Bias,
                input_quant=Int8ActPerTensorFloat,
                output_quant=Int8ActPerTensorFloat,
            ),
            *(nn.BatchNorm1d(10), nn.ReLU(), qnn.QuantLinear(10, 4, weight_quant=PER_TENSOR)),
        ),
        trained=3,
    ),
    "bias of its own scale": Case(
        lambda: perceptron(
            {"weight_quant": PER_TENSOR, "bias_quant": Int8BiasPerTensorFloatInternalScaling}, tanh, bias=True
        )
    ),
    "bias of the input's scale": Case(
        lambda: nn.Sequential(
            qnn.QuantLinear(12, 10, weight_quant=PER_TENSOR, bias=True),
            *(nn.BatchNorm1d(10), relu(return_quant_tensor=True), nn.Dropout(0.5)),
            qnn.QuantLinear(10, 4, bias=True, weight_quant=PER_CHANNEL, bias_quant=Int32Bias),
        )
    ),
    "conv1d": Case(
        lambda: nn.Sequential(
            *(qnn.QuantConv1d(2, 6, 3, bias=False, groups=2, **UNIT), nn.BatchNorm1d(6), step(), nn.Flatten()),
            qnn.QuantLinear(36, 4, bias=False, **UNIT),
        ),
        (2, 8),
    ),
    "conv2d": Case(lambda: convnet(UNIT, step), (2, 6, 6)),
    "conv2d, 3 bits": Case(
        lambda: convnet({"weight_quant": PER_CHANNEL, "weight_bit_width": 3}, relu, nn.MaxPool2d(2, 1)), (2, 6, 6)
    ),
    "conv2d, scale 0.1": Case(lambda: convnet({"weight_quant": BINARY}, step), (2, 6, 6)),
    "max pool behind the sign": Case(lambda: convnet(UNIT, step, nn.MaxPool2d(2, 1)), (2, 6, 6)),
    "average pool": Case(lambda: convnet({"weight_quant": PER_TENSOR}, tanh, nn.AvgPool2d(2, 1)), (2, 6, 6)),
    "groups": Case(
        lambda: nn.Sequential(
            *(qnn.QuantConv2d(2, 6, 3, bias=False, weight_quant=PER_CHANNEL), relu()),
            *(qnn.QuantConv2d(6, 9, 3, groups=3, weight_quant=PER_CHANNEL), nn.BatchNorm2d(9), relu()),
            *(nn.Flatten(), qnn.QuantLinear(36, 4, weight_quant=PER_TENSOR)),
        ),
        (2, 6, 6),
    ),
    "transposed": Case(
        lambda: nn.Sequential(
            *(qnn.QuantConvTranspose2d(2, 5, 3, stride=2, bias=False, weight_quant=PER_CHANNEL), nn.BatchNorm2d(5)),
            *(relu(), qnn.QuantConvTranspose2d(5, 4, 2, weight_quant=PER_TENSOR), tanh()),
            *(nn.Flatten(), qnn.QuantLinear(4 * 8 * 8, 4, weight_quant=PER_TENSOR)),
        ),
        (2, 3, 3),
    ),
    "transposed, 1d": Case(
        lambda: nn.Sequential(
            *(qnn.QuantConvTranspose1d(2, 5, 3, bias=False, weight_quant=PER_TENSOR), nn.BatchNorm1d(5), tanh()),
            *(nn.Flatten(), qnn.QuantLinear(40, 4, weight_quant=PER_TENSOR)),
        ),
        (2, 6),
    ),
    "truncating pool": Case(
        lambda: nn.Sequential(
            *(qnn.QuantConv2d(2, 5, 3, bias=False, weight_quant=PER_CHANNEL), nn.BatchNorm2d(5)),
            *(relu(return_quant_tensor=True), qnn.TruncAvgPool2d(4, trunc_quant=TruncTo8bit), nn.Flatten()),
            qnn.QuantLinear(5, 4, bias=True, weight_quant=PER_TENSOR, bias_quant=Int32Bias),
        ),
        (2, 6, 6),
    ),
    "chain of quantised tensors": Case(
        lambda: nn.Sequential(
            identity8(return_quant_tensor=True),
            *(qnn.QuantConv2d(2, 5, 3, weight_quant=PER_TENSOR, bias_quant=Int32Bias), relu(return_quant_tensor=True)),
            *(nn.MaxPool2d(2), nn.Flatten()),
            qnn.QuantLinear(20, 4, bias=True, weight_quant=PER_TENSOR, bias_quant=Int32Bias),
        ),
        (2, 6, 6),
    ),
    "addition": Case(Added),
    "tied": Case(Tied),
    "plain layers between": Case(
        lambda: nn.Sequential(
            *(nn.Linear(12, 10), nn.BatchNorm1d(10), step(), qnn.QuantLinear(10, 9, bias=False, **UNIT)),
            *(nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), qnn.QuantLinear(8, 4, weight_quant=PER_CHANNEL)),
        )
    ),
    "no normalisation": Case(
        lambda: perceptron({"weight_quant": PER_TENSOR, "weight_bit_width": 4}, nn.ReLU, norm=False)
    ),
    "tensor norm": Case(lambda: nn.Sequential(*perceptron(UNIT), TensorNorm())),
}

# Statistics of the first layer's inputs: pixels from 0 to 1.
EXAMPLES: dict[str, Case] = {
    **{
        f"{name}_{bits}": Case(lambda name=name, bits=bits: _example(f"{name}_{bits}"), (1, 28, 28), unit=True)
        for name, bits in (("TFC", "1W1A"), ("SFC", "1W1A"), ("LFC", "1W1A"), ("TFC", "1W2A"), ("TFC", "2W2A"))
    },
    **{name: Case(lambda name=name: _example(name), (3, 32, 32), unit=True) for name in ("CNV_1W1A", "CNV_1W2A")},
    "RESNET18_4W4A": Case(lambda: _example("RESNET18_4W4A"), (3, 32, 32), trained=1, unit=True),
}


def _example(name: str) -> nn.Module:
    made: nn.Module = model_with_cfg(name, False)[0]
    return made


def inputs(case: Case, samples: int = 6, *, seed: int = 0) -> Tensor:
    """Random inputs [samples, ...]."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if case.unit else torch.randn
    return draw((samples, *case.shape), generator=generator)


def made(case: Case, *, seed: int = 0, latents: float = 1.0) -> nn.Module:
    """The network in evaluation mode, latents, batch normalisation and statistics random, statistics settled.

    Args:
        case: Which.
        seed: Of everything random.
        latents: Latent weights are multiplied by it last.
    """
    torch.manual_seed(seed)
    model = case.make()
    randomise_(model, seed=seed)
    model.train()
    for number in range(case.trained):
        model(inputs(case, 4, seed=100 + number))
    model = settled(model.eval())
    randomise_(model, seed=seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, qnn.mixin.QuantWeightMixin):
                module.weight.mul_(latents)
        _centre(model, case, seed)
    return model


def _centre(model: nn.Module, case: Case, seed: int) -> None:
    """Statistics near those of the data, so that no unit is the same for all inputs."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    working = copy.deepcopy(model)  # some quantisers write into latents
    twins = [module for module in working.modules() if hasattr(module, "running_var")]
    for twin in twins:
        twin.train()
        twin.momentum = 1.0
    working(inputs(case, 8, seed=50))
    for module, twin in zip(norms, twins, strict=True):
        noise, other = (torch.randn(module.running_var.shape, generator=generator) for _ in "ab")
        module.running_var.copy_(twin.running_var * (0.5 * noise).exp() + 1e-3)
        module.running_mean.copy_(twin.running_mean + 0.3 * other * module.running_var.sqrt())


@torch.no_grad()
def randomise_(model: nn.Module, *, seed: int = 0) -> None:
    """Draw weights, biases and normalisation anew, in place; scales of quantisers stay."""
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(tensor) in done or not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name == "running_var":
                tensor.copy_((0.5 * noise).exp() * (1 + tensor.abs()))
            elif name == "running_mean":
                tensor.copy_(0.5 * noise)
            elif name in ("weight", "bias") and tensor.ndim < 2:
                tensor.copy_(noise + 0.05)
            elif name == "weight":
                tensor.copy_(0.5 * noise)
            else:
                continue
            done.add(id(tensor))


@torch.no_grad()
def brevitas_outputs(model: nn.Module, x: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
    """What Brevitas itself gives, from a copy of the model that holds ``params``; neither is changed."""
    working = copy.deepcopy(model).eval()
    named = {**dict(working.named_parameters()), **dict(working.named_buffers())}
    for name, tensor in (params or {}).items():
        named[name].copy_(tensor)
    found = working(x)
    output: Tensor = getattr(found, "value", found)
    return output


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a call could change: parameters, all buffers, modes and counters."""
    found: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    found |= {name: tensor.clone() for name, tensor in model.named_buffers()}
    for name, module in model.named_modules():
        found[f"{name} is training"] = module.training
        found[f"{name} counts"] = getattr(module, "counter", None)
        found[f"{name} hooks"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    for name, parameter in model.named_parameters():
        found[f"{name} learns"] = parameter.requires_grad
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names whose values differ, or are in one alone."""
    return [
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not _same(before[name], after[name])
    ]


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
