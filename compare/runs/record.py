"""Records: what was measured between two networks of one precision, as JSON with a schema version."""

import datetime
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from compare.runs.files import write_text
from compare.runs.landscape import Landscape
from compare.runs.part import ControlName as ControlName
from compare.runs.part import Fraction, Part, faults
from compare.runs.part import PathKind as PathKind
from compare.runs.part import RecordError as RecordError
from compare.runs.part import SplitName as SplitName
from compare.runs.part import Statistics as Statistics
from compare.runs.part import Treatment as Treatment

SCHEMA_VERSION = 3


class Epoch(Part):
    """One epoch of training.

    ``train_loss`` and ``train_error`` are running means over the epoch's own batches (nats; fraction misclassified);
    ``test_error`` is a fraction over the whole test split; ``flip_ratio`` is the mean over the epoch's steps of the
    fraction of binary weights whose sign changed in the step; ``seconds`` is wall time.
    """

    epoch: int
    train_loss: float
    train_error: Fraction
    test_error: Fraction
    learning_rate: float
    flip_ratio: Fraction | None = None
    seconds: float


class Network(Part):
    """One end of the path: errors (fractions) and losses (nats) on the evaluated samples, and how it was trained."""

    name: str
    seed: int | None = None
    errors: dict[SplitName, Fraction]
    losses: dict[SplitName, float]
    history: tuple[Epoch, ...] = ()


class Distance(Part):
    """How far apart the two networks are under one treatment.

    ``angle`` is sqrt(sum of squared angles over all spheres) in radians, ``rms_angle`` the root mean square angle in
    radians, ``spheres`` their number; ``hamming`` the fraction of binary weights that differ (binary networks only);
    ``euclidean`` the joint L2 norm of the difference of all spherical coordinates as they are.
    """

    treatment: Treatment
    angle: float
    rms_angle: float
    spheres: int
    hamming: Fraction | None = None
    euclidean: float


class Curve(Part):
    """Error and loss of the networks on one path, at ``ts``, on one split.

    ``barrier`` is max_t error(t) - max(error(0), error(1)); ``barrier_over_chord`` is
    max_t [error(t) - (1 - t) error(0) - t error(1)]; both are fractions, with the ends as this curve measured them,
    and must be those of ``errors``.
    """

    treatment: Treatment
    path: PathKind
    statistics: Statistics
    split: SplitName
    samples: int
    ts: tuple[Fraction, ...]
    errors: tuple[Fraction, ...]
    losses: tuple[float, ...]
    barrier: float
    barrier_over_chord: float

    @model_validator(mode="after")
    def _consistent(self) -> "Curve":
        if not len(self.ts) == len(self.errors) == len(self.losses):
            raise ValueError(
                f"{len(self.ts)} ts, {len(self.errors)} errors and {len(self.losses)} losses differ in number"
            )
        if not _from_end_to_end(self.ts):
            raise ValueError(f"expected at least 2 ts that increase from 0 to 1, got {_shown(self.ts)}")
        first, last = self.errors[0], self.errors[-1]
        over = (error - (1 - t) * first - t * last for t, error in zip(self.ts, self.errors, strict=True))
        _check_height("barrier", self.barrier, max(self.errors) - max(first, last))
        _check_height("barrier_over_chord", self.barrier_over_chord, max(over))
        return self

    @property
    def midpoint_error(self) -> float:
        """The error at the t nearest to 1/2."""
        return self.errors[min(range(len(self.ts)), key=lambda i: abs(self.ts[i] - 0.5))]


def _from_end_to_end(ts: tuple[float, ...]) -> bool:
    return bool(ts) and ts[0] == 0 and ts[-1] == 1 and all(t < after for t, after in itertools.pairwise(ts))


def _check_height(name: str, recorded: float, expected: float) -> None:
    # Rounding differs between ways of writing the same sum.
    if abs(recorded - expected) > 1e-9:
        raise ValueError(f"{name}: expected that of the errors, {expected:.9g}, got {recorded:.9g}")


def _shown(numbers: tuple[float, ...]) -> str:
    return f"[{', '.join(map(str, numbers[:6]))}{', ...' if len(numbers) > 6 else ''}]"


