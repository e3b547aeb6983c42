"""What a step of training does: the gradient that is followed, and the networks that follow it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.errors import CompareError
from compare.params import Params, check, parameters
from compare.training.settings import Optimiser, Recipe, TrainingSettings


class TrainingError(CompareError, RuntimeError):
    """Training that cannot go on: a loss or a parameter became NaN or infinite, or replicas cannot be coupled."""


Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs ``[batch, ...]`` and class indices ``[batch]``."""

Gradient: TypeAlias = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Leaves a gradient in each parameter of a model, for inputs and classes; returns the loss and the outputs there."""


class Descent(Protocol):
    """Networks in training, with their optimisers."""

    @property
    def models(self) -> Sequence[nn.Module]:
        """The networks; each takes a batch of its own in every step."""
        ...

    def step(self, batches: Sequence[Batch], progress: float) -> tuple[float, float]:
        """Make one step.

        Args:
            batches: One for each network, all of the same size.
            progress: Fraction of the steps that are done; schedules depend on it.

        Returns:
            Mean loss and mean error over the batches, before the step.
        """
        ...

    def params(self, calibration: Tensor) -> Params:
        """The network that this training stands for now: copies of its parameters and buffers.

        Args:
            calibration: Training inputs on which statistics may be measured.
        """
        ...

    def figures(self) -> dict[str, float]:
        """What only this kind of training has to tell, by field of ``Note``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs beside ``params``."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state."""
        ...


class Single:
    """One network and its optimiser."""

    def __init__(self, model: nn.Module, recipe: Recipe, settings: TrainingSettings, gradient: Gradient) -> None:
        """Make the optimiser.

        Args:
            model: Trained in place.
            recipe: What the precision brings.
            settings: Which optimiser.
            gradient: What it is given.
        """
        self.models = (model,)
        self._after_step = recipe.after_step
        self._gradient = gradient
        self._optimiser = rated(recipe.optimiser(model, settings))

    def step(self, batches: Sequence[Batch], progress: float) -> tuple[float, float]:
        """See ``Descent``."""
        ((x, y),) = batches
        set_rate(self._optimiser, progress)
        loss, logits = self._gradient(self.models[0], x, y)
        self._optimiser.step()
        self._after_step(self.models[0])
        return float(loss), error(logits, y)

    def params(self, calibration: Tensor) -> Params:
        """The network as it is."""
        return parameters(self.models[0])

    def figures(self) -> dict[str, float]:
        """None."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self._optimiser.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the optimiser's state."""
        self._optimiser.load_state_dict(state_dict)


def of_the_batch(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the cross-entropy at the parameters as they are; see ``Gradient``."""
    model.zero_grad()
    logits: Tensor = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), logits.detach()


def of_the_worst_nearby(rho: float) -> Gradient:
    r"""The gradient at :math:`w + \rho\, g / \|g\|` with the batch's gradient g at w; see ``Gradient``.

    The norm is taken over all trainable parameters together, latent weights with their straight-through gradient. Both
    passes use the same dropout masks. Running statistics are those of the first pass: the second leaves every buffer as
    it was.

    Args:
        rho: Distance, Euclidean.

    Returns:
        What leaves parameters and buffers as one plain pass does, with the gradient of the worst point.
    """

    def gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        masks = torch.get_rng_state()
        loss, logits = of_the_batch(model, x, y)
        moved = [parameter for parameter in model.parameters() if parameter.grad is not None]
        # After the pass: some quantisers clamp latent weights in it.
        before = [(tensor, tensor.detach().clone()) for tensor in (*moved, *model.buffers())]
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in moved]))
            for parameter in moved:
                parameter.add_(parameter.grad * (rho / norm.clamp(min=1e-12)))
        after = torch.get_rng_state()
        torch.set_rng_state(masks)
        of_the_batch(model, x, y)
        torch.set_rng_state(after)
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        return loss, logits

    return gradient


def error(logits: Tensor, y: Tensor) -> float:
    """Fraction of ``y`` ``[batch]`` that the largest of ``logits`` ``[batch, classes]`` misses."""
    return int((logits.argmax(1) != y).sum()) / len(y)


def rate(base: float, progress: float) -> float:
    """The learning rate after a fraction of all steps, half a cosine from ``base`` to 0."""
    return base * 0.5 * (1 + math.cos(math.pi * progress))


def rated(optimiser: Optimiser) -> Optimiser:
    """Keep each group's learning rate as the one that its schedule starts from."""
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group.get("lr"))
    return optimiser


def set_rate(optimiser: Optimiser, progress: float) -> None:
    """Set each group's learning rate to where its schedule is."""
    for group in optimiser.param_groups:
        if group["initial_lr"] is not None:
            group["lr"] = rate(group["initial_lr"], progress)


@torch.no_grad()
def put(params: Mapping[str, Tensor], model: nn.Module, *, what: str) -> None:
    """Write parameters and buffers into a model.

    Args:
        params: By name, those that ``parameters(model)`` has.
        model: Changed in place.
        what: What they are called in messages.

    Raises:
        ParameterError: If they do not fit.
    """
    check(params, parameters(model), what=what)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in params:
            tensor.copy_(params[name])
