"""What all parts of a record share, how files with them are read, and the closed choices that stand in several."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compare.errors import CompareError

Treatment = Literal["as trained", "standard form", "matched"]
PathKind = Literal["linear", "geodesic"]
Statistics = Literal["interpolated", "re-estimated"]
SplitName = Literal["train", "test"]
ControlName = Literal["symmetric copy", "untrained"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RecordError(CompareError, ValueError):
    """A file that is not a record this version can read."""


class Part(BaseModel):
    """A frozen part of a record: unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyPart = TypeVar("AnyPart", bound=Part)


def read(kind: type[AnyPart], path: Path, what: str, remedy: str) -> AnyPart:
    """Read and validate a part.

    Args:
        kind: What is expected.
        path: A JSON file.
        what: The same in words, for messages.
        remedy: What to do where the file holds something else.

    Returns:
        The part.

    Raises:
        RecordError: If the file is missing or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"could not read {path}: {error}") from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"{path} is no {what} ({faults(error, whole='file')}): {remedy}") from error


def faults(error: ValidationError, *, whole: str) -> str:
    """The first five faults, each with its place; ``whole`` is the place of those that have none."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg']}" for e in error.errors()[:5])
