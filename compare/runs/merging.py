"""Records of merging: several binary networks made one, beside what their parts and the vote of these do."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compare.runs.part import Fraction, Part, Treatment
from compare.runs.record import Data
from compare.runs.study import Piece

Seeds = Annotated[tuple[int, ...], Field(min_length=2)]
How = Literal["majority", "latents"]
MergedStatistics = Literal["averaged", "re-estimated"]


class MergedNetwork(Part):
    """One network made of several.

    ``how``: bits by majority vote, or those of the mean latent weights. ``statistics`` of normalisation are means over
    the parts, or measured anew. ``error`` is a fraction of all test samples; ``agreement`` the mean over bits and parts
    of how often a part has the merged bit; ``tied`` the fraction of bits with as many votes for either side.
    """

    treatment: Treatment
    how: How
    statistics: MergedStatistics
    error: Fraction
    agreement: Fraction
    tied: Fraction


class Draw(Part):
    """Networks drawn without replacement, what they do alone, and what is made of them.

    ``errors`` are those of the parts (fractions of all test samples); ``majority`` and ``mean_probability`` those of
    their votes, which are the same for all symmetric copies.
    """

    parts: Seeds
    errors: tuple[Fraction, ...]
    majority: Fraction
    mean_probability: Fraction
    merged: Annotated[tuple[MergedNetwork, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "Draw":
        if len(set(self.parts)) < len(self.parts) or len(self.parts) != len(self.errors):
            raise ValueError("expected each part once, and one error for each")
        return self

    @property
    def mean_error(self) -> float:
        """Mean error of the parts."""
        return sum(self.errors) / len(self.errors)


class Draws(Piece):
    """All draws of one number of networks; ``seconds`` of merging and measuring."""

    schema_version: Literal[1] = 1
    kind: Literal["merging-draws"] = "merging-draws"
    draws: Annotated[tuple[Draw, ...], Field(min_length=1)]
    seconds: float


class Copies(Part):
    """The null control: symmetric copies of one network, in standard form and matched, then merged.

    ``changed`` is the fraction of test samples to which the merged network gives another label than the network does.
    """

    copies: Annotated[int, Field(ge=2)]
    before_matching: Fraction
    matched: Fraction
    agreement: Fraction


class Matching(Piece):
    """How the networks were brought into one frame; ``objectives`` is the sum over pairs after each round."""

    schema_version: Literal[1] = 1
    kind: Literal["merging-matching"] = "merging-matching"
    objectives: tuple[float, ...]
    rounds: int
    converged: bool
    control: Copies
    seconds: float


class Merging(Piece):
    """Everything measured.

    ``errors`` are those of all networks (fractions of all test samples), ``training_errors`` the running means over
    their last epochs, ``training_seconds`` the time of all epochs.
    """

    schema_version: Literal[1] = 1
    kind: Literal["merging"] = "merging"
    title: str
    model: str
    data: Data
    errors: tuple[Fraction, ...]
    training_errors: tuple[Fraction, ...]
    training_seconds: float
    matching: Matching
    sizes: Annotated[tuple[Draws, ...], Field(min_length=1)]
    configuration: dict[str, Any]
