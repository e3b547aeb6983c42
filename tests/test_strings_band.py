"""Bands against a valley whose path is known, trees against brute force over all chains."""

import itertools
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import binarynets
import fullprecision
from compare.data import load_data
from compare.params import ParameterError, Params, parameters
from compare.strings import Lowered, NetworkLandscape, StringError
from compare.strings.band import Band, BandSettings, elastic_band, equally_spaced
from compare.strings.settings import Lowering
from compare.strings.string import joint_length
from compare.strings.tree import string_tree


class Valley:
    """(x^2 - 1)^2 + 5 (y - 1 + x^2)^2: minima at (-1, 0) and (1, 0), a valley over (0, 1), where the pass is 1."""

    names = ("w",)

    def __init__(self) -> None:
        self.measured = 0

    def energy(self, point: torch.Tensor) -> torch.Tensor:
        x, y = point
        return (x**2 - 1) ** 2 + 5 * (y - 1 + x**2) ** 2

    def energies(self, a: Params, b: Params, ts: Sequence[float]) -> tuple[float, ...]:
        self.measured += len(ts)
        return tuple(float(self.energy(torch.lerp(a["w"], b["w"], t))) for t in ts)

    def gradient(self, params: Params, *, seed: int) -> Params:
        point = params["w"].clone().requires_grad_()
        return dict(zip(("w",), torch.autograd.grad(self.energy(point), [point]), strict=True))

    def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
        raise NotImplementedError

    def described(self) -> Mapping[str, Any]:
        return {}


def _point(x: float, y: float) -> Params:
    return {"w": torch.tensor([x, y], dtype=torch.float64)}


ENDS = _point(-1, 0), _point(1, 0)
SETTINGS = BandSettings(beads=19, sweeps=300, learning_rate=0.015)


def _relaxed(**more: Any) -> Band:
    return elastic_band(Valley(), *ENDS, settings=SETTINGS, **more)


def _downhill() -> list[tuple[float, float]]:
    """The path of steepest descent from the pass to one minimum, in small steps."""
    x, y = 1e-3, 1.0
    found = [(x, y)]
    while math.dist((x, y), (1, 0)) > 1e-3:
        across = 10 * (y - 1 + x**2)
        x, y = x - 0.002 * (4 * x * (x**2 - 1) + 2 * x * across), y - 0.002 * across
        found.append((x, y))
    return found


def test_a_band_sinks_into_the_valley() -> None:
    landscape = Valley()
    band = elastic_band(landscape, *ENDS, settings=SETTINGS)
    assert band.straight == pytest.approx(6.0)
    assert band.maximum == pytest.approx(1.0, abs=0.02)
    flow = _downhill()
    half = sum(math.dist(p, q) for p, q in itertools.pairwise(flow))
    assert band.length == pytest.approx(2 * half, rel=0.01)
    assert band.normalised_length == band.length / 2
    for bead in band.beads:
        x, y = bead["w"].tolist()
        assert min(math.dist((abs(x), y), point) for point in flow) < 0.02
    gaps = [joint_length(pair, ["w"]) for pair in itertools.pairwise(band.beads)]
    assert max(gaps) < 1.02 * min(gaps)
    assert all(torch.equal(band.beads[i]["w"], ENDS[i]["w"]) for i in (0, -1))
    assert (band.sweeps, band.cost.steps, band.cost.evaluations) == (300, 300 * 19, landscape.measured)


def test_a_sweep_moves_across_the_band_alone() -> None:
    settings = BandSettings(beads=1, sweeps=1, learning_rate=0.01)
    a, b = _point(-1, 0), _point(0, 1)
    bead = elastic_band(Valley(), a, b, settings=settings).beads[1]["w"]
    middle = _point(-0.5, 0.5)
    gradient = Valley().gradient(middle, seed=0)["w"]
    tangent = torch.tensor([1.0, 1.0], dtype=torch.float64) / math.sqrt(2)
    literal = middle["w"] - 0.01 * (gradient - (gradient @ tangent) * tangent)
    assert torch.allclose(bead, literal, atol=1e-12)
    assert abs(float(gradient @ tangent)) > 0.1


def test_a_band_rests_at_its_level() -> None:
    band = _relaxed(level=2.0)
    assert band.maximum <= 2.0
    assert 0 < band.sweeps < 300
    assert band.sweeps % SETTINGS.check == 0
    assert _relaxed(level=7.0).sweeps == 0
    assert _relaxed(level=0.5).sweeps == 300


def test_beads_are_spaced_along_the_polygon() -> None:
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [2.0, 0.0], [2.0, 1.0], [2.0, 1.0], [5.0, 1.0]])
    beads = equally_spaced([{"w": point, "other": point} for point in points], ["w"])
    expected = [[0.0, 0.0], [1.2, 0.0], [2.0, 0.4], [2.6, 1.0], [3.8, 1.0], [5.0, 1.0]]
    assert torch.allclose(torch.stack([bead["w"] for bead in beads]), torch.tensor(expected))
    assert torch.equal(beads[2]["other"], beads[2]["w"])
    still = [_point(1, 2)] * 4
    assert all(torch.equal(bead["w"], still[0]["w"]) for bead in equally_spaced(still, ["w"]))


