"""What is claimed of conserved quantities, and what the numbers say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from compare.relations.bootstrap import Interval
from compare.report.conserved_statistics import (
    MEASURES,
    SIDES,
    cell,
    chosen,
    correlation,
    deviates,
    grouped,
    over,
    ratio_of,
    slopes,
)
from compare.report.table import Table
from compare.runs.conserved import Conserved, Course, Initial, Law, Orbit

Verdict = Literal["holds", "does not hold", "not decided"]
LOW, HIGH = 0.9, 1.1
"""What counts as a slope of 1."""

CONTROL = 0.5
"""A slope below which a drift does not follow the step."""


@dataclass(frozen=True)
class Claim:
    """Something that the numbers may refute."""

    claim: str
    refuted: str
    measured: str
    verdict: Verdict


def claims(found: Conserved) -> tuple[Claim, ...]:
    """All claims that were measured."""
    return (
        *_law_claims(found),
        *_control_claims(found),
        *_latent_claims(found),
        *_initial_claims(found.initials),
        *_orbit_claims(found.orbits),
    )


def claim_table(found: Conserved) -> Table:
    """The claims, first of all."""
    return Table(
        "What is claimed, what would refute it, what was measured",
        "Intervals are 95 % bootstrap intervals over seeds or networks. A claim holds if the whole interval does what "
        "it says, does not hold if the whole interval does what would refute it, and is not decided otherwise. Of "
        "several quantities all must hold, and one that does not is enough.",
        ("claim", "refuted if", "measured", "verdict"),
        tuple((each.claim, each.refuted, each.measured, each.verdict) for each in claims(found)),
        keys=4,
    )


def _law_claims(found: Conserved) -> Iterator[Claim]:
    for case in dict.fromkeys(law.case for law in found.laws):
        intervals = {
            f"{quantity} ({laws[0].formula})": over(slopes(chosen(laws, control=False)))
            for name, quantity, laws in grouped(found.laws)
            if name == case
        }
        yield Claim(
            f"{case}: drift falls in proportion to the step",
            f"the slope's interval lies outside {LOW} to {HIGH}",
            "; ".join(f"{name}: {cell(each)}" for name, each in intervals.items()),
            _all(_inside(each) for each in intervals.values()),
        )


def _control_claims(found: Conserved) -> Iterator[Claim]:
    intervals = [over(slopes(chosen(laws, control=True))) for _, _, laws in grouped(found.laws)]
    known = [each for each in intervals if each is not None]
    if known:
        largest = max(known, key=lambda each: each.value)
        yield Claim(
            "a wrong quantity's drift does not fall so",
            f"some slope's interval lies above {CONTROL}",
            f"largest of {len(known)} slopes: {cell(largest)}",
            _all(_below(each, CONTROL) for each in known),
        )


def _latent_claims(found: Conserved) -> Iterator[Claim]:
    """Binary latents beside full precision: the drift of the same quantity, each in units of its own scale."""
    for what, drifts in (
        ("by gradient descent with the smallest steps", _smallest(found.laws)),
        ("over training with Adam", _final(found.courses)),
    ):
        names = dict.fromkeys(name for precision, name in drifts if precision == "binary")
        ratios = {
            name: ratio_of(drifts["binary", name], drifts["full", name]) for name in names if ("full", name) in drifts
        }
        if ratios:
            yield Claim(
                f"{what}, the quantities of latents drift more than those of full precision",
                "the interval of some ratio of the drifts lies below 1",
                "; ".join(f"{name}: {cell(each, 1)} times" for name, each in ratios.items()),
                _all(_above(each, 1.0) for each in ratios.values()),
            )


Drifts = dict[tuple[str, str], list[float]]


def _smallest(laws: Sequence[Law]) -> Drifts:
    drifts: Drifts = {}
    for law in laws:
        if law.case.startswith("on data, "):
            place = (law.case.removeprefix("on data, "), f"{law.quantity} ({law.formula})")
            drifts.setdefault(place, []).append(min(zip(law.rates, law.drifts, strict=True))[1])
    return drifts


def _final(courses: Sequence[Course]) -> Drifts:
    drifts: Drifts = {}
    for course in courses:
        place = (course.precision, f"{course.quantity} ({course.formula})")
        drifts.setdefault(place, []).append(course.drifts[-1])
    return drifts


def _initial_claims(initials: Sequence[Initial]) -> Iterator[Claim]:
    off = [abs(value) for each in initials for value in deviates(each)]
    if off:
        limit = float(stats.norm.ppf(1 - 0.05 / (2 * len(off))))
        yield Claim(
            "initial values have the means and variances of the closed forms",
            f"one of {len(off)} is more than {limit:.1f} standard errors off (5 % for all together)",
            f"at most {max(off):.1f} standard errors",
            "holds" if max(off) <= limit else "does not hold",
        )


def _orbit_claims(orbits: Sequence[Orbit]) -> Iterator[Claim]:
    own = [orbit for orbit in orbits if orbit.arm == "same function"]
    wanted = (
        ("on either side of 0, the larger |Q|, the larger the first eigenvalue, at the same function", MEASURES[0]),
        ("on either side of 0, the larger |Q|, the faster the convergence, at the same function", MEASURES[1]),
        ("on either side of 0, the larger |Q|, the larger the eigenvalue at the target loss", MEASURES[3]),
    )
    for claim, measure in wanted if own else ():
        sides = [over([correlation(orbit, measure, side) for orbit in own]) for side in SIDES[1:]]
        yield Claim(
            claim,
            "the rank correlation's interval lies below 0 on one side",
            f"Q > 0: {cell(sides[0])}; Q < 0: {cell(sides[1])}",
            _all(_above(side, 0.0) for side in sides),
        )
    scaled = {orbit.seed: orbit for orbit in orbits if orbit.arm == "initial scale"}
    differences = [
        correlation(scaled[orbit.seed], MEASURES[1]) - correlation(orbit, MEASURES[1])
        for orbit in own
        if orbit.seed in scaled
    ]
    if differences:
        interval = over(differences)
        yield Claim(
            "initial scale is a confounder: where it changes |Q|, |Q| and the rate go together more closely",
            "the interval of the difference of the rank correlations lies below 0",
            f"difference {cell(interval)}",
            _above(interval, 0.0),
        )


def _inside(interval: Interval | None) -> Verdict:
    if interval is None or interval.low is None or interval.high is None:
        return "not decided"
    if interval.low >= LOW and interval.high <= HIGH:
        return "holds"
    return "does not hold" if interval.high < LOW or interval.low > HIGH else "not decided"


def _below(interval: Interval, limit: float) -> Verdict:
    if interval.low is None or interval.high is None:
        return "not decided"
    return "holds" if interval.high < limit else "does not hold" if interval.low > limit else "not decided"


def _above(interval: Interval | None, limit: float) -> Verdict:
    if interval is None or interval.low is None or interval.high is None:
        return "not decided"
    return "holds" if interval.low > limit else "does not hold" if interval.high < limit else "not decided"


def _all(verdicts: Iterator[Verdict]) -> Verdict:
    found = set(verdicts)
    if "does not hold" in found:
        return "does not hold"
    return "not decided" if "not decided" in found or not found else "holds"
