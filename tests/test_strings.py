"""Dynamic string sampling on landscapes whose energy is a formula."""

import itertools
import math
import re
from collections.abc import Sequence

import pytest
import torch
from string_planes import LEFT, RIGHT, Plane, at, bowl, points, ring, two_wells

from compare.params import ParameterError, Params, digest, lerp
from compare.runs.strings import StringLevel
from compare.seeds import derived
from compare.strings import (
    Cost,
    Lowered,
    StringSettings,
    joint_length,
    recorded,
    sample_string,
    sample_strings,
)


def _literal(
    plane: Plane, a: Params, b: Params, levels: Sequence[float], settings: StringSettings, seed: int = 0
) -> list[tuple[list[list[float]], bool]]:
    """The algorithm word for word: one segment at a time, a list that grows; points and verdict for each level."""
    found, beads = [], [a, b]
    for number, level in enumerate(levels):
        lowered = [
            plane.lower(
                bead,
                level if i in (0, len(beads) - 1) else settings.alpha * level,
                seed=derived(seed, "string", number, f"given {i}"),
            )
            for i, bead in enumerate(beads)
        ]
        ends = (0, len(lowered) - 1)
        beads = [each.params for i, each in enumerate(lowered) if each.reached or i in ends]
        connected = lowered[0].reached and lowered[-1].reached
        queue = [str(i) for i in range(len(beads) - 1)]
        between = {place: (beads[i], beads[i + 1]) for i, place in enumerate(queue)}
        while queue and connected:
            later = []
            for place in queue:
                start, end = between[place]
                highest, where = -math.inf, 0.5
                for i in range(1, settings.points - 1):
                    t = i / (settings.points - 1)
                    energy = plane.energy(*lerp(start, end, t)["p"].tolist())
                    if energy > highest or (energy == highest and abs(t - 0.5) < abs(where - 0.5)):
                        highest, where = energy, t
                if highest <= (1 + settings.tolerance) * level:
                    continue
                if len(place.strip("0123456789")) == settings.depth:
                    connected = False
                    continue
                t = where if settings.place == "maximum" else 0.5
                bead = plane.lower(
                    lerp(start, end, t), settings.alpha * level, seed=derived(seed, "string", number, place)
                )
                if not bead.reached:
                    connected = False
                    continue
                del between[place]
                between[place + "l"], between[place + "r"] = (start, bead.params), (bead.params, end)
                later += [place + "l", place + "r"]
                first = next(i for i, known in enumerate(beads) if known is start)
                beads.insert(first + 1, bead.params)
            queue = later
        found.append(([bead["p"].tolist() for bead in beads], connected))
        if not connected:
            break
    return found


@pytest.mark.parametrize("place", ["maximum", "middle"])
@pytest.mark.parametrize("levels", [(0.1,), (0.3, 0.03, 0.003)], ids=["one level", "three levels"])
def test_strings_are_those_of_the_literal_algorithm(place: str, levels: tuple[float, ...]) -> None:
    settings = StringSettings(tolerance=0.05, points=9, place=place)
    strings = sample_strings(Plane(), LEFT, RIGHT, levels, settings=settings, seed=3)
    literal = _literal(Plane(), LEFT, RIGHT, levels, settings, seed=3)
    assert [(points(string), string.connected) for string in strings] == literal
    assert all(string.connected and string.inserted >= 1 for string in strings)


def test_a_string_that_fails_is_that_of_the_literal_algorithm() -> None:
    settings = StringSettings(tolerance=0.05, depth=3)
    for energy, level in ((two_wells, 0.5), (ring, 1e-5)):
        string = sample_string(Plane(energy), LEFT, RIGHT, level, settings=settings)
        ((_, connected),) = _literal(Plane(energy), LEFT, RIGHT, (level,), settings)
        assert string.connected is connected is False


def test_a_string_goes_round_the_ring() -> None:
    settings = StringSettings(tolerance=0.05, finer=8)
    string = sample_string(Plane(), LEFT, RIGHT, 0.01, settings=settings)
    assert string.verdict == "connected at this level within tolerance"
    assert string.faults == ()
    # Half the circle over its diameter; chords cut corners and beads stop at the near rim of the valley.
    assert 0.85 * math.pi / 2 < string.normalised_length < 1.02 * math.pi / 2
    assert string.length == pytest.approx(sum(math.dist(p, q) for p, q in itertools.pairwise(points(string))))
    assert string.distance == pytest.approx(math.dist(points(string)[0], points(string)[-1]))
    assert all(bead.energy <= 0.95 * 0.01 for bead in string.beads[1:-1])
    assert [bead.inserted for bead in string.beads] == [False, *[True] * string.inserted, False]
    assert points(string)[0] == LEFT["p"].tolist()
    assert points(string)[-1] == RIGHT["p"].tolist()


