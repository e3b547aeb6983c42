"""Where the search for a string at one level stands, and what its next generation does.

Everything here is a function of the state before: a search that is taken up again goes on with the same bits.
"""

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from compare.params import Params, lerp
from compare.seeds import derived
from compare.strings.crew import Crew
from compare.strings.landscape import Landscape, Lowered
from compare.strings.settings import StringSettings
from compare.strings.string import Bead, Cost, String, joint_length

_NOTHING = Cost()


@dataclass(frozen=True)
class Segment:
    """What lies between two neighbours on the string.

    Attributes:
        place: Number of the segment from which it was cut, then one letter for each cut: l for the part in front, r
            for the one behind. Seeds are derived from it, so that they do not depend on the order of work.
        passed: Its grid stays below the bound.
    """

    place: str
    passed: bool = False

    @property
    def depth(self) -> int:
        """How often it was cut."""
        return self.place.count("l") + self.place.count("r")

    @property
    def halves(self) -> tuple["Segment", "Segment"]:
        """The segments before and behind a bead in it."""
        return Segment(self.place + "l"), Segment(self.place + "r")


@dataclass(frozen=True, eq=False)
class Stage:
    """Where the search at one level stands.

    Attributes:
        beads: The string so far, both ends included.
        segments: Those between them; none before the first generation, in which given beads are lowered.
        faults: What stands in the way of a connected string; the search is over as soon as there is one.
        generations: How often segments were measured.
        cost: So far.
    """

    beads: tuple[Bead, ...]
    segments: tuple[Segment, ...] = ()
    faults: tuple[str, ...] = ()
    generations: int = 0
    cost: Cost = _NOTHING

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.faults) or (bool(self.segments) and all(segment.passed for segment in self.segments))


