"""Records of orbits: networks moved by group elements, their votes, attacks through them, and binary counterparts."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compare.runs.part import Fraction, Part
from compare.runs.record import Data
from compare.runs.study import NotNegative, Piece, Positive

Method = Literal["least squares", "smallest change", "rotation"]
AttackName = Literal["fgsm", "pgd"]
Voters = Literal["orbit", "path", "independent"]


class Votes(Part):
    """What several networks decide, on ``samples`` test samples.

    ``errors`` are those of each alone, ``majority`` that of the vote of labels, ``mean_probability`` that of the mean
    probability (fractions); ``agreement`` is the mean over pairs of the fraction of samples with one label, ``changed``
    the fraction to which the vote gives another label than the network that they were made of.
    """

    samples: Annotated[int, Field(ge=1)]
    errors: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    majority: Fraction
    mean_probability: Fraction
    agreement: Fraction
    changed: Fraction

    @property
    def mean_error(self) -> float:
        """Mean error of the networks alone."""
        return sum(self.errors) / len(self.errors)


class OrbitVotes(Part):
    """The ensemble of one orbit.

    ``epsilon`` is the size of its elements, ``batch`` that of the batch on which they are exact. ``residual`` is the
    largest relative change of the block's output there over all elements; ``independent_residual`` that over those
    whose moved features are linearly independent (None without such), ``dependent`` the number of the others;
    ``condition`` is the largest condition number of moved features. ``output_change`` is, over all elements, the root
    mean square change of the network's outputs on other samples, over the root mean square of its outputs;
    ``labels_changed`` the fraction of labels changed.
    """

    method: Method
    batch: Annotated[int, Field(ge=1)]
    epsilon: NotNegative
    residual: NotNegative
    independent_residual: NotNegative | None
    dependent: Annotated[int, Field(ge=0)]
    condition: Positive
    output_change: NotNegative
    labels_changed: Fraction
    votes: Votes


class AttackVotes(Part):
    """Errors (fractions) on attacked test samples; ``radius`` is a fraction of the range of inputs.

    ``plain``: of the network, attacked itself; ``transferred_majority`` and ``transferred_mean_probability``: of the
    ensemble on those same inputs; ``majority`` and ``mean_probability``: of the ensemble, attacked in expectation over
    its elements; ``either_majority``: the fraction of samples that the ensemble's vote of labels gets wrong under at
    least one of both attacks.
    """

    attack: AttackName
    radius: Positive
    method: Method
    batch: Annotated[int, Field(ge=1)]
    epsilon: NotNegative
    samples: Annotated[int, Field(ge=1)]
    plain: Fraction
    transferred_majority: Fraction
    transferred_mean_probability: Fraction
    majority: Fraction
    mean_probability: Fraction
    either_majority: Fraction

    @model_validator(mode="after")
    def _consistent(self) -> "AttackVotes":
        if self.either_majority < max(self.transferred_majority, self.majority):
            raise ValueError("expected at least as many samples wrong under either attack as under each")
        return self


class OrbitNetwork(Piece):
    """One network with its orbits.

    ``error`` is on all test samples, ``measured_error`` on those on which orbits were measured, ``attacked_error`` on
    those that were attacked, before that; ``training_error`` the running mean over the last epoch (fractions).
    """

    schema_version: Literal[1] = 1
    kind: Literal["orbit-network"] = "orbit-network"
    activation: str
    seed: int
    error: Fraction
    measured_error: Fraction
    attacked_error: Fraction
    training_error: Fraction
    orbits: Annotated[tuple[OrbitVotes, ...], Field(min_length=1)]
    attacks: tuple[AttackVotes, ...]
    seconds: NotNegative

    @model_validator(mode="after")
    def _consistent(self) -> "OrbitNetwork":
        seen = [(each.method, each.batch, each.epsilon) for each in self.orbits]
        if len(set(seen)) < len(seen):
            raise ValueError("expected each method, batch and epsilon once")
        return self


class BinaryVotes(Part):
    """A vote of binary networks: copies of one by symmetries, networks on a path between two, or independent ones.

    ``networks`` are the seeds they were made of; ``identical``: all outputs are equal bit for bit.
    """

    voters: Voters
    networks: Annotated[tuple[int, ...], Field(min_length=1)]
    identical: bool
    votes: Votes


class BinaryPart(Piece):
    """The discrete analogue; ``errors`` are those of the networks on all test samples."""

    schema_version: Literal[1] = 1
    kind: Literal["orbit-binary"] = "orbit-binary"
    errors: Annotated[tuple[Fraction, ...], Field(min_length=2)]
    votes: Annotated[tuple[BinaryVotes, ...], Field(min_length=1)]
    seconds: NotNegative


class Orbits(Piece):
    """Everything measured.

    ``largest`` and ``smallest`` are the range that attacked inputs keep to, ``attack_steps`` the steps of PGD.
    """

    schema_version: Literal[1] = 1
    kind: Literal["orbits"] = "orbits"
    model: str
    data: Data
    smallest: tuple[float, ...]
    largest: tuple[float, ...]
    attack_steps: Annotated[int, Field(ge=1)]
    networks: Annotated[tuple[OrbitNetwork, ...], Field(min_length=1)]
    binary: BinaryPart
    configuration: dict[str, Any]
