"""Exact error counts and losses of networks, with statistics as they are or re-estimated, and of networks near them."""

from compare.evaluation.attack import Attacked, InputRange, fgsm, input_range, pgd
from compare.evaluation.curve import Curve, error_curve, error_curves
from compare.evaluation.energy import EnergyError, LocalEnergy, local_energy
from compare.evaluation.ensemble import Vote, majority, vote
from compare.evaluation.evaluator import Evaluation, Evaluator, Plain
from compare.evaluation.hessian import Curvature, HessianError, curvature
from compare.evaluation.plane import ErrorPlane, error_plane
from compare.evaluation.score import Samples, Score, evaluate
from compare.evaluation.sharpness import Sharpness, SharpnessError, flip_sharpness, sharpness
from compare.evaluation.statistics import StatisticsError, re_estimated

__all__ = [
    "Attacked",
    "Curvature",
    "Curve",
    "EnergyError",
    "ErrorPlane",
    "Evaluation",
    "Evaluator",
    "HessianError",
    "InputRange",
    "LocalEnergy",
    "Plain",
    "Samples",
    "Score",
    "Sharpness",
    "SharpnessError",
    "StatisticsError",
    "Vote",
    "curvature",
    "error_curve",
    "error_curves",
    "error_plane",
    "evaluate",
    "fgsm",
    "flip_sharpness",
    "input_range",
    "local_energy",
    "majority",
    "pgd",
    "re_estimated",
    "sharpness",
    "vote",
]
