"""Unification of spaces against brute force: all permutations of few units that respect what was said of them."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compare.symmetry.tracing.spaces import Space, Spaces, fixed


def _admitted(label: list[Space]) -> set[tuple[int, ...]]:
    """All permutations of the places of an axis that its spaces admit, by their definition."""
    return {tuple(p) for p in itertools.permutations(range(sum(s.size for s in label))) if _respected(label, p)}


def _respected(label: list[Space], p: tuple[int, ...]) -> bool:
    start = 0
    for space in label:
        part = [place - start for place in p[start : start + space.size]]
        if sorted(part) != list(range(space.size)):
            return False
        if not all(_moves_together(part, space, level) for level in space.chain()):
            return False
        start += space.size
    return True


def _moves_together(part: list[int], space: Space, level: Space) -> bool:
    """Units of a level stay together, and keep their places in the unit above where they are rigid."""
    inside = space.size // level.size
    units = [part[i * inside : (i + 1) * inside] for i in range(level.size)]
    if any(len({place // inside for place in unit}) > 1 for unit in units):
        return False
    each = level.size // (level.parent.size if level.parent else 1)
    return not level.rigid or all(unit[0] // inside % each == i % each for i, unit in enumerate(units))


def _wholes_kept(p: tuple[int, ...], count: int) -> bool:
    inside = len(p) // count
    return all(len({place // inside for place in p[i * inside : (i + 1) * inside]}) == 1 for i in range(count))


def test_an_unconstrained_space_admits_everything() -> None:
    assert len(_admitted([Spaces().new(4)])) == 24
    assert len(_admitted([fixed(4)])) == 1


def test_a_cut_is_the_product_of_two() -> None:
    spaces = Spaces()
    long, short = spaces.new(5), spaces.new(2)
    spaces.unify([long], [short, spaces.new(3)])
    assert [part.size for part in long.now()] == [2, 3]
    assert long.now()[0] is short.only()
    assert len(_admitted(list(long.now()))) == 2 * 6


def test_nested_wholes_admit_the_wreath_product() -> None:
    spaces = Spaces()
    units = spaces.new(6)
    wholes = spaces.nest(units, 3)
    assert units.only().parent is wholes
    assert _admitted([units.only()]) == {p for p in itertools.permutations(range(6)) if _wholes_kept(p, 3)}


@pytest.mark.parametrize("counts", list(itertools.permutations([2, 4])))
def test_wholes_of_wholes(counts) -> None:
    spaces = Spaces()
    units = spaces.new(8)
    for count in counts:
        spaces.nest(units.only(), count)
    assert [level.size for level in units.only().chain()] == [2, 4, 8]


@pytest.mark.parametrize("counts", list(itertools.permutations([2, 3])))
def test_wholes_that_do_not_fit_are_frozen_with_a_reason(counts) -> None:
    spaces = Spaces()
    units = spaces.new(6)
    for count in counts:
        assert spaces.nest(units.only(), count).size == count
    assert units.only().fixed
    assert "do not fit" in spaces.frozen[0][1]


def test_what_is_rigid_moves_with_its_whole() -> None:
    spaces = Spaces()
    units = spaces.new(3)
    filled = spaces.filled(units, 2)
    assert spaces.filled(units, 2) is filled
    assert spaces.filled(units, 1) is units
    assert _admitted([filled]) == {
        tuple(2 * i + j for i in p for j in range(2)) for p in itertools.permutations(range(3))
    }
    spaces.unify([filled], [spaces.new(6)])
    assert len(_admitted([filled.only()])) == 6


def test_a_rigid_axis_inside_wholes_meets_a_finer_one() -> None:
    """Six entries in a fixed order for each of 2 wholes; another axis says that they come in 4 pairs of 3."""
    spaces = Spaces()
    filled, pairs = spaces.filled(spaces.new(2), 6), spaces.new(12)
    spaces.nest(pairs, 4)
    spaces.unify([filled], [pairs.only()])
    assert [(level.size, level.rigid) for level in filled.only().chain()] == [(2, False), (4, True), (12, True)]


def test_freezing_reaches_every_level_above_and_no_sibling() -> None:
    spaces = Spaces()
    left, right = spaces.new(4), spaces.new(6)
    spaces.unify([spaces.nest(left, 2)], [spaces.nest(right, 2)])
    spaces.freeze([left.only()], "because")
    assert left.only().fixed
    assert not right.only().fixed
    assert right.only().parent.fixed
    assert {why for _, why in spaces.frozen} == {"because"}


def test_a_cut_goes_through_everything_in_the_same_wholes() -> None:
    spaces = Spaces()
    left, right = spaces.new(8), spaces.new(12)
    spaces.unify([spaces.nest(left, 4)], [spaces.nest(right, 4)])
    spaces.split([left.only()], [2, 6])
    assert [space.size for space in left.now()] == [2, 6]
    assert [space.size for space in right.now()] == [3, 9]
    assert [space.parent.size for space in right.now()] == [1, 3]
    assert all(a.parent is b.parent for a, b in zip(left.now(), right.now(), strict=True))


def test_a_cut_through_a_whole_freezes() -> None:
    spaces = Spaces()
    units = spaces.new(6)
    spaces.nest(units, 2)
    spaces.split([units.only()], [2, 4])
    assert all(part.fixed for part in units.now())
    assert "taken apart" in spaces.frozen[0][1]


def test_saying_the_same_again_changes_nothing() -> None:
    spaces = Spaces()
    a, b, c = spaces.new(6), spaces.new(4), spaces.new(2)

    def say() -> int:
        spaces.unify([a], [b, c])
        spaces.nest(b.now()[0], 2)
        spaces.split([a], [4, 2])
        spaces.unify([c], [fixed(2)])
        spaces.filled(c.only(), 3)
        return spaces.changes

    assert say() == say()


@dataclass
class _Story:
    """What was said of three axes of one length: which are the same, wholes they come in, cuts, what holds still."""

    size: int
    said: list[tuple] = field(default_factory=list)

    def allows(self, family: list[tuple[int, ...]]) -> bool:
        """Whether permutations, one for each axis, respect all of it."""
        return all(self._one(family, *words) for words in self.said)

    @staticmethod
    def _one(family: list[tuple[int, ...]], what: str, a: int, b: int) -> bool:
        p = family[a]
        if what == "same":
            return p == family[b]
        if what == "wholes":
            return _wholes_kept(p, b)
        if what == "cut":
            return sorted(p[:b]) == list(range(b))
        return p == tuple(sorted(p))


@st.composite
def stories(draw) -> _Story:
    size = draw(st.sampled_from([4, 6]))
    axis = st.integers(0, 2)
    divisors = [d for d in range(2, size) if size % d == 0]
    same = st.tuples(st.just("same"), axis, axis)
    wholes = st.tuples(st.just("wholes"), axis, st.sampled_from(divisors))
    cut = st.tuples(st.just("cut"), axis, st.integers(1, size - 1))
    still = st.tuples(st.just("still"), axis, st.just(0))
    return _Story(size, draw(st.lists(st.one_of(same, same, wholes, cut, still), max_size=5)))


def _told(story: _Story) -> tuple[Spaces, list[list[Space]]]:
    """Say it all, again and again, until nothing new is found."""
    spaces = Spaces()
    axes = [[spaces.new(story.size)] for _ in range(3)]
    before = -1
    while before != spaces.changes:
        before = spaces.changes
        for what, a, b in story.said:
            label = [part for space in axes[a] for part in space.now()]
            if what == "same":
                spaces.unify(label, [part for space in axes[b] for part in space.now()])
            elif what == "cut":
                spaces.split(label, [b, story.size - b])
            elif what == "still":
                spaces.freeze(label, "still")
            else:
                _in_wholes(spaces, label, story.size // b)
    return spaces, [[part for space in label for part in space.now()] for label in axes]


def _in_wholes(spaces: Spaces, label: list[Space], inside: int) -> None:
    """As rules do: wholes that straddle a cut hold everything still."""
    if any(space.size % inside for space in label):
        spaces.freeze(label, "straddles")
        return
    for space in label:
        spaces.nest(space, space.size // inside)


@given(stories())
@settings(max_examples=120, deadline=None)
def test_what_is_admitted_respects_all_that_was_said(story) -> None:
    spaces, labels = _told(story)
    groups = [_admitted(label) for label in labels]
    for a, label in enumerate(labels):
        for p in groups[a]:
            # The same spaces move alike; axes with other spaces are taken at rest.
            family = [p if other == label else tuple(range(story.size)) for other in labels]
            assert story.allows(family)
    if not spaces.frozen:
        expected = _families(story)
        for a, group in enumerate(groups):
            assert group == {family[a] for family in expected}


def _families(story: _Story) -> list[list[tuple[int, ...]]]:
    """For each axis alone all permutations that some family with it respects, by brute force over classes of axes."""
    classes = list(range(3))
    for what, a, b in story.said:
        if what == "same":
            classes = [classes[a] if c == classes[b] else c for c in classes]
    found = []
    for p in itertools.permutations(range(story.size)):
        for chosen in set(classes):
            family = [p if c == chosen else tuple(range(story.size)) for c in classes]
            if story.allows(family):
                found.append(family)
    return found


@given(stories())
@settings(max_examples=60, deadline=None)
def test_the_order_of_what_is_said_does_not_matter_where_nothing_is_frozen(story) -> None:
    forwards, labels = _told(story)
    backwards, others = _told(_Story(story.size, story.said[::-1]))
    assert bool(forwards.frozen) == bool(backwards.frozen)
    if not forwards.frozen:
        assert [[s.size for s in label] for label in labels] == [[s.size for s in label] for label in others]
        for label, other in zip(labels, others, strict=True):
            assert _admitted(label) == _admitted(other)
