"""Files of binary networks at one bit a weight.

One safetensors file holds everything: ``bits.<weight>``, ``thresholds.<step>`` (int32), ``negated.<step>`` and
``output.gain``, ``.offset``, ``.shift`` in the network's own precision. Bits stand eight to a byte, the first in the
lowest, without gaps between rows; the last byte of a tensor is filled up with zeros. The plan, the shapes and a digest
of all of it stand in the header's metadata as JSON.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from binarynets.integer.affine import Affine, IntegerError
from binarynets.integer.network import IntegerNetwork
from binarynets.integer.plan import Add, Convolution, Decide, Flatten, Linear, Output, Plan, Pool, Scaling, Step
from compare.params import digest
from compare.runs import write_bytes

FORMAT = 1
"""Version of what the file holds; a file of another version is refused."""

_KEY = "binarynets.packed"
_STEPS = {kind.__name__: kind for kind in (Flatten, Linear, Convolution, Pool, Add, Decide, Output)}


class PackedFileError(IntegerError):
    """A file that is not a packed network, or no longer one."""


def save_packed(network: IntegerNetwork, path: Path | str) -> None:
    """Write a network at one bit a weight, whole or not at all.

    Args:
        network: As ``to_integer`` gives it.
        path: The file; one that is there is replaced.

    Raises:
        OutputError: If it cannot be written.
    """
    write_bytes(Path(path), serialised(network))


def load_packed(path: Path | str) -> IntegerNetwork:
    """Read what ``save_packed`` wrote.

    Args:
        path: The file.

    Returns:
        The network; its outputs are those of the network that was saved, bit for bit.

    Raises:
        PackedFileError: If there is no such file, or it is damaged, something else, or of another version.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise PackedFileError(f"{path} does not exist: expected a file that save_packed wrote")
    try:
        with open(path, "rb"):  # safetensors reports every failure to open as a missing file
            pass
    except OSError as error:
        raise PackedFileError(f"could not read {path}: {error.strerror}; expected a packed network's file") from error
    try:
        with safe_open(str(path), framework="pt") as opened:
            header = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        _check_version(path, header["format"])
        return _network(header, tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, PackedFileError):
            raise
        raise PackedFileError(
            f"{path} is not a packed network ({type(error).__name__}: {error}). "
            "If it was one, it is damaged: save the network again"
        ) from error


def serialised(network: IntegerNetwork) -> bytes:
    """All bytes of a network's file."""
    tensors = stored(network)
    described = {
        "steps": [{"step": type(step).__name__, **dataclasses.asdict(step)} for step in network.plan.steps],
        "shapes": {name: list(bits.shape) for name, bits in network.bits.items()},
    }
    header = {"format": FORMAT, "digest": _digest(described, tensors), "network": described}
    # One entry alone: safetensors does not say in which order it writes several.
    return save(tensors, {_KEY: json.dumps(header, sort_keys=True, separators=(",", ":"))})


def stored(network: IntegerNetwork) -> dict[str, Tensor]:
    """The tensors of a network's file, by name."""
    output = {"gain": network.output.gain, "offset": network.output.offset, "shift": network.output.shift}
    tensors = {f"bits.{name}": _packed(bits) for name, bits in network.bits.items()}
    tensors |= {f"thresholds.{step}": limits.to(torch.int32) for step, limits in network.thresholds.items()}
    tensors |= {f"negated.{step}": _packed(negated) for step, negated in network.negated.items()}
    tensors |= {f"output.{name}": tensor for name, tensor in output.items() if tensor is not None}
    # safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _network(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerNetwork:
    described = header["network"]
    if _digest(described, tensors) != header["digest"]:
        raise ValueError("its digest is not that of its content")
    thresholds = {int(name): tensor for name, tensor in _under("thresholds.", tensors).items()}
    return IntegerNetwork(
        plan=Plan(tuple(_step(step) for step in described["steps"])),
        bits={name: _unpacked(tensors[f"bits.{name}"], shape) for name, shape in described["shapes"].items()},
        thresholds=thresholds,
        negated={step: _unpacked(tensors[f"negated.{step}"], limits.shape) for step, limits in thresholds.items()},
        output=Affine(tensors["output.gain"], tensors["output.offset"], tensors.get("output.shift")),
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_version(path: Path, version: object) -> None:
    if version != FORMAT:
        raise PackedFileError(
            f"{path} has format {version}, expected {FORMAT}: read it with the version of binarynets that wrote it, "
            "or save the network again"
        )


def _digest(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    text = json.dumps(described, sort_keys=True).encode()
    return digest({**tensors, _KEY: torch.from_numpy(np.frombuffer(text, np.uint8).copy())})


def _step(described: Mapping[str, Any]) -> Step:
    values = {name: _tuples(value) for name, value in described.items() if name != "step"}
    if isinstance(values.get("scaling"), dict):
        values["scaling"] = Scaling(**values["scaling"])
    step: Step = _STEPS[described["step"]](**values)
    return step


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _packed(bits: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(bits.detach().cpu().numpy().reshape(-1), bitorder="little"))


def _unpacked(packed: Tensor, shape: tuple[int, ...] | list[int]) -> Tensor:
    count = math.prod(shape)
    bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.astype(np.bool_)).view(tuple(shape))
