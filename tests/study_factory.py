"""Made-up studies for tests of relations and report: plausible numbers from formulas, measured on nothing."""

import itertools
from typing import Any

import numpy as np

from compare.runs.record import Data, Distance, Epoch, Provenance
from compare.runs.study import Bend, Bent, Curvature, Height, Member, Pair, Rises, Study, Worst

# How sharp the minima of each algorithm are; everything follows from it.
SHARPNESS = {"sgd": 1.0, "rsgd": 0.6, "adv": 2.0, "sam": 0.8, "adam": 1.1, "bop": 1.4}
HEIGHTS = {
    ("as trained", "linear"): 0.5,
    ("standard form", "linear"): 0.4,
    ("standard form", "geodesic"): 0.35,
    ("matched", "linear"): 0.1,
    ("matched", "geodesic"): 0.08,
}
SIGMAS, FRACTIONS = (0.1, 0.3, 0.5), (0.01, 0.05, 0.2)
ABOUT = {
    "identity": "0123456789",
    "provenance": Provenance(
        created="2000-01-01T00:00:00+00:00",
        revision="0" * 40,
        command="python scripts/made_up.py",
        python="3.11.7",
        platform="Linux x86_64",
        threads=1,
        packages={"torch": "2.13.0", "brevitas": "0.13.4"},
    ),
}


def made_up_study(
    precision: str = "full",
    algorithms: tuple[str, ...] = ("sgd", "rsgd", "adv", "sam"),
    networks: int = 5,
    **changes: Any,
) -> Study:
    """A study; the same arguments give the same one. ``changes`` replace its fields."""
    members = tuple(member(precision, name, seed) for name, seed in itertools.product(algorithms, range(networks)))
    content: dict[str, Any] = {
        **ABOUT,
        "precision": precision,
        "title": f"{precision} networks",
        "bits": 1.0 if precision == "binary" else 32.0,
        "model": "64 - 32 - 32 - 10",
        "data": Data(
            name="made-up digits",
            fingerprint="0123456789ab",
            classes=10,
            train=1500,
            test=297,
            evaluated={"train": 1000, "test": 297},
            calibration=1000,
        ),
        "networks": members,
        "pairs": tuple(pair(precision, a, b) for a, b in itertools.combinations(members, 2)),
        "bends": tuple(bend(precision, name, ends) for name in algorithms for ends in ((0, 1), (2, 3)) if networks > 3),
        "configuration": {"epochs": 10},
    }
    return Study(**{**content, **changes})


def jitter(*parts: object) -> float:
    """A number in -1 .. 1 that depends on all parts, and on nothing else."""
    seed = [ord(letter) for part in parts for letter in str(part)]
    return float(np.random.default_rng(seed).uniform(-1, 1))


def member(precision: str, algorithm: str, seed: int, **changes: Any) -> Member:
    """One network: the sharper, the more it errs on test samples."""
    sharp = SHARPNESS[algorithm] * (1 + 0.1 * jitter(precision, algorithm, seed))
    content: dict[str, Any] = {
        **ABOUT,
        "precision": precision,
        "algorithm": algorithm,
        "seed": seed,
        "errors": {
            "train": 0.002 + 0.0002 * jitter("train", precision, algorithm, seed),
            "test": 0.02 + 0.01 * sharp + 0.001 * jitter("test", precision, algorithm, seed),
        },
        "losses": {"train": 0.01, "test": 0.08},
        "parameters": 3370,
        "energy": rises(SIGMAS, 0.2 * sharp),
        "flips": rises(FRACTIONS, 0.5 * sharp) if precision == "binary" else None,
        "worst": Worst(
            split="train", samples=500, ball="bits" if precision == "binary" else "weights", radius=0.1, loss=0.01,
            error=0.002, worst_loss=sharp, worst_error=0.1 * sharp, surrogate=precision == "binary",
        ),
        "curvature": Curvature(
            split="train", samples=500, eigenvalues=(10 * sharp, 5 * sharp), trace=40 * sharp,
            trace_standard_error=1.5, surrogate=precision == "binary",
        ),
        "history": random_first(0.05 + 0.01 * jitter("random", precision, seed)) if algorithm == "adv" else (),
        "settings": settings(algorithm),
        "seconds": {"training": 60.0, "measuring": 6.0},
    }  # fmt: skip
    return Member(**{**content, **changes})


