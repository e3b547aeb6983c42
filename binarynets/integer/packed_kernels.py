"""One sample through packed layers: exclusive or and population count, 64 units at a time.

Rows of weights lie in blocks of 64 units, word by word: ``[blocks, words, 64]``. So each lane of a vector counts for a
unit of its own, nothing is added across lanes, and 64 comparisons with thresholds are the next layer's word as they
stand. The vectors are written for LLVM, which cuts them to what the machine has (8 words at a time with AVX-512
VPOPCNTDQ).

Inputs of the first layer are integers. With ``d = x - lowest >= 0`` they are cut into planes of bits. Where plane j is
the bits j of d, and a unit k with ``ones_k`` weights of +1 has ``m_jk`` mismatches between its weights and the plane::

    sum_i w_ki d_ij = ones_k - m_jk
    sum_i w_ki x_i  = lowest (2 ones_k - inputs) + sum_j 2^j (ones_k - m_jk)

Two different numbers, such as +1 and -1, make one plane; pixels ``2 p - 255`` make eight.

Everything is read at addresses, which the caller vouches for: unpacking numba's arrays costs as much as a small layer.
"""
# numba tells mypy that an intrinsic takes its first argument, the typing context, from the caller:
# mypy: disable-error-code="call-arg, no-untyped-call, unreachable, var-annotated"

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from binarynets.compiled import entry
from binarynets.integer.words import UNITS

OK, NOT_INTEGER, TOO_LARGE = 0, 1, 2
"""What became of an input."""

_PLANES = 26
"""Planes that a difference of two inputs below 2**24 can have."""

WORDS, BLOCKS, INPUTS, WEIGHTS, ONES, LIMITS, NEGATED = range(7)
"""Columns of the table of layers: sizes, and addresses of what the layer holds.

A layer has ``words`` words of input for each unit, ``blocks`` blocks of units and ``inputs`` bits that count.
Addresses: weights uint64 ``[blocks, words, 64]``, at a multiple of 64 bytes; ones int64 ``[blocks, 64]``, how many
weights of each unit are +1; limits int64 ``[blocks, 64]``, for the first layer thresholds of sums, for the others the
largest number of mismatches with which the sum is not below its threshold; negated uint64 ``[blocks]``.
"""

_I1, _I32, _I64 = (ir.IntType(bits) for bits in (1, 32, 64))


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, UNITS), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, UNITS), [0] * UNITS))


def _at(builder: Any, address: Any, of: ir.Type) -> Any:
    return builder.inttoptr(address, of.as_pointer())


def _forward(builder: Any, address: Any, index: Any, size: int) -> Any:
    return builder.add(address, builder.mul(index, _I64(size)))


