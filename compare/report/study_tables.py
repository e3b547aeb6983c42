"""Tables of studies: each row a precision and an algorithm, or two, means with intervals over networks."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compare.relations.bootstrap import RESAMPLES, Floats, Interval
from compare.relations.intervals import pairs_mean
from compare.relations.measures import (
    EIGENVALUE,
    ENERGY,
    FLIPS,
    TRACE,
    WORST,
    Barriers,
    HeightName,
    Sizes,
    above_ends,
    across,
    algorithms,
    ball,
    barriers,
    distances,
    errors,
    flatness,
    rise,
    within,
)
from compare.relations.statistics import Booleans
from compare.report.numbers import MISSING, percent, show
from compare.report.table import SPLITS, STATISTICS, TREATMENTS, Table
from compare.runs.record import PathKind, SplitName, Statistics, Treatment
from compare.runs.study import Bent, Study, Worst

Cells = tuple[str, ...]

# Treatment and path of each barrier, in the order of the symmetries' removal.
STEPS: tuple[tuple[Treatment, PathKind], ...] = (
    ("as trained", "linear"),
    ("standard form", "linear"),
    ("standard form", "geodesic"),
    ("matched", "linear"),
    ("matched", "geodesic"),
)
INTERVAL = "Mean over pairs [95 % interval over networks]"


@dataclass(frozen=True)
class Lot:
    """Pairs that are averaged.

    Attributes:
        name: Their algorithm, or both.
        where: The pairs ``[networks, networks]``.
    """

    name: str
    where: Booleans


def interval_text(interval: Interval | None, *, scale: float = 1.0, digits: int = 2) -> str:
    """``value [low, high]``, the value alone where there is no interval.

    Args:
        interval: What to show; None where nothing was measured.
        scale: Factor before rounding.
        digits: Decimals.

    Returns:
        Text for a table's cell.

    Example:
        >>> interval_text(Interval(0.021, 0.01, 0.03, networks=5, resamples=1000), scale=100)
        '2.10 [1.00, 3.00]'
    """
    if interval is None:
        return MISSING
    value = _rounded(interval.value * scale, digits)
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{_rounded(interval.low * scale, digits)}, {_rounded(interval.high * scale, digits)}]"


def _rounded(value: float, digits: int) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def plural(number: int, what: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def names(study: Study) -> tuple[str, ...]:
    """The algorithms, each once, in the order of the study."""
    return tuple(dict.fromkeys(algorithms(study)))


def own(study: Study) -> tuple[Lot, ...]:
    """The pairs of each algorithm."""
    return tuple(Lot(name, within(study, name)) for name in names(study))


def crossed(study: Study) -> tuple[Lot, ...]:
    """The pairs of each two algorithms."""
    return tuple(Lot(f"{a}, {b}", across(study, a, b)) for a, b in itertools.combinations(names(study), 2))


def quality(studies: Sequence[Study]) -> Table:
    """How well networks solve the task."""
    return Table(
        "Solution quality: error of the networks (% of samples)",
        "Fraction misclassified of the train and of the test samples; mean ± standard deviation over networks.",
        ("precision", "algorithm", "train error", "test error", "parameters", "training (s)", "networks"),
        tuple(
            (
                study.precision,
                name,
                *(percent(_finite(errors(study, split)[chosen])) for split in SPLITS),
                " or ".join(dict.fromkeys(str(n.parameters) for n in study.networks if n.algorithm == name)),
                show((n.seconds["training"] for n in study.networks if n.algorithm == name), digits=1),
                str(int(chosen.sum())),
            )
            for study, name, chosen in _rows(studies)
        ),
        keys=2,
    )


def energies(studies: Sequence[Study], what: str) -> Table:
    """Rise of the error for each size of a change: ``energy`` (noise) or ``flips`` (of bits)."""
    sizes = _sizes(studies, what)
    title, note, unit = _RISES[what]
    measured = dict.fromkeys(
        f"{rises.samples} {rises.split} samples"
        for study in studies
        for n in study.networks
        if (rises := getattr(n, what))
    )
    return Table(
        f"{title} (pp)",
        f"{note} Error after the change minus error before, on {' or '.join(measured)}, mean over draws, in percentage "
        "points (pp); mean ± standard deviation over networks. Standard error: of the mean over the draws of one "
        "network, the largest in the row.",
        (
            "precision",
            "algorithm",
            *(unit.format(_scaled_size(size, what)) for size in sizes),
            "standard error",
            "networks",
        ),
        tuple(_rise_rows(studies, what, sizes)),
        keys=2,
    )


_RISES = {
    "energy": (
        "Flatness: local energy",
        "Each weight w of a network in standard form (a latent weight where there is one) becomes w + σ z w, "  # noqa: RUF001
        "z standard normal.",
        "σ = {}",  # noqa: RUF001
    ),
    "flips": (
        "Flatness: rise of the error with bit flips",
        "Of the binary weights the share that the column names is negated, drawn at random: round(p * bits) of them "
        "for a share p.",
        "{} %",
    ),
}


def _sizes(studies: Sequence[Study], what: str) -> list[float]:
    found = {size for s in studies for n in s.networks if (rises := getattr(n, what)) for size in rises.sizes}
    return sorted(found)


def _scaled_size(size: float, what: str) -> str:
    return f"{100 * size:g}" if what == "flips" else f"{size:g}"


def _rise_rows(studies: Sequence[Study], what: str, sizes: Sequence[float]) -> Iterator[Cells]:
    for study, name, _ in _rows(studies):
        found = [r for n in study.networks if n.algorithm == name and (r := getattr(n, what)) is not None]
        if found:
            cells = (percent(v for r in found if (v := rise(r, size)) is not None) for size in sizes)
            worst = max(error for rises in found for error in rises.standard_errors)
            yield study.precision, name, *cells, percent([worst]), str(len(found))


def sharpness(studies: Sequence[Study]) -> Table:
    """Worst-case rise in a ball, and curvature."""
    balls = (f"{s.precision}: {ball(n.worst)}" for s in studies for n in s.networks if n.worst is not None)
    return Table(
        "Flatness: worst rise in a ball, and curvature",
        "Worst rise: loss (nats) at the network of the largest loss that was found in a ball, minus the network's own; "
        "beside it the error there (%), which need not be the largest. A ball of weights: w (1 + z), root mean square "
        "of z at most the radius; of bits: at most that share of them negated. Eigenvalue and trace: of the Hessian of "
        "the loss (nats) with respect to such z, the "
        f"largest one found. {'. '.join(dict.fromkeys(balls))}. Mean ± standard deviation over networks. Surrogate: "
        "the search, or the Hessian, followed straight-through gradients, which are no derivative of the error.",
        (
            "precision",
            "algorithm",
            "worst rise (nats)",
            "error there (%)",
            "eigenvalue",
            "trace",
            "gradient",
            "networks",
        ),
        tuple(_sharpness_rows(studies)),
        keys=2,
    )


def _sharpness_rows(studies: Sequence[Study]) -> Iterator[Cells]:
    digits = {kind: _decimals(studies, kind) for kind in (WORST, EIGENVALUE, TRACE)}
    for study, name, chosen in _rows(studies):
        found = {measure.kind: list(_finite(measure.values[chosen])) for measure in flatness(study)}
        parts = [part for n in study.networks if n.algorithm == name for part in (n.worst, n.curvature) if part]
        if parts:
            kind = "surrogate" if any(part.surrogate for part in parts) else "exact"
            higher, *curved = (show(found.get(what, ()), digits=n) for what, n in digits.items())
            worst = percent(part.worst_error for part in parts if isinstance(part, Worst))
            yield study.precision, name, higher, worst, *curved, kind, str(int(chosen.sum()))


def _decimals(studies: Sequence[Study], kind: str) -> int:
    """The same for a whole column, 2 to 6: so many that the smallest number keeps two significant digits."""
    found = (value for s in studies for one in flatness(s) if one.kind == kind for value in one.values.tolist())
    sizes = [abs(value) for value in found if np.isfinite(value) and value]
    return min(6, max(2, 1 - math.floor(math.log10(min(sizes))))) if sizes else 2


def pair_distances(studies: Sequence[Study], *, resamples: int = RESAMPLES) -> Table:
    """Distances within and across algorithms."""
    return Table(
        "Distance between two networks",
        "RMS angle: root mean square over all spheres (one for each hidden unit's incoming weights, one for the last "
        "layer) of the angle between the two networks, in radians; independent directions have π/2 = 1.571. Hamming: "
        f"binary weights that differ in sign, in %; independent signs have 50. {INTERVAL}. One name: both networks are "
        "of that algorithm; two: one of each.",
        ("precision", "algorithms", *(f"{name} (rad)" for name in TREATMENTS), "Hamming matched (%)", "pairs"),
        tuple(_distance_rows(studies, resamples)),
        keys=2,
    )


def _distance_rows(studies: Sequence[Study], resamples: int) -> Iterator[Cells]:
    for study in studies:
        angles = [distances(study, treatment) for treatment in TREATMENTS]
        bits = distances(study, "matched", "hamming")
        for lot in within_and_across(study):
            number = max(_count(matrix, lot.where) for matrix in angles)
            if number:
                cells = (_pairs_text(study, m, lot, digits=3, resamples=resamples) for m in angles)
                differ = _pairs_text(study, bits, lot, scale=100, resamples=resamples)
                yield study.precision, lot.name, *cells, differ, str(number)


def _pairs_text(study: Study, matrix: Floats, lot: Lot, *, resamples: int, scale: float = 1.0, digits: int = 2) -> str:
    """Mean over pairs; ``0`` where each is exactly 0."""
    measured = matrix[np.isfinite(matrix) & lot.where]
    if len(measured) and not measured.any():
        return "0"
    found = pairs_mean(matrix, algorithms(study), lot.where, resamples=resamples)
    return interval_text(found, scale=scale, digits=digits)


def within_and_across(study: Study) -> tuple[Lot, ...]:
    """The pairs of each algorithm, then those of each two."""
    return (*own(study), *crossed(study))


def pair_heights(
    studies: Sequence[Study],
    split: SplitName,
    height: HeightName = "barrier",
    *,
    lots: Callable[[Study], tuple[Lot, ...]] = within_and_across,
    resamples: int = RESAMPLES,
) -> Table:
    """Heights of ``lots`` of pairs, all treatments side by side."""
    title, formula = _HEIGHTS[height]
    steps = [
        step
        for step in STEPS
        if any((h.treatment, h.path) == step for s in studies for p in s.pairs for h in p.heights)
    ]
    return Table(
        f"{title}, {split} samples ({'%' if height == 'midpoint' else 'pp'})",
        f"{formula} {INTERVAL}. One name: both networks are of that algorithm; two: one of each.",
        ("statistics", "precision", "algorithms", *(f"{treatment}, {path}" for treatment, path in steps), "pairs"),
        tuple(
            row
            for how, study in itertools.product(STATISTICS, studies)
            for row in _height_rows(
                study, lots(study), [Barriers(*step, how, split) for step in steps], height, resamples
            )
        ),
        keys=3,
    )


_HEIGHTS: dict[HeightName, tuple[str, str]] = {
    "barrier": (
        "Barrier",
        "Max over t of error(t) - max(error(0), error(1)) on the path, in percentage points (pp).",
    ),
    "over_chord": (
        "Height over the chord",
        "Max over t of error(t) - (1 - t) error(0) - t error(1) on the path, in percentage points (pp).",
    ),
    "midpoint": ("Error at the midpoint", "Error at t = 1/2 (or nearest to it) of the path, in % of samples."),
}


def _height_rows(
    study: Study, lots: Sequence[Lot], wanted: Sequence[Barriers], height: HeightName, resamples: int
) -> Iterator[Cells]:
    matrices = [barriers(study, one, height) for one in wanted]
    for lot in lots:
        number = max((_count(matrix, lot.where) for matrix in matrices), default=0)
        if number:
            cells = (_pairs_text(study, m, lot, scale=100, resamples=resamples) for m in matrices)
            yield wanted[0].statistics, study.precision, lot.name, *cells, str(number)


def bends(studies: Sequence[Study]) -> Table:
    """Trained bends: reached, or the best."""
    norms = dict.fromkeys(f"{one.path}: {one.norm}" for study in studies for bend in study.bends for one in bend.bends)
    return Table(
        "One bend, train samples",
        "Two pieces through a trained middle. Straight and bend: highest error on the path, in % of samples. Above "
        "ends: highest error on the bend minus that of the worse end, in percentage points (pp), then that of the best "
        "bend. Reached: bends whose highest error is at most their target (the worse end's error and a margin). "
        f"Length: of the bend, over that of the straight path ({'; '.join(norms)}). Mean ± standard deviation over "
        "bends; n: bends.",
        (
            *("statistics", "precision", "algorithms", "treatment", "path"),
            *("straight (%)", "bend (%)", "above ends (pp)", "best (pp)", "reached", "length", "epochs", "n"),
        ),
        tuple(row for how, study in itertools.product(STATISTICS, studies) for row in _bend_rows(study, how)),
        keys=5,
    )


def _bend_rows(study: Study, how: Statistics) -> Iterator[Cells]:
    found: dict[tuple[str, str, str], list[Bent]] = {}
    owner = {network.name: network.algorithm for network in study.networks}
    for bend in study.bends:
        lot = ", ".join(dict.fromkeys(owner.get(name, name) for name in bend.networks))
        for bent in bend.bends:
            if (bent.split, bent.statistics) == ("train", how):
                found.setdefault((lot, bent.treatment, bent.path), []).append(bent)
    for (lot, treatment, path), some in found.items():
        yield (how, study.precision, lot, treatment, path, *_bend_cells(some))


def _bend_cells(found: Sequence[Bent]) -> Cells:
    return (
        percent(max(bent.straight_errors) for bent in found),
        percent(max(bent.errors) for bent in found),
        percent(above_ends(bent) for bent in found),
        percent([min(above_ends(bent) for bent in found)]),
        f"{sum(bent.reached for bent in found)} of {len(found)}",
        show((bent.length / bent.straight_length for bent in found if bent.straight_length), digits=3),
        " or ".join(dict.fromkeys(str(bent.epochs) for bent in found)),
        str(len(found)),
    )


def measured_at(study: Study, sizes: Sizes | None) -> str:
    """Which rises of the error stand for flatness: ``local energy, σ = 0.3``."""
    return "; ".join(measure.name for measure in flatness(study, sizes) if measure.kind in (ENERGY, FLIPS))


def _rows(studies: Sequence[Study]) -> Iterator[tuple[Study, str, Booleans]]:
    for study in studies:
        for name in names(study):
            yield study, name, np.array(algorithms(study)) == name


def _count(matrix: Floats, where: Booleans) -> int:
    return int((np.isfinite(matrix) & where).sum()) // 2


def _finite(values: Floats) -> list[float]:
    return [float(value) for value in values if np.isfinite(value)]
