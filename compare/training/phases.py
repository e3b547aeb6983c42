"""Phases of a training: which labels, with which settings, and where it stands."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from compare.runs.record import Epoch
from compare.seeds import derived
from compare.training.algorithms import ADV
from compare.training.settings import TrainingSettings


@dataclass(frozen=True)
class Note:
    """What only some algorithms have to tell of an epoch.

    Attributes:
        random_labels: The epoch's training loss and error are those on permuted labels.
        coupling: Strength g of the replicas' coupling at the epoch's last step.
        distance: Mean Euclidean distance of the replicas from their barycentre, over all trainable parameters, at the
            epoch's end.
    """

    random_labels: bool = False
    coupling: float | None = None
    distance: float | None = None

    def told(self) -> dict[str, bool | float]:
        """The fields that tell something."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


@dataclass(frozen=True)
class Phase:
    """Epochs with one optimiser and one schedule.

    Attributes:
        settings: Of this phase alone.
        random_labels: Labels are permuted.
        until: Training error over an epoch, a fraction, at or below which the phase ends early; None for never.
        regularised: Dropout is at work.
    """

    settings: TrainingSettings
    random_labels: bool = False
    until: float | None = None
    regularised: bool = True

    def ended(self, history: Sequence[Epoch]) -> bool:
        """Whether its epochs so far, ``history``, are all."""
        early = bool(history) and self.until is not None and history[-1].train_error <= self.until
        return early or len(history) >= self.settings.epochs


def phases(settings: TrainingSettings) -> tuple[Phase, ...]:
    """The phases of a training; all algorithms but one have one."""
    algorithm = settings.algorithm
    if not isinstance(algorithm, ADV):
        return (Phase(settings),)
    first = replace(
        settings,
        epochs=algorithm.random_epochs,
        learning_rate=algorithm.random_learning_rate or settings.learning_rate,
    )
    return (
        Phase(first, random_labels=True, until=algorithm.random_error),
        Phase(replace(settings, weight_decay=0.0), regularised=False),
    )


def standing(plan: Sequence[Phase], history: Sequence[Epoch], course: Sequence[Note]) -> tuple[Phase | None, int]:
    """Where a training stands.

    Args:
        plan: Its phases.
        history: Its epochs so far.
        course: A note for each.

    Returns:
        The phase of the next epoch, None at the end; and the number of epochs that it has had.
    """
    for phase in plan:
        own = [e for e, note in zip(history, course, strict=True) if note.random_labels == phase.random_labels]
        if not phase.ended(own):
            return phase, len(own)
    return None, 0


def permuted(y: Tensor, seed: int) -> Tensor:
    """Labels in an order that only ``seed`` and their number determine: each class keeps its size."""
    generator = torch.Generator().manual_seed(derived(seed, "random labels"))
    return y[torch.randperm(len(y), generator=generator)]
