"""Arithmetic on ``dict[str, Tensor]``: a network's parameters and buffers, matched by name and never by position."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compare.errors import CompareError

Params: TypeAlias = dict[str, Tensor]


class ParameterError(CompareError, ValueError):
    """Parameters that do not belong to the network, or that hold NaN or infinity."""


@dataclass(frozen=True)
class Coordinate:
    """How one parameter is a point of the space that paths run through.

    Attributes:
        kind: ``"rows"``: each row (axis 0) is a point on a sphere of its own; ``"joint"``: the whole tensor is one
            point on one sphere; ``"linear"``: no sphere, interpolated linearly.
        binarised: The tensor is latent: the network uses its signs.
    """

    kind: Literal["rows", "joint", "linear"]
    binarised: bool = False


def sign(x: Tensor) -> Tensor:
    """The sign of each entry, +1 for 0; the one sign function of the project. NaN gives +1, so check for it before.

    Example:
        >>> sign(torch.tensor([-2.0, -0.0, 0.0, 3.0]))
        tensor([-1.,  1.,  1.,  1.])
    """
    # torch.sign is vectorised, comparisons to bool are not: this form is ten times faster than torch.where.
    return torch.sign(x).add_(0.5).sign_()


def parameters(model: nn.Module) -> Params:
    """Copies of all parameters and buffers of ``model``, by name.

    Buffers that ``state_dict`` leaves out (``persistent=False``) are constants of the architecture and no parameters.

    Args:
        model: Any module. It is not changed, and the copies share no memory with it.

    Returns:
        Detached tensors under the names of ``named_parameters`` and ``named_buffers``.

    Example:
        >>> sorted(parameters(nn.BatchNorm1d(3)))
        ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
    """
    state = model.state_dict()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in state]
    named = [*model.named_parameters(), *buffers]
    return {name: tensor.detach().clone() for name, tensor in named}


def check(params: Mapping[str, Tensor], reference: Mapping[str, Tensor], *, what: str = "params") -> None:
    """Raise unless ``params`` has exactly the names and shapes of ``reference`` and only finite numbers.

    Args:
        params: What came.
        reference: What is expected, for instance ``parameters(model)``.
        what: The argument's name, for the message.

    Raises:
        ParameterError: Naming each missing, surplus, misshapen or non-finite entry.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(
            f"{what}: expected a dict of tensors by name, as compare.parameters(model) gives, "
            f"got {type(params).__name__}"
        )
    faults = [f"'{name}' is missing" for name in reference if name not in params]
    faults += [f"'{name}' is surplus" for name in params if name not in reference]
    for name, expected in reference.items():
        if name in params:
            faults += _faults(name, params[name], expected)
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ParameterError(
            f"{what} does not fit the network: {shown}. Expected the names and shapes of compare.parameters(model)."
        )


def check_same_types(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Raise ``ParameterError`` unless entries of the same name have the same type."""
    for name in a:
        if a[name].dtype != b[name].dtype:
            raise ParameterError(f"'{name}' is {a[name].dtype} in a and {b[name].dtype} in b: convert one of them")


def _faults(name: str, tensor: object, expected: Tensor) -> list[str]:
    if not isinstance(tensor, Tensor):
        return [f"'{name}' is a {type(tensor).__name__}, not a tensor"]
    if tensor.is_floating_point() != expected.is_floating_point():
        return [f"'{name}' has type {tensor.dtype}, expected {expected.dtype}"]
    if tensor.shape != expected.shape:
        return [f"'{name}' has shape {list(tensor.shape)}, expected {list(expected.shape)}"]
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        return [f"'{name}' holds {bad} NaN or infinite of {tensor.numel()} numbers"]
    return []


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of names, types, shapes and all bits: equal only for equal tensors.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}) != digest({"a": torch.zeros(3)})
        True
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]


def call(model: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The output of ``model`` with ``params`` in place of its own parameters and buffers.

    Args:
        model: Any module that returns one tensor; it is not changed, its mode (training or evaluation) counts.
        params: Parameters and buffers by name; not changed either, though normalisation in training mode would change
            them, and quantisers that clamp latent weights in place.
        x: Input ``[batch, ...]``.

    Returns:
        ``[batch, classes]``, or whatever the model returns.
    """
    return call_in_place(model, {name: tensor.clone() for name, tensor in params.items()}, x)


def call_in_place(model: nn.Module, params: Params, x: Tensor) -> Tensor:
    """As ``call``, but what the model writes is written into ``params``.

    Args:
        model: Any module; not changed itself.
        params: Parameters and buffers by name, which normalisation in training mode and some quantisers change.
        x: Input ``[batch, ...]``.

    Returns:
        Whatever the model returns.
    """
    output: Tensor = functional_call(model, params, (x,))
    return output


def lerp(a: Mapping[str, Tensor], b: Mapping[str, Tensor], t: float) -> Params:
    """The point (1 - t) a + t b, exactly a at 0, b at 1, and a where both agree.

    Entries that are not floating point (counters of batches) are taken from ``a``. Both must have the same types.
    """
    return {
        name: torch.lerp(tensor, b[name], t) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in a.items()
    }