def random_first(error: float) -> tuple[Epoch, ...]:
    """Two epochs on random labels, the second with this training error, then ten on the true ones."""
    errors = (0.5, error, *(0.1 / (1 + i) for i in range(10)))
    return tuple(
        Epoch(epoch=i, train_loss=0.1, train_error=e, test_error=0.05, learning_rate=0.05, seconds=5.0)
        for i, e in enumerate(errors, 1)
    )


def settings(algorithm: str) -> dict[str, Any]:
    """As ``TrainingSettings.as_dict`` gives them."""
    own = {
        "rsgd": {"name": "rsgd", "replicas": 3, "coupling": 0.02, "growth": 1e5, "spread": 0.3},
        "adv": {"name": "adv", "random_epochs": 40, "random_error": 0.0, "random_learning_rate": None},
        "sam": {"name": "sam", "rho": 0.1},
    }
    optimiser = algorithm if algorithm in ("adam", "bop") else "sgd"
    shared = {"epochs": 10, "batch": 100, "optimiser": optimiser, "learning_rate": 0.05, "weight_decay": 0.0}
    return {**shared, "algorithm": own[algorithm]} if algorithm in own else shared


def rises(sizes: tuple[float, ...], slope: float) -> Rises:
    """Rises that grow with the size."""
    return Rises(
        split="train",
        samples=500,
        draws=10,
        error=0.002,
        sizes=sizes,
        rises=tuple(slope * size**2 for size in sizes),
        standard_errors=tuple(0.1 * slope * size**2 for size in sizes),
    )


def pair(precision: str, a: Member, b: Member, **changes: Any) -> Pair:
    """Distances and heights that grow with the sharpness of both ends."""
    sharp = (SHARPNESS[a.algorithm] + SHARPNESS[b.algorithm]) / 2 * (1 + 0.1 * jitter(precision, a.name, b.name))
    binary = precision == "binary"
    content: dict[str, Any] = {
        **ABOUT,
        "precision": precision,
        "networks": (a.name, b.name),
        "distances": tuple(
            Distance(
                treatment=treatment,
                angle=8 * angle,
                rms_angle=angle,
                spheres=65,
                hamming=angle / np.pi if binary else None,
                euclidean=angle,
            )
            for treatment, angle in (("as trained", 1.57), ("standard form", 1.57), ("matched", 1.1 + 0.1 * sharp))
        ),
        "heights": tuple(
            Height(
                treatment=treatment,
                path=path,
                statistics=statistics,
                split=split,
                samples=1000,
                points=13,
                barrier=height * share * sharp / 2,
                over_chord=height * share * sharp / 1.9,
                midpoint=height * share * sharp / 2,
            )
            for (treatment, path), height in HEIGHTS.items()
            for statistics, share in (("interpolated", 1.0), ("re-estimated", 0.2))
            for split in ("train", "test")
        ),
        "objective": 180.0,
        "bound": 220.0,
        "seconds": 3.0,
    }
    return Pair(**{**content, **changes})


def bend(precision: str, algorithm: str, seeds: tuple[int, int], **changes: Any) -> Bend:
    """Bends from unmatched and matched ends; the matched ones stay as low as the ends."""
    content: dict[str, Any] = {
        **ABOUT,
        "precision": precision,
        "networks": tuple(f"{algorithm}-{seed}" for seed in seeds),
        "bends": tuple(
            Bent(
                treatment=treatment,
                path="linear",
                statistics=statistics,
                split="train",
                samples=1000,
                ts=(0.0, 0.25, 0.5, 0.75, 1.0),
                errors=(0.001, 0.001 + above, 0.001, 0.002, 0.002),
                straight_errors=(0.001, 0.05, 0.1, 0.05, 0.002),
                target=0.003,
                reached=0.001 + above <= 0.003,
                length=12.5,
                straight_length=10.0,
                norm="Euclidean",
                epochs=5,
                seconds=20.0,
            )
            for treatment, above in (("as trained", 0.01), ("matched", 0.0015))
            for statistics in ("interpolated", "re-estimated")
        ),
    }
    return Bend(**{**content, **changes})
