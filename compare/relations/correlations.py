"""Do flatter minima err less, lie closer together, and have lower barriers? Rank correlations over networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from compare.relations.bootstrap import RESAMPLES, Interval
from compare.relations.intervals import correlation, correlation_with_pairs, with_both, with_pairs
from compare.relations.measures import (
    Barriers,
    Flatness,
    Sizes,
    algorithms,
    angles,
    barriers,
    errors,
    flatness,
    within,
)
from compare.runs.record import Statistics
from compare.runs.study import Study

Partners = Literal["own algorithm", "all"]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation between a measure of flatness and something else, over the networks of a study.

    Attributes:
        flatness: The measure; the larger, the sharper.
        target: Test error of the network, its mean distance from other networks, or its mean barrier to them.
        partners: Which other networks: of its own algorithm, or all; None for the test error.
        interval: Correlation and interval; None where it is not defined: fewer than two networks, or one of the two
            numbers is the same for all.
        networks: How many networks have both numbers.
    """

    flatness: str
    target: str
    partners: Partners | None
    interval: Interval | None
    networks: int


def correlations(study: Study, sizes: Sizes | None = None, *, resamples: int = RESAMPLES) -> tuple[Correlation, ...]:
    """Correlate each measure of flatness with test error, and with distances and barriers of matched pairs.

    Networks are resampled within each algorithm, so intervals are about more networks of these algorithms, not about
    other algorithms. Barriers are those of the geodesic between matched networks, on train samples.

    Args:
        study: Networks of several algorithms, with their pairs.
        sizes: Which sizes of the local energy and of bit flips.
        resamples: Of the bootstrap.

    Returns:
        One for each measure of flatness and target.
    """
    return tuple(found for measure in flatness(study, sizes) for found in _of_measure(study, measure, resamples))


def _of_measure(study: Study, measure: Flatness, resamples: int) -> Iterator[Correlation]:
    values, strata, test = measure.values, algorithms(study), errors(study, "test")
    found = correlation(values, test, strata, resamples=resamples)
    yield Correlation(measure.name, "test error", None, found, int(with_both(values, test).sum()))
    matrices = {"distance": angles(study, "matched")}
    for statistics in get_args(Statistics):
        matrices[f"barrier, {statistics}"] = barriers(study, Barriers("matched", "geodesic", statistics))
    everyone = np.ones((len(strata), len(strata)), dtype=bool)
    for target, matrix in matrices.items():
        for partners, where in zip(get_args(Partners), (within(study), everyone), strict=True):
            found = correlation_with_pairs(values, matrix, strata, where, resamples=resamples)
            yield Correlation(measure.name, target, partners, found, int(with_pairs(values, matrix, where).sum()))
