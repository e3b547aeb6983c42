"""Exact neighbourhoods: what the flip of each single bit of a binary network does to its error.

For multilayer perceptrons all bits are counted in one pass over the samples (``neighbourhood_blocks``), in time that is
linear in the samples and a few times that of one dense evaluation. Any other network that has an integer form is
evaluated once for each bit, from the changed layer on (``neighbourhood_steps``).
"""

from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from binarynets.integer.affine import Affine, IntegerError
from binarynets.integer.network import IntegerNetwork, to_integer
from binarynets.integer.plan import Flatten
from binarynets.landscape.blocks import in_threads
from binarynets.landscape.dense import check_inputs
from binarynets.landscape.neighbourhood_blocks import Block, Changes, Layers
from binarynets.landscape.neighbourhood_steps import of_steps, summed_margin
from compare.params import Params

BLOCK = 256


class FlipEffects(NamedTuple):
    """What the flip of each single bit changes, by name of the weight, in its shape.

    Attributes:
        errors: Change of the number of misclassified samples, int64.
        margins: Change of the margin, summed over samples, float64; the margin is the output of the sample's own class
            above the largest other one.
    """

    errors: dict[str, Tensor]
    margins: dict[str, Tensor]


def flip_neighbourhood(
    model: nn.Module, params: Params, x: Tensor, y: Tensor, *, threads: int | None = None, describe: str | None = None
) -> dict[str, Tensor]:
    """The change of the error count when the sign of a single latent weight is flipped, exactly, for every weight.

    For a multilayer perceptron this costs about 6 dense float32 evaluations of the same samples (784-512-512-10,
    668,672 bits, one thread), plus 8 bytes of memory a bit and thread. For other networks it costs one evaluation a
    bit, of the layers from the changed one on: convolutional networks take patience, or few samples.

    Args:
        model: A network that has an integer form, see ``to_integer``; not changed.
        params: Its parameters and buffers by name; these and all data in memory of the CPU.
        x: Inputs ``[samples, ...]``, integers such as 2 p - 255 for pixels p, at most 32767.
        y: Classes ``[samples]``.
        threads: How many blocks of samples at a time; None for as many as torch uses. Nothing depends on it.
        describe: Text before the progress line on a terminal; None shows none.

    Returns:
        For each binary weight, an int64 tensor of its shape: errors with that bit flipped, less errors as it is. A
        latent weight of 0 counts as +1, so its flip gives -1.

    Raises:
        IntegerError: If the network has no integer form, or inputs or classes do not fit it.
        ValueError: If ``threads`` is not positive.
    """
    return _effects(model, params, x, y, margins=False, threads=threads, describe=describe).errors


def flip_effects(
    model: nn.Module, params: Params, x: Tensor, y: Tensor, *, threads: int | None = None, describe: str | None = None
) -> FlipEffects:
    """As ``flip_neighbourhood``, with the change of the summed margin beside that of the error.

    It takes about 8 dense evaluations instead of 6. Margins of multilayer perceptrons are added in fixed point, so that
    nothing depends on the order: each sample's change is off by less than 2**-35 up to 60,000 samples and outputs of
    about a hundred, where float32 has steps of 2**-17.

    Args:
        model: As there.
        params: As there.
        x: As there.
        y: As there.
        threads: As there.
        describe: As there.

    Returns:
        Both changes.

    Raises:
        IntegerError: As there, and for a network of one class, which has no margin.
        ValueError: As there.
    """
    return _effects(model, params, x, y, margins=True, threads=threads, describe=describe)


@torch.no_grad()
def _effects(
    model: nn.Module, params: Params, x: Tensor, y: Tensor, *, margins: bool, threads: int | None, describe: str | None
) -> FlipEffects:
    check_tensors(x, y)
    network = to_integer(model, params)
    classes = len(network.output.gain)
    check_classes(x, y, classes)
    if margins and classes < 2:
        raise IntegerError("margins: expected a network of at least two classes, got one; use flip_neighbourhood")
    names = chain(network, x)
    if names is None:
        return FlipEffects(*of_steps(network, x, y, margins=margins, describe=describe))
    flat = check_inputs(x, network.bits[names.weights[0]].shape[1])
    if not names.decisions:
        only = network.bits[names.weights[0]]
        errors, moved = _of_outputs(only.float() * 2 - 1, network.output, flat, y, margins=margins)
        return FlipEffects({names.weights[0]: errors}, {names.weights[0]: moved} if margins else {})
    return _of_layers(
        _layers(network, names), names.weights, flat, y, margins=margins, threads=threads, describe=describe
    )


