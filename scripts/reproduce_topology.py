"""What 'Topology and Geometry of Half-Rectified Network Optimization' claims of level sets, tested in two precisions.

usage: python scripts/reproduce_topology.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/reproduce_topology.py runs/topology --data mnist --data-root data/mnist --out docs/results

Samples strings between networks: the published regression, a control that must not connect, linear networks, and
perceptrons on images, full and binary, as trained, in standard form and matched. Beside them stand bands of beads at
equal distances and the constructed paths of the theory. Everything finished is kept in RUN: an interrupted study goes
on. Writes OUT/topology-DATA.md with its picture, and the records it is made from, OUT/topology-DATA.json.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import studies
import torch
from topology_images import Images, image_data, image_tasks
from topology_tasks import Task, small_tasks, task_identity

from compare.report.strings import document
from compare.report.strings_charts import pictures
from compare.runs import write_bytes, write_text
from compare.runs.files import check_writable, sole_writer
from compare.runs.record import RecordError
from compare.runs.strings import Strings
from compare.runs.study import Piece, read_part, write_part
from compare.runs.topology import Band, LinearPath, Pruned, Topology, Tree, read_topology
from compare.strings.tree import string_tree

AnyPiece = TypeVar("AnyPiece", bound=Piece)
LEVELS = (0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Job:
    """A piece of the study, and where its record is kept."""

    task: Task
    folder: Path

    @property
    def file(self) -> Path:
        """Of the record."""
        return self.folder / f"{self.task.name}.json"

    def is_done(self) -> bool:
        """Whether the record is there.

        Raises:
            RecordError: If it is there and is another study's.
        """
        if not self.file.exists():
            return False
        if self.piece().identity != task_identity(self.task):
            raise RecordError(
                f"{self.file} belongs to a study with other settings: choose another folder, or remove this one"
            )
        return True

    def run(self) -> None:
        """Make the record, on one thread."""
        torch.set_num_threads(1)
        write_part(self.task.piece(), self.file)

    def piece(self) -> Piece:
        """The record.

        Raises:
            RecordError: If it cannot be read.
        """
        return read_part(self.task.kind, self.file)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Sample strings below levels of error between networks, and what theory says of them.",
        "reproduce_topology.py runs/topology --data mnist --data-root data/mnist --out docs/results",
        folder="folder of the study; an interrupted one goes on",
        data="digits",
    )
    parser.add_argument("--images", type=int, default=4000, help="training images (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=1000, help="images to re-estimate statistics on (1000)")
    parser.add_argument("--hidden", type=int, default=64, help="units of each of two hidden layers (64)")
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)), help="training errors (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=3, help="of each precision; all pairs (default: %(default)s)")
    parser.add_argument("--regressions", type=int, default=5, help="pairs in the regression (default: %(default)s)")
    parser.add_argument("--controls", type=int, default=20, help="seeds of the control (default: %(default)s)")
    parser.add_argument("--linear", type=int, default=5, help="seeds of linear and pruned networks (5)")
    return studies.parsed(parser, arguments, records="measure nothing: write the document from OUT's records")


def levels(text: str) -> tuple[float, ...]:
    """Training errors that fall.

    Raises:
        OptionError: For anything else.
    """
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 < level < 1 for level in found) or sorted(set(found), reverse=True) != [*found]:
        raise studies.OptionError(
            f"--levels: expected falling fractions between 0 and 1, such as 0.05,0.02, got {text!r}"
        )
    return found


def planned(options: argparse.Namespace) -> tuple[Images, list[Task]]:
    """The networks on images, and all pieces of work.

    Raises:
        CompareError: For options that make no study, or data that cannot be had.
    """
    least = {"images": 100, "calibration": 2, "hidden": 1, "networks": 2, "regressions": 1, "controls": 1, "linear": 1}
    studies.check(options, least)
    down = levels(options.levels)
    data = image_data(options.data, options.images, min(options.calibration, options.images), options.data_root)
    images = Images(
        data=options.data,
        fingerprint=data.fingerprint,
        images=len(data.train),
        inputs=data.train.x[0].numel(),
        classes=data.classes,
        calibration=len(data.train.calibration),
        hidden=(options.hidden, options.hidden),
        levels=down,
        root=options.data_root,
    )
    small = small_tasks(options.regressions, options.controls, options.linear)
    # The longest first, so that no core waits for them at the end.
    return images, [*image_tasks(images, options.networks), *small]


def measured(options: argparse.Namespace) -> Topology:
    """The study, measured where pieces are not there yet.

    Raises:
        CompareError: For options that make no study, pieces of another study, or training that diverges.
    """
    images, tasks = planned(options)
    work = [Job(task, options.run) for task in tasks]
    check_writable(options.run / "lock")
    options.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(options.run):
        left = [job for job in work if not job.is_done()]
        studies.say(f"{len(work) - len(left)} of {len(work)} pieces are there, {len(left)} to do")
        studies.do_all([job.run for job in left], options.jobs, "pieces")
    return _collected(images, [job.piece() for job in work])


def _collected(images: Images, pieces: Sequence[Piece]) -> Topology:
    bands = _of(Band, pieces)
    return Topology(
        data=images.data,
        fingerprint=images.fingerprint,
        shape=images.shape,
        images=images.images,
        calibration=images.calibration,
        strings=_of(Strings, pieces),
        bands=bands,
        linear=_of(LinearPath, pieces),
        pruned=_of(Pruned, pieces),
        trees=tuple(_trees(bands)),
    )


def _of(kind: type[AnyPiece], pieces: Sequence[Piece]) -> tuple[AnyPiece, ...]:
    return tuple(piece for piece in pieces if isinstance(piece, kind))


def _trees(bands: Sequence[Band]) -> Iterator[Tree]:
    """For each precision and treatment, from the highest error on each band."""
    for precision, treatment in dict.fromkeys((band.precision, band.treatment) for band in bands):
        some = [band for band in bands if (band.precision, band.treatment) == (precision, treatment)]
        names = sorted(set(itertools.chain.from_iterable(band.networks for band in some)))
        tree = string_tree(names, {band.networks: band.maximum for band in some})
        yield Tree(
            precision=precision,
            treatment=treatment,
            edges=tuple((*edge, energy) for edge, energy in zip(tree.edges, tree.energies, strict=True)),
            minimax=tuple((*pair, energy) for pair, energy in tree.minimax.items()),
        )


def written(options: argparse.Namespace, found: Topology) -> None:
    """The document, its picture and its records.

    Raises:
        CompareError: If they cannot be made or written.
    """
    name = _name(options)
    write_text(options.out / f"{name}.json", json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
    for title, content in pictures(found).items():
        write_bytes(options.out / f"{name}-{title}.png", content)
    write_text(options.out / f"{name}.md", document(found, name))


def _name(options: argparse.Namespace) -> str:
    return f"topology-{options.data}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)

    def make() -> None:
        kept = options.out / f"{_name(options)}.json"
        written(options, read_topology(kept) if options.records else measured(options))

    return studies.finished("reproduce_topology.py", options, _name(options), make)


if __name__ == "__main__":
    sys.exit(main())
