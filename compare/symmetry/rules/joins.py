"""Operations that join two values: sums, products, matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from compare.symmetry.rules.pointwise import pointwise
from compare.symmetry.rules.shapes import sliced
from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.values import Axis, Piece, Value, still


def add(site: Site, a: Any, b: Any, *rest: Any, **options: Any) -> Value:
    """A sum, a residual connection: the same units on both sides, and the same diagonals."""
    if not (isinstance(a, Value) and isinstance(b, Value)):
        return _with_constant(site, a, b)
    axes = [_summed(site, left, right) for left, right in _aligned(a, b)]
    for value in (a, b):
        if value.parameter:
            site.tracing.offsets.append(value.parameter)
    return Value(tuple(axes), integer=a.integer and b.integer)


def _with_constant(site: Site, a: Any, b: Any) -> Value:
    value, constant = (a, b) if isinstance(a, Value) else (b, a)
    if constant != 0:
        site.one(*value.axes)
    return value.plain(integer=value.integer and float(constant).is_integer())


def _summed(site: Site, left: Axis | None, right: Axis | None) -> Axis:
    if left is not None and right is not None and len(left) == len(right):
        return site.equal(left, right)
    # One value stands for all places of this axis: nothing may act on the other, and its own place is one number.
    whole = _longer(left, right)
    site.one(*(axis for axis in (left, right) if axis is not None))
    return whole


def multiply(site: Site, a: Any, b: Any, *rest: Any, **options: Any) -> Value:
    """A product of entries: diagonals multiply (gates, squeeze-excite, learnable scales)."""
    if not (isinstance(a, Value) and isinstance(b, Value)):
        value = a if isinstance(a, Value) else b
        return value.plain()
    return Value(tuple(_times(site, left, right, 1) for left, right in _aligned(a, b)))


def divide(site: Site, a: Any, b: Any, *rest: Any, **options: Any) -> Value:
    """A quotient of entries: diagonals divide."""
    if options.get("rounding_mode") is not None:
        for value in (a, b):
            site.one(*(value.axes if isinstance(value, Value) else ()))
    if not isinstance(b, Value):
        return _only_value(a).plain()
    if not isinstance(a, Value):
        return b.plain(_inverted(axis) for axis in b.axes)
    return Value(tuple(_times(site, left, right, -1) for left, right in _aligned(a, b)))


def _times(site: Site, left: Axis | None, right: Axis | None, power: int) -> Axis:
    if left is not None and right is not None and len(left) == len(right):
        pieces = tuple(p.times(q, power) for p, q in site.same(left, right))
        return Axis(pieces, left.now().within)
    for axis in (left, right):
        if axis is not None and len(axis) == 1:
            site.one(axis)
    whole = _longer(left, right)
    return whole if whole is left or power == 1 else _inverted(whole)


def _inverted(axis: Axis) -> Axis:
    return Axis(tuple(Piece(p.space).times(p, -1) for p in axis.pieces), axis.within)


def _longer(left: Axis | None, right: Axis | None) -> Axis:
    present = [axis for axis in (left, right) if axis is not None]
    return max(present, key=len)


def _aligned(a: Value, b: Value) -> Iterable[tuple[Axis | None, Axis | None]]:
    """Axes of two values that are broadcast against each other, the first ones first."""
    count = max(len(a.axes), len(b.axes))
    left, right = ([None] * (count - len(v.axes)) + list(v.axes) for v in (a, b))
    return zip(left, right, strict=True)


def _only_value(value: Any) -> Value:
    assert isinstance(value, Value), "an operation on values has one"
    return value


def gated_linear_unit(site: Site, x: Value, dim: int = -1) -> Value:
    """``a * sigmoid(b)`` with a and b the two halves of an axis."""
    dim = getattr(site.operation, "dim", dim) % len(x.axes)
    half = len(x.axes[dim]) // 2
    a, b = sliced(site, x, dim, 0, half), sliced(site, x, dim, half, 2 * half)
    return multiply(site, a, pointwise(site, b))


def masked_fill(site: Site, x: Value, mask: Value, value: Any) -> Value:
    """Entries replaced where a mask says so: units that the mask tells apart do not move, and no diagonal acts."""
    site.one(*x.axes)
    for left, right in _aligned(x, mask):
        if right is not None:
            site.still(right)
            if left is not None and len(right) > 1:
                site.still(left, "a mask knows units by their places")
    return x.plain()


def negate(site: Site, x: Value) -> Value:
    """Minus the value: everything passes."""
    return x.plain(integer=x.integer)


def matmul(site: Site, a: Value, b: Value) -> Value:
    """Matrix product: the summed axis holds the same units with diagonals that cancel."""
    if len(a.axes) == 1 or len(b.axes) == 1:
        site.refuse("expected matrices, got a vector")
    a, b = site.mixed(a, -1), site.mixed(b, -2)
    homes = [_home(a, len(a.axes) - 1) - len(a.axes), _home(b, len(b.axes) - 2) - len(b.axes)]
    if homes[0] != homes[1] or homes[0] >= -2:
        a, b = _ordered(site, a, len(a.axes) - 1), _ordered(site, b, len(b.axes) - 2)
    site.inverse(a.axis(-1), b.axis(-2))
    batch = [_times(site, left, right, 1) for left, right in _aligned(_leading(a), _leading(b))]
    return Value((*batch, a.axis(-2), b.axis(-1)))


def _home(value: Value, place: int) -> int:
    """The axis on which the wholes of another axis stand; a number before all axes where there are none."""
    within = list(value.axis(place).within)
    return next((i for i, axis in enumerate(value.axes) if within and axis.label == within), -len(value.axes))


def _ordered(site: Site, value: Value, place: int) -> Value:
    """Units inside wholes keep their order where insides of different wholes meet."""
    if not value.axis(place).within:
        return value
    return value.with_axis(place, site.still(value.axis(place), "insides of different wholes meet"))


def _leading(value: Value) -> Value:
    return Value(value.axes[:-2])


def einsum(site: Site, equation: str, *operands: Any) -> Value:
    """Einstein summation: one letter, one kind of unit; diagonals of letters summed over cancel."""
    values: Sequence[Value] = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    left, _, right = equation.replace(" ", "").partition("->")
    if "." in left or not right:
        site.refuse("expected an equation with '->' and without '...'")
    terms = left.split(",")
    homes: dict[str, set[str]] = {}
    for names, value in zip(terms, values, strict=True):
        if len(set(names)) < len(names):
            site.refuse("expected each letter once in an operand")
        for i, name in enumerate(names):
            home = _home(value, i)
            homes.setdefault(name, set()).add(names[home] if home >= 0 else "")
    letters: dict[str, Axis] = {}
    for names, value in zip(terms, values, strict=True):
        for i, name in enumerate(names):
            value = _ordered(site, value, i) if len(homes[name]) > 1 else value
        summed = [i for i, name in enumerate(names) if name not in right]
        for name, axis in zip(names, site.mixed(value, *summed).axes, strict=True):
            letters[name] = site.product(letters[name], axis) if name in letters else axis.now()
    site.one(*(axis for name, axis in letters.items() if name not in right))
    return Value(tuple(letters[name].now() for name in right))


def concatenate(site: Site, values: Sequence[Value], dim: int = 0, **options: Any) -> Value:
    """Concatenation: one label after the other."""
    dim = options.get("axis", dim) % len(values[0].axes)
    axes = list(values[0].axes)
    for value in values[1:]:
        for i, axis in enumerate(value.axes):
            if i != dim:
                axes[i] = site.equal(axes[i], axis)
    joined = [value.axis(dim) for value in values]
    if any(axis.within for axis in joined):
        joined = [site.still(axis, "insides of wholes are concatenated") for axis in joined]
    axes[dim] = Axis(tuple(piece for axis in joined for piece in axis.now().pieces))
    return Value(tuple(axes), integer=all(value.integer for value in values))


def stack(site: Site, values: Sequence[Value], dim: int = 0) -> Value:
    """Values side by side on a new axis: they must hold the same units."""
    axes = list(values[0].axes)
    for value in values[1:]:
        axes = [site.equal(left, right) for left, right in zip(axes, value.axes, strict=True)]
    axes.insert(dim % (len(axes) + 1), still(len(values)))
    return Value(tuple(axes), integer=all(value.integer for value in values))


def total(site: Site, x: Value, dim: Any = None, keepdim: bool = False, **options: Any) -> Value:
    """Sum or mean over axes: the units of a summed axis must not be negated or scaled."""
    dim = options.get("axis", dim)
    chosen = range(len(x.axes)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {i % len(x.axes) for i in chosen}
    x = site.mixed(x, *(i for i in gone if len(gone) < len(x.axes)))
    site.one(*(x.axes[i] for i in gone))
    keepdim = options.get("keepdim", keepdim)
    axes = [still(1) if i in gone else axis for i, axis in enumerate(x.axes) if i not in gone or keepdim]
    return replace(x.plain(axes), tail=x.tail)


def largest(site: Site, x: Value, dim: Any = None, keepdim: bool = False, **options: Any) -> Value:
    """Maximum over axes."""
    if isinstance(site.result, tuple):
        site.refuse("expected amax, which returns no indices")
    site.positive(*x.axes)
    return total(site, x, dim, keepdim, **options)
