"""One hidden layer: a string below a computed bound, through networks that lost half of their units [Topology].

Half of the units of each network are kept, the last layer refitted to them. The units that one network does without are
free to take the place of those that the other keeps. On each piece only the last layer moves, in which the squared
error is convex, or weights that have no effect: the loss is highest at a bead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compare.errors import CompareError
from compare.params import Params, check, check_same_types

Activation = Callable[[Tensor], Tensor]


class PrunedStringError(CompareError, ValueError):
    """Networks, samples or settings that make no such string."""


@dataclass(frozen=True, eq=False)
class PrunedString:
    """A string between two networks of one hidden layer.

    Attributes:
        beads: Networks, both ends included, exactly; straight lines join them.
        losses: Mean squared error of each bead. No network on the string has more than the largest, but for rounding.
        kept: The units of the first and of the second network that were kept.
    """

    beads: tuple[Params, ...]
    losses: tuple[float, ...]
    kept: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def highest(self) -> float:
        """The largest loss on the string."""
        return max(self.losses)

    @property
    def gap(self) -> float:
        """By how much it exceeds the worse end: an upper bound of the energy gap between both networks."""
        return self.highest - max(self.losses[0], self.losses[-1])


@dataclass(frozen=True)
class _Regression:
    """Samples, and names of the two layers."""

    x: Tensor
    y: Tensor
    first: str
    last: str
    activation: Activation

    def hidden(self, params: Params) -> Tensor:
        """``[samples, units]``."""
        found = self.x @ params[f"{self.first}.weight"].double().T
        bias = params.get(f"{self.first}.bias")
        return self.activation(found if bias is None else found + bias.double())

    def loss(self, params: Params) -> float:
        """Mean over samples and outputs of the squared error."""
        output = self.hidden(params) @ params[f"{self.last}.weight"].double().T
        bias = params.get(f"{self.last}.bias")
        return float((((output if bias is None else output + bias.double()) - self.y) ** 2).mean())

    def refitted(self, params: Params, units: Tensor) -> Params:
        """With the last layer of least squares on some units alone; the others' outgoing weights are 0."""
        biased = f"{self.last}.bias" in params
        features = self.hidden(params)[:, units]
        design = torch.hstack([features, features.new_ones(len(features), 1)]) if biased else features
        fitted = torch.linalg.lstsq(design, self.y, driver="gelsd").solution.T
        weight = torch.zeros_like(params[f"{self.last}.weight"])
        weight[:, units] = fitted[:, : len(units)].to(weight.dtype)
        refit = {f"{self.last}.weight": weight}
        if biased:
            refit[f"{self.last}.bias"] = fitted[:, -1].to(weight.dtype).contiguous()
        return {**params, **refit}

    def kept(self, params: Params, number: int) -> Tensor:
        """The units that remain if again and again the one is removed without which the error rises least."""
        features = self.hidden(params)
        biased = f"{self.last}.bias" in params
        design = torch.hstack([features, features.new_ones(len(features), 1)]) if biased else features
        units = list(range(features.shape[1]))
        while len(units) > number:
            columns = design[:, [*units, *([-1] if biased else [])]]
            gram = columns.T @ columns
            # A little of the identity keeps units that are never active, or twins, from making it singular.
            inverse = torch.linalg.inv(
                gram + 1e-10 * (gram.trace() / len(gram) + 1e-300) * torch.eye(len(gram)).double()
            )
            weights = inverse @ columns.T @ self.y
            # Removing unit j and refitting adds |w_j|^2 / (G^-1)_jj to the sum of squares.
            rises = (weights**2).sum(1) / inverse.diagonal()
            units.pop(int(rises[: len(units)].argmin()))
        return torch.tensor(units, dtype=torch.int64)


