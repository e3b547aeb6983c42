"""Orbits as ensembles: networks that agree on a batch, their votes, attacks on them; and the same of binary networks.

usage: python scripts/reproduce_orbits.py RUN --data mnist --data-root FOLDER --out FOLDER
example: python scripts/reproduce_orbits.py runs/orbits --data mnist --data-root data/mnist --out docs/results

Trains --networks perceptrons with each activation, moves each by random group elements near and far from the identity
('Symmetries, Flat Minima, and the Conserved Quantities of Gradient Flow'), and lets the moved networks vote. Everything
finished is kept in RUN: an interrupted run goes on. Writes OUT/orbits.md with its picture and its record.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import studies
import torch
from torch import Tensor, nn

import binarynets
import compare
import fullprecision
from compare.connectivity import recorded_data
from compare.data import Data, load_data
from compare.data.split import reduced
from compare.evaluation import evaluate, re_estimated
from compare.evaluation.attack import STEPS, InputRange, input_range
from compare.evaluation.statistics import calibrator
from compare.params import Params
from compare.report.orbits import document, picture
from compare.runs import identity, write_bytes, write_text
from compare.runs.files import check_writable, sole_writer
from compare.runs.orbits import AttackVotes, BinaryPart, BinaryVotes, OrbitNetwork, Orbits, OrbitVotes, Voters
from compare.runs.provenance import command_line, provenance
from compare.runs.record import Provenance, RecordError
from compare.runs.study import read_part, write_part
from compare.seeds import derived
from compare.training import Trained, TrainingSettings, train
from fullprecision.actions import Hidden, Method, Orbit, hidden_units, orbit
from fullprecision.actions.measure import attack_votes, orbit_votes, outputs_of, plain_attacks, votes_of

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
EPSILONS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
ATTACKED = (0.01, 0.1, 0.3)
RADII = (0.03, 0.06)
METHODS: tuple[Method, ...] = ("least squares", "smallest change", "rotation")
ON_A_PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
NAME = "orbits"


class Divided(nn.Module):
    """Inputs divided by a constant: integers from -255 to 255 would saturate tanh and sigmoid."""

    def __init__(self, by: float) -> None:
        """Keep the largest input."""
        super().__init__()
        self.by = by

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torch.nn)
        """``input / by``."""
        return input / self.by


@dataclass(frozen=True)
class Plan:
    """Everything that determines the numbers, and where they are kept.

    Attributes:
        data: Data set.
        images: Training images.
        units: Units of both hidden layers.
        epochs: Of training.
        networks: With each activation, and binary ones.
        members: Elements of an orbit.
        samples: Test samples that orbits are measured on.
        attacked: Test samples that are attacked.
        run: Folder.
        root: Folder of the data set's files; no part of the identity.
        made: Where new records come from.
    """

    data: str
    images: int
    units: int
    epochs: int
    networks: int
    members: int
    samples: int
    attacked: int
    run: Path
    root: Path | None
    made: Provenance

    @property
    def variants(self) -> tuple[tuple[Method, int], ...]:
        """Methods with the size of the batch; on one as large as the block independent features leave one method."""
        return (*((method, self.units // 2) for method in METHODS), ("least squares", self.units))

    def settings(self, family: compare.Family) -> TrainingSettings:
        """Those of the family, with other epochs."""
        return family.recipe.settings.changed(epochs=self.epochs)

    def described(self) -> dict[str, Any]:
        """Plain values: what determines the numbers of a network; more networks leave those there are as they are."""
        names = ("data", "images", "units", "epochs", "members", "samples", "attacked")
        settings = [self.settings(family).as_dict() for family in (fullprecision.FAMILY, binarynets.FAMILY)]
        grids = {"epsilons": EPSILONS, "attacked_epsilons": ATTACKED, "radii": RADII, "path": ON_A_PATH}
        return {**{name: getattr(self, name) for name in names}, **grids, "attack_steps": STEPS, "settings": settings}


@dataclass(frozen=True)
class Bench:
    """What every piece of work needs.

    Attributes:
        plan: Settings.
        data: Data set.
        within: The range of its inputs.
    """

    plan: Plan
    data: Data
    within: InputRange

    @property
    def identity(self) -> str:
        """Of what determines the numbers of one network."""
        return identity({"what": "orbits", "fingerprint": self.data.fingerprint, **self.plan.described()})

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Inputs, units, outputs; apart from where torch is used: cloudpickle takes `classes` there for a module."""
        return self.data.train.x[0].numel(), self.plan.units, self.data.classes

    @property
    def binary_identity(self) -> str:
        """Of the binary part, whose votes are over all networks."""
        return identity({"what": self.identity, "networks": self.plan.networks})


def prepared(plan: Plan) -> Bench:
    """Load the data; on one thread."""
    torch.set_num_threads(1)
    data = reduced(load_data(plan.data, root=plan.root), plan.images, calibration=min(2000, plan.images))
    return Bench(plan, data, input_range(data))


