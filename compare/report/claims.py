"""What documents with claims share: a claim with its verdict, and the table of claims."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from compare.report.table import Table

Verdict: TypeAlias = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True)
class Claim:
    """Something that the numbers may refute.

    Attributes:
        claim: What is claimed.
        refuted: What would refute it.
        measured: The numbers it rests on.
        verdict: By a rule that the document states.
    """

    claim: str
    refuted: str
    measured: str
    verdict: Verdict


def claim_table(claims: Iterable[Claim], note: str) -> Table:
    """Claims as a table.

    Args:
        claims: The rows.
        note: Units, and the rule of the verdicts.

    Returns:
        The table.
    """
    return Table(
        "Claims",
        note,
        ("claim", "what would refute it", "measured", "verdict"),
        tuple((each.claim, each.refuted, each.measured, each.verdict) for each in claims),
        keys=4,
    )
