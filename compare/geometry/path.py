"""Paths t -> parameters between two networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from compare.errors import CompareError
from compare.geometry import sphere
from compare.params import Coordinate, Params, check_same_types, lerp


class AntipodalError(CompareError, ValueError):
    """Two points opposite to each other, between which no geodesic is determined."""


class Charted(Protocol):
    """Anything that says how parameters are points of a space; a coupling graph does."""

    @property
    def coordinates(self) -> Mapping[str, Coordinate]:
        """The kind of each parameter."""
        ...

    def check(self, params: Params, what: str = "params") -> None:
        """Raise unless ``params`` fit."""
        ...


@dataclass(frozen=True, eq=False)
class Path:
    """A path from ``a`` at t = 0 to ``b`` at t = 1, both exactly; call it to get the parameters at t.

    Attributes:
        kind: ``"linear"`` or ``"geodesic"``.
        a: Start.
        b: End.
    """

    kind: Literal["linear", "geodesic"]
    a: Params
    b: Params
    _between: Callable[[float], Params] = field(repr=False)
    _arcs: "Mapping[str, _Arc]" = field(default_factory=dict, repr=False)

    def __call__(self, t: float) -> Params:
        """Parameters at ``t``, new tensors.

        Raises:
            ValueError: For t outside [0, 1].
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t: expected a number between 0 and 1, got {t!r}")
        if t in (0, 1):
            end = self.b if t else self.a
            return {name: tensor.clone() for name, tensor in end.items()}
        return self._between(t)

    def piece(self, t: float) -> tuple["Path", float]:
        """The piece of the path that ``t`` lies on, and where on it: the path has one piece, itself."""
        return self, t

    def coefficients(self, name: str, t: float) -> tuple[Tensor, Tensor]:
        """Numbers alpha and beta with which a parameter at ``t`` is ``alpha a + beta b``, to rounding.

        Args:
            name: Of the parameter, a tensor of real numbers.
            t: Between 0 and 1.

        Returns:
            Both, float64: ``[rows]`` where each row turns by itself, else ``[1]``.
        """
        if name in self._arcs:
            return self._arcs[name].coefficients(t)
        return torch.tensor([1 - t], dtype=torch.float64), torch.tensor([t], dtype=torch.float64)


def linear_path(graph: Charted, a: Params, b: Params) -> Path:
    """The straight line between all parameters and buffers; for binary networks between their latents.

    Args:
        graph: The network's coordinates.
        a: Start, all parameters and buffers by name.
        b: End.

    Returns:
        The path.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
    """
    a, b = _ends(graph, a, b)
    return Path("linear", a, b, lambda t: lerp(a, b, t))


def geodesic_path(graph: Charted, a: Params, b: Params) -> Path:
    """The geodesic on the product of spheres: hidden rows and the last weight turn at constant angular speed.

    Biases, thresholds and normalisation parameters are interpolated linearly. In standard form all norms are 1 and
    this is the geodesic of [Toroids] (arXiv 2202.03038); elsewhere directions follow it and norms change linearly.

    Args:
        graph: The network's coordinates.
        a: Start, all parameters and buffers by name.
        b: End.

    Returns:
        The path.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
        AntipodalError: If a row of ``b`` is opposite to that of ``a``; the message names the parameter.
    """
    a, b = _ends(graph, a, b)
    arcs = {name: _arc(name, kind, a, b) for name, kind in graph.coordinates.items() if kind.kind != "linear"}
    straight_a, straight_b = ({k: v for k, v in end.items() if k not in arcs} for end in (a, b))

    def between(t: float) -> Params:
        moved = lerp(straight_a, straight_b, t) | {name: arc(t) for name, arc in arcs.items()}
        return {name: moved[name] for name in a}

    return Path("geodesic", a, b, between, arcs)


def _ends(graph: Charted, a: Params, b: Params) -> tuple[Params, Params]:
    """Checked copies: a path must not move when the caller's tensors do."""
    graph.check(a, "a")
    graph.check(b, "b")
    check_same_types(a, b)
    first, second = ({name: tensor.clone() for name, tensor in end.items()} for end in (a, b))
    return first, second


def points(tensor: Tensor, coordinate: Coordinate) -> Tensor:
    """The tensor as points on spheres, float64 ``[points, dimension]``."""
    return tensor.double().flatten(1) if coordinate.kind == "rows" else tensor.double().reshape(1, -1)


@dataclass(frozen=True, eq=False)
class _Arc:
    """The geodesic of one parameter: points ``[points, dimension]``, the angles between them, and the end's form."""

    start: Tensor
    end: Tensor
    theta: Tensor
    like: Tensor

    def __call__(self, t: float) -> Tensor:
        return sphere.slerp(self.start, self.end, self.theta, t).to(self.like.dtype).view_as(self.like)

    def coefficients(self, t: float) -> tuple[Tensor, Tensor]:
        return sphere.slerp_coefficients(self.start, self.end, self.theta, t)


def _arc(name: str, coordinate: Coordinate, a: Params, b: Params) -> _Arc:
    start, end = points(a[name], coordinate), points(b[name], coordinate)
    theta = sphere.angles(start, end)
    if bool((theta > 3.141592653589793 - sphere.ANTIPODAL).any()):
        row = int(theta.argmax())
        raise AntipodalError(
            f"'{name}': point {row} of b is opposite to that of a, so every great circle through them is a geodesic. "
            "Use linear_path, or move one of the networks a little"
        )
    return _Arc(start, end, theta, a[name])


PATHS: Mapping[Literal["linear", "geodesic"], Callable[[Charted, Params, Params], Path]] = {
    "linear": linear_path,
    "geodesic": geodesic_path,
}
"""What makes a path, by its kind."""
