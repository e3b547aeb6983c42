"""Tables of what a study's numbers say of each other: claims, correlations, embeddings."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from compare.relations.bootstrap import RESAMPLES, RelationError
from compare.relations.claims import BENDS, EQUAL, PLAIN, Claim, Roles, agreement, overall
from compare.relations.correlations import Correlation, correlations
from compare.relations.embedding import Embedding, embed
from compare.relations.measures import Sizes, angles
from compare.report.numbers import MISSING
from compare.report.study_tables import Cells, interval_text, measured_at, plural
from compare.report.table import Table
from compare.runs.record import Treatment
from compare.runs.study import Study

BEFORE_AFTER: tuple[Treatment, ...] = ("standard form", "matched")
ALL_EQUAL = f"{MISSING}: all equal"


def claim_table(study: Study, found: Sequence[Claim], roles: Roles, sizes: Sizes | None) -> Table:
    """Claim, what would refute it, what was measured, and what follows, at one precision."""
    return Table(
        f"Claims, {study.precision}",
        f"{PLAIN[0].upper()}{PLAIN[1:]}: {roles.baseline}. Flatness: {measured_at(study, sizes)}.",
        ("claim", "refuted by", "measured [95 % interval]", "networks", "verdict"),
        tuple((claim.text, claim.refuted, *_claim_cells(claim)) for claim in found),
        keys=2,
    )


def agreement_table(found: Mapping[str, Sequence[Claim]]) -> Table:
    """Whether precisions agree on each claim."""
    alike = agreement(found)
    verdicts = [{claim.text: claim.verdict for claim in some} for some in found.values()]
    return Table(
        "The same, qualitatively, at all precisions",
        "A claim of its own, refuted by opposite verdicts: 'holds' where a claim is decided alike wherever it was "
        "measured, 'does not hold' where it holds at one precision and does not at another, 'not measured' where fewer "
        "than two precisions have it, else 'not decided'.",
        ("claim", *found, "same at all"),
        (
            *((text, *(some.get(text, "not measured") for some in verdicts), alike[text]) for text in _texts(found)),
            ("all of them", *(MISSING for _ in found), overall(alike)),
        ),
    )


def rules() -> tuple[str, ...]:
    """How claims are decided, a rule each."""
    return (
        "Each claim is one number: a rank correlation, or the mean of what is claimed to be larger minus the mean of "
        "what is claimed to be smaller, in percentage points (pp) of the error or in radians (rad). Algorithms count "
        "alike.",
        "Distances are root mean square angles of rows of weights; of binary networks arccos(1 - 2 d) with d the "
        "Hamming fraction, since sizes of latent weights change nothing.",
        "Noise on latent weights flips bits of binary networks (2.3 % of them at sigma 0.5), so claims on their local "
        "energy and on bit flips are nearly one claim made twice.",
        "Across algorithms, few of them decide: a rank correlation over all networks may say no more than that one "
        "algorithm is worse. The mean of the correlations within each algorithm says whether flatness tells networks "
        "of one algorithm apart.",
        "In brackets its 95 % interval from resampling networks within each algorithm; pairs share networks, so they "
        "follow them.",
        "Verdicts follow from the interval alone: 'holds' if all of it agrees with the claim, 'does not hold' if none "
        "of it does, else 'not decided', as with fewer than 3 networks of an algorithm.",
        f"One exception: where mean train errors differ by more than {100 * EQUAL:g} pp, nothing that is claimed at "
        "equal train error is decided; both errors then stand beside the interval.",
        "Distances and barriers are within one algorithm; barriers and bends on train samples. 'Interpolated' and "
        "'re-estimated' are normalisation statistics on the path.",
        "Of bends the number is their mean rise above the worse end, bends of all algorithms together, of several "
        "bends of one pair the lowest; where no two share a network, bends are resampled, else networks. The table "
        f"gives the number of bends in place of that of networks. Fewer than {BENDS} bends of which no two share a "
        "network decide nothing.",
        "Where an algorithm that seeks flat minima is not flatter than plain training, its settings have not found "
        "what it seeks: claims on its distances and barriers are then on these settings, not on flat minima.",
        "Intervals are for single claims, not for all at once, and for more networks of these algorithms on these "
        "data; with 5 networks of an algorithm they cover nearer 90 % than 95 where networks differ by themselves, and "
        "are wider than they need be where only pairs do. Networks of one number see samples in one order in all "
        "algorithms.",
    )


def _texts(found: Mapping[str, Sequence[Claim]]) -> list[str]:
    """Each claim once, those of one topic side by side."""
    order: list[str] = []
    for claims in found.values():
        place = 0
        for claim in claims:
            if claim.text in order:
                place = order.index(claim.text) + 1
            else:
                order.insert(place, claim.text)
                place += 1
    return order


def _claim_cells(claim: Claim) -> Cells:
    if claim.interval is None:
        return ALL_EQUAL if claim.constant else MISSING, MISSING, claim.verdict
    scale, digits = (100.0, 2) if claim.unit == "pp" else (1.0, 3 if claim.unit == "rad" else 2)
    text = f"{interval_text(claim.interval, scale=scale, digits=digits)} {claim.unit}".rstrip()
    if claim.train is not None and not claim.comparable:
        smaller, larger = (f"{100 * error:.2f}" for error in claim.train)
        text += f"; train {smaller}, {larger} %"
    number = str(claim.interval.networks) if claim.bends is None else plural(claim.bends, "bend")
    return text, number, claim.verdict


def correlation_table(studies: Sequence[Study], sizes: Sizes | None, *, resamples: int = RESAMPLES) -> Table:
    """Rank correlations of flatness with test error, distance and barrier."""
    found = {study.precision: correlations(study, sizes, resamples=resamples) for study in studies}
    targets = list(dict.fromkeys(_target(one) for some in found.values() for one in some))
    return Table(
        "Rank correlation of flatness with test error, distance and barrier",
        "Spearman's rank correlation over the networks of all algorithms [95 % interval from resampling networks "
        "within each algorithm]; positive if flatter networks have less of it. Distance: mean angle, matched, from "
        "a network to the others of its own algorithm, or to all others. Barrier: the same mean of barriers on the "
        "geodesic, matched, on train samples, statistics interpolated or re-estimated. "
        f"'{ALL_EQUAL}': one of the two is the same for all networks, which gives no ranks.",
        ("precision", "flatness", *targets, "networks"),
        tuple(row for name, some in found.items() for row in _correlation_rows(name, some, targets)),
        keys=2,
    )


def _target(one: Correlation) -> str:
    return one.target if one.partners is None else f"{one.target}, {one.partners}"


def _correlation_rows(precision: str, found: Sequence[Correlation], targets: Sequence[str]) -> Iterator[Cells]:
    for measure in dict.fromkeys(one.flatness for one in found):
        some = {_target(one): one for one in found if one.flatness == measure}
        cells = (_correlation_cell(some.get(target)) for target in targets)
        yield precision, measure, *cells, str(max(one.networks for one in some.values()))


def _correlation_cell(one: Correlation | None) -> str:
    if one is None or (one.interval is None and one.networks < 2):
        return MISSING
    return ALL_EQUAL if one.interval is None else interval_text(one.interval)


def embeddings(study: Study) -> dict[Treatment, Embedding]:
    """The networks in a plane, before matching and after; nothing where pairs are missing."""
    found: dict[Treatment, Embedding] = {}
    for treatment in BEFORE_AFTER:
        matrix = angles(study, treatment)
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
        "Metric multidimensional scaling of angles (radians; of sign vectors where networks are binary) of all pairs, "
        "before matching (standard form) and after. Stress: sqrt(sum of squared differences from the distances / sum "
        "of squared distances), over pairs; 0 "
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
