"""What is claimed of conserved quantities, and what the numbers say."""

from collections.abc import Iterator, Sequence

from scipy import stats

from compare.relations.bootstrap import Interval
from compare.report.claims import Claim, Verdict
from compare.report.conserved_statistics import (
    MEASURES,
    RATE,
    Measure,
    above,
    below,
    cell,
    chosen,
    correlation,
    deviates,
    from_balance,
    grouped,
    number,
    over,
    ratio_of,
    slopes,
    turn,
)
from compare.report.table import Table
from compare.runs.conserved import Conserved, Course, Initial, Law, Orbit

LOW, HIGH = 0.9, 1.1
"""What counts as a slope of 1."""

CONTROL = 0.5
"""A slope below which a drift does not follow the step."""


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
        "several quantities all must hold, and one that does not is enough. Ratios of drifts by gradient descent are "
        "those of the step that is named: where one drift falls with the step and the other does not, the ratio grows "
        "as steps shrink. A correlation with |Q| on one side of 0 does not say that the least lies at 0: the Q at "
        "which it lies is given, and the distance from balance is the guide's prediction.",
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
    on_data = [law for law in found.laws if law.case.startswith("on data, ")]
    step = min((rate for law in on_data for rate in law.rates), default=0.0)
    for what, drifts in (
        (f"by gradient descent with steps of {step:g}, the smallest", _smallest(on_data)),
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
    if own:
        yield from (_quantity_claim(own, measure) for measure in MEASURES)
        yield from (_balance_claim(own, measure) for measure in MEASURES)
    scaled = {orbit.seed: orbit for orbit in orbits if orbit.arm == "initial scale"}
    differences = [
        correlation(scaled[orbit.seed], RATE, below) - correlation(orbit, RATE, below)
        for orbit in own
        if orbit.seed in scaled
    ]
    if differences:
        interval = over(differences)
        yield Claim(
            "initial scale is a confounder: where it changes |Q|, |Q| and the rate go together more closely, at Q < 0, "
            "which both kinds of starts cover",
            "the interval of the difference of the rank correlations lies below 0",
            f"difference {cell(interval)}",
            _above(interval, 0.0),
        )


def _quantity_claim(orbits: Sequence[Orbit], measure: Measure) -> Claim:
    sides = {
        f"Q {sign} 0 ({number(orbits, side)} starts)": over([correlation(orbit, measure, side) for orbit in orbits])
        for sign, side in ((">", above), ("<", below))
    }
    _, value = turn(orbits, measure)
    elsewhere = "" if value is None or not _clear(value) else ", not at 0"
    return Claim(
        f"at the same function, |Q| is {_sense(measure)} correlated with the {measure.name}, on either side of 0",
        f"the rank correlation's interval lies {'below' if measure.rises else 'above'} 0 on one side",
        "; ".join(f"{name}: {cell(side)}" for name, side in sides.items())
        + f"; the {_extreme(measure)} at Q = {cell(value)}{elsewhere}",
        _all(_as_expected(side, measure) for side in sides.values()),
    )


def _balance_claim(orbits: Sequence[Orbit], measure: Measure) -> Claim:
    interval = over([from_balance(orbit, measure) for orbit in orbits])
    exponent, _ = turn(orbits, measure)
    return Claim(
        f"at the same function, the distance from the balanced kernel is {_sense(measure)} correlated with the "
        f"{measure.name}",
        f"the rank correlation's interval lies {'below' if measure.rises else 'above'} 0",
        f"{cell(interval)}; the {_extreme(measure)} at c = {cell(exponent)}, "
        f"balance at c* = {cell(over([orbit.balanced[0] for orbit in orbits]))}",
        _as_expected(interval, measure),
    )


def _sense(measure: Measure) -> str:
    return "positively" if measure.rises else "negatively"


def _extreme(measure: Measure) -> str:
    return "least" if measure.rises else "most"


def _clear(interval: Interval) -> bool:
    """Whether the interval does not hold 0."""
    return interval.low is not None and interval.high is not None and not interval.low <= 0 <= interval.high


def _as_expected(interval: Interval | None, measure: Measure) -> Verdict:
    return _above(interval, 0.0) if measure.rises else _below(interval, 0.0)


def _inside(interval: Interval | None) -> Verdict:
    if interval is None or interval.low is None or interval.high is None:
        return "not decided"
    if interval.low >= LOW and interval.high <= HIGH:
        return "holds"
    return "does not hold" if interval.high < LOW or interval.low > HIGH else "not decided"


def _below(interval: Interval | None, limit: float) -> Verdict:
    if interval is None or interval.low is None or interval.high is None:
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
