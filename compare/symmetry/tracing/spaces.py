"""Spaces of units, found by unification: which axes must be permuted together, and how units are nested.

A space is a set of interchangeable units. Axes of tensors are labelled by spaces, one after the other (a
concatenation). When an operation says that two axes are the same units, their labels are unified, as types are in a
type checker: an unconstrained space takes the other's structure, a longer one is cut where the other ends, and two ways
of grouping the same units give a chain of nested spaces. Whatever cannot be expressed is frozen, which is exact, only
smaller.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_MISFIT = "units are grouped in two ways that do not fit into each other"


class Space:
    """Units that may be renamed, inside the units of ``parent`` if there is one.

    Attributes:
        size: Number of units, those of all parents' units together.
        parent: Space whose units hold ``size // parent.size`` consecutive units of this one each; they move as wholes.
        rigid: Units keep their order inside the parent's unit (without a parent: they do not move at all).
        lasting: A parameter has these units; others are made anew in each pass.
    """

    def __init__(self, size: int, parent: Space | None = None, *, rigid: bool = False, lasting: bool = False) -> None:
        """Make a space; ``rigid`` without a parent is a fixed axis, as that of the network's input."""
        self.size = size
        self.rigid = rigid
        self.lasting = lasting
        self._parent = parent
        self._became: tuple[Space, ...] = ()

    @property
    def parent(self) -> Space | None:
        """The parent as it is now."""
        return None if self._parent is None else self._parent.only()

    def now(self) -> tuple[Space, ...]:
        """What this space has become: itself, another, or the parts it was cut into."""
        if not self._became:
            return (self,)
        return tuple(part for space in self._became for part in space.now())

    def only(self) -> Space:
        """What this space has become, if that is one space."""
        (space,) = self.now()
        return space

    def chain(self) -> list[Space]:
        """From the outermost ancestor to this space."""
        parent = self.parent
        return [*(parent.chain() if parent else ()), self]

    @property
    def fixed(self) -> bool:
        """Whether no unit moves."""
        return all(space.rigid for space in self.chain())


def fixed(size: int) -> Space:
    """A space whose units stay where they are."""
    return Space(size, rigid=True)


