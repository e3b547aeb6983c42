"""Vector instructions for numba: rows of integer sums against rows of thresholds, 64 units at a time as bits of a word.

Each function works at addresses (``array.ctypes.data`` plus an offset in bytes), which its caller vouches for. They are
written as LLVM vectors of 64 lanes, which LLVM cuts to what the machine has: compared lanes become the bits of one
64-bit word without a branch.
"""

# mypy: ignore-errors
# (numba has no types)

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 64
"""Units, or samples, in one word."""

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


def _vector(element: ir.IntType) -> ir.VectorType:
    return ir.VectorType(element, LANES)


def _splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _at(builder: Any, address: Any, index: Any, size: int, of: Any) -> Any:
    """Pointer to item ``index`` of items of ``size`` bytes that begin at ``address``."""
    return builder.inttoptr(builder.add(address, builder.mul(index, _I64(size))), of.as_pointer())


def _load(builder: Any, address: Any, index: Any, element: ir.IntType) -> Any:
    size = element.width // 8
    return builder.load(_at(builder, address, index, size * LANES, _vector(element)), align=size)


def _store(builder: Any, value: Any, address: Any, index: Any) -> None:
    size = value.type.element.width // 8
    builder.store(value, _at(builder, address, index, size * LANES, value.type), align=size)


def _word(builder: Any, address: Any, index: Any) -> Any:
    return builder.load(_at(builder, address, index, 8, _I64), align=8)


def _put_word(builder: Any, value: Any, address: Any, index: Any) -> None:
    builder.store(value, _at(builder, address, index, 8, _I64), align=8)


def _moved(builder: Any, row: Any, bits: Any, amount: Any) -> Any:
    """``row`` plus ``amount`` where the bit is set, minus it elsewhere."""
    mask = builder.bitcast(bits, _vector(_I1))
    up, down = _splat(builder, amount), _splat(builder, builder.neg(amount))
    return builder.add(row, builder.select(mask, up, down))


def _watch(builder: Any, row: Any, overflow: Any) -> None:
    """Note in the word at ``overflow`` that a sum of 8 bits has come to -128, -127 or 127.

    Sums move by 1 and are looked at after each move, so that none wraps around unseen.
    """
    if row.type.element.width != _I8.width:
        return
    lanes = row.type.count
    shifted = builder.add(row, _splat(builder, _I8(-127), lanes))  # 127, -128 and -127 become 0, 1 and 2
    at_edge = builder.icmp_unsigned("<", shifted, _splat(builder, _I8(3), lanes))
    word = (
        builder.zext(builder.bitcast(at_edge, ir.IntType(lanes)), _I64)
        if lanes < LANES
        else builder.bitcast(at_edge, _I64)
    )
    pointer = builder.inttoptr(overflow, _I64.as_pointer())
    builder.store(builder.or_(builder.load(pointer), word), pointer)


def _decided(builder: Any, row: Any, threshold: Any, negated: Any) -> Any:
    """Word of the units that are on."""
    return builder.xor(builder.bitcast(builder.icmp_signed(">=", row, threshold), _I64), negated)


def _noted(builder: Any, now: Any, on: Any, changed: Any, index: Any, some: Any) -> None:
    """Store the word that is on, and what changed in it."""
    difference = builder.xor(now, _word(builder, on, index))
    _put_word(builder, now, on, index)
    _put_word(builder, difference, changed, index)
    builder.store(builder.or_(builder.load(some), difference), some)


