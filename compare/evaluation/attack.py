"""Adversarial inputs: small changes of the inputs, made by gradients, that make networks err (FGSM, PGD)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.data import Data
from compare.errors import CompareError
from compare.evaluation.score import BATCH, Samples
from compare.params import Params, call
from compare.seeds import derived

STEPS = 10

# Of the width of the range: inputs that were normalised may leave it by rounding.
_ROUNDING = 1e-6

# Inputs are 2 p - (largest pixel value): 17 grey levels for the embedded digits, 8 bits for images in files.
_LARGEST = {"digits": 16.0}
_EIGHT_BITS = 255.0


class AttackError(CompareError, ValueError):
    """An attack that makes no sense as asked for."""


@dataclass(frozen=True)
class InputRange:
    """What inputs can be at all.

    Attributes:
        low: Smallest value of each channel, ``[channels, 1, 1]``.
        high: Largest value of each channel, ``[channels, 1, 1]``.
    """

    low: Tensor
    high: Tensor

    @property
    def width(self) -> Tensor:
        """Of each channel's range."""
        return self.high - self.low

    def clamped(self, x: Tensor) -> Tensor:
        """Inputs ``[samples, channels, height, width]``, put back into the range where they leave it."""
        return x.clamp(self.low.to(x), self.high.to(x))

    def holds(self, x: Tensor) -> bool:
        """Whether inputs ``[samples, channels, height, width]`` lie in the range, to rounding."""
        beyond = _ROUNDING * self.width.to(x)
        return bool(((x >= self.low.to(x) - beyond) & (x <= self.high.to(x) + beyond)).all())


@dataclass(frozen=True, eq=False)
class Attacked:
    """Samples whose inputs were changed.

    Attributes:
        x: Changed inputs.
        y: The classes, as they were.
        radius: The largest change allowed, as a fraction of the range.
        furthest: The largest change made, as a fraction of the range.
    """

    x: Tensor
    y: Tensor
    radius: float
    furthest: float


def input_range(data: Data) -> InputRange:
    """The range of a data set's inputs, by what they are: 2 p - (largest pixel value), so for 8 bits -255 to 255.

    It is the range of possible pixels, the same for each channel, not that of the pixels that occur.

    Args:
        data: A data set of ``compare.load_data``.

    Returns:
        The range of each channel.

    Raises:
        AttackError: If some input lies outside, so that this is another kind of data.

    Example:
        >>> import compare
        >>> input_range(compare.load_data("digits")).high.flatten()
        tensor([16.])
    """
    largest = _LARGEST.get(data.name, _EIGHT_BITS)
    for split in (data.train, data.test):
        if float(split.x.abs().max()) > largest:
            raise AttackError(
                f"{data.name}: expected inputs from {-largest:g} to {largest:g} (2 p - largest pixel), got "
                f"{float(split.x.min()):g} to {float(split.x.max()):g}: make an InputRange of your own"
            )
    shape = (data.input_shape[0], 1, 1)
    return InputRange(torch.full(shape, -largest), torch.full(shape, largest))


def fgsm(
    model: nn.Module,
    networks: Sequence[Params],
    samples: Samples,
    radius: float,
    *,
    within: InputRange,
    batch: int = BATCH,
) -> Attacked:
    """One step of length ``radius`` along the sign of the loss's gradient, untargeted, L-infinity [FGSM].

    Args:
        model: In evaluation mode; not changed.
        networks: Those attacked, parameters and buffers by name: the gradient is that of the mean over them of the
            cross-entropy, so that several are attacked in expectation [EOT]. One is the plain attack.
        samples: Inputs in the range, and classes; not changed.
        radius: Of the ball around each input, as a fraction of the width of the range.
        within: The range that inputs keep to.
        batch: Samples at a time; changes memory and speed alone.

    Returns:
        The changed inputs. Where the gradient is 0, the input is not changed.

    Raises:
        AttackError: For arguments that make no sense, inputs outside the range, or a loss that is not finite.

    References:
        [FGSM]: Goodfellow et al., ICLR 2015, arXiv 1412.6572. [EOT]: Athalye et al., ICML 2018, arXiv 1707.07397.
    """
    working = _checked(model, networks, samples, radius, within, batch)

    def step(x: Tensor, y: Tensor) -> Tensor:
        _, gradient = _slope(working, networks, x, y)
        return within.clamped(x + radius * within.width.to(x) * gradient.sign())

    return _attacked(samples, [step(x, y) for x, y in _parts(samples, batch)], radius, within)