def test_maxima_are_those_of_the_grids() -> None:
    settings = StringSettings(points=5, finer=3, tolerance=0.2)
    string = sample_string(Plane(), LEFT, RIGHT, 0.02, settings=settings)
    for steps, found in ((4, string.maxima), (12, string.finer_maxima)):
        expected = [
            max(ring(*lerp(a.params, b.params, i / steps)["p"].tolist()) for i in range(steps + 1))
            for a, b in itertools.pairwise(string.beads)
        ]
        assert found == pytest.approx(expected, rel=1e-12)
    assert string.maximum == max(string.maxima)
    assert string.finer_maximum == max(string.finer_maxima) >= string.maximum
    assert not string.exceeds


def test_a_finer_grid_that_exceeds_the_tolerance_is_told() -> None:
    """A spike between two points of a coarse grid."""
    spiked = Plane(lambda x, y: 1.0 if abs(x - 0.25) < 0.02 else 0.0)
    string = sample_string(spiked, LEFT, RIGHT, 0.5, settings=StringSettings(points=5, finer=5))
    assert string.connected
    assert not string.exceeds
    string = sample_string(spiked, at(-1, 0), at(1, 0), 0.5, settings=StringSettings(points=5, finer=2))
    assert string.connected
    assert (string.maximum, string.finer_maximum, string.exceeds) == (0.0, 1.0, True)
    assert recorded(string).exceeds


def test_a_wall_is_never_said_to_be_passed_nor_to_part() -> None:
    for seed in range(5):
        string = sample_string(Plane(two_wells), LEFT, RIGHT, 0.5, seed=seed)
        assert string.verdict == "not shown connected"
        assert string.faults
        assert "disconnected" not in " ".join((string.verdict, *string.faults))


def test_ends_are_trained_down_to_the_level_first() -> None:
    string = sample_string(Plane(), at(-2, 0), at(2, 0.1), 0.04)
    assert string.connected
    assert all(0.9 * 0.04 * 0.8 < string.beads[i].energy <= 0.04 for i in (0, -1))
    assert string.cost.steps > 0


def test_an_end_that_does_not_come_down_is_told() -> None:
    stuck = Plane(lambda x, y: 1.0 + 0 * x if x > 0 else 0.0)
    string = sample_string(stuck, LEFT, RIGHT, 0.5)
    assert not string.connected
    assert string.faults == ("end b was not trained down to 0.5: its energy is 1 after 400 steps",)
    assert string.inserted == 0


def test_limits_of_depth_and_of_beads_end_the_search() -> None:
    shallow = sample_string(Plane(), LEFT, RIGHT, 1e-4, settings=StringSettings(depth=2))
    assert "limit of depth, 2" in shallow.faults[0]
    assert shallow.inserted <= 3
    few = sample_string(Plane(), LEFT, RIGHT, 1e-4, settings=StringSettings(beads=4))
    assert re.fullmatch(r"\d+ beads between the ends were needed, the limit is 4", few.faults[0])
    assert few.inserted <= 4
    none = sample_string(Plane(), LEFT, RIGHT, 1e-4, settings=StringSettings(depth=0))
    assert none.inserted == 0
    assert not none.connected


def test_a_bead_that_does_not_come_down_ends_the_search() -> None:
    string = sample_string(Plane(steps=3), LEFT, RIGHT, 0.01)
    assert not string.connected
    assert re.match(
        r"the bead in segment 0 was not trained down to 0\.0095: its energy is .* after 3 steps", string.faults[0]
    )


def test_energies_that_are_no_numbers_are_above_every_level() -> None:
    string = sample_string(Plane(lambda x, y: 0.0 if abs(x) >= 0.9 else math.nan), LEFT, RIGHT, 0.5)
    assert not string.connected
    end = sample_string(Plane(lambda x, y: math.nan, steps=0), LEFT, RIGHT, 0.5)
    hidden = Plane(lambda x, y: math.nan if abs(x - 0.25) < 0.02 else 0.0)
    between = sample_string(hidden, at(-1, 0), at(1, 0), 0.5, settings=StringSettings(points=5, finer=2))
    assert between.connected
    for found in (string, end, between):
        level = recorded(found)
        assert level.finer_maximum is None
        assert level.exceeds
        assert StringLevel.model_validate_json(level.model_dump_json()) == level
    assert recorded(between).maximum == 0.0


def test_a_network_and_itself_need_nothing_between() -> None:
    for initial in (0, 3):
        string = sample_string(Plane(), LEFT, LEFT, 0.01, settings=StringSettings(initial=initial))
        assert (string.connected, string.inserted, string.normalised_length) == (True, 0, 1.0)


