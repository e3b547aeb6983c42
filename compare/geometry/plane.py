"""The plane through three networks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from compare.errors import CompareError
from compare.geometry.path import Charted
from compare.params import Params, check_same_types

Point: TypeAlias = tuple[float, float]

# Sine of the angle between two sides; below it the plane is that of rounding errors.
_FLAT = 1e-5


class PlaneError(CompareError, ValueError):
    """Three networks through which no plane is determined."""


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane through three networks; call it with (u, v) to get the parameters there.

    Distances in the plane are those of the joint Euclidean space of all spherical coordinates, the (latent) weights of
    linear maps. All other parameters and buffers follow the same affine map, but do not count in distances: running
    variances in the tens of thousands would drown the weights.

    Attributes:
        a: Network at (0, 0).
        b: Network at (|b - a|, 0).
        c: The third network, at v > 0.
        corners: Coordinates (u, v) of ``a``, ``b`` and ``c``.
        basis: Two orthonormal vectors, float64 by name: the first from ``a`` towards ``b``, the second towards the side
            of ``c``.
    """

    a: Params
    b: Params
    c: Params
    corners: tuple[Point, Point, Point]
    basis: tuple[Params, Params] = field(repr=False)

    def __call__(self, u: float, v: float) -> Params:
        """Parameters at (u, v), new tensors: (1 - x - y) a + x b + y c, and at the corners these themselves.

        Raises:
            ValueError: Unless both are finite.
        """
        if not (math.isfinite(u) and math.isfinite(v)):
            raise ValueError(f"(u, v): expected finite numbers, got ({u!r}, {v!r})")
        for corner, network in zip(self.corners, (self.a, self.b, self.c), strict=True):
            if (u, v) == corner:
                return {name: tensor.clone() for name, tensor in network.items()}
        (width, _), (shift, height) = self.corners[1:]
        y = v / height
        x = (u - y * shift) / width
        return {name: _affine(self.a[name], self.b[name], self.c[name], x, y) for name in self.a}

    def project(self, params: Params) -> Point:
        """Coordinates of the point of the plane next to ``params``, by spherical coordinates alone.

        Args:
            params: Parameters and buffers by name.

        Returns:
            (u, v).
        """
        from_a = {name: params[name].double() - self.a[name].double() for name in self.basis[0]}
        return _dot(from_a, self.basis[0]), _dot(from_a, self.basis[1])


def plane(graph: Charted, a: Params, b: Params, c: Params) -> Plane:
    """The plane through three networks, for instance the ends of a path and its bend [Curves] (arXiv 1802.10026).

    Args:
        graph: The network's coordinates.
        a: All parameters and buffers by name; the origin.
        b: Likewise; on the first axis.
        c: Likewise.

    Returns:
        The plane.

    Raises:
        ParameterError: If one does not fit the network.
        PlaneError: If two of them coincide or all lie on one line.
    """
    for name, network in (("a", a), ("b", b), ("c", c)):
        graph.check(network, name)
    check_same_types(a, b)
    check_same_types(a, c)
    a, b, c = ({name: tensor.clone() for name, tensor in network.items()} for network in (a, b, c))
    counted = [name for name, kind in graph.coordinates.items() if kind.kind != "linear"]
    along, aside = ({name: other[name].double() - a[name].double() for name in counted} for other in (b, c))
    width, slant = math.sqrt(_dot(along, along)), math.sqrt(_dot(aside, aside))
    first = {name: tensor / (width or 1) for name, tensor in along.items()}
    shift = _dot(aside, first)
    upright = {name: tensor - shift * first[name] for name, tensor in aside.items()}
    height = math.sqrt(_dot(upright, upright))
    if width == 0 or height <= _FLAT * slant:
        raise PlaneError(
            "a, b and c lie on one line, so there is no one plane through them: expected three networks whose weights "
            "differ in two directions; choose another c, or measure the path with error_curve"
        )
    second = {name: tensor / height for name, tensor in upright.items()}
    return Plane(a, b, c, ((0.0, 0.0), (width, 0.0), (shift, height)), (first, second))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return math.fsum(float((a[name] * b[name]).sum()) for name in a)


def _affine(a: Tensor, b: Tensor, c: Tensor, x: float, y: float) -> Tensor:
    """As differences from ``a``, so that entries on which all agree stay exactly; counters of batches are a's."""
    if not a.is_floating_point():
        return a.clone()
    origin = a.double()
    moved: Tensor = origin + x * (b.double() - origin) + y * (c.double() - origin)
    return moved.to(a.dtype)
