"""Curvature of the loss around one network: largest eigenvalues and trace of its Hessian."""

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

from compare.errors import CompareError
from compare.evaluation.energy import check_names
from compare.evaluation.score import BATCH, Samples
from compare.params import Params, call
from compare.seeds import derived

Coordinates = Literal["weights", "relative"]
Floats: TypeAlias = npt.NDArray[np.float64]
_Product: TypeAlias = Callable[[Floats], Floats]

PROBES = 20


class HessianError(CompareError, ValueError):
    """A Hessian that makes no sense as asked for, or whose eigenvalues are not found."""


@dataclass(frozen=True)
class Curvature:
    """The Hessian of the mean cross-entropy, in part of the parameters.

    Attributes:
        eigenvalues: The largest ones, largest first, nats per squared unit of the coordinates.
        residuals: ``|H v - lambda v|`` for each eigenvalue and its unit vector: how far it may be off.
        trace: Mean of the probes' estimates.
        trace_error: Standard error of the trace over the probes: their standard deviation / sqrt(probes).
        probes: Number of random vectors that the trace is estimated from.
        parameters: Number of rows of the Hessian.
        samples: Number of samples the loss is a mean over.
        coordinates: ``"weights"`` or ``"relative"``, see ``curvature``.
        surrogate: A straight-through gradient stands in for the true one.
    """

    eigenvalues: tuple[float, ...]
    residuals: tuple[float, ...]
    trace: float
    trace_error: float
    probes: int
    parameters: int
    samples: int
    coordinates: Coordinates
    surrogate: bool


def curvature(
    model: nn.Module,
    params: Params,
    samples: Samples,
    *,
    names: Iterable[str],
    surrogate: bool,
    count: int = 1,
    probes: int = PROBES,
    coordinates: Coordinates = "weights",
    tolerance: float = 1e-4,
    seed: int = 0,
    batch: int = BATCH,
) -> Curvature:
    """Largest eigenvalues (Lanczos) and trace (Hutchinson) of the Hessian of the mean cross-entropy.

    The Hessian is never formed: only its products with vectors are, by differentiating twice. Normalisation uses its
    running statistics.

    Eigenvalues and trace change when a row of weights is multiplied and the next layer, or a normalisation, undoes it:
    compare networks in standard form, or choose ``coordinates="relative"``. These are the z in ``w (1 + z)``, those of
    ``local_energy``, which no such factor changes; sigma squared times half the trace is then what noise of a small
    sigma adds to the loss, in the mean.

    Where a straight-through gradient stands in, the true Hessian is zero or does not exist. What differentiating twice
    gives there is the Hessian of a smooth network that agrees with this one only here: each step function keeps its
    value and takes all its derivatives from the quantiser's surrogate (for ``ste_sign``: slope 1 or 0, no curvature).
    The result is labelled ``surrogate``, and says how the gradient that training follows would change if no bit
    flipped. It cannot be compared with a full-precision network's. For binary weights pass
    ``family.effective(model, params)`` of the standard form: surrogates see the sizes of latents, in both coordinates.

    Args:
        model: The network; not changed, evaluated in evaluation mode. A Brevitas model itself, not what stands for it.
        params: Parameters and buffers by name; not changed.
        samples: Inputs and classes, for instance a part of ``data.train``.
        names: Tensors of ``params`` to differentiate by, for instance the weights of ``graph.layers``.
        surrogate: Whether some function between these and the loss is a step function with a gradient of its own:
            ``graph.straight_through``.
        count: Number of eigenvalues.
        probes: Number of random sign vectors for the trace, at least 2.
        coordinates: ``"weights"``: the entries themselves; ``"relative"``: fractions of each entry.
        tolerance: Relative accuracy of the eigenvalues at which Lanczos stops.
        seed: Of the probes and of the first Lanczos vector.
        batch: Samples at a time; changes memory and speed, and results by rounding alone.

    Returns:
        Eigenvalues and trace, each with what it may be off.

    Raises:
        HessianError: For arguments that make no sense, if no gradient reaches the tensors, or if Lanczos does not
            converge.

    References:
        Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989. Ghorbani, Krishnan, Xiao, An
        investigation into neural net optimization via Hessian eigenvalue density, ICML 2019, arXiv 1901.10159.
    """
    chosen = sorted(set(names))
    _check(params, samples, chosen, coordinates, count, probes, tolerance)
    product = _hessian_product(copy.deepcopy(model).eval(), params, samples, chosen, coordinates, batch)
    size = sum(params[name].numel() for name in chosen)
    # Of a seed of their own, as numbers from the plain one correlate with weights that were drawn with it.
    rng = np.random.default_rng(derived(seed, "hessian"))
    values, vectors = _largest(product, size, count, tolerance, rng)
    residuals = [float(np.linalg.norm(product(v) - x * v)) for x, v in zip(values, vectors.T, strict=True)]
    estimates = [float(probe @ product(probe)) for probe in (rng.choice([-1.0, 1.0], size) for _ in range(probes))]
    return Curvature(
        eigenvalues=tuple(map(float, values)),
        residuals=tuple(residuals),
        trace=statistics.fmean(estimates),
        trace_error=statistics.stdev(estimates) / math.sqrt(probes),
        probes=probes,
        parameters=size,
        samples=len(samples.y),
        coordinates=coordinates,
        surrogate=surrogate,
    )


