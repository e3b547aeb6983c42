"""Following one block of samples through all networks of a sequence, one change of the network after the other.

State of a block of S samples (S a multiple of 64), all of it in the second-level cache:

    x      int16   [inputs, S]           integer inputs
    sums1  int32   [units of layer 1, S] pre-activations of the first layer, one unit's samples side by side
    on1    uint64  [units of layer 1, S / 64]
    sums   int8, int16 or int32          (pre-activation + fan-in modulo 2) / 2, which moves by 1, of layers 2 and up,
                                         one sample's units side by side
    on     uint64                        their signs, and those of layer 1 once more, one sample's units side by side
    counts int64   [S, classes]          bits in which the last hidden layer differs from each class's weights

A flip of a weight of layer 1 changes one unit's row of ``sums1``; only samples in which that unit turns go on. There
one column of the next layer is added to a row of sums, which at once gives the units that turn there, and so on.

Everything is read and written at addresses: numba's arrays count references, at ten times the cost of the work here.
``binarynets.landscape.dense`` lays the memory out and vouches for it.
"""

# mypy: ignore-errors
# (numba has no types)

from typing import NamedTuple

import numba
import numpy as np

from binarynets.compiled import entry
from binarynets.landscape.line import MOVE
from binarynets.landscape.vector import (
    LANES,
    add_and_decide,
    add_row,
    decide_row,
    fetch,
    flip_unit,
    lowest_bit,
    mismatches,
    move_column,
    put,
)

_WORD = np.uint64(0)
_ONE = np.uint64(1)
_LONG = np.int64(0)
_INT = np.int32(0)
_BYTE = np.uint8(0)


class Memory(NamedTuple):
    """Sizes, and addresses of arrays. Hidden layers count from 1; the classes are layer ``hidden + 1``.

    Attributes:
        hidden: Number of hidden layers.
        samples: Samples of a block, a multiple of 64.
        units: Units of layer 1.
        classes: Number of classes.
        across: Classes padded to a multiple of 8.
        width: Bytes of a sum behind the first layer.
        words: int64 ``[hidden]``: words of each layer's units.
        strides: int64 ``[hidden]``: bytes from one sample's sums to the next one's.
        sums_at: int64 ``[hidden]``: addresses of the layers' sums; entry 0 is not used.
        on_at: int64 ``[hidden]``: addresses of the layers' signs.
        bits_at: int64 ``[hidden]``: addresses of the columns of the weights *into* the layers; entry 0 is not used.
        limits_at: int64 ``[hidden]``: addresses of the layers' thresholds at step 0; entry 0 is not used.
        negated_at: int64 ``[hidden]``: likewise words of the units that are on below their thresholds.
        limits_step: Bytes from the thresholds of one step to the next one's.
        negated_step: Likewise.
        first: int32 ``[steps, units]``: thresholds of layer 1.
        first_negated: uint64 ``[steps, units]``: all ones or 0.
        ranks: int32 ``[steps, classes, fan-in + 1]``: order of a class's output given the number of mismatches.
        ranks_step: Bytes from one step to the next.
        ranks_row: Bytes from one class to the next.
        x: Inputs.
        sums1: Sums of layer 1.
        on1: Signs of layer 1.
        counts: int64 ``[samples, across]``.
        rows: Weights of the classes, words ``[words of the last hidden layer, across]``.
        y: Classes, int64, -1 for padding.
        wrong: 0 or 1, uint8.
        overflow: A word, not 0 once a sum of 8 bits has come to its edge.
    """

    hidden: int
    samples: int
    units: int
    classes: int
    across: int
    width: int
    words: int
    strides: int
    sums_at: int
    on_at: int
    bits_at: int
    limits_at: int
    negated_at: int
    limits_step: int
    negated_step: int
    first: int
    first_negated: int
    ranks: int
    ranks_step: int
    ranks_row: int
    x: int
    sums1: int
    on1: int
    counts: int
    rows: int
    y: int
    wrong: int
    overflow: int


