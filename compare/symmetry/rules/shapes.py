"""Operations that move entries and change none: reshaping, transposing, slicing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.spaces import Space
from compare.symmetry.tracing.values import Axis, Piece, Value, still

_MOST_COPIES = 4096
"""A label is repeated at most so often when a still axis and a moving one become one; beyond, nothing moves."""


def reshape(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Flatten, view, reshape, squeeze and the like: axes are split and merged, entries stay in order."""
    axes: list[Axis] = []
    for olds, sizes in _groups(x.shape, tuple(site.result.shape)):
        whole = merge(site, [x.axis(i) for i in olds])
        axes += split(site, whole, sizes)
    return replace(x.plain(axes, integer=x.integer), source=x.source, tail=x.tail)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes that hold the same entries: places before, sizes after."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        olds, news = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        while (a := math.prod(before[k] for k in olds)) != (b := math.prod(after[k] for k in news)):
            if a < b:
                olds.append(olds[-1] + 1 if olds else i)
            else:
                news.append(news[-1] + 1 if news else j)
        groups.append((olds, [after[k] for k in news]))
        i, j = i + len(olds), j + len(news)
    return groups


def merge(site: Site, axes: Sequence[Axis]) -> Axis:
    """Several neighbouring axes as one."""
    kept = [axis for axis in axes if len(axis) != 1 or any(p.sign or p.scale for p in axis.pieces)]
    kept = kept or list(axes[:1]) or [still(1)]
    whole = kept[0].now()
    for axis in kept[1:]:
        whole = _merged(site, whole, axis.now())
    return whole


def _merged(site: Site, outer: Axis, inner: Axis) -> Axis:
    if inner.within:
        if list(inner.within) == outer.label:
            pieces = tuple(p.times(q) for p, q in zip(inner.pieces, outer.pieces, strict=True))
            return Axis(pieces, outer.within)
        inner = site.still(inner, "units inside wholes are flattened without the wholes")
    if inner.still:
        site.one(inner)
        pieces = tuple(replace(p, space=site.spaces.filled(p.space, len(inner))) for p in outer.pieces)
        return Axis(pieces, outer.within)
    if outer.still and not outer.within and len(outer) <= _MOST_COPIES:
        site.one(outer)
        return Axis(inner.pieces * len(outer))
    outer, inner = (site.still(axis, "two kinds of units are flattened into one axis") for axis in (outer, inner))
    return still(len(outer) * len(inner))


