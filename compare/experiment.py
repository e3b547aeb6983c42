"""The main job: train networks of each precision, connect each pair, keep records; everything finished is kept."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compare.connectivity import connect
from compare.data import Data
from compare.family import Family, PrecisionError, families
from compare.networks import ShapeError
from compare.runs import Configuration, Record, RecordError, identity, read_record, write_record
from compare.runs.configuration import claim, validated
from compare.runs.files import sole_writer
from compare.symmetry import trace
from compare.training import Checkpoint, CheckpointError, Trained, TrainingSettings, algorithm, train


def run(
    configuration: Configuration, data: Data, folder: Path, *, command: str | None = None, show: bool = True
) -> list[Record]:
    """Train and connect everything that ``configuration`` asks for.

    Networks and records that the folder already holds are read, not made again; training goes on where it stopped.

    Args:
        configuration: What is run.
        data: Its data set, as ``load_data`` gives it.
        folder: A new or empty folder, or one with the same configuration's run.
        command: The command line, for the records.
        show: Progress on standard error, where that is a terminal.

    Returns:
        A record for each precision and pair of seeds.

    Raises:
        ConfigurationError: If the folder holds something else.
        PrecisionError: For a precision that is not installed.
        SettingsError: If a precision does not offer the optimiser asked for.
        ShapeError: If the networks cannot be made in this shape.
        SymmetryError: If a network cannot be traced; all of these are found before anything is trained.
        TrainingError: If training diverges.
        RecordError: If a record in the folder is damaged or of another measurement.
        OutputError: If a file cannot be written, or another process is at work in the folder.
    """
    chosen = families(configuration.precisions)
    for family in chosen.values():
        network = build(family, configuration, data, seed=0)
        trace(network, data.train.x[:16], family)
        family.recipe.optimiser(network, training_settings(family, configuration))
    claim(folder, configuration)
    records = []
    with sole_writer(folder):
        for family in chosen.values():
            networks = {s: _train(family, configuration, data, folder, s, show=show) for s in configuration.seeds}
            for pair in itertools.combinations(configuration.seeds, 2):
                ends = networks[pair[0]], networks[pair[1]]
                records.append(_connected(family, configuration, data, folder, ends, command=command, show=show))
    return records


def build(family: Family, configuration: Configuration, data: Data, *, seed: int) -> nn.Module:
    """A fresh network of the configured shape; the same seed gives the same initial bits.

    Args:
        family: The precision.
        configuration: Holds the shape.
        data: Holds input and output sizes.
        seed: Seed of the initial parameters.

    Returns:
        The network.

    Raises:
        PrecisionError: If the precision does not offer this network.
        ShapeError: If its sizes make no network, or one too large for the memory.
    """
    shape, inputs = configuration.architecture, data.input_shape
    if shape.network not in family.networks:
        raise PrecisionError(
            f"precision {family.name!r} has no network {shape.network!r}: "
            f"expected one of {', '.join(family.networks) or 'none'}"
        )
    sizes: dict[str, tuple[Any, ...]] = {
        "mlp": (inputs[0] * inputs[1] * inputs[2], shape.hidden, data.classes),
        "vgg": (inputs, shape.stages, shape.hidden, data.classes),
        "resnet": (inputs, shape.widths, [shape.blocks] * len(shape.widths), data.classes),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return family.networks[shape.network](*sizes[shape.network])
        except (MemoryError, RuntimeError) as error:  # torch's allocator raises the latter
            raise ShapeError(
                f"the network {shape.model_dump(mode='json')} cannot be made in precision {family.name!r} "
                f"({str(error).splitlines()[0]}): expected one that fits into memory; choose smaller sizes"
            ) from error


def training_settings(family: Family, configuration: Configuration) -> TrainingSettings:
    """The family's settings with what the configuration changes."""
    asked = configuration.training
    given = "algorithm" in asked.model_fields_set  # else the recipe's own, whatever it is
    chosen = algorithm(asked.algorithm, **asked.hyperparameters()) if given else None
    return family.recipe.settings.changed(
        epochs=asked.epochs,
        batch=asked.batch,
        optimiser=asked.optimiser,
        learning_rate=asked.learning_rate,
        weight_decay=asked.weight_decay,
        algorithm=chosen,
    )


def train_one(
    family: Family, configuration: Configuration, data: Data, folder: Path, *, seed: int, describe: str | None = None
) -> Trained:
    """Build and train one network of the configuration, with its checkpoint in ``folder``."""
    architecture = configuration.architecture.model_dump(mode="json")
    about = {"precision": family.name, "architecture": architecture, "data_set": configuration.data}
    return train(
        build(family, configuration, data, seed=seed),
        data,
        family.recipe,
        settings=training_settings(family, configuration),
        seed=seed,
        folder=folder,
        about=about,
        describe=describe,
    )


