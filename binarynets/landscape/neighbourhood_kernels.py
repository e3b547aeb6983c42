"""What one flipped bit does to a block of samples: first the effect of negating each unit, then which bits negate it.

A flipped weight of unit k changes the unit's sum by twice an input, so it either leaves the unit's sign as it is or
negates it. What happens behind the unit is the same for all of its weights. Hence, sample by sample:

    effects   what the classification does when unit k is negated, for every k
    flips     for every weight of k, the effect of k if the weight's flip takes the sum across the threshold

Sums of the layer behind a negated unit move by 2: only units within 2 of their thresholds can turn, and these are kept
as bits (``UP`` and ``DOWN``), so that all turns are a few operations on words. Layers behind that one are counted anew.

Arrays are read at addresses, as in ``binarynets.landscape.kernels``; ``neighbourhood_blocks`` lays them out.
"""

# numba tells mypy that an intrinsic takes its first argument, the typing context, from the caller:
# mypy: disable-error-code="call-arg, unreachable, var-annotated"

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from binarynets.compiled import entry
from binarynets.landscape.vector import LANES, fetch, mismatches, put

# Columns of the table of hidden layers. Words are uint64, and all counts and limits int64.
WORDS = 0  # number of words of the layer's units
ON = 1  # signs, words [samples, words]
UP = 2  # units that turn when their sum grows by 2, likewise
DOWN = 3  # units that turn when their sum shrinks by 2, likewise
COLUMNS = 4  # weights into the layer by input, words [inputs, words]
ROWS = 5  # the same by word of inputs, [words of inputs, 64 * words]
LIMITS = 6  # the most mismatching bits with which a unit passes its threshold, [64 * words]
NEGATED = 7  # units that are on where they do not pass, words
FIELDS = 8

# Entries of the table of the classes.
CLASS_ROWS = 0  # weights, words [words of the last hidden layer, across]
ACROSS = 1  # classes padded to a multiple of 8
CLASSES = 2
RANKS = 3  # order of the outputs, int32 [classes, stride]
MARGINS = 4  # outputs in fixed point, int64 [classes, stride], or 0
STRIDE = 5  # fan-in + 1
CLASS_FIELDS = 6

_WORD = np.uint64(0)
_ONE = np.uint64(1)
_LONG = np.int64(0)
_INT = np.int32(0)

_I1, _I16, _I64 = (ir.IntType(bits) for bits in (1, 16, 64))
_WIDE = ir.VectorType(_I64, LANES)


def _pointer(builder: Any, address: Any, index: Any, of: Any, size: int) -> Any:
    return builder.inttoptr(builder.add(address, builder.mul(index, _I64(size))), of.as_pointer())


def _load(builder: Any, address: Any, index: Any, element: ir.IntType) -> Any:
    """64 numbers, the ``index``-th 64 of those at ``address``."""
    size = element.width // 8
    return builder.load(_pointer(builder, address, index, ir.VectorType(element, LANES), size * LANES), align=size)


def _word(builder: Any, address: Any, index: Any) -> Any:
    return builder.load(_pointer(builder, address, index, _I64, 8), align=8)


def _mask(builder: Any, word: Any) -> Any:
    return builder.bitcast(word, ir.VectorType(_I1, LANES))


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _add(builder: Any, address: Any, index: Any, amounts: Any) -> None:
    place = _pointer(builder, address, index, _WIDE, 8 * LANES)
    builder.store(builder.add(builder.load(place, align=8), amounts), place, align=8)


