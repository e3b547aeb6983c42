"""A packed forward for one sample at a time: bits in, bits out, one call into compiled code."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binarynets.integer import packed_kernels as kernels
from binarynets.integer.affine import LIMIT, IntegerError
from binarynets.integer.network import IntegerNetwork
from binarynets.integer.plan import Decide, Flatten, Linear, Output, Plan
from binarynets.integer.words import UNITS, blocks_of_rows, packed_words

_VALUES = 2**20
"""Outputs that are worked out ahead, at most; with more the last layer's gains are applied to its sums each time."""

_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class PackedNetwork:
    """A multilayer perceptron that computes on bits; made by ``packed``, called with one sample.

    It may be called from several threads at once; the interpreter's lock is free meanwhile.

    Attributes:
        network: What it was made from.
        inputs: Numbers of one sample.
        classes: Number of outputs.
    """

    network: IntegerNetwork
    inputs: int
    classes: int
    _table: Array = field(repr=False)
    _values: Array | None = field(repr=False)
    _kept: tuple[Array, ...] = field(repr=False)  # what the table's addresses point at

    def __call__(self, x: Tensor | Array) -> Tensor:
        """Outputs for one sample, those of the network bit for bit.

        Args:
            x: Integers, such as 2 p - 255 for pixels p, of any type; as many as the network has inputs, in any shape.

        Returns:
            ``[classes]``, in the network's precision.

        Raises:
            IntegerError: If ``x`` has another size, or holds other numbers than integers, or such large ones that the
                network itself rounds.
        """
        if self._values is None:
            return self.network.output(self.sums(x)[None])[0]
        result = np.empty(self.classes, self._values.dtype)
        self._check(kernels.last_values(self._table, self._numbers(x), self._values, result))
        return torch.from_numpy(result).view(self.network.output.gain.dtype)

    def sums(self, x: Tensor | Array) -> Tensor:
        """Sums of the last layer, int64 ``[classes]``; ``x`` and errors as of a call."""
        result = np.empty(self.classes, np.int64)
        self._check(kernels.last_sums(self._table, self._numbers(x), result))
        return torch.from_numpy(result)

    def predict(self, x: Tensor | Array) -> int:
        """The class, the first of equal ones; ``x`` and errors as of a call."""
        return int(self(x).argmax())

    def _numbers(self, x: Tensor | Array) -> Array:
        if isinstance(x, Tensor):
            # Two types are compiled for, and float64 holds every integer that the bound lets through.
            x = x.detach().to("cpu", torch.float32 if x.dtype == torch.float32 else torch.float64).numpy()
        flat = np.ascontiguousarray(x).reshape(-1)
        if flat.size != self.inputs:
            raise IntegerError(
                f"x: expected one sample of {self.inputs} numbers, got {flat.size}; "
                "for several at once call the IntegerNetwork"
            )
        return flat if flat.dtype == np.float32 else flat.astype(np.float64)

    def _check(self, state: int) -> None:
        if state == kernels.NOT_INTEGER:
            raise IntegerError("x: expected integers, such as 2 p - 255 for pixels p, got other numbers")
        if state == kernels.TOO_LARGE:
            raise IntegerError(
                f"x: expected integers whose sums over {self.inputs} inputs stay below 2**24, beyond which the model "
                "itself rounds; got larger ones, NaN or infinity"
            )


def packed(network: IntegerNetwork) -> PackedNetwork:
    """Make a network ready for single samples.

    Args:
        network: Linear layers one behind the other, with or without hidden ones, as ``to_integer`` or ``load_packed``
            gives them.

    Returns:
        The network as a function of one sample. The first call compiles, or finds what an earlier process compiled.

    Raises:
        IntegerError: If the network is no such chain, naming the first step that is something else.
    """
    layers = _chain(network.plan)
    rows: list[list[int]] = []
    kept: list[Array] = []
    for number, (linear, decide) in enumerate(layers):
        arrays = _arrays(network, linear, decide, first=number == 0)
        blocks, words, _ = arrays.weights.shape
        rows.append([words, blocks, network.bits[linear.weight].shape[1], *(a.ctypes.data for a in arrays)])
        kept += arrays
    return PackedNetwork(
        network=network,
        inputs=rows[0][kernels.INPUTS],
        classes=len(network.bits[layers[-1][0].weight]),
        _table=np.array(rows, np.int64),
        _values=_values(network, rows[-1][kernels.INPUTS]) if len(rows) > 1 else None,
        _kept=tuple(kept),
    )


class _Arrays(NamedTuple):
    """What a layer's addresses point at, in the order of the table's columns."""

    weights: Array
    ones: Array
    limits: Array
    negated: Array


def _chain(plan: Plan) -> list[tuple[Linear, int | None]]:
    """Linear layers, each with the index of its decisions; None for the last."""
    found: list[tuple[Linear, int | None]] = []
    waiting: Linear | None = None
    for index, step in enumerate(plan.steps):
        expected = step.source == index and (
            isinstance(step, Flatten)
            or (isinstance(step, Linear) and waiting is None)
            or (isinstance(step, Decide | Output) and waiting is not None)
        )
        if not expected:
            raise IntegerError(
                f"'{step.name}': the packed forward takes linear layers one behind the other, each followed by its "
                f"decisions, got {type(step).__name__}; call the IntegerNetwork itself for this network"
            )
        if isinstance(step, Linear):
            waiting = step
        elif waiting is not None and isinstance(step, Decide | Output):
            found.append((waiting, index if isinstance(step, Decide) else None))
            waiting = None
    return found


def _arrays(network: IntegerNetwork, linear: Linear, decide: int | None, *, first: bool) -> _Arrays:
    bits = network.bits[linear.weight].cpu().numpy()
    units, inputs = bits.shape
    weights = blocks_of_rows(bits)
    lanes = len(weights) * UNITS
    ones = np.zeros(lanes, np.int64)
    ones[:units] = bits.sum(1)
    # Units that fill up the last block are never on: no sum reaches the limit, no number of mismatches is so small.
    limits = np.full(lanes, LIMIT if first else -1, np.int64)
    negated = np.zeros(lanes, np.bool_)
    if decide is not None:
        threshold = network.thresholds[decide].cpu().numpy().astype(np.int64)
        # inputs - 2 mismatches >= threshold
        limits[:units] = threshold if first else (inputs - threshold) // 2
        negated[:units] = network.negated[decide].cpu().numpy()
    return _Arrays(weights, ones, limits, packed_words(negated))


def _values(network: IntegerNetwork, inputs: int) -> Array | None:
    """Outputs ``[classes, inputs + 1]`` for each number of mismatches, as integers of the same size."""
    output = network.output
    if math.prod((len(output.gain), inputs + 1)) > _VALUES:
        return None
    sums = torch.arange(inputs, -inputs - 1, -2)
    values = output(sums[:, None].expand(-1, len(output.gain)).contiguous()).T.contiguous()
    found: Array = values.view(_SAME_SIZE[values.element_size()]).numpy()
    return found
