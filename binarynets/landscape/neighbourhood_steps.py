"""Neighbourhoods of any network in integer form: each flipped bit is evaluated, from the layer that it changes on."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from binarynets.integer.network import MEMORY, IntegerNetwork
from binarynets.integer.plan import Add, Convolution, Decide, Linear, Step
from compare.progress import progress


def of_steps(
    network: IntegerNetwork, x: Tensor, y: Tensor, *, margins: bool, describe: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Change of the number of errors, and of the summed margin, for each bit.

    One evaluation of the layers behind it for each bit; samples in which the flip turns no sign are dropped at the
    first decision that everything behind it rests on. The values of all layers are kept for one block of samples at a
    time, in about ``MEMORY`` bytes.

    Args:
        network: The network.
        x: Integers ``[samples, ...]``.
        y: Classes ``[samples]``.
        margins: Whether to follow margins too.
        describe: Text before the progress line; None shows none.

    Returns:
        By name of the weight: int64 and float64 tensors of its shape; no margins where they are not asked for.
    """
    errors = {name: torch.zeros(bits.shape, dtype=torch.int64) for name, bits in network.bits.items()}
    moved = {name: torch.zeros(bits.shape, dtype=torch.float64) for name, bits in network.bits.items() if margins}
    bytes_a_sample = sum(value.numel() * value.element_size() for value in _Base(network, x[:1], y[:1]).values.values())
    size = max(1, MEMORY // (2 * bytes_a_sample))  # as much again while a flip is evaluated
    total = sum(bits.numel() for bits in network.bits.values()) * -(-len(x) // size)
    tasks = _tasks(network, torch.split(x, size), torch.split(y, size))
    for base, name, at in progress(tasks, describe, unit="bit", total=total):
        logits, rows = base.flipped(name, at)
        labels = base.y[rows]
        errors[name].view(-1)[at] += _wrong(logits, labels) - _wrong(base.logits[rows], labels)
        if margins:
            moved[name].view(-1)[at] += summed_margin(logits, labels) - summed_margin(base.logits[rows], labels)
    return errors, moved


def summed_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The output of each sample's own class less the largest other one, summed over samples.

    Args:
        logits: ``[..., samples, classes]``.
        y: Classes ``[samples]``.

    Returns:
        float64 ``[...]``.
    """
    own = F.one_hot(y, logits.shape[-1]).bool().expand_as(logits)
    values = logits.double()
    best_other = values.masked_fill(own, -torch.inf).amax(-1)
    return (values.masked_fill(~own, 0).sum(-1) - best_other).sum(-1)


def _wrong(logits: Tensor, y: Tensor) -> int:
    return int((logits.argmax(1) != y).sum())


class _Base:
    """The network as it is, on a block of samples.

    Attributes:
        values: What each step makes, the input at 0.
        logits: Outputs ``[samples, classes]``.
        y: Classes ``[samples]``.
    """

    def __init__(self, network: IntegerNetwork, x: Tensor, y: Tensor) -> None:
        self.network, self.y = network, y
        self.values = {0: x}
        for index in range(len(network.plan.steps) - 1):
            self.values[index + 1] = network.value(index, self.values)
        self.logits = network.output(self.values[network.plan.steps[-1].source])
        self.last_use = {source: index for index, step in enumerate(network.plan.steps) for source in _sources(step)}

    def flipped(self, name: str, at: int) -> tuple[Tensor, Tensor]:
        """Outputs with bit ``at`` of a weight flipped, of the samples where they may be others; and these samples."""
        users = [index for index, step in enumerate(self.network.plan.steps) if _weight(step) == name]
        if len(users) == 1:
            return self._onward(self.network, users, {users[0] + 1: self._moved(users[0], at)})
        bits = self.network.bits[name].clone()
        bits.view(-1)[at] ^= True
        return self._onward(replace(self.network, bits={**self.network.bits, name: bits}), users, {})

    def _onward(self, network: IntegerNetwork, users: list[int], found: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs, and their samples, when some values, and the weight of ``users``, are others than they were."""
        steps, rows = network.plan.steps, torch.arange(len(self.y))
        for index, step in enumerate(steps[:-1]):
            changed = index in users or any(source in found for source in _sources(step))
            if index + 1 in found or not changed:
                continue
            values = {s: found[s] if s in found else _rows(self.values[s], rows) for s in _sources(step)}
            value = network.value(index, values)
            found = {s: kept for s, kept in found.items() if self.last_use[s] > index}
            if isinstance(step, Decide) and not found and index > users[-1]:
                # All that follows rests on this decision and on values that are as they were.
                turned = (value != _rows(self.values[index + 1], rows)).flatten(1).any(1)
                value, rows = value[turned], rows[turned]
                if len(rows) == 0:
                    return self.logits[:0], rows
            found[index + 1] = value
        return network.output(found[steps[-1].source]), rows

    def _moved(self, index: int, at: int) -> Tensor:
        """Sums of a layer with bit ``at`` of its weight flipped."""
        step, sums = self.network.plan.steps[index], self.values[index + 1].clone()
        assert isinstance(step, Linear | Convolution)
        bits, x = self.network.bits[step.weight], self.values[step.source]
        out, source, *place = (int(i) for i in torch.unravel_index(torch.tensor(at), bits.shape))
        if isinstance(step, Convolution):
            x = _tap(x, step, source + out // (len(bits) // step.groups) * bits.shape[1], place, sums.shape[2:])
        else:
            x = x[:, source].to(torch.int32)
        sums[:, out] += (x * (-2 if bits.view(-1)[at] else 2)).to(sums.dtype)
        return sums


def _tap(x: Tensor, step: Convolution, channel: int, place: list[int], size: torch.Size) -> Tensor:
    """What one weight of a window sees: ``[samples, *size]``."""
    padding = [number for pair in reversed(step.padding) for number in pair]
    seen = F.pad(x[:, channel].to(torch.int32), padding)
    for axis, (first, stride, dilation) in enumerate(zip(place, step.stride, step.dilation, strict=True), start=1):
        start = first * dilation
        seen = seen.narrow(axis, start, stride * (size[axis - 1] - 1) + 1)
        seen = seen[(slice(None),) * axis + (slice(None, None, stride),)]
    return seen


def _tasks(network: IntegerNetwork, xs: Iterable[Tensor], ys: Iterable[Tensor]) -> Iterator[tuple[_Base, str, int]]:
    for x, y in zip(xs, ys, strict=True):
        base = _Base(network, x, y)
        for name, bits in network.bits.items():
            for at in range(bits.numel()):
                yield base, name, at


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    return values if len(rows) == len(values) else values[rows]


def _sources(step: Step) -> tuple[int, ...]:
    return (step.source, step.other) if isinstance(step, Add) else (step.source,)


def _weight(step: Step) -> str | None:
    return step.weight if isinstance(step, Linear | Convolution) else None
