"""Quantisers: the sign function, each with a gradient of its own in place of the true one, which is zero.

Every value is ``compare.params.sign(x)``, +1 or -1 with sign(0) = +1, times a scale where the docstring says so.
NaN stays NaN, so that it is seen. All work under ``torch.func`` and ``torch.compile``.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from compare.params import sign

Quantiser: TypeAlias = Callable[[Tensor], Tensor]


def ste_sign(x: Tensor, clip: float | None = 1.0) -> Tensor:
    r"""Sign with the straight-through estimator.

    Forward: :math:`q(x) = 1` if :math:`x \ge 0`, else :math:`-1`.
    Gradient: :math:`1` if :math:`|x| \le` ``clip``, else :math:`0`; the edge is inside.

    Args:
        x: Floating-point tensor of any shape.
        clip: Largest magnitude through which the gradient passes, None for no limit.

    Returns:
        Tensor of +1 and -1 in the shape and type of ``x``. Without a clip, infinity gives NaN.

    Raises:
        ValueError: If ``clip`` is not positive and finite.

    References:
        Hubara, Courbariaux et al., Binarized Neural Networks, NeurIPS 2016, arXiv 1602.02830.

    Example:
        >>> x = torch.tensor([-1.5, -1.0, 0.0, 2.0], requires_grad=True)
        >>> ste_sign(x)
        tensor([-1., -1.,  1.,  1.], grad_fn=<AddBackward0>)
        >>> ste_sign(x).sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 0.])
    """
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip: expected a positive finite number, or None for no limit, got {clip}")
    return _sign_with_gradient_of(x if clip is None else _clipped(x, clip), x)


def approx_sign(x: Tensor) -> Tensor:
    r"""Sign with the gradient of a piecewise quadratic approximation.

    Forward: :math:`q(x) = 1` if :math:`x \ge 0`, else :math:`-1`.
    Gradient: :math:`2 - 2|x|` if :math:`|x| \le 1`, else :math:`0`.

    Args:
        x: Floating-point tensor of any shape.

    Returns:
        Tensor of +1 and -1 in the shape and type of ``x``.

    References:
        Liu et al., Bi-Real Net, ECCV 2018, arXiv 1808.00278.

    Example:
        >>> x = torch.tensor([-0.75, 0.0, 2.0], requires_grad=True)
        >>> approx_sign(x).sum().backward()
        >>> x.grad
        tensor([0.5000, 2.0000, 0.0000])
    """
    u = F.hardtanh(x)
    return _sign_with_gradient_of(2 * u - u * u.abs(), x)


def swish_sign(x: Tensor, beta: float = 5.0) -> Tensor:
    r"""Sign with the gradient of the SignSwish function.

    Forward: :math:`q(x) = 1` if :math:`x \ge 0`, else :math:`-1`.
    Gradient: :math:`\beta (2 - \beta x \tanh(\beta x / 2)) / (1 + \cosh(\beta x))`, that of
    :math:`2 \sigma(\beta x) (1 + \beta x (1 - \sigma(\beta x))) - 1`.

    Args:
        x: Floating-point tensor of any shape.
        beta: Steepness; the gradient at 0.

    Returns:
        Tensor of +1 and -1 in the shape and type of ``x``.

    Raises:
        ValueError: If ``beta`` is not positive and finite.

    References:
        Darabi et al., BNN+: Improved Binary Network Training, 2018, arXiv 1812.11800.

    Example:
        >>> x = torch.tensor([0.0, 100.0], requires_grad=True)
        >>> swish_sign(x).sum().backward()
        >>> x.grad
        tensor([5., 0.])
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta: expected a positive finite number, got {beta}")
    # The same function with h = beta x / 2 and tanh in place of sigma. Beyond |h| = 20 tanh is 1 and the gradient 0
    # even in float64; the clip keeps a beta x that overflows from making infinity times 0.
    h = F.hardtanh(x * (beta / 2), -20.0, 20.0)
    tanh = torch.tanh(h)
    return _sign_with_gradient_of(tanh + h * (1 - tanh * tanh), x)


