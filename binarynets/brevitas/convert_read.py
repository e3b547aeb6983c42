"""What a binary Brevitas layer computes, found by probing copies of it, so that no latent weight is overwritten."""

import copy
import math
from functools import partial
from typing import Any, NoReturn

import brevitas.nn as qnn
import torch
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn

from binarynets.brevitas.errors import BrevitasError
from binarynets.quantisers import Quantiser, ste_sign
from compare.params import sign

BINARY = "Use the quantisers SignedBinaryWeightPerTensorConst and SignedBinaryActPerTensorConst, or analyse it as it is"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARTS = {"input_quant", "weight_quant", "bias_quant", "output_quant", "act_quant"}


class OwnBinaryQuant(nn.Module):
    """A quantiser of this package as the ``tensor_quant`` of a Brevitas quantiser: its values, its gradient.

    Forward: ``(quantiser(x), scale, 0, 1)``, where the scale is 1, or one for each output channel if ``per_channel``.
    It has neither parameters nor buffers.
    """

    def __init__(self, quantiser: Quantiser, per_channel: bool) -> None:
        """Choose the quantiser.

        Args:
            quantiser: Gives +1 and -1 by sign, times one magnitude for each output channel if ``per_channel``.
            per_channel: Whether the scale is read off the values, along axis 0.
        """
        super().__init__()
        self.quantiser = quantiser
        self.per_channel = per_channel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values in the shape of ``x``, scale, zero point, bit width."""
        values = self.quantiser(x)
        one = x.new_ones(1)
        scale = values.detach().abs().amax(tuple(range(1, x.ndim)), keepdim=True) if self.per_channel else one
        return values, scale, x.new_zeros(()), x.new_ones(())


def read_weight(path: str, layer: Any) -> tuple[Quantiser, float]:
    """The quantiser and the scale of a layer whose weights are binary.

    Args:
        path: Where the layer stands in the model, for messages.
        layer: A Brevitas layer with weights; it is not changed.

    Returns:
        A quantiser with the gradient of the layer's, over the scale, and the scale s of weights +s and -s.

    Raises:
        BrevitasError: If the weights are not binary with one constant scale, or the layer quantises something else too.
    """
    check_layer(path, layer)
    for part in ("input_quant", "output_quant", "bias_quant"):
        if getattr(layer, part).is_quant_enabled:
            refuse(path, layer, f"its {part} quantises too", "Put a QuantIdentity of its own into the network instead")
    if getattr(layer, "is_same_padded_strided", False):
        refuse(path, layer, "torch.nn has no padding 'same' with a stride", "Give the padding in numbers")
    if not bool(torch.isfinite(layer.weight).all()):
        refuse(path, layer, "its latent weights hold NaN or infinity", "Repair the training or the file they come from")
    inner = getattr(layer.weight_quant, "tensor_quant", None)
    if isinstance(inner, OwnBinaryQuant) and layer.weight_quant.is_quant_enabled:
        return copy.deepcopy(inner.quantiser), 1.0
    if any(parameter is not layer.weight for parameter in layer.weight_quant.parameters()):
        refuse(path, layer, "its weight quantiser has learned parameters", BINARY)
    return _probed_weight(path, layer)


@torch.enable_grad()
def _probed_weight(path: str, layer: Any) -> tuple[Quantiser, float]:
    working = copy.deepcopy(layer).requires_grad_(True)
    latents = layer.weight.detach()
    # A copy of its own: a quantiser may count its calls.
    scale = float(_value(copy.deepcopy(layer).quant_weight()).detach().abs().flatten()[0])
    if not 0 < scale < math.inf:
        refuse(path, layer, f"its weights have the scale {scale:g}", "Expected a positive finite number, such as 1")
    numbers = _numbers(latents.dtype, (1.0, scale)).to(latents.device)
    rounds = math.ceil(len(numbers) / latents.numel())
    filled = numbers[torch.arange(rounds * latents.numel()) % len(numbers)].view(rounds, *latents.shape)
    probes = [(training, x) for training in (True, False) for x in (latents, 30 * latents, *filled)]
    for training, x in probes:
        values = _quantised(working, x, training).detach()
        if values.shape != x.shape or not torch.equal(values, sign(x) * scale):
            refuse(path, layer, "expected binary weights, +s and -s by sign with one constant s", BINARY)
    found = [(x, _gradient(_quantised(working, x, training), working.weight) / scale) for training, x in probes]
    return _with_gradient(path, layer, found, scale), scale


def _quantised(working: Any, latents: Tensor, training: bool) -> Tensor:
    with torch.no_grad():
        working.weight.copy_(latents)
    return _value(working.train(training).quant_weight())


@torch.enable_grad()
def read_activation(path: str, layer: Any) -> Quantiser | None:
    """The quantiser of a binary activation, or None if it is not binary and has no parameters.

    Args:
        path: Where the layer stands in the model, for messages.
        layer: A Brevitas activation; it is not changed.

    Raises:
        BrevitasError: If it has parameters, or binary values other than +1 and -1, or an unknown gradient.
    """
    check_layer(path, layer)
    inner = getattr(layer.act_quant.fused_activation_quant_proxy, "tensor_quant", None)
    if isinstance(inner, OwnBinaryQuant) and type(layer) is qnn.QuantIdentity and layer.act_quant.is_quant_enabled:
        return copy.deepcopy(inner.quantiser)
    if next(layer.parameters(), None) is not None:
        refuse(path, layer, "its quantiser has learned parameters", BINARY)
    found = []
    for training in (True, False):
        x = _numbers(torch.float32, (1.0,)).view(1, -1).to(device_of(layer, torch.device("cpu"))).requires_grad_()
        values = _value(copy.deepcopy(layer).train(training)(x.clone()))
        scale = float(values.detach().abs().flatten()[0])
        if not scale > 0 or values.shape != x.shape or not torch.equal(values.detach(), sign(x.detach()) * scale):
            return None
        if scale != 1:
            refuse(
                path, layer, f"expected an activation of +1 and -1, got one of +-{scale:g}", "Set min_val=-1, max_val=1"
            )
        found.append((x.detach(), _gradient(values, x)))
    return _with_gradient(path, layer, found, 1.0)


def _with_gradient(path: str, layer: nn.Module, found: list[tuple[Tensor, Tensor]], scale: float) -> Quantiser:
    for clip in (1.0, scale, None):
        if all(torch.equal(gradient, _passes(x, clip)) for x, gradient in found):
            return ste_sign if clip == 1 else partial(ste_sign, clip=clip)
    return refuse(path, layer, f"its gradient is neither 1 everywhere nor where |x| <= 1 or |x| <= {scale:g}", BINARY)


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), x)[0] if values.requires_grad else torch.zeros_like(x)


def _passes(x: Tensor, clip: float | None) -> Tensor:
    return torch.ones_like(x) if clip is None else (x.abs() <= clip).to(x)


def _numbers(dtype: torch.dtype, edges: tuple[float, ...]) -> Tensor:
    """Numbers of all sizes and both signs, both zeros, each edge and what is next to it."""
    info = torch.finfo(dtype)
    near = [edge * factor for edge in edges for factor in (1.0, 1 + 2 * info.eps, 1 - 2 * info.eps)]
    spread = torch.logspace(math.log10(info.tiny), 4, 300, dtype=torch.float64).clamp(min=info.tiny)
    sizes = torch.cat([spread, torch.tensor(near, dtype=torch.float64)])
    return torch.cat([-sizes, torch.tensor([-0.0, 0.0], dtype=torch.float64), sizes]).to(dtype)


def _value(quantised: Any) -> Tensor:
    value: Tensor = quantised.value if isinstance(quantised, QuantTensor) else quantised
    return value


def device_of(module: nn.Module, otherwise: torch.device) -> torch.device:
    """Where the tensors of ``module`` are, ``otherwise`` if it has none."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else otherwise


