"""A binary multilayer perceptron along a path: its layers by name, and its thresholds on a grid of times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binarynets.integer.affine import LIMIT, Affine, folded
from binarynets.integer.plan import Plan, Scaling
from binarynets.landscape.dense import Thresholds
from binarynets.landscape.flips import Floats, Ints
from compare.params import Params, lerp


@dataclass(frozen=True)
class Perceptron:
    """Layers of a network that is a chain of linear maps with signs between them.

    Attributes:
        weights: Latent weights by name, the classes' last.
        scalings: What follows each.
    """

    weights: tuple[str, ...]
    scalings: tuple[Scaling, ...]

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of biases and of everything that normalisation computes with."""
        return tuple(
            name
            for scaling in self.scalings
            for name in (scaling.bias, scaling.mean, scaling.variance, scaling.gain, scaling.offset)
            if name is not None
        )


def perceptron(plan: Plan) -> Perceptron | None:
    """The layers of a chain with at least one hidden layer, None for any other network."""
    layers = plan.layers
    if layers is None or len(layers) < 2:
        return None
    return Perceptron(tuple(layer.linear.weight for layer in layers), tuple(layer.decision.scaling for layer in layers))


@dataclass(frozen=True, eq=False)
class Scales:
    """Thresholds of the hidden layers and gains of the last, at each point of a grid.

    Attributes:
        thresholds: For each hidden layer.
        outputs: For each point of the grid.
    """

    thresholds: tuple[Thresholds, ...]
    outputs: tuple[Affine, ...]


def interpolated(network: Perceptron, a: Params, b: Params, grid: Floats) -> Scales:
    """Scales as a path has them: the parameters behind them run straight.

    Args:
        network: The layers.
        a: Parameters of the first network.
        b: Of the second.
        grid: Times.

    Returns:
        The scales at each of them.
    """
    ends = [{name: end[name] for name in network.scales} for end in (a, b)]
    # The ends themselves, exactly, as a path has them.
    steps = [ends[int(t)] if t in (0, 1) else lerp(ends[0], ends[1], float(t)) for t in grid]
    affines = _affines(network, steps, a)
    return Scales(tuple(Thresholds(*_numpy(*affine.thresholds())) for affine in affines[:-1]), _each(affines[-1]))


def between_knots(network: Perceptron, knots: Floats, found: Sequence[Params], grid: Floats) -> Scales:
    """Scales that are known at knots; between them thresholds, and gains of the last layer, run straight.

    Args:
        network: The layers.
        knots: Increasing times from 0 to 1, all of them in ``grid``.
        found: Parameters at each knot, with the statistics that hold there.
        grid: Times.

    Returns:
        The scales at each point of the grid; at knots those of the very network.
    """
    affines = _affines(network, found, found[0])
    before = np.clip(np.searchsorted(knots, grid, side="right") - 1, 0, len(knots) - 2)
    part = (grid - knots[before]) / (knots[before + 1] - knots[before])
    hidden = tuple(_straight_thresholds(affine, before, part) for affine in affines[:-1])
    outputs = tuple(_straight(affines[-1], int(k), float(s)) for k, s in zip(before, part, strict=True))
    return Scales(hidden, outputs)


def _affines(network: Perceptron, steps: Sequence[Params], like: Params) -> list[Affine]:
    """For each layer gains and offsets ``[steps, units]``."""
    stacked = {name: torch.stack([step[name] for step in steps]) for name in network.scales}
    layers = zip(network.scalings, network.weights, strict=True)
    return [
        folded(scaling, stacked, len(like[weight]), dtype=like[weight].dtype, steps=(len(steps),))
        for scaling, weight in layers
    ]


def _straight_thresholds(affine: Affine, before: Ints, part: Floats) -> Thresholds:
    limit, negated = _numpy(*affine.thresholds())
    real = affine.real_thresholds().numpy()
    here, there = before, before + 1
    tau = (1 - part[:, None]) * real[here] + part[:, None] * real[there]
    # On where x >= tau; negated units where x <= tau.
    moved = np.where(negated[here], np.floor(tau) + 1, np.ceil(tau))
    nearest = np.where(part < 0.5, here, there)
    # A gain that changes sign, or is 0, has its threshold beyond all bounds on the way: the nearer knot's is taken.
    exact = np.isin(part, (0, 1))[:, None] | (negated[here] != negated[there]) | ~np.isfinite(moved)
    bounded = np.clip(np.where(exact, 0, moved), -LIMIT, LIMIT).astype(np.int64)
    return Thresholds(np.where(exact, limit[nearest], bounded), negated[nearest])


def _straight(affine: Affine, knot: int, part: float) -> Affine:
    tensors = (affine.gain, affine.offset, affine.shift)
    gain, offset, shift = (None if x is None else torch.lerp(x[knot], x[knot + 1], part) for x in tensors)
    assert gain is not None
    assert offset is not None
    return Affine(gain, offset, shift)


def _each(affine: Affine) -> tuple[Affine, ...]:
    shifts = affine.gain if affine.shift is None else affine.shift
    return tuple(
        Affine(gain, offset, None if affine.shift is None else shift)
        for gain, offset, shift in zip(affine.gain, affine.offset, shifts, strict=True)
    )


def _numpy(limit: Tensor, negated: Tensor) -> tuple[Ints, npt.NDArray[np.bool_]]:
    return limit.numpy(), negated.numpy()
