"""A band of beads at equal distances: each moves down its gradient across the band (nudged elastic band)."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compare.params import Params, check, check_same_types, lerp
from compare.seeds import derived
from compare.strings.landscape import Slope, StringError
from compare.strings.string import Cost, joint_length


@dataclass(frozen=True)
class BandSettings:
    """How a band moves.

    Attributes:
        beads: Number of beads between the ends.
        sweeps: Steps of each bead.
        learning_rate: A bead moves by the learning rate times its gradient; what lies along the band is left out.
        points: Size of the grid on a segment on which energies are measured, ends included.
        check: With a level: energies are measured after so many sweeps, and the band rests once none exceeds it.
    """

    beads: int = 9
    sweeps: int = 100
    learning_rate: float = 0.1
    points: int = 5
    check: int = 10

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            StringError: Naming the setting, what came and what is expected.
        """
        for name, smallest in {"beads": 1, "sweeps": 0, "points": 2, "check": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                raise StringError(f"{name}: expected a whole number of at least {smallest}, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise StringError(f"learning_rate: expected a positive finite number, got {self.learning_rate}")

    @property
    def ts(self) -> tuple[float, ...]:
        """The grid on a segment."""
        return tuple(i / (self.points - 1) for i in range(self.points))


@dataclass(frozen=True, eq=False)
class Band:
    """A band between two networks; an energy that is NaN counts as infinite.

    Attributes:
        beads: Networks in order, ends included, straight lines between them.
        maxima: Highest energy on the grid of each segment.
        straight: Highest energy on the straight line between the ends, on as many points.
        length: Sum of the distances from bead to bead, joint Euclidean norm over the landscape's ``names``.
        distance: From end to end, likewise.
        sweeps: How many were made.
        cost: Steps of beads, energies measured, time.
        settings: How it moved.
        seed: Of the batches.
    """

    beads: tuple[Params, ...]
    maxima: tuple[float, ...]
    straight: float
    length: float
    distance: float
    sweeps: int
    cost: Cost
    settings: BandSettings
    seed: int

    @property
    def maximum(self) -> float:
        """Highest energy on the whole grid."""
        return max(self.maxima)

    @property
    def normalised_length(self) -> float:
        """Length over distance of the ends."""
        return self.length / self.distance


def elastic_band(
    landscape: Slope,
    a: Params,
    b: Params,
    *,
    settings: BandSettings | None = None,
    level: float | None = None,
    seed: int = 0,
) -> Band:
    """Lay a band on the straight line between two networks and let it sink.

    In each sweep every bead between the ends makes one step down its gradient, from which the part along the tangent
    (the direction from the bead before to the bead behind) is taken out; then the beads are spaced anew at equal arc
    lengths of the polygon through them. So no spring is needed, and beads do not slide into the valleys of the ends.

    Args:
        landscape: Energies and gradients. Latent weights move by straight-through gradients and are not clipped.
        a: Start, which stays; not changed.
        b: End, likewise.
        settings: How to move; without them the defaults.
        level: The band rests as soon as no energy on its grid exceeds it; None makes all sweeps.
        seed: Of the batches that gradients are computed on.

    Returns:
        The band after the last sweep.

    Raises:
        ParameterError: If ``b`` does not fit ``a``, or a number is not finite.
        StringError: For ends that are one network, or a bead that left for infinity.
    """
    began, settings = time.perf_counter(), settings or BandSettings()
    check(a, a, what="a")
    check(b, a, what="b")
    check_same_types(a, b)
    names = landscape.names
    if not (distance := joint_length([a, b], names)):
        raise StringError("expected two networks, got the same one twice: there is nothing between them")
    cuts = (settings.beads + 1) * (settings.points - 1)
    grid = [i / cuts for i in range(cuts + 1)]
    straight = _highest(landscape, a, b, grid)
    beads = [lerp(a, b, i / (settings.beads + 1)) for i in range(settings.beads + 2)]
    sweeps, measured, maxima = 0, len(grid), None
    for sweep in range(settings.sweeps):
        if level is not None and sweep % settings.check == 0:
            maxima = _maxima(landscape, beads, settings)
            measured += len(maxima) * settings.points
            if max(maxima) <= level:
                break
        beads = equally_spaced(_swept(landscape, beads, settings, derived(seed, "band", sweep)), names)
        sweeps, maxima = sweep + 1, None
    if maxima is None:
        maxima = _maxima(landscape, beads, settings)
        measured += len(maxima) * settings.points
    return Band(
        beads=tuple(beads),
        maxima=maxima,
        straight=straight,
        length=joint_length(beads, names),
        distance=distance,
        sweeps=sweeps,
        cost=Cost(sweeps * settings.beads, measured, time.perf_counter() - began),
        settings=settings,
        seed=seed,
    )


def equally_spaced(beads: Sequence[Params], names: Sequence[str]) -> list[Params]:
    """As many beads on the polygon through ``beads``, at equal arc lengths; the ends stay.

    Args:
        beads: Networks in order.
        names: Parameters that lengths count; the others move along.

    Returns:
        New beads; their distances from each other are equal but for the corners that are cut. Beads that are all in
        one place stay.

    Example:
        >>> corner = [{"w": torch.tensor(p)} for p in ([0.0, 0.0], [1.0, 0.0], [1.0, 3.0])]
        >>> equally_spaced(corner, ["w"])[1]["w"]
        tensor([1., 1.])
    """
    arcs = [0.0, *itertools.accumulate(joint_length(pair, names) for pair in itertools.pairwise(beads))]
    if not arcs[-1]:
        return list(beads)
    found, segment = [beads[0]], 0
    for number in range(1, len(beads) - 1):
        arc = arcs[-1] * number / (len(beads) - 1)
        while arcs[segment + 1] < arc:
            segment += 1
        share = (arc - arcs[segment]) / (arcs[segment + 1] - arcs[segment])
        found.append(lerp(beads[segment], beads[segment + 1], share))
    return [*found, beads[-1]]


def _swept(landscape: Slope, beads: Sequence[Params], settings: BandSettings, seed: int) -> list[Params]:
    """Every bead between the ends one step on, all from the same positions."""
    moved = [beads[0]]
    for before, bead, behind in zip(beads, beads[1:], beads[2:], strict=False):
        gradient = landscape.gradient(bead, seed=seed)
        tangent = {name: behind[name] - before[name] for name in gradient}
        size = sum(float(part.double().square().sum()) for part in tangent.values())
        along = sum(float((gradient[name].double() * part.double()).sum()) for name, part in tangent.items())
        share = along / size if size else 0.0
        step = {name: gradient[name] - share * tangent[name] for name in gradient}
        there = {name: bead[name] - settings.learning_rate * part for name, part in step.items()}
        # What lies there covers the gradient, too: NaN and infinity stay what they are.
        if not all(bool(torch.isfinite(part).all()) for part in there.values()):
            raise StringError(
                "a bead of the band left for infinity: expected finite gradients and weights; take a smaller "
                "learning_rate"
            )
        moved.append({**bead, **there})
    return [*moved, beads[-1]]


def _maxima(landscape: Slope, beads: Sequence[Params], settings: BandSettings) -> tuple[float, ...]:
    return tuple(_highest(landscape, p, q, settings.ts) for p, q in itertools.pairwise(beads))


def _highest(landscape: Slope, a: Params, b: Params, ts: Sequence[float]) -> float:
    """Highest energy on a grid; what is NaN is not known to be low, and ``max`` alone may pass it over."""
    return max(math.inf if math.isnan(energy) else energy for energy in landscape.energies(a, b, ts))
