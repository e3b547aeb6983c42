"""Training one network until its energy is low enough."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from compare.evaluation import Samples
from compare.params import Params, parameters
from compare.seeds import derived
from compare.strings.landscape import Lowered
from compare.strings.settings import Lowering
from compare.training.descent import TrainingError, put, rated, set_rate
from compare.training.settings import Recipe, TrainingSettings

Measure: TypeAlias = Callable[[Params], tuple[Params, float]]


@dataclass(frozen=True, eq=False)
class Trainer:
    """What a network is trained with.

    Attributes:
        model: Its architecture; not changed.
        recipe: The precision's.
        samples: What it is trained on.
        loss: From outputs and targets to what is minimised.
        lowering: Settings.
        exact: Whether the loss of a step on all samples is the energy, to rounding.
    """

    model: nn.Module
    recipe: Recipe
    samples: Samples
    loss: Callable[[Tensor, Tensor], Tensor]
    lowering: Lowering
    exact: bool

    @property
    def every(self) -> int:
        """Steps from one measurement to the next."""
        whole, rest = divmod(len(self.samples.y), self.lowering.batch or len(self.samples.y))
        return self.lowering.check or whole + (rest > 1)

    def lower(self, start: Params, target: float, seed: int, measure: Measure) -> Lowered:
        """Train from ``start``, which is above the target, until ``measure`` finds it reached.

        Args:
            start: Parameters and buffers by name; not changed.
            target: Energy.
            seed: Of the order of samples and of dropout.
            measure: From parameters to the network whose energy counts (with statistics of its own) and its energy.

        Returns:
            The network that reached the target, else the best of those measured; a copy of ``start`` where no energy
            measured is a number.

        Raises:
            TrainingError: As soon as the loss is NaN or infinite.
        """
        working = copy.deepcopy(self.model).train()
        put(start, working, what="start")
        optimiser = rated(self.recipe.optimiser(working, self.settings))
        best = Lowered({name: tensor.clone() for name, tensor in start.items()}, math.inf, False, 0, 0)
        evaluations, step = 0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived(seed, "dropout"))
            for step, (x, y) in enumerate(self._batches(seed)):
                working.zero_grad()
                loss = self.loss(working(x), y)
                if not math.isfinite(value := float(loss.detach())):
                    raise TrainingError(self._diverged(value, step))
                if self._is_due(step, value, target):
                    params, energy = measure(parameters(working))
                    evaluations += 1
                    if energy < best.energy:
                        best = Lowered(params, energy, energy <= target, 0, 0)
                    if best.reached or step == self.lowering.steps:
                        break
                loss.backward()  # type: ignore[no-untyped-call]
                set_rate(optimiser, step / self.lowering.steps)
                optimiser.step()
                self.recipe.after_step(working)
        return replace(best, steps=step, evaluations=evaluations)

    def batch(self, seed: int) -> tuple[Tensor, Tensor]:
        """The inputs and targets of a first step."""
        return next(self._batches(seed))

    @property
    def settings(self) -> TrainingSettings:
        """The recipe's, with what was asked for."""
        given = self.lowering
        return self.recipe.settings.changed(
            epochs=1,
            batch=given.batch or max(2, len(self.samples.y)),
            optimiser=given.optimiser,
            learning_rate=given.learning_rate,
            weight_decay=given.weight_decay,
        )

    def _is_due(self, step: int, loss: float, target: float) -> bool:
        """Whether the network before a step is measured."""
        if step == self.lowering.steps:
            return True
        return loss <= target if self.exact else step > 0 and step % self.every == 0

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end."""
        x, y, batch = self.samples.x, self.samples.y, self.lowering.batch
        for number in itertools.count():
            if batch is None or batch >= len(y):
                yield x, y
                continue
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(derived(seed, number)))
            # A last part of one sample has no variance for batch normalisation.
            yield from ((x[part], y[part]) for part in torch.split(order, batch) if len(part) > 1)

    def _diverged(self, loss: float, step: int) -> str:
        return (
            f"the training of a bead stopped in step {step + 1}: the loss became {loss}. Expected finite numbers; "
            f"lower the learning rate (now {self.settings.learning_rate}) or look for NaN in the data"
        )
