"""Scalings: the standard form of full-precision networks, a point on a product of spheres."""

from compare.params import Params
from compare.symmetry import standard
from compare.symmetry.graph import Graph, Invariant, Normalisation


def standard_form(graph: Graph, params: Params, invariant: Invariant, normalisation: Normalisation = "kept") -> Params:
    """Remove positive scales, layer by layer from the input on, batch normalisation kept.

    For each hidden unit the incoming weights get unit L2 norm (the normalisation's statistics, or without one the bias
    and the consumers, take it up) and gamma becomes +1 (its size moves into the consumers). The last weight gets unit
    Frobenius norm. Source: [Toroids], arXiv 2202.03038, with batch normalisation kept instead of folded, so that its
    statistics can be re-estimated along a path.

    Args:
        graph: The network's symmetries.
        params: Parameters and buffers that fit it.
        invariant: See ``compare.standard_form``.
        normalisation: Likewise.

    Returns:
        New parameters: the same decisions, with ``"loss"`` the same outputs, to rounding.
    """
    wide = standard.widened(graph, standard.positive_gains(graph, params))
    wide = standard.unit_scales(graph, wide, normalisation)
    return standard.narrowed(graph, standard.unit_last(graph, wide, invariant, normalisation), params)
