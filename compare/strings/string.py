"""A string: networks one after another, with straight segments between them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from compare.params import ParameterError, Params, lerp
from compare.runs.strings import StringLevel
from compare.strings.settings import StringSettings

Verdict: TypeAlias = Literal["connected at this level within tolerance", "not shown connected"]

NORM = "joint Euclidean norm over all parameters that are trained"
"""The norm of all lengths; parameters of binary layers are latent weights, whose size does not change the network."""


@dataclass(frozen=True, eq=False)
class Bead:
    """A network on a string.

    Attributes:
        params: Parameters and buffers by name.
        energy: Its energy as the landscape measures it; where statistics are re-estimated, that of
            ``NetworkLandscape.settled(params)``.
        inserted: False for the two ends.
    """

    params: Params
    energy: float
    inserted: bool = True


@dataclass(frozen=True)
class Cost:
    """What a search took.

    Attributes:
        steps: Training steps.
        evaluations: Networks whose energy was measured.
        seconds: Time, what was done again after an interruption not counted; the only number that is not determined.
    """

    steps: int = 0
    evaluations: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.steps + other.steps, self.evaluations + other.evaluations, self.seconds + other.seconds)


@dataclass(frozen=True, eq=False)
class String:
    """What a search found at one level.

    Attributes:
        level: The level of energy.
        beads: Networks in order, both ends included.
        faults: Why the string is not shown connected; empty where it is connected.
        maxima: Highest energy on the grid of each segment, ends included.
        finer_maxima: The same on the finer grid.
        generations: How often open segments were measured and cut.
        cost: Of this level alone.
        length: Sum of the segments' lengths, in ``NORM``.
        distance: From end to end, in ``NORM``.
        settings: What it was searched with.
        seed: Seed of the search.
    """

    level: float
    beads: tuple[Bead, ...]
    faults: tuple[str, ...]
    maxima: tuple[float, ...]
    finer_maxima: tuple[float, ...]
    generations: int
    cost: Cost
    length: float
    distance: float
    settings: StringSettings
    seed: int

    @property
    def connected(self) -> bool:
        """Whether every segment passed."""
        return not self.faults

    @property
    def verdict(self) -> Verdict:
        """In words. A string that is not shown connected may exist all the same."""
        return "connected at this level within tolerance" if self.connected else "not shown connected"

    @property
    def inserted(self) -> int:
        """Number of beads between the ends."""
        return len(self.beads) - 2

    @property
    def normalised_length(self) -> float:
        """Length over distance of the ends; 1 where both ends are one network and nothing is between them."""
        if self.distance > 0:
            return self.length / self.distance
        return 1.0 if self.length == 0 else math.inf

    @property
    def maximum(self) -> float:
        """Highest energy on the grids that the decision is based on."""
        return max(self.maxima)

    @property
    def finer_maximum(self) -> float:
        """Highest energy on the finer grids."""
        return max(self.finer_maxima)

    @property
    def exceeds(self) -> bool:
        """Whether the finer grid finds more energy than the tolerance admits."""
        return self.finer_maximum > self.settings.bound(self.level)

    def __call__(self, t: float) -> Params:
        """The network at ``t`` from 0 to 1, segments taking equal shares of t.

        Statistics between two beads are mixed ones: pass it to ``NetworkLandscape.settled`` if the landscape
        re-estimates them.

        Raises:
            ValueError: For t outside [0, 1].
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t: expected a number between 0 and 1, got {t!r}")
        segments = len(self.beads) - 1
        number = min(int(t * segments), segments - 1)
        return lerp(self.beads[number].params, self.beads[number + 1].params, t * segments - number)


def joint_length(networks: Sequence[Params], names: Sequence[str]) -> float:
    """Sum of the distances from each network to the next, in ``NORM``.

    Args:
        networks: Parameters by name, in order.
        names: Which of them count.

    Returns:
        The length.

    Raises:
        ParameterError: If a network has no parameter of a name.

    Example:
        >>> joint_length([{"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}], ["w"])
        10.0
    """
    missing = [name for name in names if not all(name in network for network in networks)]
    if missing:
        raise ParameterError(f"expected networks with parameters {', '.join(names)}, got none for {', '.join(missing)}")
    return math.fsum(_distance(a, b, names) for a, b in itertools.pairwise(networks))


def _distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], names: Sequence[str]) -> float:
    # Float64: small segments of large networks lose digits otherwise.
    return math.sqrt(math.fsum(float((a[n].double() - b[n].double()).square().sum()) for n in names))


def recorded(string: String) -> StringLevel:
    """A string's numbers for a record, without its networks; an energy that is no finite number is None."""
    return StringLevel(
        level=string.level,
        verdict=string.verdict,
        faults=string.faults,
        tolerance=string.settings.tolerance,
        beads=len(string.beads),
        length=string.length,
        distance=string.distance,
        maximum=_finite(string.maximum),
        finer_maximum=_finite(string.finer_maximum),
        generations=string.generations,
        steps=string.cost.steps,
        evaluations=string.cost.evaluations,
        seconds=string.cost.seconds,
    )


def _finite(energy: float) -> float | None:
    return energy if math.isfinite(energy) else None
