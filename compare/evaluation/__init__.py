"""Exact error counts and losses of networks, with statistics as they are or re-estimated, and of networks near them."""

from compare.evaluation.curve import Curve, error_curve, error_curves
from compare.evaluation.energy import EnergyError, LocalEnergy, local_energy
from compare.evaluation.evaluator import Evaluation, Evaluator, Plain
from compare.evaluation.hessian import Curvature, HessianError, curvature
from compare.evaluation.plane import ErrorPlane, error_plane
from compare.evaluation.score import Samples, Score, evaluate
from compare.evaluation.sharpness import Sharpness, SharpnessError, flip_sharpness, sharpness
from compare.evaluation.statistics import StatisticsError, re_estimated

__all__ = [
    "Curvature",
    "Curve",
    "EnergyError",
    "ErrorPlane",
    "Evaluation",
    "Evaluator",
    "HessianError",
    "LocalEnergy",
    "Plain",
    "Samples",
    "Score",
    "Sharpness",
    "SharpnessError",
    "StatisticsError",
    "curvature",
    "error_curve",
    "error_curves",
    "error_plane",
    "evaluate",
    "flip_sharpness",
    "local_energy",
    "re_estimated",
    "sharpness",
]