def perceptron(bench: Bench, activation: str, seed: int) -> nn.Module:
    """Two hidden layers without normalisation, with biases."""
    (inputs, units, outputs), kind = bench.sizes, ACTIVATIONS[activation]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived("orbits", activation, seed) % 2**31)
        return nn.Sequential(
            *(nn.Flatten(), Divided(float(bench.within.high.max()))),
            *(nn.Linear(inputs, units), kind()),
            *(nn.Linear(units, units), kind()),
            nn.Linear(units, outputs),
        ).eval()


def network(bench: Bench, piece: tuple[str, int]) -> None:
    """Train a network, move it, let it vote, attack it; a record is kept."""
    began, plan, (activation, seed) = time.perf_counter(), bench.plan, piece
    model = perceptron(bench, activation, seed)
    trained = _trained(bench, model, fullprecision.FAMILY, activation, seed)
    block = hidden_units(model)[-1]
    measured, attacked = bench.data.test.subset(plan.samples), bench.data.test.subset(plan.attacked)
    orbits: list[OrbitVotes] = []
    attacks: list[AttackVotes] = []
    plain = plain_attacks(model, trained.params, attacked, RADII, within=bench.within)
    for method, batch in plan.variants:
        x = bench.data.train.subset(batch, derived("orbit batch", seed)).x
        for epsilon in EPSILONS:
            found = _orbit(bench, model, block, trained.params, x, epsilon, method, seed)
            orbits.append(orbit_votes(model, trained.params, found, measured, method=method, batch=batch))
            if epsilon in ATTACKED and method != "smallest change":
                attacks += attack_votes(
                    *(model, trained.params, found, attacked, plain), within=bench.within, method=method, batch=batch
                )
    write_part(
        OrbitNetwork(
            identity=bench.identity,
            precision=fullprecision.FAMILY.name,
            provenance=plan.made,
            activation=activation,
            seed=seed,
            error=evaluate(model, trained.params, bench.data.test).error,
            measured_error=evaluate(model, trained.params, measured).error,
            attacked_error=evaluate(model, trained.params, attacked).error,
            training_error=trained.history[-1].train_error,
            orbits=tuple(orbits),
            attacks=tuple(attacks),
            seconds=time.perf_counter() - began,
        ),
        _file(plan, activation, seed),
    )


def _trained(bench: Bench, model: nn.Module, family: compare.Family, name: str, seed: int) -> Trained:
    folder, settings = bench.plan.run / "networks" / f"{name}-{seed}", bench.plan.settings(family)
    return train(model, bench.data, family.recipe, settings=settings, seed=seed, folder=folder)


def _orbit(
    bench: Bench, model: nn.Module, block: Hidden, params: Params, x: Tensor, epsilon: float, method: Method, seed: int
) -> Orbit:
    """An orbit in float64, so that it is exact on its batch to the rounding of that."""
    wide = {name: tensor.double() for name, tensor in params.items()}
    return orbit(model, block, wide, x.double(), epsilon, members=bench.plan.members, method=method, seed=seed)


def binary(bench: Bench, piece: tuple[str, int]) -> None:
    """Votes of binary networks: over orbits, along paths, of independent ones; a record is kept."""
    began, plan, data, family = time.perf_counter(), bench.plan, bench.data, binarynets.FAMILY
    inputs, units, outputs = bench.sizes
    model = binarynets.mlp(inputs, [units, units], outputs).eval()
    graph = compare.trace(model, data.train.x[:16], family)
    networks = []
    for seed in range(plan.networks):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived("orbits", "binary", seed) % 2**31)
            start = binarynets.mlp(inputs, [units, units], outputs).eval()
        networks.append(_trained(bench, start, family, "binary", seed).params)
    votes = [_binary_orbit(bench, model, graph, params, seed) for seed, params in enumerate(networks)]
    ends = [compare.standard_form(graph, params, invariant="loss") for params in networks]
    for first in range(0, plan.networks - 1, 2):
        a, b = ends[first], compare.match(graph, ends[first], ends[first + 1], seed=0).params
        path = compare.linear_path(graph, a, b)
        settled = [re_estimated(calibrator(model), path(t), data.train.calibration) for t in ON_A_PATH]
        votes.append(_binary_votes(bench, model, settled, "path", (first, first + 1)))
    votes.append(_binary_votes(bench, model, networks, "independent", tuple(range(plan.networks))))
    write_part(
        BinaryPart(
            identity=bench.binary_identity,
            precision=family.name,
            provenance=plan.made,
            errors=tuple(evaluate(model, params, data.test).error for params in networks),
            votes=tuple(votes),
            seconds=time.perf_counter() - began,
        ),
        _file(plan, *piece),
    )


def _binary_orbit(bench: Bench, model: nn.Module, graph: compare.Graph, params: Params, seed: int) -> BinaryVotes:
    draw = torch.Generator().manual_seed(derived("orbits", "elements", seed))
    copies = [compare.random_element(graph, draw).apply(params) for _ in range(bench.plan.members)]
    return _binary_votes(bench, model, [params, *copies], "orbit", (seed,))


