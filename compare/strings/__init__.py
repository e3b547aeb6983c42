"""Strings of networks below a level of energy: dynamic string sampling [Topology], arXiv 1611.01540."""

from compare.strings.landscape import Landscape, Lowered, Slope, StringError
from compare.strings.networks import Energy, NetworkLandscape
from compare.strings.sampling import sample_string, sample_strings
from compare.strings.settings import Lowering, StringSettings
from compare.strings.store import StoreError
from compare.strings.string import NORM, Bead, Cost, String, joint_length, recorded

__all__ = [
    "NORM",
    "Bead",
    "Cost",
    "Energy",
    "Landscape",
    "Lowered",
    "Lowering",
    "NetworkLandscape",
    "Slope",
    "StoreError",
    "String",
    "StringError",
    "StringSettings",
    "joint_length",
    "recorded",
    "sample_string",
    "sample_strings",
]
