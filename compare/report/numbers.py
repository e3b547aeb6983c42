"""Means with their spread, as text."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Spread:
    """Mean and spread of some numbers.

    Attributes:
        mean: Their mean.
        deviation: Their sample standard deviation (divisor n - 1); None for a single number.
        n: How many there are, at least 1.
    """

    mean: float
    deviation: float | None
    n: int


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and standard deviation, or None where there is no value.

    Args:
        values: Finite numbers.

    Returns:
        Their spread.

    Example:
        >>> spread([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951, n=2)
    """
    found = list(values)
    if not found:
        return None
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return Spread(math.fsum(found) / len(found), deviation, len(found))


def show(values: Iterable[float], *, scale: float = 1.0, digits: int = 2) -> str:
    """``mean ± standard deviation``: without ± for one value, ``0`` where each value is exactly 0.

    Args:
        values: Finite numbers.
        scale: Factor before rounding.
        digits: Decimals.

    Returns:
        Text for a table's cell.

    Example:
        >>> show([0.021, 0.023], scale=100)
        '2.20 ± 0.14'
        >>> show([0.021], scale=100), show([0.0, 0.0]), show([])
        ('2.10', '0', '–')
    """
    found = list(values)
    numbers = spread(found)
    if numbers is None:
        return MISSING
    # An exact zero is a result (a control that vanishes) and must not look like a small number.
    if not any(found):
        return "0"
    mean = _rounded(numbers.mean * scale, digits)
    return mean if numbers.deviation is None else f"{mean} ± {_rounded(numbers.deviation * scale, digits)}"


def percent(fractions: Iterable[float]) -> str:
    """As ``show``, fractions in % (differences of fractions in percentage points), two decimals."""
    return show(fractions, scale=100)


def _rounded(value: float, digits: int) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}"
