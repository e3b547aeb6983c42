"""The main job: train networks of each precision, connect each pair, keep records; everything finished is kept."""

import itertools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compare.connectivity import connect
from compare.data import Data
from compare.family import Family, families
from compare.runs import Configuration, Record, identity, read_record, write_record
from compare.runs.configuration import claim
from compare.symmetry import trace
from compare.training import Checkpoint, CheckpointError, Trained, TrainingSettings, train


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
        SymmetryError: If a network cannot be traced; all of these are found before anything is trained.
        TrainingError: If training diverges.
        OutputError: If a file cannot be written.
    """
    chosen = families(configuration.precisions)
    for family in chosen.values():
        network = build(family, configuration, data, seed=0)
        trace(network, data.train.x[:16], family)
        family.recipe.optimiser(network, training_settings(family, configuration))
    claim(folder, configuration)
    records = []
    for family in chosen.values():
        networks = {seed: _train(family, configuration, data, folder, seed, show=show) for seed in configuration.seeds}
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
    """
    shape, inputs = configuration.architecture, data.input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape.network == "mlp":
            return family.networks["mlp"](inputs[0] * inputs[1] * inputs[2], shape.hidden, data.classes)
        if shape.network == "vgg":
            return family.networks["vgg"](inputs, shape.stages, shape.hidden, data.classes)
        return family.networks["resnet"](inputs, shape.widths, [shape.blocks] * len(shape.widths), data.classes)


def training_settings(family: Family, configuration: Configuration) -> TrainingSettings:
    """The family's settings with what the configuration changes."""
    return family.recipe.settings.changed(**configuration.training.model_dump())


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
    if file.exists():
        return read_record(file)
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
        configuration={"identity": identity(configuration.model_dump(mode="json")), **settings},
        command=command,
        describe=f"{family.name}: seeds {seeds[0]} and {seeds[1]}" if show else None,
    )
    write_record(record, file)
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
        CompareError: As ``connect``.
    """
    for name in ("precision", "architecture", "data_set", "data"):
        if name not in a.settings or a.settings[name] != b.settings.get(name):
            raise CheckpointError(
                f"the two checkpoints differ in '{name}': {a.settings.get(name)!r} and {b.settings.get(name)!r}; "
                "expected two networks of one precision and shape, trained on one data set"
            )
    precision = a.settings["precision"]
    family = families((precision,))[precision]
    configuration = Configuration.model_validate(
        {"data": a.settings["data_set"], "architecture": a.settings["architecture"]}
    )
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
    names = {field.name for field in fields(TrainingSettings)}
    settings = TrainingSettings(**{name: value for name, value in checkpoint.settings.items() if name in names})
    return Trained(checkpoint.params, checkpoint.history, checkpoint.settings["seed"], settings)
