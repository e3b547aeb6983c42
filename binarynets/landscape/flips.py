"""Which bits differ between two networks, when each of them flips on a path, and in which order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binarynets.integer.affine import IntegerError
from compare.geometry import sphere
from compare.geometry.path import Path, points
from compare.params import Coordinate, Params, lerp, sign

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_At: TypeAlias = Callable[[Tensor, float], Tensor]
"""Values that a path has at some entries of a weight, at t."""

_NEAR = 1e-5
"""Closer than this to a point of the grid, the path itself is asked on which side of it a bit flips: it rounds."""


@dataclass(frozen=True, eq=False)
class Flips:
    """Bits of latent weights in the order in which they flip.

    Attributes:
        names: Weights, in the order of evaluation.
        layer: For each flip, which weight, an index into ``names``; int64 ``[flips]``.
        unit: Row of the bit, the unit it leads into.
        source: Column of the bit.
        positive: Whether the weight becomes +1.
    """

    names: tuple[str, ...]
    layer: Ints
    unit: Ints
    source: Ints
    positive: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of flips."""
        return len(self.layer)

    def __getitem__(self, order: Ints) -> "Flips":
        """The flips at the places ``order``."""
        return Flips(self.names, self.layer[order], self.unit[order], self.source[order], self.positive[order])


@dataclass(frozen=True, eq=False)
class Timed:
    """Flips with their times, sorted.

    Attributes:
        flips: The flips.
        t: Time of each, not decreasing, between 0 and 1.
        by: The first point of the grid at which it has happened, an index.
    """

    flips: Flips
    t: Floats
    by: Ints


def differing(names: Sequence[str], a: Params, b: Params) -> Flips:
    """All bits that differ, in the order of the weights and row by row."""
    layers, units, sources, positive = [], [], [], []
    for layer, name in enumerate(names):
        there = sign(b[name])
        unit, source = torch.nonzero(sign(a[name]) != there, as_tuple=True)
        layers.append(np.full(len(unit), layer, np.int64))
        units.append(unit.numpy())
        sources.append(source.numpy())
        positive.append((there[unit, source] > 0).numpy())
    joined = (np.concatenate(parts) for parts in (layers, units, sources, positive))
    return Flips(tuple(names), *joined)


def on_line(flips: Flips, a: Params, b: Params, grid: Floats) -> Timed:
    """Times on the straight line, |a| / (|a| + |b|) [METHODS 4].

    Args:
        flips: Bits that differ.
        a: Latent weights of the first network.
        b: Of the second.
        grid: Increasing times from 0 to 1, at each of which exactly the bits have flipped that the path has there.

    Returns:
        The flips, sorted.
    """
    parts: list[tuple[Tensor, _At]] = []
    for name, chosen in _each(flips):
        start, end = a[name][chosen], b[name][chosen]
        parts.append((_crossing(start, end), partial(_on_line_at, start, end)))
    return _timed(flips, parts, grid)


def _crossing(start: Tensor, end: Tensor) -> Tensor:
    size, other = start.double().abs(), end.double().abs()
    return size / (size + other).clamp_min(torch.finfo(torch.float64).tiny)


def _on_line_at(start: Tensor, end: Tensor, where: Tensor, t: float) -> Tensor:
    return torch.lerp(start[where], end[where], t)


def on_geodesic(flips: Flips, a: Params, b: Params, coordinates: Mapping[str, Coordinate], grid: Floats) -> Timed:
    """Times on the geodesic, where sin((1 - t) theta) a + sin(t theta) b = 0 for unit rows a and b [METHODS 4].

    Args:
        flips: Bits that differ.
        a: Latent weights of the first network.
        b: Of the second.
        coordinates: Which rows are points on spheres.
        grid: As ``on_line``.

    Returns:
        The flips, sorted.
    """
    parts = []
    for name, (unit, source) in _each(flips):
        arc = _Arc.between(a[name], b[name], coordinates[name], unit, source)
        parts.append((arc.crossing(), arc.at))
    return _timed(flips, parts, grid)


