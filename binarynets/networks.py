"""Networks with binary weights and activations, in the shapes of ``compare.networks``."""

from collections.abc import Sequence

from torch import nn

from binarynets.layers import BinaryConv2d, BinaryLinear, Sign
from binarynets.quantisers import Quantiser, ste_sign
from compare import networks
from compare.networks import Parts


def parts(*, quantiser: Quantiser = ste_sign, weight_quantiser: Quantiser | None = None) -> Parts:
    """The layers that binary networks are built from.

    Args:
        quantiser: Binarises activations, and weights too unless these have their own.
        weight_quantiser: Binarises weights, for instance ``magnitude_aware_sign``, which is for weights alone.

    Returns:
        Linear maps and convolutions with binary weights and no bias, and the sign as activation.
    """
    of_weights = weight_quantiser or quantiser

    def linear(inputs: int, outputs: int) -> nn.Module:
        return BinaryLinear(inputs, outputs, quantiser=of_weights)

    def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Module:
        return BinaryConv2d(inputs, outputs, kernel, stride=stride, padding=padding, quantiser=of_weights)

    return Parts(linear=linear, convolution=convolution, activation=lambda: Sign(quantiser))


def mlp(
    inputs: int,
    hidden: Sequence[int],
    classes: int,
    *,
    quantiser: Quantiser = ste_sign,
    weight_quantiser: Quantiser | None = None,
) -> nn.Sequential:
    """Binary multilayer perceptron: ``compare.networks.mlp`` tells of arguments and errors, ``parts`` of quantisers.

    Example:
        >>> import torch
        >>> model = mlp(784, [64, 64], 10)
        >>> model(torch.ones(2, 784)).shape
        torch.Size([2, 10])
        >>> model.linear1
        BinaryLinear(in_features=784, out_features=64, bias=False, quantiser=ste_sign)
    """
    return networks.mlp(parts(quantiser=quantiser, weight_quantiser=weight_quantiser), inputs, hidden, classes)


def vgg(
    input_shape: Sequence[int],
    stages: Sequence[Sequence[int]],
    dense: Sequence[int],
    classes: int,
    *,
    quantiser: Quantiser = ste_sign,
    weight_quantiser: Quantiser | None = None,
) -> nn.Sequential:
    """Binary VGG-style network: ``compare.networks.vgg`` tells of arguments and errors, ``parts`` of quantisers.

    Example:
        >>> import torch
        >>> vgg((1, 8, 8), [[4, 4], [8]], [16], 10)(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    own = parts(quantiser=quantiser, weight_quantiser=weight_quantiser)
    return networks.vgg(own, input_shape, stages, dense, classes)


def resnet(
    input_shape: Sequence[int],
    widths: Sequence[int],
    blocks: Sequence[int],
    classes: int,
    *,
    quantiser: Quantiser = ste_sign,
    weight_quantiser: Quantiser | None = None,
) -> nn.Sequential:
    """Binary residual network: ``compare.networks.resnet`` tells of arguments and errors, ``parts`` of quantisers.

    All weights are binary, those of the stem and of the 1x1 convolutions too; the stream between the blocks is real.

    Example:
        >>> import torch
        >>> resnet((3, 8, 8), [4, 8], [1, 1], 10)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    own = parts(quantiser=quantiser, weight_quantiser=weight_quantiser)
    return networks.resnet(own, input_shape, widths, blocks, classes)
