"""The networks of a path, one after the other, in integer form: perceptrons whose first layer changes bit by bit.

From one network of a path to the next few weights change sign, and each changes its unit's sum by twice one input. So
the sums of the first layer, the largest by far on images, are kept for each batch and only changed. Everything behind
it is exclusive or and population count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from binarynets.integer.affine import Affine, IntegerError
from binarynets.integer.chain import Chain, chain
from binarynets.integer.evaluate import EXACT
from binarynets.integer.multiply import bytes_product, fastest
from binarynets.integer.network import folded_plan
from binarynets.integer.plan import Flatten, Layer, Plan
from binarynets.integer.trace import plan
from compare.evaluation import Plain
from compare.params import Params

SHARE = 1 / 6
"""Where more of the first layer's bits flip between two networks, a whole product is faster than changes."""


def along(model: nn.Module) -> "Along | None":
    """What evaluates the networks of a path in integer form; outputs are the model's bit for bit.

    Args:
        model: The network, in evaluation mode.

    Returns:
        The evaluator for one curve, or None unless the model is a perceptron in integer form with a hidden layer.
    """
    try:
        steps = plan(model)
    except IntegerError:
        return None
    layers = steps.layers
    return Along(model, steps, layers[0]) if layers is not None and len(layers) > 1 else None


@dataclass(eq=False)
class Batch:
    """A batch with the sums that the last network made of it.

    Attributes:
        x: The batch as it came.
        columns: Integers of 8 bits ``[inputs, batch]``, None where ``x`` has other numbers.
        halved: Whether these are q with ``x = 2 q + 1``.
        bits: The first layer's bits in the network that ``sums`` belong to.
        sums: Of the first layer over ``columns``, int32 ``[units, batch]``.
    """

    x: Tensor
    columns: Tensor | None = None
    halved: bool = False
    bits: Tensor | None = None
    sums: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Flips:
    """What changes in the first layer from one network to the next.

    Attributes:
        before: Bits ``[units, inputs]`` of the first network, None if there is none.
        units: Unit of each bit that flips, in order.
        inputs: Its input.
        raised: Whether it becomes +1.
    """

    before: Tensor | None
    units: npt.NDArray[np.int64]
    inputs: npt.NDArray[np.int64]
    raised: npt.NDArray[np.bool_]


_NONE = Flips(None, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))


class Along:
    """Evaluates one perceptron after the other; ``along`` makes it."""

    def __init__(self, model: nn.Module, steps: Plan, first: Layer) -> None:
        """Keep the model, its plan and the plan's first layer."""
        self._model = Plain(model)
        self._plan = steps
        self._weight = first.linear.weight
        self._shape = dict(model.named_parameters())[self._weight].shape
        self._last: Tensor | None = None

    def size(self, x: Tensor) -> int:
        """Bytes of the columns and sums."""
        units, inputs = self._shape
        return len(x) * (4 * units + inputs)

    def prepare(self, x: Tensor) -> Batch:
        """The batch with its integers in columns, where they are integers of 8 bits on the CPU."""
        first = self._plan.steps[0]
        whole = isinstance(first, Flatten) and first.start == 1 and first.end in (-1, x.ndim - 1)
        flat = x.flatten(1) if whole else x
        inputs = self._shape[1]
        fits = flat.ndim == 2 and flat.shape[1] == inputs and 255 * inputs < EXACT
        if not fits or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or len(x) == 0:
            return Batch(x)
        from binarynets.integer import chain_kernels  # numba takes its time

        narrow = torch.empty(flat.shape, dtype=torch.int8)
        kind = chain_kernels.narrow(flat.contiguous().numpy(), narrow.numpy())
        return Batch(x, narrow.T.contiguous(), halved=kind == 2) if kind else Batch(x)

    def network(self, t: float, params: Params) -> Callable[[Sequence[Batch]], list[Tensor]]:
        """The network in integer form, or the model itself where it has none with these parameters."""
        if (found := self._form(params)) is None:
            model = self._model.network(t, params)
            return lambda batches: model([batch.x for batch in batches])
        form, output = found
        flips = self._flips(form.first)

        def one(batch: Batch) -> Tensor:
            if batch.columns is None:
                return self._model.network(t, params)([batch.x])[0]
            return output(_sums(form, flips, batch, batch.columns))

        return lambda batches: [one(batch) for batch in batches]

    def _form(self, params: Params) -> tuple[Chain, Affine] | None:
        types = {tensor.dtype for tensor in params.values() if tensor.is_floating_point()}
        own = {name: tensor.detach().contiguous() for name, tensor in params.items()}
        layers = self._plan.layers
        assert layers is not None
        # A latent that is NaN has a sign here and none in the model.
        finite = all(bool(own[layer.linear.weight].sum().isfinite()) for layer in layers)
        if len(types) != 1 or not types <= {torch.float32, torch.float64} or not finite:
            return None
        try:
            network = folded_plan(self._plan, own)
        except IntegerError:
            return None
        form = chain(self._plan, network.bits, network.thresholds, network.negated)
        return None if form is None else (form, network.output)

    def _flips(self, bits: Tensor) -> Flips | None:
        """From the network before, None where there is none or too much changes."""
        before, self._last = self._last, bits
        if before is None:
            return None
        units, inputs = torch.nonzero(bits != before, as_tuple=True)
        if len(units) > SHARE * bits.numel():
            return None
        return Flips(before, units.numpy(), inputs.numpy(), bits[units, inputs].numpy())


def _sums(form: Chain, flips: Flips | None, batch: Batch, columns: Tensor) -> Tensor:
    """Sums of the last layer, int32 ``[batch, classes]``; those of the first stay in the batch."""
    from binarynets.integer import along_kernels

    weight, *limits = form.halved
    if batch.sums is None or flips is None or batch.bits is not flips.before:
        batch.sums, flips = _product(weight.T, columns), _NONE
    batch.bits = form.first
    on = np.empty((columns.shape[1], len(form.negated)), np.uint64)
    along_kernels.step(
        *(batch.sums.numpy(), columns.numpy()),
        *(flips.units, flips.inputs, flips.raised),
        *(limits[int(batch.halved)], form.negated, on),
    )
    return form.behind(on)


def _product(weight: Tensor, columns: Tensor) -> Tensor:
    """int32 ``[units, batch]``, exact either way."""
    if fastest("cpu") == "float32":
        return (weight.float() @ columns.float()).to(torch.int32)
    return bytes_product(weight, columns)
