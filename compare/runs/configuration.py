"""What is run: a frozen configuration, from a TOML file and options, with an identity that names its folder."""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from compare.data.names import DATA_SETS
from compare.errors import CompareError
from compare.runs.files import is_free, write_text

SCHEMA_VERSION = 1
FILE = "configuration.toml"

LIMIT = 2**63  # torch counts and seeds with 64 bits
Positive = Annotated[int, Field(gt=0, lt=LIMIT)]
Seed = Annotated[int, Field(ge=0, lt=LIMIT)]

# The fields of Architecture that each network has.
_SHAPES: Mapping[str, tuple[str, ...]] = {
    "mlp": ("hidden",),
    "vgg": ("stages", "hidden"),
    "resnet": ("widths", "blocks"),
}


HYPERPARAMETERS: Mapping[str, Mapping[str, float | None]] = {
    "plain": {},
    "rsgd": {"replicas": 3, "coupling": 1.0, "growth": 1e4, "spread": 0.3},
    "adv": {"random_epochs": 50, "random_error": 0.0, "random_learning_rate": None},
    "sam": {"rho": 0.05},
}
"""The fields of Training that each algorithm has, none of which may be given with another, and the algorithm's own
defaults: those of ``compare.training.algorithms``, said again for help texts, which are to come without torch."""

WITHOUT_BOP: Mapping[str, str] = {
    "rsgd": "they cannot approach a barycentre",
    "sam": "a small move changes no sign",
}
"""Algorithms that do not go with the optimiser Bop, whose weights are only ever +1 and -1, and why."""


def without_bop(algorithm: str) -> str:
    """Why an algorithm of ``WITHOUT_BOP`` does not go with Bop, and what does."""
    return (
        f"the algorithm {algorithm!r} does not go with the optimiser 'bop', whose weights are only ever +1 and -1: "
        f"{WITHOUT_BOP[algorithm]}. Use the optimiser 'adam' or 'sgd'"
    )


class ConfigurationError(CompareError, ValueError):
    """A configuration that cannot be run, or a folder that holds another one's run."""


