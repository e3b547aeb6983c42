"""Statistics as functions of weights ``[resamples, networks]``: a network counts as often as its weight says."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from compare.relations.bootstrap import Floats, Statistic, settle

Booleans = NDArray[np.bool_]

# A number for each network, the same in each resample ``[networks]``, or one that weights decide.
Numbers = Floats | Callable[[Floats], Floats]

# Ranks compare all networks with all: some resamples at a time keep that small.
CHUNK = 1000


def mean(values: Floats, where: Booleans | None = None) -> Statistic:
    """Mean over networks.

    Args:
        values: One for each network ``[networks]``; NaN where not measured, which counts as not there.
        where: Networks that count; all by default.

    Returns:
        From weights to means ``[resamples]``.

    Example:
        >>> mean(np.array([1.0, 4.0]))(np.array([[1.0, 1.0], [2.0, 1.0]]))
        array([2.5, 2. ])
    """
    counted = np.isfinite(values) & (True if where is None else where)
    kept = np.where(counted, values, 0.0)
    return lambda weights: _ratio(weights @ kept, weights @ counted.astype(float))


def pair_mean(matrix: Floats, where: Booleans | None = None) -> Statistic:
    """Mean over pairs; a pair weighs the product of its ends' weights, and no network pairs with itself.

    Args:
        matrix: Symmetric, ``[networks, networks]``; NaN where not measured, which counts as not there.
        where: Symmetric: pairs that count; all by default.

    Returns:
        From weights to means ``[resamples]``.
    """
    kept, counted = _pairs(matrix, where)
    return lambda weights: _ratio(((weights @ kept) * weights).sum(1), ((weights @ counted) * weights).sum(1))


def partner_mean(matrix: Floats, where: Booleans | None = None) -> Callable[[Floats], Floats]:
    """Mean over the pairs of each network; a pair weighs as much as the other end does.

    Args:
        matrix: As for ``pair_mean``.
        where: As for ``pair_mean``.

    Returns:
        From weights to means ``[resamples, networks]``, NaN for a network whose partners are not in the resample.
    """
    kept, counted = _pairs(matrix, where)
    return lambda weights: _ratio(weights @ kept, weights @ counted)


def difference(first: Statistic, second: Statistic) -> Statistic:
    """First minus second, in the same resample."""
    return lambda weights: first(weights) - second(weights)


def average(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of several statistics of the same resample, at least one."""
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def rank_correlation(first: Numbers, second: Numbers) -> Statistic:
    """Spearman's rank correlation over networks: a network of weight 2 counts as two that are tied.

    Args:
        first: Finite numbers, or a function of weights such as ``partner_mean``.
        second: The same.

    Returns:
        From weights to correlations ``[resamples]``; NaN where all ranks are equal, or a network that is in the
        resample has no number.
    """

    def correlations(weights: Floats) -> Floats:
        parts = np.split(weights, range(CHUNK, len(weights), CHUNK))
        return np.concatenate([_correlation(_ranks(first, part), _ranks(second, part), part) for part in parts])

    return correlations


def _pairs(matrix: Floats, where: Booleans | None) -> tuple[Floats, Floats]:
    counted = np.isfinite(matrix) & (True if where is None else where) & ~np.eye(len(matrix), dtype=bool)
    return np.where(counted, matrix, 0.0), counted.astype(float)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _ranks(numbers: Numbers, weights: Floats) -> Floats:
    """Mid-ranks ``[resamples, networks]`` up to a constant, which correlation does not see."""
    values = settle(numbers(weights) if callable(numbers) else numbers[None])
    lower = values[:, None, :] < values[:, :, None]
    equal = values[:, None, :] == values[:, :, None]
    ranks = np.einsum("rj,rij->ri", weights, np.broadcast_to(lower + equal / 2, (len(weights), *lower.shape[1:])))
    return np.where(np.isfinite(values), ranks, np.nan)


def _correlation(first: Floats, second: Floats, weights: Floats) -> Floats:
    # What is not in the resample must not spread its NaN.
    x, y = (_centred(np.where(weights > 0, ranks, 0.0), weights) for ranks in (first, second))
    across = (weights * x * y).sum(1)
    own = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    # Ranks are halves of whole numbers and means of few: equal ones centre to rounding, not to 0.
    correlations: Floats = np.divide(across, own, out=np.full_like(across, np.nan), where=own > 1e-9)
    return correlations


def _centred(ranks: Floats, weights: Floats) -> Floats:
    centred: Floats = ranks - (weights * ranks).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    return centred
