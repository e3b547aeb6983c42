"""Error of a binary network against the fraction of its bits that are flipped: flatness, and what memory faults do."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from binarynets.integer.affine import IntegerError
from binarynets.integer.network import IntegerNetwork, to_integer
from binarynets.layers import latent_weights
from compare.evaluation.score import evaluate
from compare.params import Params, check, parameters
from compare.progress import progress
from compare.seeds import derived

Floats = npt.NDArray[np.float64]

FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True, eq=False)
class RobustnessCurve:
    """Errors of networks some of whose bits are flipped.

    Attributes:
        bits: Number of bits that flips are drawn from.
        flips: How many are flipped, int64 ``[fractions]``.
        draws: Fraction of misclassified samples of each network, ``[fractions, draws]``.
    """

    bits: int
    flips: npt.NDArray[np.int64]
    draws: Floats

    @property
    def mean(self) -> Floats:
        """Mean over draws ``[fractions]``."""
        return np.asarray(self.draws.mean(1))

    @property
    def standard_error(self) -> Floats:
        """Of that mean, ``[fractions]``; 0 where nothing is flipped, NaN for a single draw of something."""
        count = self.draws.shape[1]
        if count == 1:
            return np.where(self.flips == 0, 0.0, np.nan)
        return np.asarray(self.draws.std(1, ddof=1) / math.sqrt(count))


@dataclass(frozen=True, eq=False)
class Robustness:
    """Error against the fraction of flipped bits.

    Attributes:
        fractions: Fractions of bits.
        error: Fraction of samples that the network itself misclassifies.
        overall: Flips drawn from all bits.
        layers: Flips drawn from the bits of one weight, by its name; empty where not asked for.
        samples: Number of samples errors are counted on.
        seed: What the draws are derived from.
        evaluation: Whether networks were evaluated in integer form or as they are.
        reason: Why not in integer form, or None.
    """

    fractions: tuple[float, ...]
    error: float
    overall: RobustnessCurve
    layers: dict[str, RobustnessCurve]
    samples: int
    seed: int
    evaluation: Literal["integer", "float"]
    reason: str | None


@torch.no_grad()
def flip_robustness(
    model: nn.Module,
    params: Params,
    x: Tensor,
    y: Tensor,
    fractions: Sequence[float] = FRACTIONS,
    *,
    draws: int = 10,
    seed: int = 0,
    per_layer: bool = True,
    describe: str | None = None,
) -> Robustness:
    """The error after ``round(p * bits)`` different bits are flipped, drawn at random.

    Normalisation statistics stay as they are: this is what faults in memory do to a network that nobody calibrates
    again, and what the network's surroundings look like without it.

    Args:
        model: A network with binary weights; not changed, evaluated in evaluation mode.
        params: Its parameters and buffers by name.
        x: Inputs ``[samples, ...]``.
        y: Classes ``[samples]``.
        fractions: Each p, from 0 to 1.
        draws: Networks for each p.
        seed: Draws are derived from it; every one is independent of the others.
        per_layer: Whether to flip bits of each weight alone as well.
        describe: Text before the progress line on a terminal; None shows none.

    Returns:
        Errors with their spread.

    Raises:
        ValueError: For a fraction outside [0, 1], none at all, no draw, or samples without classes.
        ParameterError: If ``params`` does not fit the model.
        IntegerError: If the model has no binary weight.
    """
    _check(fractions, draws, x, y)
    check(params, parameters(model))
    found = _evaluator(model, params, x, y)
    pools = {"": list(found.sizes)} | ({name: [name] for name in found.sizes} if per_layer else {})
    counts = {pool: _flips(fractions, sum(found.sizes[name] for name in names)) for pool, names in pools.items()}
    measured = {pool: np.full((len(fractions), draws), found.error) for pool in pools}
    # Where nothing is flipped it is the network itself.
    tasks = [(pool, i, d) for pool in pools for i, count in enumerate(counts[pool]) if count for d in range(draws)]
    for pool, i, d in progress(tasks, describe, unit="network"):
        sizes = {name: found.sizes[name] for name in pools[pool]}
        drawn = _drawn(sizes, int(counts[pool][i]), derived(seed, "flip robustness", pool, float(fractions[i]), d))
        measured[pool][i, d] = found.flipped(drawn)
    curves = {
        pool: RobustnessCurve(sum(found.sizes[name] for name in names), counts[pool], measured[pool])
        for pool, names in pools.items()
    }
    return Robustness(
        fractions=tuple(map(float, fractions)),
        error=found.error,
        overall=curves.pop(""),
        layers=curves,
        samples=len(y),
        seed=seed,
        evaluation="float" if found.reason else "integer",
        reason=found.reason,
    )


def _check(fractions: Sequence[float], draws: int, x: Tensor, y: Tensor) -> None:
    if not len(fractions) or not all(0 <= p <= 1 for p in fractions):
        raise ValueError(f"fractions: expected at least one number, all from 0 to 1, got {list(fractions)}")
    if draws < 1:
        raise ValueError(f"draws: expected a positive number, got {draws}")
    if y.ndim != 1 or len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"y: expected one class for each of at least one sample, got x of shape {list(x.shape)} and y of shape "
            f"{list(y.shape)}"
        )
    if y.is_floating_point() or y.is_complex() or int(y.min()) < 0:
        raise ValueError(f"y: expected class indices from 0 up, got {y.dtype} from {y.min().item()}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite numbers, got NaN or infinity")


def _flips(fractions: Sequence[float], bits: int) -> npt.NDArray[np.int64]:
    return np.array([round(p * bits) for p in fractions], np.int64)


@dataclass(frozen=True, eq=False)
class _Samples:
    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """How networks are evaluated.

    Attributes:
        sizes: Bits of each weight by name.
        error: Of the network itself.
        flipped: Error with the bits flipped that are True in the tensors by name.
        reason: Why the network is not evaluated in integer form, or None.
    """

    sizes: dict[str, int]
    error: float
    flipped: Callable[[Mapping[str, Tensor]], float]
    reason: str | None


def _evaluator(model: nn.Module, params: Params, x: Tensor, y: Tensor) -> _Evaluator:
    try:
        network = to_integer(model, params)
        return _of_integers(network, x, y)
    except IntegerError as refusal:
        return _of_floats(model, params, _Samples(x, y), str(refusal))


def _of_integers(network: IntegerNetwork, x: Tensor, y: Tensor) -> _Evaluator:
    def flipped(drawn: Mapping[str, Tensor]) -> float:
        bits = {name: own ^ drawn[name].view_as(own) if name in drawn else own for name, own in network.bits.items()}
        return replace(network, bits=bits).errors(x, y) / len(y)

    sizes = {name: bits.numel() for name, bits in network.bits.items()}
    return _Evaluator(sizes, flipped({}), flipped, None)


def _of_floats(model: nn.Module, params: Params, samples: _Samples, reason: str) -> _Evaluator:
    working = copy.deepcopy(model).eval()
    sizes = {name: weight.numel() for name, weight in latent_weights(model).items()}
    if not sizes:
        raise IntegerError(
            "model: expected at least one layer with binary weights, such as BinaryLinear, got none to flip bits of"
        )

    def flipped(drawn: Mapping[str, Tensor]) -> float:
        changed = {name: _negated(params[name], where.view_as(params[name])) for name, where in drawn.items()}
        return evaluate(working, {**params, **changed}, samples).error

    return _Evaluator(sizes, flipped({}), flipped, reason)


def _negated(latent: Tensor, where: Tensor) -> Tensor:
    # The sign of 0 is +1 and that of -0 too, so its opposite takes a number.
    opposite = torch.where(latent == 0, -torch.finfo(latent.dtype).tiny, -latent)
    return torch.where(where.to(latent.device), opposite, latent)


def _drawn(sizes: Mapping[str, int], count: int, seed: int) -> dict[str, Tensor]:
    """``count`` different bits of all, drawn without replacement, as flat masks by name."""
    order = torch.randperm(sum(sizes.values()), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:count]] = True
    return dict(zip(sizes, torch.split(mask, list(sizes.values())), strict=True))