class Frozen(BaseModel):
    """Frozen settings; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Training(Frozen):
    """How each network is trained; what is not given is the precision's default."""

    epochs: Positive | None = Field(None, description="passes over the training data")
    batch: Annotated[int, Field(gt=1)] | None = Field(None, description="samples a step")
    optimiser: Literal["adam", "sgd", "bop"] | None = Field(None, description="adam, sgd or bop (binary only)")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="at the start; falls to 0 on a cosine"
    )

    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="as the optimiser defines it; never on latent weights"
    )
    algorithm: Literal["plain", "rsgd", "adv", "sam"] = Field(
        "plain", description="plain, rsgd (coupled replicas), adv (random labels first) or sam (sharpness-aware)"
    )
    replicas: Annotated[int, Field(gt=1, lt=LIMIT)] | None = Field(None, description="rsgd: coupled networks")
    coupling: Annotated[float, Field(gt=0)] | None = Field(
        None, description="rsgd: the coupling term at the start, as a multiple of the loss there"
    )
    growth: Annotated[float, Field(ge=1)] | None = Field(
        None, description="rsgd: factor by which the coupling grows over the training, exponentially"
    )
    spread: Annotated[float, Field(gt=0)] | None = Field(
        None, description="rsgd: initial displacement of replicas, in standard deviations of the weights"
    )
    random_epochs: Positive | None = Field(None, description="adv: most epochs with random labels, before the others")
    random_error: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="adv: random labels end once the training error of an epoch (a fraction) is at most this"
    )
    random_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="adv: learning rate of the random labels, at their start"
    )
    rho: Annotated[float, Field(gt=0)] | None = Field(
        None, description="sam: distance to the worst point near by, over all parameters"
    )

    @model_validator(mode="after")
    def _no_foreign_hyperparameters(self) -> "Training":
        given = {name for names in HYPERPARAMETERS.values() for name in names if getattr(self, name) is not None}
        foreign = sorted(given.difference(HYPERPARAMETERS[self.algorithm]))
        if foreign:
            own = ", ".join(HYPERPARAMETERS[self.algorithm]) or "none"
            raise ValueError(
                f"the algorithm {self.algorithm!r} has no {', '.join(foreign)}; its hyperparameters are: {own}. "
                f"{_owners(foreign)}"
            )
        return self

    @model_validator(mode="after")
    def _goes_with_the_optimiser(self) -> "Training":
        if self.optimiser == "bop" and self.algorithm in WITHOUT_BOP:
            raise ValueError(without_bop(self.algorithm))
        return self

    @model_serializer(mode="wrap")
    def _own_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain training as before there were others, so that identities stay."""
        own = HYPERPARAMETERS[self.algorithm]
        foreign = {name for names in HYPERPARAMETERS.values() for name in names}.difference(own)
        foreign.update(("algorithm",) if self.algorithm == "plain" else ())
        return {name: value for name, value in handler(self).items() if name not in foreign}

    def hyperparameters(self) -> dict[str, Any]:
        """Those of the algorithm that are given, by name."""
        found = {name: getattr(self, name) for name in HYPERPARAMETERS[self.algorithm]}
        return {name: value for name, value in found.items() if value is not None}


class Architecture(Frozen):
    """The shape of the network, the same for every precision; only the fields of the chosen network may be given."""

    network: Literal["mlp", "vgg", "resnet"] = Field("mlp", description="mlp, vgg or resnet")
    hidden: tuple[Positive, ...] = Field(
        (256, 256), description="hidden widths of the mlp, and of the vgg's dense layers"
    )
    stages: tuple[tuple[Positive, ...], ...] = Field(
        ((32, 32), (64, 64)), description="vgg: widths of the convolutions of each stage, stages end in a pooling"
    )
    widths: tuple[Positive, ...] = Field((16, 32), description="resnet: width of each stage")
    blocks: Positive = Field(1, description="resnet: residual blocks a stage")

    @model_validator(mode="after")
    def _no_foreign_fields(self) -> "Architecture":
        foreign = self.model_fields_set.difference(("network", *_SHAPES[self.network]))
        if foreign:
            own = ", ".join(_SHAPES[self.network])
            raise ValueError(f"the network {self.network!r} has no {', '.join(sorted(foreign))}; its shape is: {own}")
        return self

    @model_serializer(mode="wrap")
    def _own_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in ("network", *_SHAPES[self.network])}


class Configuration(Frozen):
    """The main job: networks of some precisions on one data set, and how they connect."""

    data: str = Field("digits", description=f"data set: {', '.join(DATA_SETS)}")
    precisions: tuple[str, ...] = Field(("binary", "full"), description="names that `compare-nets precisions` lists")
    seeds: tuple[Seed, ...] = Field(
        (0, 1, 2), description="one network a seed and precision; each pair of seeds is connected"
    )
    architecture: Architecture = Architecture()
    training: Training = Training()
    points: Annotated[int, Field(ge=3, lt=LIMIT)] = Field(
        25, description="networks measured on a path, ends included; odd, so that one lies halfway"
    )
    samples: Annotated[int, Field(ge=2, lt=LIMIT)] = Field(
        10_000, description="at most so many samples of each split are measured on paths (a seeded choice)"
    )

    @field_validator("data")
    @classmethod
    def _known(cls, data: str) -> str:
        if data not in DATA_SETS:
            raise ValueError(f"expected one of {', '.join(DATA_SETS)}{_nearest(data, DATA_SETS)}")
        return data

    @field_validator("precisions")
    @classmethod
    def _each_once(cls, precisions: tuple[str, ...]) -> tuple[str, ...]:
        if not precisions or len(set(precisions)) != len(precisions):
            raise ValueError("expected at least one, and each precision once")
        return precisions

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(seeds) < 2 or len(set(seeds)) != len(seeds):
            raise ValueError("expected at least two different seeds, since networks are compared in pairs")
        return seeds

    @field_validator("points")
    @classmethod
    def _odd(cls, points: int) -> int:
        if points % 2 == 0:
            raise ValueError("expected an odd number, so that one network lies halfway")
        return points


def identity(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of all settings and the schema version.

    Args:
        settings: Anything that JSON can hold.

    Returns:
        The same digits for the same settings, in whatever order.
    """
    content = json.dumps({"schema": SCHEMA_VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def configure(options: Mapping[str, Any], file: Path | None = None) -> Configuration:
    """A configuration from a TOML file and options, which win over the file.

    Args:
        options: Values by dotted name (``"training.epochs"``); None means not given.
        file: A TOML file with the same names, or None.

    Returns:
        The validated configuration.

    Raises:
        ConfigurationError: Naming each wrong entry.
    """
    content = _read(file) if file else {}
    for name, value in options.items():
        if value is None:
            continue
        *tables, last = name.split(".")
        table = content
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigurationError(f"{file}: {part}: expected a table, got {table!r}")
        table[last] = value
    return validated(content, str(file) if file else "the options")


def read_configuration(file: Path) -> Configuration:
    """Read and validate a TOML file.

    Raises:
        ConfigurationError: If the file cannot be read or does not hold a configuration.
    """
    return validated(_read(file), str(file))


def to_toml(configuration: Configuration) -> str:
    """The configuration as TOML, everything that has a value, readable by ``read_configuration``."""
    text = tomli_w.dumps(configuration.model_dump(mode="json", exclude_none=True))
    # One line for each innermost array; no value of a configuration holds a bracket.
    return re.sub(r"\[\n\s+([^\[\]]*?),\n\s*\]", lambda array: "[" + re.sub(r",\s+", ", ", array[1]) + "]", text)


def claim(folder: Path, configuration: Configuration) -> None:
    """Make ``folder`` the place of this configuration's run: a new folder, or one that holds the same configuration.

    Raises:
        ConfigurationError: If the folder holds another configuration's run, or files that are no run.
        OutputError: If it cannot be looked into or written.
    """
    file = folder / FILE
    if os.path.exists(file):
        if read_configuration(file) != configuration:
            raise ConfigurationError(
                f"{folder} holds another configuration's run (see {file.name} in it): "
                "choose another folder, or remove that one"
            )
        return
    if not is_free(folder):
        raise ConfigurationError(
            f"{folder} is not empty and holds no run of compare-nets: choose a new or an empty folder"
        )
    write_text(file, to_toml(configuration))


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"could not read the configuration {file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error


def validated(content: Mapping[str, Any], source: str) -> Configuration:
    """A configuration from plain values.

    Args:
        content: Values by name, with those of ``architecture`` and ``training`` in dictionaries.
        source: Where they come from, for messages.

    Raises:
        ConfigurationError: Naming each wrong entry: what was expected and what came.
    """
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {'; '.join(map(_fault, error.errors()))}") from error


def _fault(error: ErrorDetails) -> str:
    *tables, last = [part for part in error["loc"] if isinstance(part, str)]
    name = ".".join([*tables, last])
    if error["type"] == "extra_forbidden":
        return f"unknown name {name!r}{_where_it_belongs(last, tables)}"
    if last in _TABLES:  # the whole table is at fault, and has no option
        return f"{name}: {_expectation(error)}"
    return f"{name} (--{last.replace('_', '-')}): got {error['input']!r}, {_expectation(error)}"


def _expectation(error: ErrorDetails) -> str:
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"expected a table, got {error['input']!r}"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)


def _where_it_belongs(name: str, tables: list[str]) -> str:
    """The table that knows the name, or the names that this table knows and the nearest of them."""
    for table, model in _TABLES.items():
        if name in model.model_fields and [table] != tables:
            return f": it belongs into the table [{table}]"
    if name in Configuration.model_fields:
        return ": it belongs to the top of the file, before any table"
    known = (_TABLES[tables[0]] if tables else Configuration).model_fields
    return f": expected one of {', '.join(known)}{_nearest(name, known)}"


def _owners(hyperparameters: Collection[str]) -> str:
    """Which algorithm each of them belongs to, and what to do."""
    said = []
    for algorithm, own in HYPERPARAMETERS.items():
        options = [f"--{name.replace('_', '-')}" for name in hyperparameters if name in own]
        if options:
            belong, them = ("belong", "them") if len(options) > 1 else ("belongs", "it")
            said.append(f"{', '.join(options)} {belong} to --algorithm {algorithm}: add that, or leave {them} out")
    return "; ".join(said)


def _nearest(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


_TABLES: Mapping[str, type[Frozen]] = {"architecture": Architecture, "training": Training}


def folder_name(configuration: Configuration) -> str:
    """Where a run goes unless told: data, network and the configuration's identity."""
    return (
        f"{configuration.data}-{configuration.architecture.network}-{identity(configuration.model_dump(mode='json'))}"
    )
