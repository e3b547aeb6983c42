"""Bits as 64-bit words, the first in the lowest bit."""

from typing import Any

import numpy as np
import numpy.typing as npt

UNITS = 64
"""Bits of a word."""

Words = npt.NDArray[np.uint64]

_LINE = 64
"""Bytes of a line of the cache."""


def packed_words(bits: npt.NDArray[np.bool_]) -> Words:
    """Bits of the last axis as words, padded with zeros to a multiple of 64."""
    padded = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // UNITS) * UNITS), np.bool_)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view(np.uint64)


def blocks_of_rows(bits: npt.NDArray[np.bool_]) -> Words:
    """Rows ``[units, inputs]`` in blocks of 64 units, word by word: ``[blocks, words, 64]``.

    They begin with a line of the cache: the kernels load whole lines.
    """
    rows = packed_words(bits)
    full = np.zeros((-(-len(rows) // UNITS) * UNITS, rows.shape[1]), np.uint64)
    full[: len(rows)] = rows
    blocks: Words = _aligned(full.size).reshape(-1, rows.shape[1], UNITS)
    blocks[:] = full.reshape(-1, UNITS, rows.shape[1]).swapaxes(1, 2)
    return blocks


def _aligned(count: int) -> npt.NDArray[Any]:
    """``count`` words that begin with a line of the cache."""
    room = np.zeros(count + _LINE // 8, np.uint64)
    start = -room.ctypes.data % _LINE // 8
    return room[start : start + count]
