"""Errors and losses along a path."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from compare.evaluation.score import Samples, Score, evaluate
from compare.evaluation.statistics import StatisticsError, calibrator, re_estimated
from compare.params import Params
from compare.progress import progress

Statistics = Literal["interpolated", "re-estimated"]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Curve:
    """The networks on a path, measured.

    Attributes:
        ts: Where, between 0 and 1.
        errors: Fraction of misclassified samples at each t.
        losses: Mean cross-entropy at each t, nats.
        samples: Number of samples each is counted on.
        statistics: Whether normalisation statistics are the path's own or measured anew at each t.
    """

    ts: tuple[float, ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]
    samples: int
    statistics: Statistics


def error_curve(
    model: nn.Module,
    path: Callable[[float], Params],
    samples: Samples,
    ts: Sequence[float],
    *,
    statistics: Statistics = "interpolated",
    calibration: Tensor | None = None,
) -> Curve:
    """Error and loss of every network at ``ts`` on a path, on fixed samples.

    Args:
        model: The network; not changed, evaluated in evaluation mode.
        path: t -> parameters.
        samples: Inputs and classes, for instance ``data.train``.
        ts: Numbers between 0 and 1.
        statistics: ``"interpolated"``: normalisation statistics as the path gives them; ``"re-estimated"``: measured at
            each t on calibration data.
        calibration: Inputs to re-estimate on ``[samples, ...]``; without it ``samples.calibration``, which for the
            splits of ``load_data`` are training inputs.

    Returns:
        The curve.

    Raises:
        ValueError: For an unknown ``statistics``, no t, or a t outside [0, 1].
        StatisticsError: If statistics cannot be re-estimated.
    """
    curves = error_curves(model, path, {"samples": samples}, ts, statistics=statistics, calibration=calibration)
    return curves["samples"]


def error_curves(
    model: nn.Module,
    path: Callable[[float], Params],
    splits: Mapping[Name, Samples],
    ts: Sequence[float],
    *,
    statistics: Statistics = "interpolated",
    calibration: Tensor | None = None,
    describe: str | None = None,
) -> dict[Name, Curve]:
    """As ``error_curve`` on several splits at once; each network is made, and its statistics measured, only once."""
    if statistics not in ("interpolated", "re-estimated"):
        raise ValueError(f"statistics: expected 'interpolated' or 're-estimated', got {statistics!r}")
    ts = tuple(map(float, ts))
    if not ts or not all(0 <= t <= 1 for t in ts):
        raise ValueError("ts: expected at least one number, all between 0 and 1")
    settle = _settler(model, splits, calibration) if statistics == "re-estimated" else _as_is
    working = copy.deepcopy(model).eval()
    scores: dict[Name, list[Score]] = {name: [] for name in splits}
    for t in progress(ts, describe, unit="network"):
        params = settle(path(t))
        for name, samples in splits.items():
            scores[name].append(evaluate(working, params, samples))
    return {name: _curve(ts, found, statistics) for name, found in scores.items()}


def _as_is(params: Params) -> Params:
    return params


def _settler(model: nn.Module, splits: Mapping[Any, Samples], calibration: Tensor | None) -> Callable[[Params], Params]:
    if calibration is None:
        offered = (getattr(split, "calibration", None) for split in splits.values())
        calibration = next((x for x in offered if x is not None), None)
    if calibration is None:
        raise StatisticsError(
            "statistics='re-estimated': pass calibration=, training inputs to measure the statistics on"
        )
    measuring, x = calibrator(model), calibration
    return lambda params: re_estimated(measuring, params, x)


def _curve(ts: tuple[float, ...], scores: list[Score], statistics: Statistics) -> Curve:
    return Curve(
        ts=ts,
        errors=tuple(score.error for score in scores),
        losses=tuple(score.loss for score in scores),
        samples=scores[0].samples,
        statistics=statistics,
    )