def check_layer(path: str, module: nn.Module) -> None:
    """Raise ``BrevitasError`` for what a converted layer would lose: hooks, parts of its own, other padding."""
    own = module._parameters.values()
    hooked = [*(getattr(module, kind) for kind in _HOOKS), *(p._backward_hooks for p in own if p is not None)]
    if any(hooked) or "forward" in vars(module):
        refuse(path, module, "it has hooks or a forward of its own", "Remove them, and set them on the converted layer")
    surplus = [*(module._modules.keys() - _PARTS), *module._buffers, *(module._parameters.keys() - {"weight", "bias"})]
    if surplus or (hasattr(module, "weight") and module._parameters.get("weight") is None):
        what = f"got also {sorted(surplus)}" if surplus else "got a weight that is computed"
        refuse(path, module, f"expected the parameters weight and bias alone, {what}", "Take them out first")
    if getattr(module, "padding_mode", "zeros") != "zeros":
        refuse(path, module, f"its padding mode is '{module.padding_mode}'", "Pad with zeros, or in a module before it")


def refuse(path: str, module: nn.Module, reason: str, remedy: str) -> NoReturn:
    """Raise ``BrevitasError``, naming the module."""
    where = f"'{path}'" if path else "the model itself"
    raise BrevitasError(f"{where} ({type(module).__name__}): {reason}. {remedy}")
