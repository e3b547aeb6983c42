"""What 'Deep Networks on Toroids' claims of flat minima, tested in several precisions: many networks, one report.

usage: python scripts/reproduce_toroids.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/reproduce_toroids.py runs/toroids --data mnist --data-root data/mnist --out docs/results

Trains --networks networks with each of --algorithms in each of --precisions, on all cores, measures how flat each is,
everything between each two, and bends some paths. Everything finished is kept in RUN: an interrupted study goes on.
Writes OUT/toroids-DATA.md with its pictures, and the records to OUT/toroids-DATA/.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import torch

from compare.data import DATA_SETS, Data, load_data
from compare.data.split import reduced
from compare.errors import CompareError
from compare.experiment import build
from compare.family import Family, families
from compare.params import Params
from compare.progress import progress
from compare.relations.claims import Roles
from compare.report.study import document
from compare.report.study_charts import pictures
from compare.runs import identity, write_bytes, write_text
from compare.runs.configuration import Architecture, Configuration
from compare.runs.files import sole_writer
from compare.runs.provenance import command_line
from compare.runs.record import RecordError
from compare.runs.study import Bend, Member, Pair, Piece, Study, read_part, write_part
from compare.seeds import derived
from compare.study import Measures, Site, all_pairs, bend, member, pair, prepared, study
from compare.training import ADV, RSGD, SAM, BendSettings, TrainingSettings, read_checkpoint, train

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


@dataclass(frozen=True)
class Plan:
    """Everything that determines the study.

    Attributes:
        data: Data set.
        images: Training images that are used.
        architecture: Shape of all networks.
        networks: Number of networks of each algorithm and precision.
        algorithms: Names of ``RECIPES``; those that a precision has no recipe for are left out there.
        measures: What is measured.
        bends: Number of pairs of each algorithm that are bent.
        bend: How.
        root: Folder of the data set's files; no part of the identity.
    """

    data: str
    images: int
    architecture: Architecture
    networks: int
    algorithms: tuple[str, ...]
    measures: Measures
    bends: int
    bend: BendSettings
    root: Path | None

    def of(self, precision: str) -> dict[str, Any]:
        """Plain values: what determines the numbers of one precision."""
        recipes = RECIPES[precision]
        return {
            "data": self.data,
            "images": self.images,
            "calibration": CALIBRATION,
            "architecture": self.architecture.model_dump(mode="json"),
            "networks": self.networks,
            "training": {name: recipes[name].as_dict() for name in self.chosen(precision)},
            "measures": asdict(self.measures),
            "bends": self.bends,
            "bend": asdict(self.bend),
        }

    def chosen(self, precision: str) -> list[str]:
        """The algorithms of a precision."""
        return [name for name in self.algorithms if name in RECIPES[precision]]


@functools.cache
def _data(plan: Plan) -> Data:
    return reduced(load_data(plan.data, root=plan.root), plan.images, calibration=CALIBRATION)


@functools.cache
def _site(plan: Plan, precision: str, command: str) -> tuple[Family, Site]:
    family, data = families((precision,))[precision], _data(plan)
    model = build(family, Configuration(data=plan.data, architecture=plan.architecture), data, seed=0)
    return family, prepared(family, model, data, plan.measures, identity=identity(plan.of(precision)), command=command)


@dataclass(frozen=True)
class Job:
    """One piece of work, made by a process of its own.

    Attributes:
        plan: The study.
        precision: Which precision.
        folder: The study's.
        command: The command line, for the records.
        what: Networks' names: one to train and measure, two to connect or bend.
        bent: Whether the two are to be bent.
    """

    plan: Plan
    precision: str
    folder: Path
    command: str
    what: tuple[str, ...]
    bent: bool = False

    @property
    def file(self) -> Path:
        """Where its record is kept."""
        kind = "networks" if len(self.what) == 1 else "bends" if self.bent else "pairs"
        return self.folder / self.precision / kind / f"{'--'.join(self.what)}.json"

    @property
    def kind(self) -> type[Piece]:
        """What its record is."""
        return Member if len(self.what) == 1 else Bend if self.bent else Pair

    def is_done(self) -> bool:
        """Whether its record is there.

        Raises:
            RecordError: If it is there and is of another study.
        """
        if not self.file.exists():
            return False
        found = read_part(self.kind, self.file)
        if found.identity != identity(self.plan.of(self.precision)):
            raise RecordError(
                f"{self.file} belongs to a study with other settings: choose another folder, or remove this one"
            )
        return True

    def checkpoint(self, name: str) -> Path:
        """Where a network's checkpoint is kept."""
        return self.folder / self.precision / "checkpoints" / name

    def run(self) -> None:
        """Do it and keep the record."""
        torch.set_num_threads(1)
        family, site = _site(self.plan, self.precision, self.command)
        if len(self.what) == 1:
            write_part(self._network(family, site), self.file)
            return
        a, b = (read_checkpoint(self.checkpoint(name)).params for name in self.what)
        write_part(self._between(family, site, a, b), self.file)

    def _network(self, family: Family, site: Site) -> Member:
        (name,) = self.what
        algorithm, _, number = name.rpartition("-")
        configuration = Configuration(data=self.plan.data, architecture=self.plan.architecture)
        # Not the plain number: networks of one number would begin alike in all algorithms.
        model = build(family, configuration, site.data, seed=derived("toroids", algorithm, number) % 2**31)
        trained = train(
            model,
            site.data,
            family.recipe,
            settings=RECIPES[self.precision][algorithm],
            seed=int(number),
            folder=self.checkpoint(name),
        )
        return member(site, trained, algorithm)

    def _between(self, family: Family, site: Site, a: Params, b: Params) -> Pair | Bend:
        names = self.what[0], self.what[1]
        if not self.bent:
            return pair(site, names, a, b)
        return bend(site, names, a, b, settings=self.plan.bend, with_plane=names[0].endswith("-0"))


