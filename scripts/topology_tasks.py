"""The pieces of the study of level sets that need no images; each is determined by its fields and makes a record."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import fullprecision
from compare.params import Params, parameters
from compare.runs.configuration import identity
from compare.runs.provenance import command_line, provenance
from compare.runs.record import Provenance
from compare.runs.strings import Strings
from compare.runs.study import Piece
from compare.runs.topology import CONTROL, LINEAR, QUADRATIC, TWO_UNITS, WIDTHS, LinearPath, Pruned
from compare.seeds import derived
from compare.strings import (
    NORM,
    Lowering,
    NetworkLandscape,
    StringSettings,
    recorded,
    sample_string,
    sample_strings,
)
from compare.strings.pruned import pruned_string, rank_one_floor
from compare.strings.theory import linear_network_path

# How beads are trained, and strings searched for.
OF_REGRESSION = (
    Lowering(steps=60_000, batch=None, learning_rate=0.003),
    StringSettings(tolerance=0.1, alpha=0.95, points=51, finer=2, place="middle", initial=1, depth=10),
)
# No point of an even grid is half-way, where both swapped units are equal and gradients keep them so.
OF_CONTROL = Lowering(steps=1000, batch=None, learning_rate=0.03), StringSettings(points=10, depth=6, beads=60)
OF_LINEAR = Lowering(steps=5000, batch=None, learning_rate=0.02), StringSettings()


class Task(Protocol):
    """One piece of the study."""

    @property
    def name(self) -> str:
        """Of its file; no two pieces share it."""
        ...

    @property
    def kind(self) -> type[Piece]:
        """Of its record."""
        ...

    def described(self) -> dict[str, Any]:
        """Plain values: all that determines its numbers."""
        ...

    def piece(self) -> Piece:
        """Do it, and give the record."""
        ...


@dataclass(frozen=True)
class Described:
    """What tasks share: fields that determine everything."""

    def described(self) -> dict[str, Any]:
        """See ``Task``."""
        return {"task": type(self).__name__, **asdict(self)}

    def about(self, precision: str = "full") -> dict[str, Any]:
        """What each record says of itself."""
        return {"identity": task_identity(self), "precision": precision, "provenance": _made()}


def task_identity(task: Any) -> str:
    """Of everything that determines a piece's numbers."""
    return identity(task.described())


@functools.cache
def _made() -> Provenance:
    return provenance(threads=1, command=command_line())


@dataclass(frozen=True)
class Regression(Described):
    """The published quadratic: mean absolute error, no biases, a sigmoid at the output, new ends for each level.

    As in the authors' code, but for the sample (a grid instead of random points), the points of a segment (51 instead
    of 100) and the learning rate: 0.003, falling to 0 over a limited number of steps, in place of a constant 0.001.
    """

    seed: int
    levels: tuple[float, ...] = (0.1, 0.01, 0.001)
    points: int = 200
    lowering: Lowering = OF_REGRESSION[0]
    settings: StringSettings = OF_REGRESSION[1]

    @property
    def kind(self) -> type[Strings]:
        """See ``Task``."""
        return Strings

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"regression-{self.seed}"

    def piece(self) -> Strings:
        """See ``Task``."""
        x = (torch.arange(self.points) + 0.5)[:, None] / self.points
        samples = SimpleNamespace(x=x, y=0.5 * x**2 + 0.25 * x + 0.1)
        sizes = (1, 4, 4, 1)
        model = nn.Sequential(
            *(layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m, bias=False), nn.Sigmoid()))
        )
        landscape = NetworkLandscape(
            model, fullprecision.FAMILY.recipe, samples, energy="absolute error", lowering=self.lowering
        )
        found = [
            sample_string(
                landscape,
                *(_uniform(model, derived(self.seed, "end", number, k)) for k in range(2)),
                level,
                settings=self.settings,
                seed=derived(self.seed, number),
            )
            for number, level in enumerate(self.levels)
        ]
        return Strings(
            **self.about(),
            task=QUADRATIC,
            networks=("a", "b"),
            energy="mean absolute error",
            samples=self.points,
            norm=NORM,
            seed=self.seed,
            levels=tuple(map(recorded, found)),
            settings=self.described(),
        )


