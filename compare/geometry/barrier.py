"""Barriers of an evaluated curve, each under its own name."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Barrier:
    """Two ways to measure how high a curve rises between its ends, in the curve's own unit.

    Attributes:
        height: max_t error(t) - max(error(0), error(1)).
        over_chord: max_t [error(t) - (1 - t) error(0) - t error(1)].
        at: The t of the highest error (the first, if several).
    """

    height: float
    over_chord: float
    at: float


def barrier(ts: Sequence[float], errors: Sequence[float]) -> Barrier:
    """Barriers of a curve measured at ``ts``; neither is negative, since the ends belong to the curve.

    Args:
        ts: Increasing, from 0 to 1.
        errors: One number for each t.

    Returns:
        Both barriers.

    Raises:
        ValueError: If the lengths differ or ``ts`` does not run from 0 to 1.

    Example:
        >>> barrier([0, 0.5, 1], [0.25, 1.0, 0.5])
        Barrier(height=0.5, over_chord=0.625, at=0.5)
    """
    ts, errors = list(map(float, ts)), list(map(float, errors))
    if len(ts) != len(errors) or len(ts) < 2 or ts[0] != 0 or ts[-1] != 1 or sorted(ts) != ts:
        raise ValueError(
            "barrier: expected increasing ts from 0 to 1 with an error for each, "
            f"got {len(ts)} ts and {len(errors)} errors"
        )
    first, last = errors[0], errors[-1]
    over = [error - (1 - t) * first - t * last for t, error in zip(ts, errors, strict=True)]
    top = max(errors)
    # At the ends the chord is met exactly; rounding must not leave -1e-17 there.
    return Barrier(top - max(first, last), max(0.0, *over), ts[errors.index(top)])