def magnitude_aware_sign(w: Tensor) -> Tensor:
    r"""Sign of a weight, times the mean magnitude of its output channel.

    Forward: :math:`q(w)_{k \ldots} = a_k` if :math:`w_{k \ldots} \ge 0`, else :math:`-a_k`, where :math:`a_k` is the
    mean of :math:`|w_k|`.
    Gradient: :math:`a_k` if :math:`|w| \le 1`, else :math:`0`; none passes through the mean.

    Args:
        w: Floating-point weight ``[out, in, ...]``.

    Returns:
        Tensor in the shape and type of ``w`` with one magnitude for each output channel.

    Raises:
        ValueError: If ``w`` has fewer than two axes.

    References:
        Liu et al., Bi-Real Net, ECCV 2018, arXiv 1808.00278.

    Example:
        >>> magnitude_aware_sign(torch.tensor([[0.5, -1.5], [0.0, 4.0]]))
        tensor([[ 1., -1.],
                [ 2.,  2.]])
    """
    return _channel_magnitude(w) * ste_sign(w)


def annealed_sign(x: Tensor, progress: float) -> Tensor:
    r"""Sign with the gradient of a hyperbolic tangent that steepens in the course of training.

    Forward: :math:`q(x) = 1` if :math:`x \ge 0`, else :math:`-1`.
    Gradient: :math:`k t (1 - \tanh^2(t x))`, that of :math:`k \tanh(t x)`, with :math:`t = 10^{2 p - 1}` (from 0.1 to
    10), :math:`k = \max(1/t, 1)` and :math:`p` the ``progress``: at first almost the identity's, at last almost the
    sign's.

    In a layer, set it anew each epoch: ``layer.quantiser = partial(annealed_sign, progress=epoch / epochs)``.

    Args:
        x: Floating-point tensor of any shape.
        progress: Fraction of the training done, from 0 to 1.

    Returns:
        Tensor of +1 and -1 in the shape and type of ``x``.

    Raises:
        ValueError: If ``progress`` is outside 0..1.

    References:
        Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks (IR-Net, its error
        decay estimator), CVPR 2020, arXiv 1909.10788.

    Example:
        >>> x = torch.tensor([0.0], requires_grad=True)
        >>> [torch.autograd.grad(annealed_sign(x, p), x)[0].item() for p in (0.0, 0.5, 1.0)]
        [1.0, 1.0, 10.0]
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected the fraction of training done, from 0 to 1, got {progress}")
    t = 10.0 ** (2 * progress - 1)
    return _sign_with_gradient_of(max(1 / t, 1.0) * torch.tanh(t * x), x)


def is_sign(quantiser: Quantiser) -> bool:
    """Whether a quantiser gives +1 and -1 by sign alone, without a scale or a dead zone.

    It is probed on numbers of all sizes: the weights at hand may hide what it does elsewhere.

    Example:
        >>> is_sign(ste_sign), is_sign(magnitude_aware_sign)
        (True, False)
    """
    sizes = torch.logspace(-37, 4, 300)
    probe = torch.cat([-sizes, torch.zeros(1), sizes]).view(1, -1)
    return torch.equal(quantiser(probe).detach(), sign(probe))


def _sign_with_gradient_of(surrogate: Tensor, x: Tensor) -> Tensor:
    # The difference is exactly 0 for numbers and NaN for NaN, which sign alone would hide.
    return sign(x.detach()) + (surrogate - surrogate.detach())


# Both are wrapped because torch.fx knows neither type nor number of axes while it traces.
@fx.wrap
def _clipped(x: Tensor, clip: float) -> Tensor:
    # hardtanh's gradient excludes its edge, so the next number is taken. It is one pass over the data, where a mask
    # (clamp's gradient, torch.where) is several slow ones.
    edge = _next_above(clip, torch.finfo(x.dtype).eps)
    return F.hardtanh(x, -edge, edge)


@fx.wrap
def _channel_magnitude(w: Tensor) -> Tensor:
    if w.ndim < 2:
        raise ValueError(f"w: expected a weight [out, in, ...] of at least two axes, got shape {list(w.shape)}")
    return w.detach().abs().mean(tuple(range(1, w.ndim)), keepdim=True)


def _next_above(x: float, eps: float) -> float:
    # By arithmetic instead of torch.nextafter, which would break the graph of torch.compile.
    spacing = _spacing(x, eps)
    rounded = round(x / spacing) * spacing
    return rounded + _spacing(rounded, eps)


def _spacing(x: float, eps: float) -> float:
    return math.ldexp(eps, math.frexp(x)[1] - 1)
