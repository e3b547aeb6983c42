"""Made-up records for tests of the report: plausible curves from a formula, measured on nothing."""

import itertools
import math
from typing import Any, Literal

from compare.runs.landscape import ExactCurve, Landscape, LayerFlips, Neighbourhood, Order, Robustness
from compare.runs.record import (
    Control,
    Curve,
    Data,
    Distance,
    Energy,
    Epoch,
    Match,
    Network,
    PathKind,
    Provenance,
    Record,
    SplitName,
    Statistics,
    Treatment,
)

# Height of the made-up bump halfway, by precision and treatment.
HEIGHTS: dict[tuple[str, Treatment], float] = {
    ("binary", "as trained"): 0.65,
    ("binary", "standard form"): 0.6,
    ("binary", "matched"): 0.2,
    ("full", "as trained"): 0.5,
    ("full", "standard form"): 0.4,
    ("full", "matched"): 0.05,
}
HEIGHTS |= {
    (precision, treatment): 0.01 * number * share
    for number, precision in enumerate(("ternary", "int2", "int4", "int8"), 35)
    for treatment, share in zip(("as trained", "standard form", "matched"), (1.5, 1.3, 0.4), strict=True)
}
ERRORS = {"binary": 0.02, "ternary": 0.018, "int2": 0.016, "int4": 0.014, "int8": 0.012}
PATHS: dict[Treatment, tuple[PathKind, ...]] = {
    "as trained": ("linear",),
    "standard form": ("linear", "geodesic"),
    "matched": ("linear", "geodesic"),
}
# Bits of a weight.
LADDER = {"binary": 1.0, "ternary": math.log2(3), "int2": 2.0, "int4": 4.0, "int8": 8.0, "full": 32.0}
TITLES = {"binary": "binary (1-bit weights and activations)", "full": "full precision (32-bit)"}


def records(
    precisions: tuple[str, ...] = ("binary", "full"), seeds: tuple[int, ...] = (0, 1, 2), **changes: Any
) -> list[Record]:
    """A record for each precision and pair of seeds; ``changes`` replace fields of each."""
    pairs = itertools.combinations(seeds, 2)
    return [made_up(precision, *pair, **changes) for precision, pair in itertools.product(precisions, pairs)]


def made_up(
    precision: str = "binary",
    a: int = 0,
    b: int = 1,
    *,
    points: int = 25,
    landscapes: bool = False,
    ladder: bool = False,
    **changes: Any,
) -> Record:
    """One made-up record; the same arguments give the same one. Only binary networks have ``landscapes``.

    With ``ladder`` it has the bits of its precision, and local energies.
    """
    content: dict[str, Any] = {
        "precision": precision,
        "title": TITLES.get(precision, precision),
        "bits": LADDER[precision] if ladder else None,
        "model": "64 - 32 - 32 - 10",
        "parameters": 3402 if precision == "binary" else 3370,
        "data": Data(
            name="made-up digits",
            fingerprint="0123456789ab",
            classes=10,
            train=1437,
            test=360,
            evaluated={"train": 1437, "test": 360},
            calibration=1437,
        ),
        "seed": a,
        "networks": (network(precision, a), network(precision, b)),
        "match": Match(
            objective=1.5 + 0.1 * b, bound=2.0, starts={"1 identity": 1.5}, sweeps=4, converged=True, seconds=0.1
        ),
        "distances": distances(precision, a, b),
        "curves": curves(precision, a, b, points),
        "controls": controls(precision, a, points),
        "landscape": landscape(a, b) if landscapes and precision != "full" else None,
        "energies": (energy(precision, a), energy(precision, b, "b")) if ladder else (),
        "notes": ("a made-up note",),
        "configuration": {"data": "made-up digits", "training": {"epochs": 5, "optimiser": "adam"}},
        "provenance": Provenance(
            created="2000-01-01T00:00:00+00:00",
            revision="made up",
            command="compare-nets run --data made-up",
            python="3.11.0",
            platform="Linux x86_64",
            threads=1,
            packages={"binarynets": "0.1.0", "torch": "2.13.0"},
        ),
    }  # fmt: skip
    return Record.model_validate({**content, **changes})


