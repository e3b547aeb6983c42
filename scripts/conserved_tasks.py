"""The pieces of reproduce_conserved.py: what each measures, and where it is kept."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import binarynets
import compare
import fullprecision
from compare.params import Params
from compare.runs import RecordError, identity
from compare.runs import conserved as records
from compare.runs.conserved import Piece, read_conserved, write_conserved
from compare.runs.record import Provenance
from compare.seeds import derived
from compare.training import TrainingSettings, train
from fullprecision.conserved import SCHEMES, DriftLaw, Log, Quantity, conserved_quantities, drawn, drift_law, expected
from fullprecision.conserved.cases import problem, wrong
from fullprecision.conserved.imbalance import Arm, balanced_exponent, descended, scaled

FAMILIES = {"full": fullprecision, "binary": binarynets}
ARMS: tuple[Arm, ...] = ("same function", "initial scale")


@dataclass(frozen=True)
class Job:
    """One piece: what it is called, what it depends on, where it is kept."""

    kind: str
    name: str
    seed: int
    settings: Mapping[str, Any]
    root: Path | None
    folder: Path
    made: Provenance

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return self.folder / f"{'-'.join((self.kind, self.name, str(self.seed))).replace(' ', '_')}.json"

    @property
    def identity(self) -> str:
        """Of all that determines its numbers."""
        # The number of seeds, networks and schemes decides which pieces there are, not what is in one.
        own = {name: value for name, value in self.settings.items() if name not in ("seeds", "networks")}
        return identity({"kind": self.kind, "name": self.name, "seed": self.seed, **own})

    def is_done(self) -> bool:
        """Whether it is there.

        Raises:
            RecordError: If it is there and is of another measurement.
        """
        if not self.file.exists():
            return False
        if read_conserved(Piece, self.file).identity != self.identity:
            raise RecordError(f"{self.file} was made with other settings: choose another folder, or remove it")
        return True

    def run(self) -> None:
        """Make it, on one thread."""
        torch.set_num_threads(1)
        began, measure = time.process_time(), MEASURES[self.kind]
        found = measure(self)
        piece = Piece(
            identity=self.identity,
            name=f"{self.kind}, {self.name}, seed {self.seed}",
            seconds=time.process_time() - began,
            provenance=self.made,
            **found,
        )
        write_conserved(piece, self.file)

    def data(self) -> compare.Data:
        """The data set."""
        return compare.load_data(self.settings["data"], root=self.root)


def laws(job: Job) -> dict[str, Any]:
    """Drift against step size on one small problem."""
    given = problem(job.name, job.seed)
    # The squared norms of rows have one term: nothing in another proportion.
    controls = [wrong(quantity) for quantity in given.quantities if quantity.kind != "rows"]
    span, rates = job.settings["problem_time"], job.settings["problem_rates"]
    measured = [*given.quantities, *controls]
    found = drift_law(given.loss, given.params, measured, names=given.names, time=span, rates=rates)
    return {"laws": _laws(job.name, job.seed, measured, found, controls)}


def _laws(
    case: str, seed: int, quantities: Sequence[Quantity], found: Sequence[DriftLaw], controls: Sequence[Quantity] = ()
) -> tuple[records.Law, ...]:
    return tuple(
        records.Law(
            case=case,
            quantity=f"{quantity.name}, {quantity.kind}",
            formula=quantity.formula,
            seed=seed,
            control=quantity in controls,
            rates=law.rates,
            drifts=law.drifts,
            slope=law.slope if math.isfinite(law.slope) else None,
            losses=law.losses,
        )
        for quantity, law in zip(quantities, found, strict=True)
    )


def initials(job: Job) -> dict[str, Any]:
    """The distribution at initialisation under one scheme."""
    scheme = next(name for name in SCHEMES if name == job.name)
    generator = torch.Generator().manual_seed(derived(job.seed, "initial", job.name))
    draws = job.settings["draws"]
    found = []
    for inputs, hidden, outputs in job.settings["initial_sizes"]:
        values = torch.stack(
            [
                (drawn(scheme, (outputs, hidden), generator) ** 2).sum(0)
                - (drawn(scheme, (hidden, inputs), generator) ** 2).sum(1)
                for _ in range(draws)
            ]
        )
        moments = expected(scheme, inputs, hidden, outputs)
        squares = (values - moments.mean) ** 2
        found.append(
            records.Initial(
                scheme=job.name,
                inputs=inputs,
                hidden=hidden,
                outputs=outputs,
                networks=draws,
                mean=float(values.mean()),
                mean_error=float(values.mean(1).std()) / draws**0.5,
                variance=float(squares.mean()),
                variance_error=float(squares.mean(1).std()) / draws**0.5,
                expected_mean=moments.mean,
                expected_variance=moments.variance,
            )
        )
    return {"initials": tuple(found)}


def _network(job: Job, data: compare.Data) -> tuple[nn.Module, tuple[Quantity, ...]]:
    """A network and the quantities of its full-precision counterpart, whose parameters have the same names."""
    torch.manual_seed(derived(job.seed, "conserved", job.name))
    inputs = data.train.x[0].numel()
    hidden = job.settings["hidden"]
    shape = (inputs, [hidden, hidden], data.classes)
    counterpart = fullprecision.mlp(*shape)
    graph = compare.trace(counterpart, data.train.x[:8], fullprecision.FAMILY)
    model = FAMILIES[job.name].mlp(*shape)
    return model, conserved_quantities(graph, counterpart)


def surrogates(job: Job) -> dict[str, Any]:
    """Drift against step size on data, by plain gradient descent on all samples, with batch statistics."""
    data = job.data()
    model, quantities = _network(job, data)
    samples = data.train.subset(job.settings["samples"])
    model, x = model.double().train(), samples.x.double()

    def loss(params: Params) -> Tensor:
        return F.cross_entropy(compare.call(model, params, x), samples.y)

    names = [name for name, _ in model.named_parameters()]
    span, rates = job.settings["time"], job.settings["rates"]
    found = drift_law(loss, compare.parameters(model), quantities, names=names, time=span, rates=rates)
    return {"laws": _laws(f"on data, {job.name}", job.seed, quantities, found)}


def courses(job: Job) -> dict[str, Any]:
    """The quantities over a training with Adam, latents clipped, at one learning rate for both precisions."""
    data = job.data()
    model, quantities = _network(job, data)
    recipe = FAMILIES[job.name].FAMILY.recipe
    settings: TrainingSettings = recipe.settings.changed(
        epochs=job.settings["epochs"], optimiser="adam", learning_rate=job.settings["learning_rate"]
    )
    log = Log(quantities)
    full, rest = divmod(len(data.train.y), settings.batch)
    steps = full + (rest > 1)  # the loop leaves out a last batch of one sample
    trained = train(model, data, recipe, settings=settings, seed=job.seed, observe=log, observe_every=steps)
    last = trained.history[-1]
    return {
        "courses": tuple(
            records.Course(
                precision=job.name,
                seed=job.seed,
                quantity=f"{quantity.name}, {quantity.kind}",
                formula=quantity.formula,
                steps=log.steps,
                means=tuple(float(value) for value in log.values(which).flatten(1).mean(1)),
                drifts=log.drifts(which),
                errors=(last.train_error, last.test_error),
            )
            for which, quantity in enumerate(log.quantities)
        )
    }


def orbits(job: Job) -> dict[str, Any]:
    """Starts that differ in their quantity, with the same function and without."""
    data = job.data()
    part = data.train.subset(job.settings["samples"])
    # Inputs of one size, so that one step size does for all data sets.
    centred = part.x - part.x.mean()
    samples = replace(part, x=centred * (job.settings["input_norm"] / centred.flatten(1).square().sum(1).mean().sqrt()))
    torch.manual_seed(derived(job.seed, "orbits"))
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(part.x[0].numel(), job.settings["hidden"]),
        nn.ReLU(),
        nn.Linear(job.settings["hidden"], data.classes),
    )
    for layer in (each for each in model if isinstance(each, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    graph = compare.trace(model, samples.x[:8], fullprecision.FAMILY)
    (quantity,) = conserved_quantities(graph, model)
    given, exponents = job.settings["orbit"], job.settings["exponents"]
    params = compare.parameters(model)
    least = balanced_exponent(graph, model, params, samples)
    balanced = (least, float(quantity(scaled(graph, params, least)).mean()))
    found = []
    for arm in ARMS:
        starts = descended(graph, model, params, samples, quantity, exponents=exponents, arm=arm, **given)
        kept = tuple(records.Start(**vars(start)) for start in starts)
        found.append(records.Orbit(seed=job.seed, arm=arm, balanced=balanced, starts=kept))
    return {"orbits": tuple(found)}


MEASURES: Mapping[str, Callable[[Job], dict[str, Any]]] = {
    "laws": laws,
    "initials": initials,
    "surrogates": surrogates,
    "courses": courses,
    "orbits": orbits,
}
