"""Means, differences and rank correlations of a study's arrays, each over the networks that have what it needs."""

import numpy as np

from compare.relations.bootstrap import RESAMPLES, Floats, Interval, Statistic, bootstrap, settle
from compare.relations.statistics import (
    Booleans,
    average,
    difference,
    mean,
    pair_mean,
    partner_mean,
    rank_correlation,
)


def network_difference(
    values: Floats, strata: tuple[str, ...], first: str, second: str, *, resamples: int = RESAMPLES
) -> Interval | None:
    """Mean of the first stratum minus that of the second; None where either has no value."""
    own = np.array(strata)
    kept = np.isfinite(values) & np.isin(own, (first, second))
    own, values = own[kept], values[kept]
    if not {first, second} <= set(own.tolist()):
        return None
    return bootstrap(
        difference(mean(values, own == first), mean(values, own == second)), own.tolist(), resamples=resamples
    )


def pairs_mean(
    matrix: Floats, strata: tuple[str, ...], where: Booleans, *, resamples: int = RESAMPLES
) -> Interval | None:
    """Mean over the pairs that ``where`` names; None where none was measured."""
    kept = _ends(matrix, where)
    if not kept.any():
        return None
    parts = np.ix_(kept, kept)
    return bootstrap(pair_mean(matrix[parts], where[parts]), _chosen(strata, kept), resamples=resamples)


def pairs_mean_of_each(matrix: Floats, strata: tuple[str, ...], *, resamples: int = RESAMPLES) -> Interval | None:
    """Mean over the strata of the mean over the pairs within each; None where none was measured.

    Strata count alike. Pairs counted alike would be a mixture that changes from resample to resample, since copies of
    one network are no pair.
    """
    own = np.array(strata)
    same = own[:, None] == own
    kept = _ends(matrix, same)
    if not kept.any():
        return None
    parts = np.ix_(kept, kept)
    means = [pair_mean(matrix[parts], same[parts] & (own[kept] == name)) for name in dict.fromkeys(own[kept].tolist())]
    return bootstrap(average(means), _chosen(strata, kept), resamples=resamples)


def pairs_difference(
    matrix: Floats, strata: tuple[str, ...], first: Booleans, second: Booleans, *, resamples: int = RESAMPLES
) -> Interval | None:
    """Mean over the pairs of ``first`` minus that of ``second``; None where either has no pair."""
    ends = [_ends(matrix, where) for where in (first, second)]
    if not all(some.any() for some in ends):
        return None
    kept = np.any(ends, axis=0)
    parts = np.ix_(kept, kept)
    means = [pair_mean(matrix[parts], where[parts]) for where in (first, second)]
    return bootstrap(difference(*means), _chosen(strata, kept), resamples=resamples)


def correlation(
    first: Floats, second: Floats, strata: tuple[str, ...], *, resamples: int = RESAMPLES
) -> Interval | None:
    """Spearman's rank correlation of two numbers of each network; None where it is not defined."""
    kept = with_both(first, second)
    x, y = first[kept], second[kept]
    if not (_varies(x) and _varies(y)):
        return None
    return bootstrap(rank_correlation(x, y), _chosen(strata, kept), resamples=resamples)


def correlation_within(
    first: Floats, second: Floats, strata: tuple[str, ...], *, resamples: int = RESAMPLES
) -> Interval | None:
    """Mean over the strata of Spearman's rank correlation within each; None where it is defined in none.

    Strata count alike; one in which one of the numbers is the same for all networks is left out.
    """
    own, kept = np.array(strata), with_both(first, second)
    parts = [kept & (own == name) for name in dict.fromkeys(strata)]
    parts = [part for part in parts if _varies(first[part]) and _varies(second[part])]
    if not parts:
        return None
    whole = np.any(parts, axis=0)
    means = average([_on(part[whole], rank_correlation(first[part], second[part])) for part in parts])
    return bootstrap(means, _chosen(strata, whole), resamples=resamples)


def _on(part: Booleans, statistic: Statistic) -> Statistic:
    return lambda weights: statistic(weights[:, part])


def correlation_with_pairs(
    values: Floats, matrix: Floats, strata: tuple[str, ...], where: Booleans, *, resamples: int = RESAMPLES
) -> Interval | None:
    """Spearman's rank correlation of a number of each network with the mean over its pairs that ``where`` names."""
    kept = with_pairs(values, matrix, where)
    parts = np.ix_(kept, kept)
    partners = partner_mean(matrix[parts], where[parts])
    if not (_varies(values[kept]) and _varies(partners(np.ones((1, int(kept.sum()))))[0])):
        return None
    return bootstrap(rank_correlation(values[kept], partners), _chosen(strata, kept), resamples=resamples)


def with_both(first: Floats, second: Floats) -> Booleans:
    """Networks that have both numbers."""
    both: Booleans = np.isfinite(first) & np.isfinite(second)
    return both


def with_pairs(values: Floats, matrix: Floats, where: Booleans) -> Booleans:
    """Networks that have a number, and a pair that ``where`` names with another that has one."""
    counted: Booleans = np.isfinite(values) & _ends(np.where(np.isfinite(values)[None], matrix, np.nan), where)
    return counted


def _ends(matrix: Floats, where: Booleans) -> Booleans:
    """Networks with a pair that counts."""
    counted = np.isfinite(matrix) & where & ~np.eye(len(matrix), dtype=bool)
    ends: Booleans = counted.sum(1) > 0
    return ends


def _varies(values: Floats) -> bool:
    settled = settle(values)
    return len(values) > 1 and bool(np.isfinite(values).all()) and bool((settled != settled[0]).any())


def _chosen(strata: tuple[str, ...], kept: Booleans) -> list[str]:
    return [name for name, one in zip(strata, kept, strict=True) if one]
