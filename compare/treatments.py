"""Two networks under each treatment (as trained, in standard form, matched), and the curves between them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from compare.data import Split
from compare.evaluation import Evaluation, error_curves
from compare.evaluation.statistics import has_statistics
from compare.geometry import PATHS, AntipodalError, barrier, distances
from compare.params import Params
from compare.runs import record
from compare.runs.part import PathKind, SplitName, Statistics, Treatment
from compare.symmetry import Graph, Match, match, standard_form


@dataclass(frozen=True)
class Treated:
    """Two networks under each treatment.

    Attributes:
        ends: Both, by treatment.
        match: How the second was moved onto the first.
    """

    ends: Mapping[Treatment, tuple[Params, Params]]
    match: Match

    def distances(self, graph: Graph) -> tuple[record.Distance, ...]:
        """How far apart they are, under each treatment."""
        return tuple(
            record.Distance(treatment=treatment, **vars(distances(graph, a, b)))
            for treatment, (a, b) in self.ends.items()
        )


def treated(graph: Graph, a: Params, b: Params, seed: int) -> Treated:
    """Both in standard form, and the second matched to the first; outputs stay as they are (``invariant="loss"``).

    Args:
        graph: The network's.
        a: The first network.
        b: The second.
        seed: Of the matching.

    Returns:
        Both under each treatment.
    """
    first, second = (standard_form(graph, params, invariant="loss") for params in (a, b))
    matched = match(graph, first, second, seed=seed)
    ends: dict[Treatment, tuple[Params, Params]] = {
        "as trained": (a, b),
        "standard form": (first, second),
        "matched": (first, matched.params),
    }
    return Treated(ends, matched)


@dataclass(frozen=True)
class Bench:
    """Everything a curve is measured with.

    Attributes:
        graph: The network's.
        model: Its module, or what stands for it.
        splits: Samples that errors are counted on.
        ts: Where on each path.
        describe: Text before the progress line; None shows none.
        evaluation: How the precision evaluates the networks of a path, if not as usual.
    """

    graph: Graph
    model: nn.Module
    splits: dict[SplitName, Split]
    ts: Sequence[float]
    describe: str | None
    evaluation: Evaluation | None = None

    def curves(self, pair: Treated, notes: list[str]) -> Iterator[record.Curve]:
        """All curves of a pair; a geodesic that is not determined is left out, with a note."""
        statistics: tuple[Statistics, ...] = (
            ("interpolated", "re-estimated") if has_statistics(self.model) else ("interpolated",)
        )
        for treatment, ends in pair.ends.items():
            kinds: tuple[PathKind, ...] = ("linear",) if treatment == "as trained" else ("linear", "geodesic")
            for kind in kinds:
                for how in statistics:
                    try:
                        yield from self.measure(treatment, ends, kind, how)
                    except AntipodalError as error:
                        notes.append(f"no geodesic curve, {treatment}: {error}")

    def measure(
        self, treatment: Treatment, ends: tuple[Params, Params], kind: PathKind, statistics: Statistics
    ) -> Iterator[record.Curve]:
        """One path with one kind of statistics, on each split."""
        path = PATHS[kind](self.graph, *ends)
        describe = self.describe and f"{self.describe}: {treatment}, {kind}, {statistics}"
        found = error_curves(
            *(self.model, path, self.splits, self.ts),
            statistics=statistics,
            evaluation=self.evaluation,
            describe=describe,
        )
        for split, curve in found.items():
            height = barrier(curve.ts, curve.errors)
            yield record.Curve(
                treatment=treatment,
                path=kind,
                statistics=statistics,
                split=split,
                samples=curve.samples,
                ts=curve.ts,
                errors=curve.errors,
                losses=curve.losses,
                barrier=height.height,
                barrier_over_chord=height.over_chord,
            )
