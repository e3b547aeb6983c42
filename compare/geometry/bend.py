"""Paths with one bend: two pieces through a middle network."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from compare.errors import CompareError
from compare.geometry.distance import distances
from compare.geometry.path import Charted, Path, geodesic_path, linear_path
from compare.params import Params

Pieces: TypeAlias = Literal["linear", "geodesic"]


class PiecesError(CompareError, ValueError):
    """Pieces that a path cannot be made of."""


@dataclass(frozen=True, eq=False)
class BentPath:
    """A path from ``a`` through ``middle`` at t = 1/2 to ``b``, all three exactly; call it to get the parameters at t.

    Attributes:
        kind: What the two pieces are.
        a: Start.
        middle: The bend.
        b: End.
    """

    kind: Pieces
    a: Params
    middle: Params
    b: Params
    _first: Path = field(repr=False)
    _second: Path = field(repr=False)

    def __call__(self, t: float) -> Params:
        """Parameters at ``t``, new tensors.

        Raises:
            ValueError: For t outside [0, 1].
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t: expected a number between 0 and 1, got {t!r}")
        piece, s = halves(t)
        return (self._second if piece else self._first)(s)

    def piece(self, t: float) -> tuple[Path, float]:
        """The piece that ``t`` lies on, and where on it."""
        number, s = halves(t)
        return (self._second if number else self._first), s


@dataclass(frozen=True)
class Lengths:
    """How long a path is, from corner to corner, in two norms.

    Attributes:
        angle: Sum over the pieces of the joint angle, sqrt of the sum over all spheres of the squared angle, radians:
            the length of geodesic pieces on the product of spheres.
        euclidean: Sum over the pieces of the joint L2 norm of the difference of all spherical coordinates (the weights
            of linear maps) as they are: the length of straight pieces.
    """

    angle: float
    euclidean: float


def halves(t: float) -> tuple[int, float]:
    """Which piece ``t`` lies on (0 or 1), and where on it, from 0 to 1; both without rounding where t is on the second.

    Example:
        >>> halves(0.25), halves(0.5), halves(0.75)
        ((0, 0.5), (0, 1.0), (1, 0.5))
    """
    return (0, 2 * t) if t <= 0.5 else (1, 2 * t - 1)


def bent_path(graph: Charted, a: Params, middle: Params, b: Params, *, pieces: Pieces = "linear") -> BentPath:
    """The path of two pieces through a middle network [Curves] (arXiv 1802.10026).

    Args:
        graph: The network's coordinates.
        a: Start, all parameters and buffers by name.
        middle: The network at t = 1/2.
        b: End.
        pieces: ``"linear"``: two straight lines, as ``linear_path``; ``"geodesic"``: two geodesics, as
            ``geodesic_path``.

    Returns:
        The path.

    Raises:
        PiecesError: For other pieces.
        ParameterError: If one of the three does not fit the network.
        AntipodalError: If a geodesic piece is not determined.
    """
    check_pieces(pieces)
    graph.check(middle, "middle")  # a piece would call it a or b
    make = linear_path if pieces == "linear" else geodesic_path
    first, second = make(graph, a, middle), make(graph, middle, b)
    return BentPath(pieces, first.a, first.b, second.b, first, second)


def check_pieces(pieces: str) -> None:
    """Raise ``PiecesError`` unless they are known."""
    if pieces not in get_args(Pieces):
        raise PiecesError(f"pieces: expected one of {', '.join(get_args(Pieces))}, got {pieces!r}")


def lengths(graph: Charted, *corners: Params) -> Lengths:
    """The length of a path through ``corners``: of a bent one with ``a, middle, b``, of the straight one with ``a, b``.

    Args:
        graph: The network's coordinates.
        corners: At least two networks, parameters and buffers by name.

    Returns:
        The lengths.

    Raises:
        ValueError: If there are fewer than two corners.
        ParameterError: If one does not fit the network.
    """
    if len(corners) < 2:
        raise ValueError(f"corners: expected at least 2 networks, got {len(corners)}")
    found = [distances(graph, start, end) for start, end in pairwise(corners)]
    return Lengths(sum(piece.angle for piece in found), sum(piece.euclidean for piece in found))