@intrinsic
def add_row(typingctx, sums, bits, words, overflow, amount):
    """Add ``amount`` to each sum of a row whose bit is set, and take it from the others.

    Args:
        sums: Address of ``64 * words`` integers of the type of ``amount``.
        bits: Address of ``words`` words.
        words: Their number.
        overflow: Address of a word that is no longer 0 once a sum of 8 bits has come to its edge.
        amount: +1 or -1, int8, int16 or int32.
    """
    signature = types.void(types.intp, types.intp, types.intp, types.intp, amount)

    def generate(context, builder, signature, args):
        at, column, count, edge, step = args
        with cgutils.for_range(builder, count) as loop:
            row = _load(builder, at, loop.index, step.type)
            row = _moved(builder, row, _word(builder, column, loop.index), step)
            _watch(builder, row, edge)
            _store(builder, row, at, loop.index)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_and_decide(typingctx, sums, bits, thresholds, negated, on, changed, words, overflow, amount):
    """As ``add_row``; then which sums are at or above their thresholds (the others where negated).

    Args:
        sums: Address of ``64 * words`` integers of the type of ``amount``.
        bits: Address of ``words`` words.
        thresholds: Address of as many integers as there are sums.
        negated: Address of ``words`` words.
        on: Address of ``words`` words, which are written.
        changed: Likewise: the bits of ``on`` that are others than before.
        words: Number of words.
        overflow: As for ``add_row``.
        amount: Likewise.

    Returns:
        All words of ``changed`` in one, by or: 0 if no unit turned.
    """
    signature = types.uint64(*[types.intp] * 8, amount)

    def generate(context, builder, signature, args):
        at, column, limits, negations, ons, differences, count, edge, step = args
        some = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.for_range(builder, count) as loop:
            k = loop.index
            row = _moved(builder, _load(builder, at, k, step.type), _word(builder, column, k), step)
            _watch(builder, row, edge)
            _store(builder, row, at, k)
            now = _decided(builder, row, _load(builder, limits, k, step.type), _word(builder, negations, k))
            _noted(builder, now, ons, differences, k, some)
        return builder.load(some)

    return signature, generate


@intrinsic
def decide_row(typingctx, sums, thresholds, negated, on, changed, words, like):
    """As ``add_and_decide``, with nothing added; ``like`` is any number of the sums' type."""
    signature = types.uint64(*[types.intp] * 6, like)

    def generate(context, builder, signature, args):
        at, limits, negations, ons, differences, count, step = args
        some = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.for_range(builder, count) as loop:
            k = loop.index
            row, limit = _load(builder, at, k, step.type), _load(builder, limits, k, step.type)
            _noted(builder, _decided(builder, row, limit, _word(builder, negations, k)), ons, differences, k, some)
        return builder.load(some)

    return signature, generate


@intrinsic
def flip_unit(typingctx, sums, x, threshold, negated, on, changed, words, factor):
    """Add ``factor`` times the inputs of a block of samples to one unit's sums, and decide.

    Args:
        sums: Address of ``64 * words`` int32, one for each sample.
        x: Address of as many int16.
        threshold: int32 of the unit.
        negated: Word of all ones where the unit is negated, else 0.
        on: Address of ``words`` words, which are written.
        changed: Likewise.
        words: Number of words.
        factor: +2 or -2; 0 to decide only.

    Returns:
        All words of ``changed`` in one, by or.
    """
    signature = types.uint64(types.intp, types.intp, types.int32, types.uint64, *[types.intp] * 3, types.int32)

    def generate(context, builder, signature, args):
        at, inputs, limit, negation, ons, differences, count, times = args
        some = cgutils.alloca_once_value(builder, _I64(0))
        limits, factors = _splat(builder, limit), _splat(builder, times)
        with cgutils.for_range(builder, count) as loop:
            k = loop.index
            wide = builder.sext(_load(builder, inputs, k, _I16), _vector(_I32))
            row = builder.add(_load(builder, at, k, _I32), builder.mul(wide, factors))
            _store(builder, row, at, k)
            _noted(builder, _decided(builder, row, limits, negation), ons, differences, k, some)
        return builder.load(some)

    return signature, generate


@intrinsic
def mismatches(typingctx, on, rows, words, classes, out):
    """Number of bits in which a row of words differs from the row of each class.

    Args:
        on: Address of ``words`` words.
        rows: Address of words ``[words, classes]``.
        words: Number of words.
        classes: Number of classes, a multiple of 8.
        out: Address of ``classes`` int64, which are written.
    """
    signature = types.void(*[types.intp] * 5)
    lanes = 8
    eight = ir.VectorType(_I64, lanes)

    def generate(context, builder, signature, args):
        ons, weights, count, across, result = args
        count_bits = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(eight, [eight]), f"llvm.ctpop.v{lanes}i64"
        )
        total = cgutils.alloca_once(builder, eight)
        groups = builder.udiv(across, _I64(lanes))
        with cgutils.for_range(builder, groups) as group:
            builder.store(ir.Constant(eight, [0] * lanes), total)
            with cgutils.for_range(builder, count) as loop:
                place = builder.add(builder.mul(loop.index, across), builder.mul(group.index, _I64(lanes)))
                row = builder.load(_at(builder, weights, place, 8, eight), align=8)
                here = _splat(builder, _word(builder, ons, loop.index), lanes)
                found = builder.call(count_bits, [builder.xor(row, here)])
                builder.store(builder.add(builder.load(total), found), total)
            place = builder.mul(group.index, _I64(lanes))
            builder.store(builder.load(total), _at(builder, result, place, 8, eight), align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def lowest_bit(typingctx, word):
    """Index of the lowest bit that is set in a word that is not 0."""
    signature = types.int64(types.uint64)

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], _I1(1))

    return signature, generate


