"""What all parts of a record share, and the closed choices that stand in several of them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Treatment = Literal["as trained", "standard form", "matched"]
PathKind = Literal["linear", "geodesic"]
Statistics = Literal["interpolated", "re-estimated"]
SplitName = Literal["train", "test"]
ControlName = Literal["symmetric copy", "untrained"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A frozen part of a record: unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
