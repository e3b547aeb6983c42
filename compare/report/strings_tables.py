"""Tables of a study of level sets: strings by level, bands, constructed paths, cost."""

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from compare.report.numbers import MISSING, show
from compare.report.table import Table
from compare.runs.strings import StringLevel, Strings
from compare.runs.topology import QUADRATIC, WIDTHS, Band, LinearPath, Pruned, Topology

PUBLISHED = {0.1: (1.35, 5.0), 0.01: (1.48, 13.8), 0.001: (1.86, 62.4)}
"""Normalised length and beads of the published quadratic regression, by level; read off a figure."""

Group = tuple[str, str, str]
"""Precision, networks and task that strings share."""


def groups(found: Topology) -> dict[Group, list[Strings]]:
    """Strings of one kind together, in the order of the records."""
    gathered: dict[Group, list[Strings]] = {}
    for each in found.strings:
        gathered.setdefault((each.precision, each.treatment or MISSING, each.task), []).append(each)
    return gathered


def on_images(found: Topology) -> dict[Group, list[Strings]]:
    """Those between trained networks on the data set."""
    return {group: some for group, some in groups(found).items() if group[-1] == found.data}


def of_task(found: Topology, task: str) -> list[Strings]:
    """Those of one task."""
    return [each for each in found.strings if each.task == task]


def levels_of(some: Sequence[Strings]) -> list[float]:
    """All levels that were asked for, those after one not shown connected included, from high to low."""
    asked = (each.settings.get("levels") or each.settings.get("images", {}).get("levels", ()) for each in some)
    measured = itertools.chain.from_iterable((level.level for level in each.levels) for each in some)
    return sorted({*itertools.chain.from_iterable(asked), *measured}, reverse=True)


def at(some: Sequence[Strings], level: float) -> list[StringLevel]:
    """What was found at one level."""
    return [each for strings in some for each in strings.levels if each.level == level]


def joined(some: Sequence[Strings], level: float) -> list[StringLevel]:
    """The connected ones among them."""
    return [each for each in at(some, level) if each.connected]


def regression(found: Topology) -> Table:
    """Ours beside the published curve."""
    some = of_task(found, QUADRATIC)
    rows = []
    for level in levels_of(some):
        there = joined(some, level)
        length, beads = PUBLISHED.get(level, (None, None))
        rows.append(
            (
                f"{level:g}",
                f"{len(there)} of {len(some)}",
                show((each.beads for each in there), digits=1),
                MISSING if beads is None else f"{beads:g}",
                show(each.normalised_length for each in there),
                MISSING if length is None else f"{length:g}",
                _rounded(there),
            )
        )
    return Table(
        "Quadratic regression, 1-4-4-1",
        "Level: mean absolute error. Beads, both ends counted, and normalised length of the strings shown connected, "
        "mean ± standard deviation over pairs of networks; published values are read off a figure, and are means over "
        "connected strings, too. Steps: training steps of one string.",
        ("level", "connected", "beads", "beads, published", "length", "length, published", "steps"),
        tuple(rows),
    )


def _highest(some: Iterable[StringLevel]) -> str:
    """On the finer grids, in %."""
    found = [each.finer_maximum for each in some]
    numbers = [number for number in found if number is not None]
    return show(numbers, scale=100) if len(numbers) == len(found) else "no number"


def _rounded(some: Iterable[StringLevel]) -> str:
    return show((each.steps for each in some), digits=0)


def images(found: Topology) -> Table:
    """Length and beads against level, for each precision and treatment."""
    rows = []
    for (precision, treatment, _), some in on_images(found).items():
        for level in levels_of(some):
            there = joined(some, level)
            rows.append(
                (
                    *(precision, treatment, f"{100 * level:g}"),
                    f"{len(there)} of {len(some)}",
                    show((each.beads for each in there), digits=1),
                    show((each.normalised_length for each in there), digits=3),
                    _highest(there),
                    _rounded(there),
                    show((each.seconds for each in there), digits=1),
                )
            )
    return Table(
        f"Strings on {found.data}, {found.shape}",
        "Level: training error in %. Over the strings shown connected, mean ± standard deviation over pairs of "
        "networks, which share networks: the deviation is no standard error. Beads count both ends; maximum: highest "
        "training error in % on the finer grid; steps and seconds: cost of the level.",
        ("precision", "networks", "level", "connected", "beads", "length", "maximum", "steps", "seconds"),
        tuple(rows),
        keys=3,
    )


def verdicts(found: Topology) -> Table:
    """How strings fared, and what they took."""
    rows = []
    for (precision, treatment, task), some in groups(found).items():
        all_levels = [level for each in some for level in each.levels]
        rows.append(
            (
                *(task, precision, treatment),
                str(len(some)),
                str(sum(level.connected for level in all_levels)),
                str(sum(not level.connected for level in all_levels)),
                str(sum(level.exceeds for level in all_levels if level.connected)),
                f"{sum(level.steps for level in all_levels)}",
                f"{sum(level.evaluations for level in all_levels)}",
                f"{sum(level.seconds for level in all_levels):.0f}",
            )
        )
    return Table(
        "Verdicts and cost",
        "A search goes down its levels and ends with the first at which it is not shown connected; that of the "
        "regression has new ends at each level and goes on. Symmetric copies are searched for without beads. Exceed: "
        "strings called connected on whose finer grid some network has more than the tolerance admits. Steps, energies "
        "and seconds are sums over all searches, on one thread each.",
        (
            *("task", "precision", "networks", "searches", "levels connected", "not shown", "exceed"),
            *("steps", "energies", "seconds"),
        ),
        tuple(rows),
        keys=3,
    )


