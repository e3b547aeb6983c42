"""The study of flat regions as one document, from its records alone."""

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from compare.relations.bootstrap import RESAMPLES
from compare.relations.claims import Claim, Roles, Verdict, claims
from compare.relations.measures import Sizes
from compare.report.charts import Chart
from compare.report.origin import made_by
from compare.report.relation_tables import agreement_table, claim_table, correlation_table, embedding_table, rules
from compare.report.sections import ReportError
from compare.report.study_charts import study_charts
from compare.report.study_prose import NUMBERS, introduction
from compare.report.study_tables import bends, energies, own, pair_distances, pair_heights, plural, quality, sharpness
from compare.report.study_training import meanings, training
from compare.report.table import Table
from compare.report.tables import TERMS
from compare.report.text import WIDTH, block, paragraph
from compare.runs.record import Provenance
from compare.runs.study import Study


def document(
    studies: Sequence[Study],
    name: str,
    *,
    roles: Mapping[str, Roles] | None = None,
    sizes: Sizes | None = None,
    figures: Mapping[str, Chart] | None = None,
    resamples: int = RESAMPLES,
) -> str:
    """The whole document: claims first, then every number they rest on.

    Args:
        studies: One for each precision, of the same data.
        name: Of the document's file without its ending; pictures are ``NAME-FIGURE.png`` beside it, records lie in
            the folder ``NAME``.
        roles: Which algorithms the claims are about, by precision; ``Roles()`` for those that are not named.
        sizes: Which sizes of the local energy and of bit flips claims and correlations use.
        figures: The charts by their names; by default those of ``study_charts``, which take as long as all the rest.
        resamples: Of the bootstrap.

    Returns:
        GitHub-flavoured Markdown.

    Raises:
        ReportError: If there is no study, two of one precision, or studies of different data.
    """
    _check(studies)
    parts = {study.precision: (roles or {}).get(study.precision, Roles()) for study in studies}
    found = {s.precision: claims(s, roles=parts[s.precision], sizes=sizes, resamples=resamples) for s in studies}
    drawn = study_charts(studies, sizes=sizes, resamples=resamples) if figures is None else figures
    blocks = [
        f"# Flat regions on {studies[0].data.name}",
        *map(paragraph, introduction(studies)),
        _made_by(studies, name),
        paragraph(_lead(studies)),
        paragraph(_count(found)),
        *(block(claim_table(s, found[s.precision], parts[s.precision], sizes)) for s in studies),
        *([block(agreement_table(found))] if len(studies) > 1 else []),
        "### How claims are decided",
        _list(rules()),
        "### Algorithms",
        _list(meanings(studies)),
        block(training(studies)),
        *(
            f"### {chart.title}\n\n![{chart.title}]({name}-{key}.png)\n\n{paragraph(chart.note)}"
            for key, chart in drawn.items()
        ),
        paragraph(TERMS),
        paragraph(NUMBERS),
        *(block(table) for table in _tables(studies, sizes, resamples) if table.rows),
        *_notes(studies),
    ]
    return "\n\n".join(blocks) + "\n"


def _list(items: Iterable[str]) -> str:
    """Each under a dash, in lines of one width."""
    return "\n".join(
        textwrap.fill(f"- {item}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for item in items
    )


def _check(studies: Sequence[Study]) -> None:
    if not studies:
        raise ReportError("expected at least one study, got none")
    precisions = [study.precision for study in studies]
    if len(set(precisions)) < len(precisions):
        raise ReportError(f"expected one study of each precision, got {', '.join(precisions)}: leave out all but one")
    prints = dict.fromkeys(f"{study.data.name} {study.data.fingerprint}" for study in studies)
    if len(prints) > 1:
        raise ReportError(f"expected studies of the same data, got {', '.join(prints)}: write a document for each")


def _made_by(studies: Sequence[Study], name: str) -> str:
    parts = list(_provenances(studies))
    return made_by(
        parts,
        " or ".join(dict.fromkeys(plural(part.threads, "thread") for part in parts)),
        f". The [records]({name}/) hold every number below, seeds and configuration.",
        packages=("torch", "Brevitas"),
    )


def _provenances(studies: Sequence[Study]) -> Iterator[Provenance]:
    """Of each part: an interrupted study goes on, perhaps elsewhere."""
    for study in studies:
        yield study.provenance
        yield from (part.provenance for part in itertools.chain(study.networks, study.pairs, study.bends))


def _lead(studies: Sequence[Study]) -> str:
    """What was studied on how much data."""
    data = studies[0].data
    groups = "; ".join(
        f"{study.precision}: {study.title}, {study.model}, "
        + ", ".join(f"{number} {name}" for name, number in Counter(n.algorithm for n in study.networks).items())
        + f" networks, {len(study.pairs)} pairs, {len(study.bends)} pairs with bends"
        for study in studies
    )
    measured = ", ".join(f"{number} {split}" for split, number in data.evaluated.items())
    return (
        f"{groups}. Data: {data.train} train and {data.test} test samples of {data.classes} classes (fingerprint "
        f"{data.fingerprint}); errors on paths on {measured}; statistics re-estimated on {data.calibration} train "
        "samples."
    )


def _count(found: Mapping[str, Sequence[Claim]]) -> str:
    """How the claims fare, in numbers."""
    order: tuple[Verdict, ...] = ("holds", "does not hold", "not decided", "not measured")
    sentences = []
    for name, some in found.items():
        numbers = Counter(claim.verdict for claim in some)
        sentences.append(
            f"{name}: " + ", ".join(f"{verdict} {numbers[verdict]}" for verdict in order if numbers[verdict])
        )
    return f"Verdicts on the claims below: {'; '.join(sentences)}."


def _notes(studies: Sequence[Study]) -> Iterator[str]:
    """What could not be measured, and of how many pairs."""
    found = Counter(f"{study.precision}: {note}" for study in studies for pair in study.pairs for note in pair.notes)
    if found:
        yield "### Notes"
        yield _list(f"{note} ({plural(number, 'pair')})" for note, number in found.items())


def _tables(studies: Sequence[Study], sizes: Sizes | None, resamples: int) -> Iterator[Table]:
    yield quality(studies)
    yield energies(studies, "energy")
    yield energies(studies, "flips")
    yield sharpness(studies)
    yield pair_distances(studies, resamples=resamples)
    yield embedding_table(studies)
    yield pair_heights(studies, "train", resamples=resamples)
    yield pair_heights(studies, "test", resamples=resamples)
    yield pair_heights(studies, "train", "over_chord", lots=own, resamples=resamples)
    yield pair_heights(studies, "train", "midpoint", lots=own, resamples=resamples)
    yield correlation_table(studies, sizes, resamples=resamples)
    yield bends(studies)
