"""The experiment: a family and two networks in, a record out."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from compare.data import Data, Split
from compare.errors import CompareError
from compare.evaluation import local_energy
from compare.family import Family
from compare.params import Params, check, parameters
from compare.runs import provenance, record
from compare.runs.record import Record, SplitName, Treatment
from compare.seeds import derived
from compare.symmetry import Graph, Match, dead_units, random_element, trace
from compare.training import Trained
from compare.treatments import Bench, Treated, treated

POINTS = 25
SAMPLES = 10_000

# From the first rises in full precision to where both precisions err on half of all samples; binary ones rise from 0.5.
ENERGY_SIGMAS = (0.1, 0.3, 0.5, 0.7, 1.0)
ENERGY_SAMPLES = 2_000


class RequestError(CompareError, ValueError):
    """A measurement that makes no sense as asked for."""


class ControlError(CompareError, ValueError):
    """The untrained control cannot be made for this network."""


def connect(
    family: Family,
    model: nn.Module,
    a: Params,
    b: Params,
    data: Data,
    *,
    seed: int = 0,
    points: int = POINTS,
    samples: int = SAMPLES,
    untrained: Params | None = None,
    trained: tuple[Trained, Trained] | None = None,
    configuration: Mapping[str, Any] | None = None,
    command: str | None = None,
    describe: str | None = None,
) -> Record:
    """Measure what lies between two networks: as trained, in standard form, and matched.

    Each treatment is measured on the straight line, the last two on the geodesic as well, with normalisation statistics
    interpolated and (where the network has any) re-estimated on training data, on both splits. Two null controls come
    with it: ``a`` against a random symmetric copy of itself, and against an untrained network. What a precision can
    measure beyond that (``Family.landscape``) is measured of the matched pair. Of each network the local energy is
    measured (``local_energy``), in standard form, with noise on the weights of all linear maps.

    The standard form keeps outputs as they are (``invariant="loss"``), so that losses can be read.

    Args:
        family: The precision.
        model: The network; its own parameters do not matter and are not changed.
        a: Parameters and buffers of the first network.
        b: Of the second; it is moved onto the first.
        data: Data set to measure on.
        seed: Seed of the matching, of the symmetric copy and of the untrained network.
        points: Networks on each path, ends included, equally spaced.
        samples: At most so many samples of each split are measured, a fixed seeded choice.
        untrained: Parameters of the untrained control; without them those that ``reset_parameters`` of the model's
            modules draws.
        trained: How the two were trained, for the record.
        configuration: Everything else that led to the networks, for the record.
        command: The command line, for the record.
        describe: Text before the progress line; None shows none.

    Returns:
        The record.

    Raises:
        ParameterError: If parameters do not fit the network, or hold NaN or infinity.
        SymmetryError: If the network cannot be traced.
        ControlError: If there is no way to make the untrained control.
        RequestError: If ``points`` or ``samples`` is too small.
    """
    if points < 2 or samples < 2:
        raise RequestError(f"expected at least 2 points and 2 samples, got {points} and {samples}")
    model = family.plain(model, data.train.x[:16])
    check(a, parameters(model), what="a")
    check(b, parameters(model), what="b")
    graph = trace(model, data.train.x[:16], family, at=(a, b))
    fresh = untrained if untrained is not None else _untrained(model, seed)
    graph.check(fresh, "untrained")
    splits: dict[SplitName, Split] = {"train": data.train.subset(samples), "test": data.test.subset(samples)}
    bench = Bench(graph, model, splits, tuple(i / (points - 1) for i in range(points)), describe, family.evaluation)
    pair = treated(graph, a, b, seed)
    notes = [*graph.notes, *_dead_notes(graph, pair), *_latent_notes(graph, a, b)]
    curves = tuple(bench.curves(pair, notes))
    landscape = None
    if family.landscape is not None:
        ends = pair.ends["matched"]
        landscape, remarks = family.landscape(graph, model, *ends, splits, seed=seed, describe=describe)
        notes += remarks
    copied = random_element(graph, torch.Generator().manual_seed(derived(seed, "copy"))).apply(a)
    return Record(
        precision=family.name,
        title=family.title,
        bits=family.bits,
        model=description(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=recorded_data(data, splits),
        seed=seed,
        networks=_networks(curves, trained),
        match=_match(pair.match),
        distances=pair.distances(graph),
        curves=curves,
        controls=(
            _control("symmetric copy", bench, treated(graph, a, copied, seed), notes),
            _control("untrained", bench, treated(graph, a, fresh, seed), notes),
        ),
        landscape=landscape,
        energies=_energies(graph, model, pair.ends["standard form"], data.train.subset(min(samples, ENERGY_SAMPLES))),
        notes=tuple(dict.fromkeys(notes)),
        configuration=dict(configuration) if configuration is not None else None,
        provenance=provenance(threads=torch.get_num_threads(), command=command),
    )


def _energies(graph: Graph, model: nn.Module, ends: tuple[Params, Params], train: Split) -> tuple[record.Energy, ...]:
    """Local energies of both ends. The noise has a seed of its own: a network has one energy, whatever its pair."""
    names = {layer.weight for layer in graph.layers}
    a, b = (local_energy(model, params, train, ENERGY_SIGMAS, names=names) for params in ends)
    return record.Energy(network="a", split="train", **vars(a)), record.Energy(network="b", split="train", **vars(b))


def _control(name: Any, bench: Bench, pair: Treated, notes: list[str]) -> record.Control:
    curves: list[record.Curve] = []
    treatments: tuple[Treatment, ...] = ("as trained", "matched")
    for treatment in treatments:
        curves += bench.measure(treatment, pair.ends[treatment], "linear", "interpolated")
    return record.Control(name=name, distances=pair.distances(bench.graph), curves=tuple(curves))


def _untrained(model: nn.Module, seed: int) -> Params:
    """Fresh parameters from the modules' own ``reset_parameters``; a module's speaks for all modules inside it.

    The seed is derived: the plain one may be that from which the first network started.
    """
    fresh = copy.deepcopy(model)
    resetting = [name for name, module in fresh.named_modules() if hasattr(module, "reset_parameters")]
    stuck = [
        type(module).__name__
        for name, module in fresh.named_modules()
        if list(module.parameters(recurse=False)) and not any(f"{name}.".startswith(f"{r}.") for r in resetting)
    ]
    if stuck:
        raise ControlError(
            f"no untrained control: {', '.join(sorted(set(stuck)))} holds parameters and has no reset_parameters(). "
            "Pass untrained=compare.parameters(a_fresh_model)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "untrained"))
        for name in resetting:
            fresh.get_submodule(name).reset_parameters()  # type: ignore[operator]
    return parameters(fresh)


def _networks(
    curves: Sequence[record.Curve], trained: tuple[Trained, Trained] | None
) -> tuple[record.Network, record.Network]:
    """The ends as the first curves measured them: the straight line as trained, statistics their own."""
    own = {
        curve.split: curve for curve in curves if curve.treatment == "as trained" and curve.statistics == "interpolated"
    }
    first, second = (
        record.Network(
            name=f"seed {trained[i].seed}" if trained else "ab"[i],
            seed=trained[i].seed if trained else None,
            errors={split: curve.errors[-i] for split, curve in own.items()},
            losses={split: curve.losses[-i] for split, curve in own.items()},
            history=trained[i].history if trained else (),
        )
        for i in (0, 1)
    )
    return first, second


def _match(found: Match) -> record.Match:
    starts = {f"{number} {name}": value for number, (name, value) in enumerate(found.starts, 1)}
    return record.Match(
        objective=found.objective,
        bound=found.bound,
        starts=starts,
        sweeps=found.sweeps,
        converged=found.converged,
        seconds=found.seconds,
    )


def recorded_data(data: Data, splits: Mapping[SplitName, Split]) -> record.Data:
    """What a record says of its data.

    Args:
        data: The data set.
        splits: The parts of it that were measured on.

    Returns:
        Sizes and fingerprint.
    """
    return record.Data(
        name=data.name,
        fingerprint=data.fingerprint,
        classes=data.classes,
        train=len(data.train),
        test=len(data.test),
        evaluated={name: len(split) for name, split in splits.items()},
        calibration=len(data.train.calibration),
    )


def _dead_notes(graph: Graph, pair: Treated) -> Iterator[str]:
    for name, params in zip("ab", pair.ends["standard form"], strict=True):
        for layer, count in dead_units(graph, params).items():
            if count:
                yield f"{layer}: {count} dead units in network {name} (all weights or the gain 0), left as they are"


def _latent_notes(graph: Graph, a: Params, b: Params) -> Iterator[str]:
    """Latents of one magnitude (Bop keeps none) say nothing of the order in which bits flip on a path."""
    for name, params in (("a", a), ("b", b)):
        for weight in sorted(graph.binarised):
            sizes = params[weight].abs()
            if sizes.numel() > 1 and bool((sizes == sizes.flatten()[0]).all()):
                yield f"{weight}: all latents of network {name} have one magnitude, so many bits flip at once on a path"


def description(model: nn.Module) -> str:
    """The shape without the precision, so that counterparts carry the same text, as ``1 - 32 (3x3) - 10``.

    Args:
        model: The network.

    Returns:
        Inputs and outputs of each map, kernels in brackets.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    kernels = ["x".join(map(str, weight.shape[2:])) for weight in weights]
    outputs = [f"{len(w)} ({kernel})" if kernel else str(len(w)) for w, kernel in zip(weights, kernels, strict=True)]
    return " - ".join([str(weights[0].shape[1]), *outputs])
