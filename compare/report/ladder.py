"""Tables of what changes with the bits of a weight, and of local energies."""

import itertools
from collections.abc import Iterator, Sequence

from compare.report.landscape import split_by
from compare.report.numbers import MISSING, percent, show
from compare.report.sections import Group, Section
from compare.report.table import SPLITS, STATISTICS, TREATMENTS, Table
from compare.runs.record import Energy, Statistics

# With fewer there is nothing that the tables of all precisions do not show.
FEWEST = 3

_Cells = tuple[str, ...]


def rungs(section: Section) -> tuple[Group, ...]:
    """The groups whose bits are known, fewest bits first; none where there are fewer than three numbers of bits."""
    known = sorted((group for group in section.groups if group.bits is not None), key=bits)
    return tuple(known) if len({group.bits for group in known}) >= FEWEST else ()


def bits(group: Group) -> float:
    """Bits of a weight, where they are known."""
    assert group.bits is not None, "called for rungs"
    return group.bits


def ladder(section: Section) -> Table:
    """One row a precision: how good the networks are, how far apart, what lies between them, and how flat it is."""
    groups = rungs(section)
    sigmas = _sigmas(groups)
    # One of them has to do here; the table of local energies has all.
    sigma = sigmas[len(sigmas) // 2] if sigmas else None
    return Table(
        "Precision ladder: error, distance, barrier and local energy",
        "Precisions by bits of a weight (ternary: log2 3 = 1.58). Test error of the networks, in % of samples. Then of "
        "matched pairs: RMS angle in radians, and barrier on the straight line, train samples, in percentage points "
        "(pp), with normalisation statistics interpolated; in the next column re-estimated. Rise: of the networks' "
        "error, with noise of the stated size sigma on the weights (see Local energy). n: pairs.",
        (
            *("precision", "bits", "test error (%)", "RMS angle", "barrier (pp)", "re-estimated (pp)"),
            *([] if sigma is None else [f"rise at {sigma:g} (pp)"]),
            "n",
        ),
        tuple(_ladder_row(group, sigma) for group in groups),
    )


def _sigmas(groups: Sequence[Group]) -> list[float]:
    return sorted({sigma for group in groups for _, energy in group.energies for sigma in energy.sigmas})


def _ladder_row(group: Group, sigma: float | None) -> _Cells:
    statistics: tuple[Statistics, ...] = ("interpolated", "re-estimated")
    heights = ([c.barrier for c in group.curves("matched", "linear", how, "train")] for how in statistics)
    rises = rises_by_sigma([energy for _, energy in group.energies])
    return (
        group.label,
        bits_text(group),
        percent(network.errors["test"] for network in group.networks if "test" in network.errors),
        show(matched_angles(group), digits=3),
        *(percent(height) for height in heights),
        *([] if sigma is None else [percent(rises.get(sigma, ()))]),
        str(len(group.records)),
    )


def matched_angles(group: Group) -> list[float]:
    """RMS angle of each matched pair, radians."""
    return [d.rms_angle for record in group.records for d in record.distances if d.treatment == "matched"]


def bits_text(group: Group) -> str:
    """Bits of a weight to three digits: ``1.58``."""
    return MISSING if group.bits is None else f"{group.bits:.3g}"


def ladder_barriers(section: Section) -> Table:
    """Barriers of all treatments against bits."""
    return Table(
        "Precision ladder: barrier of each treatment (pp)",
        "Max over t of error(t) - max(error(0), error(1)) on the straight line, in percentage points (pp). n: pairs.",
        ("samples", "statistics", "precision", "bits", *TREATMENTS, "n"),
        tuple(_barrier_rows(rungs(section))),
        keys=3,
    )


def _barrier_rows(groups: Sequence[Group]) -> Iterator[_Cells]:
    for split, statistics, group in itertools.product(SPLITS, STATISTICS, groups):
        curves = [group.curves(treatment, "linear", statistics, split) for treatment in TREATMENTS]
        if any(curves):
            heights = (percent(curve.barrier for curve in found) for found in curves)
            pairs = max(map(len, curves))
            yield (split, statistics, group.label, bits_text(group), *heights, str(pairs))


def local_energies(section: Section) -> Table:
    """How much noise on the weights raises the error."""
    sigmas = _sigmas(section.groups)
    return Table(
        "Local energy: rise of the error with noise on the weights (pp)",
        "Error of the network with each weight w replaced by w + sigma z w, z standard normal, minus its own error: "
        "mean over draws of z, in percentage points (pp). On networks in standard form, and latent weights where there "
        "are any: a binary weight changes its sign with probability P(z < -1/sigma), 2.3 % at 0.5, 15.9 % at 1. "
        "Standard error: of the mean over the draws of one network, the largest in the row. n: networks, each once in "
        "however many pairs it is.",
        (
            *("samples", "precision", "bits", "own error (%)"),
            *(f"sigma {sigma:g}" for sigma in sigmas),
            *("standard error", "draws", "n"),
        ),
        tuple(_energy_rows(section, sigmas)),
        keys=2,
    )


def _energy_rows(section: Section, sigmas: Sequence[float]) -> Iterator[_Cells]:
    kinds = dict.fromkeys(samples_of(energy) for group in section.groups for _, energy in group.energies)
    for kind, group in itertools.product(kinds, rungs(section) or section.groups):
        found = [energy for _, energy in group.energies if samples_of(energy) == kind]
        if found:
            yield (kind, group.label, bits_text(group), *_energy_cells(found, sigmas))


def _energy_cells(found: Sequence[Energy], sigmas: Sequence[float]) -> _Cells:
    rises = rises_by_sigma(found)
    return (
        percent(energy.error for energy in found),
        *(percent(rises.get(sigma, ())) for sigma in sigmas),
        show([max(max(energy.standard_errors) for energy in found)], scale=100),
        " or ".join(dict.fromkeys(str(energy.draws) for energy in found)),
        str(len(found)),
    )


def rises_by_sigma(energies: Sequence[Energy]) -> dict[float, list[float]]:
    """The rise of each network that was measured at a size of the noise, sizes increasing."""
    points = sorted(point for energy in energies for point in zip(energy.sigmas, energy.rises, strict=True))
    return {sigma: [rise for _, rise in same] for sigma, same in split_by(points, lambda one: one[0]).items()}


def samples_of(energy: Energy) -> str:
    """How many samples of which split: ``2000 train``."""
    return f"{energy.samples} {energy.split}"