def split(site: Site, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """One axis as several neighbouring ones."""
    if not sizes:
        site.one(axis)
    large = [size for size in sizes if size != 1] or list(sizes[:1])
    parts = _split(site, axis.now(), large) if large else []
    found = iter(parts)
    ones = 0 if any(size != 1 for size in sizes) else 1
    return [next(found) if size != 1 or (ones and i == 0) else still(1) for i, size in enumerate(sizes)]


def _split(site: Site, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    if len(sizes) == 1:
        return [axis]
    first, rest = sizes[0], math.prod(sizes[1:])
    if axis.still:
        site.one(axis)
        return [still(size) for size in sizes]
    if not axis.within and _copies(axis, first):
        for piece in axis.pieces[1:]:
            site.one_piece(piece.times(axis.pieces[0], -1))
        return [still(first), *_split(site, Axis(axis.pieces[:1]), sizes[1:])]
    if any(piece.space.size % rest for piece in axis.pieces):
        site.still(axis, "units are reshaped into wholes that straddle a concatenation")
        return [still(size) for size in sizes]
    wholes = [site.spaces.nest(piece.space, piece.space.size // rest) for piece in axis.pieces]
    axis = axis.now()
    if all(_ordered_inside(piece.space, whole) for piece, whole in zip(axis.pieces, wholes, strict=True)):
        # Nothing moves inside a whole, so the diagonal acts on wholes.
        site.tracing.levels += [
            (frozenset([*p.sign, *p.scale]), whole) for p, whole in zip(axis.pieces, wholes, strict=True)
        ]
        outer = Axis(tuple(replace(p, space=w) for p, w in zip(axis.pieces, wholes, strict=True)), axis.within)
        return [outer, *(still(size) for size in sizes[1:])]
    if any(whole.fixed and whole not in piece.space.chain() for piece, whole in zip(axis.pieces, wholes, strict=False)):
        site.one(axis)
        return [still(size) for size in sizes]
    outer = Axis(tuple(Piece(whole) for whole in wholes), axis.within)
    return [outer, *_split(site, Axis(axis.pieces, tuple(wholes)), sizes[1:])]


def _ordered_inside(space: Space, whole: Space) -> bool:
    """Whether units keep their order inside their wholes."""
    chain = space.chain()
    return whole in chain[:-1] and all(level.rigid for level in chain[chain.index(whole) + 1 :])


def _copies(axis: Axis, count: int) -> bool:
    return len(axis.pieces) == count > 1 and len({piece.space for piece in axis.pieces}) == 1


def permute(site: Site, x: Value, *dims: Any, **options: Any) -> Value:
    """Axes in another order."""
    order = options.get("dims", dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    return x.plain([x.axes[i] for i in order], integer=x.integer)


def transpose(site: Site, x: Value, first: int = 0, second: int = 1, **options: Any) -> Value:
    """Two axes exchanged."""
    axes = list(x.axes)
    first, second = options.get("dim0", first), options.get("dim1", second)
    axes[first], axes[second] = axes[second], axes[first]
    return x.plain(axes, integer=x.integer)


def expand(site: Site, x: Value, *rest: Any, **options: Any) -> Value:
    """Axes of one place repeated."""
    shape = tuple(site.result.shape)
    axes = [still(size) for size in shape[: len(shape) - len(x.axes)]]
    for axis, size in zip(x.axes, shape[len(axes) :], strict=True):
        if len(axis) == size:
            axes.append(axis)
            continue
        site.one(axis)
        axes.append(still(size))
    return x.plain(axes, integer=x.integer)


def sliced(site: Site, x: Value, dim: int, start: int, stop: int, *, drop: bool = False) -> Value:
    """Entries from start to stop of one axis; ``drop`` takes the axis away where that is one entry."""
    dim %= len(x.axes)
    axis = x.axis(dim)
    if (start, stop) == (0, len(axis)) and not drop:
        return x
    if axis.within:
        axis = site.still(axis, "units inside wholes are sliced")
    if drop:
        site.freeze(axis, "one unit is picked by its place")
    parts = site.spaces.split(axis.label, [start, stop - start, len(axis) - stop])
    first, count = len(parts[0]), len(parts[1])
    chosen = Axis(axis.now().pieces[first : first + count])
    axes = _following(x, dim, range(first, first + count), drop=drop)
    if drop:
        site.one(chosen)
        return x.plain([a for i, a in enumerate(axes) if i != dim], integer=x.integer)
    axes[dim] = chosen
    return x.plain(axes, integer=x.integer)


def _following(x: Value, dim: int, chosen: range, *, drop: bool) -> list[Axis]:
    """All axes; of those inside the wholes on ``dim``, or inside units that are, what the chosen ones hold."""
    axes = [x.axis(i) for i in range(len(x.axes))]
    wholes = [(dim, x.axis(dim).label)]
    for above, label in wholes:
        for i, axis in enumerate(axes):
            if list(axis.within) == label and label and all(i != other for other, _ in wholes):
                wholes.append((i, axis.label))
                within = () if drop and above == dim else tuple(axis.within[k] for k in chosen)
                axes[i] = Axis(tuple(axis.pieces[k] for k in chosen), within)
    return axes


def getitem(site: Site, x: Any, index: Any) -> Any:
    """Indexing with numbers, slices, None and an ellipsis."""
    if not isinstance(x, Value):
        return x[index]
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(item, Value) or not isinstance(item, int | slice | type(None) | type(...)) for item in items):
        site.refuse("expected an index of numbers, slices, None and '...'")
    if ... in items:
        place = items.index(...)
        given = sum(item is not None for item in items) - 1
        items[place : place + 1] = [slice(None)] * (len(x.axes) - given)
    dim = 0
    for item in items:
        if item is None:
            x = x.plain([*x.axes[:dim], still(1), *x.axes[dim:]], integer=x.integer)
            dim += 1
        elif isinstance(item, int):
            place = item % len(x.axes[dim])
            x = sliced(site, x, dim, place, place + 1, drop=True)
        else:
            x = _range(site, x, dim, item)
            dim += 1
    return x


def _range(site: Site, x: Value, dim: int, item: slice) -> Value:
    start, stop, stride = item.indices(len(x.axes[dim]))
    if stride == 1 and stop > start:
        return sliced(site, x, dim, start, stop)
    site.still(x.axes[dim], "units are picked with a stride")
    return x.with_axis(dim, still(len(range(start, stop, stride)))).plain(integer=x.integer)


def parts(site: Site, x: Value, *rest: Any, **options: Any) -> tuple[Value, ...]:
    """Chunks, splits: consecutive stretches of an axis."""
    dim = _dim(site, x, options.get("dim", rest[1] if len(rest) > 1 else 0))
    found, start = [], 0
    for tensor in site.result:
        found.append(sliced(site, x, dim, start, start + tensor.shape[dim]))
        start += tensor.shape[dim]
    return tuple(found)


def unbind(site: Site, x: Value, dim: int = 0) -> tuple[Value, ...]:
    """All places of an axis, one by one."""
    return tuple(sliced(site, x, dim, i, i + 1, drop=True) for i in range(len(x.axes[dim])))


def _dim(site: Site, x: Value, dim: Any) -> int:
    if not isinstance(dim, int):
        site.refuse(f"expected dim to be a number, got {dim}")
    return dim % len(x.axes)


def narrow(site: Site, x: Value, dim: int, start: int, length: int) -> Value:
    """A stretch of an axis."""
    return sliced(site, x, dim, start, start + length)
