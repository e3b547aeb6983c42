"""What a binary network costs: bits, bytes of its packed file, multiply-accumulates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binarynets.integer.affine import IntegerError
from binarynets.integer.network import IntegerNetwork, to_integer
from binarynets.integer.packed import serialised, stored
from binarynets.integer.plan import Add, Convolution, Decide, Flatten, Linear, Output, Plan, Pool, Step
from compare.params import parameters

_LENGTH = 8
"""Bytes at the start of a safetensors file that say how long its header is."""


@dataclass(frozen=True)
class Row:
    """One layer, or the decisions behind it.

    Attributes:
        name: The module's path.
        kind: What is counted: ``"Linear"``, ``"Convolution"``, ``"thresholds"`` or ``"output"``.
        shape: Of the weight, or the number of channels.
        bits: That are stored; 0 for a weight that an earlier row holds.
        bytes: That they take in the file.
        macs: Multiply-accumulates for one sample, zeros of padding included; None where the input's shape is not known.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    bytes: int
    macs: int | None


@dataclass(frozen=True)
class Summary:
    """All rows, in the order of evaluation; ``print`` shows a table.

    Attributes:
        rows: Layers and decisions.
        header: Bytes of the file's header, its length included.
    """

    rows: tuple[Row, ...]
    header: int

    @property
    def bits(self) -> int:
        """Bits of all rows."""
        return sum(row.bits for row in self.rows)

    @property
    def bytes(self) -> int:
        """Size of the file that ``save_packed`` writes."""
        return self.header + sum(row.bytes for row in self.rows)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates for one sample, None where some row's are not known."""
        found = [row.macs for row in self.rows if row.macs is not None]
        return sum(found) if len(found) == len(self.rows) else None

    def __str__(self) -> str:
        """An aligned table."""
        lines = [("layer", "kind", "shape", "bits", "bytes", "MACs")]
        for row in self.rows:
            shape = " x ".join(map(str, row.shape))
            lines.append((row.name, row.kind, shape, f"{row.bits:,}", f"{row.bytes:,}", _number(row.macs)))
        lines.append(("header", "", "", "", f"{self.header:,}", ""))
        lines.append(("total", "", "", f"{self.bits:,}", f"{self.bytes:,}", _number(self.macs)))
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        table = "\n".join(_aligned(line, widths) for line in lines)
        note = "" if self.macs is not None else "\nMACs of convolutions need input_shape, such as (1, 28, 28)."
        return table + note


def summary(network: IntegerNetwork | nn.Module, input_shape: Sequence[int] | None = None) -> Summary:
    """Bits, bytes and multiply-accumulates of each layer; the total of bytes is the size of the packed file.

    Args:
        network: An integer network, or a model that has an integer form, with the parameters that it holds.
        input_shape: Shape of one sample, such as ``(1, 28, 28)``; multiply-accumulates of convolutions need it.

    Returns:
        A row for each layer and for the decisions behind it.

    Raises:
        IntegerError: If the model has no integer form, or the input's shape does not fit.

    Example:
        >>> import binarynets
        >>> print(summary(binarynets.mlp(784, [64], 10)))
        layer        kind        shape      bits    bytes  MACs
        linear1      Linear      64 x 784   50,176  6,272  50,176
        ...
    """
    if isinstance(network, nn.Module):
        network = to_integer(network, parameters(network))
    positions = _positions(network, input_shape)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in stored(network).items()}
    rows: list[Row] = []
    seen: set[str] = set()
    for index, step in enumerate(network.plan.steps):
        if isinstance(step, Linear | Convolution):
            rows.append(_layer(step, network.bits[step.weight], positions.get(index), step.weight not in seen))
            seen.add(step.weight)
        elif isinstance(step, Decide):
            units = network.thresholds[index].numel()
            size = sizes[f"thresholds.{index}"] + sizes[f"negated.{index}"]
            rows.append(Row(step.name, "thresholds", (units,), 33 * units, size, 0))
        elif isinstance(step, Output):
            size = sum(size for name, size in sizes.items() if name.startswith("output."))
            rows.append(Row(step.name, "output", tuple(network.output.gain.shape), 8 * size, size, 0))
    header = _LENGTH + int.from_bytes(serialised(network)[:_LENGTH], "little")
    return Summary(tuple(rows), header)


def _layer(step: Linear | Convolution, bits: Tensor, positions: int | None, first: bool) -> Row:
    count = bits.numel() if first else 0
    macs = None if positions is None else positions * bits.numel()
    return Row(step.name, type(step).__name__, tuple(bits.shape), count, -(-count // 8), macs)


def _positions(network: IntegerNetwork, input_shape: Sequence[int] | None) -> Mapping[int, int]:
    """How often each layer's weight is applied to one sample, by step; without what is not known."""
    steps = network.plan.steps
    layers = {index: step for index, step in enumerate(steps) if isinstance(step, Linear | Convolution)}
    if input_shape is None:
        if any(isinstance(step, Convolution) for step in layers.values()):
            return {}
        input_shape = (network.bits[next(iter(layers.values())).weight].shape[1],)
    shapes = _shapes(network.plan, network.bits, tuple(input_shape))
    return {index: math.prod(shapes[index + 1]) // len(network.bits[step.weight]) for index, step in layers.items()}


def _shapes(plan: Plan, bits: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of one sample, with a batch axis of 1: of the input, then behind each step."""
    values = [torch.empty((1, *input_shape), device="meta")]
    for step in plan.steps:
        try:
            values.append(_shaped(step, values[step.source], bits))
        except (RuntimeError, IndexError) as error:
            raise IntegerError(
                f"input_shape: expected the shape of one sample, without the batch axis, got {input_shape}, "
                f"which does not fit '{step.name}' ({error})"
            ) from error
    return [tuple(value.shape) for value in values]


def _shaped(step: Step, x: Tensor, bits: Mapping[str, Tensor]) -> Tensor:
    """What a step makes of a tensor that has a shape alone."""
    match step:
        case Flatten(start=start, end=end):
            return x.flatten(start, end)
        case Linear(weight=weight):
            return F.linear(x, torch.empty(bits[weight].shape, device="meta"))
        case Convolution():
            padded = F.pad(x, [number for pair in reversed(step.padding) for number in pair])
            apply = F.conv1d if len(step.stride) == 1 else F.conv2d
            kernel = torch.empty(bits[step.weight].shape, device="meta")
            return apply(padded, kernel, None, step.stride, 0, step.dilation, step.groups)
        case Pool():
            pool = F.max_pool1d if len(step.window) == 1 else F.max_pool2d
            return pool(x, step.window, step.stride, step.padding, step.dilation, step.ceil_mode)
        case Add() | Decide() | Output():
            return x


def _number(macs: int | None) -> str:
    return "-" if macs is None else f"{macs:,}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
    return "  ".join([*texts, *numbers]).rstrip()