@numba.njit(nogil=True)
def _memory(t):
    """The fields by name: numba takes no starred arguments."""
    return Memory(
        t[0],
        t[1],
        t[2],
        t[3],
        t[4],
        t[5],
        t[6],
        t[7],
        t[8],
        t[9],
        t[10],
        t[11],
        t[12],
        t[13],
        t[14],
        t[15],
        t[16],
        t[17],
        t[18],
        t[19],
        t[20],
        t[21],
        t[22],
        t[23],
        t[24],
        t[25],
        t[26],
        t[27],
    )


@numba.njit(nogil=True, inline="always")
def _of(table, layer):
    """Entry of a table of layers."""
    return fetch(table + 8 * (layer - 1), _LONG)


@numba.njit(nogil=True, inline="always")
def _judge(m, g, s):
    """Whether sample ``s`` is misclassified; returns the change of the number of errors."""
    y = fetch(m.y + 8 * s, _LONG)
    if y < 0:
        return 0
    counts = m.counts + 8 * s * m.across
    ranks = m.ranks + g * m.ranks_step
    own = np.int64(fetch(ranks + y * m.ranks_row + 4 * fetch(counts + 8 * y, _LONG), _INT))
    bad = 0
    for c in range(m.classes):
        other = np.int64(fetch(ranks + c * m.ranks_row + 4 * fetch(counts + 8 * c, _LONG), _INT))
        bad |= (other + (c < y)) > own
    before = fetch(m.wrong + s, _BYTE)
    put(m.wrong + s, bad, _BYTE)
    return bad - np.int64(before)


@numba.njit(nogil=True, inline="always")
def _classify(m, g, s):
    """Count mismatches anew from the last hidden layer, and judge."""
    words = _of(m.words, m.hidden)
    mismatches(_of(m.on_at, m.hidden) + 8 * s * words, m.rows, words, m.across, m.counts + 8 * s * m.across)
    return _judge(m, g, s)


@numba.njit(nogil=True)
def _add_changed(m, s, layer, changed, plus, minus):
    """Add what changed in ``layer`` to the sums of the next."""
    words = _of(m.words, layer + 1)
    row = _of(m.sums_at, layer + 1) + s * _of(m.strides, layer + 1)
    columns = _of(m.bits_at, layer + 1)
    on = _of(m.on_at, layer) + 8 * s * _of(m.words, layer)
    for w in range(_of(m.words, layer)):
        left = fetch(changed + 8 * w, _WORD)
        now = fetch(on + 8 * w, _WORD)
        while left:
            k = lowest_bit(left)
            left &= left - _ONE
            amount = plus if (now >> np.uint64(k)) & _ONE else minus
            add_row(row, columns + 8 * (LANES * w + k) * words, words, m.overflow, amount)


@numba.njit(nogil=True)
def _decide(m, g, s, layer, changed, like):
    """Compare the sums of a layer behind the first with their thresholds; the words that changed, by or."""
    words = _of(m.words, layer)
    return decide_row(
        _of(m.sums_at, layer) + s * _of(m.strides, layer),
        _of(m.limits_at, layer) + g * m.limits_step,
        _of(m.negated_at, layer) + g * m.negated_step,
        _of(m.on_at, layer) + 8 * s * words,
        changed,
        words,
        like,
    )


@numba.njit(nogil=True)
def _onward(m, g, s, layer, changed, plus, minus):
    """Carry the units of ``layer`` that changed in sample ``s`` to the layers behind it; the change of errors."""
    while layer < m.hidden:
        _add_changed(m, s, layer, changed, plus, minus)
        layer += 1
        if _decide(m, g, s, layer, changed, plus) == 0:
            return 0
    return _classify(m, g, s)


