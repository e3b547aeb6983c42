"""Ensembles: several networks of one architecture decide together, by a vote of labels or by mean probability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from compare.errors import CompareError
from compare.evaluation.score import BATCH, Samples
from compare.params import Params, call

Rule: TypeAlias = Literal["majority", "mean probability"]
RULES: tuple[Rule, ...] = ("majority", "mean probability")


class EnsembleError(CompareError, ValueError):
    """An ensemble that makes no sense as asked for."""


@dataclass(frozen=True)
class Vote:
    """What several networks decide, alone and together.

    Attributes:
        errors: Fraction of misclassified samples of each network.
        majority: That of the vote of labels.
        mean_probability: That of the mean probability.
        agreement: Mean over pairs of networks of the fraction of samples to which they give one label.
        tied: Fraction of samples where several classes have the most votes.
        changed: Fraction of samples to which the vote gives another label than the first network does.
        samples: Number of samples.
    """

    errors: tuple[float, ...]
    majority: float
    mean_probability: float
    agreement: float
    tied: float
    changed: float
    samples: int

    @property
    def mean_error(self) -> float:
        """Mean error of the networks alone."""
        return sum(self.errors) / len(self.errors)


def majority(labels: Tensor, classes: int) -> Tensor:
    """The class with the most votes; of several with as many, the one that the earliest of their voters chose.

    So one network decides as it does alone, two that differ as the first does, and copies of one network as that one.

    Args:
        labels: int64 ``[networks, samples]``: the class that each network gives.
        classes: Number of classes.

    Returns:
        int64 ``[samples]``.

    Raises:
        EnsembleError: If there is no network, or a label is none of the classes.

    Example:
        >>> majority(torch.tensor([[2, 0, 1], [0, 0, 1], [0, 1, 2], [2, 1, 0]]), 3)
        tensor([2, 0, 1])
    """
    count = counts(labels, classes)
    leading = count == count.max(0).values
    # The first network whose own label is among the leading ones.
    stands = leading.gather(0, labels)
    first = stands.int().argmax(0)
    return labels.gather(0, first[None])[0]


def counts(labels: Tensor, classes: int) -> Tensor:
    """Votes for each class, int64 ``[classes, samples]``.

    Args:
        labels: int64 ``[networks, samples]``.
        classes: Number of classes.

    Raises:
        EnsembleError: If there is no network, or a label is none of the classes.
    """
    if labels.ndim != 2 or not len(labels):
        raise EnsembleError(f"labels: expected [networks, samples] of one network or more, got {list(labels.shape)}")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise EnsembleError(
            f"labels: expected classes from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}"
        )
    votes = torch.zeros(classes, labels.shape[1], dtype=torch.int64, device=labels.device)
    return votes.scatter_add_(0, labels, torch.ones_like(labels))


def agreement(labels: Tensor, classes: int) -> float:
    """Mean over pairs of networks of the fraction of samples with one label; 1 for a single network.

    Args:
        labels: int64 ``[networks, samples]``.
        classes: Number of classes.

    Raises:
        EnsembleError: If there is no network or no sample, or a label is none of the classes.

    Example:
        >>> agreement(torch.tensor([[0, 1], [0, 1], [0, 0]]), 2)
        0.6666666666666666
    """
    votes = counts(labels, classes)
    networks, samples = labels.shape
    if not samples:
        raise EnsembleError("labels: expected at least one sample, got none")
    if networks == 1:
        return 1.0
    return int((votes * (votes - 1)).sum()) / (networks * (networks - 1) * samples)


def decided(outputs: Tensor, rule: Rule) -> Tensor:
    """The labels that networks give together.

    Args:
        outputs: Logits ``[networks, samples, classes]``.
        rule: ``"majority"``: see ``majority``; each network's label is the first of its largest outputs.
            ``"mean probability"``: the first of the largest means of the networks' softmax.

    Returns:
        int64 ``[samples]``.

    Raises:
        EnsembleError: For an unknown rule.
    """
    if rule == "majority":
        return majority(outputs.argmax(2), outputs.shape[2])
    if rule == "mean probability":
        return outputs.double().softmax(2).mean(0).argmax(1)
    raise EnsembleError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")


@torch.no_grad()
def vote(model: nn.Module, networks: Sequence[Params], samples: Samples, *, batch: int = BATCH) -> Vote:
    """Let networks of one architecture decide together.

    Args:
        model: In evaluation mode; not changed.
        networks: Parameters and buffers by name of each, one or more; not changed.
        samples: Inputs and classes.
        batch: Samples at a time; changes memory and speed alone.

    Returns:
        Errors of each alone and of all together, and how far they agree.

    Raises:
        EnsembleError: If there is no network or no sample, the model is in training mode, or batch is not positive.
    """
    _check(model, networks, samples, batch)
    labels, averaged, classes = [], [], 0
    for x in torch.split(samples.x, batch):
        outputs = torch.stack([call(model, params, x) for params in networks])
        classes = outputs.shape[2]
        labels.append(outputs.argmax(2))
        averaged.append(decided(outputs, "mean probability"))
    return _tallied(torch.cat(labels, 1), torch.cat(averaged), samples.y, classes)


def voted(outputs: Tensor, y: Tensor) -> Vote:
    """As ``vote``, from outputs that are there.

    Args:
        outputs: Logits ``[networks, samples, classes]``, of one network and one sample or more.
        y: Class indices ``[samples]``.

    Returns:
        Errors of each alone and of all together, and how far they agree.

    Raises:
        EnsembleError: If there is no network or no sample.
    """
    return _tallied(outputs.argmax(2), decided(outputs, "mean probability"), y, outputs.shape[2])


def _tallied(labels: Tensor, averaged: Tensor, y: Tensor, classes: int) -> Vote:
    together, votes = majority(labels, classes), counts(labels, classes)
    return Vote(
        errors=tuple(_fraction(each != y) for each in labels),
        majority=_fraction(together != y),
        mean_probability=_fraction(averaged != y),
        agreement=agreement(labels, classes),
        tied=_fraction((votes == votes.max(0).values).sum(0) > 1),
        changed=_fraction(together != labels[0]),
        samples=len(y),
    )


def _fraction(where: Tensor) -> float:
    return int(where.sum()) / len(where)


def _check(model: nn.Module, networks: Sequence[Params], samples: Samples, batch: int) -> None:
    if not networks:
        raise EnsembleError("networks: expected one or more, got none")
    if len(samples.y) == 0:
        raise EnsembleError("samples: expected at least one, got none")
    if batch < 1:
        raise EnsembleError(f"batch: expected a positive number of samples, got {batch}")
    if model.training:
        raise EnsembleError("model: expected one in evaluation mode, call model.eval() first")
