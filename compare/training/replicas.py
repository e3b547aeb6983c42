"""Replicated SGD: networks that are drawn to their barycentre, ever more strongly."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compare.evaluation.statistics import calibrator, has_statistics, re_estimated
from compare.params import Params, parameters
from compare.seeds import derived
from compare.training.algorithms import RSGD
from compare.training.descent import Batch, TrainingError, error, of_the_batch, put, rate, rated, set_rate
from compare.training.settings import Recipe, TrainingSettings


def barycentre(replicas: Sequence[Params]) -> Params:
    r"""The mean :math:`\bar w = \frac{1}{y} \sum_a w_a` of each entry; of counters the first replica's."""
    return {
        name: torch.stack([replica[name] for replica in replicas]).mean(0) if first.is_floating_point() else first
        for name, first in replicas[0].items()
    }


def squared_distances(replicas: Sequence[Params], centre: Params) -> list[float]:
    r"""For each replica :math:`\|w_a - \bar w\|^2`, over all entries together."""
    return [sum(float((w[name] - centre[name]).square().sum()) for name in centre) for w in replicas]


def coupling(replicas: Sequence[Params], strength: float) -> float:
    r"""The coupling term :math:`\frac{g}{y} \sum_a \|w_a - \bar w\|^2` of strength g."""
    return strength * sum(squared_distances(replicas, barycentre(replicas))) / len(replicas)


def pulled(replicas: Sequence[Params], strength: float, rate: float) -> list[Params]:
    r"""Replicas after one implicit step along the gradient of their coupling.

    The loss of all is :math:`\frac{1}{y} \sum_a L(w_a) + \frac{g}{y} \sum_a \|w_a - \bar w\|^2`. Each replica follows
    y times its gradient, so that a learning rate means what it means for a single network; of the coupling that is
    :math:`2 g (w_a - \bar w)` (that the barycentre moves along adds nothing, since deviations from it sum to 0). An
    explicit step would diverge as g grows. The implicit one, which takes the gradient where it arrives, solves
    :math:`w' = w - 2 \eta g (w' - \bar w)` and converges for every strength; the barycentre stays.

    Args:
        replicas: Parameters of each.
        strength: g.
        rate: The learning rate :math:`\eta`.

    Returns:
        :math:`\bar w + (w_a - \bar w) / (1 + 2 \eta g)` for each replica.
    """
    centre = barycentre(replicas)
    kept = 1 / (1 + 2 * rate * strength)
    return [{name: torch.lerp(centre[name], w[name], kept) for name in centre} for w in replicas]


class Replicas:
    r"""Coupled networks, with strength :math:`g = g_0 \gamma^t` after a fraction t of all steps, growth :math:`\gamma`.

    :math:`g_0` makes the coupling term at the first step, :math:`g_0 \frac{1}{y} \sum_a \|w_a - \bar w\|^2`, the asked
    multiple of the replicas' mean loss there. In a step, each replica takes its optimiser's step on a batch of its own,
    then all are pulled together. Each has normalisation statistics of its own.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, settings: TrainingSettings, algorithm: RSGD, *, seed: int
    ) -> None:
        """Make the replicas, with an optimiser each.

        Args:
            model: The common start; not changed.
            recipe: What the precision brings.
            settings: Which optimiser.
            algorithm: The hyperparameters.
            seed: Each replica's initial displacement depends on it.
        """
        self.models = tuple(copy.deepcopy(model) for _ in range(algorithm.replicas))
        for number, replica in enumerate(self.models):
            _displace_(replica, algorithm.spread, derived(seed, "replica", number))
            recipe.after_step(replica)
        self._optimisers = [rated(recipe.optimiser(replica, settings)) for replica in self.models]
        self._after_step = recipe.after_step
        self._algorithm = algorithm
        self._learning_rate = settings.learning_rate
        self._initial: float | None = None
        self._strength = 0.0

    def step(self, batches: Sequence[Batch], progress: float) -> tuple[float, float]:
        """See ``Descent``."""
        losses, errors = [], []
        for model, (x, y) in zip(self.models, batches, strict=True):
            loss, logits = of_the_batch(model, x, y)
            losses.append(float(loss))
            errors.append(error(logits, y))
        mean_loss = sum(losses) / len(losses)
        if self._initial is None:
            self._initial = self._balanced(mean_loss)
        self._strength = self._initial * self._algorithm.growth**progress
        for model, optimiser in zip(self.models, self._optimisers, strict=True):
            set_rate(optimiser, progress)
            optimiser.step()
            self._after_step(model)
        self._pull(rate(self._learning_rate, progress))
        return mean_loss, sum(errors) / len(errors)

    def _balanced(self, loss: float) -> float:
        """The first strength."""
        term = coupling([_trainable(model) for model in self.models], 1.0)
        if term == 0:
            raise TrainingError(
                "rsgd: all replicas start at one point, so their coupling cannot be balanced with the loss. Expected "
                "weights (parameters with two axes or more) that are not all equal; train such a model with 'plain'"
            )
        return self._algorithm.coupling * loss / term

    @torch.no_grad()
    def _pull(self, learning_rate: float) -> None:
        replicas = [_trainable(model) for model in self.models]
        for before, after in zip(replicas, pulled(replicas, self._strength, learning_rate), strict=True):
            for name, tensor in before.items():
                tensor.copy_(after[name])

    def params(self, calibration: Tensor) -> Params:
        """The barycentre, with statistics measured for it."""
        centre = barycentre([parameters(model) for model in self.models])
        if not has_statistics(self.models[0]):
            return centre
        return re_estimated(calibrator(self.models[0]), centre, calibration)

    def figures(self) -> dict[str, float]:
        """Strength of the coupling, and the replicas' mean distance from the barycentre."""
        replicas = [_trainable(model) for model in self.models]
        squares = squared_distances(replicas, barycentre(replicas))
        return {"coupling": self._strength, "distance": sum(square**0.5 for square in squares) / len(squares)}

    def state_dict(self) -> dict[str, Any]:
        """Replicas, their optimisers' states, and the first strength."""
        return {
            "replicas": [parameters(model) for model in self.models],
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "initial": self._initial,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up such a state."""
        self._initial = state_dict["initial"]
        for number, model in enumerate(self.models):
            put(state_dict["replicas"][number], model, what=f"replica {number} of the checkpoint")
            self._optimisers[number].load_state_dict(state_dict["optimisers"][number])


def _trainable(model: nn.Module) -> Params:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _displace_(model: nn.Module, spread: float, seed: int) -> None:
    """Normal noise on weights; offsets and gains, with one axis, stay where their initialisation wants them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() > 1:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise * (spread * parameter.std(correction=0)))