@numba.njit(nogil=True, inline="always")
def _turned(m, g, s, layer, unit, changed, plus, minus):
    """One unit of ``layer`` turns in sample ``s``; the change of errors."""
    own = _of(m.on_at, layer) + 8 * (s * _of(m.words, layer) + (unit >> 6))
    bit = _ONE << np.uint64(unit & 63)
    now = fetch(own, _WORD) ^ bit
    put(own, now, _WORD)
    if layer == m.hidden:
        return _classify(m, g, s)
    words = _of(m.words, layer + 1)
    some = add_and_decide(
        _of(m.sums_at, layer + 1) + s * _of(m.strides, layer + 1),
        _of(m.bits_at, layer + 1) + 8 * unit * words,
        _of(m.limits_at, layer + 1) + g * m.limits_step,
        _of(m.negated_at, layer + 1) + g * m.negated_step,
        _of(m.on_at, layer + 1) + 8 * s * words,
        changed,
        words,
        m.overflow,
        plus if now & bit else minus,
    )
    if some == 0:
        return 0
    if layer + 1 == m.hidden:
        return _classify(m, g, s)
    return _onward(m, g, s, layer + 1, changed, plus, minus)


@numba.njit(nogil=True)
def _decide_first(m, g, unit, source, factor, found):
    """Add ``factor`` times an input to a unit of layer 1, and decide; the words that changed, by or."""
    across = m.samples // LANES
    return flip_unit(
        m.sums1 + 4 * unit * m.samples,
        m.x + 2 * source * m.samples,
        fetch(m.first + 4 * (g * m.units + unit), _INT),
        fetch(m.first_negated + 8 * (g * m.units + unit), _WORD),
        m.on1 + 8 * unit * across,
        found,
        across,
        factor,
    )