@intrinsic
def decide(typingctx, counts, limits, negated, on, words):  # type: ignore[no-untyped-def]  # noqa: D417
    """Write which units have at most as many mismatches as their limits say (the others where negated).

    Args:
        counts: Address of ``64 * words`` int64.
        limits: Likewise.
        negated: Address of ``words`` words.
        on: Likewise; they are written.
        words: Number of words.
    """
    signature = types.void(*[types.intp] * 5)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at, limit, negations, ons, count = args
        with cgutils.for_range(builder, count) as loop:
            k = loop.index
            passed = builder.icmp_signed("<=", _load(builder, at, k, _I64), _load(builder, limit, k, _I64))
            word = builder.xor(builder.bitcast(passed, _I64), _word(builder, negations, k))
            builder.store(word, _pointer(builder, ons, k, _I64, 8), align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_by_bits(typingctx, sums, a, b, words, differ, agree):  # type: ignore[no-untyped-def]  # noqa: D417
    """Add ``differ`` to each sum whose bits in two rows differ, ``agree`` to the others.

    Args:
        sums: Address of ``64 * words`` int64.
        a: Address of ``words`` words.
        b: Likewise.
        words: Number of words.
        differ: int64.
        agree: int64.
    """
    signature = types.void(*[types.intp] * 4, types.int64, types.int64)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at, left, right, count, where_differ, where_agree = args
        yes, no = _splat(builder, where_differ), _splat(builder, where_agree)
        with cgutils.for_range(builder, count) as loop:
            bits = builder.xor(_word(builder, left, loop.index), _word(builder, right, loop.index))
            _add(builder, at, loop.index, builder.select(_mask(builder, bits), yes, no))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_where_at_least(typingctx, sums, x, signs, negation, words, least, amount):  # type: ignore[no-untyped-def]  # noqa: D417
    """Add ``amount`` to each sum whose signed input is ``least`` or more.

    Args:
        sums: Address of ``64 * words`` int64.
        x: Address of as many int16, none of them -32768.
        signs: Address of ``words`` words: inputs whose bit is not set are negated.
        negation: Word of all ones to negate the others instead, or 0.
        words: Number of words.
        least: int64, which an int16 holds.
        amount: int64.
    """
    signature = types.void(*[types.intp] * 3, types.uint64, types.intp, types.int64, types.int64)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at, inputs, bits, other, count, least, amount = args
        limits, amounts = _splat(builder, builder.trunc(least, _I16)), _splat(builder, amount)
        nothing = ir.Constant(_WIDE, [0] * LANES)
        with cgutils.for_range(builder, count) as loop:
            row = _load(builder, inputs, loop.index, _I16)
            mask = _mask(builder, builder.xor(_word(builder, bits, loop.index), other))
            reached = builder.icmp_signed(">=", builder.select(mask, row, builder.neg(row)), limits)
            _add(builder, at, loop.index, builder.select(reached, amounts, nothing))
        return context.get_dummy_value()

    return signature, generate


@numba.njit(nogil=True)
def _wrong(last, counts, y):  # type: ignore[no-untyped-def]
    """Whether some class comes before class ``y``."""
    step = 4 * last[STRIDE]
    own = np.int64(fetch(last[RANKS] + y * step + 4 * fetch(counts + 8 * y, _LONG), _INT))
    bad = 0
    for c in range(last[CLASSES]):
        other = np.int64(fetch(last[RANKS] + c * step + 4 * fetch(counts + 8 * c, _LONG), _INT))
        bad |= (other + (c < y)) > own
    return bad


@numba.njit(nogil=True)
def _margin(last, counts, y):  # type: ignore[no-untyped-def]
    """Output of class ``y`` above the largest of the others."""
    step = 8 * last[STRIDE]
    largest = np.int64(np.iinfo(np.int64).min)
    for c in range(last[CLASSES]):
        value = fetch(last[MARGINS] + c * step + 8 * fetch(counts + 8 * c, _LONG), _LONG)
        if c != y:
            largest = max(largest, value)
    return fetch(last[MARGINS] + y * step + 8 * fetch(counts + 8 * y, _LONG), _LONG) - largest


@numba.njit(nogil=True)
def _turn_next(layers, layer, s, unit, was_on, out):  # type: ignore[no-untyped-def]
    """Write the signs of ``layer`` when a unit of the one before it is negated; whether any of them turns."""
    words = layers[layer, WORDS]
    here = 8 * s * words
    column = layers[layer, COLUMNS] + 8 * unit * words
    # A unit that goes off takes 2 from the sums with weight +1, and adds 2 to the others; one that comes on reversely.
    with_weight = layers[layer, DOWN if was_on else UP] + here
    without = layers[layer, UP if was_on else DOWN] + here
    on = layers[layer, ON] + here
    some = _WORD
    for w in range(words):
        bits = fetch(column + 8 * w, _WORD)
        turned = (bits & fetch(with_weight + 8 * w, _WORD)) | (~bits & fetch(without + 8 * w, _WORD))
        put(out + 8 * w, fetch(on + 8 * w, _WORD) ^ turned, _WORD)
        some |= turned
    return some != _WORD


@numba.njit(nogil=True)
def _recount(layers, layer, s, before, counts, out):  # type: ignore[no-untyped-def]
    """Write the signs of ``layer`` from those of the one before it; whether any is other than it was."""
    words = layers[layer, WORDS]
    mismatches(before, layers[layer, ROWS], layers[layer - 1, WORDS], LANES * words, counts)
    decide(counts, layers[layer, LIMITS], layers[layer, NEGATED], out, words)
    on = layers[layer, ON] + 8 * s * words
    some = _WORD
    for w in range(words):
        some |= fetch(out + 8 * w, _WORD) ^ fetch(on + 8 * w, _WORD)
    return some != _WORD


@numba.njit(nogil=True)
def _negated(layers, layer, s, unit, was_on, counts, scratch):  # type: ignore[no-untyped-def]
    """Address of the last hidden layer's signs when a unit of a layer before it is negated; 0 if they are as before."""
    widest = 8 * (scratch.size // 2)
    now, spare = scratch.ctypes.data, scratch.ctypes.data + widest
    if not _turn_next(layers, layer + 1, s, unit, was_on, now):
        return 0
    for behind in range(layer + 2, len(layers)):
        if not _recount(layers, behind, s, now, counts, spare):
            return 0
        now, spare = spare, now
    return now


@entry
def effects(layers, layer, last, y, counts, scratch, errors, margins):  # type: ignore[no-untyped-def]
    """The change of each sample's error, and of its margin, when each unit of a hidden layer is negated.

    Args:
        layers: int64 ``[hidden, FIELDS]``, see the constants; words of ``ON`` are changed and restored.
        layer: Which layer, from 0.
        last: int64 ``[CLASS_FIELDS]``.
        y: int64 ``[samples]``.
        counts: int64, 64 for each word of the widest layer, and at least ``ACROSS``.
        scratch: uint64, twice as many words as the widest layer has.
        errors: int8 ``[samples, units]``, written.
        margins: int64 likewise, or of size 0 for none.
    """
    hidden = len(layers)
    words, words_last, across = layers[layer, WORDS], layers[hidden - 1, WORDS], last[ACROSS]
    rows, count = last[CLASS_ROWS], counts.ctypes.data
    for s in range(errors.shape[0]):
        decisive = layers[hidden - 1, ON] + 8 * s * words_last
        mismatches(decisive, rows, words_last, across, count)
        wrong = _wrong(last, count, y[s])
        margin = _margin(last, count, y[s]) if margins.size else 0
        for k in range(errors.shape[1]):
            own = layers[layer, ON] + 8 * (s * words + (k >> 6))
            bit = _ONE << np.uint64(k & 63)
            word = fetch(own, _WORD)
            if layer == hidden - 1:
                put(own, word ^ bit, _WORD)
                mismatches(decisive, rows, words, across, count)
                put(own, word, _WORD)
            else:
                at = _negated(layers, layer, s, k, word & bit != _WORD, count, scratch)
                if at == 0:
                    errors[s, k] = 0
                    if margins.size:
                        margins[s, k] = 0
                    continue
                mismatches(at, rows, words_last, across, count)
            errors[s, k] = _wrong(last, count, y[s]) - wrong
            if margins.size:
                margins[s, k] = _margin(last, count, y[s]) - margin


@entry
def flip_inputs(distances, x, weights, unit_effects, changes):  # type: ignore[no-untyped-def]
    """Add the effect of each flip in the first layer, whose inputs are integers.

    Args:
        distances: int32 ``[samples, units]``, sums above their thresholds.
        x: int16 ``[samples, 64 * words]``, padded with 0, none of them -32768.
        weights: Words ``[units, words]``.
        unit_effects: int8 or int64 ``[samples, units]``.
        changes: int64 ``[units, 64 * words]``, added to.
    """
    words = weights.shape[1]
    largest = np.zeros(len(x), np.int64)
    for s in range(len(x)):
        for i in range(x.shape[1]):
            largest[s] = max(largest[s], abs(np.int64(x[s, i])))
    for k in range(distances.shape[1]):
        row, signs = changes.ctypes.data + k * changes.strides[0], weights.ctypes.data + k * weights.strides[0]
        for s in range(distances.shape[0]):
            amount, distance = np.int64(unit_effects[s, k]), np.int64(distances[s, k])
            if amount == 0:
                continue
            # The flip takes 2 w x from the sum: it falls below if 2 w x > distance, and rises if -2 w x >= -distance.
            least = distance // 2 + 1 if distance >= 0 else (1 - distance) // 2
            if least <= largest[s]:
                negation = _WORD if distance >= 0 else ~_WORD
                add_where_at_least(row, x.ctypes.data + s * x.strides[0], signs, negation, words, least, amount)


@entry
def flip_bits(distances, on, weights, unit_effects, changes):  # type: ignore[no-untyped-def]
    """As ``flip_inputs`` for a layer whose inputs are signs, ``on``: words ``[samples, words]``."""
    words = weights.shape[1]
    for k in range(distances.shape[1]):
        row, signs = changes.ctypes.data + k * changes.strides[0], weights.ctypes.data + k * weights.strides[0]
        for s in range(distances.shape[0]):
            amount, distance = np.int64(unit_effects[s, k]), np.int64(distances[s, k])
            # A flip takes 2 from the sum where weight and input agree, and adds 2 where they differ.
            if amount != 0 and -2 <= distance < 2:
                differ, agree = (_LONG, amount) if distance >= 0 else (amount, _LONG)
                add_by_bits(row, on.ctypes.data + s * on.strides[0], signs, words, differ, agree)


@numba.njit(nogil=True)
def _moved(last, count, c, by, y, wrong, margin):  # type: ignore[no-untyped-def]
    """The change of error and margin when class ``c`` has ``by`` more mismatches."""
    place = count + 8 * c
    before = fetch(place, _LONG)
    if before + by < 0 or before + by >= last[STRIDE]:
        return 0, _LONG
    put(place, before + by, _LONG)
    found = _wrong(last, count, y) - wrong
    moved = _margin(last, count, y) - margin if last[MARGINS] else _LONG
    put(place, before, _LONG)
    return found, moved


@entry
def flip_classes(last, on, weights, y, counts, errors, margins):  # type: ignore[no-untyped-def]
    """Add the effect of each flip in the last layer.

    Args:
        last: int64 ``[CLASS_FIELDS]``.
        on: Signs of the last hidden layer, words ``[samples, words]``.
        weights: Words ``[classes, words]``.
        y: int64 ``[samples]``.
        counts: As in ``effects``.
        errors: int64 ``[classes, 64 * words]``, added to.
        margins: Likewise, or of size 0 for none.
    """
    words, count = weights.shape[1], counts.ctypes.data
    for s in range(len(y)):
        signs = on.ctypes.data + s * on.strides[0]
        mismatches(signs, last[CLASS_ROWS], words, last[ACROSS], count)
        wrong = _wrong(last, count, y[s])
        margin = _margin(last, count, y[s]) if last[MARGINS] else 0
        for c in range(last[CLASSES]):
            # Where weight and input differ, a flip makes one mismatch less.
            less, margin_less = _moved(last, count, c, -1, y[s], wrong, margin)
            more, margin_more = _moved(last, count, c, 1, y[s], wrong, margin)
            own = weights.ctypes.data + c * weights.strides[0]
            if less != 0 or more != 0:
                row = errors.ctypes.data + c * errors.strides[0]
                add_by_bits(row, signs, own, words, np.int64(less), np.int64(more))
            if margins.size:
                row = margins.ctypes.data + c * margins.strides[0]
                add_by_bits(row, signs, own, words, margin_less, margin_more)
