"""The family that reads any Brevitas model, and those of the precision ladder: one for each bit width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.core.function_wrapper import TensorClampSte
from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant
from brevitas.quant import (
    Int8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
)
from torch import nn

from binarynets.brevitas.landscape import landscape
from binarynets.brevitas.plain import effective, plain
from binarynets.brevitas.rules import RULES
from binarynets.family import FAMILY as BINARY
from binarynets.signs import latent_form
from compare import networks
from compare.family import Family
from compare.networks import Parts
from compare.training import Optimiser, Recipe, SettingsError, TrainingSettings

_SETTINGS = TrainingSettings(epochs=20, batch=100, optimiser="adam", learning_rate=3e-3)

_REACH = 3.0
"""Largest activation of k bits, in standard deviations: what normalisation gives is rarely larger."""


def quantised_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Latent weights of all layers whose weights Brevitas quantises.

    Args:
        model: A Brevitas model.

    Returns:
        The parameters themselves, by name.
    """
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, qnn.mixin.QuantWeightMixin) and module.weight_quant.is_quant_enabled
    }


def binary_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those of ``quantised_weights`` with a binary quantiser; asked in every step of training, so nothing is tried."""
    found = {}
    for name, weight in quantised_weights(model).items():
        layer: Any = model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer.weight_quant.tensor_quant, BinaryQuant | ClampedBinaryQuant):
            found[name] = weight
    return found


@torch.no_grad()
def clip_latents_(model: nn.Module, bound: float = 1.0) -> None:
    """Clip latent weights to [-bound, bound], in place, as BinaryNet does (arXiv 1602.02830).

    Args:
        model: A Brevitas model; parameters that are not quantised, or require no gradient, are left alone.
        bound: Largest magnitude that stays.

    Raises:
        ValueError: If ``bound`` is not positive and finite.
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"bound: expected a positive finite number, got {bound}")
    for weight in quantised_weights(model).values():
        if weight.requires_grad:
            weight.clamp_(-bound, bound)


def optimiser(model: nn.Module, settings: TrainingSettings) -> Optimiser:
    """Adam, or SGD with Nesterov momentum 0.9; weight decay reaches no latent weight.

    Args:
        model: What is trained.
        settings: Which optimiser, learning rate and weight decay.

    Returns:
        The optimiser.

    Raises:
        SettingsError: For Bop, which is for ``binarynets`` layers.
    """
    if settings.optimiser == "bop":
        raise SettingsError(
            "optimiser: Brevitas models offer 'adam' and 'sgd', got 'bop': it is for --precisions binary"
        )
    latents = quantised_weights(model)
    rest = [parameter for name, parameter in model.named_parameters() if name not in latents]
    groups: list[dict[str, Any]] = [
        {"params": list(latents.values())},
        {"params": rest, "weight_decay": settings.weight_decay},
    ]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=settings.learning_rate)


def parts(weight: Mapping[str, Any], activation: Callable[[], nn.Module]) -> Parts:
    """Layers of one bit width.

    Args:
        weight: Options of Brevitas's layers that choose the quantiser of weights.
        activation: Makes an activation.

    Returns:
        Linear maps and convolutions without bias; latents are drawn as those of ``binarynets`` layers (Glorot uniform),
        since where latents start decides how much of two networks' difference is training.
    """

    def drawn(layer: Any) -> nn.Module:
        nn.init.xavier_uniform_(layer.weight)
        made: nn.Module = layer
        return made

    def linear(inputs: int, outputs: int) -> nn.Module:
        return drawn(qnn.QuantLinear(inputs, outputs, bias=False, **weight))

    def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Module:
        layer = qnn.QuantConv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False, **weight)
        return drawn(layer)

    return Parts(linear=linear, convolution=convolution, activation=activation)


def _binary_activation() -> Any:
    return qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst)


def _ternary_activation() -> Any:
    return qnn.QuantHardTanh(
        bit_width=2, narrow_range=True, min_val=-1.0, max_val=1.0, scaling_impl_type="const", return_quant_tensor=False
    )


def _integer_activation(bits: int) -> Any:
    return qnn.QuantReLU(bit_width=bits, max_val=_REACH, scaling_impl_type="const", return_quant_tensor=False)


_LEVELS = {"weight_scaling_const": 1.0, "weight_tensor_clamp_impl": TensorClampSte}
_BINARY_PARTS = parts({"weight_quant": SignedBinaryWeightPerTensorConst, **_LEVELS}, _binary_activation)
# Scale 0.1, so that weights below 0.05 are 0: about three quarters of fresh ones in wide layers.
_TERNARY_PARTS = parts(
    {"weight_quant": SignedTernaryWeightPerTensorConst, "weight_tensor_clamp_impl": TensorClampSte}, _ternary_activation
)


def _integer_parts(bits: int) -> Parts:
    weight = {"weight_quant": Int8WeightPerTensorFloat, "weight_bit_width": bits}
    return parts(weight, partial(_integer_activation, bits))


def _family(name: str, title: str, bits: float | None, made_of: Parts) -> Family:
    return Family(
        name=name,
        title=title,
        bits=bits,
        rules={**BINARY.rules, **RULES},
        standard_form=latent_form,
        effective=effective,
        networks={shape: partial(getattr(networks, shape), made_of) for shape in ("mlp", "vgg", "resnet")},
        recipe=Recipe(
            name=name, settings=_SETTINGS, optimiser=optimiser, after_step=clip_latents_, latents=binary_weights
        ),
        plain=plain,
        landscape=landscape,
        evaluation=BINARY.evaluation,  # of what stands for a binary model of scale 1; None of others
    )


FAMILY = _family("brevitas", "Brevitas model", None, _BINARY_PARTS)
"""Reads any Brevitas model; the networks that it makes by itself are binary."""

TERNARY = _family("ternary", "ternary (weights and activations -1, 0, +1)", math.log2(3), _TERNARY_PARTS)
INT2 = _family("int2", "2 bits (weights and activations)", 2.0, _integer_parts(2))
INT4 = _family("int4", "4 bits (weights and activations)", 4.0, _integer_parts(4))
INT8 = _family("int8", "8 bits (weights and activations)", 8.0, _integer_parts(8))
