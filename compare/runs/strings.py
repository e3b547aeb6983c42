"""Strings of networks between two ends, level by level, as records."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compare.runs.part import Part, SplitName, Statistics, Treatment
from compare.runs.study import NotNegative, Piece, Positive

EnergyName = Literal[
    "mean cross-entropy", "fraction of misclassified samples", "mean squared error", "mean absolute error"
]


class StringLevel(Part):
    """The string at one level of energy.

    ``verdict`` follows from a grid of ``points`` on each segment: nothing above (1 + ``tolerance``) times the level.
    ``maximum`` is the highest energy there, ``finer_maximum`` that on a finer grid, None where an energy is no finite
    number. ``beads`` counts both ends, as [Topology] does. ``length`` is that of the string, ``distance`` that of its
    ends, both in the record's ``norm``. ``steps``, ``evaluations`` and ``seconds`` are the cost of this level alone.
    """

    level: Positive
    verdict: Literal["connected at this level within tolerance", "not shown connected"]
    faults: tuple[str, ...] = ()
    tolerance: NotNegative
    beads: Annotated[int, Field(ge=2)]
    length: NotNegative
    distance: NotNegative
    maximum: float | None
    finer_maximum: float | None
    generations: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    evaluations: Annotated[int, Field(ge=0)]
    seconds: NotNegative

    @property
    def connected(self) -> bool:
        """Whether the verdict says so."""
        return self.verdict == "connected at this level within tolerance"

    @property
    def normalised_length(self) -> float:
        """Length over distance; 1 where both are 0, as of a network and itself."""
        return self.length / self.distance if self.distance > 0 else 1.0

    @property
    def exceeds(self) -> bool:
        """Whether the finer grid finds more energy than the tolerance admits."""
        return self.finer_maximum is None or self.finer_maximum > (1 + self.tolerance) * self.level

    @model_validator(mode="after")
    def _consistent(self) -> "StringLevel":
        if self.connected == bool(self.faults):
            raise ValueError("expected faults exactly where the string is not shown connected")
        if self.distance == 0 and self.length > 0:
            raise ValueError("expected no length between ends that are one network, which has no normalised length")
        return self


class Strings(Piece):
    """Strings between two networks, or two for each level, from the highest level downwards.

    A search that goes down with the same networks ends with the first level that is not shown connected; where each
    level has networks of its own, others may follow.

    ``energy`` names what is measured, on ``samples`` samples of ``split``. ``settings`` are those of search and
    training.
    """

    schema_version: Literal[1] = 1
    kind: Literal["strings"] = "strings"
    task: str
    networks: tuple[str, str]
    treatment: Treatment | None = None
    energy: EnergyName
    split: SplitName | None = None
    samples: Annotated[int, Field(ge=1)]
    statistics: Statistics | None = None
    norm: str
    seed: int
    levels: Annotated[tuple[StringLevel, ...], Field(min_length=1)]
    settings: dict[str, Any]

    @model_validator(mode="after")
    def _falling(self) -> "Strings":
        numbers = [level.level for level in self.levels]
        if numbers != sorted(set(numbers), reverse=True):
            raise ValueError(f"expected levels that fall, got {numbers}")
        return self