def jobs(plan: Plan, precision: str, folder: Path, command: str) -> tuple[list[Job], list[Job]]:
    """What is to be done: first all networks, then everything between two of them."""
    names = [f"{algorithm}-{i}" for algorithm in plan.chosen(precision) for i in range(plan.networks)]
    make = functools.partial(Job, plan, precision, folder, command)
    bent = [
        (f"{algorithm}-{2 * i}", f"{algorithm}-{2 * i + 1}")
        for algorithm in plan.chosen(precision)
        for i in range(min(plan.bends, plan.networks // 2))
    ]
    between = [make(what=names, bent=True) for names in bent] + [make(what=names) for names in all_pairs(names)]
    return [make(what=(name,)) for name in names], between


def done(work: Iterable[Job], cores: int, describe: str) -> None:
    """Everything that is not there yet, on several cores."""
    left = [job for job in work if not job.is_done()]
    run: Callable[[Job], None] = Job.run
    finished = joblib.Parallel(n_jobs=cores, return_as="generator_unordered")(joblib.delayed(run)(job) for job in left)
    for _ in progress(finished, describe, unit="piece", total=len(left)):
        pass


def collected(plan: Plan, precision: str, folder: Path, command: str) -> Study:
    """One precision's study from its parts."""
    first, between = jobs(plan, precision, folder, command)
    _, site = _site(plan, precision, command)
    return study(
        site,
        [read_part(Member, job.file) for job in first],
        [read_part(Pair, job.file) for job in between if not job.bent],
        [read_part(Bend, job.file) for job in between if job.bent],
        plan.of(precision),
    )


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


def planned(options: argparse.Namespace) -> tuple[Plan, list[str]]:
    """The plan, and precisions.

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
    plan = Plan(
        data=options.data,
        images=options.images,
        architecture=SHAPES.get(options.data, MLP),
        networks=options.networks,
        algorithms=algorithms,
        measures=Measures(samples=options.samples, points=options.points),
        bends=options.bends,
        bend=BEND,
        root=options.data_root,
    )
    return plan, precisions


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)
    command, name = command_line(), f"toroids-{options.data}"
    try:
        plan, precisions = planned(options)
        described = {precision: plan.of(precision) for precision in precisions}
        write_text(options.run / "study.json", json.dumps(described, indent=1) + "\n")
        with sole_writer(options.run):
            for step, describe in enumerate(("networks", "pairs and bends")):
                work = [job for p in precisions for job in jobs(plan, p, options.run, command)[step]]
                done(work, options.jobs, describe)
        studies = [collected(plan, precision, options.run, command) for precision in precisions]
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
