"""Networks as points of a plane whose distances resemble theirs."""

from dataclasses import dataclass

import numpy as np
from sklearn.manifold import smacof

from compare.relations.bootstrap import Floats, RelationError

STARTS = 8


@dataclass(frozen=True)
class Embedding:
    """A multidimensional scaling in two dimensions.

    Attributes:
        coordinates: Of each network ``[networks, 2]``, in the unit of the distances: centred, the direction in which
            they spread most first, and the point farthest out in each direction on the positive side.
        stress: sqrt(sum of squared differences from the distances / sum of squared distances), over pairs.
        equidistant: The stress at best if all distances were equal. A ``stress`` near it says that the plane shows
            hardly anything of the distances.
    """

    coordinates: Floats
    stress: float
    equidistant: float


def embed(distances: Floats, *, seed: int = 0, starts: int = STARTS) -> Embedding:
    """Metric multidimensional scaling (SMACOF) of a distance matrix, the best of several seeded starts.

    Args:
        distances: Symmetric, ``[networks, networks]``, not negative, 0 on the diagonal; at least 3 networks.
        seed: Of the starts.
        starts: Random starting points.

    Returns:
        Points and how well they fit.

    Raises:
        RelationError: If the matrix is no such matrix, or an entry is NaN.
    """
    _check(distances)
    points = _scaled(distances, seed, starts)
    equal = 1 - np.eye(len(distances))
    return Embedding(_oriented(points), _stress(points, distances), _stress(_scaled(equal, seed, starts), equal))


def _check(distances: Floats) -> None:
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 3:
        raise RelationError(f"expected a square matrix for at least 3 networks, got shape {distances.shape}")
    missing = int(np.isnan(distances).sum())
    if missing:
        raise RelationError(
            f"expected a distance for each pair, {missing // 2} of {len(distances) * (len(distances) - 1) // 2} are "
            "missing: measure them, or leave their networks out"
        )
    # Written so that infinite entries are refused, too.
    if not (np.isfinite(distances).all() and np.array_equal(distances, distances.T) and (distances >= 0).all()):
        raise RelationError("expected a symmetric matrix of finite distances that are not negative")
    if distances.diagonal().any() or not distances.any():
        raise RelationError("expected distances of 0 on the diagonal, and not all 0")


def _scaled(distances: Floats, seed: int, starts: int) -> Floats:
    # scikit-learn's MDS is this function under names of arguments that its versions change.
    points: Floats = smacof(
        distances, n_components=2, n_init=starts, max_iter=300, eps=1e-6, random_state=seed, normalized_stress=False
    )[0]
    return points


def _stress(points: Floats, distances: Floats) -> float:
    shown = np.linalg.norm(points[:, None] - points[None], axis=2)
    return float(np.sqrt(((shown - distances) ** 2).sum() / (distances**2).sum()))


def _oriented(points: Floats) -> Floats:
    """Turned and mirrored by a rule: distances alone say nothing of either."""
    centred = points - points.mean(0)
    turned = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    farthest = turned[np.abs(turned).argmax(0), [0, 1]]
    oriented: Floats = turned * np.where(farthest < 0, -1.0, 1.0)
    return oriented
