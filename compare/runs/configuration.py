"""What is run: a frozen configuration, from a TOML file and options, with an identity that names its folder."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compare.data.names import DATA_SETS
from compare.errors import CompareError
from compare.runs.files import write_text

SCHEMA_VERSION = 1
FILE = "configuration.toml"

Positive = Annotated[int, Field(gt=0)]


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


class Architecture(Frozen):
    """The shape of the network, the same for every precision."""

    network: Literal["mlp", "vgg", "resnet"] = Field("mlp", description="mlp, vgg or resnet")
    hidden: tuple[Positive, ...] = Field(
        (256, 256), description="hidden widths of the mlp, and of the vgg's dense layers"
    )
    stages: tuple[tuple[Positive, ...], ...] = Field(
        ((32, 32), (64, 64)), description="vgg: widths of the convolutions of each stage, stages end in a pooling"
    )
    widths: tuple[Positive, ...] = Field((16, 32), description="resnet: width of each stage")
    blocks: Positive = Field(1, description="resnet: residual blocks a stage")


class Configuration(Frozen):
    """The main job: networks of some precisions on one data set, and how they connect."""

    data: str = Field("digits", description=f"data set: {', '.join(DATA_SETS)}")
    precisions: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("binary", "full"), description="names that `compare-nets precisions` lists"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2), description="one network a seed and precision; each pair of seeds is connected"
    )
    architecture: Architecture = Architecture()
    training: Training = Training()
    points: Annotated[int, Field(ge=2)] = Field(25, description="networks measured on a path, ends included")
    samples: Positive = Field(
        10_000, description="at most so many samples of each split are measured on paths (a seeded choice)"
    )

    @model_validator(mode="after")
    def _distinct(self) -> "Configuration":
        if self.data not in DATA_SETS:
            raise ValueError(f"data: unknown data set {self.data!r}, expected one of {', '.join(DATA_SETS)}")
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: expected at least two different seeds, since networks are compared in pairs")
        if len(set(self.precisions)) != len(self.precisions):
            raise ValueError("precisions: expected each precision once")
        return self


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
    return _validated(content, str(file) if file else "the options")


def read_configuration(file: Path) -> Configuration:
    """Read and validate a TOML file.

    Raises:
        ConfigurationError: If the file cannot be read or does not hold a configuration.
    """
    return _validated(_read(file), str(file))


def to_toml(configuration: Configuration) -> str:
    """The configuration as TOML, everything that has a value, readable by ``read_configuration``."""
    text = tomli_w.dumps(configuration.model_dump(mode="json", exclude_none=True))
    # One line for each innermost array; no value of a configuration holds a bracket.
    return re.sub(r"\[\n\s+([^\[\]]*?),\n\s*\]", lambda array: "[" + re.sub(r",\s+", ", ", array[1]) + "]", text)


def claim(folder: Path, configuration: Configuration) -> None:
    """Make ``folder`` the place of this configuration's run: a new folder, or one that holds the same configuration.

    Raises:
        ConfigurationError: If the folder holds another configuration's run, or files that are no run.
        OutputError: If it cannot be written.
    """
    file = folder / FILE
    if file.exists():
        if read_configuration(file) != configuration:
            raise ConfigurationError(
                f"{folder} holds another configuration's run (see {file.name} in it): "
                "choose another folder, or remove that one"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
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


def _validated(content: Mapping[str, Any], source: str) -> Configuration:
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        known = ", ".join(Configuration.model_fields)
        raise ConfigurationError(f"{source}: {'; '.join(faults)}. Known names: {known}") from error


def folder_name(configuration: Configuration) -> str:
    """Where a run goes unless told: data, network and the configuration's identity."""
    return (
        f"{configuration.data}-{configuration.architecture.network}-{identity(configuration.model_dump(mode='json'))}"
    )
