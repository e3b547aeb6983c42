"""Merge binary networks by majority vote of their bits: several numbers of networks, several draws, one document.

usage: python scripts/merge_binary.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/merge_binary.py runs/merging --data mnist --data-root data/mnist --out docs/results

Trains --networks networks, brings all into one frame, merges draws of 2 to --largest of them. Everything finished is
kept in RUN: an interrupted run goes on. Writes OUT/merging-DATA.md with its picture and its record.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import studies
import torch
from reproduce_toroids import MLP, SHAPES

import binarynets
import compare
from binarynets.merging import How, merge
from compare.connectivity import description, recorded_data
from compare.data import Data, load_data
from compare.data.split import reduced
from compare.evaluation import evaluate
from compare.evaluation.ensemble import vote
from compare.experiment import build
from compare.params import Params, call
from compare.report.merging import document, picture
from compare.runs import identity, write_bytes, write_text
from compare.runs.configuration import Configuration
from compare.runs.files import check_writable, sole_writer
from compare.runs.merging import Copies, Draw, Draws, Matching, MergedNetwork, MergedStatistics, Merging
from compare.runs.part import Treatment
from compare.runs.provenance import command_line, provenance
from compare.runs.record import Provenance, RecordError
from compare.runs.study import read_part, write_part
from compare.seeds import derived
from compare.symmetry import Graph
from compare.training import Trained, TrainingSettings, train

COPIES = 3


@dataclass(frozen=True)
class Plan:
    """Everything that determines the numbers, and where they are kept.

    Attributes:
        data: Data set.
        images: Training images.
        calibration: How many of them statistics are re-estimated on.
        epochs: Of training.
        networks: How many are trained.
        largest: Largest number of networks merged.
        draws: Of each number.
        rounds: Most rounds of matching.
        run: Folder.
        root: Folder of the data set's files; no part of the identity.
        made: Where new records come from.
    """

    data: str
    images: int
    calibration: int
    epochs: int
    networks: int
    largest: int
    draws: int
    rounds: int
    run: Path
    root: Path | None
    made: Provenance

    @property
    def settings(self) -> TrainingSettings:
        """Those of the family, with other epochs."""
        return binarynets.FAMILY.recipe.settings.changed(epochs=self.epochs)

    def described(self) -> dict[str, Any]:
        """Plain values: what determines the numbers; the largest number of networks only adds to them."""
        names = ("data", "images", "calibration", "networks", "draws", "rounds")
        found = {name: getattr(self, name) for name in names}
        shape = self.configuration.architecture.model_dump(mode="json")
        return {**found, "settings": self.settings.as_dict(), "architecture": shape}

    @property
    def configuration(self) -> Configuration:
        """The shape of the networks."""
        return Configuration(data=self.data, architecture=SHAPES.get(self.data, MLP))


@dataclass(frozen=True)
class Bench:
    """What every piece of work needs, made once for each.

    Attributes:
        plan: Settings.
        data: Data set.
        model: A network in evaluation mode, for its shape.
        graph: Its symmetries.
    """

    plan: Plan
    data: Data
    model: torch.nn.Module
    graph: Graph

    @property
    def identity(self) -> str:
        """Of what determines the numbers."""
        return identity({"what": "merging", "fingerprint": self.data.fingerprint, **self.plan.described()})


def prepared(plan: Plan) -> Bench:
    """Load the data, trace the network; on one thread."""
    torch.set_num_threads(1)
    data = reduced(load_data(plan.data, root=plan.root), plan.images, calibration=plan.calibration)
    model = build(binarynets.FAMILY, plan.configuration, data, seed=0).eval()
    return Bench(plan, data, model, compare.trace(model, data.train.x[:16], binarynets.FAMILY))


def trained(bench: Bench, seed: int) -> Trained:
    """A network, from its checkpoint where that is complete."""
    plan, data, family = bench.plan, bench.data, binarynets.FAMILY
    start = build(family, plan.configuration, data, seed=derived("merging", seed) % 2**31)
    folder = plan.run / "networks" / str(seed)
    return train(start, data, family.recipe, settings=plan.settings, seed=seed, folder=folder)


def standard(bench: Bench) -> list[Params]:
    """All networks in standard form."""
    seeds = range(bench.plan.networks)
    return [compare.standard_form(bench.graph, trained(bench, seed).params, invariant="loss") for seed in seeds]


def matched(bench: Bench) -> None:
    """Bring all networks into one frame; elements and a record are kept."""
    began, plan, graph = time.perf_counter(), bench.plan, bench.graph
    networks = standard(bench)
    found = compare.match_many(graph, networks, seed=0, most_rounds=plan.rounds)
    for seed, element in enumerate(found.elements):
        compare.save_element(_element(plan, seed), element)
    record = Matching(
        identity=bench.identity,
        precision=binarynets.FAMILY.name,
        provenance=plan.made,
        objectives=found.history,
        rounds=found.rounds,
        converged=found.converged,
        control=_control(bench, networks[0]),
        seconds=time.perf_counter() - began,
    )
    write_part(record, _matching(plan))


def _control(bench: Bench, one: Params) -> Copies:
    model, graph = bench.model, bench.graph
    draw = torch.Generator().manual_seed(derived("merging", "copies"))
    moved = [compare.random_element(graph, draw).apply(one) for _ in range(COPIES)]
    copies = [compare.standard_form(graph, params, invariant="loss") for params in moved]
    merged = [
        merge(model, graph, networks)
        for networks in (copies, compare.match_many(graph, copies, reference=0, seed=0).params)
    ]
    x = bench.data.test.x
    labels = [call(model, params, x).argmax(1) for params in (one, *(each.params for each in merged))]
    changed = [float((own != labels[0]).double().mean()) for own in labels[1:]]
    return Copies(copies=COPIES, before_matching=changed[0], matched=changed[1], agreement=merged[1].agreement)


def measured(bench: Bench, number: int) -> None:
    """Merge draws of one number of networks; a record is kept."""
    began, plan, graph = time.perf_counter(), bench.plan, bench.graph
    networks = standard(bench)
    frames: dict[Treatment, list[Params]] = {
        "standard form": networks,
        "matched": [
            compare.load_element(_element(plan, seed), graph).apply(params) for seed, params in enumerate(networks)
        ],
    }
    record = Draws(
        identity=bench.identity,
        precision=binarynets.FAMILY.name,
        provenance=plan.made,
        draws=tuple(_draw(bench, frames, parts) for parts in _drawn(plan, number)),
        seconds=time.perf_counter() - began,
    )
    write_part(record, _draws(plan, number))


def _drawn(plan: Plan, number: int) -> list[tuple[int, ...]]:
    """Different sets of networks, of one size."""
    order = torch.Generator().manual_seed(derived("merging", "draws", number))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < plan.draws:
        found[tuple(sorted(torch.randperm(plan.networks, generator=order)[:number].tolist()))] = None
    return list(found)


def _draw(bench: Bench, frames: dict[Treatment, list[Params]], parts: tuple[int, ...]) -> Draw:
    model, graph, test = bench.model, bench.graph, bench.data.test
    calibration = bench.data.train.calibration
    alone = vote(model, [frames["standard form"][seed] for seed in parts], test)
    found = []
    for treatment, networks in frames.items():
        for how in get_args(How):
            for statistics, x in (("averaged", None), ("re-estimated", calibration)):
                made = merge(model, graph, [networks[seed] for seed in parts], how=how, calibration=x)
                found.append(
                    MergedNetwork(
                        treatment=treatment,
                        how=how,
                        statistics=cast(MergedStatistics, statistics),
                        error=evaluate(model, made.params, test).error,
                        agreement=made.agreement,
                        tied=made.tied,
                    )
                )
    return Draw(
        parts=parts,
        errors=alone.errors,
        majority=alone.majority,
        mean_probability=alone.mean_probability,
        merged=tuple(found),
    )


def _element(plan: Plan, seed: int) -> Path:
    return plan.run / "elements" / f"{seed}.safetensors"


def _matching(plan: Plan) -> Path:
    return plan.run / "matching.json"


def _draws(plan: Plan, number: int) -> Path:
    return plan.run / f"draws-{number}.json"


def _is_done(bench: Bench, kind: type[Matching] | type[Draws], file: Path) -> bool:
    if not file.exists():
        return False
    if read_part(kind, file).identity != bench.identity:
        raise RecordError(f"{file} belongs to a run with other settings: choose another folder, or remove this one")
    return True


def carried_out(plan: Plan, jobs: int) -> Merging:
    """Do what is not there yet.

    Raises:
        CompareError: For parts of another run, or training that diverges.
    """
    bench, numbers = prepared(plan), range(2, plan.largest + 1)
    is_matched = _is_done(bench, Matching, _matching(plan))
    left = [number for number in numbers if not _is_done(bench, Draws, _draws(plan, number))]
    check_writable(plan.run / "lock")
    plan.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(plan.run):
        _each(trained, plan, range(plan.networks), jobs, "networks")
        if not is_matched:
            studies.say("bringing all networks into one frame")
            matched(bench)
        _each(measured, plan, left, jobs, "numbers of networks")
    return collected(bench, numbers)


def _each(do: Callable[[Bench, int], Any], plan: Plan, work: Sequence[int], jobs: int, what: str) -> None:
    studies.do_all([functools.partial(_on_a_bench, do, plan, number) for number in work], jobs, what)


def _on_a_bench(do: Callable[[Bench, int], Any], plan: Plan, number: int) -> None:
    do(prepared(plan), number)


def collected(bench: Bench, numbers: Sequence[int]) -> Merging:
    """The record from its parts."""
    plan, data = bench.plan, bench.data
    networks = [trained(bench, seed) for seed in range(plan.networks)]
    matching = read_part(Matching, _matching(plan))
    return Merging(
        identity=bench.identity,
        precision=binarynets.FAMILY.name,
        provenance=matching.provenance,
        title=binarynets.FAMILY.title,
        model=description(bench.model),
        data=recorded_data(data, {"train": data.train, "test": data.test}),
        errors=tuple(evaluate(bench.model, each.params, data.test).error for each in networks),
        training_errors=tuple(each.history[-1].train_error for each in networks),
        training_seconds=sum(epoch.seconds for each in networks for epoch in each.history),
        matching=matching,
        sizes=tuple(read_part(Draws, _draws(plan, number)) for number in numbers),
        configuration=plan.described(),
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Merge binary networks by majority vote of their bits.",
        "merge_binary.py runs/merging --data mnist --data-root data/mnist --out out",
        folder="folder of the run; an interrupted one goes on",
        data="mnist",
    )
    parser.add_argument("--images", type=int, default=10_000, help="training images (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=2000, help="images to re-estimate statistics on (2000)")
    parser.add_argument("--epochs", type=int, default=20, help="of training (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=10, help="trained (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=8, help="most networks merged (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="of each number of networks (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="most rounds of matching (default: %(default)s)")
    return studies.parsed(parser, arguments, records="measure nothing: write the document from OUT's record")


def planned(options: argparse.Namespace) -> Plan:
    """The plan.

    Raises:
        OptionError: For options that make none.
    """
    least = {"images": 100, "calibration": 2, "epochs": 1, "networks": 3, "largest": 2, "draws": 2, "rounds": 1}
    studies.check(options, least)
    sets = min(math.comb(options.networks, number) for number in range(2, options.largest + 1))
    if sets < options.draws:
        raise studies.OptionError(
            f"--draws: expected at most {sets}, the number of different sets of {options.largest} or fewer of "
            f"{options.networks} networks, got {options.draws}: train more, or merge fewer"
        )
    return Plan(
        **{name: getattr(options, name) for name in ("data", *least, "run")},
        root=options.data_root,
        made=provenance(threads=1, command=command_line()),
    )


def written(options: argparse.Namespace, found: Merging) -> None:
    """The document with its picture and its record.

    Raises:
        CompareError: If it cannot be written.
    """
    name = _name(options)
    write_part(found, options.out / f"{name}.json")
    write_bytes(options.out / f"{name}.png", picture(found))
    write_text(options.out / f"{name}.md", document(found, name))


def _name(options: argparse.Namespace) -> str:
    return f"merging-{options.data}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)

    def make() -> None:
        kept = options.out / f"{_name(options)}.json"
        written(options, read_part(Merging, kept) if options.records else carried_out(planned(options), options.jobs))

    return studies.finished("merge_binary.py", options, _name(options), make)


if __name__ == "__main__":
    sys.exit(main())
