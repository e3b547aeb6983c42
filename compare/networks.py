"""The shapes of the networks, once for all precisions: a precision supplies the parts they are built from."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from compare.errors import CompareError


class ShapeError(CompareError, ValueError):
    """Sizes that make no network."""


@dataclass(frozen=True)
class Parts:
    """What a precision supplies to build networks from.

    Attributes:
        linear: Makes a linear map without bias from the sizes of input and output.
        convolution: Makes a convolution without bias from input channels, output channels, width of the square kernel,
            stride and padding, in this order.
        activation: Makes an elementwise activation.
    """

    linear: Callable[[int, int], nn.Module]
    convolution: Callable[[int, int, int, int, int], nn.Module]
    activation: Callable[[], nn.Module]


def mlp(parts: Parts, inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """Multilayer perceptron: linear, batch normalisation, activation for each hidden layer, then linear, normalisation.

    Args:
        parts: The layers of a precision.
        inputs: Numbers in one sample, whatever its shape: 784 for ``[batch, 784]`` and for ``[batch, 1, 28, 28]``.
        hidden: Units of each hidden layer; none makes a linear classifier.
        classes: Number of classes.

    Returns:
        A network from ``[batch, ...]`` to ``[batch, classes]``.

    Raises:
        ShapeError: If a size is not a positive integer.

    Example:
        >>> mlp(Parts(nn.Linear, nn.Conv2d, nn.ReLU), 4, [3], 2)
        Sequential(
          (flatten): Flatten(start_dim=1, end_dim=-1)
          (linear1): Linear(in_features=4, out_features=3, bias=True)
          (norm1): BatchNorm1d(3, ...)
          (activation1): ReLU()
          (linear2): Linear(in_features=3, out_features=2, bias=True)
          (norm2): BatchNorm1d(2, ...)
        )
    """
    _check(inputs=inputs, classes=classes)
    _check_each(hidden=hidden)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), **_dense(parts, [inputs, *hidden, classes])))


def vgg(
    parts: Parts, input_shape: Sequence[int], stages: Sequence[Sequence[int]], dense: Sequence[int], classes: int
) -> nn.Sequential:
    """VGG-style network: stages of 3x3 convolutions that each end in 2x2 max pooling, then dense layers.

    A convolution is followed by batch normalisation and activation. The pooling comes *before* these two, so that in a
    binary network it compares sums instead of signs.

    Args:
        parts: The layers of a precision.
        input_shape: ``(channels, height, width)`` of one sample.
        stages: Channels of the convolutions of each stage, such as ``[[64, 64], [128, 128]]``.
        dense: Units of each hidden dense layer; may be empty.
        classes: Number of classes.

    Returns:
        A network from ``[batch, channels, height, width]`` to ``[batch, classes]``.

    Raises:
        ShapeError: If a size is not a positive integer, there is no stage, or the image is too small for the poolings.
    """
    channels, height, width = _checked_shape(input_shape)
    _check_stages(stages)
    _check_each(dense=dense)
    _check(classes=classes)
    _check_image(height, width, halvings=len(stages))
    modules: dict[str, nn.Module] = {}
    for s, stage in enumerate(stages, start=1):
        modules |= _stage(parts, s, [channels, *stage])
        channels = stage[-1]
    features = channels * (height >> len(stages)) * (width >> len(stages))
    modules["flatten"] = nn.Flatten()
    return nn.Sequential(OrderedDict(modules | _dense(parts, [features, *dense, classes])))


def resnet(
    parts: Parts, input_shape: Sequence[int], widths: Sequence[int], blocks: Sequence[int], classes: int
) -> nn.Sequential:
    """Residual network whose stream of values is real, as in Bi-Real Net (Liu et al., ECCV 2018, arXiv 1808.00278).

    A 3x3 convolution with normalisation makes the stream. Each block adds ``norm(convolution(activation(x)))`` to it
    twice. Where a new width begins, the image is halved: the convolution has stride 2, and the stream takes 2x2 average
    pooling, 1x1 convolution and normalisation. The head is activation, mean over the image, linear, normalisation.

    Args:
        parts: The layers of a precision.
        input_shape: ``(channels, height, width)`` of one sample.
        widths: Channels of the stream, one width after the other.
        blocks: Number of blocks at each width.
        classes: Number of classes.

    Returns:
        A network from ``[batch, channels, height, width]`` to ``[batch, classes]``.

    Raises:
        ShapeError: If a size is not a positive integer, there is no width, ``blocks`` does not give one number for each
            width, or the image is too small to be halved at each new width.
    """
    channels, height, width = _checked_shape(input_shape)
    _check_each(widths=widths, blocks=blocks)
    _check(classes=classes)
    if not widths or len(blocks) != len(widths):
        raise ShapeError(
            "widths and blocks: expected at least one width and one number of blocks for each, "
            f"got {len(widths)} widths and {len(blocks)} blocks"
        )
    _check_image(height, width, halvings=len(widths) - 1)
    stem = _normalised(parts.convolution(channels, widths[0], 3, 1, 1), widths[0])
    modules: dict[str, nn.Module] = {"stem": stem}
    for w, (before, after) in enumerate(pairwise([widths[0], *widths]), start=1):
        modules |= _blocks(parts, w, before, after, count=blocks[w - 1])
    modules["activation"] = parts.activation()
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    return nn.Sequential(OrderedDict(modules | _dense(parts, [widths[-1], classes])))


class Residual(nn.Module):
    """The sum of two ways from the same input."""

    def __init__(self, shortcut: nn.Module, body: nn.Module) -> None:
        """Join two ways.

        Args:
            shortcut: The way of the stream.
            body: What is added to it.
        """
        super().__init__()
        self.shortcut = shortcut
        self.body = body

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torch.nn)
        """``shortcut(input) + body(input)``."""
        total: Tensor = self.shortcut(input) + self.body(input)
        return total


def _dense(parts: Parts, sizes: Sequence[int]) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    for i, (before, after) in enumerate(pairwise(sizes), start=1):
        modules[f"linear{i}"] = parts.linear(before, after)
        modules[f"norm{i}"] = nn.BatchNorm1d(after)
        modules[f"activation{i}"] = parts.activation()
    del modules[f"activation{len(sizes) - 1}"]
    return modules


def _stage(parts: Parts, s: int, channels: Sequence[int]) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    for i, (before, after) in enumerate(pairwise(channels), start=1):
        modules[f"convolution{s}_{i}"] = parts.convolution(before, after, 3, 1, 1)
        if i == len(channels) - 1:
            modules[f"pool{s}"] = nn.MaxPool2d(2)
        modules[f"norm{s}_{i}"] = nn.BatchNorm2d(after)
        modules[f"activation{s}_{i}"] = parts.activation()
    return modules


def _blocks(parts: Parts, w: int, before: int, after: int, *, count: int) -> dict[str, nn.Module]:
    first = _residual(parts, after) if w == 1 else _halving_residual(parts, before, after)
    residuals = [first, *(_residual(parts, after) for _ in range(2 * count - 1))]
    return {f"residual{w}_{i}": residual for i, residual in enumerate(residuals, start=1)}


def _residual(parts: Parts, channels: int) -> Residual:
    convolution = parts.convolution(channels, channels, 3, 1, 1)
    return Residual(nn.Identity(), _normalised(convolution, channels, activation=parts.activation()))


def _halving_residual(parts: Parts, before: int, after: int) -> Residual:
    # The pooling rounds an odd size up, as the convolution of stride 2 does.
    pool = nn.AvgPool2d(2, ceil_mode=True)
    shortcut = _normalised(parts.convolution(before, after, 1, 1, 0), after, pool=pool)
    body = _normalised(parts.convolution(before, after, 3, 2, 1), after, activation=parts.activation())
    return Residual(shortcut, body)


def _normalised(convolution: nn.Module, channels: int, **before: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(**before, convolution=convolution, norm=nn.BatchNorm2d(channels)))


def _check(**sizes: Any) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ShapeError(f"{name}: expected a positive integer, got {size!r}")


def _check_each(**lists: Any) -> None:
    for name, sizes in lists.items():
        if not isinstance(sizes, Sequence) or isinstance(sizes, str):
            raise ShapeError(f"{name}: expected a list of positive integers, got {sizes!r}")
        for i, size in enumerate(sizes):
            _check(**{f"{name}[{i}]": size})


def _checked_shape(input_shape: Sequence[int]) -> Sequence[int]:
    _check_each(input_shape=input_shape)
    if len(input_shape) != 3:
        raise ShapeError(f"input_shape: expected (channels, height, width), got {tuple(input_shape)}")
    return input_shape


def _check_stages(stages: Any) -> None:
    if not isinstance(stages, Sequence) or not stages:
        raise ShapeError(f"stages: expected a list of stages such as [[64, 64], [128, 128]], got {stages!r}")
    for i, stage in enumerate(stages):
        _check_each(**{f"stages[{i}]": stage})
        if not stage:
            raise ShapeError(f"stages[{i}]: expected the channels of at least one convolution, got none")


def _check_image(height: int, width: int, *, halvings: int) -> None:
    if min(height, width) < 2**halvings:
        raise ShapeError(
            f"input_shape: an image of {height} x {width} is too small to be halved {halvings} times: "
            f"expected at least {2**halvings} x {2**halvings}, or fewer stages or widths"
        )
