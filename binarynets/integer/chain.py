"""Many samples through a multilayer perceptron whose signs stay packed: exclusive or and population count."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binarynets.integer.multiply import bytes_product
from binarynets.integer.plan import Plan
from binarynets.integer.words import UNITS, Words, blocks_of_rows, packed_words

SAMPLES = 2048
"""Of one block: products of fewer are slower. Each input takes 1 byte, each unit of the first layer 4."""


@dataclass(frozen=True, eq=False)
class Later:
    """A layer behind the first.

    Attributes:
        rows: Weights in blocks of 64 units, ``[blocks, words, 64]``.
        limits: Most mismatches with which a unit is not below its threshold, int64 ``[blocks * 64]``; of the last layer
            nothing.
        negated: Words of units that are on below their thresholds.
        units: Number of units.
        inputs: Number of inputs.
    """

    rows: Words
    limits: npt.NDArray[np.int64]
    negated: Words
    units: int
    inputs: int


@dataclass(frozen=True, eq=False)
class Chain:
    """A perceptron with at least one hidden layer.

    Attributes:
        first: Bits of the first layer, ``[units, inputs]``.
        limits: Its thresholds, int32, padded to a multiple of 64.
        negated: Words of its units that are on below their thresholds.
        later: The other layers.
    """

    first: Tensor
    limits: npt.NDArray[np.int32]
    negated: Words
    later: tuple[Later, ...]

    @cached_property
    def halved(self) -> tuple[Tensor, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """First layer: signs in 8 bits ``[inputs, units]``, limits of sums over x, and over q = (x - 1) / 2."""
        weight = self.first.to(torch.int8).mul_(2).sub_(1)
        total = np.zeros(len(self.limits), np.int64)
        total[: len(weight)] = weight.sum(1, dtype=torch.int64).numpy()
        # sum w x = 2 sum w q + sum w
        halved = -((total - self.limits) // 2)
        return weight.T.contiguous(), self.limits, halved.clip(-(2**31), 2**31 - 1).astype(np.int32)

    def sums(self, x: Tensor) -> Tensor | None:
        """Sums of the last layer, int32 ``[batch, classes]``, for integers ``[batch, inputs]``.

        Returns:
            None where the numbers are no integers of 8 bits, neither as they are nor, odd ones, halved.
        """
        found = []
        for part in torch.split(x, SAMPLES):
            block = self._block(part)
            if block is None:
                return None
            found.append(block)
        return torch.cat(found)

    def _block(self, x: Tensor) -> Tensor | None:
        from binarynets.integer import chain_kernels

        narrow = torch.empty(x.shape, dtype=torch.int8)
        kind = chain_kernels.narrow(x.contiguous().numpy(), narrow.numpy())
        if kind == 0:
            return None
        weight, *limits = self.halved
        on = np.empty((len(x), len(self.negated)), np.uint64)
        chain_kernels.decide(bytes_product(narrow, weight).numpy(), limits[kind - 1], self.negated, on)
        return self.behind(on)

    def behind(self, on: Words) -> Tensor:
        """Sums of the last layer, int32 ``[batch, classes]``, from the words of the first one's units."""
        from binarynets.integer import chain_kernels

        for layer in self.later[:-1]:
            after = np.empty((len(on), len(layer.negated)), np.uint64)
            chain_kernels.later(on, layer.rows, layer.limits, layer.negated, after)
            on = after
        last = self.later[-1]
        found = np.empty((len(on), len(last.rows) * UNITS), np.int64)
        chain_kernels.mismatches(on, last.rows, found)
        return torch.from_numpy(last.inputs - 2 * found[:, : last.units]).to(torch.int32)


def chain(
    plan: Plan, bits: Mapping[str, Tensor], thresholds: Mapping[int, Tensor], negated: Mapping[int, Tensor]
) -> Chain | None:
    """The layers of a network if it is a perceptron with at least one hidden layer, else None."""
    layers = plan.layers
    if layers is None or len(layers) < 2:
        return None
    weights = [bits[layer.linear.weight] for layer in layers]
    decisions = [layer.index for layer in layers[:-1]]
    first = _padded(thresholds[decisions[0]], weights[0], np.int32)
    limits = [_mismatches(thresholds[at], w) for at, w in zip(decisions[1:], weights[1:], strict=False)]
    below = [packed_words(negated[at].expand(len(w)).numpy()) for at, w in zip(decisions, weights, strict=False)]
    nothing = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    later = tuple(
        Later(blocks_of_rows(weight.numpy()), *found, units=len(weight), inputs=weight.shape[1])
        for weight, found in zip(weights[1:], [*zip(limits, below[1:], strict=True), nothing], strict=True)
    )
    return Chain(weights[0], first, below[0], later)


def _padded(limit: Tensor, weight: Tensor, kind: type[np.int32] | type[np.int64]) -> npt.NDArray[np.signedinteger]:
    """Thresholds of all units; the units that fill up a word are never on."""
    full = np.full(-(-len(weight) // UNITS) * UNITS, np.iinfo(np.int32).max, kind)
    full[: len(weight)] = limit.expand(len(weight)).numpy()
    return full


def _mismatches(limit: Tensor, weight: Tensor) -> npt.NDArray[np.int64]:
    """``inputs - 2 m >= limit`` is ``m <= (inputs - limit) // 2``."""
    return (weight.shape[1] - _padded(limit, weight, np.int64)) // 2
