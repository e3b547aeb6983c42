"""A binary multilayer perceptron as the arrays that the kernels work on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binarynets.integer.affine import LIMIT, Affine, IntegerError
from binarynets.integer.words import Words, packed_words
from binarynets.landscape import kernels
from binarynets.landscape.vector import LANES

Int = npt.NDArray[np.int64]

_Width: TypeAlias = type[np.int8] | type[np.int16] | type[np.int32]

_WIDTHS: tuple[_Width, ...] = np.int8, np.int16, np.int32

_ROOM = 112
"""The largest halved sum at the start with which 8 bits are tried: it may grow a little."""

_PADDING = 64
"""Sums between the rows of two samples, so that these do not share few sets of the cache."""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """What one layer's sums are compared with, at each step of a grid.

    Attributes:
        limit: ``[steps, units]``, int64.
        negated: ``[steps, units]``, bool: the unit is on *below* the limit.
    """

    limit: Int
    negated: npt.NDArray[np.bool_]


def ranks(outputs: Sequence[Affine], fan_in: int) -> npt.NDArray[np.int32]:
    """The order of each class's output, for each number of mismatching bits.

    Args:
        outputs: Gains and offsets ``[classes]`` of the last layer, one for each step.
        fan_in: Units of the last hidden layer; ``p`` mismatches make the sum ``fan_in - 2 p``.

    Returns:
        int32 ``[steps, classes, fan_in + 1]``, ordered as the outputs in the network's own precision are, equal ones
        equal, and less than the largest int32.
    """
    sums = torch.arange(fan_in, -fan_in - 1, -2)
    found = []
    for output in outputs:
        values = output(sums[:, None].expand(-1, len(output.gain))).numpy().T
        found.append(_ordered(values))
    return np.ascontiguousarray(np.stack(found))  # the kernels count bytes


def _ordered(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    if values.dtype != np.float32:
        places: npt.NDArray[np.int32] = np.unique(values, return_inverse=True)[1].astype(np.int32)
        return places.reshape(values.shape)
    # The bits of a float, read as an integer, are ordered as the float is, but for those of negative ones.
    as_integers = (values + np.float32(0)).view(np.int32)
    return np.where(as_integers < 0, as_integers ^ np.int32(0x7FFFFFFF), as_integers)


@dataclass(frozen=True, eq=False)
class Dense:
    """The first network of a sequence, and the thresholds of all steps.

    Attributes:
        weights: Signs ``[out, in]`` of each layer, float32 of +1 and -1; the classes' last.
        thresholds: Of each hidden layer.
        ranks: Of the classes, as ``ranks`` gives them.
        samples: Samples of one block, a multiple of 64.
    """

    weights: tuple[Tensor, ...]
    thresholds: tuple[Thresholds, ...]
    ranks: npt.NDArray[np.int32]
    samples: int

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(len(weight) for weight in self.weights[:-1])

    @cached_property
    def first(self) -> tuple[npt.NDArray[np.int32], Words]:
        """Thresholds of layer 1 and negations, all ones or 0, ``[steps, units]``."""
        own = self.thresholds[0]
        negated = np.where(own.negated, np.uint64(2**64 - 1), np.uint64(0))
        return np.clip(own.limit, -LIMIT, LIMIT).astype(np.int32), negated

    @cached_property
    def later(self) -> dict[_Width, tuple[npt.NDArray[np.signedinteger], Words]]:
        """Thresholds of halved sums of layers 2 and up, padded to words, ``[steps, all]``, and words of negations."""
        return {width: self._later(width) for width in _WIDTHS}

    def _later(self, width: _Width) -> tuple[npt.NDArray[np.signedinteger], Words]:
        steps, largest = len(self.thresholds[0].limit), int(np.iinfo(width).max)
        # One column, so that there is always something to point at.
        limits, words = [np.zeros((steps, 1), width)], [np.zeros((steps, 1), np.uint64)]
        for found, fan_in in zip(self.thresholds[1:], self.sizes, strict=False):
            units = found.limit.shape[1]
            # sum >= limit is 2 half - odd >= limit. Beyond what sums reach all is constant; no unit is where none is.
            halved = -((-found.limit - fan_in % 2) // 2)
            row = np.full((steps, _words(units) * LANES), largest, width)
            row[:, :units] = np.clip(halved, -largest, largest)
            limits.append(row)
            words.append(packed_words(found.negated))
        return np.concatenate(limits, 1), np.concatenate(words, 1)

    def signs(self, layer: int, sums: Tensor) -> Tensor:
        """Signs ``[samples, units]`` of sums of a hidden layer, at the first step."""
        own = self.thresholds[layer]
        limit = torch.from_numpy(np.clip(own.limit[0], -LIMIT, LIMIT).astype(np.float32))
        return ((sums >= limit) != torch.from_numpy(own.negated[0])).to(sums.dtype) * 2 - 1


def count(network: Dense, x: Tensor, y: Tensor, events: npt.NDArray[np.int32]) -> Int:
    """Follow one block of samples through all events.

    Args:
        network: The first network and the thresholds of all steps.
        x: Integers ``[samples, inputs]``, float32, at most as many samples as a block takes.
        y: Classes ``[samples]``.
        events: See ``kernels.follow``.

    Returns:
        Number of errors of the first network, then its change with each event, ``[events + 1]``.
    """
    start = _Start.evaluated(network, x, y)
    # Halved sums never pass half the fan-in, so that 16 bits, which are not watched, hold those of 65,000 inputs.
    narrow = max(network.sizes) < 65_000
    rooms: dict[_Width, bool] = {np.int8: start.largest <= _ROOM, np.int16: narrow, np.int32: True}
    for width, enough in rooms.items():
        if enough and (found := _Block(network, start, width).follow(events)) is not None:
            return found
    raise AssertionError("32 bits hold every sum")


@dataclass(frozen=True, eq=False)
class _Start:
    """The first network on one block, padded with samples that do not count.

    Attributes:
        x: Inputs ``[samples, inputs]``.
        y: Classes, -1 for padding.
        sums: Of layer 1, then halved ones of the other hidden layers, float32 ``[samples, units]``.
        on: Signs of the hidden layers, words ``[samples, words]``.
        across: Signs of layer 1, words ``[units, words of samples]``.
        largest: The largest of the halved sums, by magnitude.
    """

    x: Tensor
    y: Int
    sums: tuple[npt.NDArray[np.float32], ...]
    on: tuple[Words, ...]
    across: Words
    largest: float

    @staticmethod
    def evaluated(network: Dense, x: Tensor, y: Tensor) -> "_Start":
        full = network.samples
        padded = torch.cat([x, x.new_zeros(full - len(x), x.shape[1])])
        labels = np.full(full, -1, np.int64)
        labels[: len(y)] = y.numpy()
        sums, on, signs = [], [], padded
        for layer, weight in enumerate(network.weights[:-1]):
            found = torch.nn.functional.linear(signs, weight)
            signs = network.signs(layer, found)
            sums.append((found if layer == 0 else (found + weight.shape[1] % 2) / 2).numpy())
            on.append(signs > 0)
        largest = max((float(np.abs(found).max()) for found in sums[1:]), default=0.0)
        words = tuple(packed_words(bits.numpy()) for bits in on)
        return _Start(padded, labels, tuple(sums), words, packed_words(on[0].T.numpy()), largest)


class _Block:
    """The state of one block of samples at the first network, as memory for the kernels."""

    def __init__(self, network: Dense, start: _Start, width: _Width) -> None:
        words = [_words(size) for size in network.sizes]
        rows = [_padded(row, width) for row in start.sums[1:]]
        columns = [packed_words((weight.T > 0).numpy()) for weight in network.weights[1:-1]]
        limits, negated = network.later[width]
        size = limits.itemsize
        starts = [int(at) for at in np.cumsum([1, *words[1:]])[:-1]]
        classes = _classes(network.weights[-1])
        on = [found.copy() for found in start.on]
        tables = {
            "words": words,
            "strides": [0, *(row.strides[0] for row in rows)],
            "sums_at": [0, *map(_address, rows)],
            "on_at": [*map(_address, on)],
            "bits_at": [0, *map(_address, columns)],
            "limits_at": [0, *(_address(limits) + size * (1 + LANES * (at - 1)) for at in starts)],
            "negated_at": [0, *(_address(negated) + 8 * at for at in starts)],
        }
        arrays = {
            **{name: np.array(table, np.int64) for name, table in tables.items()},
            "first": network.first[0],
            "first_negated": network.first[1],
            "ranks": network.ranks,
            "x": np.ascontiguousarray(start.x.T.numpy().astype(np.int16)),
            "sums1": np.ascontiguousarray(start.sums[0].T.astype(np.int32)),
            "on1": start.across.copy(),
            "counts": np.zeros((network.samples, classes.shape[1]), np.int64),
            "rows": classes,
            "y": start.y,
            "wrong": np.zeros(network.samples, np.uint8),
            "overflow": np.zeros(1, np.uint64),
        }
        self._width = width
        self._widest = max(network.samples // LANES, *words)
        self._kept = rows, columns, limits, negated, on, arrays
        self._memory = kernels.Memory(
            hidden=len(words),
            samples=network.samples,
            units=network.sizes[0],
            classes=len(network.weights[-1]),
            across=classes.shape[1],
            width=size,
            limits_step=limits.strides[0],
            negated_step=negated.strides[0],
            ranks_step=network.ranks.strides[0],
            ranks_row=network.ranks.strides[1],
            **{name: _address(array) for name, array in arrays.items()},
        )

    def follow(self, events: npt.NDArray[np.int32]) -> Int | None:
        """Changes of the number of errors, None if a sum outgrew its type."""
        changes = np.zeros(len(events) + 1, np.int64)
        work = np.zeros(2 * self._widest, np.uint64)
        table = np.array(self._memory, np.int64)
        whole = kernels.follow(table, events, changes, work, self._width(1), self._width(-1))
        return changes if whole else None


def _address(array: Any) -> int:
    return int(array.ctypes.data)


def _words(units: int) -> int:
    return -(-units // LANES)


def _padded(sums: npt.NDArray[np.float32], width: type[np.signedinteger]) -> npt.NDArray[np.signedinteger]:
    rows = np.zeros((len(sums), _words(sums.shape[1]) * LANES + _PADDING), width)
    rows[:, : sums.shape[1]] = sums
    return rows


def _classes(weight: Tensor) -> Words:
    rows = packed_words((weight > 0).numpy()).T
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), np.uint64)
    padded[:, : rows.shape[1]] = rows
    return padded


def check_inputs(x: Tensor, fan_in: int) -> Tensor:
    """Inputs as float32 ``[samples, fan_in]``.

    Raises:
        IntegerError: If they are not integers, beyond int16, or so many that float32 could not add them exactly.
    """
    if len(x) == 0:
        raise IntegerError("x: expected at least one sample, got none")
    flat = x.reshape(len(x), -1).to(torch.float32)
    if flat.shape[1] != fan_in:
        raise IntegerError(f"x: expected {fan_in} numbers a sample, got {flat.shape[1]}")
    largest = float(flat.abs().max()) if flat.numel() else 0.0
    if not bool((flat == flat.round()).all()) or not np.isfinite(largest):
        raise IntegerError("x: expected integers, such as 2 p - 255 for pixels p, got other numbers")
    if largest > 32767 or largest * fan_in >= 2**24:
        raise IntegerError(
            f"x: expected integers up to 32767 whose sums over {fan_in} inputs stay below 2**24, so that float32 adds "
            f"them exactly; got {largest:.0f}"
        )
    return flat
