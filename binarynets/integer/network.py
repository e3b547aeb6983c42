"""The integer form of a binary network: bits, integer thresholds, and one gain and offset for each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binarynets.integer.affine import Affine, IntegerError, folded
from binarynets.integer.chain import Chain, chain
from binarynets.integer.multiply import Method, fastest, multiplied
from binarynets.integer.plan import Add, Convolution, Decide, Flatten, Linear, Output, Plan, Pool
from binarynets.integer.trace import plan
from compare.params import Params, check, parameters

MEMORY = 256 * 2**20
"""Bytes that the values of one block of samples may take while it is evaluated."""

_EXACT = 2**24
"""Sums below this are exact in float32, in which the network itself adds."""


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A binary network without rounding; call it as the network.

    Attributes:
        plan: The steps.
        bits: For each weight by name, whether it is +1; bool, in the weight's shape.
        thresholds: For each ``Decide`` step by its index in the plan, int32 ``[channels]``, or ``[1]`` for all alike
            where neither normalisation nor bias tells flattened channels apart: the sign is +1 where
            ``(sum >= threshold) != negated``.
        negated: Likewise, bool: channels whose gain is negative.
        output: Gain and offset of each class.
    """

    plan: Plan
    bits: Mapping[str, Tensor]
    thresholds: Mapping[int, Tensor]
    negated: Mapping[int, Tensor]
    output: Affine

    def __call__(self, x: Tensor, *, method: Method | None = None) -> Tensor:
        """The network's outputs, equal to the model's bit for bit.

        Args:
            x: Integers ``[batch, ...]`` of any type, such as 2 p - 255 for pixels p.
            method: How integers are multiplied; None for the fastest that was measured on this machine.

        Returns:
            ``[batch, classes]`` in the model's type.

        Raises:
            IntegerError: If ``x`` holds other numbers than integers, or such large ones that the model itself rounds.
        """
        return self.output(self.sums(x, method=method))

    def predict(self, x: Tensor, *, method: Method | None = None) -> Tensor:
        """Classes ``[batch]``, the first of equal ones."""
        return self(x, method=method).argmax(1)

    def errors(self, x: Tensor, y: Tensor, *, method: Method | None = None) -> int:
        """Number of samples of classes ``y`` ``[batch]`` that are misclassified."""
        return int((self.predict(x, method=method) != y).sum())

    @torch.no_grad()
    def sums(self, x: Tensor, *, method: Method | None = None) -> Tensor:
        """The last layer's sums, int32 ``[batch, classes]``; blocks of samples keep below ``MEMORY`` bytes."""
        if len(x) == 0:
            raise IntegerError("x: expected at least one sample")
        if (found := self._packed_sums(x, method)) is not None:
            return found
        check_integers(x)
        first, numbers = self._block(x[:1], method)
        size = max(1, MEMORY // (4 * numbers))
        if len(x) == 1:
            return first
        return torch.cat([self._block(part, method)[0] for part in torch.split(x, size)])

    @cached_property
    def _chain(self) -> Chain | None:
        return chain(self.plan, self.bits, self.thresholds, self.negated)

    def _packed_sums(self, x: Tensor, method: Method | None) -> Tensor | None:
        """Sums with signs kept as bits, where the network is a perceptron and bytes multiply fast here."""
        own = self._chain
        if own is None or method not in (None, "bits") or x.device.type != "cpu" or x.dtype == torch.bool:
            return None
        flat = x if self.plan.steps[0].source or not isinstance(self.plan.steps[0], Flatten) else x.flatten(1)
        inputs = own.first.shape[1]
        fits = flat.ndim == 2 and flat.shape[1] == inputs and 255 * inputs < _EXACT
        return own.sums(flat) if fits and (method or fastest("cpu")) != "float32" else None

    def _block(self, x: Tensor, method: Method | None) -> tuple[Tensor, int]:
        """Last sums, and how many numbers all steps made together."""
        values, numbers = [x], x.numel()
        for index, step in enumerate(self.plan.steps):
            if isinstance(step, Output):
                return values[step.source].to(torch.int32), max(1, numbers // len(x))
            values.append(self.value(index, values, method=method))
            numbers += values[-1].numel()
        raise AssertionError("a plan ends with its output")

    def value(
        self, index: int, values: Mapping[int, Tensor] | Sequence[Tensor], *, method: Method | None = None
    ) -> Tensor:
        """What step ``index`` of the plan, which is not its last, makes of the values before it.

        Args:
            index: Counts steps from 0.
            values: By ``source`` of the plan: the input at 0, then the values of steps.
            method: As for a call.

        Returns:
            Signs in int8, other integers in int32 (or as ``values`` has them).
        """
        step = self.plan.steps[index]
        x = values[step.source]
        match step:
            case Flatten(start=start, end=end):
                return x.flatten(start, end)
            case Linear(name=name, weight=weight):
                bits = self.bits[weight]
                if x.ndim != 2 or x.shape[1] != bits.shape[1]:
                    raise IntegerError(f"'{name}': expected [batch, {bits.shape[1]}], got {list(x.shape)}")
                _check_exact(x, bits[0].numel(), name)
                return multiplied(x, bits, method)
            case Convolution():
                _check_exact(x, self.bits[step.weight][0].numel(), step.name)
                return _convolved(x, self.bits[step.weight], step)
            case Pool():
                return _pooled(x, step)
            case Add(other=other):
                return x.to(torch.int32) + values[other].to(torch.int32)
            case Decide():
                shape = (-1, *[1] * (x.ndim - 2))
                on = (x >= self.thresholds[index].view(shape)) != self.negated[index].view(shape)
                return on.to(torch.int8).mul_(2).sub_(1)
        raise AssertionError(step)


def to_integer(model: nn.Module, params: Params) -> IntegerNetwork:
    """The integer form of a network (METHODS, section 6 there): it decides as the model does, for every input.

    Args:
        model: Layers of ``binarynets``, batch normalisation, max and average pooling, flattening, and residual streams
            that are integers. It is not changed.
        params: Its parameters and buffers by name.

    Returns:
        Bits, thresholds, and the gains and offsets of the last layer.

    Raises:
        ParameterError: If ``params`` do not fit the model.
        IntegerError: If something in it has no integer form (real-valued skip streams, activations that are not odd,
            other normalisations, gains of 0); the message names the module, the reason, and what to do.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(6, [5, 4], 3).eval()
        >>> network = to_integer(model, compare.parameters(model))
        >>> x = torch.randint(-255, 256, (7, 6), generator=torch.Generator().manual_seed(0)).float()
        >>> torch.equal(network(x), model(x))
        True
    """
    check(params, parameters(model))
    found = plan(model)
    return folded_plan(found, {name: tensor.detach() for name, tensor in params.items()})


def folded_plan(steps: Plan, params: Params) -> IntegerNetwork:
    """The integer network of a plan with these parameters."""
    bits, thresholds, negated = {}, {}, {}
    output: Affine | None = None
    dtype = next((params[s.weight].dtype for s in steps.steps if isinstance(s, Linear | Convolution)), None)
    if dtype is None:
        raise IntegerError("the model: expected at least one layer of binarynets, found none")
    for index, step in enumerate(steps.steps):
        match step:
            case Linear(weight=weight) | Convolution(weight=weight):
                bits[weight] = params[weight] >= 0
            case Decide() | Output():
                affine = folded(step.scaling, params, _channels(steps, step.source, params), dtype=dtype)
                _check_gain(affine, step)
                if isinstance(step, Output):
                    output = affine
                else:
                    limit, below = affine.thresholds()
                    thresholds[index], negated[index] = limit.to(torch.int32), below
            case _:
                pass
    assert output is not None
    return IntegerNetwork(steps, bits, thresholds, negated, output)


def _channels(steps: Plan, at: int, params: Params) -> int:
    """Channels of what step ``at`` made; 1, for all alike, where a flattening has mixed them with places."""
    while at:
        step = steps.steps[at - 1]
        if isinstance(step, Flatten):
            break
        if isinstance(step, Linear | Convolution):
            return len(params[step.weight])
        at = step.source
    return 1


def _check_gain(affine: Affine, step: Decide | Output) -> None:
    dead = torch.nonzero(affine.gain == 0).flatten()
    if len(dead):
        where = step.scaling.gain or step.name
        raise IntegerError(
            f"'{where.removesuffix('.weight')}': the gain of channel {int(dead[0])} is 0 ({len(dead)} in all), so its "
            "output is constant; remove the channel, or give it a gain"
        )


def check_integers(x: Tensor) -> None:
    """Raise ``IntegerError`` unless ``x`` holds integers, in whatever type."""
    if x.is_floating_point() and not bool((x == x.round()).all() & torch.isfinite(x).all()):
        raise IntegerError("x: expected integers, such as 2 p - 255 for pixels p, got other numbers")


def _check_exact(x: Tensor, fan_in: int, name: str) -> None:
    largest = 1.0 if x.dtype == torch.int8 else float(x.abs().max())  # int8 are signs
    if largest * fan_in >= _EXACT:
        raise IntegerError(
            f"'{name}': sums of {fan_in} numbers up to {largest:.0f} may pass 2**24, beyond which the model itself "
            "rounds; expected smaller inputs"
        )


def _convolved(x: Tensor, bits: Tensor, step: Convolution) -> Tensor:
    """Exact in float32, as long as sums stay below 2**24."""
    weight = bits.float().mul_(2).sub_(1)
    padding = [number for pair in reversed(step.padding) for number in pair]
    padded = F.pad(x.float(), padding)
    apply = F.conv1d if weight.ndim == 3 else F.conv2d
    return apply(padded, weight, None, step.stride, 0, step.dilation, step.groups).to(torch.int32)


def _pooled(x: Tensor, step: Pool) -> Tensor:
    flat, values = len(step.window) == 1, x.float()
    if step.kind == "max":
        pool = F.max_pool1d if flat else F.max_pool2d
        found = pool(values, step.window, step.stride, step.padding, step.dilation, step.ceil_mode)
    else:
        count = 1
        for width in step.window:
            count *= width
        # The quotient by a power of two is exact, and so is its product.
        found = (F.avg_pool1d if flat else F.avg_pool2d)(values, step.window, step.stride) * count
    return found.to(x.dtype if step.kind == "max" else torch.int32)