def check_tensors(x: object, y: object) -> None:
    """Raise ``IntegerError`` unless both are tensors."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise IntegerError(f"{name}: expected a tensor, got {type(value).__name__}; torch.as_tensor makes one")


def check_classes(x: Tensor, y: Tensor, classes: int) -> None:
    """Raise ``IntegerError`` unless there is a class from 0 to ``classes - 1`` for each of at least one sample."""
    if y.ndim != 1 or len(x) != len(y) or len(y) == 0:
        raise IntegerError(
            f"y: expected one class for each of at least one sample, got x of shape {list(x.shape)} and y of shape "
            f"{list(y.shape)}"
        )
    if y.is_floating_point() or y.is_complex() or int(y.min()) < 0 or int(y.max()) >= classes:
        raise IntegerError(
            f"y: expected class indices from 0 to {classes - 1}, got {y.dtype} from {y.min().item()} to "
            f"{y.max().item()}"
        )


class Chain(NamedTuple):
    """A multilayer perceptron's steps.

    Attributes:
        weights: Name of each layer's weight.
        decisions: Index of each hidden layer's sign in the plan.
    """

    weights: tuple[str, ...]
    decisions: tuple[int, ...]


def chain(network: IntegerNetwork, x: Tensor) -> Chain | None:
    """The steps of a network that is linear maps with signs between them, None for any other."""
    first, layers = network.plan.steps[0], network.plan.layers
    flattened = isinstance(first, Flatten) and first.start == 1 and first.end in (-1, x.ndim - 1)
    if layers is None or not (flattened or x.ndim == 2):
        return None
    return Chain(tuple(layer.linear.weight for layer in layers), tuple(layer.index for layer in layers[:-1]))


def _layers(network: IntegerNetwork, names: Chain) -> Layers:
    return Layers(
        weights=tuple(network.bits[name].numpy() for name in names.weights),
        thresholds=tuple(network.thresholds[name].numpy() for name in names.decisions),
        negated=tuple(network.negated[name].numpy() for name in names.decisions),
        output=network.output,
    )


def _of_layers(
    layers: Layers,
    names: tuple[str, ...],
    x: Tensor,
    y: Tensor,
    *,
    margins: bool,
    threads: int | None,
    describe: str | None,
) -> FlipEffects:
    """Sums over blocks of samples; integers, so their order does not matter."""
    fixed, exponent = layers.margins(len(x)) if margins else (None, 0)
    idle: SimpleQueue[Changes] = SimpleQueue()

    def work(task: tuple[Tensor, Tensor]) -> None:
        try:
            own = idle.get_nowait()
        except Empty:
            own = Changes.zero(layers, margins=margins)
        Block(layers, *task, fixed).add_to(own)
        idle.put(own)

    tasks = list(zip(torch.split(x, BLOCK), torch.split(y, BLOCK), strict=True))
    for _ in in_threads(work, tasks, threads=threads, describe=describe):
        pass
    total = idle.get_nowait()
    while not idle.empty():
        total.add(idle.get_nowait())
    inputs = [weight.shape[1] for weight in layers.weights]
    errors = [torch.from_numpy(found[:, :count].copy()) for found, count in zip(total.errors, inputs, strict=True)]
    if not margins:
        return FlipEffects(dict(zip(names, errors, strict=True)), {})
    moved = [
        torch.from_numpy(np.ldexp(found[:, :count].astype(np.float64), -exponent))
        for found, count in zip(total.margins, inputs, strict=True)
    ]
    return FlipEffects(dict(zip(names, errors, strict=True)), dict(zip(names, moved, strict=True)))


def _of_outputs(weight: Tensor, output: Affine, x: Tensor, y: Tensor, *, margins: bool) -> tuple[Tensor, Tensor]:
    """For a network without hidden layers: each flip moves one output, by twice a sample's input."""
    classes, inputs = weight.shape
    errors = torch.zeros(classes, inputs, dtype=torch.int64)
    moved = torch.zeros(classes, inputs, dtype=torch.float64)
    for part, labels in zip(torch.split(x, BLOCK), torch.split(y, BLOCK), strict=True):
        sums = part @ weight.T
        logits = output(sums)
        flipped = sums[:, None] - 2 * part[:, :, None] * weight.T  # [samples, inputs, classes]
        others = output(flipped.reshape(-1, classes)).view_as(flipped)
        for c in range(classes):
            found = logits[:, None].repeat(1, inputs, 1)
            found[..., c] = others[..., c]
            errors[c] += (found.argmax(-1) != labels[:, None]).sum(0) - (logits.argmax(-1) != labels).sum()
            if margins:
                moved[c] += (summed_margin(found.transpose(0, 1), labels) - summed_margin(logits, labels)).view(-1)
    return errors, moved
