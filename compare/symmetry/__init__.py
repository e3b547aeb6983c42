"""Coupling graphs traced from networks, elements of their symmetry groups, and the matching of two networks."""

from compare.symmetry.activations import ActivationMatch, match_activations
from compare.symmetry.certificate import certify
from compare.symmetry.element import Element, identity, random_element
from compare.symmetry.graph import Block, Generator, Graph, Invariant, Layer, Norm, Normalisation, SymmetryError, Tie
from compare.symmetry.match import Match, match
from compare.symmetry.optimiser import apply_to_optimiser, owned_names
from compare.symmetry.partial import PartialMatch, embedded, match_partial
from compare.symmetry.representative import duplicate_units
from compare.symmetry.several import Matches, match_many
from compare.symmetry.standard import dead_units, standard_form
from compare.symmetry.storage import load_element, save_element
from compare.symmetry.trace import trace

__all__ = [
    "ActivationMatch",
    "Block",
    "Element",
    "Generator",
    "Graph",
    "Invariant",
    "Layer",
    "Match",
    "Matches",
    "Norm",
    "Normalisation",
    "PartialMatch",
    "SymmetryError",
    "Tie",
    "apply_to_optimiser",
    "certify",
    "dead_units",
    "duplicate_units",
    "embedded",
    "identity",
    "load_element",
    "match",
    "match_activations",
    "match_many",
    "match_partial",
    "owned_names",
    "random_element",
    "save_element",
    "standard_form",
    "trace",
]