def network(precision: str, seed: int) -> Network:
    """A made-up network with five epochs of training; binary ones flip signs."""
    history = tuple(
        Epoch(
            epoch=epoch,
            train_loss=(1 + seed / 100) / epoch,
            train_error=0.5 / epoch**2,
            test_error=0.5 / epoch**2 + 0.01,
            learning_rate=1e-3 / epoch,
            flip_ratio=0.01 / epoch if precision == "binary" else None,
            seconds=1.0 + seed,
        )
        for epoch in range(1, 6)
    )
    error = ERRORS.get(precision, 0.01) + seed / 360
    return Network(
        name=f"seed {seed}",
        seed=seed,
        errors={"train": error / 4, "test": error},
        losses={"train": error, "test": 2 * error},
        history=history,
    )


def distances(precision: str, a: int, b: int) -> tuple[Distance, ...]:
    """Distances that shrink from treatment to treatment."""
    treatments: tuple[Treatment, ...] = ("as trained", "standard form", "matched")
    shares = zip(
        treatments, (1.0, 0.98, {"ternary": 0.62, "int2": 0.64, "int4": 0.66}.get(precision, 0.6)), strict=True
    )
    return tuple(
        Distance(
            treatment=treatment,
            angle=8 * share,
            rms_angle=math.pi / 2 * share + 0.01 * (a + b),
            spheres=65,
            hamming=0.5 * share - 0.01 * (a + b) if precision == "binary" else None,
            euclidean=12 * share,
        )
        for treatment, share in shares
    )


def curves(precision: str, a: int, b: int, points: int = 25) -> tuple[Curve, ...]:
    """Bumps between the ends, lower with statistics re-estimated and on the geodesic."""
    statistics: tuple[Statistics, ...] = ("interpolated", "re-estimated")
    splits: tuple[SplitName, ...] = ("train", "test")
    return tuple(
        curve(precision, a, b, treatment, path, how, split, points)
        for treatment, paths in PATHS.items()
        for path in paths
        for how, split in itertools.product(statistics, splits)
    )


def curve(
    precision: str,
    a: int,
    b: int,
    treatment: Treatment,
    path: PathKind = "linear",
    statistics: Statistics = "interpolated",
    split: SplitName = "train",
    points: int = 25,
) -> Curve:
    """One bump."""
    height = HEIGHTS.get((precision, treatment), 0.3) * (0.25 if statistics == "re-estimated" else 1.0)
    height *= (0.9 if path == "geodesic" else 1.0) * (1 + 0.05 * (a + b - 2))
    ends = [network(precision, seed).errors[split] for seed in (a, b)]
    return bump(height, (ends[0], ends[1]), treatment, path, statistics, split, points)


def bump(
    height: float,
    ends: tuple[float, float],
    treatment: Treatment,
    path: PathKind = "linear",
    statistics: Statistics = "interpolated",
    split: SplitName = "train",
    points: int = 25,
) -> Curve:
    """``height`` times sin² over the chord between the ends."""
    ts = [i / (points - 1) for i in range(points)]
    over = [height * math.sin(math.pi * t) ** 2 if 0 < t < 1 else 0.0 for t in ts]
    errors = [ends[0] + t * (ends[1] - ends[0]) + rise for t, rise in zip(ts, over, strict=True)]
    return Curve(
        treatment=treatment,
        path=path,
        statistics=statistics,
        split=split,
        samples=1437 if split == "train" else 360,
        ts=tuple(ts),
        errors=tuple(errors),
        losses=tuple(3 * error for error in errors),
        barrier=max(errors) - max(errors[0], errors[-1]),
        barrier_over_chord=max(over),
    )


def controls(precision: str, a: int, points: int = 25) -> tuple[Control, ...]:
    """A symmetric copy that matching finds again, and an untrained network that it cannot connect."""
    error = network(precision, a).errors["train"]
    copied = (
        bump(0.6, (error, error), "as trained", points=points),
        bump(0.0, (error, error), "matched", points=points),
    )
    fresh = (
        bump(0.3, (error, 0.9 - 0.3), "as trained", points=points),
        bump(0.2, (error, 0.6), "matched", points=points),
    )
    return (
        Control(name="symmetric copy", distances=distances(precision, a, a), curves=copied),
        Control(name="untrained", distances=distances(precision, a, a), curves=fresh),
    )


def energy(precision: str, seed: int, end: Literal["a", "b"] = "a", samples: int = 500) -> Energy:
    """A local energy that rises with the square of the noise up to 1, and falls with bits."""
    sigmas = (0.5, 1.0, 2.0)
    return Energy(
        network=end,
        split="train",
        samples=samples,
        draws=10,
        error=network(precision, seed).errors["train"],
        sigmas=sigmas,
        rises=tuple(min(0.8, sigma**2 * (1 + seed / 10) * 0.2 / (1 + LADDER[precision])) for sigma in sigmas),
        standard_errors=tuple(0.01 * sigma for sigma in sigmas),
    )


