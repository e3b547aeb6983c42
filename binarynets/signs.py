"""Signs and thresholds: the standard form of binary networks."""

import torch
import torch.nn.functional as F

from compare.params import Params
from compare.symmetry import standard
from compare.symmetry.graph import Graph, Invariant, Layer

_LARGEST = 2.0**21
"""Thresholds beyond this are left alone: half an integer would be lost in float32, and no fan-in reaches them."""


def standard_form(graph: Graph, params: Params, invariant: Invariant) -> Params:
    """Fix signs of gains and scales of latents, and put thresholds between the integers they can meet.

    Latent scale does not change a binarised weight, so rows get unit L2 norm only to weigh layers and units alike.
    Gains become positive by negating the unit where that is exact, then +1, since sign(d x) = sign(x) for d > 0.
    Where pre-activations are integers, the threshold tau of 'x >= tau' becomes k - 1/2, with k the smallest integer
    that passed it: no pre-activation can then be exactly at the threshold, and rounding plays no part.

    Args:
        graph: The network's symmetries.
        params: Parameters and buffers that fit it.
        invariant: See ``compare.standard_form``.

    Returns:
        New parameters; every hidden bit, for every input, is the same as before.
    """
    wide = standard.widened(graph, params)
    for layer in graph.layers:
        wide |= standard.positive_gains(graph, layer, wide, dtype=params[layer.weight].dtype)
        if layer.block is None:
            wide |= standard.unit_last(layer, wide, invariant)
            continue
        snapped = _between_integers(layer, wide, params)
        wide |= standard.unit_gains(graph, layer, wide) | snapped
        wide |= standard.unit_rows(graph, layer, wide)
    return standard.narrowed(graph, wide, params)


def _between_integers(layer: Layer, wide: Params, params: Params) -> Params:
    """The offset with gain 1 that puts the threshold half an integer below the smallest integer that passes it.

    The integers next to the threshold go through the very batch normalisation of the network, in its own precision,
    since rounding decides there.
    """
    norm = layer.norm
    if not (layer.step and layer.integer and norm and norm.gain and norm.offset) or layer.bias:
        return {}
    mean, variance, gain, offset = (wide[name] for name in (norm.mean, norm.variance, norm.gain, norm.offset))
    deviation = torch.sqrt(variance + norm.eps)
    threshold = mean - offset * deviation / torch.where(gain == 0, 1.0, gain)
    near = torch.floor(threshold) + torch.arange(-1, 3, dtype=torch.float64)[:, None]
    dtype = params[norm.mean].dtype
    m, v, g, o = (tensor.to(dtype) for tensor in (mean, variance, gain, offset))
    passed = F.batch_norm(near.to(dtype), m, v, g, o, eps=norm.eps) >= 0
    smallest = near[0] + (~passed).sum(0)
    usable = (gain > 0) & (threshold.abs() < _LARGEST) & ~passed[0] & passed[-1]
    moved = (mean - (smallest - 0.5)) / deviation
    kept = offset / torch.where(gain == 0, 1.0, gain.abs())
    return {norm.offset: torch.where(usable, moved, kept)}
