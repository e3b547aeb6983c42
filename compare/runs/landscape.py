"""The part of a record that only some precisions have: the landscape of discrete networks, counted exactly."""

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from compare.runs.part import Fraction, Part, SplitName, Statistics, Treatment

Order = Literal["latent-line", "latent-geodesic", "random", "greedy"]


class ExactCurve(Part):
    """The error of every network on a path, one after each flip of a bit.

    ``order`` is the order in which bits flip; all orders flip the same bits at the same times. ``flips`` is their
    number, ``networks`` that of all networks counted, those of moved thresholds included. ``complete`` says that these
    are all of the path; where not, they are a grid. ``supremum`` is the largest error (a fraction) of any of them,
    ``supremum_at`` the t where it is reached first, ``grid_supremum`` the largest at the 25 points of the usual curve,
    and ``missed`` the difference. ``integral`` is that of the error over t. ``threshold_steps`` is the number of
    intervals of the grid on which thresholds stand still.

    ``ts``, ``lowest`` and ``highest`` are the curve for drawing: the least and the largest error of all networks
    between one t and the next (so one number fewer than ``ts``).
    """

    treatment: Treatment
    order: Order
    statistics: Statistics
    split: SplitName
    samples: int
    flips: int
    networks: int
    complete: bool
    threshold_steps: int
    ends: tuple[Fraction, Fraction]
    supremum: Fraction
    supremum_at: Fraction
    grid_supremum: Fraction
    missed: Annotated[float, Field(ge=0)]
    integral: Fraction
    ts: tuple[Fraction, ...]
    lowest: tuple[Fraction, ...]
    highest: tuple[Fraction, ...]

    @model_validator(mode="after")
    def _consistent(self) -> "ExactCurve":
        if not len(self.ts) - 1 == len(self.lowest) == len(self.highest) > 0:
            raise ValueError(
                f"expected one number fewer than ts, got {len(self.ts)} ts, {len(self.lowest)} lowest "
                f"and {len(self.highest)} highest"
            )
        if self.ts[0] != 0 or self.ts[-1] != 1 or any(t >= after for t, after in itertools.pairwise(self.ts)):
            raise ValueError("expected ts that increase from 0 to 1")
        if any(low > high for low, high in zip(self.lowest, self.highest, strict=True)):
            raise ValueError("expected lowest errors not above highest ones")
        # Rounding differs between ways of writing the same numbers.
        if (
            abs(self.supremum - max(self.highest)) > 1e-9
            or abs(self.supremum - self.grid_supremum - self.missed) > 1e-9
        ):
            raise ValueError(
                "supremum: expected the largest of the highest errors, and what the grid missed above its own"
            )
        return self


class LayerFlips(Part):
    """What flipping each single bit of one weight does to the error of one network.

    ``raising``, ``lowering`` and ``unchanging`` are fractions of the bits that make more, fewer and as many errors;
    ``mean`` is the mean change of the error (a fraction of the samples), ``worst`` the largest. ``unit_means`` are mean
    changes of each unit's bits, sorted from the largest.
    """

    weight: str
    bits: int
    raising: Fraction
    lowering: Fraction
    unchanging: Fraction
    mean: float
    worst: float
    unit_means: tuple[float, ...]


class Neighbourhood(Part):
    """All networks that differ from one in a single bit, counted on ``samples`` samples of ``split``.

    ``network`` is the first ("a") or the second of the record's two; ``error`` its own error there.
    """

    network: Literal["a", "b"]
    split: SplitName
    samples: int
    error: Fraction
    layers: tuple[LayerFlips, ...]


class Robustness(Part):
    """Error against the fraction of flipped bits, drawn at random from one weight, or from all (``weight`` None).

    ``errors`` are means over ``draws`` networks, ``standard_errors`` theirs; one for each of ``fractions``, of which
    the first is 0, the network itself.
    """

    network: Literal["a", "b"]
    split: SplitName
    samples: int
    draws: int
    weight: str | None
    bits: int
    fractions: tuple[Fraction, ...]
    errors: tuple[Fraction, ...]
    standard_errors: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> "Robustness":
        if not len(self.fractions) == len(self.errors) == len(self.standard_errors) > 0:
            raise ValueError("expected an error and a standard error for each fraction")
        return self


class Landscape(Part):
    """Everything counted exactly between, and around, two discrete networks; ``seconds`` is what it took, wall time."""

    curves: tuple[ExactCurve, ...]
    neighbourhoods: tuple[Neighbourhood, ...]
    robustness: tuple[Robustness, ...]
    seconds: float