@intrinsic
def fetch(typingctx, address, like):
    """The number at an address, of the type of ``like``."""
    signature = like(types.intp, like)

    def generate(context, builder, signature, args):
        at, example = args
        return builder.load(builder.inttoptr(at, example.type.as_pointer()), align=example.type.width // 8)

    return signature, generate


@intrinsic
def put(typingctx, address, value, like):
    """Write an integer to an address in the type of ``like``, which is no wider than its own."""
    signature = types.void(types.intp, value, like)

    def generate(context, builder, signature, args):
        at, number, example = args
        if number.type.width > example.type.width:
            number = builder.trunc(number, example.type)
        builder.store(number, builder.inttoptr(at, example.type.as_pointer()), align=example.type.width // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def move_column(typingctx, sums, stride, limit, inputs, one, overflow, like):
    """Add ``one`` times the signs of 64 samples to one unit's sums, which lie far apart.

    Args:
        sums: Address of the first sample's sum; four bytes from each must be of the same block.
        stride: Bytes from one sample's sum to the next one's.
        limit: int32.
        inputs: Word of signs.
        one: int32, +1 or -1.
        overflow: As for ``add_row``.
        like: A number of the sums' type.

    Returns:
        The samples whose sums were below the limit and are not any more, or the other way round.
    """
    signature = types.uint64(types.intp, types.intp, types.int32, types.uint64, types.int32, types.intp, like)
    lanes = 8
    addresses, numbers, flags = (ir.VectorType(element, lanes) for element in (_I64, _I32, _I1))
    pointers = ir.VectorType(ir.PointerType(), lanes)

    def generate(context, builder, signature, args):
        at, step, threshold, word, amount, edge, example = args
        name, module = f"v{lanes}i32.v{lanes}p0", builder.module
        gather = cgutils.get_or_insert_function(
            module, ir.FunctionType(numbers, [pointers, _I32, flags, numbers]), f"llvm.masked.gather.{name}"
        )
        scatter = cgutils.get_or_insert_function(
            module, ir.FunctionType(ir.VoidType(), [numbers, pointers, _I32, flags]), f"llvm.masked.scatter.{name}"
        )
        every, align = ir.Constant(flags, [1] * lanes), _I32(example.type.width // 8)
        spread = builder.mul(_splat(builder, step, lanes), ir.Constant(addresses, list(range(lanes))))
        limits = _splat(builder, threshold, lanes)
        up, down = _splat(builder, amount, lanes), _splat(builder, builder.neg(amount), lanes)
        crossed = _I64(0)
        width = example.type.width
        cut = ir.Constant(numbers, [32 - width] * lanes)
        low, high = (ir.Constant(numbers, [mask] * lanes) for mask in (2**width - 1, -(2**width)))
        narrow = ir.VectorType(example.type, lanes)
        for group in range(LANES // lanes):
            base = builder.add(at, builder.mul(step, _I64(group * lanes)))
            place = builder.inttoptr(builder.add(_splat(builder, base, lanes), spread), pointers)
            bits = builder.trunc(builder.lshr(word, _I64(group * lanes)), ir.IntType(lanes))
            stored = builder.call(gather, [place, align, every, ir.Constant(numbers, ir.Undefined)])
            old = builder.ashr(builder.shl(stored, cut), cut) if width < 32 else stored
            new = builder.add(old, builder.select(builder.bitcast(bits, flags), up, down))
            if width == 8:
                _watch(builder, builder.trunc(new, narrow), edge)
            kept = builder.or_(builder.and_(stored, high), builder.and_(new, low)) if width < 32 else new
            builder.call(scatter, [kept, place, align, every])
            turned = builder.xor(builder.icmp_signed(">=", old, limits), builder.icmp_signed(">=", new, limits))
            some = builder.zext(builder.bitcast(turned, ir.IntType(lanes)), _I64)
            crossed = builder.or_(crossed, builder.shl(some, _I64(group * lanes)))
        return crossed

    return signature, generate