def _train(family: Family, configuration: Configuration, data: Data, folder: Path, seed: int, *, show: bool) -> Trained:
    describe = f"{family.name}: train seed {seed}" if show else None
    return train_one(family, configuration, data, folder / family.name / f"seed-{seed}", seed=seed, describe=describe)


def _connected(
    family: Family,
    configuration: Configuration,
    data: Data,
    folder: Path,
    ends: tuple[Trained, Trained],
    *,
    command: str | None,
    show: bool,
) -> Record:
    seeds = ends[0].seed, ends[1].seed
    file = folder / "records" / f"{family.name}-{seeds[0]}-{seeds[1]}.json"
    name = identity(configuration.model_dump(mode="json"))
    if file.exists():
        expected = {
            "precision": family.name,
            "seed": seeds[0],
            "seeds of the networks": seeds,
            "configuration": name,
            "data": data.fingerprint,
        }
        return _kept(file, expected)
    settings: dict[str, Any] = configuration.model_dump(mode="json", exclude_none=True)
    settings["training"] = training_settings(family, configuration).as_dict()
    record = connect(
        family,
        build(family, configuration, data, seed=seeds[0]),
        ends[0].params,
        ends[1].params,
        data,
        seed=seeds[0],
        points=configuration.points,
        samples=configuration.samples,
        trained=ends,
        configuration={"identity": name, **settings},
        command=command,
        describe=f"{family.name}: seeds {seeds[0]} and {seeds[1]}" if show else None,
    )
    write_record(record, file)
    return record


def _kept(file: Path, expected: Mapping[str, object]) -> Record:
    """A record of an earlier run; a file's name proves nothing."""
    remedy = "Remove it; it is measured again"
    try:
        record = read_record(file)
    except RecordError as error:
        raise RecordError(f"{error}. {remedy}") from error
    found = {
        "precision": record.precision,
        "seed": record.seed,
        "seeds of the networks": tuple(network.seed for network in record.networks),
        "configuration": (record.configuration or {}).get("identity"),
        "data": record.data.fingerprint,
    }
    differing = [f"{name} {found[name]}, expected {value}" for name, value in expected.items() if found[name] != value]
    if differing:
        raise RecordError(f"{file} holds another measurement ({'; '.join(differing)}). {remedy}")
    return record


def connect_checkpoints(
    a: Checkpoint,
    b: Checkpoint,
    load: Callable[[str], Data],
    *,
    seed: int,
    points: int,
    samples: int,
    command: str | None = None,
    describe: str | None = None,
) -> Record:
    """Connect two checkpoints that ``train_one`` wrote: precision, shape and data set come from them.

    Args:
        a: The first network.
        b: The second; same precision, shape and data set.
        load: Gives the data set of a name.
        seed: See ``connect``.
        points: See ``connect``.
        samples: See ``connect``.
        command: The command line, for the record.
        describe: Text before the progress line.

    Returns:
        The record.

    Raises:
        CheckpointError: If the two do not belong together or did not come from ``train_one``.
        ConfigurationError: If ``points`` or ``samples`` makes no sense.
        CompareError: As ``connect``.
    """
    for name in ("precision", "architecture", "data_set", "data", "training_data"):
        if name not in a.settings or a.settings[name] != b.settings.get(name):
            raise CheckpointError(
                f"the two checkpoints differ in '{name}': {a.settings.get(name)!r} and {b.settings.get(name)!r}; "
                "expected two networks of one precision and shape, trained on one data set"
            )
    precision = a.settings["precision"]
    family = families((precision,))[precision]
    asked = {
        "data": a.settings["data_set"],
        "architecture": a.settings["architecture"],
        "points": points,
        "samples": samples,
    }
    configuration = validated(asked, "the checkpoints and options")
    data = load(configuration.data)
    return connect(
        family,
        build(family, configuration, data, seed=seed),
        a.params,
        b.params,
        data,
        seed=seed,
        points=points,
        samples=samples,
        trained=(_trained(a), _trained(b)),
        configuration={"a": a.settings, "b": b.settings, "points": points, "samples": samples},
        command=command,
        describe=describe,
    )


def _trained(checkpoint: Checkpoint) -> Trained:
    settings = TrainingSettings.from_dict(checkpoint.settings)
    return Trained(checkpoint.params, checkpoint.history, checkpoint.settings["seed"], settings, checkpoint.course)
