"""Thresholds of sign functions on integer pre-activations, moved to where no integer can meet them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from compare.params import Params
from compare.symmetry.graph import Graph, Layer

_LARGEST = 2.0**21
"""Thresholds beyond this are left alone: half an integer would be lost in float32, and no fan-in reaches them."""


def between_integers(graph: Graph, params: Params, *, only_ties: bool = False) -> Params:
    """Offsets that put each threshold half-way between the two attainable numbers beside it (METHODS, section 6 there).

    The attainable numbers are the integers, or those plus the linear map's bias. The ones next to a threshold go
    through the very batch normalisation of the network, in its own precision, since rounding decides there; every
    decision on them stays the same, and none is a tie any more.

    Args:
        graph: The network's symmetries, which say where pre-activations are integers.
        params: Parameters and buffers that fit it.
        only_ties: Change only offsets for which some integer gives exactly 0.

    Returns:
        The offsets by name, in float64.
    """
    moved = {}
    for layer in graph.layers:
        if layer.threshold is None or not layer.integer:
            continue
        wanted, usable, tied = _half_way(layer, params)
        change = usable & tied if only_ties else usable
        moved[layer.threshold] = torch.where(change, wanted, params[layer.threshold].double())
    return moved


def _half_way(layer: Layer, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """The offset wanted, whether there is one, and whether there is a tie, for each unit."""
    if layer.norm is None:
        assert layer.bias is not None, "a layer with a threshold has an offset"
        bias = params[layer.bias]
        near = _neighbours(-bias.double())
        found = near.to(bias.dtype) + bias
        half = _change(near, found)
        return -half, _usable(found, half), _tied(found)
    names = layer.norm.mean, layer.norm.variance, layer.norm.gain, layer.norm.offset
    mean, variance, gain, offset = (params[name].double() for name in names if name)
    slope = gain / torch.sqrt(variance + layer.norm.eps)
    shift = params[layer.bias].double() if layer.bias else torch.zeros_like(mean)
    threshold = mean - offset / torch.where(slope == 0, 1.0, slope)
    near = _neighbours(threshold - shift) + shift
    m, v, g, o = (params[name] for name in names if name)
    found = F.batch_norm(near.to(m.dtype), m, v, g, o, eps=layer.norm.eps)
    half = _change(near, found)
    return slope * (mean - half), _usable(found, half) & (slope != 0), _tied(found)


def _neighbours(threshold: Tensor) -> Tensor:
    """Four integers around each threshold, ``[4, units]``."""
    return torch.floor(threshold) + torch.arange(-1, 3, dtype=torch.float64)[:, None]


def _change(near: Tensor, found: Tensor) -> Tensor:
    """Half-way between the last neighbour that decides as the first one does, and the next."""
    passed = found >= 0
    return near[0] + (passed == passed[0]).sum(0) - 0.5


def _usable(found: Tensor, half: Tensor) -> Tensor:
    passed = found >= 0
    return (passed[0] != passed[-1]) & (half.abs() < _LARGEST)


def _tied(found: Tensor) -> Tensor:
    return (found == 0).any(0)