def faults(found: Topology) -> list[str]:
    """Why strings were not shown connected, and of how many."""
    gathered = Counter(
        f"{each.task}, {each.precision}{', ' + each.treatment if each.treatment else ''}, level {level.level:g}: "
        f"{_kind(fault)}"
        for each in found.strings
        for level in each.levels
        for fault in level.faults[:1]
    )
    return [f"{what} ({number} {'string' if number == 1 else 'strings'})" for what, number in gathered.items()]


def _kind(fault: str) -> str:
    """What happened, without numbers that differ from search to search."""
    for sign, what in (
        ("end ", "an end was not trained down to the level"),
        ("was not trained down", "a bead was not trained down to its target"),
        ("depth", "the limit of depth was met"),
        ("beads", "the limit of beads was met"),
    ):
        if fault.startswith(sign) or sign in fault:
            return what
    return fault


def bands(found: Topology) -> Table:
    """Bands beside straight lines, for each precision and treatment."""
    gathered: dict[tuple[str, str], list[Band]] = {}
    for band in found.bands:
        gathered.setdefault((band.precision, band.treatment), []).append(band)
    rows = tuple(
        (
            *(precision, treatment, str(len(some))),
            show((max(band.ends) for band in some), scale=100),
            show((band.straight for band in some), scale=100),
            show((band.maximum for band in some), scale=100),
            show((band.length / band.distance for band in some), digits=3),
        )
        for (precision, treatment), some in gathered.items()
    )
    settings = found.bands[0].settings.get("images", {}).get("band", {}) if found.bands else {}
    return Table(
        f"Bands on {found.data}",
        f"{settings.get('beads', 'Some')} beads at equal distances, {settings.get('sweeps', 'some')} sweeps across the "
        "band. Training error in %, mean ± standard deviation over pairs of networks of the first level: worse end, "
        "highest on the straight line, highest on the band. Length: of the band over that of the straight line.",
        ("precision", "networks", "pairs", "worse end", "straight", "band", "length"),
        rows,
        keys=2,
    )


def trees(found: Topology) -> Table:
    """Minimum spanning trees of the bands."""
    rows = tuple(
        (
            *(tree.precision, tree.treatment),
            "; ".join(f"{a} to {b}" for a, b, _ in tree.edges),
            ", ".join(f"{100 * energy:.2f}" for *_, energy in tree.edges),
            f"{100 * max(energy for *_, energy in tree.minimax):.2f}",
        )
        for tree in found.trees
    )
    return Table(
        "Minimum spanning trees of the bands",
        "Edges and the highest training error in % on each; minimax: the highest that some pair cannot avoid on chains "
        "of these bands. Matched networks are matched in pairs, so one network of such a tree stands for its symmetric "
        "copies.",
        ("precision", "networks", "edges", "errors", "minimax"),
        rows,
        keys=3,
    )


def linear(found: Topology) -> Table:
    """Constructed paths between linear networks."""
    gathered: dict[tuple[tuple[int, ...], float], list[LinearPath]] = {}
    for path in found.linear:
        gathered.setdefault((path.sizes, path.ridge), []).append(path)
    rows = tuple(
        (
            *("-".join(map(str, sizes)), f"{ridge:g}", str(len(some))),
            show((max(path.ends) for path in some), digits=3),
            show((path.straight for path in some), digits=3),
            show((path.highest for path in some), digits=3),
            str(sum(path.rises for path in some)),
        )
        for (sizes, ridge), some in gathered.items()
    )
    points = found.linear[0].points if found.linear else 0
    return Table(
        "Constructed paths between linear networks",
        f"Mean squared error plus ridge times the sum of squared weights, on {points} points of each path, mean ± "
        "standard deviation over pairs: worse end, highest on the straight line, highest on the constructed path. "
        "Rises: paths that exceed the worse end by more than a billionth of it.",
        ("layers", "ridge", "pairs", "worse end", "straight", "constructed", "rises"),
        rows,
        keys=2,
    )


def widths(found: Topology) -> Table:
    """The bound of the energy gap against the width."""
    rows = tuple(
        (
            f"{width}",
            str(len(some)),
            _small(max(each.ends) for each in some),
            _small(each.gap for each in some),
        )
        for width, some in by_width(found).items()
    )
    return Table(
        "Rectified networks of one hidden layer: bound of the energy gap",
        "The string through networks with half of their units; mean squared error, mean [smallest, largest] over "
        "pairs: of the worse end, and by how much the string's highest network exceeds it.",
        ("width", "pairs", "worse end", "bound of the gap"),
        rows,
    )


def by_width(found: Topology) -> dict[int, list[Pruned]]:
    """The constructed strings of each width."""
    gathered: dict[int, list[Pruned]] = {}
    for each in sorted(found.pruned, key=lambda each: each.width):
        if each.task == WIDTHS:
            gathered.setdefault(each.width, []).append(each)
    return gathered


def _small(values: Iterable[float]) -> str:
    found = list(values)
    return f"{statistics.fmean(found):.2g} [{min(found):.2g}, {max(found):.2g}]"


def tables(found: Topology) -> Iterator[Table]:
    """All of them."""
    made: Sequence[Callable[[Topology], Table]] = (regression, images, verdicts, bands, trees, linear, widths)
    return (table for table in (make(found) for make in made) if table.rows)