def pgd(
    model: nn.Module,
    networks: Sequence[Params],
    samples: Samples,
    radius: float,
    *,
    within: InputRange,
    steps: int = STEPS,
    seed: int = 0,
    batch: int = BATCH,
) -> Attacked:
    """Steps along the sign of the loss's gradient, put back into the ball and the range each time [PGD].

    The start is uniform in the ball; steps are ``2.5 radius / steps`` long. Of all points on the way, the start and the
    input itself among them, each sample keeps the one with the largest loss.

    Args:
        model: In evaluation mode; not changed.
        networks: Those attacked, in expectation, see ``fgsm``.
        samples: Inputs in the range, and classes; not changed.
        radius: Of the ball around each input, as a fraction of the width of the range.
        within: The range that inputs keep to.
        steps: Gradient steps.
        seed: Of the start.
        batch: Samples at a time; changes memory and speed, and the start.

    Returns:
        The changed inputs.

    Raises:
        AttackError: For arguments that make no sense, inputs outside the range, or a loss that is not finite.

    References:
        [PGD]: Madry et al., ICLR 2018, arXiv 1706.06083.
    """
    working = _checked(model, networks, samples, radius, within, batch)
    if steps < 1:
        raise AttackError(f"steps: expected a positive number, got {steps}")
    generator = torch.Generator().manual_seed(derived(seed, "pgd"))
    found = [_climbed(working, networks, x, y, radius, within, steps, generator) for x, y in _parts(samples, batch)]
    return _attacked(samples, found, radius, within)


def _climbed(
    model: nn.Module,
    networks: Sequence[Params],
    x: Tensor,
    y: Tensor,
    radius: float,
    within: InputRange,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    ball = radius * within.width.to(x)
    best, highest = x, _slope(model, networks, x, y)[0]
    noise = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x) - 1
    point = within.clamped(x + ball * noise)
    for step in range(steps + 1):
        loss, gradient = _slope(model, networks, point, y)
        higher = loss > highest
        best = torch.where(higher.view(-1, *[1] * (x.ndim - 1)), point, best)
        highest = torch.where(higher, loss, highest)
        if step < steps:
            moved = point + 2.5 / steps * ball * gradient.sign()
            point = within.clamped(torch.minimum(torch.maximum(moved, x - ball), x + ball))
    return best


def _slope(model: nn.Module, networks: Sequence[Params], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's mean loss over the networks, and its gradient in the input."""
    total, gradient = torch.zeros(len(x), dtype=torch.float64), torch.zeros_like(x)
    for params in networks:  # one after the other: memory of one graph at a time
        leaf = x.detach().clone().requires_grad_()
        losses = F.cross_entropy(call(model, params, leaf), y, reduction="none")
        if not losses.requires_grad:
            raise AttackError("no gradient reaches the inputs: expected a network that depends on them with gradients")
        gradient += torch.autograd.grad(losses.sum(), leaf)[0] / len(networks)
        total += losses.detach().double().cpu() / len(networks)
    if not bool(torch.isfinite(total).all() and torch.isfinite(gradient).all()):
        raise AttackError("loss: expected it and its gradient finite on all samples, got NaN or infinite ones")
    return total.to(x.device), gradient


def _parts(samples: Samples, batch: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(samples.x, batch), torch.split(samples.y, batch), strict=True))


def _attacked(samples: Samples, parts: Sequence[Tensor], radius: float, within: InputRange) -> Attacked:
    x = torch.cat(list(parts))
    furthest = float(((x - samples.x).abs() / within.width.to(x)).max())
    return Attacked(x, samples.y, float(radius), furthest)


def _checked(
    model: nn.Module, networks: Sequence[Params], samples: Samples, radius: float, within: InputRange, batch: int
) -> nn.Module:
    """A copy whose own parameters need no gradients, which would cost half the time."""
    if not networks:
        raise AttackError("networks: expected one or more, got none")
    if len(samples.y) == 0:
        raise AttackError("samples: expected at least one, got none")
    if not 0 < radius < math.inf:
        raise AttackError(f"radius: expected a positive finite fraction of the range, got {radius}")
    if batch < 1:
        raise AttackError(f"batch: expected a positive number of samples, got {batch}")
    if not within.holds(samples.x):
        raise AttackError(
            f"samples: expected inputs in the range, here {float(within.low.min()):g} to {float(within.high.max()):g}, "
            f"got {float(samples.x.min()):g} to {float(samples.x.max()):g}: give the range of these inputs"
        )
    if model.training:
        raise AttackError("model: expected one in evaluation mode, call model.eval() first")
    return copy.deepcopy(model).requires_grad_(False)
