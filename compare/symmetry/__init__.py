"""Coupling graphs traced from networks, elements of their symmetry groups, and the matching of two networks."""

from compare.symmetry.certificate import certify
from compare.symmetry.element import Element, identity, random_element
from compare.symmetry.graph import Block, Generator, Graph, Invariant, Layer, Norm, Normalisation, SymmetryError, Tie
from compare.symmetry.match import Match, match
from compare.symmetry.standard import dead_units, standard_form
from compare.symmetry.trace import trace

__all__ = [
    "Block",
    "Element",
    "Generator",
    "Graph",
    "Invariant",
    "Layer",
    "Match",
    "Norm",
    "Normalisation",
    "SymmetryError",
    "Tie",
    "certify",
    "dead_units",
    "identity",
    "match",
    "random_element",
    "standard_form",
    "trace",
]
