"""The report on disk."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from compare.report.text import markdown
from compare.runs.files import write_text
from compare.runs.record import Record


def write_report(records: Iterable[Record], folder: str | PathLike[str]) -> Path:
    """Write the report: ``index.html``, which holds everything it needs, and ``table.md``.

    Both are made before either is written, and each is written whole or not at all.

    Args:
        records: At least one; any precisions, data sets and models. Those of different data or models get sections of
            their own and are never averaged together.
        folder: Where the two files go; made if it is missing.

    Returns:
        The path of the page.

    Raises:
        ReportError: If there is no record, or something else among them.
        OutputError: If a file cannot be written.
    """
    # Altair and the JavaScript library take a second to load: only a page needs them.
    from compare.report.page import page

    found = list(records)
    html, table = page(found), markdown(found)
    write_text(Path(folder) / "table.md", table)
    write_text(Path(folder) / "index.html", html)
    return Path(folder) / "index.html"
