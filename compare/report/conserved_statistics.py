"""Numbers of conserved quantities with intervals, as tables and claims use them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from compare.relations.bootstrap import Interval, bootstrap
from compare.relations.statistics import difference, mean
from compare.report.numbers import MISSING
from compare.runs.conserved import Initial, Law, Orbit, Start


@dataclass(frozen=True)
class Measure:
    """What is compared with the quantity over the starts of one network."""

    name: str
    of: Callable[[Start], float | None]


MEASURES = (
    Measure("largest eigenvalue at the start", lambda start: start.first_eigenvalue),
    Measure("rate of convergence", lambda start: start.rate),
    Measure("steps to the target", lambda start: None if start.steps is None else float(start.steps)),
    Measure("largest eigenvalue at the target", lambda start: start.last_eigenvalue),
)


SIDES: tuple[Callable[[float], bool], ...] = (lambda value: True, lambda value: value > 0, lambda value: value < 0)
"""Which starts: all, those whose outgoing weights are heavier, those whose incoming weights are."""


def over(values: Sequence[float]) -> Interval | None:
    """Mean with interval, None without values."""
    found = [value for value in values if math.isfinite(value)]
    return bootstrap(mean(np.array(found)), ["all"] * len(found)) if found else None


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    """Ratio of geometric means; both groups are resampled, each by itself."""
    if not min(*above, *below) > 0:
        return None
    values = np.log([*above, *below])
    first = np.arange(len(values)) < len(above)
    strata = ["above"] * len(above) + ["below"] * len(below)
    return _exponential(bootstrap(difference(mean(values, first), mean(values, ~first)), strata))


def ratio(orbits: Sequence[Orbit], measure: Measure) -> Interval | None:
    """Geometric mean over networks, with the interval of the logarithm."""
    logarithms = []
    for orbit in orbits:
        known = [(abs(start.value), other) for start in orbit.starts if (other := measure.of(start))]
        if len(known) > 1 and min(other for _, other in known) > 0:
            logarithms.append(math.log(max(known)[1] / min(known)[1]))
    return _exponential(over(logarithms))


def _exponential(found: Interval | None) -> Interval | None:
    if found is None:
        return None
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Interval(math.exp(found.value), low, high, found.networks, found.resamples)


def cell(interval: Interval | None, digits: int = 2) -> str:
    """``mean [low, high]``."""
    if interval is None:
        return MISSING
    # Adding 0.0 turns -0.0 into 0.0.
    ends = (interval.value, interval.low, interval.high)
    value, *both = (f"{round(end, digits) + 0.0:.{digits}f}" for end in ends if end is not None)
    return f"{value} [{', '.join(both)}]" if both else value


def correlation(orbit: Orbit, measure: Measure, of: Callable[[float], bool] = SIDES[0]) -> float:
    """Of |Q| and the measure, over the starts whose Q is among those asked for."""
    pairs = [(start.value, measure.of(start)) for start in orbit.starts if of(start.value)]
    known = [(abs(value), other) for value, other in pairs if other is not None]
    if len({value for value, _ in known}) < 2 or len({other for _, other in known}) < 2:
        return math.nan
    return float(stats.spearmanr(*zip(*known, strict=True)).statistic)


def deviates(each: Initial) -> tuple[float, float]:
    """Distances from the closed forms in standard errors; orthogonal rows that fit have norm 1 to rounding."""

    def off(measured: float, closed: float, error: float) -> float:
        return 0.0 if abs(measured - closed) < 1e-9 else (measured - closed) / error

    return (
        off(each.mean, each.expected_mean, each.mean_error),
        off(each.variance, each.expected_variance, each.variance_error),
    )


def grouped(laws: Sequence[Law]) -> Iterator[tuple[str, str, list[Law]]]:
    """Those of one case and quantity together, seeds and controls among them."""
    for case, quantity in dict.fromkeys((law.case, law.quantity) for law in laws):
        yield case, quantity, [law for law in laws if (law.case, law.quantity) == (case, quantity)]


def chosen(laws: Sequence[Law], *, control: bool) -> list[Law]:
    """Controls, or all others."""
    return [law for law in laws if law.control == control]


def slopes(laws: Sequence[Law]) -> list[float]:
    """One for each law that has one."""
    return [law.slope for law in laws if law.slope is not None]