@dataclass(frozen=True, eq=False)
class _Arc:
    """Entries of one weight on their geodesics: points ``[points, dimension]``, angles, and where the entries stand."""

    start: Tensor
    end: Tensor
    theta: Tensor
    row: Tensor
    column: Tensor
    dtype: torch.dtype

    @staticmethod
    def between(a: Tensor, b: Tensor, coordinate: Coordinate, unit: Tensor, source: Tensor) -> "_Arc":
        start, end = points(a, coordinate), points(b, coordinate)
        joint = coordinate.kind == "joint"
        row, column = (torch.zeros_like(unit), unit * a.shape[1] + source) if joint else (unit, source)
        return _Arc(start, end, sphere.angles(start, end), row, column, a.dtype)

    def crossing(self) -> Tensor:
        u, v = (sphere.unit(end)[self.row, self.column].abs() for end in (self.start, self.end))
        theta = self.theta[self.row]
        straight = theta < sphere.STRAIGHT
        turned = torch.atan2(u * torch.sin(theta), v + u * torch.cos(theta)) / torch.where(straight, 1.0, theta)
        line = _crossing(self.start[self.row, self.column], self.end[self.row, self.column])
        return torch.where(straight, line, turned)

    def at(self, where: Tensor, t: float) -> Tensor:
        rows, which = torch.unique(self.row[where], return_inverse=True)
        moved = sphere.slerp(self.start[rows], self.end[rows], self.theta[rows], t)
        return moved.to(self.dtype)[which, self.column[where]]


def in_order(flips: Flips, order: Ints, times: Timed) -> Timed:
    """The flips in another order, the i-th at the i-th of the given times."""
    return Timed(flips[order], times.t, times.by)


def flipped(path: Path, timed: Timed, t: float, grid: Floats) -> Params:
    """The network at ``t``, a point of the grid: bits in their own order, as signs, the rest on the straight line."""
    params, flips = (path(t) if t in (0, 1) else lerp(path.a, path.b, t)), timed.flips
    done = timed.by <= np.searchsorted(grid, t)
    for layer, name in enumerate(flips.names):
        own = done & (flips.layer == layer)
        bits = sign(path.a[name])
        bits[flips.unit[own], flips.source[own]] *= -1
        params[name] = bits
    return params


def sequence(flips: Flips, wanted: Flips | Sequence[tuple[str, int, int]]) -> Ints:
    """Where the bits of a given sequence stand among ``flips``.

    Args:
        flips: All bits that differ.
        wanted: The same bits in another order: as another path's ``flips``, or ``(weight, row, column)`` for each.

    Returns:
        Their places.

    Raises:
        IntegerError: If the sequence does not name each bit that differs exactly once.
    """
    if isinstance(wanted, Flips):
        triples = [(wanted.names[k], u, i) for k, u, i in zip(wanted.layer, wanted.unit, wanted.source, strict=True)]
    else:
        triples = [(name, int(unit), int(source)) for name, unit, source in wanted]
    place = {
        (flips.names[k], u, i): n for n, (k, u, i) in enumerate(zip(flips.layer, flips.unit, flips.source, strict=True))
    }
    found = [place.get((name, unit, source)) for name, unit, source in triples]
    surplus = [triple for triple, at in zip(triples, found, strict=True) if at is None]
    if surplus or len(set(found)) != len(flips) or len(found) != len(flips):
        named = f"; {surplus[0]} is none of them" if surplus else ""
        raise IntegerError(
            f"order: expected each of the {len(flips)} bits that differ exactly once, as (weight, row, column), "
            f"got {len(found)} bits, {len(set(found) - {None})} different ones of them{named}"
        )
    return np.array(found, np.int64)


def _each(flips: Flips) -> list[tuple[str, tuple[Tensor, Tensor]]]:
    """For each weight its rows and columns; flips come weight by weight."""
    found = []
    for layer, name in enumerate(flips.names):
        own = flips.layer == layer
        found.append((name, (torch.from_numpy(flips.unit[own]), torch.from_numpy(flips.source[own]))))
    return found


def _timed(flips: Flips, parts: Sequence[tuple[Tensor, _At]], grid: Floats) -> Timed:
    times, seen = [], []
    for layer, (t, at) in enumerate(parts):
        positive = torch.from_numpy(flips.positive[flips.layer == layer])
        times.append(t.numpy())
        seen.append(_first_seen(t.numpy(), partial(_has_flipped, at, positive), grid))
    time, by = np.concatenate(times), np.concatenate(seen)
    time = np.clip(time, grid[by - 1], grid[by])
    order = np.lexsort((time, by))
    return Timed(flips[order], time[order], by[order])


def _has_flipped(at: _At, positive: Tensor, where: Tensor, t: float) -> Tensor:
    return (at(where, t) >= 0) == positive[where]


def _first_seen(t: Floats, flipped: Callable[[Tensor, float], Tensor], grid: Floats) -> Ints:
    """The first point of the grid at which each bit has flipped: never at 0, always at 1."""
    last = len(grid) - 1
    low = np.clip(np.searchsorted(grid, t - _NEAR), 1, last)
    high = np.clip(np.searchsorted(grid, t + _NEAR, side="right"), low, last)
    while len(open_ := np.flatnonzero(low < high)):
        middle = (low[open_] + high[open_]) // 2
        for g in np.unique(middle):
            where = open_[middle == g]
            there = flipped(torch.from_numpy(where), float(grid[g])).numpy()
            high[where[there]], low[where[~there]] = g, g + 1
    return low
