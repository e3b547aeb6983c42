"""Records of conserved quantities: drift against step size, initial values, their course, and what they do to training.

Each piece is kept in a file of its own, so that an interrupted measurement goes on; ``Conserved`` holds them all.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from compare.runs.files import write_text
from compare.runs.part import Fraction, Part, read
from compare.runs.record import Provenance

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Arm = Literal["same function", "initial scale"]


class Law(Part):
    """Relative drift of one quantity after the same time of gradient descent, for several step sizes.

    ``case`` names the problem, ``quantity`` its kind; ``control`` marks one that is wrong by intention. ``slope``
    is that of log drift against log rate, None where some drift is 0. ``losses``: at the start, and at the end with the
    smallest rate.
    """

    case: str
    quantity: str
    formula: str
    seed: int
    control: bool
    rates: Annotated[tuple[Positive, ...], Field(min_length=2)]
    drifts: tuple[NotNegative, ...]
    slope: float | None
    losses: tuple[float, float]

    @model_validator(mode="after")
    def _consistent(self) -> "Law":
        if len(self.rates) != len(self.drifts):
            raise ValueError(f"{len(self.rates)} rates and {len(self.drifts)} drifts differ in number")
        return self


class Initial(Part):
    """Mean and variance of |u|^2 - |v|^2 of one hidden unit at initialisation, measured and in closed form.

    Standard errors are over ``networks`` networks, whose ``hidden`` units are averaged first.
    """

    scheme: str
    inputs: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    outputs: Annotated[int, Field(ge=1)]
    networks: Annotated[int, Field(ge=2)]
    mean: float
    mean_error: NotNegative
    variance: NotNegative
    variance_error: NotNegative
    expected_mean: float
    expected_variance: NotNegative


class Course(Part):
    """One quantity over a training of one network: relative drift by step, and its mean over the units.

    ``errors``: train and test error at the end, fractions.
    """

    precision: str
    seed: int
    quantity: str
    formula: str
    steps: Annotated[tuple[int, ...], Field(min_length=2)]
    means: tuple[float, ...]
    drifts: tuple[NotNegative, ...]
    errors: tuple[Fraction, Fraction]

    @model_validator(mode="after")
    def _consistent(self) -> "Course":
        if not len(self.steps) == len(self.means) == len(self.drifts):
            raise ValueError("steps, means and drifts differ in number")
        return self


class Start(Part):
    """One start of a network and what became of it.

    ``value``: mean of the quantity over units. ``rate``: fall of the log of the loss per unit of time. Eigenvalues: the
    largest of the Hessian, at the start and where the loss is first at the target, None where it was not reached.
    """

    exponent: float
    value: float
    loss: NotNegative
    rate: float
    first_eigenvalue: float
    last_eigenvalue: float | None
    steps: int | None


class Orbit(Part):
    """Starts of one network that differ in their quantity: with the same function, or not.

    ``balanced``: the exponent at which the loss of the same function begins to fall most slowly, and the quantity's
    mean there.
    """

    seed: int
    arm: Arm
    balanced: tuple[float, float]
    starts: Annotated[tuple[Start, ...], Field(min_length=3)]


class Piece(Part):
    """What one job made; ``identity`` is of everything that determines its numbers, ``seconds`` of processor time."""

    identity: str
    name: str
    seconds: NotNegative
    provenance: Provenance
    laws: tuple[Law, ...] = ()
    initials: tuple[Initial, ...] = ()
    courses: tuple[Course, ...] = ()
    orbits: tuple[Orbit, ...] = ()


class Conserved(Part):
    """All pieces of a measurement, and its configuration."""

    schema_version: Literal[2] = 2
    data: str
    fingerprint: str
    configuration: dict[str, Any]
    provenance: Provenance
    pieces: tuple[Piece, ...]

    @property
    def laws(self) -> tuple[Law, ...]:
        """Of all pieces."""
        return tuple(law for piece in self.pieces for law in piece.laws)

    @property
    def initials(self) -> tuple[Initial, ...]:
        """Of all pieces."""
        return tuple(initial for piece in self.pieces for initial in piece.initials)

    @property
    def courses(self) -> tuple[Course, ...]:
        """Of all pieces."""
        return tuple(course for piece in self.pieces for course in piece.courses)

    @property
    def orbits(self) -> tuple[Orbit, ...]:
        """Of all pieces."""
        return tuple(orbit for piece in self.pieces for orbit in piece.orbits)


Kept = TypeVar("Kept", Piece, Conserved)


def write_conserved(record: Piece | Conserved, path: Path) -> None:
    """Write a piece, or all of them, as indented JSON, whole or not at all.

    Raises:
        OutputError: If it cannot be written.
    """
    write_text(path, record.model_dump_json(indent=1) + "\n")


def read_conserved(kind: type[Kept], path: Path) -> Kept:
    """Read and validate a piece, or all of them.

    Args:
        kind: What is expected.
        path: A JSON file that ``write_conserved`` wrote.

    Returns:
        The record.

    Raises:
        RecordError: If the file is missing or is something else.
    """
    return read(kind, path, "record of conserved quantities that can be read", "remove it, it is made again")
