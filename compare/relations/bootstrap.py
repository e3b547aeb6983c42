"""Intervals for numbers that many networks give together: networks are resampled, and their pairs follow them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compare.errors import CompareError

Floats = NDArray[np.float64]

# From weights ``[resamples, networks]`` to values ``[resamples]``; NaN where a resample gives none.
Statistic = Callable[[Floats], Floats]

RESAMPLES = 10_000
LEVEL = 0.95

# Two networks make one pair, which says nothing of how much pairs differ.
FEWEST = 3


class RelationError(CompareError, ValueError):
    """Something that cannot be computed from a study."""


@dataclass(frozen=True)
class Interval:
    """A value with its interval over networks.

    Attributes:
        value: The statistic of the networks themselves.
        low: Lower end of the interval; None where there are too few networks for one.
        high: Upper end; None with ``low``.
        networks: How many networks were resampled.
        resamples: How many resamples gave a value.
    """

    value: float
    low: float | None
    high: float | None
    networks: int
    resamples: int


def bootstrap(
    statistic: Statistic,
    strata: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Interval of a statistic, by resampling networks with replacement within each stratum.

    A resample is a number of copies (a weight) for each network. Pairs share networks, so they are never drawn
    themselves: a statistic of pairs weighs a pair by the product of its ends' weights, and copies of one network are no
    pair. The interval is the bias-corrected percentile interval (Efron and Tibshirani, 'An Introduction to the
    Bootstrap', 1993, section 14.3, without acceleration: copies are ties, which raise rank correlations), with its
    tails widened as Student's t asks for few networks (Hesterberg, 'What Teachers Should Know About the Bootstrap', The
    American Statistician 69, 2015; for several strata with the degrees of freedom of Welch and Satterthwaite, from the
    jackknife). It holds the value, and nothing beyond that and what resamples reach. Resamples that give no value are
    left out.

    Args:
        statistic: From weights ``[resamples, networks]`` to values ``[resamples]``.
        strata: One name for each network; networks are drawn within strata, each of its own size.
        seed: Of the resampling.
        resamples: How many to draw.
        level: Coverage to aim at.

    Returns:
        Value and interval; no interval where a stratum has fewer than 3 networks, or where most resamples give no
        value.

    Raises:
        RelationError: If there is no network, or the networks themselves give no value.

    Example:
        >>> values = np.array([1.0, 2.0, 3.0, 4.0])
        >>> found = bootstrap(lambda weights: weights @ values / weights.sum(1), ["sgd"] * 4)
        >>> found.value, found.low < 2 < 3 < found.high
        (2.5, True)
    """
    networks = len(strata)
    value = float(statistic(np.ones((1, networks)))[0]) if networks else math.nan
    if not math.isfinite(value):
        raise RelationError(
            f"expected a statistic that has a value on all {networks} networks, got none: leave out what was not "
            "measured, or measure it"
        )
    if min(map(list(strata).count, strata)) < FEWEST:
        return Interval(value, None, None, networks, 0)
    values = statistic(draws(strata, seed=seed, resamples=resamples))
    values = values[np.isfinite(values)]
    if len(values) < resamples / 2:
        return Interval(value, None, None, networks, len(values))
    settled = settle(np.append(value, values))
    low, high = np.quantile(values, _cuts(settled[0], settled[1:], _deviate(statistic, strata, level)))
    return Interval(value, min(float(low), value), max(float(high), value), networks, len(values))


def settle(values: Floats) -> Floats:
    """Round to 12 digits of the largest: what is equal in exact arithmetic becomes equal, on every processor.

    Args:
        values: Numbers of one kind, of any shape; NaN stays.

    Returns:
        The same shape.
    """
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    rounded: Floats = np.round(values / largest, 12) * largest
    return rounded


def draws(strata: Sequence[str], *, seed: int, resamples: int) -> Floats:
    """Weights of resampled networks.

    Args:
        strata: One name for each network.
        seed: Of the drawing.
        resamples: How many.

    Returns:
        How often each network was drawn, ``[resamples, networks]``; a row sums to the size of each stratum over it.
    """
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, len(strata)))
    for columns in _columns(strata):
        size = len(columns)
        weights[:, columns] = generator.multinomial(size, np.full(size, 1 / size), size=resamples)
    return weights


def _columns(strata: Sequence[str]) -> list[list[int]]:
    return [[i for i, name in enumerate(strata) if name == stratum] for stratum in dict.fromkeys(strata)]


def _cuts(value: float, values: Floats, deviate: float) -> list[float]:
    """The probabilities below both ends."""
    # Ties with the value count by halves: where nothing varies, nothing is to be corrected.
    below = ((values < value).sum() + (values <= value).sum()) / (2 * len(values))
    bias = stats.norm.ppf(np.clip(below, 1 / len(values), 1 - 1 / len(values)))
    return [float(stats.norm.cdf(2 * bias + sign * deviate)) for sign in (-1, 1)]


def _deviate(statistic: Statistic, strata: Sequence[str], level: float) -> float:
    """How many standard deviations of the resampled values the interval reaches to either side."""
    sizes, variances = _contributions(statistic, strata)
    total = variances.sum()
    if not total > 0:
        # Nothing varies, or leaving one network out leaves no value: be as careful as for the smallest stratum.
        sizes, variances, total = sizes.min(keepdims=True), np.ones(1), np.float64(1)
    freedom = total**2 / (variances**2 / (sizes - 1)).sum()
    # Resampled means vary by (n - 1) / n less than means do.
    narrow = (variances * (sizes - 1) / sizes).sum() / total
    return float(stats.t.ppf((1 + level) / 2, freedom) / math.sqrt(narrow))


def _contributions(statistic: Statistic, strata: Sequence[str]) -> tuple[Floats, Floats]:
    """Size of each stratum, and its part of the jackknife's variance."""
    left_out = settle(statistic(1 - np.eye(len(strata))))
    columns = _columns(strata)
    sizes = np.array([float(len(column)) for column in columns])
    variances = np.array([left_out[column].var() * (len(column) - 1) for column in columns])
    return sizes, variances