@dataclass(frozen=True, eq=False)
class Search:
    """A search at one level.

    Attributes:
        crew: What does the work.
        settings: How.
        level: The level.
        number: Its place in the schedule, which seeds depend on.
        seed: The seed of the whole.
    """

    crew: Crew
    settings: StringSettings
    level: float
    number: int
    seed: int

    def begun(self, a: Params, b: Params, before: Sequence[String]) -> Stage:
        """The stage at the start.

        Args:
            a: Start, for the first level.
            b: End.
            before: The strings of higher levels.
        """
        if before and self.settings.start == "string before":
            return Stage(before[-1].beads)
        if before:
            a, b = before[-1].beads[0].params, before[-1].beads[-1].params
        apart = joint_length([a, b], self.crew.landscape.names) > 0
        count = self.settings.initial if apart else 0
        middle = [Bead(lerp(a, b, i / (count + 1)), math.nan) for i in range(1, count + 1)]
        return Stage((Bead(a, math.nan, inserted=False), *middle, Bead(b, math.nan, inserted=False)))

    def next(self, stage: Stage) -> Stage:
        """The stage after one generation."""
        began = time.perf_counter()
        after = self._cut(stage) if stage.segments else self._lower_all(stage)
        return replace(after, cost=after.cost + Cost(seconds=time.perf_counter() - began))

    def finished(self, stage: Stage) -> String:
        """The string of a stage that is over, measured on the finer grid."""
        began = time.perf_counter()
        ts, step = self.settings.finer_ts, self.settings.finer
        pairs = _pairs(stage.beads)
        found = self.crew.map(_energies, [(*pair, ts) for pair in pairs])
        ends = [max(a.energy, b.energy) for a, b in itertools.pairwise(stage.beads)]
        names, networks = self.crew.landscape.names, [bead.params for bead in stage.beads]
        cost = Cost(0, len(ts) * len(pairs), time.perf_counter() - began)
        return String(
            level=self.level,
            beads=stage.beads,
            faults=stage.faults,
            # Of the finer grid each ``finer``-th point is one of the grid.
            maxima=tuple(max(end, *inner[step - 1 :: step]) for end, inner in zip(ends, found, strict=True)),
            finer_maxima=tuple(max(end, *inner) for end, inner in zip(ends, found, strict=True)),
            generations=stage.generations,
            cost=stage.cost + cost,
            length=joint_length(networks, names),
            distance=joint_length([networks[0], networks[-1]], names),
            settings=self.settings,
            seed=self.seed,
        )

    def _seed(self, place: str) -> int:
        return derived(self.seed, "string", self.number, place)

    def _target(self, inserted: bool) -> float:
        """Beads go below the level, so that what they are cut from can pass; the ends have only to be at it."""
        return self.settings.alpha * self.level if inserted else self.level

    def _lower_all(self, stage: Stage) -> Stage:
        """Lower ends and beads that are given; a bead that stays above its target is left out."""
        tasks = [
            (bead.params, self._target(bead.inserted), self._seed(f"given {number}"))
            for number, bead in enumerate(stage.beads)
        ]
        found = self.crew.map(_lowered, tasks)
        faults = tuple(
            _missed(f"end {name}", self.level, found[number])
            for name, number in (("a", 0), ("b", -1))
            if not found[number].reached
        )
        kept = [
            Bead(each.params, each.energy, bead.inserted)
            for bead, each in zip(stage.beads, found, strict=True)
            if each.reached or not bead.inserted
        ]
        segments = tuple(Segment(str(number)) for number in range(len(kept) - 1))
        return Stage(tuple(kept), segments, faults, stage.generations, stage.cost + _cost(found))

    def _cut(self, stage: Stage) -> Stage:
        """Measure all open segments, and put a bead into each that does not pass."""
        pairs, ts, bound = _pairs(stage.beads), self.settings.ts, self.settings.bound(self.level)
        unknown = [number for number, segment in enumerate(stage.segments) if not segment.passed]
        measured = self.crew.map(_energies, [(*pairs[n], ts) for n in unknown])
        high = {n: energies for n, energies in zip(unknown, measured, strict=True) if max(energies) > bound}
        after = replace(
            stage,
            segments=tuple(replace(segment, passed=n not in high) for n, segment in enumerate(stage.segments)),
            generations=stage.generations + 1,
            cost=stage.cost + Cost(evaluations=len(ts) * len(unknown)),
        )
        faults = self._limits(after, high)
        return replace(after, faults=faults) if faults else self._inserted(after, high)

    def _limits(self, stage: Stage, high: Mapping[int, tuple[float, ...]]) -> tuple[str, ...]:
        """Why no beads may be put into the segments that are too high, if so."""
        deepest = [number for number in high if stage.segments[number].depth >= self.settings.depth]
        if deepest:
            highest, bound = max(max(high[number]) for number in deepest), self.settings.bound(self.level)
            return (
                f"at the limit of depth, {self.settings.depth}, the energy on {len(deepest)} segments is up to "
                f"{highest:.6g}, above {bound:.6g}",
            )
        wanted = len(stage.beads) - 2 + len(high)
        if wanted > self.settings.beads:
            return (f"{wanted} beads between the ends were needed, the limit is {self.settings.beads}",)
        return ()

    def _inserted(self, stage: Stage, high: Mapping[int, tuple[float, ...]]) -> Stage:
        pairs, target = _pairs(stage.beads), self._target(inserted=True)
        tasks = [
            (lerp(*pairs[n], self._where(energies)), target, self._seed(stage.segments[n].place))
            for n, energies in high.items()
        ]
        found = dict(zip(high, self.crew.map(_lowered, tasks), strict=True))
        beads, segments, faults = [stage.beads[0]], list[Segment](), list[str]()
        for number, segment in enumerate(stage.segments):
            bead = found.get(number)
            if bead is None or not bead.reached:
                segments.append(segment)
            else:
                beads.append(Bead(bead.params, bead.energy))
                segments += segment.halves
            if bead is not None and not bead.reached:
                faults.append(_missed(f"the bead in segment {segment.place}", target, bead))
            beads.append(stage.beads[number + 1])
        cost = stage.cost + _cost(found.values())
        return replace(stage, beads=tuple(beads), segments=tuple(segments), faults=tuple(faults), cost=cost)

    def _where(self, energies: Sequence[float]) -> float:
        """Where a bead is put: of equal maxima (errors have plateaus) at that nearest to the middle."""
        if self.settings.place == "middle":
            return 0.5
        highest = max(energies)
        return min((t for t, e in zip(self.settings.ts, energies, strict=True) if e == highest), key=_off_middle)


def _pairs(beads: Sequence[Bead]) -> list[tuple[Params, Params]]:
    return [(a.params, b.params) for a, b in itertools.pairwise(beads)]


def _energies(landscape: Landscape, task: tuple[Params, Params, tuple[float, ...]]) -> tuple[float, ...]:
    found = landscape.energies(*task)
    return tuple(map(_comparable, found))


def _lowered(landscape: Landscape, task: tuple[Params, float, int]) -> Lowered:
    start, target, seed = task
    found = landscape.lower(start, target, seed=seed)
    return replace(found, energy=_comparable(found.energy))


def _comparable(energy: float) -> float:
    """What is no number compares as neither above nor below."""
    return math.inf if math.isnan(energy) else energy


def _cost(found: Iterable[Lowered]) -> Cost:
    return Cost(*(sum(numbers) for numbers in zip((0, 0), *((e.steps, e.evaluations) for e in found), strict=True)))


def _missed(what: str, target: float, found: Lowered) -> str:
    return f"{what} was not trained down to {target:.6g}: its energy is {found.energy:.6g} after {found.steps} steps"


def _off_middle(t: float) -> float:
    return abs(t - 0.5)
