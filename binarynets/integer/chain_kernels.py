"""Kernels of ``binarynets.integer.chain``: many samples, signs as words."""

# mypy: ignore-errors
# (numba has no types)

import numba
import numpy as np

from binarynets.compiled import entry
from binarynets.integer.packed_kernels import UNITS
from binarynets.integer.packed_kernels import _at_most as at_most
from binarynets.integer.packed_kernels import _mismatches as mismatches_of


@entry
def narrow(x, out):
    """Write q with ``x = 2 q + 1`` to ``out``, or ``x`` itself, whichever fits 8 bits.

    Args:
        x: ``[samples, inputs]``.
        out: int8, likewise.

    Returns:
        2 where ``x = 2 q + 1``, 1 where it is ``x``, 0 if neither fits.
    """
    # Everything in 32 bits, found out by bits that add up: this loop takes 16 numbers at a time, branches none.
    fraction, even, large, larger = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            number = np.int32(x[s, i])
            half = np.int32(np.int32(number - np.int32(1)) >> np.int32(1))
            fraction = np.int32(fraction | np.int32(x.dtype.type(number) != x[s, i]))
            even = np.int32(even | ~number)
            large = np.int32(large | np.int32(np.int32(number + np.int32(128)) & np.int32(-256)))
            larger = np.int32(larger | np.int32(np.int32(half + np.int32(128)) & np.int32(-256)))
            out[s, i] = np.int8(half)
    if fraction:
        return 0
    if not even & 1 and not larger:
        return 2
    if large:
        return 0
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = np.int8(x[s, i])
    return 1


@entry
def decide(sums, limits, negated, on):
    """Pack which sums are at or above their limits.

    Args:
        sums: int32 ``[samples, units]``.
        limits: int32 ``[words * 64]``.
        negated: Words of units that are on below their limits.
        on: Words ``[samples, words]``, which are written.
    """
    units = sums.shape[1]
    for s in range(len(sums)):
        for w in range(on.shape[1]):
            word = numba.uint64(0)
            for k in range(min(UNITS, units - UNITS * w)):
                word |= numba.uint64(sums[s, UNITS * w + k] >= limits[UNITS * w + k]) << numba.uint64(k)
            on[s, w] = word ^ negated[w]


@entry
def mismatches(on, rows, found):
    """Bits in which each sample differs from each unit's weights.

    Args:
        on: Words ``[samples, words]``.
        rows: Weights ``[blocks, words, 64]``.
        found: int64 ``[samples, blocks * 64]``, which are written.
    """
    blocks, words = rows.shape[0], rows.shape[1]
    found[:] = 0
    for s in range(len(on)):
        for block in range(blocks):
            mismatches_of(
                on.ctypes.data + 8 * s * words,
                rows.ctypes.data + 8 * UNITS * words * block,
                words,
                0,
                found.ctypes.data + 8 * UNITS * (s * blocks + block),
            )


@entry
def later(on, rows, limits, negated, after):
    """A hidden layer behind the first.

    Args:
        on: Words ``[samples, words]`` of its inputs.
        rows: Weights ``[blocks, words, 64]``.
        limits: Most mismatches, int64 ``[blocks * 64]``.
        negated: Words of units that are on below their thresholds.
        after: Words ``[samples, blocks]``, which are written.
    """
    blocks, words = rows.shape[0], rows.shape[1]
    found = np.empty(UNITS, np.int64)
    for s in range(len(on)):
        for block in range(blocks):
            found[:] = 0
            mismatches_of(
                on.ctypes.data + 8 * s * words,
                rows.ctypes.data + 8 * UNITS * words * block,
                words,
                0,
                found.ctypes.data,
            )
            passed = at_most(found.ctypes.data, limits.ctypes.data + 8 * UNITS * block)
            after[s, block] = passed ^ negated[block]
