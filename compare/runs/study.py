"""Studies: many networks of one precision and data set, from several algorithms, and what lies between them.

A study is kept in parts, one file for each network, pair and bend, so that an interrupted one goes on; ``read_study``
puts them together.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from compare.runs.files import write_text
from compare.runs.part import Fraction, Part, PathKind, SplitName, Statistics, Treatment, read
from compare.runs.record import Data, Distance, Epoch, Provenance

SCHEMA_VERSION = 1
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Rises(Part):
    """How much a change of random direction raises the error of a network, for several sizes of the change.

    ``error`` is the network's own (a fraction) on ``samples`` samples of ``split``; ``rises`` are means over ``draws``
    draws of error(changed) - error, one for each of ``sizes``, ``standard_errors`` those of these means.
    """

    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    draws: Annotated[int, Field(ge=2)]
    error: Fraction
    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    rises: tuple[float, ...]
    standard_errors: tuple[NotNegative, ...]

    @model_validator(mode="after")
    def _consistent(self) -> "Rises":
        if not len(self.sizes) == len(self.rises) == len(self.standard_errors):
            raise ValueError(
                f"{len(self.sizes)} sizes, {len(self.rises)} rises and {len(self.standard_errors)} standard errors "
                "differ in number"
            )
        if any(size >= after for size, after in itertools.pairwise(self.sizes)):
            raise ValueError(f"expected sizes that increase, got {self.sizes}")
        return self


class Worst(Part):
    """The worst network found in a ball around one: loss (nats) and error (fraction) of both, on ``samples``.

    A ball of weights: w (1 + z) with root mean square of z at most ``radius``; one of bits: at most that fraction of
    them flipped. ``surrogate`` says that the search followed straight-through gradients.
    """

    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    ball: Literal["weights", "bits"]
    radius: Positive
    loss: float
    error: Fraction
    worst_loss: float
    worst_error: Fraction
    surrogate: bool


class Curvature(Part):
    """Largest eigenvalues and trace of the loss's Hessian, in nats, in fractions z of each effective weight: w (1 + z).

    ``samples`` of ``split`` were used; ``trace_standard_error`` is over random probes.
    ``surrogate``: of the straight-through gradient, which is no second derivative of the error measured.
    """

    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    eigenvalues: Annotated[tuple[float, ...], Field(min_length=1)]
    trace: float
    trace_standard_error: NotNegative
    surrogate: bool


class Piece(Part):
    """What each part of a study says of itself."""

    identity: str
    precision: str
    provenance: Provenance


class Member(Piece):
    """One network of a study.

    ``errors`` are fractions, ``losses`` nats, on all samples that it was trained on and on the whole test split.
    ``energy`` has sizes sigma (noise multiplying weights), ``flips`` fractions of binary weights that
    are negated. ``settings`` are those of its training, ``seconds`` the wall time of training and of measuring.
    """

    schema_version: Literal[1] = 1
    kind: Literal["study-network"] = "study-network"
    algorithm: str
    seed: int
    errors: dict[SplitName, Fraction]
    losses: dict[SplitName, float]
    parameters: int
    energy: Rises
    flips: Rises | None = None
    worst: Worst | None = None
    curvature: Curvature | None = None
    history: tuple[Epoch, ...] = ()
    settings: dict[str, Any]
    seconds: dict[Literal["training", "measuring"], float]

    @property
    def name(self) -> str:
        """Algorithm and seed, as ``rsgd-3``; no two networks of a study share it."""
        return f"{self.algorithm}-{self.seed}"

    @property
    def random_error(self) -> float | None:
        """Training error over the last epoch on random labels, where a first phase fitted these; else None."""
        first = len(self.history) - int(self.settings["epochs"])
        fitted = self.settings.get("algorithm", {}).get("name") == "adv" and first > 0
        return self.history[first - 1].train_error if fitted else None


class Height(Part):
    """The highest error on one path: ``barrier`` over the worse end, ``over_chord``, and the error at t = 1/2."""

    treatment: Treatment
    path: PathKind
    statistics: Statistics
    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    points: Annotated[int, Field(ge=2)]
    barrier: float
    over_chord: float
    midpoint: Fraction


class Pair(Piece):
    """What lies between two networks of a study, named as ``Member.name``; the second is moved onto the first.

    ``objective`` over ``bound`` says how good the matching is. ``notes`` say what could not be measured.
    """

    schema_version: Literal[1] = 1
    kind: Literal["study-pair"] = "study-pair"
    networks: tuple[str, str]
    distances: tuple[Distance, ...]
    heights: Annotated[tuple[Height, ...], Field(min_length=1)]
    objective: float
    bound: float
    notes: tuple[str, ...] = ()
    seconds: float


class Bent(Part):
    """A trained path of two pieces between two networks.

    ``errors`` are fractions at ``ts`` on ``samples`` samples of ``split``, with ``statistics``; ``straight_errors``
    those of the straight path between the same ends. ``length`` and ``straight_length`` are in the norm that ``norm``
    names.
    """

    treatment: Treatment
    path: PathKind
    statistics: Statistics
    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    ts: tuple[Fraction, ...]
    errors: tuple[Fraction, ...]
    straight_errors: tuple[Fraction, ...]
    target: Fraction
    reached: bool
    length: float
    straight_length: float
    norm: str
    epochs: int
    seconds: float

    @model_validator(mode="after")
    def _consistent(self) -> "Bent":
        if not len(self.ts) == len(self.errors) == len(self.straight_errors):
            raise ValueError("ts, errors and straight_errors differ in number")
        return self


class Plane(Part):
    """Errors on a grid of the plane through two ends and a bend; coordinates in the Euclidean norm of parameters.

    ``errors[i][j]`` is at ``us[j]``, ``vs[i]``; ``points`` are the coordinates of the ends and the bend.
    """

    statistics: Statistics
    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    us: tuple[float, ...]
    vs: tuple[float, ...]
    errors: tuple[tuple[Fraction, ...], ...]
    points: dict[Literal["a", "b", "bend"], tuple[float, float]]

    @model_validator(mode="after")
    def _rectangular(self) -> "Plane":
        if len(self.errors) != len(self.vs) or any(len(row) != len(self.us) for row in self.errors):
            raise ValueError(f"expected {len(self.vs)} rows of {len(self.us)} errors")
        return self


class Bend(Piece):
    """Trained bends between two networks of a study, and perhaps the plane through ends and bend."""

    schema_version: Literal[1] = 1
    kind: Literal["study-bend"] = "study-bend"
    networks: tuple[str, str]
    bends: Annotated[tuple[Bent, ...], Field(min_length=1)]
    plane: Plane | None = None


class Study(Piece):
    """Everything measured of one precision.

    ``identity`` is that of the whole configuration; a part has that of what determines it.
    """

    schema_version: Literal[1] = 1
    kind: Literal["study"] = "study"
    title: str
    bits: Positive | None = None
    model: str
    data: Data
    networks: Annotated[tuple[Member, ...], Field(min_length=1)]
    pairs: tuple[Pair, ...] = ()
    bends: tuple[Bend, ...] = ()
    configuration: dict[str, Any]

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        names = [network.name for network in self.networks]
        if len(set(names)) < len(names):
            raise ValueError(f"expected each network once, got {', '.join(names)}")
        ends = [frozenset(pair.networks) for pair in self.pairs]
        if len(set(ends)) < len(ends) or not all(end <= set(names) and len(end) == 2 for end in ends):
            raise ValueError("expected each pair of two of the study's networks at most once")
        if not all(set(bend.networks) <= set(names) for bend in self.bends):
            raise ValueError("expected bends between the study's networks")
        parts: tuple[Piece, ...] = (*self.networks, *self.pairs, *self.bends)
        for part in parts:
            if part.precision != self.precision:
                raise ValueError(f"expected parts of {self.precision}, got one of {part.precision}")
        return self


AnyPiece = TypeVar("AnyPiece", bound=Piece)


_WORDS: Mapping[type[Piece], str] = {
    Member: "record of a network",
    Pair: "record of a pair",
    Bend: "record of a bend",
    Study: "record of a study",
}


def write_part(part: Piece, path: Path) -> None:
    """Write a part of a study, or one, as indented JSON, whole or not at all.

    Raises:
        OutputError: If it cannot be written.
    """
    write_text(path, part.model_dump_json(indent=1) + "\n")


def read_part(kind: type[AnyPiece], path: Path) -> AnyPiece:
    """Read and validate a part of a study, or one.

    Args:
        kind: What is expected.
        path: A JSON file that ``write_part`` wrote.

    Returns:
        The part.

    Raises:
        RecordError: If the file is missing or is something else.
    """
    what = _WORDS.get(kind, "part of a study")
    return read(kind, path, f"{what} that can be read", "remove it, it is made again")
