"""Points on spheres, one in each row of a matrix ``[points, dimension]``: angles and geodesics."""

import torch
from torch import Tensor

STRAIGHT = 1e-7
"""Below this angle (radians) a geodesic and the straight line agree to float64 rounding."""

ANTIPODAL = 1e-6
"""Closer than this to pi (radians) the geodesic between two points is not determined."""


def norms(points: Tensor) -> Tensor:
    """L2 norm of each row, ``[points, 1]``."""
    size: Tensor = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    return size


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Angle between rows of the same index, in radians, ``[points]``; 0 where a row is 0.

    Uses 2 atan2(|u - v|, |u + v|) with unit vectors u and v (Kahan), which is exactly 0 for equal rows and accurate
    near 0 and pi, where arccos of the inner product loses half its digits.
    """
    u, v = unit(a), unit(b)
    theta = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    nothing = (norms(a) == 0) | (norms(b) == 0)
    return torch.where(nothing[:, 0], 0.0, theta)


def unit(points: Tensor) -> Tensor:
    """Rows divided by their norms; rows of 0 stay."""
    size = norms(points)
    return points / torch.where(size == 0, 1.0, size)


def slerp(a: Tensor, b: Tensor, theta: Tensor, t: float) -> Tensor:
    """The geodesic from a to b at t: directions move at constant angular speed, norms linearly.

    [sin((1 - t) theta) a + sin(t theta) b] / sin(theta) for unit rows, the straight line where theta is tiny.

    Args:
        a: Start ``[points, dimension]``.
        b: End, likewise.
        theta: ``angles(a, b)``, radians.
        t: Between 0 and 1.

    Returns:
        ``[points, dimension]``.
    """
    straight = (theta < STRAIGHT)[:, None]
    angle = torch.where(straight[:, 0], 1.0, theta)[:, None]
    direction = (torch.sin((1 - t) * angle) * unit(a) + torch.sin(t * angle) * unit(b)) / torch.sin(angle)
    return torch.where(straight, torch.lerp(a, b, t), direction * torch.lerp(norms(a), norms(b), t))


def slerp_coefficients(a: Tensor, b: Tensor, theta: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Numbers alpha and beta for each row with which ``slerp`` is ``alpha a + beta b``, to rounding.

    Args:
        a: Start ``[points, dimension]``.
        b: End, likewise.
        theta: ``angles(a, b)``, radians.
        t: Between 0 and 1.

    Returns:
        Both, ``[points]``.
    """
    straight = theta < STRAIGHT
    angle = torch.where(straight, 1.0, theta)
    of_a, of_b = (norms(end)[:, 0] for end in (a, b))
    size = torch.lerp(of_a, of_b, t) / torch.sin(angle)
    # The rows themselves are not of unit norm.
    alpha = torch.sin((1 - t) * angle) * size / torch.where(straight, 1.0, of_a)
    beta = torch.sin(t * angle) * size / torch.where(straight, 1.0, of_b)
    return torch.where(straight, 1 - t, alpha), torch.where(straight, t, beta)
