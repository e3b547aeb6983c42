"""Scalings: the standard form of full-precision networks, a point on a product of spheres."""

from compare.params import Params
from compare.symmetry import standard
from compare.symmetry.graph import Graph, Invariant


def standard_form(graph: Graph, params: Params, invariant: Invariant) -> Params:
    """Remove positive scales, layer by layer from the input on, batch normalisation kept.

    For each hidden unit the incoming weights get unit L2 norm (the normalisation's statistics, or without one the bias
    and the consumers, take it up) and gamma becomes +1 (its size moves into the consumers). The last weight gets unit
    Frobenius norm. Source: [Toroids], arXiv 2202.03038, with batch normalisation kept instead of folded, so that its
    statistics can be re-estimated along a path.

    Args:
        graph: The network's symmetries.
        params: Parameters and buffers that fit it.
        invariant: See ``compare.standard_form``.

    Returns:
        New parameters: the same decisions, with ``"loss"`` the same outputs, to rounding.
    """
    wide = standard.widened(graph, params)
    for layer in graph.layers:
        wide |= standard.positive_gains(graph, layer, wide, dtype=params[layer.weight].dtype)
        if layer.block is None:
            wide |= standard.unit_last(graph, layer, wide, invariant)
        else:
            wide |= standard.unit_rows(graph, layer, wide)
            wide |= standard.unit_gains(graph, layer, wide)
    return standard.narrowed(graph, wide, params)
