"""The report as Markdown that can be read in a terminal as well."""

import textwrap
from collections.abc import Iterable, Sequence

from compare.report.ladder import ladder
from compare.report.sections import Group, Section, sections
from compare.report.table import Table
from compare.report.tables import SPREAD, TERMS, controls, distances, summary, tables
from compare.runs.record import Record

WIDTH = 110


def markdown(records: Iterable[Record], *, brief: bool = False) -> str:
    """The tables of the report, for terminals and pull requests.

    Args:
        records: At least one; any precisions, data sets and models. Those of different data or models are never
            averaged.
        brief: Only the summary, the precision ladder (where there are enough precisions), the distances and the null
            controls.

    Returns:
        GitHub-flavoured Markdown, its columns padded.

    Raises:
        ReportError: If there is no record, or something else among them.

    Example:
        >>> markdown([])
        Traceback (most recent call last):
        compare.report.sections.ReportError: expected at least one record, got none: run `compare-nets run` to make some
    """
    found = sections(records)
    blocks = ["# Connectivity report", paragraph(SPREAD), paragraph(TERMS)]
    for section in found:
        blocks += _section(section, brief=brief)
    return "\n\n".join(blocks) + "\n"


def heading(section: Section) -> str:
    """Data set and model."""
    return f"{section.data.name}, {section.model}"


def lead(section: Section) -> str:
    """What is compared on how much data, in a sentence or two."""
    titles = "; ".join(_title(group) for group in section.groups)
    data = section.data
    measured = ", ".join(f"{number} {split}" for split, number in data.evaluated.items())
    return (
        f"{titles}. Data: {data.train} train and {data.test} test samples of {data.classes} classes "
        f"(fingerprint {data.fingerprint}); "
        f"measured on {measured}; statistics re-estimated on {data.calibration} train samples."
    )


def _title(group: Group) -> str:
    title = group.records[0].title
    return title if title.startswith(group.label) else f"{group.label}: {title}"


def notes(section: Section) -> list[str]:
    """What was left out, and what the records remark, each remark once with the precision."""
    dropped = [
        f"{group.label}: {group.repeats} of {len(group.records) + group.repeats} records left out: they repeat a pair "
        "(the same networks, measured the same way)"
        for group in section.groups
        if group.repeats
    ]
    remarks = (f"{g.label}: {note}" for g in section.groups for r in g.records for note in r.notes)
    return [*dropped, *dict.fromkeys(remarks)]


def block(table: Table) -> str:
    """A table in Markdown, below its title and what its numbers are."""
    return "\n\n".join((f"### {table.title}", paragraph(table.note), _table(table)))


def _section(section: Section, *, brief: bool) -> list[str]:
    blocks = [f"## {_one_line(heading(section))}", paragraph(lead(section))]
    made = _brief(section) if brief else tables(section)
    for table in made:
        blocks.append(block(table))
    remarks = notes(section)
    if remarks:
        blocks += ["### Notes", "\n".join(f"- {_one_line(remark)}" for remark in remarks)]
    return blocks


def _brief(section: Section) -> list[Table]:
    rungs = [table for table in (ladder(section),) if table.rows]
    return [summary(section), *rungs, distances(section), controls(section)]


def paragraph(text: str) -> str:
    """Text in lines of one width."""
    return textwrap.fill(_one_line(text), WIDTH, break_long_words=False, break_on_hyphens=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(table: Table) -> str:
    cells = [[_cell(text) for text in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if i < table.keys else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(_line(row, widths, table.keys) for row in (cells[0], rule, *cells[1:]))


def _line(cells: Sequence[str], widths: Sequence[int], keys: int) -> str:
    padded = [
        cell.ljust(width) if i < keys else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _cell(text: str) -> str:
    # A bar would end the cell.
    return _one_line(text).replace("|", "\\|")
