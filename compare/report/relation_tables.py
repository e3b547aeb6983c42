"""Tables of what a study's numbers say of each other: claims, correlations, embeddings."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from compare.relations.bootstrap import RESAMPLES, RelationError
from compare.relations.claims import EQUAL, PLAIN, Claim, Roles, Verdict, agreement, overall
from compare.relations.correlations import Correlation, correlations
from compare.relations.embedding import Embedding, embed
from compare.relations.measures import Sizes, distances
from compare.report.numbers import MISSING
from compare.report.study_tables import Cells, interval_text, measured_at
from compare.report.table import Table
from compare.runs.record import Treatment
from compare.runs.study import Study

BEFORE_AFTER: tuple[Treatment, ...] = ("standard form", "matched")


def claim_table(
    studies: Sequence[Study], found: Mapping[str, Sequence[Claim]], roles: Mapping[str, Roles], sizes: Sizes | None
) -> Table:
    """Claim, what would refute it, what was measured, and what follows."""
    about = [f"{PLAIN[0].upper()}{PLAIN[1:]}: " + ", ".join(f"{one.baseline} ({name})" for name, one in roles.items())]
    about += [measured_at(study, sizes) for study in studies]
    alike = agreement(found)
    several = len(found) > 1
    last: Cells = (
        "The same, qualitatively, at all precisions",
        "opposite verdicts",
        *itertools.chain.from_iterable((MISSING, MISSING, MISSING) for _ in found),
        overall(alike),
    )
    rows = [_claim_row(text, refuted, found, alike if several else None) for text, refuted in _texts(found)]
    columns = itertools.chain.from_iterable((name, "networks", f"{name}: verdict") for name in found)
    return Table(
        "Claims",
        _RULE.format(equal=100 * EQUAL, about=". ".join(about)),
        ("claim", "refuted by", *columns, *(["same at all precisions"] if several else [])),
        tuple([*rows, last] if several else rows),
        keys=2,
    )


_RULE = (
    "Each claim is one number: a rank correlation, or the mean of what is claimed to be larger minus the mean of "
    "what is claimed to be smaller, in percentage points (pp) of the error or in radians (rad), algorithms counting"
    " alike; of bends their mean rise above the worse end, of several bends of one pair the lowest. In brackets its"
    " 95 % interval from resampling networks within each algorithm, of bends all that have one; pairs share "
    "networks, so they follow them. Verdicts follow from the interval alone: 'holds' if all of it agrees with the "
    "claim, 'does not hold' if none of it does, else 'not decided', as with fewer than 3 networks of an algorithm. "
    "One exception: where mean train errors differ by more than {equal:g} pp, nothing that is claimed at equal "
    "train error is decided. Intervals are for single claims, not for all at once, and for more networks of these "
    "algorithms on these data; with 5 networks of an algorithm they cover nearer 90 % than 95. Distances and "
    "barriers are within one algorithm, barriers and bends on train samples; 'interpolated' and 're-estimated' are "
    "normalisation statistics on the path. {about}."
)


def _texts(found: Mapping[str, Sequence[Claim]]) -> list[tuple[str, str]]:
    """Each claim once, with what refutes it, those of one topic side by side."""
    order: list[tuple[str, str]] = []
    for claims in found.values():
        place = 0
        for claim in claims:
            key = (claim.text, claim.refuted)
            if key in order:
                place = order.index(key) + 1
            else:
                order.insert(place, key)
                place += 1
    return order


def _claim_row(
    text: str, refuted: str, found: Mapping[str, Sequence[Claim]], alike: Mapping[str, Verdict] | None
) -> Cells:
    cells: list[str] = []
    for claims in found.values():
        claim = next((one for one in claims if one.text == text), None)
        cells += (MISSING, MISSING, "not measured") if claim is None else _claim_cells(claim)
    return text, refuted, *cells, *([] if alike is None else [alike[text]])


def _claim_cells(claim: Claim) -> Cells:
    if claim.interval is None:
        return MISSING, MISSING, claim.verdict
    scale, digits = (100.0, 2) if claim.unit == "pp" else (1.0, 3 if claim.unit == "rad" else 2)
    text = f"{interval_text(claim.interval, scale=scale, digits=digits)} {claim.unit}".rstrip()
    if claim.train is not None and not claim.comparable:
        smaller, larger = (f"{100 * error:.2f}" for error in claim.train)
        text += f"; train {smaller}, {larger} %"
    return text, str(claim.interval.networks), claim.verdict


def correlation_table(studies: Sequence[Study], sizes: Sizes | None, *, resamples: int = RESAMPLES) -> Table:
    """Rank correlations of flatness with test error, distance and barrier."""
    found = {study.precision: correlations(study, sizes, resamples=resamples) for study in studies}
    targets = list(dict.fromkeys(_target(one) for some in found.values() for one in some))
    return Table(
        "Rank correlation of flatness with test error, distance and barrier",
        "Spearman's rank correlation over the networks of all algorithms [95 % interval from resampling networks "
        "within each algorithm]; positive if flatter networks have less of it. Distance: mean RMS angle, matched, from "
        "a network to the others of its own algorithm, or to all others. Barrier: the same mean of barriers on the "
        "geodesic, matched, on train samples, statistics interpolated or re-estimated.",
        ("precision", "flatness", *targets, "networks"),
        tuple(row for name, some in found.items() for row in _correlation_rows(name, some, targets)),
        keys=2,
    )


def _target(one: Correlation) -> str:
    return one.target if one.partners is None else f"{one.target}, {one.partners}"


def _correlation_rows(precision: str, found: Sequence[Correlation], targets: Sequence[str]) -> Iterator[Cells]:
    for measure in dict.fromkeys(one.flatness for one in found):
        intervals = {_target(one): one.interval for one in found if one.flatness == measure}
        numbers = [interval.networks for interval in intervals.values() if interval is not None]
        cells = (interval_text(intervals.get(target)) for target in targets)
        yield precision, measure, *cells, str(max(numbers, default=0))


def embeddings(study: Study) -> dict[Treatment, Embedding]:
    """The networks in a plane, before matching and after; nothing where pairs are missing."""
    found: dict[Treatment, Embedding] = {}
    for treatment in BEFORE_AFTER:
        matrix = distances(study, treatment)
        np.fill_diagonal(matrix, 0.0)
        try:
            found[treatment] = embed(matrix)
        except RelationError:
            # A study of some pairs alone has tables all the same; the table of embeddings says that there is none.
            return {}
    return found


def embedding_table(studies: Sequence[Study]) -> Table:
    """How much of the distances two dimensions show."""
    return Table(
        "Two-dimensional embedding of the distances",
        "Metric multidimensional scaling of RMS angles (radians) of all pairs, before matching (standard form) and "
        "after. Stress: sqrt(sum of squared differences from the distances / sum of squared distances), over pairs; 0 "
        "is perfect. Equidistant: the stress that as many points have that are all equally far apart; a stress near it "
        "says that the picture shows hardly anything of the distances.",
        ("precision", *(f"stress, {treatment}" for treatment in BEFORE_AFTER), "equidistant", "networks"),
        tuple(_embedding_row(study) for study in studies),
    )


def _embedding_row(study: Study) -> Cells:
    found, number = embeddings(study), str(len(study.networks))
    if not found:
        return study.precision, *(["not all pairs measured"] * len(BEFORE_AFTER)), MISSING, number
    stresses = (f"{one.stress:.3f}" for one in found.values())
    return study.precision, *stresses, f"{next(iter(found.values())).equidistant:.3f}", number
