"""Sharpness: the worst that is found within a ball around one network, of weights or of bits."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from compare.errors import CompareError
from compare.evaluation.energy import check_names
from compare.evaluation.score import BATCH, Samples, evaluate
from compare.params import Params, call, sign
from compare.seeds import derived

STEPS = 10
RESTARTS = 1

# Latents of this size, so near 0 that the surrogate gradients of all quantisers have one slope at all of them.
_NEAR_ZERO = 2.0**-20

_Slope: TypeAlias = Callable[[Params], tuple[float, Params]]


class SharpnessError(CompareError, ValueError):
    """A sharpness that makes no sense as asked for."""


@dataclass(frozen=True)
class Sharpness:
    """The worst network found in a ball around one network.

    A search finds a lower bound: the true maximum may be larger, and two networks can only be compared when they were
    searched in the same way.

    Attributes:
        ball: ``"weights"``: see ``sharpness``; ``"bits"``: see ``flip_sharpness``.
        radius: Of the ball: root mean square of z, or a fraction of the bits.
        error: Fraction of misclassified samples of the network itself.
        loss: Its mean cross-entropy, nats.
        worst_error: Fraction of misclassified samples of the worst network: that of the largest loss found, which need
            not have the largest error.
        worst_loss: Its mean cross-entropy, never below ``loss``.
        distance: How far it is from the centre, in the unit of ``radius``; 0 where nothing worse was found.
        steps: Gradient steps from each start.
        restarts: Random starts beside the network itself.
        samples: Number of samples each is counted on.
        surrogate: A straight-through gradient led the search. Losses and errors are the network's own all the same.
    """

    ball: Literal["weights", "bits"]
    radius: float
    error: float
    loss: float
    worst_error: float
    worst_loss: float
    distance: float
    steps: int
    restarts: int
    samples: int
    surrogate: bool


def sharpness(
    model: nn.Module,
    params: Params,
    samples: Samples,
    radius: float,
    *,
    names: Iterable[str],
    surrogate: bool,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    seed: int = 0,
    batch: int = BATCH,
) -> Sharpness:
    """The largest loss over weights w (1 + z) with root mean square of z at most ``radius``, and the error there.

    The ball is [SAM]'s, measured in fractions of each weight as in [ASAM]: factors on rows and columns that the
    function does not depend on do not change it. It is the worst case of what ``local_energy`` takes the mean of: noise
    of that sigma has this root mean square. [ASAM] trains with norms of z of 0.5 to 2, a root mean square of about
    0.001 for a million weights. Normalisation statistics stay as they are.

    Projected gradient ascent from the network itself and from random points of the sphere: steps of ``2.5 radius /
    steps`` along the gradient's direction (one step goes to the sphere at once, as SAM does), put back onto the sphere
    where they leave the ball. The largest loss on the way counts.

    For weights of which only the sign counts, this search leaves most of the ball unseen: use ``flip_sharpness``.

    Args:
        model: The network; not changed, evaluated in evaluation mode. A Brevitas model itself, not what stands for it.
        params: Parameters and buffers by name; not changed.
        samples: Inputs and classes, for instance a part of ``data.train``.
        radius: Root mean square of z over all entries of the tensors together.
        names: Tensors of ``params`` that move, for instance the weights of ``graph.layers``.
        surrogate: Whether some function between these and the loss is a step function with a gradient of its own:
            ``graph.straight_through``.
        steps: Gradient steps from each start.
        restarts: Random starts beside the network itself.
        seed: Of the random starts.
        batch: Samples at a time; changes memory and speed, and results by rounding alone.

    Returns:
        The worst network's loss and error, beside the network's own.

    Raises:
        SharpnessError: For arguments that make no sense, or if no gradient reaches the tensors.

    References:
        [SAM]: Foret et al., ICLR 2021, arXiv 2010.01412. [ASAM]: Kwon et al., ICML 2021, arXiv 2102.11600. Steps: Madry
        et al., ICLR 2018, arXiv 1706.06083.
    """
    chosen = sorted(set(names))
    _check(params, samples, chosen, steps, restarts)
    if not 0 < radius < math.inf:
        raise SharpnessError(f"radius: expected a positive finite number, got {radius}")
    working = copy.deepcopy(model).eval()

    def at(z: Params) -> Params:
        return {**params, **{name: params[name] * (1 + z[name]) for name in chosen}}

    slope = _slope(working, at, samples, batch)
    centre = {name: torch.zeros_like(params[name]) for name in chosen}
    starts = [centre, *_starts(centre, radius, restarts, derived(seed, "sharpness"))]
    points = (point for start in starts for point in _ascent(slope, start, radius, steps))
    worst = max(points, key=lambda point: point[0])[1]
    return _measured(
        working,
        params,
        at(worst),
        samples,
        batch,
        ball="weights",
        radius=float(radius),
        distance=_size(worst),
        steps=steps,
        restarts=restarts,
        surrogate=surrogate,
    )


def flip_sharpness(
    model: nn.Module,
    params: Params,
    samples: Samples,
    fraction: float,
    *,
    names: Iterable[str],
    steps: int = STEPS,
    batch: int = BATCH,
) -> Sharpness:
    """The largest loss found with at most ``fraction`` of the bits flipped, and the error there.

    The worst case of what ``binarynets.flip_robustness`` takes the mean of. In each of the steps the straight-through
    gradient tells by how much each flip would raise the loss, to first order, and an equal share of the allowed flips
    goes to the bits of the largest rise that are not flipped yet: the progressive search of [BFA], over all tensors
    together. The largest loss on the way counts. Only signs of latent weights matter, not their sizes.

    Args:
        model: The network; not changed, evaluated in evaluation mode. A Brevitas model itself, not what stands for it.
        params: Parameters and buffers by name; not changed.
        samples: Inputs and classes, for instance a part of ``data.train``.
        fraction: Of all bits, from 0 to 1; ``fraction * bits`` is rounded to a whole number of flips.
        names: Latent weights of which the network uses the signs alone: ``graph.binarised``.
        steps: Gradients taken; flips are shared out among them.
        batch: Samples at a time; changes memory and speed, and results by rounding alone.

    Returns:
        The worst network's loss and error, beside the network's own, labelled ``surrogate``.

    Raises:
        SharpnessError: For arguments that make no sense, if no gradient reaches the tensors, or if more than the signs
            of one of them counts.

    References:
        [BFA]: Rakin, He, Fan, Bit-Flip Attack: crushing neural network with progressive bit search, ICCV 2019, arXiv
        1903.12269.
    """
    chosen = sorted(set(names))
    _check(params, samples, chosen, steps, 0)
    if not 0 < fraction <= 1:
        raise SharpnessError(f"fraction: expected a number above 0, at most 1, got {fraction}")
    working = copy.deepcopy(model).eval()

    def at(latents: Params) -> Params:
        return {**params, **latents}

    own = {name: sign(params[name]) * _NEAR_ZERO for name in chosen}
    _check_bits(working, params, at(own), samples, chosen)
    bits = sum(latent.numel() for latent in own.values())
    shares = _shares(round(fraction * bits), steps)
    points = _flipping(_slope(working, at, samples, batch), own, shares)
    worst = max(points, key=lambda point: point[0])[1]
    flipped = sum(int((worst[name] != own[name]).sum()) for name in chosen)
    return _measured(
        working,
        params,
        at(worst),
        samples,
        batch,
        ball="bits",
        radius=float(fraction),
        distance=flipped / bits,
        steps=steps,
        restarts=0,
        surrogate=True,
    )


def _check(params: Params, samples: Samples, names: Sequence[str], steps: int, restarts: int) -> None:
    check_names(params, names, SharpnessError)
    if len(samples.y) == 0:
        raise SharpnessError("samples: expected at least one, got none")
    if steps < 1:
        raise SharpnessError(f"steps: expected a positive number, got {steps}")
    if restarts < 0:
        raise SharpnessError(f"restarts: expected 0 or more, got {restarts}")


@torch.no_grad()
def _check_bits(model: nn.Module, params: Params, signs: Params, samples: Samples, names: Sequence[str]) -> None:
    x = samples.x[:100]
    if not torch.equal(call(model, params, x), call(model, signs, x)):
        raise SharpnessError(
            "names: expected latent weights of which the network uses the signs alone (graph.binarised); it changes "
            f"with the sizes of {', '.join(names)}"
        )


def _slope(model: nn.Module, at: Callable[[Params], Params], samples: Samples, batch: int) -> _Slope:
    """The mean cross-entropy at a point, and its gradient there."""
    parts = list(zip(torch.split(samples.x, batch), torch.split(samples.y, batch), strict=True))

    def slope(point: Params) -> tuple[float, Params]:
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in point.items()}
        total, gradient = 0.0, {name: torch.zeros_like(tensor) for name, tensor in point.items()}
        for x, y in parts:
            loss = F.cross_entropy(call(model, at(leaves), x), y) * (len(y) / len(samples.y))
            if not loss.requires_grad:
                raise SharpnessError(
                    "no gradient reaches the tensors in names: expected some that the loss depends on, through "
                    "functions that have a gradient (a quantiser may have none)"
                )
            found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            gradient = {name: gradient[name] + part for name, part in zip(leaves, found, strict=True)}
            total += float(loss.detach())
        return total, gradient

    return slope


def _ascent(slope: _Slope, start: Params, radius: float, steps: int) -> Iterator[tuple[float, Params]]:
    """Losses with their points, from the start on."""
    z, length = start, radius * min(1.0, 2.5 / steps)
    for _ in range(steps):
        loss, gradient = slope(z)
        yield loss, z
        step = _resized(gradient, length)
        z = {name: z[name] + step[name] for name in z}
        if _size(z) > radius:
            z = _resized(z, radius)
    yield slope(z)[0], z


def _starts(centre: Params, radius: float, restarts: int, seed: int) -> Iterator[Params]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(restarts):
        drawn = {name: torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z) for name, z in centre.items()}
        yield _resized(drawn, radius)


def _size(z: Params) -> float:
    """Root mean square over all entries together."""
    squares = math.fsum(float(part.double().square().sum()) for part in z.values())
    return math.sqrt(squares / sum(part.numel() for part in z.values()))


def _resized(z: Params, size: float) -> Params:
    own = _size(z)
    return {name: part * (size / own) if own else part for name, part in z.items()}


def _shares(flips: int, steps: int) -> list[int]:
    """So many flips in each step; all of them together are ``flips``."""
    return [flips * (step + 1) // steps - flips * step // steps for step in range(steps)]


def _flipping(slope: _Slope, own: Params, shares: Sequence[int]) -> Iterator[tuple[float, Params]]:
    """Losses with their latents, from the network itself on."""
    latents = own
    for share in shares:
        loss, gradient = slope(latents)
        yield loss, latents
        # A flip moves a latent by -2 times itself; those that are flipped already stay so.
        rises = [(-gradient[name] * own[name]).masked_fill(latents[name] != own[name], -math.inf) for name in own]
        chosen = torch.cat([rise.flatten() for rise in rises]).topk(share).indices
        factor = torch.ones(sum(rise.numel() for rise in rises)).index_fill(0, chosen.cpu(), -1.0)
        pieces = torch.split(factor, [rise.numel() for rise in rises])
        latents = {
            name: latents[name] * piece.view_as(latents[name]).to(latents[name])
            for name, piece in zip(own, pieces, strict=True)
        }
    yield slope(latents)[0], latents


def _measured(
    model: nn.Module,
    params: Params,
    worst: Params,
    samples: Samples,
    batch: int,
    *,
    ball: Literal["weights", "bits"],
    radius: float,
    distance: float,
    steps: int,
    restarts: int,
    surrogate: bool,
) -> Sharpness:
    own, found = (evaluate(model, candidate, samples, batch=batch) for candidate in (params, worst))
    # Losses that guided the search are rounded to single precision; the centre is in the ball, too.
    if found.loss <= own.loss:
        found, distance = own, 0.0
    return Sharpness(
        ball=ball,
        radius=radius,
        error=own.error,
        loss=own.loss,
        worst_error=found.error,
        worst_loss=found.loss,
        distance=distance,
        steps=steps,
        restarts=restarts,
        samples=own.samples,
        surrogate=surrogate,
    )
