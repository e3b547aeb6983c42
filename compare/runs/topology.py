"""What stands around strings: bands, constructed paths, and all of a study of level sets, as records."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from compare.runs.part import Part, Treatment, read
from compare.runs.strings import Strings
from compare.runs.study import NotNegative, Piece

QUADRATIC = "quadratic regression, 1-4-4-1"
CONTROL = "three points permuted, 2-3-2"
LINEAR = "linear network, 5-6-4"
TWO_UNITS = "two rectified units swapped"
COPY = "a symmetric copy"
WIDTHS = "regression, 3-h-2"


class Band(Piece):
    """A band of beads at equal distances between two networks.

    ``straight`` and ``maximum`` are the highest energies on the straight line and on the band, ``length`` and
    ``distance`` those of the band and of its ends in ``norm``. ``settings`` are those of the band.
    """

    schema_version: Literal[1] = 1
    kind: Literal["band"] = "band"
    task: str
    networks: tuple[str, str]
    treatment: Treatment
    energy: str
    samples: Annotated[int, Field(ge=1)]
    ends: tuple[float, float]
    straight: NotNegative
    maximum: NotNegative
    length: NotNegative
    distance: NotNegative
    norm: str
    seed: int
    seconds: NotNegative
    settings: dict[str, Any]


class LinearPath(Piece):
    """The constructed path between two linear networks: ``highest`` loss on ``points`` of it, and the ``ends``'.

    ``sizes`` are the widths of all layers, input and output included; ``ridge`` the penalty's factor, part of the loss.
    """

    schema_version: Literal[1] = 1
    kind: Literal["linear-path"] = "linear-path"
    sizes: tuple[int, ...]
    ridge: NotNegative
    seed: int
    ends: tuple[float, float]
    straight: NotNegative
    highest: NotNegative
    points: Annotated[int, Field(ge=2)]

    @property
    def rises(self) -> bool:
        """Whether the path exceeds the worse end by more than rounding."""
        return self.highest > max(self.ends) * (1 + 1e-9)


class Pruned(Piece):
    """The string through networks that lost half of their ``width`` units: its highest loss, and that of the ends.

    ``gap`` is the first less the larger of the others, an upper bound of the energy gap. ``floor`` is an upper
    estimate of what every path has to pass.
    """

    schema_version: Literal[1] = 1
    kind: Literal["pruned-string"] = "pruned-string"
    task: str
    width: Annotated[int, Field(ge=2)]
    seed: int
    ends: tuple[float, float]
    highest: NotNegative
    floor: NotNegative | None = None

    @property
    def gap(self) -> float:
        """The bound."""
        return self.highest - max(self.ends)


class Tree(Part):
    """Which bands join all networks at the lowest energies: ``edges`` with the highest energy on each, low to high.

    ``minimax`` are the energies that a chain of bands has to pass from one network to another.
    """

    precision: str
    treatment: Treatment
    edges: tuple[tuple[str, str, NotNegative], ...]
    minimax: tuple[tuple[str, str, NotNegative], ...]


class Topology(Part):
    """A study of level sets on one data set.

    ``shape`` is that of the networks on the data, ``images`` the number of training samples, on all of which energies
    are measured.
    """

    schema_version: Literal[1] = 1
    kind: Literal["topology"] = "topology"
    data: str
    fingerprint: str
    shape: str
    images: Annotated[int, Field(ge=1)]
    calibration: Annotated[int, Field(ge=1)]
    strings: Annotated[tuple[Strings, ...], Field(min_length=1)]
    bands: tuple[Band, ...] = ()
    linear: tuple[LinearPath, ...] = ()
    pruned: tuple[Pruned, ...] = ()
    trees: tuple[Tree, ...] = ()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All of it."""
        return (*self.strings, *self.bands, *self.linear, *self.pruned)


def read_topology(path: Path) -> Topology:
    """Read and validate a study of level sets.

    Args:
        path: A JSON file with ``Topology``.

    Returns:
        The study.

    Raises:
        RecordError: If the file is missing or is something else.
    """
    return read(Topology, path, "study of level sets", "expected one of reproduce_topology.py")