def _uniform(model: nn.Module, seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {name: 2 * torch.rand(each.shape, generator=generator) - 1 for name, each in model.named_parameters()}


@dataclass(frozen=True)
class Control(Described):
    """A 2-3-2 network that permutes three points of the plane, against itself with two hidden units swapped.

    The seed turns the plane, scales the units against their outgoing weights and says which two are swapped.
    """

    seed: int
    level: float = 0.05
    lowering: Lowering = OF_CONTROL[0]
    settings: StringSettings = OF_CONTROL[1]

    @property
    def kind(self) -> type[Strings]:
        """See ``Task``."""
        return Strings

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"control-{self.seed}"

    def piece(self) -> Strings:
        """See ``Task``."""
        generator = torch.Generator().manual_seed(derived(self.seed, "control"))
        angles = (torch.rand(1, generator=generator) + torch.arange(3) / 3) * 2 * math.pi
        points = torch.stack([angles.cos(), angles.sin()], 1)
        scales = torch.exp(0.3 * torch.randn(3, generator=generator))[:, None]
        a = {"0.weight": scales * points, "2.weight": (points.roll(-1, 0) / scales).T.contiguous()}
        order = torch.tensor(((1, 0, 2), (2, 1, 0), (0, 2, 1))[self.seed % 3])
        b = {"0.weight": a["0.weight"][order], "2.weight": a["2.weight"][:, order]}
        model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
        samples = SimpleNamespace(x=points, y=points.roll(-1, 0))
        landscape = NetworkLandscape(
            model, fullprecision.FAMILY.recipe, samples, energy="squared error", lowering=self.lowering
        )
        found = sample_strings(landscape, a, b, (self.level,), settings=self.settings, seed=self.seed)
        return Strings(
            **self.about(),
            task=CONTROL,
            networks=("network", "two units swapped"),
            energy="mean squared error",
            samples=3,
            norm=NORM,
            seed=self.seed,
            levels=tuple(map(recorded, found)),
            settings=self.described(),
        )


@dataclass(frozen=True)
class LinearString(Described):
    """A string between two linear networks that fit a linear map."""

    seed: int
    levels: tuple[float, ...] = (0.3, 0.03, 0.003)
    sizes: tuple[int, ...] = (5, 6, 4)
    lowering: Lowering = OF_LINEAR[0]
    settings: StringSettings = OF_LINEAR[1]

    @property
    def kind(self) -> type[Strings]:
        """See ``Task``."""
        return Strings

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"linear-string-{self.seed}"

    def piece(self) -> Strings:
        """See ``Task``."""
        generator = torch.Generator().manual_seed(derived(self.seed, "linear"))
        x = torch.randn(50, self.sizes[0], generator=generator)
        y = x @ torch.randn(self.sizes[0], self.sizes[-1], generator=generator) / math.sqrt(self.sizes[0])
        model = nn.Sequential(*(nn.Linear(n, m, bias=False) for n, m in itertools.pairwise(self.sizes)))
        ends = [_uniform(model, derived(self.seed, "end", k)) for k in range(2)]
        landscape = NetworkLandscape(
            model,
            fullprecision.FAMILY.recipe,
            SimpleNamespace(x=x, y=y),
            energy="squared error",
            lowering=self.lowering,
        )
        found = sample_strings(landscape, ends[0], ends[1], self.levels, settings=self.settings, seed=self.seed)
        return Strings(
            **self.about(),
            task=LINEAR,
            networks=("a", "b"),
            energy="mean squared error",
            samples=50,
            norm=NORM,
            seed=self.seed,
            levels=tuple(map(recorded, found)),
            settings=self.described(),
        )


@dataclass(frozen=True)
class Linear(Described):
    """The constructed path between two linear networks that fit a linear map with noise, in float64.

    Weights are random but for the first layer, with which the product is the map, up to a twentieth of its size.
    """

    seed: int
    sizes: tuple[int, ...]
    ridge: float
    points: int = 1001

    @property
    def kind(self) -> type[LinearPath]:
        """See ``Task``."""
        return LinearPath

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"linear-{'-'.join(map(str, self.sizes))}-{self.ridge:g}-{self.seed}"

    def piece(self) -> LinearPath:
        """See ``Task``."""
        generator = torch.Generator().manual_seed(derived(self.seed, "linear path"))

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        layers = [f"{k}" for k in range(len(self.sizes) - 1)]
        x, sought = drawn(50, self.sizes[0]), drawn(self.sizes[-1], self.sizes[0])
        y = x @ sought.T + 0.1 * drawn(50, self.sizes[-1])

        def end() -> Params:
            found = {k: drawn(self.sizes[int(k) + 1], self.sizes[int(k)]) for k in layers}
            above = functools.reduce(lambda product, k: found[k] @ product, layers[2:], found[layers[1]])
            return {**found, layers[0]: torch.linalg.pinv(above) @ (sought + 0.05 * drawn(*sought.shape))}

        a, b = end(), end()

        def loss(params: Params) -> float:
            hidden = x
            for k in layers:
                hidden = hidden @ params[k].T
            return float((hidden - y).square().mean() + self.ridge * sum(w.square().sum() for w in params.values()))

        path = linear_network_path(a, b, layers, ridge=self.ridge > 0)
        ts = [i / (self.points - 1) for i in range(self.points)]
        return LinearPath(
            **self.about(),
            sizes=self.sizes,
            ridge=self.ridge,
            seed=self.seed,
            ends=(loss(a), loss(b)),
            straight=max(loss({k: torch.lerp(a[k], b[k], t) for k in layers}) for t in ts),
            highest=max(loss(path(t)) for t in ts),
            points=self.points,
        )


@dataclass(frozen=True)
class Width(Described):
    """The string through pruned networks of one hidden layer, the last layer of both ends fitted by least squares."""

    seed: int
    width: int
    samples: int = 100
    steps: int = 200

    @property
    def kind(self) -> type[Pruned]:
        """See ``Task``."""
        return Pruned

    @property
    def name(self) -> str:
        """See ``Task``."""
        return f"width-{self.width}-{self.seed}"

    def piece(self) -> Pruned:
        """See ``Task``."""
        x = torch.randn(self.samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = torch.hstack([torch.sin(2 * x[:, :1]) * x[:, 1:2], x[:, 2:].abs()])
        a, b = (self._trained(derived(self.seed, "end", k), x, y) for k in range(2))
        found = pruned_string(a, b, x, y)
        return Pruned(
            **self.about(),
            task=WIDTHS,
            width=self.width,
            seed=self.seed,
            ends=(found.losses[0], found.losses[-1]),
            highest=found.highest,
        )

    def _trained(self, seed: int, x: Tensor, y: Tensor) -> Params:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, self.width), nn.ReLU(), nn.Linear(self.width, 2)).double()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(self.steps):
            optimiser.zero_grad()
            (model(x) - y).square().mean().backward()
            optimiser.step()
        found = parameters(model)
        design = torch.hstack([torch.relu(x @ found["0.weight"].T + found["0.bias"]), torch.ones(len(x), 1)])
        fitted = torch.linalg.lstsq(design, y, driver="gelsd").solution.T
        return {**found, "2.weight": fitted[:, :-1].contiguous(), "2.bias": fitted[:, -1].contiguous()}


