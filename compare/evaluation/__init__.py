"""Exact error counts and losses of networks, with statistics as they are or re-estimated, and of networks near them."""

from compare.evaluation.curve import Curve, error_curve, error_curves
from compare.evaluation.energy import EnergyError, LocalEnergy, local_energy
from compare.evaluation.score import Samples, Score, evaluate
from compare.evaluation.statistics import StatisticsError, re_estimated

__all__ = [
    "Curve",
    "EnergyError",
    "LocalEnergy",
    "Samples",
    "Score",
    "StatisticsError",
    "error_curve",
    "error_curves",
    "evaluate",
    "local_energy",
    "re_estimated",
]