def test_a_straight_segment_below_the_level_is_the_string() -> None:
    string = sample_string(Plane(bowl), LEFT, RIGHT, 1.1)
    assert (string.connected, string.inserted, string.generations) == (True, 0, 1)
    assert string.normalised_length == pytest.approx(1.0)
    assert string.cost == Cost(steps=0, evaluations=2 + 9 + 39)


def test_initial_beads_lie_at_equal_distances_and_are_lowered() -> None:
    string = sample_string(Plane(bowl), LEFT, RIGHT, 1.1, settings=StringSettings(initial=3))
    assert points(string) == [pytest.approx(p) for p in ([-1, 0.05], [-0.5, 0.05], [0, 0.05], [0.5, 0.05], [1, 0.05])]
    low = sample_string(Plane(), LEFT, RIGHT, 0.01, settings=StringSettings(initial=1))
    assert low.connected
    assert low.inserted >= 1


def test_of_equal_maxima_the_one_nearest_the_middle_gets_the_bead() -> None:
    started: list[Params] = []

    class Watched(Plane):
        def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
            started.append(start)
            return Lowered(at(*start["p"].tolist()), 0.0, True, 0, 1)

    plateau = Watched(lambda x, y: 1.0 if abs(x) < 0.9 else 0.0)
    sample_string(plateau, LEFT, RIGHT, 0.5, settings=StringSettings(depth=1))
    assert started[2]["p"][0] == pytest.approx(0.0)


def test_a_schedule_goes_on_from_the_string_before() -> None:
    levels = (0.3, 0.1, 0.03)
    strings = sample_strings(Plane(), LEFT, RIGHT, levels)
    assert [string.level for string in strings] == list(levels)
    assert [string.inserted for string in strings] == sorted(string.inserted for string in strings)
    anew = sample_strings(Plane(), LEFT, RIGHT, levels, settings=StringSettings(start="ends"))
    assert all(string.connected for string in anew)
    assert points(anew[0]) == points(strings[0])
    assert points(anew[1]) != points(strings[1])
    # The first level's beads, lowered, are among the second's; lowering moves a bead towards the ring alone.
    angles = [[math.atan2(y, x) for x, y in points(string)] for string in strings]
    assert all(min(abs(angle - other) for other in angles[1]) < 0.05 for angle in angles[0])


def test_given_beads_that_do_not_come_down_are_left_out() -> None:
    class Stubborn(Plane):
        def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
            stuck = target < 0.05 and seed == derived(0, "string", 1, "given 1")
            return Lowered(start, 1.0, False, 7, 1) if stuck else super().lower(start, target, seed=seed)

    strings = sample_strings(Stubborn(), LEFT, RIGHT, (0.3, 0.03))
    assert strings[1].connected
    assert points(strings[0])[1] not in points(strings[1])


def test_a_schedule_ends_with_the_first_level_that_is_not_shown() -> None:
    strings = sample_strings(Plane(two_wells), LEFT, RIGHT, (2.0, 1.5, 0.5, 0.1))
    assert [string.connected for string in strings] == [True, True, False]


def test_seeds_belong_to_places() -> None:
    same, again, other = (sample_string(Plane(), LEFT, RIGHT, 0.01, seed=seed) for seed in (0, 0, 1))
    assert points(same) == points(again)
    assert points(same) != points(other)


def test_ends_that_came_are_not_changed() -> None:
    a, b = at(-2, 0), at(2, 0)
    before = digest(a), digest(b)
    sample_string(Plane(), a, b, 0.1)
    assert (digest(a), digest(b)) == before


def test_a_string_is_a_path() -> None:
    string = sample_string(Plane(), LEFT, RIGHT, 0.01)
    count = len(string.beads) - 1
    for number, bead in enumerate(string.beads):
        assert string(number / count)["p"].tolist() == pytest.approx(bead.params["p"].tolist(), abs=1e-12)
    assert torch.equal(string(0)["p"], string.beads[0].params["p"])
    assert torch.equal(string(1)["p"], string.beads[-1].params["p"])
    halfway = lerp(string.beads[0].params, string.beads[1].params, 0.5)["p"].tolist()
    assert string(0.5 / count)["p"].tolist() == pytest.approx(halfway)
    with pytest.raises(ValueError, match="between 0 and 1"):
        string(1.5)


def test_joint_lengths_count_the_names_asked_for() -> None:
    a = {"w": torch.zeros(2, 2), "n": torch.zeros(3), "count": torch.tensor(1)}
    b = {"w": torch.full((2, 2), 2.0), "n": torch.ones(3), "count": torch.tensor(5)}
    assert joint_length([a, b], ["w"]) == 4.0
    assert joint_length([a, b], ["w", "n"]) == pytest.approx(math.sqrt(19))
    assert joint_length([a, b, a], ["n"]) == pytest.approx(2 * math.sqrt(3))
    with pytest.raises(ParameterError, match="expected networks with parameters w, v, got none for v"):
        joint_length([a, b], ["w", "v"])
