"""What 'Deep Networks on Toroids' claims of flat minima, tested in several precisions: many networks, one report.

usage: python scripts/reproduce_toroids.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/reproduce_toroids.py runs/toroids --data mnist --data-root data/mnist --out docs/results

Trains --networks networks with each of --algorithms in each of --precisions, on all cores, measures how flat each is,
everything between each two, and bends some paths. Everything finished is kept in RUN: an interrupted study goes on.
Writes OUT/toroids-DATA.md with its pictures, and the records to OUT/toroids-DATA/.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compare.data import DATA_SETS
from compare.errors import CompareError
from compare.relations import Roles
from compare.report.study import document
from compare.report.study_charts import pictures
from compare.runs import write_bytes, write_text
from compare.runs.configuration import Architecture
from compare.runs.files import sole_writer
from compare.runs.provenance import command_line
from compare.runs.study import write_part
from compare.study import Kind, Measures, Plan, carry_out, collected, jobs
from compare.training import ADV, RSGD, SAM, BendSettings, TrainingSettings

ALGORITHMS = ("sgd", "adam", "rsgd", "adv", "sam")
MLP = Architecture(network="mlp", hidden=(512, 512))
SHAPES = {
    "digits": Architecture(network="mlp", hidden=(64, 64)),
    "cifar10": Architecture(network="vgg", stages=((16,), (32,), (32,)), hidden=(64,)),
}
"""Shapes of networks by data set, ``MLP`` for others."""

# Found by trying on 10,000 training images of MNIST (docs/algorithms.md): all end at a training error of 0 to 0.02 %.
FULL = TrainingSettings(epochs=20, batch=100, optimiser="sgd", learning_rate=0.05)
BINARY = TrainingSettings(epochs=20, batch=100, optimiser="adam", learning_rate=3e-3)
RECIPES: dict[str, dict[str, TrainingSettings]] = {
    "full": {
        "sgd": FULL,
        "rsgd": replace(FULL, algorithm=RSGD(replicas=3, coupling=0.02, growth=1e5, spread=0.3)),
        "adv": replace(FULL, algorithm=ADV(random_epochs=40)),
        "sam": replace(FULL, algorithm=SAM(rho=0.1)),
    },
    "binary": {
        "sgd": replace(BINARY, optimiser="sgd", learning_rate=1.0),
        "adam": BINARY,
        "rsgd": replace(BINARY, algorithm=RSGD(replicas=3, coupling=10.0, growth=1e5, spread=0.3)),
        "adv": replace(BINARY, algorithm=ADV(random_epochs=60)),
        "sam": replace(BINARY, algorithm=SAM(rho=0.1)),
    },
}
"""Settings by precision and algorithm."""

# Training images that statistics are re-estimated on.
CALIBRATION = 2000

# Plain training with the optimiser of the other algorithms.
ROLES = {"binary": Roles(baseline="adam"), "full": Roles(baseline="sgd")}
BEND = BendSettings()


class StudyError(CompareError, ValueError):
    """Options that make no study."""


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Train networks with several algorithms; relate flatness, distance, barrier and test error.",
        epilog="example: python scripts/reproduce_toroids.py runs/mnist --data mnist --data-root data/mnist --out out",
    )
    parser.add_argument("run", type=Path, help="folder of the study; an interrupted one goes on")
    parser.add_argument("--data", default="digits", choices=DATA_SETS, help="data set (default: digits, embedded)")
    parser.add_argument("--data-root", type=Path, help="folder of the data set's files")
    parser.add_argument("--images", type=int, default=10_000, help="training images (default: %(default)s)")
    parser.add_argument(
        "--networks", type=int, default=5, help="of each algorithm and precision (default: %(default)s)"
    )
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS), help="default: %(default)s (adam: binary alone)")
    parser.add_argument("--precisions", default="binary,full", help="default: %(default)s")
    parser.add_argument("--bends", type=int, default=2, help="pairs of each algorithm bent (default: %(default)s)")
    parser.add_argument("--points", type=int, default=13, help="networks on each path (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="of each split, on paths (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the document")
    return parser.parse_args(arguments)


def planned(options: argparse.Namespace) -> Plan:
    """The plan.

    Raises:
        CompareError: For options that make no study.
    """
    precisions, algorithms = options.precisions.split(","), tuple(options.algorithms.split(","))
    for precision in precisions:
        if precision not in RECIPES:
            raise StudyError(f"--precisions: expected some of {', '.join(RECIPES)}, got {precision!r}")
    known = {name for recipes in RECIPES.values() for name in recipes}
    for name in algorithms:
        if name not in known:
            raise StudyError(f"--algorithms: expected some of {', '.join(sorted(known))}, got {name!r}")
    for name, least in {"networks": 1, "images": 100, "bends": 0, "samples": 2}.items():
        if getattr(options, name) < least:
            raise StudyError(f"--{name}: expected at least {least}, got {getattr(options, name)}")
    if options.points < 3 or options.points % 2 == 0:
        raise StudyError(f"--points: expected an odd number from 3 on, the middle among them, got {options.points}")
    return Plan(
        data=options.data,
        images=options.images,
        calibration=CALIBRATION,
        architecture=SHAPES.get(options.data, MLP),
        networks=options.networks,
        kinds=tuple(
            Kind(precision, name, RECIPES[precision][name])
            for precision in precisions
            for name in algorithms
            if name in RECIPES[precision]
        ),
        measures=Measures(samples=options.samples, points=options.points),
        bends=options.bends,
        bend=BEND,
        root=options.data_root,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)
    command, name = command_line(), f"toroids-{options.data}"
    try:
        plan = planned(options)
        described = {precision: plan.described(precision) for precision in plan.precisions}
        write_text(options.run / "study.json", json.dumps(described, indent=1) + "\n")
        with sole_writer(options.run):
            for step, describe in enumerate(("networks", "pairs and bends")):
                work = [job for p in plan.precisions for job in jobs(plan, p, options.run, command)[step]]
                carry_out(work, options.jobs, describe)
        studies = [collected(plan, precision, options.run, command) for precision in plan.precisions]
    except CompareError as error:
        print(f"reproduce_toroids.py: error: {error}", file=sys.stderr)
        return 2
    for found in studies:
        write_part(found, options.out / name / f"{found.precision}.json")
    for title, content in pictures(studies).items():
        write_bytes(options.out / f"{name}-{title}.png", content)
    write_text(options.out / f"{name}.md", document(studies, name, roles=ROLES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