@pytest.mark.parametrize("family", [binarynets.FAMILY, fullprecision.FAMILY], ids=["binary", "full"])
def test_a_band_between_networks_falls(family: Any) -> None:
    data = load_data("digits").train
    x, y = data.x[:200], data.y[:200]
    samples = SimpleNamespace(x=x, y=y, calibration=x)
    model = family.networks["mlp"](64, (16,), 10)
    landscape = NetworkLandscape(model, family.recipe, samples, lowering=Lowering(steps=200, batch=100))
    ends = []
    for seed in range(2):
        torch.manual_seed(seed)
        fresh = parameters(family.networks["mlp"](64, (16,), 10))
        ends.append(landscape.lower(fresh, 0.3, seed=seed).params)
    bands = [
        elastic_band(landscape, *ends, settings=BandSettings(beads=3, sweeps=15, learning_rate=0.3, points=3))
        for _ in range(2)
    ]
    assert bands[0].maximum < bands[0].straight
    assert bands[0].maxima == bands[1].maxima


def test_bands_refuse() -> None:
    for wrong, message in (
        ({"beads": 0}, "beads: expected a whole number of at least 1, got 0"),
        ({"sweeps": -1}, "sweeps: expected"),
        ({"points": 1}, "points: expected"),
        ({"check": True}, "check: expected a whole number of at least 1, got True"),
        ({"learning_rate": 0.0}, "positive finite number, got 0"),
        ({"learning_rate": math.inf}, "positive finite number, got inf"),
    ):
        with pytest.raises(StringError, match=message):
            BandSettings(**wrong)
    with pytest.raises(StringError, match="the same one twice"):
        elastic_band(Valley(), ENDS[0], ENDS[0])
    with pytest.raises(ParameterError, match="'w' is missing"):
        elastic_band(Valley(), ENDS[0], {})
    with pytest.raises(StringError, match="left for infinity"):
        elastic_band(Valley(), *ENDS, settings=BandSettings(learning_rate=1e6))
    # Gradients may be finite and the way too long.
    short = {name: tensor.float() for name, tensor in ENDS[0].items()}, {"w": torch.tensor([0.5, 0.5])}
    with pytest.raises(StringError, match="finite gradients and weights"):
        elastic_band(Valley(), *short, settings=BandSettings(beads=1, sweeps=1, learning_rate=1e39))


class Torn(Valley):
    """Without an energy where x is between -0.1 and 0.1."""

    def energy(self, point: torch.Tensor) -> torch.Tensor:
        return torch.where(point[0].abs() < 0.1, torch.nan, super().energy(point))


def test_energies_that_are_no_numbers_are_not_low() -> None:
    band = elastic_band(Torn(), *ENDS, settings=BandSettings(beads=2, sweeps=20, learning_rate=0.015), level=1e9)
    assert (band.straight, band.maximum, band.sweeps) == (math.inf, math.inf, 20)
    assert [math.isinf(each) for each in band.maxima] == [False, True, False]


# Trees.


def _literal_minimax(names: Sequence[str], energies: Mapping[tuple[str, str], float], a: str, b: str) -> float:
    """Over all chains without repetition."""
    both = energies | {(q, p): energy for (p, q), energy in energies.items()}
    inner = [name for name in names if name not in (a, b)]
    chains = ((a, *way, b) for k in range(len(inner) + 1) for way in itertools.permutations(inner, k))
    steps = (list(itertools.pairwise(chain)) for chain in chains)
    return min(max(both[step] for step in chain) for chain in steps if all(step in both for step in chain))


@pytest.mark.parametrize("seed", range(6))
def test_trees_pass_no_more_than_any_chain(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = [f"n{i}" for i in range(6)]
    # Few values, 0 among them, so that there are ties; in half of the cases pairs are missing.
    drawn = {pair: float(torch.randint(5, (), generator=generator)) for pair in itertools.combinations(names, 2)}
    energies = {(q, p): e for i, ((p, q), e) in enumerate(drawn.items()) if seed % 2 == 0 or i % 3 or p == "n0"}
    tree = string_tree(names, energies)
    assert len(tree.edges) == 5
    assert list(tree.energies) == sorted(energies[q, p] for p, q in tree.edges)
    for pair, energy in tree.minimax.items():
        assert energy == _literal_minimax(names, energies, *pair)
        assert energy == _literal_minimax(names, {edge: drawn[edge] for edge in tree.edges}, *pair)
    assert [*tree.minimax] == list(itertools.combinations(names, 2))


def test_trees_refuse() -> None:
    for names, energies, message in (
        (["a"], {}, "at least two networks, each once, got a"),
        (["a", "a"], {}, "each once"),
        (["a", "b"], {("a", "c"): 1.0}, "got 'a' and 'c'"),
        (["a", "b"], {("a", "a"): 1.0}, "pairs of two"),
        (["a", "b"], {("a", "b"): math.nan}, "finite numbers, got nan"),
        (["a", "b"], {("a", "b"): 1.0, ("b", "a"): 1.0}, "in both orders"),
        (["a", "b", "c"], {("a", "b"): 1.0}, "join all networks, got 2 separate parts"),
    ):
        with pytest.raises(StringError, match=message):
            string_tree(names, energies)


def test_a_linear_layer_counts_as_a_slope() -> None:
    x = torch.linspace(0, 1, 8)[:, None]
    landscape = NetworkLandscape(
        nn.Linear(1, 1),
        fullprecision.FAMILY.recipe,
        SimpleNamespace(x=x, y=2 * x),
        energy="squared error",
        lowering=Lowering(batch=None),
    )
    ends = ({"weight": torch.tensor([[w]]), "bias": torch.tensor([c])} for w, c in ((2.0, 1.0), (0.0, 0.0)))
    band = elastic_band(landscape, *ends, settings=BandSettings(beads=3, sweeps=50))
    assert band.maximum == max(band.maxima[0], band.maxima[-1])
    assert band.maximum <= band.straight + 1e-6
