"""The integer form of a binary network: bits, integer thresholds, and one gain and offset for each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from binarynets.integer.affine import Affine, IntegerError, folded
from binarynets.integer.chain import Chain, chain
from binarynets.integer.evaluate import EXACT, bounds, check_exact, convolved, decided, pooled, terms
from binarynets.integer.multiply import Method, fastest, multiplied
from binarynets.integer.plan import Add, Convolution, Decide, Flatten, Linear, Output, Plan, Pool
from binarynets.integer.trace import plan
from compare.params import Params, check, parameters

MEMORY = 256 * 2**20
"""Bytes that the values of one block of samples may take while it is evaluated."""


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
            x: Integers ``[batch, ...]`` of any type, such as 2 p - 255 for pixels p. On a GPU (no test covers it) sums
                are taken there, and outputs made of them on the CPU, so that they round as there.
            method: How integers are multiplied; None for the fastest that was measured on this machine.

        Returns:
            ``[batch, classes]`` in the model's type, where ``x`` is.

        Raises:
            IntegerError: If ``x`` holds other numbers than integers, or such large ones that the model itself rounds.
        """
        return self.output(self.sums(x, method=method).cpu()).to(x.device)

    def predict(self, x: Tensor, *, method: Method | None = None) -> Tensor:
        """Classes ``[batch]``, the first of equal ones."""
        return self(x, method=method).argmax(1)

    def errors(self, x: Tensor, y: Tensor, *, method: Method | None = None) -> int:
        """Number of samples of classes ``y`` ``[batch]`` that are misclassified.

        Raises:
            IntegerError: As a call, or unless ``y`` has one class for each sample.
        """
        if y.shape != x.shape[:1]:
            raise IntegerError(f"y: expected one class for each of {len(x)} samples, got shape {list(y.shape)}")
        return int((self.predict(x, method=method) != y).sum())

    @torch.no_grad()
    def sums(self, x: Tensor, *, method: Method | None = None) -> Tensor:
        """The last layer's sums, int32 ``[batch, classes]``.

        Samples are taken in blocks whose values, of all steps and 4 bytes a number, fill a sixteenth of ``MEMORY``
        (one sample may need more); perceptrons that keep their signs packed take blocks of ``chain.SAMPLES``.
        """
        x = _checked_batch(x)
        if (found := self._packed_sums(x, method)) is not None:
            return found
        first, numbers = self._block(x[:1], method)
        size = max(1, MEMORY // 16 // (4 * numbers))  # what caches hold: larger blocks are slower
        if len(x) == 1:
            return first
        return torch.cat([self._block(part, method)[0] for part in torch.split(x, size)])

    @cached_property
    def _chain(self) -> Chain | None:
        return chain(self.plan, self.bits, self.thresholds, self.negated)

    @cached_property
    def _bounds(self) -> tuple[float, ...]:
        return bounds(self.plan, self.bits)

    def _packed_sums(self, x: Tensor, method: Method | None) -> Tensor | None:
        """Sums with signs kept as bits, where the network is a perceptron and bytes multiply fast here."""
        own = self._chain
        if own is None or method not in (None, "bits") or x.device.type != "cpu":
            return None
        first = self.plan.steps[0]
        whole = isinstance(first, Flatten) and first.start == 1 and first.end in (-1, x.ndim - 1)
        flat = x.flatten(1) if whole else x
        inputs = own.first.shape[1]
        fits = flat.ndim == 2 and flat.shape[1] == inputs and 255 * inputs < EXACT
        return own.sums(flat) if fits and (method or fastest("cpu")) != "float32" else None

    def _block(self, x: Tensor, method: Method | None) -> tuple[Tensor, int]:
        """Last sums, and how many numbers all steps made together."""
        check_integers(x)
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
            Integers in float32, a new tensor.
        """
        step, bound = self.plan.steps[index], self._bounds[self.plan.steps[index].source]
        x = values[step.source].to(torch.float32)
        if not isinstance(step, Flatten | Decide | Add):
            check_exact(x, bound, terms(step, self.bits), step.name)
        match step:
            case Flatten(start=start, end=end):
                return x.flatten(start, end)
            case Linear(name=name, weight=weight):
                bits = self.bits[weight].to(x.device)
                if x.ndim != 2 or x.shape[1] != bits.shape[1]:
                    raise IntegerError(f"'{name}': expected [batch, {bits.shape[1]}], got {list(x.shape)}")
                return multiplied(x, bits, method, bound=bound)
            case Convolution(weight=weight):
                return convolved(x, self.bits[weight].to(x.device), step)
            case Pool():
                return pooled(x, step)
            case Add(name=name, other=other):
                total = x + values[other]
                check_exact(total, self._bounds[index + 1], 1, name)
                return total
            case Decide():
                limit, below = self.thresholds[index].to(x.device), self.negated[index].to(x.device)
                return decided(x, limit, below, bound)
        raise AssertionError(step)


def to_integer(model: nn.Module, params: Params) -> IntegerNetwork:
    """The integer form of a network (METHODS, section 6 there): it decides as the model does, for every input.

    Args:
        model: Layers of ``binarynets``, batch normalisation, max and average pooling, flattening, and residual streams
            that are integers. It is not changed.
        params: Its parameters and buffers by name; taken as contiguous, for torch rounds strided ones otherwise.

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
    _check_types(params)
    return folded_plan(plan(model), {name: tensor.detach().contiguous() for name, tensor in params.items()})


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
                _check_affine(affine, step)
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


def _check_types(params: Params) -> None:
    found = {tensor.dtype for tensor in params.values() if tensor.is_floating_point()}
    if len(found) > 1 or not found <= {torch.float32, torch.float64}:
        raise IntegerError(
            f"params: expected all in float32 or all in float64, got {', '.join(sorted(map(str, found)))}; convert them"
        )


def _check_affine(affine: Affine, step: Decide | Output) -> None:
    where = (step.scaling.mean or step.name).removesuffix(".running_mean")
    if not bool(torch.isfinite(affine.gain).all() & torch.isfinite(affine.offset).all()):
        raise IntegerError(f"'{where}': expected finite gains and offsets, got NaN or infinity (a variance below 0?)")
    dead = torch.nonzero(affine.gain == 0).flatten()
    if len(dead):
        raise IntegerError(
            f"'{where}': the gain of channel {int(dead[0])} is 0 ({len(dead)} in all), so its "
            "output is constant; remove the channel, or give it a gain"
        )


def _checked_batch(x: Tensor) -> Tensor:
    """``x``, in a type that everything here computes with."""
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) == 0:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise IntegerError(f"x: expected a tensor [batch, ...] of at least one sample, got {got}")
    if x.dtype == torch.bool:
        return x.to(torch.int8)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_integers(x: Tensor) -> None:
    """Raise ``IntegerError`` unless ``x`` holds integers, in whatever type."""
    # NaN and infinity have the fraction NaN. Comparisons to bool are not vectorised.
    if x.is_floating_point() and x.frac().abs_().amax().item() != 0:
        raise IntegerError("x: expected integers, such as 2 p - 255 for pixels p, got other numbers")
