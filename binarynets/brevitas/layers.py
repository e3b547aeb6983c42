"""Layers that stand for Brevitas's in evaluation: the same parameters, quantised weights made once, plain tensors.

A layer here takes over the parameters, buffers and children of the layer that it stands for, under their names, and
asks Brevitas's own quantisers for weights, biases and scales. What they give is kept until the parameters change.
Nothing here ever writes into a parameter: quantisers get copies (some clamp what they are given in place).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import torch
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from torch import Tensor, nn

from binarynets.brevitas.errors import BrevitasError
from binarynets.brevitas.forms import Form, check_scale, form_of, one_number
from binarynets.brevitas.weights import Facts, weight_facts
from compare.params import parameters

T = TypeVar("T")
Source: TypeAlias = "Activation | Map | Sum | Pool"
"""What makes a tensor whose scale is known."""


class _Kept:
    """A value that is made anew when the tensors it is made from are others, or were written to."""

    def __init__(self) -> None:
        self._tensors: list[tuple[Tensor, tuple[int, int]]] = []
        self._value: Any = None

    def __deepcopy__(self, memo: Any) -> _Kept:
        return _Kept()

    def get(self, tensors: list[Tensor], make: Callable[[], T]) -> T:
        # A parameter's ``data`` can be written to without being counted; tensors of a dictionary are rarely.
        owned = any(isinstance(tensor, nn.Parameter) for tensor in tensors)
        same = (
            not owned
            and len(tensors) == len(self._tensors)
            and all(
                a is b and not a.is_inference() and _mark(a) == mark
                for a, (b, mark) in zip(tensors, self._tensors, strict=True)
            )
        )
        if not same:
            self._value = make()
            self._tensors = [(tensor, _mark(tensor)) for tensor in tensors]
        found: T = self._value
        return found


def _mark(tensor: Tensor) -> tuple[int, int]:
    """Where its numbers lie (``x.data = y`` moves them) and how often it was written to, where torch counts that."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


class Read(nn.Module):
    """What stands for a Brevitas layer; a base, not a layer.

    Attributes:
        layer: What it stands for (its parameters are the same tensors).
    """

    def __init__(self, layer: nn.Module, name: str) -> None:
        """Take over everything that ``layer`` owns, which must be a copy made for this.

        Args:
            layer: A Brevitas layer in evaluation mode.
            name: Its module path, for messages.
        """
        super().__init__()
        for owned in ("_parameters", "_buffers", "_modules"):
            self.__dict__[owned] = getattr(layer, owned)
        self._layer, self._name = (layer,), name
        self.training = False

    @property
    def layer(self) -> Any:
        """What it stands for."""
        return self._layer[0]

    def _tensors(self) -> list[Tensor]:
        return [*self.parameters(), *self.buffers()]

    def reset_parameters(self) -> None:
        """Draw weights anew as the layer itself does; scales of quantisers stay as they are."""
        if hasattr(self.layer, "reset_parameters"):
            self.layer.reset_parameters()

    def train(self, mode: bool = True) -> Read:
        """Stay in evaluation mode: quantisers in training mode collect statistics."""
        return super().train(False)


