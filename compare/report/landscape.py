"""Tables of what was counted exactly: every network on a path, every flip of a bit, and many flips at random."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from compare.report.numbers import percent, show
from compare.report.sections import Group, Section
from compare.report.table import ORDERS, STATISTICS, TREATMENTS, Table
from compare.runs.landscape import ExactCurve, LayerFlips, Neighbourhood, Robustness
from compare.runs.record import SplitName

ALL_WEIGHTS = "all weights"
MISSED = (
    "Missed: by how much the supremum exceeds the highest error at the 25 points of the usual grid, so what a curve "
    "drawn in the usual way does not show."
)

_K = TypeVar("_K")
_T = TypeVar("_T")
_Cells = tuple[str, ...]


def exact_errors(section: Section, split: SplitName) -> Table:
    """What the error does between two networks where every network on the way is counted, on one split."""
    return Table(
        f"Exact curve: error of every network on the path, {split} samples",
        "Bits flip one at a time from the first network to the second, when the straight line (or geodesic) of latent "
        "weights crosses 0; random and greedy orders flip the same bits at the same times, in another order. The error "
        "of each network on the way is counted. Supremum: the largest, reached first at t. "
        f"{MISSED} In percentage points (pp), and in misclassified samples. "
        "Integral: mean of the error over t from 0 to 1. Where it says a grid, only that many networks of the path "
        "were counted, not all. Re-estimated statistics are measured at knots, the 25 points among them; thresholds "
        "run straight between these. n: pairs.",
        (
            *("treatment", "statistics", "order", "precision"),
            *("supremum (%)", "at t", "25 points (%)", "missed (pp)", "missed (samples)", "integral (%)", "n"),
        ),
        tuple((*key, *_error_cells(curves)) for key, curves in _exact_rows(section, split)),
        keys=4,
    )


def _error_cells(curves: Sequence[ExactCurve]) -> _Cells:
    return (
        percent(curve.supremum for curve in curves),
        show((curve.supremum_at for curve in curves), digits=2),
        percent(curve.grid_supremum for curve in curves),
        percent(curve.missed for curve in curves),
        show((curve.missed * curve.samples for curve in curves), digits=1),
        percent(curve.integral for curve in curves),
        str(len(curves)),
    )


def exact_networks(section: Section) -> Table:
    """How many networks were counted on the paths, and how finely thresholds move."""
    seconds = "; ".join(
        f"{group.label} {show((landscape.seconds for landscape in group.landscapes), digits=1)}"
        for group in section.groups
        if group.landscapes
    )
    return Table(
        "Exact curve: networks counted on each path",
        "Flips: bits that differ between the two networks, each flipped once. Networks: all that were counted, those "
        "included of which only thresholds moved. Threshold steps: intervals of t on which the thresholds that replace "
        "normalisation stand still. The numbers hold for train and test samples alike. n: pairs. Wall time of "
        f"everything counted exactly, in seconds a pair: {seconds}.",
        (
            *("treatment", "statistics", "order", "precision"),
            *("flips", "networks", "threshold steps", "n"),
        ),
        tuple(_network_rows(section)),
        keys=4,
    )


def _network_rows(section: Section) -> Iterator[_Cells]:
    tested = dict(_exact_rows(section, "test"))
    trained = dict(_exact_rows(section, "train"))
    for key, curves in (tested | trained).items():
        counts = ([curve.flips, curve.networks, curve.threshold_steps] for curve in curves)
        yield (*key, *(show(column, digits=0) for column in zip(*counts, strict=True)), str(len(curves)))


def _exact_rows(section: Section, split: SplitName) -> Iterator[tuple[_Cells, list[ExactCurve]]]:
    """Curves that may be averaged: those that count all networks, and those of a grid, are different numbers."""
    for treatment, statistics, order in itertools.product(TREATMENTS, STATISTICS, ORDERS):
        for group in section.groups:
            kind = (treatment, statistics, order, split)
            found = [c for c in group.exact_curves if (c.treatment, c.statistics, c.order, c.split) == kind]
            for name, curves in split_by(found, _order).items():
                yield (treatment, statistics, name, group.label), curves


def _order(curve: ExactCurve) -> str:
    return curve.order if curve.complete else f"{curve.order}, a grid of {curve.networks} networks"


def neighbourhoods(section: Section) -> Table:
    """What flipping each single bit does."""
    return Table(
        "Neighbourhood: networks that differ in a single bit",
        "Each bit of each weight flipped alone, all others as they are, and misclassified samples counted. Unchanging, "
        "raising, lowering: bits (% of the weight's bits) that leave the error as it is, raise it, lower it. Mean: "
        "change of the error, mean over all bits of the weight; worst: the largest of any. Both in misclassified "
        "samples, and in percentage points (pp) of the samples in the second column. n: networks, each once in however "
        "many pairs it is.",
        (
            *("precision", "samples", "weight"),
            *("bits", "unchanging (%)", "raising (%)", "lowering (%)"),
            *("mean (samples)", "mean (pp)", "worst (samples)", "worst (pp)", "n"),
        ),
        tuple(row for group in section.groups for row in _neighbourhood_rows(group)),
        keys=3,
    )


def _neighbourhood_rows(group: Group) -> Iterator[_Cells]:
    layers = [(around, layer) for _, around in group.neighbourhoods for layer in around.layers]
    for (samples, weight), found in split_by(layers, lambda one: (measured(one[0]), one[1].weight)).items():
        yield (group.label, samples, weight, *_flip_cells([layer for _, layer in found], found[0][0].samples))


def _flip_cells(layers: Sequence[LayerFlips], samples: int) -> _Cells:
    return (
        " or ".join(dict.fromkeys(str(layer.bits) for layer in layers)),
        percent(layer.unchanging for layer in layers),
        percent(layer.raising for layer in layers),
        percent(layer.lowering for layer in layers),
        # A mean change is a small part of one sample.
        show((layer.mean for layer in layers), scale=samples, digits=3),
        show((layer.mean for layer in layers), scale=100, digits=4),
        show((layer.worst for layer in layers), scale=samples, digits=1),
        percent(layer.worst for layer in layers),
        str(len(layers)),
    )


def robustness(section: Section) -> Table:
    """What flipping many bits at random does."""
    fractions = sorted({f for group in section.groups for _, one in group.robustness for f in one.fractions})
    return Table(
        "Robustness: error with bits flipped at random (% of samples)",
        "Error with the stated fraction of bits flipped, drawn at random from one weight or from all, as a mean over "
        "draws; at 0 % the network itself. Standard error: of that mean over the draws of one network, the largest in "
        "the row, in percentage points (pp). n: networks, each once in however many pairs it is.",
        (
            *("precision", "samples", "flipped in"),
            *(
                "bits",
                *(f"{percentage(fraction)} flipped" for fraction in fractions),
                "standard error (pp)",
                "draws",
                "n",
            ),
        ),
        tuple(row for group in section.groups for row in _robustness_rows(group, fractions)),
        keys=3,
    )


def _robustness_rows(group: Group, fractions: Sequence[float]) -> Iterator[_Cells]:
    curves = [curve for _, curve in group.robustness]
    for (samples, weight), found in split_by(curves, lambda one: (measured(one), drawn_from(one))).items():
        errors = [dict(zip(one.fractions, one.errors, strict=True)) for one in found]
        yield (
            *(group.label, samples, weight),
            " or ".join(dict.fromkeys(str(one.bits) for one in found)),
            *(percent(error[fraction] for error in errors if fraction in error) for fraction in fractions),
            f"{100 * max(max(one.standard_errors) for one in found):.2f}",
            " or ".join(dict.fromkeys(str(one.draws) for one in found)),
            str(len(found)),
        )


def drawn_from(curve: Robustness) -> str:
    """The weight whose bits are flipped, or that it is all of them."""
    return ALL_WEIGHTS if curve.weight is None else curve.weight


def percentage(fraction: float) -> str:
    """A fraction of bits, as short as it can be written: ``0.1 %``."""
    return f"{100 * fraction:.6g} %"


def measured(counted: Neighbourhood | Robustness) -> str:
    """How many samples of which split: ``1000 train``."""
    return f"{counted.samples} {counted.split}"


def split_by(items: Sequence[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    """Lists of items with equal keys, by key, in the order of their first items."""
    parts: dict[_K, list[_T]] = {}
    for item in items:
        parts.setdefault(key(item), []).append(item)
    return parts
