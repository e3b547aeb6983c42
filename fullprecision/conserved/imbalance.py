"""What a quantity's value does to training: networks of one function that differ in it, and descend from one loss.

Scaling a network's weights changes the quantity, but the function and the loss, too. Elements of a block's group change
the quantity alone, so what differs afterwards is due to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import nn

from compare.evaluation import curvature
from compare.evaluation.score import Samples
from compare.params import Params, call
from compare.symmetry.element import Element, entries, identity
from compare.symmetry.graph import Graph
from fullprecision.conserved.errors import ConservedError
from fullprecision.conserved.quantity import Quantity

Arm: TypeAlias = Literal["same function", "initial scale"]


@dataclass(frozen=True)
class Imbalanced:
    """One start and what became of it.

    Attributes:
        exponent: c: incoming weights and biases times e^c; outgoing weights times e^-c, or left alone.
        value: Mean of the quantity over the units, at the start.
        loss: Mean cross-entropy at the start, nats.
        rate: Fall of the logarithm of the loss over the given time, divided by it.
        first_eigenvalue: Largest of the Hessian in all parameters, at the start.
        last_eigenvalue: The same where the loss is first at or below the target; None if it was not reached.
        steps: Until there; None likewise.
    """

    exponent: float
    value: float
    loss: float
    rate: float
    first_eigenvalue: float
    last_eigenvalue: float | None
    steps: int | None


def scaled(graph: Graph, params: Params, exponent: float) -> Params:
    """The same function, its first block's units scaled by e^exponent: incoming weights up, outgoing weights down.

    Args:
        graph: The network's symmetries; its first block admits a positive scale.
        params: Parameters by name.
        exponent: Logarithm of the factor.

    Returns:
        New parameters.

    Raises:
        ConservedError: If the first block admits no positive scale.
    """
    first, place = identity(graph), _scale(graph)
    diagonals = [diagonal.clone() for diagonal in first.diagonals]
    diagonals[0][place] *= math.exp(exponent)
    return Element(graph, first.permutations, tuple(diagonals)).apply(params)


def _scale(graph: Graph) -> int:
    """Which generator of the first block is its first positive scale."""
    place = next((i for i, g in enumerate(graph.blocks[0].generators) if g.kind == "scale"), None)
    if place is None:
        raise ConservedError(
            f"expected a first block that may be scaled, as with ReLU; '{graph.blocks[0].name}' may not be"
        )
    return place


def balanced_exponent(graph: Graph, model: nn.Module, params: Params, samples: Samples) -> float:
    """Where on the orbit the loss begins to fall most slowly.

    At exponent c the gradient in a tie of exponent e is that at c = 0 times e^(-e c). So the loss falls at the rate
    A e^(2c) + B e^(-2c) + C, A and B the squared gradients in outgoing and incoming weights at c = 0 where exponents
    are -1 and 1, C that in all others: least at c = log(B / A) / 4, the same to either side.

    Args:
        graph: The network's symmetries; its first block admits a positive scale.
        model: The network.
        params: The start with exponent 0.
        samples: All are used.

    Returns:
        The exponent c.

    Raises:
        ConservedError: If the first block admits no positive scale, or nothing depends on what it scales.
    """
    block = graph.blocks[0]
    factors = block.generators[_scale(graph)].factors
    gradients = _gradients(model, params, samples, [tie.name for tie, _ in factors])
    exponents = np.array([exponent for _, exponent in factors])
    squares = np.array([float(entries(gradients[tie.name].double(), tie, block).square().sum()) for tie, _ in factors])
    if not min(squares[exponents < 0].sum(), squares[exponents > 0].sum()) > 0:
        raise ConservedError(
            f"'{block.name}': expected gradients in incoming and in outgoing weights, got none: "
            "take another start, or more samples"
        )
    there = minimize_scalar(lambda c: float(logsumexp(-2 * exponents * c, b=squares)), tol=1e-10)
    return float(there.x)


def _gradients(model: nn.Module, params: Params, samples: Samples, names: Sequence[str]) -> Params:
    moving = {name: params[name].detach().clone().requires_grad_() for name in names}
    loss = F.cross_entropy(call(model, {**params, **moving}, samples.x), samples.y)
    return dict(zip(moving, torch.autograd.grad(loss, list(moving.values())), strict=True))


def enlarged(graph: Graph, params: Params, exponent: float) -> Params:
    """Another function: the first layer's weights and biases times e^exponent, and nothing to make up for it."""
    layer = graph.layers[0]
    factor = math.exp(exponent)
    return {name: t * factor if name in (layer.weight, layer.bias) else t.clone() for name, t in params.items()}


