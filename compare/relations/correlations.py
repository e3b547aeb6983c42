"""Do flatter minima err less, lie closer together, and have lower barriers? Rank correlations over networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from compare.relations.bootstrap import RESAMPLES, Floats, Interval
from compare.relations.intervals import correlation, correlation_with_pairs
from compare.relations.measures import Barriers, Sizes, algorithms, barriers, distances, errors, flatness, within
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
        interval: Correlation and interval; None where it is not defined, since nothing or all the same was measured.
    """

    flatness: str
    target: str
    partners: Partners | None
    interval: Interval | None


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
    return tuple(
        Correlation(measure.name, target, partners, interval)
        for measure in flatness(study, sizes)
        for target, partners, interval in _targets(study, measure.values, resamples)
    )


def _targets(study: Study, values: Floats, resamples: int) -> Iterator[tuple[str, Partners | None, Interval | None]]:
    strata = algorithms(study)
    yield "test error", None, correlation(values, errors(study, "test"), strata, resamples=resamples)
    matrices = {"distance": distances(study, "matched")}
    for statistics in get_args(Statistics):
        matrices[f"barrier, {statistics}"] = barriers(study, Barriers("matched", "geodesic", statistics))
    everyone = np.ones((len(strata), len(strata)), dtype=bool)
    for target, matrix in matrices.items():
        for partners, where in zip(get_args(Partners), (within(study), everyone), strict=True):
            yield target, partners, correlation_with_pairs(values, matrix, strata, where, resamples=resamples)
