"""Full-precision networks with ReLU, in the shapes of ``compare.networks``."""

from collections.abc import Sequence

from torch import nn

from compare import networks
from compare.networks import Parts


def parts() -> Parts:
    """The layers that full-precision networks are built from: linear maps and convolutions without bias, and ReLU."""

    def linear(inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs, bias=False)

    def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)

    return Parts(linear=linear, convolution=convolution, activation=nn.ReLU)


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """Full-precision multilayer perceptron: ``compare.networks.mlp`` tells of arguments and errors.

    Example:
        >>> import torch
        >>> mlp(784, [64, 64], 10)(torch.ones(2, 784)).shape
        torch.Size([2, 10])
    """
    return networks.mlp(parts(), inputs, hidden, classes)


def vgg(
    input_shape: Sequence[int], stages: Sequence[Sequence[int]], dense: Sequence[int], classes: int
) -> nn.Sequential:
    """Full-precision VGG-style network: ``compare.networks.vgg`` tells of arguments and errors.

    Example:
        >>> import torch
        >>> vgg((1, 8, 8), [[4, 4], [8]], [16], 10)(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return networks.vgg(parts(), input_shape, stages, dense, classes)


def resnet(input_shape: Sequence[int], widths: Sequence[int], blocks: Sequence[int], classes: int) -> nn.Sequential:
    """Full-precision residual network: ``compare.networks.resnet`` tells of arguments and errors.

    Example:
        >>> import torch
        >>> resnet((3, 8, 8), [4, 8], [1, 1], 10)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return networks.resnet(parts(), input_shape, widths, blocks, classes)
