"""The work of a study: what is to be done, done on several cores, kept piece by piece."""

import functools
from collections.abc import Iterable
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
from compare.runs.record import Provenance, RecordError
from compare.runs.study import Bend, Member, Pair, Piece, Study, read_part, write_part
from compare.seeds import derived
from compare.study.between import bend, pair
from compare.study.network import member
from compare.study.site import Measures, Origin, Site, prepared
from compare.study.whole import all_pairs, study
from compare.training import BendSettings, CheckpointError, TrainingSettings, read_checkpoint, train


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
        test_images: Test images that are used; None for all.
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
    test_images: int | None = None
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
            "fingerprint": _data(self).fingerprint,
            "images": self.images,
            "calibration": self.calibration,
            "architecture": self.architecture.model_dump(mode="json"),
            "networks": self.networks,
            "training": {name: settings.as_dict() for name, settings in self.training(precision).items()},
            "measures": asdict(self.measures),
            "bends": self.bends,
            "bend": asdict(self.bend),
        }

    def identity(self, precision: str, algorithms: Iterable[str], *, bent: bool = False) -> str:
        """Of what determines one piece, and of nothing else: more networks or algorithms leave it as it is.

        Args:
            precision: The piece's.
            algorithms: Those of its networks.
            bent: Whether it is a bend.

        Returns:
            Twelve hexadecimal digits.
        """
        whole = self.described(precision)
        training = {name: whole["training"][name] for name in sorted(set(algorithms))}
        shared = ("data", "fingerprint", "images", "calibration", "architecture", "measures")
        return identity({name: whole[name] for name in (*shared, *(["bend"] if bent else []))} | {"training": training})


@functools.cache
def _data(plan: Plan) -> Data:
    data = load_data(plan.data, root=plan.root)
    return reduced(data, plan.images, calibration=plan.calibration, test=plan.test_images)


@functools.cache
def site(plan: Plan, precision: str) -> Site:
    """A precision's network and data, made once in each process.

    Args:
        plan: The study.
        precision: Which precision.

    Returns:
        What all measurements take.

    Raises:
        CompareError: If precision, data or network cannot be had.
    """
    family, data = families((precision,))[precision], _data(plan)
    model = build(family, _shape(plan), data, seed=0)
    return prepared(family, model, data, plan.measures)


def _shape(plan: Plan) -> Configuration:
    return Configuration(data=plan.data, architecture=plan.architecture)


@dataclass(frozen=True)
class Job:
    """One piece of work, made by a process of its own.

    Attributes:
        plan: The study.
        precision: Which precision.
        folder: The study's.
        made: Where the records come from.
        what: Networks' names: one to train and measure, two to connect or bend.
        bent: Whether the two are to be bent.
    """

    plan: Plan
    precision: str
    folder: Path
    made: Provenance
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

    @property
    def identity(self) -> str:
        """Of what determines its numbers."""
        return self.plan.identity(self.precision, map(_algorithm, self.what), bent=self.bent)

    def is_done(self) -> bool:
        """Whether its record is there.

        Raises:
            RecordError: If it is there and is of another study.
        """
        if not self.file.exists():
            return False
        found = read_part(self.kind, self.file)
        if found.identity != self.identity:
            raise RecordError(
                f"{self.file} belongs to a study with other settings: choose another folder, or remove this one"
            )
        return True

    def run(self) -> None:
        """Do it, on one thread, and keep the record."""
        torch.set_num_threads(1)
        place, origin = site(self.plan, self.precision), Origin(self.identity, self.made)
        if len(self.what) == 1:
            write_part(self._network(place, origin), self.file)
            return
        a, b = (self._params(name) for name in self.what)
        write_part(self._between(place, a, b, origin), self.file)

    def _checkpoint(self, name: str) -> Path:
        return self.folder / self.precision / "checkpoints" / name

    def _params(self, name: str) -> Params:
        try:
            return read_checkpoint(self._checkpoint(name)).params
        except CheckpointError as error:
            record = Job(self.plan, self.precision, self.folder, self.made, (name,)).file
            raise CheckpointError(f"{error}. Remove {record}: the network is trained again") from error

    def _network(self, place: Site, origin: Origin) -> Member:
        (name,) = self.what
        algorithm, number = _algorithm(name), name.rpartition("-")[2]
        # Not the plain number: networks of one number would begin alike in all algorithms.
        seed = derived("study", algorithm, number) % 2**31
        trained = train(
            build(place.family, _shape(self.plan), place.data, seed=seed),
            place.data,
            place.family.recipe,
            settings=self.plan.training(self.precision)[algorithm],
            seed=int(number),
            folder=self._checkpoint(name),
            # Test errors are kept with a checkpoint, which otherwise knows the training data alone.
            about=None if self.plan.test_images is None else {"test_images": self.plan.test_images},
        )
        return member(place, trained, algorithm, origin)

    def _between(self, place: Site, a: Params, b: Params, origin: Origin) -> Pair | Bend:
        names = self.what[0], self.what[1]
        if not self.bent:
            return pair(place, names, a, b, origin)
        return bend(place, names, a, b, origin, settings=self.plan.bend, with_plane=names[0].endswith("-0"))


def _algorithm(name: str) -> str:
    return name.rpartition("-")[0]


def jobs(plan: Plan, precision: str, folder: Path, made: Provenance) -> tuple[list[Job], list[Job]]:
    """What is to be done.

    Args:
        plan: The study.
        precision: Which precision.
        folder: The study's.
        made: Where new records come from.

    Returns:
        First all networks, then everything between two of them, which needs these.
    """
    algorithms = list(plan.training(precision))
    names = [f"{algorithm}-{i}" for algorithm in algorithms for i in range(plan.networks)]
    make = functools.partial(Job, plan, precision, folder, made)
    bent = [
        (f"{algorithm}-{2 * i}", f"{algorithm}-{2 * i + 1}")
        for algorithm in algorithms
        for i in range(min(plan.bends, plan.networks // 2))
    ]
    between = [make(what=names, bent=True) for names in bent] + [make(what=names) for names in all_pairs(names)]
    return [make(what=(name,)) for name in names], between


def carry_out(work: Iterable[Job], cores: int, describe: str | None) -> None:
    """Do all of it on several cores.

    Args:
        work: Jobs that do not depend on each other.
        cores: Number of processes, as joblib takes it: -1 is one for each core.
        describe: Text before the progress line; None shows none.

    Raises:
        CompareError: As the first job that fails; what is done is kept.
    """
    left, run = list(work), Job.run
    finished = joblib.Parallel(n_jobs=cores, return_as="generator_unordered")(joblib.delayed(run)(job) for job in left)
    for _ in progress(finished, describe, unit="piece", total=len(left)):
        pass


def collected(plan: Plan, precision: str, folder: Path, made: Provenance) -> Study:
    """One precision's study from its parts.

    Args:
        plan: The study.
        precision: Which precision.
        folder: Where the parts are kept.
        made: Where new records come from; the study's own is that of its first network.

    Returns:
        The study.

    Raises:
        RecordError: If a part is missing.
    """
    first, between = jobs(plan, precision, folder, made)
    networks = [read_part(Member, job.file) for job in first]
    return study(
        site(plan, precision),
        networks,
        [read_part(Pair, job.file) for job in between if not job.bent],
        [read_part(Bend, job.file) for job in between if job.bent],
        plan.described(precision),
        Origin(plan.identity(precision, plan.training(precision), bent=True), networks[0].provenance),
    )
