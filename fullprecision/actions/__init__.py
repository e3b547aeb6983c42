"""Actions of continuous groups on a block of hidden units: exact ones, and those that are exact on a batch alone."""

from fullprecision.actions.dependent import METHODS, Acted, Method, act_on_batch, element_near_identity
from fullprecision.actions.exact import act_linearly, scaling
from fullprecision.actions.hidden import ActionError, Hidden, hidden_units
from fullprecision.actions.orbit import Orbit, orbit

__all__ = [
    "METHODS",
    "Acted",
    "ActionError",
    "Hidden",
    "Method",
    "Orbit",
    "act_linearly",
    "act_on_batch",
    "element_near_identity",
    "hidden_units",
    "orbit",
    "scaling",
]
