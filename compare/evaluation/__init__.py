"""Exact error counts and losses of networks, with normalisation statistics as they are or re-estimated."""

from compare.evaluation.curve import Curve, error_curve, error_curves
from compare.evaluation.score import Samples, Score, evaluate
from compare.evaluation.statistics import StatisticsError, re_estimated

__all__ = [
    "Curve",
    "Samples",
    "Score",
    "StatisticsError",
    "error_curve",
    "error_curves",
    "evaluate",
    "re_estimated",
]
