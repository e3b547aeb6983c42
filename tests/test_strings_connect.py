"""Strings between networks: what must connect, and what must not."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from string_networks import FULL, Points, digits_pair, parabola, regression, sigmoid_net
from torch import nn

from compare.params import Params, digest, parameters
from compare.strings import (
    Lowered,
    Lowering,
    NetworkLandscape,
    String,
    StringSettings,
    sample_string,
    sample_strings,
)
from compare.symmetry import match

GUIDE = Path(__file__).parents[1] / "docs" / "strings.md"


def _drawn(string: String) -> list[tuple[str, float]]:
    return [(digest(bead.params), bead.energy) for bead in string.beads]


def test_the_number_of_processes_changes_nothing() -> None:
    model = sigmoid_net(0)
    a, b = parameters(model), parameters(sigmoid_net(1))
    landscape = NetworkLandscape(
        model, FULL, parabola(17), energy="absolute error", lowering=Lowering(steps=300, batch=8, learning_rate=0.05)
    )
    settings = StringSettings(points=5, finer=1)
    one, two = (sample_string(landscape, a, b, 0.05, settings=settings, jobs=jobs) for jobs in (1, 2))
    assert _drawn(one) == _drawn(two)
    assert one.cost == two.cost
    assert one.connected
    assert one.inserted >= 3


def test_strings_of_the_parabola_grow_as_the_level_falls() -> None:
    settings = StringSettings(points=21, place="middle", initial=1, depth=10)
    lengths, beads = [], []
    for seed in (0, 2):
        model = sigmoid_net(seed)
        landscape = NetworkLandscape(
            model,
            FULL,
            parabola(),
            energy="absolute error",
            lowering=Lowering(steps=4000, batch=None, learning_rate=0.02),
        )
        ends = parameters(model), parameters(sigmoid_net(seed + 1))
        strings = sample_strings(landscape, *ends, (0.1, 0.03), settings=settings)
        assert all(string.connected for string in strings)
        lengths.append([string.normalised_length for string in strings])
        beads.append([len(string.beads) for string in strings])
    assert all(low < lower for low, lower in lengths)
    assert all(few < more for few, more in beads)
    assert all(few >= 3 for few, _ in beads)


def _triangle() -> Points:
    """Three points of the plane, each to become the next."""
    angles = 2 * math.pi / 3 * torch.arange(3)
    x = torch.stack([torch.cos(angles), torch.sin(angles)], 1)
    return Points(x, x.roll(-1, 0))


def _cycle(seed: int) -> tuple[Params, NetworkLandscape]:
    """A 2-3-2 rectified network without offsets that permutes the triangle, each unit for one point at the start."""
    samples = _triangle()
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    torch.manual_seed(seed)
    with torch.no_grad():
        model[0].weight.copy_(samples.x + 0.2 * torch.randn(3, 2))
        model[2].weight.copy_(samples.y.T + 0.2 * torch.randn(2, 3))
    landscape = regression(model, samples, steps=300)
    trained = landscape.lower(parameters(model), 1e-3, seed=seed)
    assert trained.reached
    return trained.params, landscape


def _reordered(params: Params, order: list[int]) -> Params:
    return {"0.weight": params["0.weight"][order], "2.weight": params["2.weight"][:, order]}


def test_the_swapped_cycle_is_never_connected() -> None:
    """The hidden activations of the three points, a 3x3 matrix H, change the sign of their determinant in the swap.

    On any path H is singular somewhere. Its rows are not negative; so the targets, whose rows sum to 0, leave at least
    a mean squared error of 1/12 on its row space. An even number of points: at t = 1/2 both units are equal, and the
    gradient would keep them so; beads start beside it.
    """
    settings = StringSettings(points=12, depth=6)
    for seed in range(20):
        a, landscape = _cycle(seed)
        b = _reordered(a, [1, 0, 2])
        string = sample_string(landscape, a, b, 0.05, settings=settings, seed=seed)
        assert string.verdict == "not shown connected"
        assert string.finer_maximum > 0.08


def test_the_floor_between_swapped_cycles_is_a_twelfth() -> None:
    """Planes with two rows that are not negative, drawn at random: the targets' part along the normal is the error."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(50_000, 2, 3, generator=generator, dtype=torch.float64) ** 5
    normals = nn.functional.normalize(torch.linalg.cross(rows[:, 0], rows[:, 1]), dim=1)
    left = (normals @ _triangle().y.double()).square().sum(1) / 6
    assert 1 / 12 <= float(left.min()) < 1.01 / 12


