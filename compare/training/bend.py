"""A path with one bend, its middle network trained [Curves] (Garipov et al., arXiv 1802.10026)."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from compare.errors import CompareError
from compare.evaluation import Curve, Samples, error_curve, re_estimated
from compare.evaluation.curve import Statistics
from compare.evaluation.statistics import StatisticsError, calibrator, has_statistics
from compare.geometry import PATHS, BentPath, Lengths, bent_path, lengths, sphere
from compare.geometry.bend import Pieces, check_pieces, halves
from compare.geometry.path import Charted, Path
from compare.params import Coordinate, Params, call_in_place
from compare.progress import progress
from compare.seeds import derived
from compare.training.descent import TrainingError
from compare.training.settings import Recipe

# Cosine of the angle (0.01) below which chord and arc are one to 1e-5, while arccos loses digits in float32.
_NEAR = 1 - 5e-5


class BendError(CompareError, ValueError):
    """Settings with which no bend can be trained."""


@dataclass(frozen=True)
class BendSettings:
    """How a bend is trained.

    Attributes:
        epochs: At most so many passes over the training data.
        batch: Samples a step.
        learning_rate: Adam's, as a fraction of the root mean square of each module's parameters at the start, so that
            it means the same whatever the scale of weights and latents; falls to 0 on half a cosine over all epochs.
        tolerance: Training stops once no point of the grid has more error than the worse end plus this fraction of the
            samples.
        points: Size of the grid on the path, ends included, equally spaced; odd, so that the bend is a point of it.
        pieces: ``"linear"`` or ``"geodesic"``.
    """

    epochs: int = 10
    batch: int = 200
    learning_rate: float = 0.015
    tolerance: float = 0.001
    points: int = 25
    pieces: Pieces = "linear"

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            BendError: Saying what came and what is expected.
            PiecesError: For other pieces.
        """
        check_pieces(self.pieces)
        if self.epochs < 1 or self.batch < 2:
            raise BendError(f"expected at least 1 epoch and 2 samples a batch, got {self.epochs} and {self.batch}")
        if self.points < 3 or self.points % 2 == 0:
            raise BendError(f"points: expected an odd number from 3 on, so that the bend is one, got {self.points}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.tolerance < 1):
            raise BendError(
                "expected a positive finite learning_rate and a tolerance from 0 to below 1 (a fraction of the "
                f"samples), got {self.learning_rate} and {self.tolerance}"
            )


@dataclass(frozen=True, eq=False)
class Bend:
    """A trained bend.

    Attributes:
        path: The path; its ends are the ends that came, bit for bit.
        curve: Error and loss on the grid, with normalisation statistics re-estimated at each t where there are any.
        interpolated: The same with statistics interpolated between those of the ends and those measured of the middle;
            ``curve`` itself for networks without statistics.
        target: The error that no point should exceed: that of the worse end plus the tolerance.
        length: From end to bend to end.
        straight: From end to end.
        losses: Mean cross-entropy over the steps of each epoch, at uniform t, nats.
        steps: Number of steps made.
        seed: Of the order of samples, of the ts and of dropout.
        settings: What it was trained with.
        seconds: Time taken, measurements included.
    """

    path: BentPath
    curve: Curve
    interpolated: Curve
    target: float
    length: Lengths
    straight: Lengths
    losses: tuple[float, ...]
    steps: int
    seed: int
    settings: BendSettings
    seconds: float

    @property
    def middle(self) -> Params:
        """Parameters of the bend, with statistics measured of this very network."""
        return self.path.middle

    @property
    def ends(self) -> tuple[float, float]:
        """Errors of both ends, measured as ``curve`` is."""
        return self.curve.errors[0], self.curve.errors[-1]

    @property
    def highest(self) -> float:
        """The largest error on the grid."""
        return max(self.curve.errors)

    @property
    def reached(self) -> bool:
        """Whether no point exceeds the target."""
        return self.highest <= self.target


def train_bend(
    model: nn.Module,
    graph: Charted,
    a: Params,
    b: Params,
    samples: Samples,
    recipe: Recipe,
    *,
    settings: BendSettings | None = None,
    measured: Samples | None = None,
    calibration: Tensor | None = None,
    seed: int = 0,
    describe: str | None = None,
) -> Bend:
    """Train the middle of a path of two pieces: minimise E over uniform t of the cross-entropy of path(t).

    The middle starts half-way between the ends. Each step draws one t and one batch; the gradient reaches the middle
    through the pieces, for binary networks through the straight-through estimator into its latent weights. Batch
    normalisation uses the batch's own statistics meanwhile. The last layer is free: it is trained with the rest and
    bound to no sphere, and at t the network has that of the pieces. Hidden rows of a geodesic bend keep their norms, so
    that it stays on the product of spheres; those of a linear one are free, too.

    Networks are usually matched before (``compare.match``); ends that are not matched are bent as they are.

    Args:
        model: The network, in any mode; not changed. Parameters that require no gradient stay half-way.
        graph: Its coordinates.
        a: Start, all parameters and buffers by name; not changed.
        b: End, likewise.
        samples: What the bend is trained on.
        recipe: The precision's; what it does after a step (clipping of latents) is done to the middle.
        settings: Settings; without them the defaults.
        measured: Training samples the error is counted on; without them ``samples``.
        calibration: Inputs to re-estimate statistics on; without it ``measured.calibration``, then
            ``samples.calibration``.
        seed: Of the order of samples, of the ts and of dropout.
        describe: Text before the progress line; None shows none.

    Returns:
        The bend, whether or not it reached its target.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
        AntipodalError: If a geodesic is not determined.
        BendError: If no parameter of the model requires gradients.
        StatisticsError: If statistics have to be re-estimated and there is no calibration data.
        TrainingError: As soon as the loss is NaN or infinite.
    """
    began = time.perf_counter()
    settings = settings or BendSettings()
    straight = PATHS[settings.pieces](graph, a, b)
    grid = _grid(model, measured or samples, samples, calibration, settings)
    target = max(grid.error(straight, t) for t in (0.0, 1.0)) + settings.tolerance
    middle = _Middle(model, graph, straight, recipe, settings)
    losses: list[float] = []
    failed = 0.5
    bar = progress(range(settings.epochs), describe, unit="epoch")
    for epoch in bar:
        losses.append(middle.epoch(epoch, samples, derived(seed, "bend", epoch)))
        failed, error = grid.first_above(target, middle.path(), failed)
        if isinstance(bar, tqdm):
            bar.set_postfix_str(f"loss {losses[-1]:.3f}, error {error:.2%} at t = {failed:.2f}, target {target:.2%}")
        if error <= target:
            break
    path = middle.path(settled=grid.settled)
    curve = grid.curve(path, grid.statistics)
    return Bend(
        path=path,
        curve=curve,
        interpolated=curve if grid.statistics == "interpolated" else grid.curve(path, "interpolated"),
        target=target,
        length=lengths(graph, path.a, path.middle, path.b),
        straight=lengths(graph, path.a, path.b),
        losses=tuple(losses),
        steps=middle.steps,
        seed=seed,
        settings=settings,
        seconds=time.perf_counter() - began,
    )


def towards(coordinates: Mapping[str, Coordinate], end: Params, middle: Params, s: float, pieces: Pieces) -> Params:
    """The point at ``s`` of one piece from ``end`` (0) to ``middle`` (1), differentiable in the middle.

    The same as ``linear_path`` and ``geodesic_path`` give, up to rounding: geodesics are computed in the tensors' own
    type here and with few passes over the data; in float64 they would take most of the time of a step.
    """
    kinds = {name: "linear" if pieces == "linear" else coordinates[name].kind for name in end}
    return {name: _moved(tensor, middle[name], s, kinds[name]) for name, tensor in end.items()}


def _moved(end: Tensor, middle: Tensor, s: float, kind: str) -> Tensor:
    if not end.is_floating_point():
        return end.clone()
    if kind == "linear":
        return torch.lerp(end, middle, s)
    start, target = (t.flatten(1) if kind == "rows" else t.reshape(1, -1) for t in (end, middle))
    of_start, of_target = _shares(start, target, s)
    return (of_start * start + of_target * target).view_as(end)


def _shares(start: Tensor, target: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """What each row of the geodesic takes of both ends, ``[points, 1]``; see ``sphere.slerp`` for the formula."""
    product, (n, m) = torch.linalg.vecdot(start, target)[:, None], (_norms(start), _norms(target))
    near = product >= _NEAR * sphere.norms(start) * sphere.norms(target)  # also where a row is 0
    theta = torch.arccos(torch.where(near, 0.0, product / (n * m)).clamp(min=-_NEAR))
    turned = (torch.sin(weight * theta) / torch.sin(theta) for weight in (1 - s, s))
    norm = torch.lerp(n, m, s)
    of_start, of_target = (share * norm / size for share, size in zip(turned, (n, m), strict=True))
    return torch.where(near, 1 - s, of_start), torch.where(near, s, of_target)


class _Middle:
    """The bend while it is trained: a copy of the model that holds it, and Adam.

    Attributes:
        steps: Number of steps made.
    """

    def __init__(
        self, model: nn.Module, graph: Charted, straight: Path, recipe: Recipe, settings: BendSettings
    ) -> None:
        """Put it half-way between the ends."""
        self.steps = 0
        self._graph, self._recipe, self._settings = graph, recipe, settings
        self._coordinates = graph.coordinates
        self._a, self._b, self._start = straight.a, straight.b, straight(0.5)
        self._model = copy.deepcopy(model).train()
        self._weights = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        if not self._weights:
            raise BendError(
                f"{type(model).__name__} has no parameter that can be trained: expected a model whose parameters "
                "require gradients; a module that only stands for another one for analysis has none, so pass that one"
            )
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._start[name])
        self._adam = torch.optim.Adam(_groups(self._weights, settings.learning_rate))
        self._norms = _row_norms(self._coordinates, self._weights) if settings.pieces == "geodesic" else {}

    def path(self, *, settled: Callable[[Params], Params] = dict) -> BentPath:
        """The path as it is now.

        Args:
            settled: What is done to the middle first; statistics of its own are measured there.
        """
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        middle = settled({name: own.get(name, tensor) for name, tensor in self._start.items()})
        return bent_path(self._graph, self._a, middle, self._b, pieces=self._settings.pieces)

    def epoch(self, epoch: int, samples: Samples, seed: int) -> float:
        """One pass over ``samples``; the mean loss."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(samples.y), generator=generator)
        parts = [part for part in torch.split(order, self._settings.batch) if len(part) > 1]
        ts = torch.rand(len(parts), generator=generator, dtype=torch.float64).tolist()
        total = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # dropout
            for number, (part, t) in enumerate(zip(parts, ts, strict=True)):
                self._set_rate((epoch + number / len(parts)) / self._settings.epochs)
                loss = self._step(samples.x[part], samples.y[part], t)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"the bend's training stopped in epoch {epoch + 1}, step {number + 1}: the loss became {loss}. "
                        f"Expected finite numbers; lower the learning rate (now {self._settings.learning_rate}) or "
                        "look for NaN in the data"
                    )
                total += loss
        return total / len(parts)

    def _step(self, x: Tensor, y: Tensor, t: float) -> float:
        self._adam.zero_grad()
        piece, s = halves(t)
        end, reach = (self._b, 1 - s) if piece else (self._a, s)
        # Buffers take part, too, as new tensors: batch normalisation writes into them.
        params = towards(self._coordinates, end, self._start | self._weights, reach, self._settings.pieces)
        loss = F.cross_entropy(call_in_place(self._model, params, x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        self._recipe.after_step(self._model)
        with torch.no_grad():
            for name, norm in self._norms.items():
                self._weights[name].mul_(norm / _norms(self._weights[name]))
        self.steps += 1
        return float(loss.detach())

    def _set_rate(self, done: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * done))


def _groups(weights: Mapping[str, Tensor], rate: float) -> list[dict[str, Any]]:
    """One group for each module: offsets may be 0 themselves."""
    modules: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        modules.setdefault(name.rpartition(".")[0], []).append(weight)
    groups = []
    for owned in modules.values():
        size = float(torch.cat([weight.detach().flatten() for weight in owned]).square().mean().sqrt())
        groups.append({"params": owned, "lr": rate * (size or 1.0), "initial_lr": rate * (size or 1.0)})
    return groups


def _row_norms(coordinates: Mapping[str, Coordinate], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms of all hidden rows."""
    return {name: _norms(weight.detach()) for name, weight in weights.items() if coordinates[name].kind == "rows"}


def _norms(weight: Tensor) -> Tensor:
    """Norm of each row, 1 for rows of 0, in a shape that divides the weight."""
    norms = sphere.norms(weight.flatten(1)).view(-1, *[1] * (weight.ndim - 1))
    return torch.where(norms == 0, 1.0, norms)


@dataclass(frozen=True)
class _Grid:
    """What errors on the path are measured with."""

    model: nn.Module
    samples: Samples
    calibration: Tensor | None
    statistics: Statistics
    ts: tuple[float, ...]

    def curve(self, path: Callable[[float], Params], statistics: Statistics) -> Curve:
        """The whole curve."""
        return error_curve(self.model, path, self.samples, self.ts, statistics=statistics, calibration=self.calibration)

    def error(self, path: Callable[[float], Params], t: float) -> float:
        """The error at one t."""
        return replace(self, ts=(t,)).curve(path, self.statistics).errors[0]

    def first_above(self, target: float, path: Callable[[float], Params], likely: float) -> tuple[float, float]:
        """A point with more error than the target, ``likely`` tried first, then the others from it outwards.

        Returns:
            Its t and its error; where there is none, those of the highest point. Ends are not measured again.
        """
        highest = (likely, -1.0)
        for t in sorted(self.ts[1:-1], key=lambda t: abs(t - likely)):
            error = self.error(path, t)
            if error > highest[1]:
                highest = (t, error)
            if error > target:
                break
        return highest

    def settled(self, params: Params) -> Params:
        """With the statistics of this very network, where it has any."""
        if self.calibration is None:
            return params
        return re_estimated(calibrator(self.model), params, self.calibration)


def _grid(
    model: nn.Module, measured: Samples, samples: Samples, calibration: Tensor | None, settings: BendSettings
) -> _Grid:
    ts = tuple(i / (settings.points - 1) for i in range(settings.points))
    if not has_statistics(model):
        return _Grid(model, measured, None, "interpolated", ts)
    for split in (measured, samples):
        calibration = getattr(split, "calibration", None) if calibration is None else calibration
    if calibration is None:
        raise StatisticsError(
            "train_bend: this network has batch normalisation, so pass calibration=, training inputs to measure its "
            "statistics on"
        )
    return _Grid(model, measured, calibration, "re-estimated", ts)
