"""Spheres, hypercubes, distances, paths and the barrier of an evaluated curve."""

from compare.geometry.barrier import Barrier, barrier
from compare.geometry.distance import Distances, distances
from compare.geometry.path import AntipodalError, Charted, Path, geodesic_path, linear_path

__all__ = [
    "AntipodalError",
    "Barrier",
    "Charted",
    "Distances",
    "Path",
    "barrier",
    "distances",
    "geodesic_path",
    "linear_path",
]
