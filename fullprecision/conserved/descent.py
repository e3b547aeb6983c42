"""Plain gradient descent in double precision, and how the drift of a quantity falls with its step."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from compare.params import Params
from fullprecision.conserved.errors import ConservedError
from fullprecision.conserved.quantity import Quantity, relative_drift

Loss: TypeAlias = Callable[[Params], Tensor]
"""From parameters by name to one number, differentiable."""


@dataclass(frozen=True)
class DriftLaw:
    """The drift of a quantity after the same time, for several step sizes.

    Attributes:
        rates: Step sizes, as given.
        drifts: Relative drift for each, see ``relative_drift``.
        slope: Of log drift against log rate, by least squares: 1 where the drift is in proportion to the step, 0 where
            it does not depend on it. Not a number where a drift is exactly 0.
        losses: The loss at the start, and at the end with the smallest rate.
    """

    rates: tuple[float, ...]
    drifts: tuple[float, ...]
    slope: float
    losses: tuple[float, float]


def gradient_descent(loss: Loss, params: Params, *, names: Iterable[str], rate: float, steps: int) -> Params:
    """Follow the negative gradient in steps of one size: Euler's method for gradient flow.

    Args:
        loss: What falls.
        params: Where to start; not changed.
        names: Which of the parameters move.
        rate: Step size; ``rate * steps`` is the time.
        steps: How many.

    Returns:
        All parameters; those that do not move are the same tensors.

    Raises:
        ConservedError: For no names, unknown ones, or a rate or number of steps that is not positive; or if the loss
            became infinite or NaN.
    """
    chosen = sorted(set(names))
    unknown = [name for name in chosen if name not in params]
    if not chosen or unknown:
        raise ConservedError(f"names: expected some of {', '.join(params)}, got {', '.join(unknown) or 'none'}")
    if not 0 < rate < math.inf or steps < 1:
        raise ConservedError(f"rate, steps: expected a positive rate and at least 1 step, got {rate} and {steps}")
    point = {name: params[name].detach().clone().requires_grad_() for name in chosen}
    for step in range(steps + 1):
        value = loss({**params, **point})
        if not bool(torch.isfinite(value)):
            raise ConservedError(
                f"the loss became {float(value.detach())} after {step} steps: expected less; lower the rate"
            )
        if step == steps:  # one evaluation more: the last step may diverge, too
            break
        gradients = torch.autograd.grad(value, list(point.values()), materialize_grads=True)
        with torch.no_grad():
            for tensor, gradient in zip(point.values(), gradients, strict=True):
                tensor.sub_(rate * gradient)
    return {**params, **{name: tensor.detach() for name, tensor in point.items()}}


def drift_law(
    loss: Loss,
    params: Params,
    quantities: Sequence[Quantity],
    *,
    names: Iterable[str],
    time: float,
    rates: Sequence[float],
) -> tuple[DriftLaw, ...]:
    """Descend for the same time with several step sizes, and see how far each quantity drifts.

    Gradient flow keeps the quantities. Gradient descent moves them by a term of the step's square in each step, so by
    one in proportion to the step in a given time.

    Args:
        loss: What falls; double precision, or rounding drowns small drifts.
        params: Where to start; not changed.
        quantities: Which.
        names: Which of the parameters move.
        time: Rate times steps; a multiple of each rate, to rounding.
        rates: At least two different step sizes.

    Returns:
        One law for each quantity.

    Raises:
        ConservedError: For fewer than two rates, a time that is no multiple of them, a descent that fails, or a start
            at which all terms of a quantity are 0.
    """
    if len(set(rates)) < 2 or not all(0 < rate < math.inf for rate in rates):
        raise ConservedError(f"rates: expected at least two different positive numbers, got {list(rates)}")
    if not 0 < time < math.inf:
        raise ConservedError(f"time: expected a positive number, got {time}")
    steps = [round(time / rate) for rate in rates]
    if any(abs(count * rate - time) > 1e-6 * time or count < 1 for count, rate in zip(steps, rates, strict=True)):
        raise ConservedError(f"time: expected a multiple of each rate {list(rates)}, got {time}")
    chosen = list(names)
    ends = [
        gradient_descent(loss, params, names=chosen, rate=rate, steps=count)
        for rate, count in zip(rates, steps, strict=True)
    ]
    with torch.no_grad():
        smallest = ends[int(np.argmin(rates))]
        losses = (float(loss(params)), float(loss(smallest)))
    found = []
    for quantity in quantities:
        drifts = tuple(relative_drift(quantity, params, end) for end in ends)
        if not all(map(math.isfinite, drifts)):
            raise ConservedError(f"the drift of '{quantity.name}' became infinite: expected less; lower the rates")
        found.append(DriftLaw(tuple(rates), drifts, _slope(rates, drifts), losses))
    return tuple(found)


def _slope(rates: Sequence[float], drifts: Sequence[float]) -> float:
    if not all(drift > 0 for drift in drifts):
        return math.nan
    return float(np.polyfit(np.log(rates), np.log(drifts), 1)[0])