class Energy(Part):
    """Local energy of one end: how much noise that multiplies the weights raises its error, in standard form.

    ``network`` is the first ("a") or the second of the record's two; ``error`` its own error (a fraction) on
    ``samples`` samples of ``split``; ``rises`` are the means over ``draws`` draws of z of err(w + sigma z w) - err(w),
    one for each of ``sigmas``, and ``standard_errors`` those of these means.
    """

    network: Literal["a", "b"]
    split: SplitName
    samples: Annotated[int, Field(ge=1)]
    draws: Annotated[int, Field(ge=2)]
    error: Fraction
    sigmas: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    rises: tuple[float, ...]
    standard_errors: tuple[Annotated[float, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _consistent(self) -> "Energy":
        if not len(self.sigmas) == len(self.rises) == len(self.standard_errors):
            raise ValueError(
                f"{len(self.sigmas)} sigmas, {len(self.rises)} rises and {len(self.standard_errors)} standard errors "
                "differ in number"
            )
        if any(sigma >= after for sigma, after in itertools.pairwise(self.sigmas)):
            raise ValueError(f"expected sigmas that increase, got {_shown(self.sigmas)}")
        # An error and its rise give an error; they were rounded one by one.
        if not all(-1e-9 <= self.error + rise <= 1 + 1e-9 for rise in self.rises):
            raise ValueError(f"expected rises that lead to errors from 0 to 1, from {self.error}: {_shown(self.rises)}")
        return self


class Match(Part):
    """The matching used: its objective, an upper bound of it, and the objective reached from each start."""

    objective: float
    bound: float
    starts: dict[str, float]
    sweeps: int
    converged: bool
    seconds: float


class Control(Part):
    """A null control: what the same measurement gives where the answer is known.

    ``symmetric copy``: the first network against a random symmetric copy of itself; its barrier must vanish when
    matched. ``untrained``: the first network against one with fresh parameters; nothing should connect the two.
    """

    name: ControlName
    distances: tuple[Distance, ...]
    curves: tuple[Curve, ...]


class Data(Part):
    """The data that was measured on. ``train`` and ``test`` are sizes in samples, ``evaluated`` those measured.

    ``fingerprint`` is a hash of all inputs and labels: data of one name and size need not be the same.
    """

    name: str
    fingerprint: str
    classes: int
    train: int
    test: int
    evaluated: dict[SplitName, int]
    calibration: int

    @field_validator("evaluated")
    @classmethod
    def _both_splits(cls, evaluated: dict[SplitName, int]) -> dict[SplitName, int]:
        if len(evaluated) < len(get_args(SplitName)):
            raise ValueError(f"expected the numbers of train and test samples, got {', '.join(evaluated) or 'none'}")
        return evaluated


class Provenance(Part):
    """Where a record comes from: enough to make it again. ``created`` is an ISO 8601 time with its time zone."""

    created: str
    revision: str
    command: str | None = None
    python: str
    platform: str
    threads: int
    packages: dict[str, str]

    @field_validator("created")
    @classmethod
    def _iso_with_zone(cls, created: str) -> str:
        if datetime.datetime.fromisoformat(created).tzinfo is None:
            raise ValueError(f"expected a time with its zone, as 2000-01-01T00:00:00+00:00, got {created}")
        return created


class Record(Part):
    """Everything measured between two networks of one precision on one data set.

    ``bits`` are those of one weight, None where that is no one number; ``energies`` those of the two ends. Version 1
    has no ``landscape``, versions 1 and 2 neither ``bits`` nor ``energies``; all three are read.
    """

    schema_version: Literal[1, 2, 3] = 3
    kind: Literal["connectivity"] = "connectivity"
    precision: str
    title: str
    bits: Annotated[float, Field(gt=0)] | None = None
    model: str
    parameters: int
    data: Data
    seed: int
    networks: tuple[Network, Network]
    match: Match
    distances: tuple[Distance, ...]
    curves: Annotated[tuple[Curve, ...], Field(min_length=1)]
    controls: tuple[Control, ...]
    landscape: Landscape | None = None
    energies: tuple[Energy, ...] = ()
    notes: tuple[str, ...] = ()
    configuration: dict[str, Any] | None = None
    provenance: Provenance

    @field_validator("controls")
    @classmethod
    def _each_control_once(cls, controls: tuple[Control, ...]) -> tuple[Control, ...]:
        names, expected = [control.name for control in controls], get_args(ControlName)
        if sorted(names) != sorted(expected):
            raise ValueError(f"expected each of {', '.join(expected)} once, got {', '.join(names) or 'none'}")
        return controls

    @field_validator("energies")
    @classmethod
    def _each_end_once(cls, energies: tuple[Energy, ...]) -> tuple[Energy, ...]:
        ends = [(energy.network, energy.split) for energy in energies]
        if len(set(ends)) < len(ends):
            shown = ", ".join(f"{network} ({split})" for network, split in ends)
            raise ValueError(f"expected each network and split at most once, got {shown}")
        return energies


def write_record(record: Record, path: Path) -> None:
    """Write ``record`` as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Read and validate one record.

    Args:
        path: A JSON file written by ``write_record``.

    Returns:
        The record.

    Raises:
        RecordError: If the file is missing, is not JSON, is not a record, or has a newer schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"could not read the record {path}: {error.strerror}") from error
    except RecursionError as error:
        raise RecordError(f"{path} is not a record: it is nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a record: it is not JSON ({error})") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordError(
            f"{path} is not a record: expected a JSON object with 'schema_version', as `compare-nets run` writes"
        )
    version = content["schema_version"]
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RecordError(
            f"{path} has schema version {version}, and this version of binarynets reads up to {SCHEMA_VERSION}: "
            "install a newer binarynets to read it"
        )
    try:
        # JSON has no tuples: the JSON mode takes lists for them.
        return Record.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise RecordError(f"{path} is not a record that can be read: {faults(error, whole='record')}") from error


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Read every record named: files as they are, folders by all ``*.json`` files under ``records/`` in them.

    Raises:
        RecordError: As ``read_record``, or if a folder holds no record or may not be looked into.
    """
    return [read_record(file) for path in paths for file in _record_files(Path(path))]


def _record_files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        found = sorted((path / "records").glob("*.json")) or sorted(path.glob("*.json"))
    except OSError as error:
        raise RecordError(f"could not look for records at {path}: {error.strerror}") from error
    if not found:
        raise RecordError(
            f"the folder {path} holds no records (*.json): expected the output folder of `compare-nets run`"
        )
    return found
