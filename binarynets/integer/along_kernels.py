"""Kernel of ``binarynets.integer.along``: sums of the first layer, unit by unit, samples side by side."""

# mypy: ignore-errors
# (numba has no types)

import numba
import numpy as np

from binarynets.compiled import entry
from binarynets.integer.words import UNITS

_TILE = 512
"""Samples at a time: what they have of a layer of 512 units stays in the second-level cache."""


@entry
def step(sums, columns, units, inputs, raised, limits, negated, on):
    """Flip weights of the first layer, then pack which sums are at or above their limits.

    Args:
        sums: int32 ``[units, samples]``, which are changed.
        columns: Inputs, int8 ``[inputs, samples]``.
        units: Of each flip, best in order.
        inputs: Likewise.
        raised: Whether it goes from -1 to +1.
        limits: int32, one a unit or more.
        negated: Words of units that are on below their limits.
        on: Words ``[samples, words]``, which are written.
    """
    for start in range(0, sums.shape[1], _TILE):
        end = min(start + _TILE, sums.shape[1])
        _flip(sums, columns, units, inputs, raised, start, end)
        _decide(sums, limits, negated, on, start, end)


@numba.njit
def _flip(sums, columns, units, inputs, raised, start, end):
    for f in range(len(units)):
        # A part of a row lies in one piece, and numba knows that; of a part of the whole array it would not.
        row, column = sums[units[f]][start:end], columns[inputs[f]][start:end]
        # Two loops without a branch in them, which take 16 samples at a time.
        if raised[f]:
            for s in range(len(row)):
                row[s] += np.int32(column[s]) << np.int32(1)
        else:
            for s in range(len(row)):
                row[s] -= np.int32(column[s]) << np.int32(1)


@numba.njit
def _decide(sums, limits, negated, on, start, end):
    units = len(sums)
    word = np.empty(end - start, np.uint64)
    for w in range(on.shape[1]):
        word[:] = negated[w]
        for k in range(min(UNITS, units - UNITS * w)):
            row, limit = sums[UNITS * w + k][start:end], limits[UNITS * w + k]
            for s in range(len(row)):
                word[s] ^= np.uint64(row[s] >= limit) << np.uint64(k)
        on[start:end, w] = word
