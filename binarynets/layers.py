"""Layers that compute with binarised weights and keep the latent ones under the name ``weight``."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binarynets.quantisers import Quantiser, ste_sign
from compare.params import sign

_Size1 = int | tuple[int]
_Size2 = int | tuple[int, int]


class Binarised(nn.Module):
    """What all layers with binarised weights share; a base, not a layer.

    Attributes:
        weight: Latent weight ``[out, in, ...]``.
        quantiser: Computes the weight that is used from the latent one.
    """

    weight: Tensor
    quantiser: Quantiser

    def binary_weight(self) -> Tensor:
        """The weight that the layer computes with, ``quantiser(weight)``, in the shape of ``weight``."""
        return self.quantiser(self.weight)

    def reset_parameters(self) -> None:
        """Draw the latent weight anew, Glorot uniform as in BinaryNet (arXiv 1602.02830), and set the bias to zero."""
        nn.init.xavier_uniform_(self.weight)
        if isinstance(self.bias, Tensor):
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Sizes and quantiser, for ``print(model)``."""
        return f"{super().extra_repr()}, quantiser={_name(self.quantiser)}"


class BinaryLinear(Binarised, nn.Linear):
    """Linear map with binarised weights, ``x @ quantiser(weight).T + bias``.

    Example:
        >>> layer = BinaryLinear(3, 2)
        >>> layer
        BinaryLinear(in_features=3, out_features=2, bias=False, quantiser=ste_sign)
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, quantiser: Quantiser = ste_sign
    ) -> None:
        """Draw the latent weight, see ``reset_parameters``.

        Args:
            in_features: Size of the input's last axis.
            out_features: Size of the output's last axis.
            bias: Whether to learn a full-precision offset.
            quantiser: From latent to binary weight; its docstring gives the gradient.
        """
        super().__init__(in_features, out_features, bias)
        self.quantiser = quantiser

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Linear gives it)
        """Apply the map: ``[..., in_features]`` to ``[..., out_features]``."""
        sums = F.linear(input, self.binary_weight())
        # Added last: integer sums stay exact whatever the order in which they are taken.
        return sums if self.bias is None else sums + self.bias


class BinaryConv1d(Binarised, nn.Conv1d):
    """Convolution over one axis with binarised weights; arguments as of ``torch.nn.Conv1d``.

    Example:
        >>> BinaryConv1d(1, 4, 3, padding=1)(torch.ones(5, 1, 8)).shape
        torch.Size([5, 4, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size1,
        *,
        stride: _Size1 = 1,
        padding: _Size1 | str = 0,
        dilation: _Size1 = 1,
        groups: int = 1,
        bias: bool = False,
        quantiser: Quantiser = ste_sign,
    ) -> None:
        """Draw the latent weight, see ``reset_parameters``.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Width of the window.
            stride: Step of the window.
            padding: Zeros added at both ends. They are neither +1 nor -1: sums at the rim have fewer terms.
            dilation: Distance between the window's taps.
            groups: Groups of channels that do not see each other.
            bias: Whether to learn a full-precision offset for each output channel.
            quantiser: From latent to binary weight; its docstring gives the gradient.
        """
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.quantiser = quantiser

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Conv1d gives it)
        """Convolve: ``[batch, in_channels, width]`` to ``[batch, out_channels, new width]``."""
        sums: Tensor = self._conv_forward(input, self.binary_weight(), None)
        return sums if self.bias is None else sums + self.bias[:, None]


