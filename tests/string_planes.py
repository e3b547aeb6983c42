"""Landscapes of two numbers whose energy is a formula, for strings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from compare.params import Params, lerp
from compare.strings import Lowered, String


def ring(x: float, y: float) -> float:
    """A valley along the unit circle."""
    return (math.hypot(x, y) - 1) ** 2


def bowl(x: float, y: float) -> float:
    return x * x + y * y


def two_wells(x: float, y: float) -> float:
    """A wall between x = -1 and x = 1, 1 high wherever it is crossed."""
    return (x * x - 1) ** 2


@dataclass(eq=False)
class Plane:
    """A landscape of two numbers; training follows numerical gradients, with a little noise drawn from the seed."""

    energy: Callable[[float, float], float] = ring
    steps: int = 400
    calls: list[str] = field(default_factory=list)
    stop_after: int | None = None
    names = ("p",)

    def energies(self, a: Params, b: Params, ts: Sequence[float]) -> tuple[float, ...]:
        self._count("energies")
        return tuple(self.energy(*lerp(a, b, t)["p"].tolist()) for t in ts)

    def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
        self._count("lower")
        x, y = start["p"].tolist()
        noise = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1e-3
        for step in range(self.steps + 1):
            found = self.energy(x, y)
            if found <= target or step == self.steps:
                break
            slope = [(self.energy(x + d, y + e) - self.energy(x - d, y - e)) / 2e-6 for d, e in ((1e-6, 0), (0, 1e-6))]
            x, y = x - 0.05 * slope[0] + float(noise[0]), y - 0.05 * slope[1] + float(noise[1])
        return Lowered({"p": torch.tensor([x, y], dtype=torch.float64)}, found, found <= target, step, 1)

    def described(self) -> dict[str, object]:
        return {"energy": self.energy.__name__, "steps": self.steps}

    def _count(self, name: str) -> None:
        self.calls.append(name)
        if self.stop_after is not None and len(self.calls) > self.stop_after:
            raise KeyboardInterrupt


def at(x: float, y: float) -> Params:
    return {"p": torch.tensor([x, y], dtype=torch.float64)}


LEFT, RIGHT = at(-1.0, 0.05), at(1.0, 0.05)


def points(string: String) -> list[list[float]]:
    return [bead.params["p"].tolist() for bead in string.beads]
