"""Checkpoints: one safetensors file that is replaced whole, with the configuration beside it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from compare.errors import CompareError
from compare.params import Params
from compare.runs import write_bytes, write_text
from compare.runs.record import Epoch
from compare.training.phases import Note

FILE = "network.safetensors"
SETTINGS = "training.json"
_MARK = "__tensor__"


class CheckpointError(CompareError, ValueError):
    """A file that is not a checkpoint, or that belongs to another configuration."""


@dataclass(frozen=True)
class Checkpoint:
    """A network during or after training.

    Attributes:
        params: Parameters and buffers by name.
        settings: Everything that determines the run, plain values.
        history: One entry for each finished epoch.
        complete: Training has ended.
        optimiser: The optimiser's state, with what else the algorithm goes on from; None where the next epoch, if there
            is one, begins with a fresh optimiser.
        course: A note for each epoch.
    """

    params: Params
    settings: dict[str, Any]
    history: tuple[Epoch, ...]
    complete: bool
    optimiser: dict[str, Any] | None = None
    course: tuple[Note, ...] = ()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``network.safetensors`` in one step, and ``training.json`` beside it for people.

    Raises:
        OutputError: If it cannot be written; the previous checkpoint is then still there.
    """
    tensors = {f"params.{name}": tensor.contiguous() for name, tensor in checkpoint.params.items()}
    skeleton = _flatten(checkpoint.optimiser, tensors)
    metadata = {
        "settings": json.dumps(checkpoint.settings, sort_keys=True),
        "history": json.dumps([epoch.model_dump() for epoch in checkpoint.history]),
        "complete": json.dumps(checkpoint.complete),
        "optimiser": json.dumps(skeleton),
        "course": json.dumps([note.told() for note in checkpoint.course]),
    }
    write_bytes(folder / FILE, save(tensors, metadata))
    history = [
        epoch.model_dump(exclude_none=True) | note.told()
        for epoch, note in zip(checkpoint.history, checkpoint.course, strict=True)
    ]
    described = {"settings": checkpoint.settings, "complete": checkpoint.complete, "history": history}
    write_text(folder / SETTINGS, json.dumps(described, indent=1) + "\n")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: The file, or the folder it lies in.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If there is none, or the file is damaged or something else.
    """
    file = path / FILE if os.path.isdir(path) else path
    if not os.path.exists(file):
        raise CheckpointError(f"{file} does not exist: expected a checkpoint that `compare-nets train` or `run` wrote")
    try:
        with open(file, "rb"):  # safetensors reports every failure to open as a missing file
            pass
    except OSError as error:
        raise CheckpointError(f"could not read {file}: {error.strerror}; expected a checkpoint's file") from error
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        history = tuple(Epoch.model_validate(epoch) for epoch in json.loads(metadata["history"]))
        course = json.loads(metadata.get("course", "null"))  # older ones have none
        return Checkpoint(
            params={name.removeprefix("params."): t for name, t in tensors.items() if name.startswith("params.")},
            settings=json.loads(metadata["settings"]),
            history=history,
            complete=json.loads(metadata["complete"]),
            optimiser=_unflatten(json.loads(metadata["optimiser"]), tensors),
            course=tuple(Note(**note) for note in course) if course is not None else (Note(),) * len(history),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a checkpoint of compare-nets ({error}). "
            "If it was one, it is damaged: remove it and train again"
        ) from error


def _flatten(state: Any, tensors: dict[str, Tensor]) -> Any:
    """A skeleton that JSON can hold; dictionaries become lists of pairs, since JSON would turn integer keys to text."""
    if isinstance(state, Tensor):
        name = f"optimiser.{len(tensors)}"
        tensors[name] = state.detach().clone().contiguous()
        return {_MARK: name}
    if isinstance(state, dict):
        return {"pairs": [[key, _flatten(value, tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [_flatten(value, tensors) for value in state]
    return state


def _unflatten(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(skeleton, dict):
        if _MARK in skeleton:
            return tensors[skeleton[_MARK]]
        return {key: _unflatten(value, tensors) for key, value in skeleton["pairs"]}
    if isinstance(skeleton, list):
        return [_unflatten(value, tensors) for value in skeleton]
    return skeleton
