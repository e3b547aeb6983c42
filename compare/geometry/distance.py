"""Distances between two networks: angles on the spheres, and Hamming distance on the hypercube."""

import math
from dataclasses import dataclass

import torch

from compare.geometry import sphere
from compare.geometry.path import Charted, points
from compare.params import Params, sign


@dataclass(frozen=True)
class Distances:
    """How far apart two networks are.

    Attributes:
        angle: sqrt of the sum over all spheres of the squared angle, radians.
        rms_angle: Root mean square of the angles, radians.
        spheres: Number of spheres (hidden units, and one for the last layer).
        euclidean: Joint L2 norm of the difference of all spherical coordinates as they are.
        hamming: Fraction of binarised weights whose signs differ; None where nothing is binarised.
    """

    angle: float
    rms_angle: float
    spheres: int
    euclidean: float
    hamming: float | None


def distances(graph: Charted, a: Params, b: Params) -> Distances:
    """All distances between ``a`` and ``b`` as they are; bring both to standard form first to remove scales.

    Args:
        graph: The network's coordinates.
        a: All parameters and buffers by name.
        b: Likewise.

    Returns:
        The distances.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit the network.
    """
    graph.check(a, "a")
    graph.check(b, "b")
    spherical = {name: kind for name, kind in graph.coordinates.items() if kind.kind != "linear"}
    pairs = [(points(a[name], kind), points(b[name], kind)) for name, kind in spherical.items()]
    theta = torch.cat([sphere.angles(p, q) for p, q in pairs])
    return Distances(
        angle=float(theta.norm()),
        rms_angle=float(theta.square().mean().sqrt()),
        spheres=len(theta),
        euclidean=math.sqrt(sum(float((p - q).square().sum()) for p, q in pairs)),
        hamming=_hamming(graph, a, b),
    )


def _hamming(graph: Charted, a: Params, b: Params) -> float | None:
    latent = [name for name, kind in graph.coordinates.items() if kind.binarised]
    if not latent:
        return None
    differing = sum(int((sign(a[name]) != sign(b[name])).sum()) for name in latent)
    return differing / sum(a[name].numel() for name in latent)
