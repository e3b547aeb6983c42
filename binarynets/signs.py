"""Signs and thresholds: the standard form of binary networks."""

from compare.params import Params
from compare.symmetry import standard
from compare.symmetry.graph import Graph, Invariant, Normalisation, SymmetryError
from compare.symmetry.thresholds import between_integers


def standard_form(graph: Graph, params: Params, invariant: Invariant, normalisation: Normalisation = "kept") -> Params:
    """Fix signs of gains and scales of latents, and put thresholds between the integers they can meet.

    Latent scale does not change a binarised weight, so rows get unit L2 norm only to weigh layers and units alike.
    Gains become positive by negating the unit where that is exact, then +1, since sign(d x) = sign(x) for d > 0.
    Where pre-activations are integers, the threshold tau of 'x >= tau' becomes k - 1/2, with k the smallest integer
    that passed it: no pre-activation can then be exactly at the threshold, and rounding plays no part.

    Args:
        graph: The network's symmetries.
        params: Parameters and buffers that fit it.
        invariant: See ``compare.standard_form``.
        normalisation: Likewise.

    Returns:
        New parameters. Every hidden bit that comes from integer pre-activations is the same as before, for every input;
        one that comes from real-valued ones (real inputs, averages), to rounding at its threshold.

    Raises:
        SymmetryError: If neither weights nor activations of the network are binary.
    """
    if not graph.binarised and not any(layer.step for layer in graph.layers):
        raise SymmetryError(
            "nothing in this network is binary: expected layers of binarynets (BinaryLinear, Sign, ...); "
            "for a full-precision network pass fullprecision.FAMILY"
        )
    return latent_form(graph, params, invariant, normalisation)


def latent_form(graph: Graph, params: Params, invariant: Invariant, normalisation: Normalisation = "kept") -> Params:
    """As ``standard_form``, for any network: layers that are not binary get unit rows, quantised ones keep theirs."""
    positive = standard.positive_gains(graph, params)
    wide = standard.widened(graph, positive) | between_integers(graph, positive)
    wide = standard.unit_scales(graph, wide, normalisation)
    return standard.narrowed(graph, standard.unit_last(graph, wide, invariant, normalisation), params)
