"""Errors and losses along a path."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from compare.evaluation.evaluator import Evaluation, Evaluator, Plain
from compare.evaluation.first_layer import FirstLayer
from compare.evaluation.score import BATCH, Samples, Score, Tally
from compare.evaluation.statistics import StatisticsError, batches, calibrator, re_estimated
from compare.params import Params
from compare.progress import progress

Statistics = Literal["interpolated", "re-estimated"]
Name = TypeVar("Name", bound=str)
Settle: TypeAlias = Callable[[float, Params], Params]

MEMORY = 256 * 2**20
"""Bytes of what is kept of samples for all t; beyond it samples are taken in parts."""


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
    evaluation: Evaluation | None = None,
) -> Curve:
    """Error and loss of every network at ``ts`` on a path, on fixed samples.

    On a path of ``linear_path``, ``geodesic_path`` or ``bent_path`` a first layer that is linear in full precision
    (``nn.Linear``, ``nn.Conv2d``) is multiplied once for each end and mixed at each t. Then losses between the ends
    agree with those of ``evaluate`` to rounding (in float64 to a relative 1e-9), and errors but for samples on the edge
    between two classes; at the ends both are equal.

    Args:
        model: The network; not changed, evaluated in evaluation mode.
        path: t -> parameters.
        samples: Inputs and classes, for instance ``data.train``.
        ts: Numbers between 0 and 1.
        statistics: ``"interpolated"``: normalisation statistics as the path gives them; ``"re-estimated"``: measured at
            each t on calibration data.
        calibration: Inputs to re-estimate on ``[samples, ...]``; without it ``samples.calibration``, which for the
            splits of ``load_data`` are training inputs.
        evaluation: What a precision evaluates its networks with (``family.evaluation``), in place of the model's own
            forward.

    Returns:
        The curve.

    Raises:
        ValueError: For an unknown ``statistics``, no t, or a t outside [0, 1].
        StatisticsError: If statistics cannot be re-estimated.
    """
    curves = error_curves(
        model,
        path,
        {"samples": samples},
        ts,
        statistics=statistics,
        calibration=calibration,
        evaluation=evaluation,
    )
    return curves["samples"]


def error_curves(
    model: nn.Module,
    path: Callable[[float], Params],
    splits: Mapping[Name, Samples],
    ts: Sequence[float],
    *,
    statistics: Statistics = "interpolated",
    calibration: Tensor | None = None,
    evaluation: Evaluation | None = None,
    describe: str | None = None,
) -> dict[Name, Curve]:
    """As ``error_curve`` on several splits at once; each network is made, and its statistics measured, only once."""
    if statistics not in ("interpolated", "re-estimated"):
        raise ValueError(f"statistics: expected 'interpolated' or 're-estimated', got {statistics!r}")
    ts = tuple(map(float, ts))
    if not ts or not all(0 <= t <= 1 for t in ts):
        raise ValueError("ts: expected at least one number, all between 0 and 1")
    settle = _settler(model, path, splits, calibration, ts) if statistics == "re-estimated" else None
    working = copy.deepcopy(model).eval()
    offered = None if evaluation is None else evaluation(working)
    evaluator = offered or _first_layer(working, path, ts, splits) or Plain(working)
    scores = _scores(evaluator, _Networks(path, ts, settle, {}), splits, describe)
    return {name: _curve(ts, found, statistics) for name, found in scores.items()}


def _first_layer(
    model: nn.Module, path: Callable[[float], Params], ts: tuple[float, ...], splits: Mapping[Any, Samples]
) -> FirstLayer | None:
    """The evaluator that multiplies the first layer once, unless the products of one batch pass ``MEMORY``."""
    found = FirstLayer.of(model, path, ts)
    fits = found is not None and all(found.size(s.x[:BATCH]) <= MEMORY for s in splits.values() if len(s.x))
    return found if fits else None


@dataclass(frozen=True, eq=False)
class _Networks:
    """The networks at ``ts``, and which parameters re-estimation changed in them, as far as that is known."""

    path: Callable[[float], Params]
    ts: tuple[float, ...]
    settle: Settle | None
    changes: dict[int, Params]

    def __getitem__(self, i: int) -> Params:
        params = self.path(self.ts[i])
        if self.settle is not None and i not in self.changes:
            found = self.settle(self.ts[i], params)
            self.changes[i] = {name: new for name, new in found.items() if not torch.equal(new, params[name])}
        return {**params, **self.changes.get(i, {})}


@torch.no_grad()
def _scores(
    evaluator: Evaluator, networks: _Networks, splits: Mapping[Name, Samples], describe: str | None
) -> dict[Name, list[Score]]:
    tallies = {name: [Tally() for _ in networks.ts] for name in splits}
    work = [(block, i) for block in _blocks(evaluator, splits) for i in range(len(networks.ts))]
    prepared: list[tuple[list[Tally], Any, Tensor]] = []
    for block, i in progress(work, describe, unit="network"):
        if i == 0:
            prepared = []  # the memory of the block before
            prepared += ((tallies[name], evaluator.prepare(x), y) for name, x, y in block)
        outputs = evaluator.network(networks.ts[i], networks[i])([batch for _, batch, _ in prepared])
        for (counted, _, y), logits in zip(prepared, outputs, strict=True):
            counted[i].add(logits, y)
    return {name: [tally.score() for tally in found] for name, found in tallies.items()}


def _blocks(evaluator: Evaluator, splits: Mapping[Name, Samples]) -> list[list[tuple[Name, Tensor, Tensor]]]:
    """Batches of all splits, the same as ``evaluate`` takes, as many together as memory admits."""
    blocks: list[list[tuple[Name, Tensor, Tensor]]] = [[]]
    kept = 0
    for name, samples in splits.items():
        for x, y in zip(torch.split(samples.x, BATCH), torch.split(samples.y, BATCH), strict=True):
            size = evaluator.size(x) if len(x) else 0
            if kept + size > MEMORY and blocks[-1]:
                blocks.append([])
                kept = 0
            blocks[-1].append((name, x, y))
            kept += size
    return blocks


def _settler(
    model: nn.Module,
    path: Callable[[float], Params],
    splits: Mapping[Any, Samples],
    calibration: Tensor | None,
    ts: tuple[float, ...],
) -> Settle:
    if calibration is None:
        offered = (getattr(split, "calibration", None) for split in splits.values())
        calibration = next((x for x in offered if x is not None), None)
    if calibration is None:
        raise StatisticsError(
            "statistics='re-estimated': pass calibration=, training inputs to measure the statistics on"
        )
    measuring, x = calibrator(model), calibration
    layer = FirstLayer.of(measuring, path, ts) if len(x) else None
    if layer is None or layer.size(x) > MEMORY:
        return lambda t, params: re_estimated(measuring, params, x)
    return _mixing_settler(layer, x)


@torch.no_grad()
def _mixing_settler(layer: FirstLayer, x: Tensor) -> Settle:
    products = layer.joined([layer.prepare(part) for part in batches(x)])
    return lambda t, params: re_estimated(layer.parts.rest, layer.behind(params), layer.mixture(t, params)(products))


def _curve(ts: tuple[float, ...], scores: list[Score], statistics: Statistics) -> Curve:
    return Curve(
        ts=ts,
        errors=tuple(score.error for score in scores),
        losses=tuple(score.loss for score in scores),
        samples=scores[0].samples,
        statistics=statistics,
    )
