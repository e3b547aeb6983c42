"""A binary multilayer perceptron and a block of samples, laid out for the kernels of ``neighbourhood_kernels``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binarynets.integer.affine import LIMIT, Affine
from binarynets.integer.words import packed_words
from binarynets.landscape import neighbourhood_kernels as kernels
from binarynets.landscape.dense import ranks
from binarynets.landscape.vector import LANES

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]

_BITS = 62
"""Bits that a sum of margins may take in fixed point, in magnitude."""


@dataclass(frozen=True, eq=False)
class Layers:
    """A binary multilayer perceptron with at least one hidden layer.

    Attributes:
        weights: Bits ``[out, in]`` of each layer, True for +1; the classes' last.
        thresholds: ``[units]`` of each hidden layer, int64.
        negated: ``[units]`` likewise: the unit is on *below* its threshold.
        output: Gains and offsets of the classes.
    """

    weights: tuple[npt.NDArray[np.bool_], ...]
    thresholds: tuple[Int, ...]
    negated: tuple[npt.NDArray[np.bool_], ...]
    output: Affine

    @cached_property
    def signs(self) -> list[Tensor]:
        """Weights +1 and -1, float32."""
        return [torch.from_numpy(weight).float() * 2 - 1 for weight in self.weights]

    @cached_property
    def packed(self) -> list[Words]:
        """Weights as words ``[out, words of the inputs]``."""
        return [packed_words(weight) for weight in self.weights]

    @cached_property
    def fan_in(self) -> int:
        """Units of the last hidden layer."""
        return int(self.weights[-1].shape[1])

    @cached_property
    def ranks(self) -> Int32:
        """Order of the outputs ``[classes, fan_in + 1]`` by the number of mismatches."""
        found: Int32 = ranks([self.output], self.fan_in)[0]
        return found

    def margins(self, samples: int) -> tuple[Int, int]:
        """Outputs ``[classes, fan_in + 1]`` by the number of mismatches, as integers.

        Integers can be added in any order. They are as fine as the sum over all samples of a change of the margin
        allows, which takes four outputs at most: 2**-40 for a thousand samples and outputs of about a hundred, where
        float32 itself has steps of 2**-17.

        Returns:
            The integers, and the exponent of 2 that they are to be divided by.
        """
        sums = torch.arange(self.fan_in, -self.fan_in - 1, -2)
        values = self.output(sums[:, None].expand(-1, len(self.output.gain))).double().numpy().T
        largest = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
        exponent = _BITS - int(np.ceil(np.log2(4.0 * samples * largest) + 1e-9))
        return np.ascontiguousarray(np.rint(np.ldexp(values, exponent)).astype(np.int64)), exponent

    @cached_property
    def columns(self) -> list[Words]:
        """Weights into layers 2 and up of the hidden ones, by input: words ``[in, words of the units]``."""
        return [packed_words(weight.T) for weight in self.weights[1:-1]]

    @cached_property
    def rows(self) -> list[Words]:
        """The same by words of inputs: ``[words of the inputs, 64 * words of the units]``."""
        return [_across(words, _lanes(len(words))) for words in self.packed[1:-1]]

    @cached_property
    def class_rows(self) -> Words:
        """Weights of the classes ``[words of the inputs, classes padded to 8]``."""
        return _across(self.packed[-1], -(-len(self.packed[-1]) // 8) * 8)

    @cached_property
    def limits(self) -> list[Int]:
        """The most mismatches with which units of layers 2 and up pass; -1 for units that are not there."""
        found = []
        for weight, thresholds in zip(self.weights[1:-1], self.thresholds[1:], strict=True):
            limits = np.full(_lanes(len(weight)), -1, np.int64)
            limits[: len(weight)] = (weight.shape[1] - thresholds) // 2
            found.append(limits)
        return found

    @cached_property
    def negations(self) -> list[Words]:
        """Words of the units of layers 2 and up that are on below their thresholds."""
        return [packed_words(negated) for negated in self.negated[1:]]

    @cached_property
    def widest(self) -> int:
        """Words of the widest hidden layer."""
        return max(_lanes(len(weight)) // LANES for weight in self.weights[:-1])


@dataclass(frozen=True, eq=False)
class Changes:
    """Sums over samples, one for each bit.

    Attributes:
        errors: For each layer, int64 ``[out, 64 * words of the inputs]``: change of the number of errors.
        margins: Change of the summed margin in fixed point, likewise; of size 0 where it is not asked for.
    """

    errors: tuple[Int, ...]
    margins: tuple[Int, ...]

    @classmethod
    def zero(cls, layers: Layers, *, margins: bool) -> "Changes":
        """No changes."""
        shapes = [(len(words), words.shape[1] * LANES) for words in layers.packed]
        return cls(
            tuple(np.zeros(shape, np.int64) for shape in shapes),
            tuple(np.zeros(shape if margins else (0, 0), np.int64) for shape in shapes),
        )

    def add(self, other: "Changes") -> None:
        """Add the changes in other samples."""
        for own, more in zip(self.errors + self.margins, other.errors + other.margins, strict=True):
            own += more


class Block:
    """Some samples in the network: signs, and how far each sum is above its threshold."""

    def __init__(self, layers: Layers, x: Tensor, y: Tensor, margins: Int | None) -> None:
        """Evaluate the network.

        Args:
            layers: The network.
            x: Integers ``[samples, inputs]``, float32, small enough for sums to be exact.
            y: Classes ``[samples]``.
            margins: As ``Layers.margins`` gives them, or None.
        """
        self.layers, self.samples = layers, len(x)
        self.with_margins = margins is not None
        self.x = np.zeros((len(x), layers.packed[0].shape[1] * LANES), np.int16)
        self.x[:, : x.shape[1]] = x.numpy()
        self.y = np.ascontiguousarray(y.numpy().astype(np.int64))
        self.on: list[Words] = []
        self.distances: list[Int32] = []
        signs = x
        for weight, thresholds, negated in zip(layers.signs[:-1], layers.thresholds, layers.negated, strict=True):
            sums = torch.nn.functional.linear(signs, weight).numpy().astype(np.int32)
            self.distances.append(sums - np.clip(thresholds, -LIMIT, LIMIT).astype(np.int32))
            on = (self.distances[-1] >= 0) != negated
            self.on.append(packed_words(on))
            signs = torch.from_numpy(on).float() * 2 - 1
        self._table, self._kept = _table(layers, self.on, self.distances)
        self._last = _classes(layers, margins)

    def add_to(self, changes: Changes) -> None:
        """Add what each flip changes in these samples."""
        layers = self.layers
        counts = np.zeros(max(LANES * layers.widest, layers.class_rows.shape[1]), np.int64)
        scratch = np.zeros(2 * layers.widest, np.uint64)
        for at, weights in enumerate(layers.packed[:-1]):
            errors = np.zeros((self.samples, len(weights)), np.int8)
            margins = np.zeros(errors.shape if self.with_margins else (0, 0), np.int64)
            kernels.effects(self._table, at, self._last, self.y, counts, scratch, errors, margins)
            self._flips(at, errors, changes.errors[at])
            if self.with_margins:
                self._flips(at, margins, changes.margins[at])
        kernels.flip_classes(
            self._last, self.on[-1], layers.packed[-1], self.y, counts, changes.errors[-1], changes.margins[-1]
        )

    def _flips(self, at: int, effects: npt.NDArray[Any], changes: Int) -> None:
        weights, distances = self.layers.packed[at], self.distances[at]
        if at == 0:
            kernels.flip_inputs(distances, self.x, weights, effects, changes)
        else:
            kernels.flip_bits(distances, self.on[at - 1], weights, effects, changes)


def _table(layers: Layers, on: Sequence[Words], distances: Sequence[Int32]) -> tuple[Int, list[Any]]:
    """The table of hidden layers, and what must live as long as it."""
    table, kept = np.zeros((len(on), kernels.FIELDS), np.int64), []
    for at, signs in enumerate(on):
        table[at, [kernels.WORDS, kernels.ON]] = signs.shape[1], _address(signs)
        if at:
            up = packed_words((distances[at] >= -2) & (distances[at] < 0))
            down = packed_words((distances[at] >= 0) & (distances[at] < 2))
            own = layers.columns[at - 1], layers.rows[at - 1], layers.limits[at - 1], layers.negations[at - 1]
            fields = [kernels.UP, kernels.DOWN, kernels.COLUMNS, kernels.ROWS, kernels.LIMITS, kernels.NEGATED]
            table[at, fields] = [_address(array) for array in (up, down, *own)]
            kept += [up, down, *own]
    return table, kept


def _classes(layers: Layers, margins: Int | None) -> Int:
    last = np.zeros(kernels.CLASS_FIELDS, np.int64)
    last[kernels.CLASS_ROWS], last[kernels.ACROSS] = _address(layers.class_rows), layers.class_rows.shape[1]
    last[kernels.CLASSES], last[kernels.STRIDE] = layers.ranks.shape
    last[kernels.RANKS] = _address(layers.ranks)
    last[kernels.MARGINS] = 0 if margins is None else _address(margins)
    return last


def _address(array: npt.NDArray[np.generic]) -> int:
    return int(array.ctypes.data)


def _lanes(units: int) -> int:
    return -(-units // LANES) * LANES


def _across(words: Words, count: int) -> Words:
    """``[rows, words]`` as ``[words, count]``, padded with zeros."""
    turned = np.zeros((words.shape[1], count), np.uint64)
    turned[:, : len(words)] = words.T
    return turned
