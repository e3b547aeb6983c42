"""A table of text, and the closed choices that stand in the leading columns of several."""

from dataclasses import dataclass
from typing import get_args

from compare.runs.landscape import Order
from compare.runs.record import PathKind, SplitName, Statistics, Treatment

TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)
PATHS: tuple[PathKind, ...] = get_args(PathKind)
STATISTICS: tuple[Statistics, ...] = get_args(Statistics)
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: What the numbers are.
        note: Unit and definition.
        header: One name for each column.
        rows: Cells of each row.
        keys: Leading columns that tell rows apart; the others hold numbers.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int = 1
