"""Errors on a grid in the plane through three networks."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from compare.evaluation.curve import Statistics
from compare.evaluation.score import Samples, Score, evaluate
from compare.evaluation.statistics import StatisticsError, calibrator, re_estimated
from compare.params import Params
from compare.progress import progress

Point = tuple[float, float]


class Surface(Protocol):
    """A plane of networks; what ``compare.geometry.plane`` gives is one."""

    @property
    def corners(self) -> tuple[Point, Point, Point]:
        """Coordinates (u, v) of the three networks that it goes through."""
        ...

    def __call__(self, u: float, v: float) -> Params:
        """Parameters at (u, v)."""
        ...


@dataclass(frozen=True)
class ErrorPlane:
    """The networks of a plane, measured on a grid.

    Attributes:
        us: Where, on the first axis, increasing and equally spaced.
        vs: Where, on the second.
        errors: Fraction of misclassified samples, a row for each v and in it a number for each u.
        losses: Mean cross-entropy, nats, likewise.
        corners: Coordinates (u, v) of the three networks.
        corner_errors: Their errors, measured in the same way at exactly these points.
        samples: Number of samples each is counted on.
        statistics: Whether normalisation statistics are the plane's own or measured anew at each point.
    """

    us: tuple[float, ...]
    vs: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    corners: tuple[Point, Point, Point]
    corner_errors: tuple[float, float, float]
    samples: int
    statistics: Statistics


def error_plane(
    model: nn.Module,
    plane: Surface,
    samples: Samples,
    *,
    points: tuple[int, int] = (25, 25),
    margin: float = 0.2,
    statistics: Statistics = "re-estimated",
    calibration: Tensor | None = None,
    describe: str | None = None,
) -> ErrorPlane:
    """Error and loss on a grid around the three networks of a plane, on fixed samples.

    Binary networks are measured as they are everywhere: by the signs of the latent weights at that point.

    Args:
        model: The network; not changed, evaluated in evaluation mode.
        plane: (u, v) -> parameters.
        samples: Inputs and classes, for instance a part of ``data.train``.
        points: Size of the grid, along u and along v, at least 2 each.
        margin: How far the grid goes beyond the three networks on all sides, as a fraction of their larger extent; at
            least 0.
        statistics: ``"re-estimated"``: normalisation statistics measured at each point on calibration data;
            ``"interpolated"``: as the plane gives them, which beyond the triangle extrapolates them.
        calibration: Inputs to re-estimate on ``[samples, ...]``; without it ``samples.calibration``.
        describe: Text before the progress line; None shows none.

    Returns:
        The measured plane.

    Raises:
        ValueError: For a grid or statistics that make no sense.
        StatisticsError: If statistics cannot be re-estimated, or interpolated variances become negative.
    """
    if statistics not in ("interpolated", "re-estimated"):
        raise ValueError(f"statistics: expected 'interpolated' or 're-estimated', got {statistics!r}")
    if min(points) < 2 or not 0 <= margin < float("inf"):
        raise ValueError(f"expected at least 2 points on each axis and a margin from 0 on, got {points} and {margin}")
    working = copy.deepcopy(model).eval()
    settle = _settler(model, samples, calibration) if statistics == "re-estimated" else _unsettled
    us, vs = _axes(plane.corners, points, margin)
    places = [*plane.corners, *((u, v) for v, u in itertools.product(vs, us))]
    scores: list[Score] = []
    for u, v in progress(places, describe, unit="network"):
        scores.append(evaluate(working, settle(plane(u, v)), samples))
    a, b, c, *rest = scores
    rows = [rest[start : start + len(us)] for start in range(0, len(rest), len(us))]
    return ErrorPlane(
        us=us,
        vs=vs,
        errors=tuple(tuple(score.error for score in row) for row in rows),
        losses=tuple(tuple(score.loss for score in row) for row in rows),
        corners=plane.corners,
        corner_errors=(a.error, b.error, c.error),
        samples=a.samples,
        statistics=statistics,
    )


def _axes(corners: Sequence[Point], points: tuple[int, int], margin: float) -> Iterator[tuple[float, ...]]:
    """The values of u, then those of v."""
    spans = [(min(values), max(values)) for values in zip(*corners, strict=True)]
    beyond = margin * max(high - low for low, high in spans)
    for (low, high), count in zip(spans, points, strict=True):
        start, end = low - beyond, high + beyond
        yield tuple(start + (end - start) * i / (count - 1) for i in range(count))


def _unsettled(params: Params) -> Params:
    """As they are; a negative variance, which only extrapolation makes, would give NaN and count as errors."""
    for name, tensor in params.items():
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            raise StatisticsError(
                f"'{name}' holds a negative variance at a point beyond the three networks; "
                "use statistics='re-estimated'"
            )
    return params


def _settler(model: nn.Module, samples: Samples, calibration: Tensor | None) -> Callable[[Params], Params]:
    x = calibration if calibration is not None else getattr(samples, "calibration", None)
    if x is None:
        raise StatisticsError("statistics='re-estimated': pass calibration=, training inputs to measure them on")
    measuring = calibrator(model)
    return lambda params: re_estimated(measuring, params, x)
