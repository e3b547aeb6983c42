"""Settings of the search for a string, and of the training of its beads."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from compare.strings.landscape import StringError
from compare.training.settings import OptimiserName

Place: TypeAlias = Literal["maximum", "middle"]
Start: TypeAlias = Literal["string before", "ends"]


@dataclass(frozen=True)
class StringSettings:
    """How a string is searched for.

    Attributes:
        tolerance: A segment passes if no point of its grid has more energy than (1 + tolerance) times the level.
        alpha: Beads are trained down to alpha times the level.
        points: Size of the grid on a segment, ends included, equally spaced.
        finer: The finished string is measured again with each step of the grid cut into so many.
        place: Where a bead is put into a segment: at the ``"maximum"`` on the grid, or in the ``"middle"``.
        initial: Beads put at equal distances between the ends before the first segment is measured.
        depth: A segment is cut at most so many times, one in the other.
        beads: At most so many beads between the ends.
        start: Where the string at a level begins: the ``"string before"``, its beads lowered, or its ``"ends"`` alone.
    """

    tolerance: float = 0.1
    alpha: float = 0.95
    points: int = 11
    finer: int = 4
    place: Place = "maximum"
    initial: int = 0
    depth: int = 8
    beads: int = 200
    start: Start = "string before"

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            StringError: Naming the setting, what came and what is expected.
        """
        if not 0 <= self.tolerance < math.inf:
            raise StringError(f"tolerance: expected a finite number of at least 0, got {self.tolerance}")
        if not 0 < self.alpha <= 1:
            raise StringError(f"alpha: expected a number above 0 and at most 1, got {self.alpha}")
        for name, smallest in {"points": 3, "finer": 1, "initial": 0, "depth": 0, "beads": 0}.items():
            _check_whole(name, getattr(self, name), smallest)
        if self.initial > self.beads:
            raise StringError(f"initial: expected at most the limit of beads, {self.beads}, got {self.initial}")
        _check_choice("place", self.place, get_args(Place))
        _check_choice("start", self.start, get_args(Start))

    @property
    def ts(self) -> tuple[float, ...]:
        """Inner points of the grid on which segments are decided."""
        return tuple(i / (self.points - 1) for i in range(1, self.points - 1))

    @property
    def finer_ts(self) -> tuple[float, ...]:
        """Inner points of the finer grid; those of ``ts`` are among them."""
        steps = (self.points - 1) * self.finer
        return tuple(i / steps for i in range(1, steps))

    def bound(self, level: float) -> float:
        """What no point of a segment may exceed."""
        return (1 + self.tolerance) * level


@dataclass(frozen=True)
class Lowering:
    """How a bead is trained down.

    Attributes:
        steps: At most so many.
        batch: Samples a step, drawn anew in each pass; None for all of them in every step.
        optimiser: Which; a precision may not offer all.
        learning_rate: At the start, falling to 0 on half a cosine over ``steps``; None for the recipe's own.
        weight_decay: As the optimiser defines it.
        check: The energy is measured after so many steps; None for once in each pass over the samples. Where the
            loss of a step is the energy (all samples in every step, no statistics, no dropout), every step looks at it.
    """

    steps: int = 2000
    batch: int | None = 100
    optimiser: OptimiserName = "adam"
    learning_rate: float | None = None
    weight_decay: float = 0.0
    check: int | None = None

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            StringError: Naming the setting, what came and what is expected.
        """
        _check_whole("steps", self.steps, 1)
        if self.batch is not None:
            _check_whole("batch", self.batch, 2)
        if self.check is not None:
            _check_whole("check", self.check, 1)
        _check_choice("optimiser", self.optimiser, get_args(OptimiserName))
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise StringError(f"learning_rate: expected a positive finite number or None, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise StringError(f"weight_decay: expected a finite number of at least 0, got {self.weight_decay}")


def _check_whole(name: str, value: object, smallest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        raise StringError(f"{name}: expected a whole number of at least {smallest}, got {value!r}")


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise StringError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
