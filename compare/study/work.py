"""The work of a study: what is to be done, done on several cores, kept piece by piece."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import torch

from compare.data import Data, load_data
from compare.data.split import reduced
from compare.experiment import build
from compare.family import families
from compare.params import Params
from compare.progress import progress
from compare.runs import identity
from compare.runs.configuration import Architecture, Configuration
from compare.runs.record import RecordError
from compare.runs.study import Bend, Member, Pair, Piece, Study, read_part, write_part
from compare.seeds import derived
from compare.study.between import bend, pair
from compare.study.network import member
from compare.study.site import Measures, Site, prepared
from compare.study.whole import all_pairs, study
from compare.training import BendSettings, TrainingSettings, read_checkpoint, train


@dataclass(frozen=True)
class Kind:
    """Networks of one precision that are trained alike.

    Attributes:
        precision: Which.
        algorithm: A name for the settings.
        settings: How they are trained.
    """

    precision: str
    algorithm: str
    settings: TrainingSettings


@dataclass(frozen=True)
class Plan:
    """Everything that determines a study.

    Attributes:
        data: Data set.
        images: Training images that are used.
        calibration: How many of them statistics are re-estimated on.
        architecture: Shape of all networks.
        networks: Number of networks of each kind.
        kinds: What is trained.
        measures: What is measured.
        bends: Number of pairs of each kind that are bent.
        bend: How.
        root: Folder of the data set's files; no part of the identity.
    """

    data: str
    images: int
    calibration: int
    architecture: Architecture
    networks: int
    kinds: tuple[Kind, ...]
    measures: Measures
    bends: int
    bend: BendSettings
    root: Path | None = None

    @property
    def precisions(self) -> tuple[str, ...]:
        """All precisions, each once."""
        return tuple(dict.fromkeys(kind.precision for kind in self.kinds))

    def training(self, precision: str) -> dict[str, TrainingSettings]:
        """Settings by algorithm."""
        return {kind.algorithm: kind.settings for kind in self.kinds if kind.precision == precision}

    def described(self, precision: str) -> dict[str, Any]:
        """Plain values: what determines the numbers of one precision."""
        return {
            "data": self.data,
            "images": self.images,
            "calibration": self.calibration,
            "architecture": self.architecture.model_dump(mode="json"),
            "networks": self.networks,
            "training": {name: settings.as_dict() for name, settings in self.training(precision).items()},
            "measures": asdict(self.measures),
            "bends": self.bends,
            "bend": asdict(self.bend),
        }

    def identity(self, precision: str) -> str:
        """Of ``described``."""
        return identity(self.described(precision))


@functools.cache
def _data(plan: Plan) -> Data:
    return reduced(load_data(plan.data, root=plan.root), plan.images, calibration=plan.calibration)


@functools.cache
def site(plan: Plan, precision: str, command: str | None) -> Site:
    """A precision's network and data, made once in each process.

    Args:
        plan: The study.
        precision: Which precision.
        command: The command line, for the records.

    Returns:
        What all measurements take.

    Raises:
        CompareError: If precision, data or network cannot be had.
    """
    family, data = families((precision,))[precision], _data(plan)
    model = build(family, _shape(plan), data, seed=0)
    return prepared(family, model, data, plan.measures, identity=plan.identity(precision), command=command)


def _shape(plan: Plan) -> Configuration:
    return Configuration(data=plan.data, architecture=plan.architecture)


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
    command: str | None
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
        if found.identity != self.plan.identity(self.precision):
            raise RecordError(
                f"{self.file} belongs to a study with other settings: choose another folder, or remove this one"
            )
        return True

    def run(self) -> None:
        """Do it, on one thread, and keep the record."""
        torch.set_num_threads(1)
        place = site(self.plan, self.precision, self.command)
        if len(self.what) == 1:
            write_part(self._network(place), self.file)
            return
        a, b = (read_checkpoint(self._checkpoint(name)).params for name in self.what)
        write_part(self._between(place, a, b), self.file)

    def _checkpoint(self, name: str) -> Path:
        return self.folder / self.precision / "checkpoints" / name

    def _network(self, place: Site) -> Member:
        (name,) = self.what
        algorithm, _, number = name.rpartition("-")
        # Not the plain number: networks of one number would begin alike in all algorithms.
        seed = derived("study", algorithm, number) % 2**31
        trained = train(
            build(place.family, _shape(self.plan), place.data, seed=seed),
            place.data,
            place.family.recipe,
            settings=self.plan.training(self.precision)[algorithm],
            seed=int(number),
            folder=self._checkpoint(name),
        )
        return member(place, trained, algorithm)

    def _between(self, place: Site, a: Params, b: Params) -> Pair | Bend:
        names = self.what[0], self.what[1]
        if not self.bent:
            return pair(place, names, a, b)
        return bend(place, names, a, b, settings=self.plan.bend, with_plane=names[0].endswith("-0"))


def jobs(plan: Plan, precision: str, folder: Path, command: str | None) -> tuple[list[Job], list[Job]]:
    """What is to be done.

    Args:
        plan: The study.
        precision: Which precision.
        folder: The study's.
        command: The command line, for the records.

    Returns:
        First all networks, then everything between two of them, which needs these.
    """
    algorithms = list(plan.training(precision))
    names = [f"{algorithm}-{i}" for algorithm in algorithms for i in range(plan.networks)]
    make = functools.partial(Job, plan, precision, folder, command)
    bent = [
        (f"{algorithm}-{2 * i}", f"{algorithm}-{2 * i + 1}")
        for algorithm in algorithms
        for i in range(min(plan.bends, plan.networks // 2))
    ]
    between = [make(what=names, bent=True) for names in bent] + [make(what=names) for names in all_pairs(names)]
    return [make(what=(name,)) for name in names], between


def carry_out(work: Iterable[Job], cores: int, describe: str | None) -> None:
    """Do everything that is not there yet, on several cores.

    Args:
        work: Jobs that do not depend on each other.
        cores: Number of processes, as joblib takes it: -1 is one for each core.
        describe: Text before the progress line; None shows none.

    Raises:
        CompareError: As the first job that fails; what is done is kept.
    """
    left = [job for job in work if not job.is_done()]
    run: Callable[[Job], None] = Job.run
    finished = joblib.Parallel(n_jobs=cores, return_as="generator_unordered")(joblib.delayed(run)(job) for job in left)
    for _ in progress(finished, describe, unit="piece", total=len(left)):
        pass


def collected(plan: Plan, precision: str, folder: Path, command: str | None) -> Study:
    """One precision's study from its parts.

    Args:
        plan: The study.
        precision: Which precision.
        folder: Where the parts are kept.
        command: The command line, for the record.

    Returns:
        The study.

    Raises:
        RecordError: If a part is missing.
    """
    first, between = jobs(plan, precision, folder, command)
    return study(
        site(plan, precision, command),
        [read_part(Member, job.file) for job in first],
        [read_part(Pair, job.file) for job in between if not job.bent],
        [read_part(Bend, job.file) for job in between if job.bent],
        plan.described(precision),
    )