def landscape(a: int = 0, b: int = 1, *, bins: int = 40, complete: bool = True) -> Landscape:
    """A made-up landscape between binary networks; that around the first one is the same whatever the second."""
    statistics: tuple[Statistics, ...] = ("interpolated", "re-estimated")
    splits: tuple[SplitName, ...] = ("train", "test")
    orders: tuple[Order, ...] = ("latent-line", "random", "greedy") if complete else ("latent-line",)
    return Landscape(
        curves=tuple(
            exact_curve(a, b, order, how, split, bins=bins, complete=complete)
            for how, order, split in itertools.product(statistics, orders, splits)
        ),
        neighbourhoods=(neighbourhood(a),),
        robustness=tuple(
            robustness(a, weight, bits) for weight, bits in ((None, 3392), *((name, bits) for name, bits in WEIGHTS))
        ),
        seconds=10.0 + a + b,
    )


WEIGHTS = (("body.0.weight", 2048), ("body.3.weight", 1024), ("head.weight", 320))
RISE: dict[Order, float] = {"latent-line": 1.0, "latent-geodesic": 0.95, "random": 1.2, "greedy": 0.5}


def exact_curve(
    a: int,
    b: int,
    order: Order = "latent-line",
    statistics: Statistics = "interpolated",
    split: SplitName = "train",
    *,
    bins: int = 40,
    complete: bool = True,
) -> ExactCurve:
    """The matched bump of ``curve``, higher or lower in other orders; the grid misses 3 samples of it."""
    usual = curve("binary", a, b, "matched", statistics=statistics, split=split)
    samples = usual.samples
    at = [round((i + 0.5) / bins * 24) for i in range(bins)]
    highest = [min(1.0, RISE[order] * usual.errors[i] + 1 / samples) for i in at]
    peak = max(range(bins), key=highest.__getitem__)
    missed = 3 / samples if complete else 0.0
    return ExactCurve(
        treatment="matched",
        order=order,
        statistics=statistics,
        split=split,
        samples=samples,
        flips=950 - 10 * (a + b) if complete else 0,
        networks=1900 - 20 * (a + b) if complete else 25,
        complete=complete,
        threshold_steps=1000 if complete else 24,
        ends=(usual.errors[0], usual.errors[-1]),
        supremum=highest[peak],
        supremum_at=(peak + 0.5) / bins,
        grid_supremum=highest[peak] - missed,
        missed=missed,
        integral=math.fsum(highest) / bins - 0.5 / samples,
        ts=tuple(i / bins for i in range(bins + 1)),
        lowest=tuple(error - 1 / samples for error in highest),
        highest=tuple(highest),
    )


def neighbourhood(seed: int) -> Neighbourhood:
    """Bits that matter more from layer to layer."""
    return Neighbourhood(
        network="a",
        split="train",
        samples=1000,
        error=network("binary", seed).errors["train"],
        layers=tuple(
            LayerFlips(
                weight=name,
                bits=bits,
                raising=0.1 * (number + 1),
                lowering=0.05 * (number + 1) - 0.01 * seed,
                unchanging=1 - 0.15 * (number + 1) + 0.01 * seed,
                mean=2e-5 * (number + 1) * (1 + seed / 10),
                worst=0.004 * (number + 1),
                unit_means=tuple(1e-4 * (number + 1) * (1 - 2.2 * i / units) for i in range(units)),
            )
            for number, ((name, bits), units) in enumerate(zip(WEIGHTS, (32, 32, 10), strict=True))
        ),
    )


def robustness(seed: int, weight: str | None = None, bits: int = 3392) -> Robustness:
    """An error that rises with the square root of the fraction of flipped bits, faster where fewer are flipped."""
    fractions = (0.0, 0.001, 0.01, 0.1)
    own = network("binary", seed).errors["test"]
    return Robustness(
        network="a",
        split="test",
        samples=360,
        draws=5,
        weight=weight,
        bits=bits,
        fractions=fractions,
        errors=tuple(own + 500 / bits * fraction**0.5 for fraction in fractions),
        standard_errors=tuple(0.02 * fraction**0.5 for fraction in fractions),
    )
