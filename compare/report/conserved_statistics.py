"""Numbers of conserved quantities with intervals, as tables and claims use them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

from compare.relations.bootstrap import Interval, bootstrap
from compare.relations.statistics import difference, mean
from compare.report.numbers import MISSING
from compare.runs.conserved import Initial, Law, Orbit, Start


@dataclass(frozen=True)
class Measure:
    """What is compared with the quantity over the starts of one network.

    Attributes:
        name: What it is.
        of: From a start to it; None where it is not known.
        rises: Whether it is expected to rise, not to fall, with the distance from balance.
    """

    name: str
    of: Callable[[Start], float | None]
    rises: bool = True


FIRST_EIGENVALUE = Measure("largest eigenvalue at the start", lambda start: start.first_eigenvalue)
RATE = Measure("rate of convergence", lambda start: start.rate)
STEPS = Measure("steps to the target", lambda start: None if start.steps is None else float(start.steps), rises=False)
LAST_EIGENVALUE = Measure("largest eigenvalue at the target", lambda start: start.last_eigenvalue)
MEASURES = (FIRST_EIGENVALUE, RATE, STEPS, LAST_EIGENVALUE)

Side: TypeAlias = Callable[[float], bool]
"""Which starts, by their Q."""


def everywhere(_value: float) -> bool:
    """All starts."""
    return True


def above(value: float) -> bool:
    """Those whose outgoing weights are heavier."""
    return value > 0


def below(value: float) -> bool:
    """Those whose incoming weights are heavier."""
    return value < 0


SIDES: tuple[Side, ...] = (everywhere, above, below)


def over(values: Sequence[float]) -> Interval | None:
    """Mean with interval, None without values."""
    found = [value for value in values if math.isfinite(value)]
    return bootstrap(mean(np.array(found)), ["all"] * len(found)) if found else None


def ratio_of(dividend: Sequence[float], divisor: Sequence[float]) -> Interval | None:
    """Ratio of geometric means; both groups are resampled, each by itself."""
    if not min(*dividend, *divisor) > 0:
        return None
    values = np.log([*dividend, *divisor])
    first = np.arange(len(values)) < len(dividend)
    strata = ["dividend"] * len(dividend) + ["divisor"] * len(divisor)
    return _exponential(bootstrap(difference(mean(values, first), mean(values, ~first)), strata))


def ratio(orbits: Sequence[Orbit], measure: Measure) -> Interval | None:
    """Start with the largest |Q| to start with the smallest: geometric mean over networks, interval of the logarithm.

    Networks with fewer than two starts whose measure is known, or with one that is not positive, are left out.
    """
    logarithms = []
    for orbit in orbits:
        pairs = [(abs(start.value), measure.of(start)) for start in orbit.starts]
        known = [(size, other) for size, other in pairs if other is not None]
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


def correlation(orbit: Orbit, measure: Measure, side: Side = everywhere) -> float:
    """Of |Q| and the measure, over the starts whose Q is among those asked for."""
    return _spearman([(abs(start.value), measure.of(start)) for start in orbit.starts if side(start.value)])


def from_balance(orbit: Orbit, measure: Measure) -> float:
    """Correlation of the measure with the distance from the balanced kernel, over all starts."""
    least, _ = orbit.balanced
    return _spearman([(abs(start.exponent - least), measure.of(start)) for start in orbit.starts])


def _spearman(pairs: Sequence[tuple[float, float | None]]) -> float:
    known = [(value, other) for value, other in pairs if other is not None]
    if len({value for value, _ in known}) < 2 or len({other for _, other in known}) < 2:
        return math.nan
    return float(stats.spearmanr(*zip(*known, strict=True)).statistic)


def turn(orbits: Sequence[Orbit], measure: Measure) -> tuple[Interval | None, Interval | None]:
    """Exponent and Q of each network's least (if the measure falls with the distance, most)."""
    found = []
    for orbit in orbits:
        pairs = [(measure.of(start), start) for start in orbit.starts]
        known = [(other if measure.rises else -other, start) for other, start in pairs if other is not None]
        found += [min(known, key=lambda pair: pair[0])[1]] if known else []
    return over([start.exponent for start in found]), over([start.value for start in found])


def number(orbits: Sequence[Orbit], side: Side) -> str:
    """Of starts on one side, of each network."""
    counts = [sum(side(start.value) for start in orbit.starts) for orbit in orbits]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


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