class Spaces:
    """All spaces of one network while it is traced.

    Attributes:
        changes: Counts structural changes; a pass over the network that adds none has found everything.
        frozen: Reasons for which spaces were frozen.
    """

    def __init__(self) -> None:
        """Start with no space."""
        self.changes = 0
        self.frozen: list[tuple[Space, str]] = []
        self._all: list[Space] = []

    def new(self, size: int) -> Space:
        """An unconstrained space."""
        space = Space(size, lasting=True)
        self._all.append(space)
        return space

    def unify(self, left: Sequence[Space], right: Sequence[Space]) -> None:
        """Make two labels of the same total size the same."""
        a, b = _now(left), _now(right)
        while a and b:
            if a[0].size == b[0].size:
                self._merge(a.pop(0), b.pop(0))
            else:
                long, short = (a, b) if a[0].size > b[0].size else (b, a)
                self._cut(long[0], short[0].size)
            a, b = _now(a), _now(b)
        assert not a, "labels of one size"
        assert not b, "labels of one size"

    def nest(self, space: Space, outer: int) -> Space:
        """The space of ``outer`` wholes that the units of ``space`` come in; new, or found on the way to the root."""
        space = space.only()
        for level in space.chain():
            if level.size == outer:
                return level
        sizes = sorted({*(level.size for level in space.chain()), outer})
        if any(large % small for small, large in itertools.pairwise(sizes)):
            self.freeze([space], _MISFIT)
            return fixed(outer)
        level = Space(outer, lasting=space.lasting)
        self._all.append(level)
        self._interleave(space.chain(), [level], sizes)
        return level.only()

    def filled(self, space: Space, count: int) -> Space:
        """A space with ``count`` units in a fixed order for each unit of ``space``; the same one when asked again."""
        if count == 1:
            return space
        size = space.size * count
        for other in self._all:
            if not other._became and other.size == size and other.rigid and other.parent is space:
                return other
        new = Space(size, space, rigid=True)
        self._all.append(new)
        return new

    def freeze(self, label: Sequence[Space], why: str, *, within: Sequence[Space] = ()) -> None:
        """Let no unit move, nor any of the wholes they come in, up to those of ``within``, which may go on moving.

        ``why`` is told to the reader, unless it is empty.
        """
        for space in _now(label):
            for level in reversed(space.chain()):
                if level in within:
                    break
                if not level.rigid:
                    level.rigid = True
                    self.changes += level.lasting
                    if why:
                        self.frozen.append((level, why))

    def split(self, label: Sequence[Space], sizes: Sequence[int]) -> list[list[Space]]:
        """The label cut into consecutive parts of these sizes."""
        parts: list[list[Space]] = []
        for size in sizes:
            part: list[Space] = []
            while (missing := size - sum(space.size for space in part)) > 0:
                label = _now(label)
                if label[0].size > missing:
                    self._cut(label[0], missing)
                else:
                    part.append(label[0])
                    label = label[1:]
            parts.append(part)
        return [_now(part) for part in parts]

    def _merge(self, a: Space, b: Space) -> None:
        if a is b:
            return
        left, right = a.chain(), b.chain()
        sizes = sorted({level.size for level in left + right})
        if any(large % small for small, large in itertools.pairwise(sizes)):
            self.freeze([a, b], _MISFIT)
            self._detach(a)
            self._detach(b)
            self._join(a, b)
            return
        self._interleave(left, right, sizes)

    def _interleave(self, left: list[Space], right: list[Space], sizes: list[int]) -> None:
        """One chain of both: levels of equal size are one; what lies inside a rigid step is rigid."""
        rigid = {size for size in sizes if _inside_rigid(left, size) or _inside_rigid(right, size)}
        parent: Space | None = None
        for size in sizes:
            levels = [level for level in (*left, *right) if level.size == size]
            if len(levels) == 2 and levels[0] is not levels[1]:
                self._join(*levels)
            level = levels[0].only()
            if level.parent is not parent or (size in rigid and not level.rigid):
                self.changes += level.lasting
            level._parent, level.rigid = parent, level.rigid or size in rigid
            parent = level

    def _join(self, a: Space, b: Space) -> None:
        """One becomes the other; children follow, since they ask what their parent has become."""
        if b.lasting and not a.lasting:
            a, b = b, a  # what was learned of the lasting one stays
        # Fixed axes are made anew in every pass; nothing is learned when one meets another.
        self.changes += not (a.fixed and b.fixed) or (a.lasting and b.lasting)
        a.rigid, a.lasting = a.rigid or b.rigid, a.lasting or b.lasting
        b._became = (a,)

    def _detach(self, space: Space) -> None:
        """A frozen space needs no parent."""
        if space.parent is not None:
            assert space.fixed, "only what is fixed stands alone"
            self.changes += space.lasting
            space._parent = None

    def _cut(self, space: Space, size: int) -> None:
        """Cut off the first ``size`` units, with everything nested in the same wholes."""
        root = space.chain()[0]
        if size * root.size % space.size:
            self.freeze([space], "units of one whole are taken apart")
            self._detach(space)
            root = space
        first = size * root.size // space.size
        tree = [s for s in dict.fromkeys((*self._all, *space.chain())) if not s._became and s.chain()[0] is root]
        self.changes += any(level.lasting for level in tree)
        halves: dict[Space, tuple[Space, Space]] = {}
        for level in sorted(tree, key=lambda s: len(s.chain())):
            ratio = level.size // root.size
            above = halves[level.parent] if level.parent else (None, None)
            pair = tuple(
                Space(ratio * n, up, rigid=level.rigid, lasting=level.lasting)
                for n, up in zip((first, root.size - first), above, strict=True)
            )
            halves[level] = (pair[0], pair[1])
        for level, pair in halves.items():
            level._became = pair
            self._all.extend(pair)


def _now(label: Sequence[Space]) -> list[Space]:
    return [part for space in label for part in space.now()]


def _inside_rigid(chain: list[Space], size: int) -> bool:
    """Whether a level of ``size`` would lie inside a step of the chain that keeps its order."""
    for above, level in zip([None, *chain], chain, strict=False):
        if (above.size if above else 0) < size <= level.size:
            return level.rigid
    return False