def pruned_string(
    a: Params,
    b: Params,
    x: Tensor,
    y: Tensor,
    *,
    first: str = "0",
    last: str = "2",
    activation: Activation = torch.relu,
) -> PrunedString:
    """A string whose highest loss is known: that of one of its beads.

    Of each network half of the units are kept, chosen one by one (backward elimination by the rise of the squared
    error), and the last layer is refitted to them by least squares. So the string bounds the energy gap from above; as
    the width grows half of the units do as well as all, and the bound falls to 0.

    Args:
        a: Start: ``first.weight`` ``[units, in]``, ``last.weight`` ``[out, units]``, and perhaps a bias of each.
        b: End, likewise.
        x: Inputs ``[samples, in]``.
        y: Targets ``[samples, out]``.
        first: Name of the first layer.
        last: Name of the last.
        activation: Between both, elementwise; convexity in the last layer needs no more.

    Returns:
        The string. Ends are bit for bit what came; the beads between are computed in float64 and given in their type.

    Raises:
        ParameterError: If ``b`` does not fit ``a``, or for NaN or infinity.
        PrunedStringError: For other parameters than these, samples that do not fit, or fewer than two hidden units.
    """
    _check(a, b, x, y, first, last)
    task = _Regression(x.double(), y.double(), first, last, activation)
    width = len(a[f"{first}.weight"])
    of_a, of_b = task.kept(a, width - width // 2), task.kept(b, width // 2)
    start, end = task.refitted(a, of_a), task.refitted(b, of_b)
    beads = _Swap(task, start, end, of_a.tolist(), of_b.tolist()).beads()
    copies = ({name: tensor.detach().clone() for name, tensor in params.items()} for params in (a, b))
    ends = list(copies)
    whole = (ends[0], *beads, ends[1])
    return PrunedString(
        beads=whole,
        losses=tuple(task.loss(bead) for bead in whole),
        kept=(tuple(of_a.tolist()), tuple(of_b.tolist())),
    )


class _Swap:
    """From the units one network keeps to those the other keeps, places being free or taken."""

    def __init__(self, task: _Regression, start: Params, end: Params, of_a: list[int], of_b: list[int]) -> None:
        self.incoming = [name for name in start if name.startswith(f"{task.first}.")]
        self.out, self.bias = f"{task.last}.weight", f"{task.last}.bias"
        self.start, self.end = start, end
        taken = set(of_a)
        spare = (place for place in range(start[self.out].shape[1]) if place not in taken and place not in of_b)
        # A kept unit of b goes to its own place if that is free, else to a spare one first.
        self.place = {unit: next(spare) if unit in taken else unit for unit in of_b}

    def beads(self) -> list[Params]:
        """From ``start`` to ``end``; straight lines between them keep the function or move the last layer alone."""
        arrived = self._with_units(self.start, {place: unit for unit, place in self.place.items()})
        refit = self._with_last(arrived, self.place)
        doubled = self._with_units(refit, {unit: unit for unit in self.place})
        moved = self._with_last(doubled, {unit: unit for unit in self.place})
        return [self.start, arrived, refit, doubled, moved, self.end]

    def _with_units(self, params: Params, units: dict[int, int]) -> Params:
        """``units[place]`` of b written at each place."""
        changed = {name: params[name].clone() for name in self.incoming}
        for place, unit in units.items():
            for name, tensor in changed.items():
                tensor[place] = self.end[name][unit]
        return {**params, **changed}

    def _with_last(self, params: Params, places: dict[int, int]) -> Params:
        """The last layer of b's refit, each unit's weights at its place."""
        weight = torch.zeros_like(params[self.out])
        for unit, place in places.items():
            weight[:, place] = self.end[self.out][:, unit]
        changed = {name: self.end[name].clone() for name in (self.bias,) if name in params}
        return {**params, self.out: weight, **changed}


def rank_one_floor(x: Tensor, y: Tensor, *, angles: int = 3600) -> float:
    """An upper estimate of the floor: the lowest error of rectified networks on the plane, first layer of rank 1.

    Two hidden units without biases: the first layer is a square matrix, whose determinant changes its sign when the
    units are swapped. So a path from a network to its own copy with both units swapped passes a first layer of rank 1,
    and somewhere has at least this error. With ``w_k = c_k v`` the hidden layer offers no more than ``relu(v x)`` and
    ``relu(-v x)``; the last layer is then least squares, without bias. The floor is the infimum over all v, which need
    not be attained: where v is across to some input its unit is silent there, and the error jumps upwards.

    Args:
        x: Inputs ``[samples, 2]``.
        y: Targets ``[samples, out]``.
        angles: Directions v tried on half a circle; the minimum over these is at least the floor.

    Returns:
        The estimate, a mean squared error over samples and outputs.

    Raises:
        PrunedStringError: For inputs of another dimension than 2.
    """
    if x.dim() != 2 or x.shape[1] != 2:
        raise PrunedStringError(f"x: expected inputs [samples, 2], got {list(x.shape)}")
    x, y = x.double(), y.double()
    lowest = math.inf
    for angle in torch.arange(angles, dtype=torch.float64) * (math.pi / angles):
        seen = x @ torch.stack([angle.cos(), angle.sin()])
        features = torch.stack([seen.relu(), (-seen).relu()], 1)
        residual = y - features @ torch.linalg.lstsq(features, y, driver="gelsd").solution
        lowest = min(lowest, float((residual**2).mean()))
    return lowest


def _check(a: Params, b: Params, x: Tensor, y: Tensor, first: str, last: str) -> None:
    weights = {f"{first}.weight", f"{last}.weight"}
    known = weights | {f"{first}.bias", f"{last}.bias"}
    if not weights <= set(a) <= known:
        raise PrunedStringError(
            f"expected a network of one hidden layer: {', '.join(sorted(weights))} and perhaps biases, "
            f"got {', '.join(sorted(a)) or 'nothing'}; name its layers with first= and last="
        )
    check(a, a, what="a")
    check(b, a, what="b")
    check_same_types(a, b)
    units, inputs = a[f"{first}.weight"].shape
    outputs, width = a[f"{last}.weight"].shape
    if units != width or units < 2:
        raise PrunedStringError(f"expected two layers with at least 2 units between, got {units} and {width}")
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != inputs or y.shape != (len(x), outputs) or not len(x):
        raise PrunedStringError(
            f"expected x [samples, {inputs}] and y [samples, {outputs}], got {list(x.shape)} and {list(y.shape)}"
        )