def descended(
    graph: Graph,
    model: nn.Module,
    params: Params,
    samples: Samples,
    quantity: Quantity,
    *,
    exponents: Sequence[float],
    arm: Arm = "same function",
    rate: float = 0.05,
    steps: int = 200,
    target: float = 0.3,
    most: int = 2000,
    seed: int = 0,
) -> tuple[Imbalanced, ...]:
    """Descend from several starts with the same step size, on all samples at once.

    Args:
        graph: The network's symmetries.
        model: A network without normalisation and dropout.
        params: The start with exponent 0.
        samples: All are used in each step.
        quantity: Of the first block.
        exponents: One for each start; at least one.
        arm: ``"same function"``: elements of the group; ``"initial scale"``: the first layer alone.
        rate: Step size.
        steps: Over which the speed is measured; the time is rate times steps.
        target: Loss at which the last eigenvalue is computed.
        most: Steps after which the target counts as not reached.
        seed: Of the first Lanczos vector.

    Returns:
        One for each exponent.

    Raises:
        ConservedError: For options that make no descent, a network in training mode whose normalisation or dropout
            depends on it, or a loss that becomes infinite: the step is too long for the curvature.
    """
    _check(model, exponents, arm, rate=rate, steps=steps, target=target, most=most)
    moved = {"same function": scaled, "initial scale": enlarged}[arm]
    names = [name for name, _ in model.named_parameters()]
    found = []
    for exponent in exponents:
        start = moved(graph, params, exponent)
        fall = _fall(model, start, samples, names, rate=rate, steps=steps, target=target, most=most)
        there = fall.at_target
        found.append(
            Imbalanced(
                exponent=exponent,
                value=float(quantity(start).mean()),
                loss=fall.losses[0],
                rate=math.log(fall.losses[0] / fall.losses[steps]) / (rate * steps),
                first_eigenvalue=_eigenvalue(model, start, samples, names, seed),
                last_eigenvalue=None if there is None else _eigenvalue(model, there, samples, names, seed),
                steps=fall.reached,
            )
        )
    return tuple(found)


def _check(
    model: nn.Module,
    exponents: Sequence[float],
    arm: str,
    *,
    rate: float,
    steps: int,
    target: float,
    most: int,
) -> None:
    if arm not in get_args(Arm):
        raise ConservedError(f"arm: expected one of {', '.join(get_args(Arm))}, got {arm!r}")
    if not exponents or not all(map(math.isfinite, exponents)):
        raise ConservedError(f"exponents: expected at least one finite number, got {list(exponents)}")
    if not (0 < rate < math.inf and 0 < target < math.inf):
        raise ConservedError(f"rate, target: expected positive numbers, got {rate} and {target}")
    if steps < 1 or most < 0:
        raise ConservedError(f"steps, most: expected at least 1 and 0, got {steps} and {most}")
    for name, module in model.named_modules():
        if module.training and isinstance(module, _BY_MODE):
            raise ConservedError(
                f"'{name}': expected neither normalisation by the batch nor dropout: call model.eval(), or leave it out"
            )


_BY_MODE = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""What computes something else in training mode."""


@dataclass(frozen=True)
class _Fall:
    """Losses before each step, and the network where the target was first reached, after how many steps."""

    losses: tuple[float, ...]
    at_target: Params | None
    reached: int | None


def _fall(
    model: nn.Module,
    start: Params,
    samples: Samples,
    names: Sequence[str],
    *,
    rate: float,
    steps: int,
    target: float,
    most: int,
) -> _Fall:
    """Descend for ``steps`` steps at least, and on to the target unless that takes more than ``most``."""
    point = {name: tensor.clone().requires_grad_(name in names) for name, tensor in start.items()}
    moving = [point[name] for name in names]
    losses: list[float] = []
    at_target, reached = None, None
    for step in count():
        loss = F.cross_entropy(call(model, point, samples.x), samples.y)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise ConservedError(f"the loss became {losses[-1]} in step {step}: expected less; lower the rate")
        if reached is None and losses[-1] <= target:
            at_target, reached = {name: tensor.detach().clone() for name, tensor in point.items()}, step
        if step >= steps and (reached is not None or step >= most):
            break
        with torch.no_grad():
            for tensor, gradient in zip(moving, torch.autograd.grad(loss, moving), strict=True):
                tensor.sub_(rate * gradient)
    return _Fall(tuple(losses), at_target, reached)


def _eigenvalue(model: nn.Module, params: Params, samples: Samples, names: Sequence[str], seed: int) -> float:
    found = curvature(model, params, samples, names=names, surrogate=False, probes=2, tolerance=1e-3, seed=seed)
    return found.eigenvalues[0]
