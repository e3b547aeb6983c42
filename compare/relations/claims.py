"""What [Toroids] claims of flat minima, each as one number with an interval that decides it."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from compare.relations.bootstrap import RESAMPLES, Floats, Interval, bootstrap
from compare.relations.intervals import (
    correlation,
    correlation_within,
    network_difference,
    pairs_difference,
    pairs_mean,
    pairs_mean_of_each,
    with_both,
)
from compare.relations.measures import (
    ENERGY,
    FLIPS,
    Barriers,
    Flatness,
    Sizes,
    algorithms,
    angles,
    barriers,
    errors,
    excesses,
    flatness,
    within,
)
from compare.relations.statistics import mean
from compare.runs.record import PathKind, Statistics
from compare.runs.study import Study

Verdict = Literal["holds", "does not hold", "not decided", "not measured"]
Unit = Literal["", "pp", "rad"]

PLAIN = "plain training"

# Mean train errors that differ by more (a fraction) are not equal.
EQUAL = 0.001
# What a bend may err above the worse end (a fraction).
ABOVE_ENDS = 0.001
# Bends without a common end that an interval needs.
BENDS = 3
# Differences of fractions that are equal on paper differ by less.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Roles:
    """Which algorithm of a study plays which part.

    Attributes:
        baseline: Plain training, with the optimiser of the other two.
        wide: Seeks wide minima.
        sharp: Finds sharp minima.
    """

    baseline: str = "sgd"
    wide: str = "rsgd"
    sharp: str = "adv"


@dataclass(frozen=True)
class Claim:
    """One claim on one study, and what became of it.

    Attributes:
        text: The claim, the same for each precision: the baseline is 'plain training' whatever its name.
        refuted: What the number would be if the claim were wrong.
        interval: The number: correlation, difference of fractions, difference of radians; None where not measured.
        unit: Of the number as it is shown: none, percentage points (of a fraction), radians.
        verdict: From the interval alone, by the function of that name.
        train: Mean train errors (fractions) of the two algorithms that are compared at equal train error; else None.
        comparable: False where those are not equal, so that nothing is decided.
        bends: How many pairs have a bend, where the number is of bends; else None.
        constant: True where a correlation is not defined, since one of its numbers is the same for all networks.
    """

    text: str
    refuted: str
    interval: Interval | None
    unit: Unit
    verdict: Verdict
    train: tuple[float, float] | None = None
    comparable: bool = True
    bends: int | None = None
    constant: bool = False


def claims(
    study: Study,
    *,
    roles: Roles | None = None,
    sizes: Sizes | None = None,
    equal: float = EQUAL,
    resamples: int = RESAMPLES,
) -> tuple[Claim, ...]:
    """Decide each claim on one study.

    Args:
        study: Networks, pairs and bends of one precision.
        roles: Which algorithms are meant.
        sizes: Which sizes of the local energy and of bit flips.
        equal: How far apart mean train errors may lie that count as equal, a fraction.
        resamples: Of the bootstrap.

    Returns:
        All claims, those on algorithms that are not in the study as 'not measured'.
    """
    judge = _Judge(study, roles or Roles(), sizes or Sizes(), equal, resamples)
    return (*judge.generalisation(), *judge.closeness(), *judge.heights(), *judge.symmetries(), *judge.bends())


def verdict(interval: Interval | None, *, above: float | None = None, at_most: float | None = None) -> Verdict:
    """Decide a claim from an interval alone.

    Args:
        interval: The number's; None where it was not measured.
        above: The claim says that the number is above this.
        at_most: The claim says that the number is this or less; one of the two is given.

    Returns:
        'holds' where each number in the interval agrees with the claim, 'does not hold' where none does, else 'not
        decided', as where there are too few networks for an interval.

    Example:
        >>> verdict(Interval(0.5, 0.2, 0.8, networks=15, resamples=10_000), above=0)
        'holds'
    """
    if interval is None:
        return "not measured"
    if interval.low is None or interval.high is None:
        return "not decided"
    if above is None:
        assert at_most is not None
        bound = at_most + ROUNDING
        return "holds" if interval.high <= bound else "does not hold" if interval.low > bound else "not decided"
    bound = above + ROUNDING
    return "holds" if interval.low > bound else "does not hold" if interval.high <= bound else "not decided"


def agreement(found: Mapping[str, Sequence[Claim]]) -> dict[str, Verdict]:
    """Whether each claim fares alike at all precisions.

    Args:
        found: The claims of each precision.

    Returns:
        For each claim's text: 'holds' where it was decided alike wherever it was measured, 'does not hold' where it
        holds at one precision and does not at another, 'not measured' where fewer than two precisions have it, else
        'not decided'.
    """
    verdicts: dict[str, list[Verdict]] = {}
    for claim in itertools.chain.from_iterable(found.values()):
        verdicts.setdefault(claim.text, []).append(claim.verdict)
    return {text: _alike([one for one in some if one != "not measured"]) for text, some in verdicts.items()}


def overall(alike: Mapping[str, Verdict]) -> Verdict:
    """Whether precisions agree on all claims: 'holds' only where they do on each that two of them have."""
    measured = {one for one in alike.values() if one != "not measured"}
    order: tuple[Verdict, ...] = ("does not hold", "not decided", "holds")
    return next((one for one in order if one in measured), "not measured")


def _alike(verdicts: Sequence[Verdict]) -> Verdict:
    if len(verdicts) < 2:
        return "not measured"
    if {"holds", "does not hold"} <= set(verdicts):
        return "does not hold"
    return "not decided" if "not decided" in verdicts else "holds"


@dataclass(frozen=True)
class _Judge:
    """The claims on one study, topic by topic."""

    study: Study
    roles: Roles
    sizes: Sizes
    equal: float
    resamples: int

    @cached_property
    def strata(self) -> tuple[str, ...]:
        return algorithms(self.study)

    @cached_property
    def measures(self) -> tuple[Flatness, ...]:
        return tuple(one for one in flatness(self.study, self.sizes) if one.kind in (ENERGY, FLIPS))

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """Flatter and sharper, as they are claimed to be ordered."""
        return (self.roles.wide, self.roles.baseline), (self.roles.baseline, self.roles.sharp)

    def word(self, name: str) -> str:
        """What a claim calls an algorithm."""
        return PLAIN if name == self.roles.baseline else name

    def generalisation(self) -> Iterator[Claim]:
        test = errors(self.study, "test")
        for measure in self.measures:
            text = f"Flatter minima err less, across algorithms: rank correlation of {measure.kind} and test error > 0"
            yield self._ranked(text, measure.values, test, correlation)
            text = (
                f"Flatter minima err less, within an algorithm: mean rank correlation of {measure.kind} and test error "
                "> 0"
            )
            yield self._ranked(text, measure.values, test, correlation_within)
        text = f"{self.roles.sharp} errs more on test samples than {PLAIN}"
        yield self._at_equal_train(text, test, (self.roles.baseline, self.roles.sharp))
        for measure, names in itertools.product(self.measures, self.steps):
            flatter, sharper = map(self.word, names)
            yield self._at_equal_train(
                f"{flatter} is flatter than {sharper}: lower {measure.kind}", measure.values, names
            )

    def closeness(self) -> Iterator[Claim]:
        matrix = angles(self.study, "matched")
        for names in self.steps:
            flatter, sharper = map(self.word, names)
            text = f"Networks from {flatter} lie closer together than those from {sharper}: angle, matched"
            yield _positive(text, self._difference(matrix, *names), "rad")

    def heights(self) -> Iterator[Claim]:
        for names, statistics in itertools.product(self.steps, get_args(Statistics)):
            matrix = barriers(self.study, Barriers("matched", "geodesic", statistics))
            flatter, sharper = map(self.word, names)
            text = f"Barriers of {flatter} are lower than of {sharper}: geodesic, matched, statistics {statistics}"
            yield _positive(text, self._difference(matrix, *names), "pp")

    def symmetries(self) -> Iterator[Claim]:
        paths: tuple[PathKind, ...] = get_args(PathKind)
        for path, statistics in itertools.product(paths, get_args(Statistics)):
            before = barriers(self.study, Barriers("as trained", "linear", statistics))
            fall = before - barriers(self.study, Barriers("matched", path, statistics))
            text = f"Barriers fall from straight as trained to {path} matched: statistics {statistics}"
            yield _positive(text, pairs_mean_of_each(fall, self.strata, resamples=self.resamples), "pp")

    def bends(self) -> Iterator[Claim]:
        matched = (bent for bend in self.study.bends for bent in bend.bends if bent.treatment == "matched")
        found = {(bent.path, bent.statistics): None for bent in matched if bent.split == "train"}
        bound = f"{100 * ABOVE_ENDS:g} pp"
        if not found:
            yield Claim(f"One bend rises at most {bound} above the ends", f"> {bound}", None, "pp", "not measured")
        for path, statistics in found:
            matrix = excesses(self.study, Barriers("matched", path, statistics))
            interval, number = self._of_bends(matrix), int(np.isfinite(matrix).sum()) // 2
            text = f"One bend rises at most {bound} above the ends: {path}, matched, statistics {statistics}"
            yield Claim(text, f"> {bound}", interval, "pp", verdict(interval, at_most=ABOVE_ENDS), bends=number)

    def _of_bends(self, matrix: Floats) -> Interval | None:
        pairs = np.argwhere(np.triu(np.isfinite(matrix), 1))
        if len(pairs) and len(np.unique(pairs)) == pairs.size:  # no two share a network: they are independent
            return bootstrap(mean(matrix[tuple(pairs.T)]), ["bends"] * len(pairs), resamples=self.resamples)
        # Ends of one bend in each algorithm are too few for strata of their own.
        together = ("any",) * len(self.strata)
        interval = pairs_mean(matrix, together, np.ones(matrix.shape, dtype=bool), resamples=self.resamples)
        if interval is None or _apart(matrix):
            return interval
        # Fewer bends without a common end say nothing of how much bends differ.
        return replace(interval, low=None, high=None)

    def _ranked(self, text: str, values: Floats, test: Floats, ranks: Callable[..., Interval | None]) -> Claim:
        """A rank correlation above 0; not decided where one of the two is the same for all networks."""
        interval = ranks(values, test, self.strata, resamples=self.resamples)
        if interval is None and with_both(values, test).sum() > 1:
            return Claim(text, "≤ 0", None, "", "not decided", constant=True)
        return _positive(text, interval)

    def _at_equal_train(self, text: str, values: Floats, names: tuple[str, str]) -> Claim:
        """The second algorithm's mean is larger; not decided where their train errors differ."""
        first, second = names
        interval = network_difference(values, self.strata, second, first, resamples=self.resamples)
        claim = f"{text}, at equal train error"
        if interval is None:
            return Claim(claim, "≤ 0", None, "pp", "not measured")
        train = tuple(float(np.nanmean(errors(self.study, "train")[np.array(self.strata) == name])) for name in names)
        comparable = abs(train[0] - train[1]) <= self.equal
        decided = verdict(interval, above=0) if comparable else "not decided"
        return Claim(claim, "≤ 0", interval, "pp", decided, (train[0], train[1]), comparable)

    def _difference(self, matrix: Floats, flatter: str, sharper: str) -> Interval | None:
        own = [within(self.study, name) for name in (sharper, flatter)]
        return pairs_difference(matrix, self.strata, *own, resamples=self.resamples)


def _apart(matrix: Floats) -> bool:
    """Whether there are enough pairs that have no network in common."""
    pairs = np.argwhere(np.triu(np.isfinite(matrix), 1)).tolist()
    return any(len(set(itertools.chain(*some))) == 2 * BENDS for some in itertools.combinations(pairs, BENDS))


def _positive(text: str, interval: Interval | None, unit: Unit = "") -> Claim:
    return Claim(text, "≤ 0", interval, unit, verdict(interval, above=0))