@dataclass(frozen=True)
class TwoUnits(Described):
    """The counterexample: two rectified units, both needed, against themselves swapped."""

    @property
    def kind(self) -> type[Pruned]:
        """See ``Task``."""
        return Pruned

    @property
    def name(self) -> str:
        """See ``Task``."""
        return "two-units"

    def piece(self) -> Pruned:
        """See ``Task``."""
        x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        a = {"0.weight": torch.eye(2), "2.weight": torch.eye(2)}
        found = pruned_string(a, {"0.weight": a["0.weight"].flip(0), "2.weight": a["2.weight"].flip(1)}, x, x)
        return Pruned(
            **self.about(),
            task=TWO_UNITS,
            width=2,
            seed=0,
            ends=(found.losses[0], found.losses[-1]),
            highest=found.highest,
            floor=rank_one_floor(x, x),
        )


def small_tasks(regressions: int, controls: int, linear: int) -> Iterator[Task]:
    """Everything that needs no images."""
    yield from (Regression(seed) for seed in range(regressions))
    yield from (Control(seed) for seed in range(controls))
    yield from (LinearString(seed) for seed in range(linear))
    for sizes, ridge in (((3, 4, 3), 0.0), ((5, 3, 2), 0.0), ((4, 5, 6, 3), 0.0), ((3, 4, 3), 0.01), ((5, 3, 2), 0.01)):
        yield from (Linear(seed, sizes, ridge) for seed in range(linear))
    yield from (Width(seed, width) for width in (8, 16, 32, 64) for seed in range(linear))
    yield TwoUnits()