class BinaryConv2d(Binarised, nn.Conv2d):
    """Convolution over two axes with binarised weights; arguments as of ``torch.nn.Conv2d``.

    Example:
        >>> BinaryConv2d(1, 4, 3, padding=1)(torch.ones(5, 1, 8, 8)).shape
        torch.Size([5, 4, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size2,
        *,
        stride: _Size2 = 1,
        padding: _Size2 | str = 0,
        dilation: _Size2 = 1,
        groups: int = 1,
        bias: bool = False,
        quantiser: Quantiser = ste_sign,
    ) -> None:
        """Draw the latent weight, see ``reset_parameters``.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Height and width of the window.
            stride: Step of the window.
            padding: Zeros added at all sides. They are neither +1 nor -1: sums at the rim have fewer terms.
            dilation: Distance between the window's taps.
            groups: Groups of channels that do not see each other.
            bias: Whether to learn a full-precision offset for each output channel.
            quantiser: From latent to binary weight; its docstring gives the gradient.
        """
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.quantiser = quantiser

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Conv2d gives it)
        """Convolve: ``[batch, in_channels, height, width]`` to ``[batch, out_channels, new height, new width]``."""
        sums: Tensor = self._conv_forward(input, self.binary_weight(), None)
        return sums if self.bias is None else sums + self.bias[:, None, None]


class Sign(nn.Module):
    """Activation that binarises its input, elementwise.

    Example:
        >>> Sign()(torch.tensor([-0.3, 0.0, 7.0]))
        tensor([-1.,  1.,  1.])
    """

    def __init__(self, quantiser: Quantiser = ste_sign) -> None:
        """Choose the quantiser.

        Args:
            quantiser: Computes the output; its docstring gives the gradient.
        """
        super().__init__()
        self.quantiser = quantiser

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torch.nn)
        """Binarise ``input``, of any shape."""
        return self.quantiser(input)

    def extra_repr(self) -> str:
        """The quantiser, for ``print(model)``."""
        return f"quantiser={_name(self.quantiser)}"


def is_binarised(module: nn.Module) -> bool:
    """Whether ``module`` itself is a layer that binarises its weight.

    Example:
        >>> is_binarised(BinaryLinear(3, 2)), is_binarised(nn.Linear(3, 2)), is_binarised(Sign())
        (True, False, False)
    """
    return isinstance(module, Binarised)


def latent_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The latent weights of all binarised layers in ``model``.

    Args:
        model: Any module; itself a binarised layer, or with such layers somewhere in it.

    Returns:
        The parameters themselves, not copies, under their names in ``model.named_parameters()``.

    Example:
        >>> list(latent_weights(nn.Sequential(BinaryLinear(3, 2), nn.BatchNorm1d(2))))
        ['0.weight']
    """
    latents = {id(module.weight) for module in model.modules() if is_binarised(module)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in latents}


@torch.no_grad()
def clip_latents_(module: nn.Module, bound: float = 1.0) -> None:
    """Clip all latent weights in ``module`` to [-bound, bound], in place.

    After each step of an optimiser this keeps latent weights from drifting to where no gradient reaches them
    [BinaryNet, arXiv 1602.02830]. No sign changes, so the network computes the same.

    Args:
        module: Any module; parameters that are not latent, or require no gradient, are left alone.
        bound: Largest magnitude that stays.

    Raises:
        ValueError: If ``bound`` is not positive and finite.

    Example:
        >>> layer = BinaryLinear(1, 1)
        >>> _ = nn.init.constant_(layer.weight, -3.0)
        >>> clip_latents_(layer)
        >>> layer.weight.item()
        -1.0
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"bound: expected a positive finite number, got {bound}")
    for weight in latent_weights(module).values():
        if weight.requires_grad:
            weight.clamp_(-bound, bound)


@torch.no_grad()
def flip_ratio(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Fraction of binary weights that differ between two sets of latent weights.

    Args:
        before: Latent weights by name, copies of ``latent_weights(model)`` before a step, or their signs.
        after: The same names and shapes, ``latent_weights(model)`` after the step.

    Returns:
        Number of signs that differ over the number of all, from 0 to 1.

    Raises:
        ValueError: If names or shapes differ, or there is no weight at all.

    Example:
        >>> flip_ratio({"w": torch.tensor([0.1, -0.2, 0.3, 0.0])}, {"w": torch.tensor([-0.1, -0.2, 0.3, 0.4])})
        0.25
    """
    if before.keys() != after.keys():
        raise ValueError(
            f"before and after: expected the same names, got {sorted(before.keys() ^ after.keys())} in one alone"
        )
    for name in before:
        if before[name].shape != after[name].shape:
            shapes = f"{list(before[name].shape)} before and {list(after[name].shape)} after"
            raise ValueError(f"'{name}': expected the same shape, got {shapes}")
    size = sum(weight.numel() for weight in before.values())
    if size == 0:
        raise ValueError("expected latent weights, got none: the model has no layer with binarised weights")
    flips = sum(int(torch.count_nonzero(sign(before[name]) != sign(after[name]))) for name in before)
    return flips / size


def _name(quantiser: Quantiser) -> str:
    return getattr(quantiser, "__name__", repr(quantiser))
