"""What is claimed of level sets, what would refute it, what was measured, and what follows."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from compare.report.claims import Verdict
from compare.report.strings_tables import PUBLISHED, at, by_width, joined, levels_of, of_task, on_images
from compare.report.table import Table
from compare.runs.strings import StringLevel, Strings
from compare.runs.topology import CONTROL, COPY, LINEAR, QUADRATIC, TWO_UNITS, Topology


@dataclass(frozen=True)
class Claim:
    """A claim and its fate.

    Attributes:
        text: What is claimed.
        refuted: What would speak against it.
        measured: The numbers.
        number: How many strings, paths or pairs they rest on.
        verdict: What follows.
    """

    text: str
    refuted: str
    measured: str
    number: int
    verdict: Verdict


def claims(found: Topology) -> list[Claim]:
    """All that there are numbers for."""
    return [
        *_linear(found),
        *_rectified(found),
        *_control(found),
        *_regression(found),
        *_copies(found),
        *_images(found),
    ]


def claim_table(found: Topology) -> Table:
    """The table at the head of the document."""
    return Table(
        "What was claimed, and what was measured",
        "Of the regression, whose pairs share no network: mean [95 % interval of the mean, Student's t]; a claim holds "
        "or not where the interval says so. On images, where pairs share networks: mean [smallest, largest]; a claim "
        "is decided only if all pairs agree in sign. A published mean holds if our interval has it inside. A string "
        "that is not found refutes nothing: no number here can show that there is none.",
        ("claim", "refuted by", "measured", "number", "verdict"),
        tuple((each.text, each.refuted, each.measured, str(each.number), each.verdict) for each in claims(found)),
        keys=2,
    )


def _linear(found: Topology) -> Iterator[Claim]:
    if found.linear:
        rises = sum(path.rises for path in found.linear)
        yield Claim(
            "Linear networks are joined below the worse end's loss: constructed paths",
            "a path that rises above it",
            f"{rises} of {len(found.linear)} rise",
            len(found.linear),
            "does not hold" if rises else "holds",
        )
    yield from _all_connect(of_task(found, LINEAR), "Linear networks are joined at every level: strings")


def _all_connect(some: Sequence[Strings], text: str) -> Iterator[Claim]:
    if some:
        levels = levels_of(some)
        there = [each for level in levels for each in joined(some, level)]
        connected, asked = len(there), len(levels) * len(some)
        exceed = sum(each.exceeds for each in there)
        yield Claim(
            text,
            "nothing: one not found leaves it open",
            f"{connected} of {asked} levels; {exceed} exceed it on the finer grid",
            len(some),
            "holds" if connected == asked and not exceed else "not decided",
        )


def _rectified(found: Topology) -> Iterator[Claim]:
    gaps = {width: [each.gap for each in some] for width, some in by_width(found).items()}
    if len(gaps) > 1:
        means = [statistics.fmean(some) for some in gaps.values()]
        falls = all(wide < narrow for narrow, wide in itertools.pairwise(means))
        shown = ", ".join(f"{mean:.2g}" for mean in means)
        yield Claim(
            "Rectified networks of one hidden layer: the energy gap falls with the width (its computed upper bound)",
            "nothing: a bound that does not fall leaves it open",
            f"{shown} at {', '.join(map(str, gaps))} units",
            sum(map(len, gaps.values())),
            "holds" if falls else "not decided",
        )
    for each in found.pruned:
        if each.task == TWO_UNITS and each.floor is not None:
            yield Claim(
                "Two rectified units, both needed, against themselves swapped: the gap stays",
                "a floor of 0",
                f"gap from {each.floor:.3f} to {each.gap:.3f}",
                1,
                "holds" if each.floor > max(each.ends) else "does not hold",
            )


def _control(found: Topology) -> Iterator[Claim]:
    some = of_task(found, CONTROL)
    if some:
        connected = sum(len(joined(some, level)) for level in levels_of(some))
        yield Claim(
            "Three points permuted, two of three units swapped: strings do not connect",
            "one that connects",
            f"{connected} of {len(some)} connect",
            len(some),
            "does not hold" if connected else "holds",
        )


def _copies(found: Topology) -> Iterator[Claim]:
    """Copies are searched for without any bead, so a string that is found has none."""
    some = of_task(found, COPY)
    for precision in dict.fromkeys(each.precision for each in some):
        before, after = (
            [each for each in some if (each.precision, each.treatment) == (precision, treatment)]
            for treatment in ("standard form", "matched")
        )
        joins, all_join = (sum(each.levels[-1].connected for each in ends) for ends in (before, after))
        yield Claim(
            f"{found.data}, {precision}: a network and its symmetric copy, once matched, are joined by a straight line",
            "one that is not",
            f"{all_join} of {len(after)} matched, {joins} of {len(before)} in standard form",
            len(after),
            "holds" if all_join == len(after) else "does not hold",
        )


def _regression(found: Topology) -> Iterator[Claim]:
    some = of_task(found, QUADRATIC)
    if not some:
        return
    yield from _rise(some, "Quadratic regression", independent=True)
    for level, (length, beads) in PUBLISHED.items():
        there = joined(some, level)
        values = {
            "length": (length, [each.normalised_length for each in there]),
            "beads": (beads, [float(each.beads) for each in there]),
        }
        for what, (published, ours) in values.items():
            if ours:
                yield _as_published(f"Quadratic regression, level {level:g}: {what}", published, ours)


def _as_published(what: str, published: float, ours: Sequence[float]) -> Claim:
    interval = _interval(ours)
    verdict: Verdict = "not decided"
    if interval:
        verdict = "holds" if interval[0] <= published <= interval[1] else "does not hold"
    return Claim(
        f"{what} {published:g}, as published", "an interval without it", _shown(ours, interval), len(ours), verdict
    )


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean of independent values, 95 %, by Student's t."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def _shown(values: Sequence[float], interval: tuple[float, float] | None) -> str:
    mean = f"{statistics.fmean(values):.3g}"
    return f"{mean} [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else mean


def _rise(some: Sequence[Strings], what: str, *, independent: bool = False) -> Iterator[Claim]:
    """Length and beads at the lowest connected level less those at the highest, of each search."""
    pairs = [(first, last) for each in some if (first := _end(each, 0)) and (last := _end(each, -1)) and first != last]
    differences: Mapping[str, list[float]] = {
        "length": [last.normalised_length - first.normalised_length for first, last in pairs],
        "number of beads": [float(last.beads - first.beads) for first, last in pairs],
    }
    for name, values in differences.items():
        if values:
            text = f"{what}: {name} rises from the highest to the lowest level connected"
            yield _signed(text, values, independent=independent)


def _end(strings: Strings, place: int) -> StringLevel | None:
    connected = [level for level in strings.levels if level.connected]
    return connected[place] if connected else None


def _signed(text: str, values: Sequence[float], *, independent: bool = False) -> Claim:
    """That differences are positive: by the interval of their mean, or by all of them."""
    interval = _interval(values) if independent else (min(values), max(values)) if len(values) > 1 else None
    verdict: Verdict = "not decided"
    if interval:
        verdict = "holds" if interval[0] > 0 else "does not hold" if interval[1] <= 0 else "not decided"
    return Claim(text, "a difference <= 0", _shown(values, interval), len(values), verdict)


def _images(found: Topology) -> Iterator[Claim]:
    kinds = {(precision, treatment): some for (precision, treatment, _), some in on_images(found).items()}
    for (precision, treatment), some in kinds.items():
        yield from _all_connect(some, f"{found.data}, {precision}, {treatment}: joined at every level")
    for (precision, treatment), some in kinds.items():
        yield from _rise(some, f"{found.data}, {precision}, {treatment}")
    for precision in dict.fromkeys(precision for precision, _ in kinds):
        plain, matched = (kinds.get((precision, treatment), []) for treatment in ("standard form", "matched"))
        yield from _compared(
            plain, matched, f"{found.data}, {precision}: strings between networks in standard form shorten when matched"
        )
    yield from _compared(
        kinds.get(("binary", "as trained"), []),
        kinds.get(("full", "as trained"), []),
        f"{found.data}, as trained: strings of binary networks are longer than of full ones (not a claim of the paper)",
    )


def _compared(longer: Sequence[Strings], shorter: Sequence[Strings], text: str) -> Iterator[Claim]:
    """Normalised lengths at the lowest level at which both connect, pair by pair."""
    differences = []
    for one in longer:
        for other in (each for each in shorter if each.networks == one.networks):
            levels = [level for level in levels_of([one, other]) if joined([one], level) and joined([other], level)]
            if levels:
                (first,), (second,) = at([one], levels[-1]), at([other], levels[-1])
                differences.append(first.normalised_length - second.normalised_length)
    if differences:
        yield _signed(text, differences)