@intrinsic
def _mismatches(typingctx, on, weights, words, exponent, sums):  # type: ignore[no-untyped-def]  # noqa: D417
    """Add ``2 ** exponent`` times the mismatches of 64 units to their sums.

    Args:
        on: Address of ``words`` words of input.
        weights: Address of a block of weights ``[words, 64]``.
        words: Number of words.
        exponent: Of 2.
        sums: Address of int64 ``[64]``.
    """
    signature = types.void(*[types.intp] * 5)
    lanes = ir.VectorType(_I64, UNITS)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        ons, rows, count, power, out = args
        bits = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(lanes, [lanes]), f"llvm.ctpop.v{UNITS}i64"
        )
        total = cgutils.alloca_once(builder, lanes)
        builder.store(ir.Constant(lanes, [0] * UNITS), total)
        with cgutils.for_range(builder, count) as loop:
            word = builder.load(_at(builder, _forward(builder, ons, loop.index, 8), _I64), align=8)
            row = builder.load(_at(builder, _forward(builder, rows, loop.index, 8 * UNITS), lanes), align=64)
            found = builder.call(bits, [builder.xor(row, _splat(builder, word))])
            builder.store(builder.add(builder.load(total), found), total)
        place = _at(builder, out, lanes)
        added = builder.shl(builder.load(total), _splat(builder, power))
        builder.store(builder.add(builder.load(place, align=8), added), place, align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _at_most(typingctx, sums, limits):  # type: ignore[no-untyped-def]  # noqa: D417
    """The word of 64 comparisons ``sum <= limit``.

    Args:
        sums: Address of int64 ``[64]``.
        limits: Likewise.
    """
    signature = types.uint64(types.intp, types.intp)
    lanes = ir.VectorType(_I64, UNITS)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        left, right = (builder.load(_at(builder, address, lanes), align=8) for address in args)
        return builder.bitcast(builder.icmp_signed("<=", left, right), _I64)

    return signature, generate


@intrinsic
def _plane(typingctx, numbers, mask):  # type: ignore[no-untyped-def]  # noqa: D417
    """The word that says which of 64 numbers have a bit in common with ``mask``.

    Args:
        numbers: Address of int32 ``[64]``.
        mask: int32.
    """
    signature = types.uint64(types.intp, types.int32)
    lanes = ir.VectorType(_I32, UNITS)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        address, mask = args
        common = builder.and_(builder.load(_at(builder, address, lanes), align=4), _splat(builder, mask))
        return builder.bitcast(builder.icmp_signed("!=", common, ir.Constant(lanes, [0] * UNITS)), _I64)

    return signature, generate


@intrinsic
def _fetch(typingctx, address):  # type: ignore[no-untyped-def]
    """The int64 at an address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_at(builder, args[0], _I64), align=8)

    return types.int64(types.intp), generate


@numba.njit(nogil=True)
def _digits(x, numbers):  # type: ignore[no-untyped-def]
    """Write ``x`` less its smallest entry to ``numbers``: what became of it, the smallest entry, all bits in use."""
    bound = ((1 << 24) - 1) // max(len(x), 1)
    fits = True
    for i in range(len(x)):
        fits &= abs(x[i]) <= bound  # NaN does not
    if not fits:
        return TOO_LARGE, 0, 0
    whole, lowest = True, bound
    for i in range(len(x)):
        numbers[i] = np.int32(x[i])
        whole &= numbers[i] == x[i]
        lowest = min(lowest, numbers[i])
    used = 0
    for i in range(len(x)):
        numbers[i] -= np.int32(lowest)
        used |= numbers[i]
    return (OK if whole else NOT_INTEGER), lowest, used


@numba.njit(nogil=True)
def _first(layer, x, sums):  # type: ignore[no-untyped-def]
    """Sums of the first layer, and what became of the input."""
    words = layer[WORDS]
    numbers = np.zeros(UNITS * words, np.int32)
    state, lowest, used = _digits(x, numbers)
    planes, exponents, count = np.empty((_PLANES, words), np.uint64), np.empty(_PLANES, np.int64), 0
    for exponent in range(_PLANES):
        if (used >> exponent) & 1:
            for word in range(words):
                planes[count, word] = _plane(numbers.ctypes.data + 4 * UNITS * word, np.int32(1 << exponent))
            exponents[count] = exponent
            count += 1
    mismatches = np.empty(UNITS, np.int64)
    for block in range(layer[BLOCKS]):
        mismatches[:] = 0
        rows = layer[WEIGHTS] + 8 * UNITS * words * block
        for j in range(count):
            _mismatches(planes.ctypes.data + 8 * words * j, rows, words, exponents[j], mismatches.ctypes.data)
        for lane in range(UNITS):
            ones = _fetch(layer[ONES] + 8 * (UNITS * block + lane))
            sums[UNITS * block + lane] = lowest * (2 * ones - len(x)) + used * ones - mismatches[lane]
    return state


@numba.njit(nogil=True)
def _later(layer, on, sums):  # type: ignore[no-untyped-def]
    """Mismatches of a layer behind the first."""
    sums[: UNITS * layer[BLOCKS]] = 0
    for block in range(layer[BLOCKS]):
        rows = layer[WEIGHTS] + 8 * UNITS * layer[WORDS] * block
        _mismatches(on.ctypes.data, rows, layer[WORDS], 0, sums.ctypes.data + 8 * UNITS * block)


@numba.njit(nogil=True)
def _decide(layer, first, sums, on):  # type: ignore[no-untyped-def]
    """Compare a layer's sums, or its mismatches behind the first layer, with its limits: the words that are on."""
    for block in range(layer[BLOCKS]):
        found = sums.ctypes.data + 8 * UNITS * block
        limits = layer[LIMITS] + 8 * UNITS * block
        passed = _at_most(limits, found) if first else _at_most(found, limits)
        on[block] = passed ^ np.uint64(_fetch(layer[NEGATED] + 8 * block))


@entry
def last_sums(table, x, result):  # type: ignore[no-untyped-def]
    """One sample through all layers.

    Args:
        table: int64 ``[layers, columns]``, see ``WORDS`` and the names beside it.
        x: Integers ``[inputs]``, float32 or float64.
        result: int64 ``[units of the last layer]``, to which its sums are written.

    Returns:
        ``OK``, or why nothing was written.
    """
    widest = 0
    for layer in table:
        widest = max(widest, layer[BLOCKS])
    sums, on = np.empty(UNITS * widest, np.int64), np.empty(widest, np.uint64)
    state = _first(table[0], x, sums)
    if state != OK:
        return state
    for k in range(1, len(table)):
        _decide(table[k - 1], k == 1, sums, on)
        _later(table[k], on, sums)
    last = table[len(table) - 1]
    for unit in range(len(result)):
        result[unit] = sums[unit] if len(table) == 1 else last[INPUTS] - 2 * sums[unit]
    return OK


@entry
def last_values(table, x, values, result):  # type: ignore[no-untyped-def]
    """As ``last_sums``, and look up what each sum becomes.

    Args:
        table: Of at least two layers.
        x: Integers ``[inputs]``.
        values: ``[units of the last layer, inputs of the last layer + 1]``, by the number of mismatches.
        result: ``[units of the last layer]``, of the type of ``values``.

    Returns:
        ``OK``, or why nothing was written.
    """
    sums = np.empty(len(result), np.int64)
    state = last_sums(table, x, sums)
    if state == OK:
        for unit in range(len(result)):
            result[unit] = values[unit, (values.shape[1] - 1 - sums[unit]) >> 1]
    return state
