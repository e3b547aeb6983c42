"""The report's tables: what each number is, its unit, and its values for each precision."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from compare.report.ladder import ladder, ladder_barriers, local_energies
from compare.report.landscape import exact_errors, exact_networks, neighbourhoods, robustness
from compare.report.numbers import percent, show
from compare.report.sections import Group, Section, find
from compare.report.table import PATHS, SPLITS, STATISTICS, TREATMENTS, Table
from compare.runs.record import Control, Curve, Distance, SplitName, Treatment

SPREAD = (
    "Numbers are mean ± standard deviation over n pairs of networks (or networks, where it says so). Pairs share "
    "networks, so ± is a spread and not a standard error; a single value has no ±. "
    "0 without decimals is exactly zero, every time."
)
TERMS = (
    "As trained: the networks as they are. Standard form: scales of weights, sizes and signs of normalisation gains "
    "fixed, in each network alone and without changing its outputs. Matched: standard form, with the second network's "
    "units permuted (and negated where that changes nothing) to resemble the first's. Normalisation statistics (means "
    "and variances) on the path are interpolated with the weights, or re-estimated on train samples at each point."
)


def tables(section: Section) -> tuple[Table, ...]:
    """All tables of a section that have rows, the summary first."""
    made = (
        summary(section),
        ladder(section),
        ladder_barriers(section),
        quality(section),
        distances(section),
        *(barriers(section, split) for split in SPLITS),
        *(exact_errors(section, split) for split in SPLITS),
        exact_networks(section),
        neighbourhoods(section),
        robustness(section),
        local_energies(section),
        controls(section),
        matching(section),
    )
    return tuple(table for table in made if table.rows)


def summary(section: Section) -> Table:
    """One row a precision: how good the networks are, and the train error halfway between two of them."""
    return Table(
        "Summary: error (% of samples)",
        "Test error of the networks themselves, then train error halfway (t = 1/2, or nearest to it) on the straight "
        "line between two of them, with normalisation statistics interpolated; in the last column re-estimated.",
        ("precision", "test error", *(f"½ {name}" for name in TREATMENTS), "½ matched, re-estimated", "pairs"),
        tuple(_summary_row(group) for group in section.groups),
    )


def _summary_row(group: Group) -> tuple[str, ...]:
    halfway = [group.curves(treatment, "linear", "interpolated", "train") for treatment in TREATMENTS]
    halfway.append(group.curves("matched", "linear", "re-estimated", "train"))
    return (
        group.label,
        percent(_errors(group, "test")),
        *(percent(curve.midpoint_error for curve in curves) for curves in halfway),
        str(len(group.records)),
    )


def quality(section: Section) -> Table:
    """How well the networks solve the task."""
    measured = ", ".join(f"{number} {split} samples" for split, number in section.data.evaluated.items())
    return Table(
        "Solution quality: error of the networks (% of samples)",
        f"Fraction misclassified of {measured}; mean ± standard deviation over networks.",
        ("precision", "train error", "test error", "parameters", "networks"),
        tuple(
            (
                group.label,
                *(percent(_errors(group, split)) for split in SPLITS),
                " or ".join(dict.fromkeys(str(record.parameters) for record in group.records)),
                str(len(group.networks)),
            )
            for group in section.groups
        ),
    )


def _errors(group: Group, split: SplitName) -> list[float]:
    return [network.errors[split] for network in group.networks if split in network.errors]


def distances(section: Section) -> Table:
    """How far apart two networks of a precision are."""
    return Table(
        "Distance between two networks",
        "RMS angle: root mean square over all spheres (one for each hidden unit's incoming weights, one for the last "
        "layer) of the angle between the two networks, in radians; independent directions have π/2 = 1.571. Hamming: "
        "binary weights that differ in sign, in %; independent signs have 50.",
        ("treatment", "precision", "RMS angle (rad)", "Hamming (%)", "n"),
        tuple(
            (treatment, group.label, *cells)
            for treatment, group in itertools.product(TREATMENTS, section.groups)
            if (cells := _distance_cells([d for r in group.records for d in r.distances if d.treatment == treatment]))
        ),
        keys=2,
    )


def _distance_cells(found: Sequence[Distance]) -> tuple[str, ...]:
    if not found:
        return ()
    angles = show((distance.rms_angle for distance in found), digits=3)
    return angles, percent(d.hamming for d in found if d.hamming is not None), str(len(found))


def barriers(section: Section, split: SplitName) -> Table:
    """Errors on the paths, on one split."""
    return Table(
        f"Error on the path, {split} samples",
        "Midpoint: error at t = 1/2 (or nearest to it), in % of samples. Barrier: max over t of "
        "error(t) - max(error(0), error(1)). Over chord: max over t of error(t) - (1 - t) error(0) - t error(1). Both "
        "in percentage points (pp), over the t that were measured.",
        ("treatment", "path", "statistics", "precision", "midpoint (%)", "barrier (pp)", "over chord (pp)", "n"),
        tuple(_barrier_rows(section, split)),
        keys=4,
    )


def _barrier_rows(section: Section, split: SplitName) -> Iterator[tuple[str, ...]]:
    for treatment, path, statistics in itertools.product(TREATMENTS, PATHS, STATISTICS):
        for group in section.groups:
            curves = group.curves(treatment, path, statistics, split)
            if curves:
                yield (treatment, path, statistics, group.label, *_heights(curves), str(len(curves)))


def _heights(curves: Sequence[Curve]) -> tuple[str, str, str]:
    return (
        percent(curve.midpoint_error for curve in curves),
        percent(curve.barrier for curve in curves),
        percent(curve.barrier_over_chord for curve in curves),
    )


def controls(section: Section) -> Table:
    """What the same measurement gives where the answer is known."""
    return Table(
        "Null controls: where the answer is known",
        "Symmetric copy: a network against a random symmetric copy of itself; its barrier must vanish when matched. "
        "Untrained: a network against one with fresh parameters; matching must not connect them (this end errs near "
        "chance itself, so read the midpoint, not the barrier). Train samples, straight line, statistics "
        "interpolated; midpoint error in % of samples, barrier in percentage points; n: different controls.",
        ("control", "precision", *(f"{what} {how}" for what, how in itertools.product(_SHOWN, _CONTROLLED)), "n"),
        tuple(_control_rows(section)),
        keys=2,
    )


_CONTROLLED: tuple[Treatment, ...] = ("as trained", "matched")
_SHOWN: dict[str, Callable[[Curve], float]] = {
    "midpoint": lambda curve: curve.midpoint_error,
    "barrier": lambda curve: curve.barrier,
}


def _control_rows(section: Section) -> Iterator[tuple[str, ...]]:
    names = get_args(Control.model_fields["name"].annotation)
    for name, group in itertools.product(names, section.groups):
        found = group.controls(name)
        if found:
            cells = [
                percent(value(curve) for one in found if (curve := find(one.curves, treatment=treatment)) is not None)
                for value, treatment in itertools.product(_SHOWN.values(), _CONTROLLED)
            ]
            yield (name, group.label, *cells, str(len(found)))


def matching(section: Section) -> Table:
    """How good the matchings are."""
    return Table(
        "Matching: objective as a share of its upper bound (%)",
        "Objective: sum over tensors of the inner product of the first network's weights with those of the second, "
        "after matching. Bound: the best value of each tensor alone; no matching can exceed it, and 100 means proved "
        "optimal.",
        ("precision", "objective / bound (%)", "sweeps", "converged", "n"),
        tuple(
            (
                group.label,
                percent(r.match.objective / r.match.bound for r in group.records if r.match.bound),
                show((r.match.sweeps for r in group.records), digits=1),
                f"{sum(r.match.converged for r in group.records)} of {len(group.records)}",
                str(len(group.records)),
            )
            for group in section.groups
        ),
    )
