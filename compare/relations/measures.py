"""A study's numbers as arrays: one for each network, or a matrix for its pairs; NaN where nothing was measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compare.relations.bootstrap import Floats, RelationError
from compare.relations.statistics import Booleans
from compare.runs.record import Distance, PathKind, SplitName, Statistics, Treatment
from compare.runs.study import Bent, Height, Member, Pair, Rises, Study, Worst

Amount = Literal["rms_angle", "hamming"]
HeightName = Literal["barrier", "over_chord", "midpoint"]


@dataclass(frozen=True)
class Sizes:
    """Which size of a change the flatness measures are taken at.

    Attributes:
        energy: Sigma of the local energy; None takes the middle of those measured, the larger of two.
        flips: Fraction of flipped bits; None likewise.
    """

    energy: float | None = None
    flips: float | None = None


@dataclass(frozen=True)
class Barriers:
    """Which errors on paths are meant.

    Attributes:
        treatment: Of the networks.
        path: Kind of path.
        statistics: What happens to normalisation statistics on the path.
        split: Samples.
    """

    treatment: Treatment
    path: PathKind
    statistics: Statistics
    split: SplitName = "train"


@dataclass(frozen=True)
class Flatness:
    """One measure of flatness: the larger, the sharper.

    Attributes:
        kind: What it is, without its size.
        name: What it is, with its size.
        values: One for each network ``[networks]``.
    """

    kind: str
    name: str
    values: Floats


ENERGY, FLIPS, WORST = "local energy", "rise with bit flips", "worst rise of the loss in a ball"
EIGENVALUE, TRACE = "largest Hessian eigenvalue", "Hessian trace"


def algorithms(study: Study) -> tuple[str, ...]:
    """The algorithm of each network, in the order of the networks."""
    return tuple(network.algorithm for network in study.networks)


def errors(study: Study, split: SplitName) -> Floats:
    """Error of each network, a fraction."""
    return _each(study, lambda network: network.errors.get(split))


def flatness(study: Study, sizes: Sizes | None = None) -> tuple[Flatness, ...]:
    """All measures of flatness that some network has.

    Rises of the error are fractions; rises of the loss are nats, as Hessian numbers are, for changes that are fractions
    of each weight. In a ball the loss counts, since that is what the search raises; the error there need not be large.

    Args:
        study: The study.
        sizes: Which sizes of the local energy and of bit flips.

    Returns:
        Local energy, bit flips, rise of the loss at the worst network of the ball, largest Hessian eigenvalue, trace.

    Raises:
        RelationError: If a size was not measured.
    """
    sizes = sizes or Sizes()
    sigma = size_of((network.energy for network in study.networks), sizes.energy)
    fraction = size_of((network.flips for network in study.networks), sizes.flips)
    worst = next((network.worst for network in study.networks if network.worst is not None), None)
    found = (
        Flatness(ENERGY, f"{ENERGY}, σ = {sigma:g}", _each(study, lambda n: rise(n.energy, sigma))),  # noqa: RUF001
        Flatness(FLIPS, f"{FLIPS}, {100 * fraction:g} % of weights", _each(study, lambda n: rise(n.flips, fraction))),
        Flatness(WORST, WORST if worst is None else ball(worst), _each(study, _rise_to_worst)),
        Flatness(EIGENVALUE, EIGENVALUE, _each(study, _largest)),
        Flatness(TRACE, TRACE, _each(study, lambda n: None if n.curvature is None else n.curvature.trace)),
    )
    return tuple(measure for measure in found if np.isfinite(measure.values).any())


def size_of(found: Iterable[Rises | None], wanted: float | None) -> float:
    """The size asked for, or the middle of those of the first network that has some; 0 where nothing was measured.

    Raises:
        RelationError: If the size that is asked for was not measured.
    """
    sizes = next((rises.sizes for rises in found if rises is not None), ())
    if not sizes:
        return 0.0
    if wanted is not None and wanted not in sizes:
        raise RelationError(f"expected a size that was measured, {', '.join(map(str, sizes))}, got {wanted}")
    return sizes[len(sizes) // 2] if wanted is None else wanted


def rise(rises: Rises | None, size: float) -> float | None:
    """The rise of the error at one size, or None where it was not measured."""
    return None if rises is None else dict(zip(rises.sizes, rises.rises, strict=True)).get(size)


def ball(worst: Worst) -> str:
    """What the worst network was sought in: ``worst rise of the loss in a ball of weights, radius 0.1``."""
    size = f"radius {worst.radius:g}" if worst.ball == "weights" else f"{100 * worst.radius:g} % of them"
    return f"{WORST} of {worst.ball}, {size}"


def _rise_to_worst(network: Member) -> float | None:
    return None if network.worst is None else network.worst.worst_loss - network.worst.loss


def _largest(network: Member) -> float | None:
    return None if network.curvature is None else max(network.curvature.eigenvalues)


def distances(study: Study, treatment: Treatment, amount: Amount = "rms_angle") -> Floats:
    """Distance of each pair ``[networks, networks]``: root mean square angle (radians), or Hamming fraction."""

    def of(pair: Pair) -> float | None:
        found: Distance | None = next((d for d in pair.distances if d.treatment == treatment), None)
        return None if found is None else getattr(found, amount)

    return _matrix(study, of)


def angles(study: Study, treatment: Treatment) -> Floats:
    """Distance of each pair ``[networks, networks]`` as an angle in radians, of what the networks compute with.

    Of binary networks arccos(1 - 2 d), d the Hamming fraction: sizes of latent weights change nothing and differ from
    algorithm to algorithm, so that angles between latent rows would be differences of these. Of others the root mean
    square angle.
    """
    bits = distances(study, treatment, "hamming")
    measured = np.isfinite(bits).any()
    return np.arccos(np.clip(1 - 2 * bits, -1, 1)) if measured else distances(study, treatment)


def barriers(
    study: Study, wanted: Barriers, height: Literal["barrier", "over_chord", "midpoint"] = "barrier"
) -> Floats:
    """Height of each pair ``[networks, networks]``, as a fraction of the samples."""
    kind = (wanted.treatment, wanted.path, wanted.statistics, wanted.split)

    def of(pair: Pair) -> float | None:
        found: Height | None = next(
            (h for h in pair.heights if (h.treatment, h.path, h.statistics, h.split) == kind), None
        )
        return None if found is None else getattr(found, height)

    return _matrix(study, of)


def excesses(study: Study, wanted: Barriers) -> Floats:
    """How far the trained bend of each pair rises above its worse end ``[networks, networks]``, a fraction.

    Of several bends of a pair the lowest counts.
    """
    found: dict[tuple[str, str], float] = {}
    for bend in study.bends:
        rises = [above_ends(b) for b in bend.bends if _kind(b) == wanted]
        if rises:
            first, second = sorted(bend.networks)
            found[first, second] = min([*rises, found.get((first, second), np.inf)])
    return _symmetric(study, found)


def _kind(measured: Height | Bent) -> Barriers:
    return Barriers(measured.treatment, measured.path, measured.statistics, measured.split)


def above_ends(bent: Bent) -> float:
    """The highest error on a bend minus that of the worse end, a fraction."""
    return max(bent.errors) - max(bent.errors[0], bent.errors[-1])


def within(study: Study, *names: str) -> Booleans:
    """Pairs of two networks of one algorithm ``[networks, networks]``; of any one, or one of ``names``."""
    own = np.array(algorithms(study))
    chosen = np.isin(own, names) if names else np.ones(len(own), dtype=bool)
    same: Booleans = (own[:, None] == own[None]) & chosen[:, None]
    return same


def across(study: Study, first: str, second: str) -> Booleans:
    """Pairs of a network of one algorithm and one of another ``[networks, networks]``."""
    own = np.array(algorithms(study))
    one = (own[:, None] == first) & (own[None] == second)
    both: Booleans = one | one.T
    return both


def _each(study: Study, of: Callable[[Member], float | None]) -> Floats:
    found = (of(network) for network in study.networks)
    return np.array([np.nan if value is None else value for value in found], dtype=float)


def _matrix(study: Study, of: Callable[[Pair], float | None]) -> Floats:
    found = {pair.networks: of(pair) for pair in study.pairs}
    return _symmetric(study, {ends: value for ends, value in found.items() if value is not None})


def _symmetric(study: Study, found: Mapping[tuple[str, str], float]) -> Floats:
    order = {network.name: i for i, network in enumerate(study.networks)}
    matrix = np.full((len(order), len(order)), np.nan)
    for (a, b), value in found.items():
        i, j = order[a], order[b]
        matrix[i, j] = matrix[j, i] = value
    return matrix