class Quantiser:
    """A quantiser of activations, as plain arithmetic where that gives the same bits."""

    def __init__(self, proxy: Any, name: str) -> None:
        """Find out what it computes.

        Args:
            proxy: Brevitas's ``input_quant``, ``act_quant`` or ``output_quant``.
            name: Module path, for messages.
        """
        self._proxy, self._kept, self._name = proxy, _Kept(), name
        self.form: Form | None = form_of(proxy, name)

    def __deepcopy__(self, memo: Any) -> Quantiser:
        """A copy that has not kept anything yet."""
        new = Quantiser.__new__(Quantiser)
        memo[id(self)] = new
        new._proxy, new._kept, new._name = copy.deepcopy(self._proxy, memo), _Kept(), self._name
        new.form = self.form
        return new

    @property
    def enabled(self) -> bool:
        """Whether it quantises (it may apply an activation all the same)."""
        return bool(self._proxy.fused_activation_quant_proxy is not None and self._proxy.is_quant_enabled)

    def __call__(self, x: Tensor) -> Tensor:
        """Activation, then quantisation."""
        fused = self._proxy.fused_activation_quant_proxy
        if fused is None:
            return x
        if not self.enabled:
            applied: Tensor = fused.activation_impl(x)
            return applied
        if self.form is None:
            quantised: Tensor = fused(x)[0]
            return quantised
        return self.form.apply(fused.activation_impl(x), self.about())

    def about(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, zero point and bit width with the parameters at hand."""
        tensors = [*self._proxy.parameters(), *self._proxy.buffers()]
        return self._kept.get(tensors, self._measured)

    def _measured(self) -> tuple[Tensor, Tensor, Tensor]:
        fused = self._proxy.fused_activation_quant_proxy
        with torch.no_grad():
            found = fused.tensor_quant(one_number(fused))
        if len(found) != 4:
            raise BrevitasError(f"'{self._name}': expected an integer quantiser where its scale is needed further on")
        check_scale(torch.as_tensor(found[1]), f"'{self._name}': its activation quantiser")
        return found[1], found[2], found[3]

    @property
    def constant(self) -> bool:
        """Whether scale and bit width are constants, not parameters."""
        return not parameters(self._proxy)

    def tensor(self, x: Tensor) -> IntQuantTensor:
        """``x``, which this quantiser made, as Brevitas hands it on."""
        scale, zero, bits = self.about()
        return IntQuantTensor(x, scale, zero, bits, self._proxy.is_signed, False)


class Activation(Read):
    """Stands for QuantIdentity, QuantReLU, QuantHardTanh, QuantTanh, QuantSigmoid and QuantHardSwish."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        """As ``Read``."""
        super().__init__(layer, name)
        self.input, self.act = Quantiser(layer.input_quant, name), Quantiser(layer.act_quant, name)

    def forward(self, x: Tensor) -> Tensor:
        """Quantised activations in the shape of ``x``."""
        return self.act(self.input(x))

    def tensor(self, x: Tensor) -> IntQuantTensor:
        """``x``, which this layer made, as Brevitas hands it on."""
        return (self.act if self.act.enabled else self.input).tensor(x)

    @property
    def emits(self) -> bool:
        """Whether what it makes has a scale."""
        return self.act.enabled or self.input.enabled


class Map(Read):
    """Stands for QuantLinear and Brevitas's convolutions, transposed ones too."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        """As ``Read``."""
        super().__init__(layer, name)
        self.input, self.output = Quantiser(layer.input_quant, name), Quantiser(layer.output_quant, name)
        self.transposed: bool = getattr(layer, "transposed", False)
        self.groups: int = getattr(layer, "groups", 1)
        self._kept = _Kept()
        self._source: tuple[Source | None] = (None,)

    @cached_property
    def facts(self) -> Facts:
        """What its weight quantiser does; tried once, since that takes longer than all else in tracing."""
        return weight_facts(self.layer)

    def bind(self, source: Source | None) -> None:
        """Say where the input comes from, whose scale a bias quantiser may need.

        Raises:
            BrevitasError: If it is needed and not known.
        """
        if self._needs_input_scale and not self.input.enabled and source is None:
            raise BrevitasError(
                f"'{self._name}': its bias is quantised with the scale of its input, which is no output of one "
                "quantised activation or pooling here: expected one right before it; give the layer an input_quant, or "
                "a bias_quant with a scale of its own"
            )
        self._source = (source,)

    @property
    def _needs_input_scale(self) -> bool:
        quantiser = self.layer.bias_quant
        needing = quantiser.is_quant_enabled and getattr(quantiser, "requires_input_scale", False)
        return bool(self.layer.bias is not None and needing)

    def forward(self, x: Tensor) -> Tensor:
        """The map with quantised weight and bias."""
        weight, bias = self.effective()
        result: Tensor = self.layer.inner_forward_impl(self.input(x), weight, bias)
        return self.output(result)

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that the layer computes with, from Brevitas's own quantisers."""
        source = self._source[0]
        tensors = self._tensors() + (source._tensors() if source is not None and self._needs_input_scale else [])
        return self._kept.get(tensors, self._quantised)

    @torch.no_grad()
    def _quantised(self) -> tuple[Tensor, Tensor | None]:
        weight = self.layer.weight_quant(self.layer.weight.detach().clone())
        if isinstance(weight, IntQuantTensor):
            check_scale(weight.scale, f"'{self._name}': its weight quantiser")
        bias = self.layer.bias
        if bias is not None:
            bias = _value(self.layer.bias_quant(bias.detach().clone(), self._input_tensor(weight), weight))
        return _value(weight).detach(), bias

    def _input_tensor(self, weight: Tensor | QuantTensor) -> Any:
        like = _value(weight).new_zeros((1,) * self.layer.weight.ndim)
        if self.input.enabled:
            return self.input.tensor(like)
        source = self._source[0]
        return source.tensor(like) if source is not None and self._needs_input_scale else like

    def tensor(self, x: Tensor) -> IntQuantTensor:
        """``x``, which this layer made, as Brevitas hands it on."""
        return self.output.tensor(x)

    @property
    def emits(self) -> bool:
        """Whether what it makes has a scale of its own."""
        return self.output.enabled


class Sum(Read):
    """Stands for QuantEltwiseAdd."""

    def __init__(self, layer: Any, name: str) -> None:
        """As ``Read``."""
        super().__init__(layer, name)
        self.input, self.output = Quantiser(layer.input_quant, name), Quantiser(layer.output_quant, name)

    def forward(self, input: Tensor, other: Tensor) -> Tensor:  # noqa: A002 (as in Brevitas)
        """The quantised sum of two quantised tensors."""
        return self.output(self.input(input) + self.input(other))

    def tensor(self, x: Tensor) -> IntQuantTensor:
        """``x``, which this layer made, as Brevitas hands it on."""
        return self.output.tensor(x)

    @property
    def emits(self) -> bool:
        """Whether what it makes has a scale of its own."""
        return self.output.enabled


class Pool(Read):
    """Stands for TruncAvgPool2d and TruncAdaptiveAvgPool2d, which divide by cutting bits off."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        """As ``Read``."""
        super().__init__(layer, name)
        self._source: tuple[Any] = (None,)

    @property
    def emits(self) -> bool:
        """Whether what it makes has a scale."""
        return self._source[0] is not None

    def bind(self, source: Source | None) -> None:
        """Say where the input comes from."""
        self._source = (source,)

    def forward(self, x: Tensor) -> Tensor:
        """The pooled image."""
        source = self._source[0]
        return _value(self.layer(x if source is None else source.tensor(x)))

    def tensor(self, x: Tensor) -> IntQuantTensor:
        """``x``, which this layer made, as Brevitas hands it on."""
        size = self.layer.kernel_size if hasattr(self.layer, "kernel_size") else 1
        height, width = (size, size) if isinstance(size, int) else size
        made = self.layer(self._source[0].tensor(x.new_zeros(1, 1, height, width)))
        if not isinstance(made, IntQuantTensor):
            raise BrevitasError(f"'{self._name}': expected return_quant_tensor=True, its scale is needed further on")
        return made.set(value=x)

    def _tensors(self) -> list[Tensor]:
        source = self._source[0]
        return super()._tensors() + ([] if source is None else source._tensors())


class Unread(Read):
    """Stands for a layer of which nothing is known: its own forward, on plain tensors."""

    def forward(self, *inputs: Any) -> Any:
        """What the layer gives, its value where that is a quantised tensor."""
        found = self.layer(*inputs)
        return found.value if isinstance(found, QuantTensor) else found


class TensorNorm(nn.Module):
    """Stands for bnn_pynq's normalisation of all entries by one mean and one variance, same arithmetic.

    In training mode it writes its statistics in place, as batch normalisation does, so that they can be re-estimated.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: Any) -> None:
        """Take over parameters and buffers of ``layer``."""
        super().__init__()
        self.__dict__["_parameters"], self.__dict__["_buffers"] = layer._parameters, layer._buffers
        self.eps: float = layer.eps
        self.momentum: float = layer.momentum
        self.track_running_stats = True
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by one mean and one variance, then scale and shift."""
        if self.training:
            mean, variance = x.mean(), x.var(unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean.expand(1), self.momentum)
                self.running_var.lerp_(x.var(unbiased=True).expand(1), self.momentum)
            return (x - mean) * (1 / (variance + self.eps).pow(0.5)) * self.weight + self.bias
        return ((x - self.running_mean) / (self.running_var + self.eps).pow(0.5)) * self.weight + self.bias

    def reset_parameters(self) -> None:
        """Mean 0, variance 1, gain 1, offset 0."""
        for tensor, value in ((self.weight, 1), (self.bias, 0), (self.running_mean, 0), (self.running_var, 1)):
            nn.init.constant_(tensor, value)


def effective_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names of weights and biases with what the layers compute with in their place."""
    for name, module in model.named_modules():
        if isinstance(module, Map):
            weight, bias = module.effective()
            yield f"{name}.weight", weight
            if bias is not None:
                yield f"{name}.bias", bias


def _value(x: Any) -> Tensor:
    found: Tensor = x.value if isinstance(x, QuantTensor) else x
    return found