def _check(
    params: Params,
    samples: Samples,
    names: Sequence[str],
    coordinates: str,
    count: int,
    probes: int,
    tolerance: float,
) -> None:
    if coordinates not in ("weights", "relative"):
        raise HessianError(f"coordinates: expected 'weights' or 'relative', got {coordinates!r}")
    check_names(params, names, HessianError)
    if len(samples.y) == 0:
        raise HessianError("samples: expected at least one, got none")
    size = sum(params[name].numel() for name in names)
    if not 1 <= count < size:
        raise HessianError(f"count: expected 1 to {size - 1} eigenvalues of {size} parameters, got {count}")
    if probes < 2:
        raise HessianError(f"probes: expected at least 2, for a standard error, got {probes}")
    if not 0 < tolerance < 1:
        raise HessianError(f"tolerance: expected a number between 0 and 1, got {tolerance}")


def _hessian_product(
    model: nn.Module, params: Params, samples: Samples, names: Sequence[str], coordinates: Coordinates, batch: int
) -> _Product:
    """The function from v to H v on vectors of all entries of the tensors ``names``, one after the other."""
    parts = list(zip(torch.split(samples.x, batch), torch.split(samples.y, batch), strict=True))
    point = [params[name].detach().clone().requires_grad_() for name in names]
    scale = _joined([params[name] for name in names]) if coordinates == "relative" else 1.0

    def product(vector: Floats) -> Floats:
        # eigsh also passes columns.
        direction = _split(scale * vector.reshape(-1), point)
        total = np.zeros(vector.size)
        for x, y in parts:
            loss = F.cross_entropy(call(model, {**params, **dict(zip(names, point, strict=True))}, x), y)
            total += len(y) / len(samples.y) * _joined(_twice(loss, point, direction))
        return np.asarray(scale * total)

    return product


def _twice(loss: Tensor, point: Sequence[Tensor], direction: Sequence[Tensor]) -> Sequence[Tensor]:
    """The derivative of <gradient, direction>, which is the Hessian times the direction."""
    if not loss.requires_grad:
        raise HessianError(
            "no gradient reaches the tensors in names: expected some that the loss depends on, through functions that "
            "have a gradient (a quantiser may have none)"
        )
    gradient = torch.autograd.grad(loss, point, create_graph=True, materialize_grads=True)
    along = sum((g * v).sum() for g, v in zip(gradient, direction, strict=True))
    assert isinstance(along, Tensor)
    if not along.requires_grad:  # the gradient is the same everywhere
        return [torch.zeros_like(tensor) for tensor in point]
    return torch.autograd.grad(along, point, materialize_grads=True)


def _joined(tensors: Sequence[Tensor]) -> Floats:
    return np.asarray(torch.cat([tensor.detach().flatten().double() for tensor in tensors]).cpu().numpy())


def _split(vector: Floats, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = torch.split(torch.from_numpy(vector), [tensor.numel() for tensor in like])
    return [piece.view_as(tensor).to(tensor) for piece, tensor in zip(pieces, like, strict=True)]


def _largest(
    product: _Product, size: int, count: int, tolerance: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """The largest eigenvalues, largest first, and their vectors ``[size, count]``."""
    # SciPy gives its operators no types.
    operator: Any = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, count, which="LA", tol=tolerance, v0=rng.standard_normal(size))
    except ArpackError as error:
        raise HessianError(
            f"the {count} largest of {size} eigenvalues were not found ({error}): ask for fewer, or raise tolerance; "
            "a loss without any curvature here has none to find"
        ) from error
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]
