"""A precision, its data and what is measured: prepared once for all parts of a study."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from compare.data import Data, Split
from compare.family import Family
from compare.runs.part import SplitName
from compare.runs.record import Provenance
from compare.symmetry import Graph, trace

SIGMAS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35)


@dataclass(frozen=True)
class Measures:
    """What is measured, and on how much.

    Attributes:
        samples: At most so many samples of each split, for errors on paths; a fixed seeded choice.
        points: Networks on each path, ends included; an odd number has the midpoint among them.
        flat_samples: Training samples that flatness is measured on.
        sigmas: Sizes of the noise of the local energy.
        fractions: Of flipped bits, for binary networks.
        draws: Random networks for each size or fraction.
        radius: Of the ball in which the worst network is sought (``compare.evaluation.sharpness``).
        flipped: For binary networks in its place: the largest fraction of flipped bits.
        eigenvalues: Number of eigenvalues of the Hessian; 0 leaves curvature out.
        curved_samples: Training samples that curvature is measured on.
        plane: Size of the grid in the plane of a bend.
    """

    samples: int = 5000
    points: int = 13
    flat_samples: int = 2000
    sigmas: tuple[float, ...] = SIGMAS
    fractions: tuple[float, ...] = FRACTIONS
    draws: int = 10
    radius: float = 0.002
    flipped: float = 0.0003
    eigenvalues: int = 1
    curved_samples: int = 1000
    plane: tuple[int, int] = (21, 15)


@dataclass(frozen=True)
class Origin:
    """Where a record comes from.

    Attributes:
        identity: Of everything that determines its numbers.
        provenance: Command, revision, versions.
    """

    identity: str
    provenance: Provenance


@dataclass(frozen=True)
class Site:
    """A precision's network and data, prepared once for all measurements of a study.

    Attributes:
        family: The precision.
        graph: The network's symmetries.
        model: Its module, or what stands for it.
        data: The data set.
        splits: The samples that errors on paths are counted on.
        measures: What is measured.
    """

    family: Family
    graph: Graph
    model: nn.Module
    data: Data
    splits: Mapping[SplitName, Split]
    measures: Measures

    @property
    def flat(self) -> Split:
        """The training samples that flatness is measured on."""
        return self.data.train.subset(self.measures.flat_samples)


def prepared(family: Family, model: nn.Module, data: Data, measures: Measures) -> Site:
    """Trace the network, choose samples.

    Args:
        family: The precision.
        model: A network; its own parameters do not matter and are not changed.
        data: Data set to measure on.
        measures: What is measured.

    Returns:
        What the other functions take.

    Raises:
        SymmetryError: If the network cannot be traced.
    """
    model = family.plain(model, data.train.x[:16]).eval()
    return Site(
        family=family,
        graph=trace(model, data.train.x[:16], family),
        model=model,
        data=data,
        splits={"train": data.train.subset(measures.samples), "test": data.test.subset(measures.samples)},
        measures=measures,
    )
