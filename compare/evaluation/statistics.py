"""Normalisation statistics measured anew for given parameters."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from compare.errors import CompareError
from compare.params import Params

BATCH = 1000


class StatisticsError(CompareError, ValueError):
    """Statistics that cannot be re-estimated: no normalisation layers, or no calibration data."""


def has_statistics(model: nn.Module) -> bool:
    """Whether the model has batch normalisation with running statistics, which can be re-estimated."""
    return bool(_tracking(model))


def _tracking(model: nn.Module) -> list[Any]:
    """Modules that keep running statistics as batch normalisation does: in place, by ``momentum``, in training mode."""
    return [
        module
        for module in model.modules()
        if getattr(module, "track_running_stats", False) and hasattr(module, "momentum")
    ]


def calibrator(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose forward measures statistics: batch normalisation in training mode, the rest not.

    Raises:
        StatisticsError: If the model has no batch normalisation with running statistics.
    """
    copied = copy.deepcopy(model).eval()
    found = _tracking(copied)
    if not found:
        raise StatisticsError(
            f"{type(model).__name__} has no batch normalisation with running statistics, so there is nothing to "
            "re-estimate; use statistics='interpolated'"
        )
    for module in found:
        module.train()
        if isinstance(module, _BatchNorm):
            module.momentum = None  # cumulative: the mean over all batches, not a running one
    return copied


def batches(x: Tensor, batch: int = BATCH) -> tuple[Tensor, ...]:
    """Calibration inputs in parts of equal size (to one sample), of at most ``batch``."""
    return x.chunk(-(-len(x) // batch))


@torch.no_grad()
def re_estimated(measuring: nn.Module, params: Params, x: Tensor, *, batch: int = BATCH) -> Params:
    """``params`` with running means and variances measured on ``x`` for exactly these parameters [REPAIR].

    Each layer sees its predecessors normalised by the batch at hand, as in training; the statistics are means over
    batches of equal size (to one sample).

    Args:
        measuring: What ``calibrator(model)`` gives.
        params: Parameters and buffers by name; not changed.
        x: Calibration inputs ``[samples, ...]``, training data.
        batch: Largest number of samples at a time.

    Returns:
        New parameters.

    Raises:
        StatisticsError: If there are fewer than two samples.
    """
    if len(x) < 2:
        raise StatisticsError(f"re-estimating statistics takes at least 2 calibration samples, got {len(x)}")
    fresh = {name: tensor.clone() for name, tensor in params.items()}
    for name in fresh:
        if name.rpartition(".")[2] == "num_batches_tracked":
            fresh[name].zero_()
    for number, part in enumerate(batches(x, batch), 1):
        for module in _tracking(measuring):
            if not isinstance(module, _BatchNorm):
                module.momentum = 1 / number  # those count no batches themselves
        functional_call(measuring, fresh, (part,))  # which writes the statistics into ``fresh``
    return fresh