def test_the_same_search_connects_the_cycle_where_it_can_be_connected() -> None:
    settings = StringSettings(points=12, depth=6)
    for seed in range(3):
        a, landscape = _cycle(seed)
        above = sample_string(landscape, a, _reordered(a, [1, 0, 2]), 0.25, settings=settings, seed=seed)
        assert above.connected
        factors = torch.tensor([8.0, 0.2, 3.0])
        rescaled = {"0.weight": factors[:, None] * a["0.weight"], "2.weight": a["2.weight"] / factors}
        assert landscape.energies(rescaled, a, (0.0,)) == pytest.approx(landscape.energies(a, a, (0.0,)), rel=1e-3)
        straight = max(landscape.energies(a, rescaled, settings.ts))
        assert straight > 0.01
        string = sample_string(landscape, a, rescaled, 0.01, settings=settings, seed=seed)
        assert string.connected
        assert string.inserted >= 1


@pytest.mark.parametrize("hidden", [(4,), (5, 4)], ids=["one hidden layer", "two hidden layers"])
def test_linear_networks_connect_at_all_levels(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    samples = Points(x, x @ torch.randn(4, 3) / 2)
    widths = (4, *hidden, 3)

    def drawn(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(widths)))

    for seed in range(3):
        model = drawn(10 + seed)
        landscape = regression(model, samples, steps=2000)
        ends = parameters(model), parameters(drawn(20 + seed))
        strings = sample_strings(landscape, *ends, (0.5, 0.1, 0.01, 0.001), seed=seed)
        assert [string.verdict for string in strings] == ["connected at this level within tolerance"] * 4
        assert strings[-1].finer_maximum < 1.2 * 0.001


@pytest.mark.parametrize("precision", ["binary", "full"])
def test_a_symmetric_copy_connects_without_beads_once_matched(precision: str) -> None:
    digits = digits_pair(precision)
    for energy in ("loss", "error"):
        landscape = NetworkLandscape(digits.model, digits.recipe, digits.train, energy=energy)
        (own,) = landscape.energies(digits.a, digits.a, (0.0,))
        # Rounding may turn a sample that is on the edge between two classes.
        level = own * (1 + 1e-6) if energy == "loss" else own + 1.5 / len(digits.train.y)
        matched = match(digits.graph, digits.a, digits.copy, seed=0).params
        string = sample_string(landscape, digits.a, matched, level, settings=StringSettings(tolerance=1e-3))
        assert string.connected
        assert (string.inserted, string.cost.steps) == (0, 0)
        assert string.normalised_length == pytest.approx(1.0)
        # As it came, it is another point.
        shallow = StringSettings(depth=0)
        assert not sample_string(landscape, digits.a, digits.copy, level, settings=shallow).connected


@pytest.mark.parametrize("precision", ["binary", "full"])
def test_independent_networks_connect_on_digits(precision: str) -> None:
    digits = digits_pair(precision)
    landscape = NetworkLandscape(
        digits.model, digits.recipe, digits.train, energy="error", lowering=Lowering(batch=50, steps=1200)
    )
    string = sample_string(landscape, digits.a, digits.other, 0.1, settings=StringSettings(points=7, finer=2))
    assert string.connected
    assert string.inserted >= 1
    for number, (a, b) in enumerate(itertools.pairwise(string.beads)):
        found = landscape.energies(a.params, b.params, [i / 6 for i in range(7)])
        assert max(found) == pytest.approx(string.maxima[number])
        assert max(found) <= 0.1 * 1.1


class Interrupted(NetworkLandscape):
    """Stops at the training of a bead, as somebody at the keyboard does."""

    left = 3

    def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().lower(start, target, seed=seed)


@pytest.mark.parametrize("precision", ["binary", "full"])
def test_strings_of_networks_resume_with_the_same_bits(precision: str, tmp_path: Path) -> None:
    digits = digits_pair(precision)
    plain, interrupted = (
        kind(digits.model, digits.recipe, digits.train, energy="error", lowering=Lowering(batch=50, steps=1200))
        for kind in (NetworkLandscape, Interrupted)
    )
    settings = StringSettings(points=7, finer=1)
    ends = digits.a, digits.other
    expected = sample_strings(plain, *ends, (0.25, 0.12), settings=settings)
    assert expected[-1].inserted >= 1
    with pytest.raises(KeyboardInterrupt):
        sample_strings(interrupted, *ends, (0.25, 0.12), settings=settings, folder=tmp_path)
    found = sample_strings(plain, *ends, (0.25, 0.12), settings=settings, folder=tmp_path)
    assert [_drawn(string) for string in found] == [_drawn(string) for string in expected]
    assert [string.cost for string in found] == [string.cost for string in expected]


def test_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    programs = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile("\n".join(programs), "strings.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 4
    assert all("connected at this level within tolerance; " in line for line in (lines[0], lines[1]))
