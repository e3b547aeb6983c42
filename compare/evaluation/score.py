"""Error count and loss of one network on one set of samples."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.params import Params, call_in_place

BATCH = 2000


class Samples(Protocol):
    """Inputs ``x`` ``[samples, ...]`` and class indices ``y`` ``[samples]``; a split of a data set is one."""

    @property
    def x(self) -> Tensor:
        """Inputs."""
        ...

    @property
    def y(self) -> Tensor:
        """Class indices."""
        ...


@dataclass(frozen=True)
class Score:
    """What one network does on some samples.

    Attributes:
        wrong: Number of misclassified samples (the largest output decides; the first of equal ones).
        loss: Mean cross-entropy, nats.
        samples: Number of samples.
    """

    wrong: int
    loss: float
    samples: int

    @property
    def error(self) -> float:
        """Fraction of misclassified samples."""
        return self.wrong / self.samples


@dataclass
class Tally:
    """What is counted of one network, batch by batch; the order of the batches rounds the loss.

    Attributes:
        wrong: Number of misclassified samples so far.
        loss: Sum of their cross-entropies, nats.
        samples: Number of samples so far.
    """

    wrong: int = 0
    loss: float = 0.0
    samples: int = 0

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Count one batch: ``[batch, classes]`` and class indices ``[batch]``."""
        self.wrong += int((logits.argmax(1) != y).sum())
        self.loss += float(F.cross_entropy(logits.double(), y, reduction="sum"))
        self.samples += len(y)

    def score(self) -> Score:
        """The score of all that was counted.

        Raises:
            ValueError: If there was no sample.
        """
        if self.samples == 0:
            raise ValueError("evaluate: expected at least one sample")
        return Score(self.wrong, self.loss / self.samples, self.samples)


@torch.no_grad()
def evaluate(model: nn.Module, params: Params, samples: Samples, *, batch: int = BATCH) -> Score:
    """Count the errors of the network with ``params`` on all ``samples``.

    Args:
        model: In evaluation mode; not changed.
        params: Parameters and buffers by name.
        samples: Inputs and classes.
        batch: Samples at a time; changes memory and speed, and the loss by rounding alone.

    Returns:
        The score.

    Raises:
        ValueError: If the model is in training mode or there are no samples.
    """
    if model.training:
        raise ValueError("evaluate: expected a model in evaluation mode, call model.eval() first")
    # Copies, since some quantisers clamp the latent weights that they are given, in place.
    params = {name: tensor.clone() for name, tensor in params.items()}
    tally = Tally()
    for x, y in zip(torch.split(samples.x, batch), torch.split(samples.y, batch), strict=True):
        tally.add(call_in_place(model, params, x), y)
    return tally.score()