@numba.njit(nogil=True)
def _flip_first(m, g, unit, source, positive, found, changed, plus, minus):
    """Flip a weight of layer 1."""
    total = 0
    if _decide_first(m, g, unit, source, np.int32(2 if positive else -2), found):
        for w in range(m.samples // LANES):
            left = fetch(found + 8 * w, _WORD)
            while left:
                s = LANES * w + lowest_bit(left)
                left &= left - _ONE
                total += _turned(m, g, s, 1, unit, changed, plus, minus)
    return total


@numba.njit(nogil=True)
def _inputs(m, layer, source, w):
    """Signs of unit ``source`` of ``layer`` in the samples of word ``w``."""
    if layer == 1:
        return fetch(m.on1 + 8 * (source * (m.samples // LANES) + w), _WORD)
    step = 8 * _of(m.words, layer)
    place = _of(m.on_at, layer) + LANES * w * step + 8 * (source >> 6)
    word = _WORD
    for k in range(LANES):
        word |= ((fetch(place + k * step, _WORD) >> np.uint64(source & 63)) & _ONE) << np.uint64(k)
    return word


@numba.njit(nogil=True)
def _flip_hidden(m, g, layer, unit, source, positive, changed, plus, minus):
    """Flip a weight of layer 2 or up."""
    words = _of(m.words, layer)
    column = _of(m.bits_at, layer) + 8 * (source * words + (unit >> 6))
    put(column, fetch(column, _WORD) ^ (_ONE << np.uint64(unit & 63)), _WORD)
    limit = np.int32(fetch(_of(m.limits_at, layer) + g * m.limits_step + m.width * unit, plus))
    one = np.int32(1 if positive else -1)
    stride = _of(m.strides, layer)
    sums = _of(m.sums_at, layer) + m.width * unit
    total = 0
    for w in range(m.samples // LANES):
        inputs = _inputs(m, layer - 1, source, w)
        left = move_column(sums + LANES * w * stride, stride, limit, inputs, one, m.overflow, plus)
        while left:
            s = LANES * w + lowest_bit(left)
            left &= left - _ONE
            total += _turned(m, g, s, layer, unit, changed, plus, minus)
    return total


@numba.njit(nogil=True)
def _flip_last(m, g, unit, source, positive):
    """Flip a weight of the classes: its bit now agrees with where it did not."""
    words = _of(m.words, m.hidden)
    shift = np.uint64(source & 63)
    row = m.rows + 8 * ((source >> 6) * m.across + unit)
    put(row, fetch(row, _WORD) ^ (_ONE << shift), _WORD)
    on = _of(m.on_at, m.hidden) + 8 * (source >> 6)
    total = 0
    for s in range(m.samples):
        agrees = ((fetch(on + 8 * s * words, _WORD) >> shift) & _ONE == _ONE) == positive
        count = m.counts + 8 * (s * m.across + unit)
        put(count, fetch(count, _LONG) + (-1 if agrees else 1), _LONG)
        total += _judge(m, g, s)
    return total


@numba.njit(nogil=True)
def _move(m, g, found, changed, plus, minus):
    """Thresholds and gains of step ``g`` come into force; every sample is judged anew."""
    for unit in range(m.units):
        if _decide_first(m, g, unit, 0, np.int32(0), found) == 0:
            continue
        bit = _ONE << np.uint64(unit & 63)
        for w in range(m.samples // LANES):
            left = fetch(found + 8 * w, _WORD)
            while left:
                s = LANES * w + lowest_bit(left)
                left &= left - _ONE
                own = _of(m.on_at, 1) + 8 * (s * _of(m.words, 1) + (unit >> 6))
                now = fetch(own, _WORD) ^ bit
                put(own, now, _WORD)
                if m.hidden > 1:
                    words = _of(m.words, 2)
                    row = _of(m.sums_at, 2) + s * _of(m.strides, 2)
                    add_row(row, _of(m.bits_at, 2) + 8 * unit * words, words, m.overflow, plus if now & bit else minus)
    total = 0
    for s in range(m.samples):
        for layer in range(2, m.hidden + 1):
            some = _decide(m, g, s, layer, changed, plus)
            if some != 0 and layer < m.hidden:
                _add_changed(m, s, layer, changed, plus, minus)
        total += _classify(m, g, s)
    return total


# Cached alone: the index of a cache holds the types of arguments, and one that names a class of ours would break when
# that class is renamed.
@entry
def follow(table, events, changes, work, plus, minus):
    """Apply all events to one block, and add the change of the number of errors after each to ``changes``.

    Args:
        table: int64, the fields of ``Memory``: the block at the first network, with the thresholds of step 0; its state
            is changed.
        events: int32 ``[events, 4]``: layer, unit, source, whether the weight becomes +1; or ``MOVE``, step, 0, 0.
        changes: int64 ``[events + 1]``; entry 0 is the number of errors of the first network.
        work: uint64, ``2`` times as many words as the widest layer or the block has.
        plus: 1 in the type of the sums of layers 2 and up.
        minus: -1 likewise.

    Returns:
        False if a sum came to the edge of 8 bits, so that ``changes`` are worth nothing.
    """
    m = _memory(table)
    found = work.ctypes.data
    changed = found + 4 * work.size
    g = 0
    for s in range(m.samples):
        changes[0] += _classify(m, 0, s)
    for e in range(len(events)):
        if fetch(m.overflow, _WORD):
            return False
        layer, unit, source = np.int64(events[e, 0]), np.int64(events[e, 1]), np.int64(events[e, 2])
        positive = events[e, 3] != 0
        if layer == MOVE:
            g = unit
            changes[e + 1] += _move(m, g, found, changed, plus, minus)
        elif layer == 1:
            changes[e + 1] += _flip_first(m, g, unit, source, positive, found, changed, plus, minus)
        elif layer <= m.hidden:
            changes[e + 1] += _flip_hidden(m, g, layer, unit, source, positive, changed, plus, minus)
        else:
            changes[e + 1] += _flip_last(m, g, unit, source, positive)
    return fetch(m.overflow, _WORD) == _WORD
