"""Two networks of a study: distances, heights, bends."""

import time

from compare.evaluation import Curve, error_curve
from compare.evaluation.plane import error_plane
from compare.geometry import PATHS
from compare.geometry.plane import plane
from compare.params import Params, check, parameters
from compare.runs.part import Treatment
from compare.runs.record import Curve as Measured
from compare.runs.study import Bend, Bent, Height, Pair, Plane
from compare.study.site import Origin, Site
from compare.training.bend import Bend as TrainedBend
from compare.training.bend import BendSettings, train_bend
from compare.treatments import Bench, treated


def pair(site: Site, names: tuple[str, str], a: Params, b: Params, origin: Origin, *, seed: int = 0) -> Pair:
    """Distances and heights between two networks under all treatments.

    Args:
        site: The networks'.
        names: Their names, as ``Member.name``.
        a: The first.
        b: The second; it is moved onto the first.
        origin: Where the record comes from.
        seed: Of the matching.

    Returns:
        The record of the pair.

    Raises:
        ParameterError: If parameters do not fit the network.
    """
    began = time.perf_counter()
    for name, params in zip(names, (a, b), strict=True):
        check(params, parameters(site.model), what=name)
    both = treated(site.graph, a, b, seed)
    bench = Bench(site.graph, site.model, dict(site.splits), _grid(site.measures.points), None, site.family.evaluation)
    notes: list[str] = []
    heights = tuple(_height(curve) for curve in bench.curves(both, notes))
    return Pair(
        identity=origin.identity,
        precision=site.family.name,
        networks=names,
        distances=both.distances(site.graph),
        heights=heights,
        objective=both.match.objective,
        bound=both.match.bound,
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
        provenance=origin.provenance,
    )


def _grid(points: int) -> tuple[float, ...]:
    return tuple(i / (points - 1) for i in range(points))


def _height(curve: Measured) -> Height:
    return Height(
        treatment=curve.treatment,
        path=curve.path,
        statistics=curve.statistics,
        split=curve.split,
        samples=curve.samples,
        points=len(curve.ts),
        barrier=curve.barrier,
        over_chord=curve.barrier_over_chord,
        midpoint=curve.midpoint_error,
    )


def bend(
    site: Site,
    names: tuple[str, str],
    a: Params,
    b: Params,
    origin: Origin,
    *,
    settings: BendSettings,
    with_plane: bool = False,
    seed: int = 0,
) -> Bend:
    """Bends between two networks, trained on the training data: from the ends as trained, and matched.

    Errors are counted on the samples of ``site.splits["train"]``.

    Args:
        site: The networks'.
        names: Their names, as ``Member.name``.
        a: The first.
        b: The second; for the matched bend it is moved onto the first.
        origin: Where the record comes from.
        settings: How bends are trained.
        with_plane: Whether errors in the plane of the matched bend are measured as well.
        seed: Of matching and training.

    Returns:
        The record.

    Raises:
        ParameterError: If parameters do not fit the network.
        TrainingError: If a bend diverges.
    """
    both = treated(site.graph, a, b, seed)
    treatments: tuple[Treatment, ...] = ("as trained", "matched")
    bends = {treatment: _bent(site, both.ends[treatment], settings, seed) for treatment in treatments}
    return Bend(
        identity=origin.identity,
        precision=site.family.name,
        networks=names,
        bends=tuple(
            _bend_record(site, treatment, found, curve)
            for treatment, found in bends.items()
            for curve in dict.fromkeys((found.curve, found.interpolated))
        ),
        plane=_plane(site, bends["matched"]) if with_plane else None,
        provenance=origin.provenance,
    )


def _bent(site: Site, ends: tuple[Params, Params], settings: BendSettings, seed: int) -> TrainedBend:
    train = site.data.train
    return train_bend(
        site.model,
        site.graph,
        *ends,
        train,
        site.family.recipe,
        settings=settings,
        measured=site.splits["train"],
        seed=seed,
    )


def _bend_record(site: Site, treatment: Treatment, found: TrainedBend, curve: Curve) -> Bent:
    """What one kind of statistics gives of a bend; its target is above the ends as this curve has them."""
    kind = found.settings.pieces
    straight = PATHS[kind](site.graph, found.path.a, found.path.b)
    errors = error_curve(
        site.model,
        straight,
        site.splits["train"],
        curve.ts,
        statistics=curve.statistics,
        evaluation=site.family.evaluation,
    ).errors
    angular = kind == "geodesic"
    target = max(curve.errors[0], curve.errors[-1]) + found.settings.tolerance
    return Bent(
        treatment=treatment,
        path=kind,
        statistics=curve.statistics,
        split="train",
        samples=curve.samples,
        ts=curve.ts,
        errors=curve.errors,
        straight_errors=errors,
        target=target,
        reached=max(curve.errors) <= target,
        length=found.length.angle if angular else found.length.euclidean,
        straight_length=found.straight.angle if angular else found.straight.euclidean,
        norm="joint angle of all spheres, radians" if angular else "joint L2 norm of the weights of all linear maps",
        epochs=len(found.losses),
        seconds=found.seconds,
    )


def _plane(site: Site, found: TrainedBend) -> Plane:
    """Errors around a bend and its ends; statistics as those of the bend's own curve."""
    through = plane(site.graph, found.path.a, found.path.b, found.path.middle)
    measured = error_plane(
        site.model,
        through,
        site.splits["train"],
        points=site.measures.plane,
        statistics=found.curve.statistics,
    )
    a, b, middle = measured.corners
    return Plane(
        statistics=measured.statistics,
        split="train",
        samples=measured.samples,
        us=measured.us,
        vs=measured.vs,
        errors=measured.errors,
        points={"a": a, "b": b, "bend": middle},
    )
