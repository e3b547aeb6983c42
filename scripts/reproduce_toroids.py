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
from collections.abc import Mapping, Sequence
from dataclasses import replace

import studies

from compare.relations import Roles
from compare.report.study import document
from compare.report.study_charts import pictures, study_charts
from compare.runs import write_bytes, write_text
from compare.runs.configuration import Architecture
from compare.runs.files import check_writable, sole_writer
from compare.runs.provenance import command_line, provenance
from compare.runs.study import Study, read_part, write_part
from compare.study import Job, Kind, Measures, Plan, carry_out, collected, jobs
from compare.training import ADV, RSGD, SAM, BendSettings, TrainingSettings

ALGORITHMS = ("sgd", "adam", "rsgd", "adv", "sam")
MLP = Architecture(network="mlp", hidden=(512, 512))
SHAPES = {
    "digits": Architecture(network="mlp", hidden=(64, 64)),
    "cifar10": Architecture(network="vgg", stages=((16,), (32,), (64,)), hidden=(128,)),
}
"""Shapes of networks by data set, ``MLP`` for others."""

# Plain training with the optimiser of the other algorithms.
ROLES = {"binary": Roles(baseline="adam"), "full": Roles(baseline="sgd")}
BEND = BendSettings(epochs=30)


def recipes(data: str, epochs: int) -> dict[str, dict[str, TrainingSettings]]:
    """Settings by precision and algorithm.

    Found by trying on 10,000 training images of MNIST with 20 epochs (trial_recipes.py): all end at a training error of
    0 there, at rates whose minima are among the flatter ones. Random labels get two to three times as many epochs.
    """
    full = TrainingSettings(epochs=epochs, batch=100, optimiser="sgd", learning_rate=0.2)
    binary = TrainingSettings(epochs=epochs, batch=100, optimiser="adam", learning_rate=0.01)
    found = {
        "full": {
            "sgd": full,
            "rsgd": replace(full, algorithm=RSGD(replicas=3, coupling=0.0002, growth=1e5, spread=0.03)),
            "adv": replace(full, algorithm=ADV(random_epochs=2 * epochs)),
            "sam": replace(full, algorithm=SAM(rho=0.1)),
        },
        "binary": {
            "sgd": replace(binary, optimiser="sgd", learning_rate=3.0),
            "adam": binary,
            "rsgd": replace(binary, algorithm=RSGD(replicas=3, coupling=0.2, growth=1e5, spread=0.03)),
            "adv": replace(binary, algorithm=ADV(random_epochs=3 * epochs)),
            "sam": replace(binary, algorithm=SAM(rho=0.1)),
        },
    }
    if data == "cifar10":  # its learning rate was found for perceptrons
        del found["binary"]["sgd"]
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Train networks with several algorithms; relate flatness, distance, barrier and test error.",
        "reproduce_toroids.py runs/mnist --data mnist --data-root data/mnist --out out",
        folder="folder of the study; an interrupted one goes on",
        data="digits",
    )
    parser.add_argument("--images", type=int, default=10_000, help="training images (default: %(default)s)")
    parser.add_argument("--test-images", type=int, help="test images that are used, at least 10 (default: all)")
    parser.add_argument("--epochs", type=int, default=20, help="of training (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=5, help="of each algorithm (default: %(default)s)")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS), help="default: %(default)s (adam: binary alone)")
    parser.add_argument("--precisions", default="binary,full", help="default: %(default)s")
    parser.add_argument("--bends", type=int, default=2, help="pairs of each algorithm bent (default: %(default)s)")
    parser.add_argument("--points", type=int, default=13, help="networks on each path (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="of each split, on paths (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=2000, help="images to re-estimate statistics on (2000)")
    parser.add_argument("--flat-samples", type=int, default=2000, help="images to measure flatness on (2000)")
    return studies.parsed(
        parser, arguments, records="measure nothing: write the document anew from the records in OUT/toroids-DATA"
    )


def planned(options: argparse.Namespace) -> Plan:
    """The plan.

    Raises:
        OptionError: For options that make no study.
    """
    precisions, algorithms = options.precisions.split(","), options.algorithms.split(",")
    known = recipes(options.data, max(1, options.epochs))
    _check_names(known, precisions, algorithms)
    _check_numbers(options)
    return Plan(
        data=options.data,
        images=options.images,
        calibration=options.calibration,
        architecture=SHAPES.get(options.data, MLP),
        networks=options.networks,
        kinds=tuple(
            Kind(precision, name, known[precision][name])
            for precision in precisions
            for name in algorithms
            if name in known[precision]
        ),
        measures=Measures(
            samples=options.samples,
            points=options.points,
            flat_samples=options.flat_samples,
            curved_samples=max(1, options.flat_samples // 2),
        ),
        bends=options.bends,
        bend=BEND,
        test_images=options.test_images,
        root=options.data_root,
    )


def _check_names(
    known: Mapping[str, Mapping[str, TrainingSettings]], precisions: Sequence[str], algorithms: Sequence[str]
) -> None:
    every = sorted({name for some in known.values() for name in some})
    for name in algorithms:
        if name not in every:
            raise studies.OptionError(f"--algorithms: expected some of {', '.join(every)}, got {name!r}")
    for precision in precisions:
        if precision not in known:
            raise studies.OptionError(f"--precisions: expected some of {', '.join(known)}, got {precision!r}")
        if not set(algorithms) & known[precision].keys():
            raise studies.OptionError(
                f"--algorithms: {precision!r} has none of {', '.join(algorithms)}: expected at least one of "
                f"{', '.join(known[precision])}"
            )


def _check_numbers(options: argparse.Namespace) -> None:
    least = {"networks": 1, "epochs": 1, "images": 100, "calibration": 2, "flat_samples": 2, "bends": 0, "samples": 2}
    studies.check(options, {**least, "test_images": 10})
    if options.points < 3 or options.points % 2 == 0:
        raise studies.OptionError(
            f"--points: expected an odd number from 3 on, the middle among them, got {options.points}"
        )


def measured(options: argparse.Namespace) -> list[Study]:
    """One study for each precision, measured where parts are not there yet.

    Raises:
        CompareError: For options that make no study, parts of another study, or training that diverges.
    """
    plan, made = planned(options), provenance(threads=1, command=command_line())
    described = {precision: plan.described(precision) for precision in plan.precisions}
    steps: tuple[list[Job], list[Job]] = ([], [])
    for precision in plan.precisions:
        for step, work in zip(steps, jobs(plan, precision, options.run, made), strict=True):
            step += work
    left = [[job for job in step if not job.is_done()] for step in steps]
    check_writable(options.run / "study.json")
    options.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.run):
        write_text(options.run / "study.json", json.dumps(described, indent=1) + "\n")
        for step, work, what in zip(steps, left, ("networks", "pairs and bends"), strict=True):
            studies.say(f"{what}: {len(step) - len(work)} of {len(step)} are there, {len(work)} to do")
            carry_out(work, options.jobs, what)
    return [collected(plan, precision, options.run, made) for precision in plan.precisions]


def written(options: argparse.Namespace, found: Sequence[Study]) -> None:
    """The document with its pictures and records.

    Raises:
        CompareError: If it cannot be made or written.
    """
    name = _name(options)
    for study in found:
        write_part(study, options.out / name / f"{study.precision}.json")
    charts = study_charts(found)
    for title, content in pictures(found, charts=charts).items():
        write_bytes(options.out / f"{name}-{title}.png", content)
    write_text(options.out / f"{name}.md", document(found, name, roles=ROLES, figures=charts))


def _name(options: argparse.Namespace) -> str:
    return f"toroids-{options.data}"


def _kept(options: argparse.Namespace) -> list[Study]:
    folder = options.out / _name(options)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise studies.OptionError(
            f"--records: expected records (*.json) in {folder}, where a study's document puts them"
        )
    return [read_part(Study, file) for file in files]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)

    def make() -> None:
        written(options, _kept(options) if options.records else measured(options))

    return studies.finished("reproduce_toroids.py", options, _name(options), make)


if __name__ == "__main__":
    sys.exit(main())
