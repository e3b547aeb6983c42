"""Spheres, hypercubes, distances, paths, planes and the barrier of an evaluated curve."""

from compare.geometry.barrier import Barrier, barrier
from compare.geometry.bend import BentPath, Lengths, PiecesError, bent_path, lengths
from compare.geometry.distance import Distances, distances
from compare.geometry.path import PATHS, AntipodalError, Charted, Path, geodesic_path, linear_path
from compare.geometry.plane import Plane, PlaneError, plane

__all__ = [
    "PATHS",
    "AntipodalError",
    "Barrier",
    "BentPath",
    "Charted",
    "Distances",
    "Lengths",
    "Path",
    "PiecesError",
    "Plane",
    "PlaneError",
    "barrier",
    "bent_path",
    "distances",
    "geodesic_path",
    "lengths",
    "linear_path",
    "plane",
]
