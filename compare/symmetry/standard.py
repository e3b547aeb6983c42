"""The standard form: continuous symmetries and signs of gains removed, so that two networks can be compared.

The steps here work on one layer and return what changes, in float64. A precision composes them to its standard form
(``binarynets.signs``, ``fullprecision.scalings``), and ``standard_form`` hands over to the one that the graph carries.
"""

import torch
from torch import Tensor

from compare.params import Params
from compare.symmetry.element import step_up, without_zeros
from compare.symmetry.graph import Graph, Invariant, Layer

DEAD = 1e-12
"""Rows with a smaller L2 norm and gains of smaller size count as 0: dividing by them would overflow float32."""


def standard_form(graph: Graph, params: Params, *, invariant: Invariant = "error") -> Params:
    """The same function with its scales and the signs of its gains fixed (METHODS of [Toroids], section 2 there).

    Full precision: hidden rows of weights get unit L2 norm (bias excluded), the factors move into the consumers; batch
    normalisation stays and takes up the factors; its gains become +1. Binary: latent rows get unit norm, gains +1,
    thresholds lie half-way between attainable integers. In both, permutations (and signs) of units stay as they are:
    ``standard_form(g x) = g standard_form(x)`` for permutations and signs g.

    Args:
        graph: The network's symmetries.
        params: All parameters and buffers by name.
        invariant: ``"error"`` divides the last layer by one positive number as well, which leaves every decision as it
            is and changes the loss; ``"loss"`` leaves that factor, so that outputs stay the same.

    Returns:
        New parameters. Dead units (rows or gains below ``DEAD``) keep theirs; ``dead_units`` counts them. Where an
        activation follows the last layer, its factor stays with ``"error"`` too.

    Raises:
        ParameterError: If ``params`` do not fit the network.
        ValueError: For an unknown ``invariant``.

    Example:
        >>> import compare, fullprecision
        >>> model = fullprecision.mlp(4, [3], 2)
        >>> graph = compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY)
        >>> std = compare.standard_form(graph, compare.parameters(model))
        >>> std[graph.layers[0].weight].norm(dim=1).round(decimals=6)
        tensor([1., 1., 1.])
    """
    if invariant not in ("error", "loss"):
        raise ValueError(f"invariant: expected 'error' or 'loss', got {invariant!r}")
    graph.check(params)
    return graph.standardise(graph, params, invariant)


def dead_units(graph: Graph, params: Params) -> dict[str, int]:
    """Number of hidden units, by layer, that compute a constant: all weights (nearly) 0, or such a gain."""
    counts = {}
    for layer in graph.layers:
        if layer.block is None:
            continue
        dead = torch.zeros(len(params[layer.weight]), dtype=torch.bool)
        if not layer.binarised:
            dead |= torch.linalg.vector_norm(params[layer.weight].double().flatten(1), dim=1) < DEAD
        if layer.norm and layer.norm.gain:
            dead |= params[layer.norm.gain].abs() < DEAD
        counts[layer.name] = int(dead.sum())
    return counts


def widened(graph: Graph, params: Params) -> Params:
    """Copies in float64; latent weights of exactly 0, which count as +1, become the smallest normal number."""
    return {
        name: _wide(without_zeros(tensor) if name in graph.binarised else tensor) for name, tensor in params.items()
    }


def narrowed(graph: Graph, wide: Params, like: Params) -> Params:
    """Back to the original types; a latent weight never loses its sign to underflow."""
    narrow = {name: tensor.to(like[name].dtype) for name, tensor in wide.items()}
    for name in graph.binarised:
        tiny = torch.tensor(torch.finfo(narrow[name].dtype).tiny, dtype=narrow[name].dtype)
        narrow[name] = torch.where(narrow[name].abs() < tiny, torch.copysign(tiny, narrow[name]), narrow[name])
    return narrow


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.clone()


def positive_gains(graph: Graph, layer: Layer, params: Params, *, dtype: torch.dtype) -> Params:
    """Make the gains of a layer's normalisation positive where the layer's group allows it exactly.

    Without pooling in between, (w, bias, mean, gain) -> -(w, bias, mean, gain) leaves the unit as it was. Behind
    pooling the unit itself is negated: gain, offset and the consumers' columns, where the block admits signs. The
    threshold of a real-valued pre-activation steps to the next number of ``dtype``, the network's own.
    """
    if layer.norm is None or layer.norm.gain is None or layer.norm.offset is None:
        return {}
    gain = params[layer.norm.gain]
    if not layer.pooled:
        names = [layer.weight, layer.norm.mean, layer.norm.gain, *([layer.bias] if layer.bias else [])]
        return {name: params[name] * _along(_signs(gain), params[name]) for name in names}
    if layer.block is None or not graph.blocks[layer.block].signs:
        return {}
    offset = params[layer.norm.offset]
    negated = -step_up(offset.to(dtype)).double() if layer.norm.offset in graph.stepping else -offset
    changed = {layer.norm.gain: gain.abs(), layer.norm.offset: torch.where(gain < 0, negated, offset)}
    return changed | scaled_consumers(graph, layer, params, _signs(gain))


