"""Where the numbers of a document come from."""

from collections.abc import Iterable, Sequence

from compare.report.text import paragraph
from compare.runs.record import Provenance


def made_by(parts: Iterable[Provenance], threads: str, rest: str, *, packages: Sequence[str] = ("torch",)) -> str:
    """The commands, and a paragraph with revision, versions, threads and platform.

    Args:
        parts: Of all parts of the records. An interrupted run may have gone on elsewhere, or with another revision:
            all are told, each once.
        threads: How many, in words.
        rest: The rest of the paragraph, which goes on behind the platform.
        packages: Whose versions are told, by the names that are shown; records have them in lower case.

    Returns:
        Markdown.
    """
    found = list(parts)
    commands = dict.fromkeys(part.command or "not recorded" for part in found)
    versions = (
        f"{name} {distinct(part.packages.get(name.lower(), 'not recorded') for part in found)}" for name in packages
    )
    where = (
        f"at revision {distinct(part.revision for part in found)}, with {', '.join(versions)}, Python "
        f"{distinct(part.python for part in found)}, {threads}, {distinct(part.platform for part in found)}{rest}"
    )
    return "\n".join(["Made by", "", "```sh", *commands, "```", "", paragraph(where)])


def distinct(values: Iterable[object]) -> str:
    """Each value once, in order."""
    return ", ".join(dict.fromkeys(map(str, values)))
