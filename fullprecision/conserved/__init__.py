"""What gradient flow conserves: one quantity for each continuous symmetry; how far finite steps move it."""

from fullprecision.conserved.activations import KNOWN, Activation, Elementwise, Linear, Radial
from fullprecision.conserved.descent import DriftLaw, drift_law, gradient_descent
from fullprecision.conserved.errors import ConservedError
from fullprecision.conserved.find import conserved_quantities, orthonormal
from fullprecision.conserved.initial import SCHEMES, Moments, Scheme, SchemeName, drawn, expected
from fullprecision.conserved.log import Log
from fullprecision.conserved.quantity import Quantity, relative_drift

__all__ = [
    "KNOWN",
    "SCHEMES",
    "Activation",
    "ConservedError",
    "DriftLaw",
    "Elementwise",
    "Linear",
    "Log",
    "Moments",
    "Quantity",
    "Radial",
    "Scheme",
    "SchemeName",
    "conserved_quantities",
    "drawn",
    "drift_law",
    "expected",
    "gradient_descent",
    "orthonormal",
    "relative_drift",
]