def unit_gains(graph: Graph, layer: Layer, params: Params) -> Params:
    """Divide gain and offset by the gain's magnitude; consumers take it up, unless the sign function follows."""
    if layer.norm is None or layer.norm.gain is None or layer.norm.offset is None or layer.block is None:
        return {}
    if not layer.step and not graph.blocks[layer.block].scales:
        return {}
    gain, offset = params[layer.norm.gain], params[layer.norm.offset]
    size = torch.where(gain.abs() < DEAD, 1.0, gain.abs())
    changed = {layer.norm.gain: gain / size, layer.norm.offset: offset / size}
    return changed if layer.step else changed | scaled_consumers(graph, layer, params, size)


def unit_rows(graph: Graph, layer: Layer, params: Params) -> Params:
    """Give incoming weights unit L2 norm, where signs, statistics or consumers take up the factor."""
    weight = params[layer.weight]
    norms = _norms(weight.flatten(1).norm(dim=1))
    changed = {layer.weight: weight / _along(norms, weight)}
    if layer.norm is not None:
        return changed if layer.binarised else changed | _scaled_statistics(layer, params, norms)
    if layer.binarised:
        return changed
    if layer.block is None or not graph.blocks[layer.block].scales:
        return {}
    if layer.bias:
        changed[layer.bias] = params[layer.bias] / norms
    return changed | scaled_consumers(graph, layer, params, norms)


def unit_last(graph: Graph, layer: Layer, params: Params, invariant: Invariant) -> Params:
    """Give the last layer's weight unit Frobenius norm; its normalisation, or with ``"error"`` its loss, takes it up.

    With ``"error"`` the gains and offsets of a last normalisation are divided by the gains' root mean square.
    """
    if not graph.scalable:
        invariant = "loss"
    weight = params[layer.weight]
    size = _norms(weight.norm())
    changed: Params = {}
    if layer.binarised:
        changed[layer.weight] = weight / size
    elif layer.norm is not None:
        changed = {layer.weight: weight / size} | _scaled_statistics(layer, params, size)
    elif invariant == "error":
        names = [layer.weight, *([layer.bias] if layer.bias else [])]
        changed = {name: params[name] / size for name in names}
    if invariant == "error" and layer.norm and layer.norm.gain and layer.norm.offset:
        gain = changed.get(layer.norm.gain, params[layer.norm.gain])
        rms = _norms(gain.square().mean().sqrt())
        changed |= {layer.norm.gain: gain / rms, layer.norm.offset: params[layer.norm.offset] / rms}
    return changed


def scaled_consumers(graph: Graph, layer: Layer, params: Params, factor: Tensor) -> Params:
    """The consumers' columns times ``factor`` ``[units]``."""
    assert layer.block is not None, "the last layer has no consumers"
    changed = {}
    for tie in graph.consumers(layer.block):
        weight = params[tie.name]
        changed[tie.name] = weight * _along(factor.repeat_interleave(tie.repeat), weight, axis=1)
    return changed


def _scaled_statistics(layer: Layer, params: Params, norms: Tensor) -> Params:
    """Statistics (and the bias before them) of a linear map whose outputs are divided by ``norms``.

    They become those of the divided outputs. What eps, which is not divided, changes goes into the gain; without one it
    goes into the variance.
    """
    norm = layer.norm
    assert norm is not None, "called for normalised layers"
    variance = params[norm.variance]
    scaled = variance / norms.square()
    changed = {norm.mean: params[norm.mean] / norms, norm.variance: scaled}
    if norm.gain:
        changed[norm.gain] = params[norm.gain] * norms * torch.sqrt((scaled + norm.eps) / (variance + norm.eps))
    else:
        absorbed = (variance + norm.eps) / norms.square() - norm.eps
        changed[norm.variance] = torch.where(norms == 1, variance, absorbed)
    if layer.bias:
        changed[layer.bias] = params[layer.bias] / norms
    return changed


def _norms(norms: Tensor) -> Tensor:
    """Norms to divide by: 1 for dead units, and for those that are 1 to rounding, so that the form is a fixed point."""
    return torch.where((norms < DEAD) | ((norms - 1).abs() < 1e-6), 1.0, norms)


def _signs(gain: Tensor) -> Tensor:
    return torch.where(gain < 0, -1.0, 1.0).to(gain.dtype)


def _along(factor: Tensor, tensor: Tensor, *, axis: int = 0) -> Tensor:
    return factor.view([-1 if i == axis else 1 for i in range(tensor.ndim)]) if factor.ndim else factor