def _binary_votes(
    bench: Bench, model: nn.Module, networks: Sequence[Params], voters: Voters, seeds: tuple[int, ...]
) -> BinaryVotes:
    test = bench.data.test
    outputs = outputs_of(model, networks, test.x)
    identical = all(torch.equal(each, outputs[0]) for each in outputs)
    votes = votes_of(outputs, outputs[0], test.y)
    return BinaryVotes(voters=voters, networks=seeds, identical=identical, votes=votes)


def _file(plan: Plan, name: str, seed: int) -> Path:
    return plan.run / "records" / f"{name}-{seed}.json"


def carried_out(plan: Plan, jobs: int) -> Orbits:
    """Do what is not there yet.

    Raises:
        CompareError: For parts of another run, or training that diverges.
    """
    bench = prepared(plan)
    pieces = [*((name, seed) for seed in range(plan.networks) for name in ACTIVATIONS), ("binary", plan.networks)]
    left = [piece for piece in pieces if not _is_done(bench, piece)]
    check_writable(plan.run / "lock")
    plan.run.mkdir(parents=True, exist_ok=True)
    with sole_writer(plan.run):
        studies.say(f"{len(pieces) - len(left)} of {len(pieces)} pieces are there, {len(left)} to do")
        studies.do_all([functools.partial(_piece, plan, piece) for piece in left], jobs, "networks")
    return collected(bench, pieces)


def _piece(plan: Plan, piece: tuple[str, int]) -> None:
    do = binary if piece[0] == "binary" else network
    do(prepared(plan), piece)


def _is_done(bench: Bench, piece: tuple[str, int]) -> bool:
    file, is_binary = _file(bench.plan, *piece), piece[0] == "binary"
    if not file.exists():
        return False
    found = read_part(BinaryPart if is_binary else OrbitNetwork, file)
    if found.identity != (bench.binary_identity if is_binary else bench.identity):
        raise RecordError(f"{file} belongs to a run with other settings: choose another folder, or remove this one")
    return True


def collected(bench: Bench, pieces: Sequence[tuple[str, int]]) -> Orbits:
    """The record from its parts."""
    plan, data = bench.plan, bench.data
    networks = [read_part(OrbitNetwork, _file(plan, *piece)) for piece in pieces if piece[0] != "binary"]
    return Orbits(
        identity=bench.binary_identity,
        precision=fullprecision.FAMILY.name,
        provenance=networks[0].provenance,
        model="{0} - {1} - {1} - {2}".format(*bench.sizes),
        data=recorded_data(data, {"train": data.train, "test": data.test}),
        smallest=tuple(bench.within.low.flatten().tolist()),
        largest=tuple(bench.within.high.flatten().tolist()),
        attack_steps=STEPS,
        networks=tuple(networks),
        binary=read_part(BinaryPart, _file(plan, *pieces[-1])),
        configuration={**plan.described(), "networks": plan.networks},
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = studies.parser(
        "Ensembles from orbits of continuous groups, attacks on them, and votes of binary networks.",
        "reproduce_orbits.py runs/orbits --data mnist --data-root data/mnist --out out",
        folder="folder of the run; an interrupted one goes on",
        data="mnist",
    )
    parser.add_argument("--images", type=int, default=10_000, help="training images (default: %(default)s)")
    parser.add_argument("--units", type=int, default=128, help="of both hidden layers (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of training (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=5, help="of each kind (default: %(default)s)")
    parser.add_argument("--members", type=int, default=10, help="elements of an orbit (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2000, help="test images for orbits (default: %(default)s)")
    parser.add_argument("--attacked", type=int, default=300, help="test images attacked (default: %(default)s)")
    return studies.parsed(parser, arguments, records="measure nothing: write the document from OUT's record")


def planned(options: argparse.Namespace) -> Plan:
    """The plan; raises an ``OptionError`` for options that make none."""
    least = {"images": 100, "units": 2, "epochs": 1, "networks": 2, "members": 2, "samples": 2, "attacked": 2}
    studies.check(options, least)
    return Plan(
        **{name: getattr(options, name) for name in ("data", *least, "run")},
        root=options.data_root,
        made=provenance(threads=1, command=command_line()),
    )


def written(options: argparse.Namespace, found: Orbits) -> None:
    """The document with its picture and its record."""
    write_part(found, options.out / f"{NAME}.json")
    write_bytes(options.out / f"{NAME}.png", picture(found))
    write_text(options.out / f"{NAME}.md", document(found, NAME))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not there yet, then write the document; 0 if all is well, 2 for what the user can mend."""
    options = parsed(arguments)

    def make() -> None:
        kept = options.out / f"{NAME}.json"
        written(options, read_part(Orbits, kept) if options.records else carried_out(planned(options), options.jobs))

    return studies.finished("reproduce_orbits.py", options, NAME, make)


if __name__ == "__main__":
    sys.exit(main())
