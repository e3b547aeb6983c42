"""The standard form: continuous symmetries and signs of gains removed, so that two networks can be compared.

The steps here work on a whole network in float64. A precision composes them to its standard form (``binarynets.signs``,
``fullprecision.scalings``), and ``standard_form`` hands over to the one that the graph carries.
"""

from typing import Literal

import torch
from torch import Tensor

from compare.params import Params
from compare.symmetry.element import Element, entries, identity, without_zeros
from compare.symmetry.graph import Generator, Graph, Invariant, Layer, Normalisation
from compare.symmetry.representative import representative

DEAD = 1e-12
"""Rows with a smaller L2 norm and gains of smaller size count as 0: dividing by them would overflow float32."""


def standard_form(
    graph: Graph,
    params: Params,
    *,
    invariant: Invariant = "error",
    normalisation: Normalisation = "kept",
    units: Literal["kept", "sorted"] = "kept",
) -> Params:
    """The same function with its scales and the signs of its gains fixed (METHODS of [Toroids], section 2 there).

    Full precision: hidden rows of weights get unit L2 norm (bias excluded), the factors move into the consumers; gains
    of normalisations become +1. Binary: latent rows get unit norm, gains +1, thresholds lie half-way between attainable
    integers. A scale that several layers share (a residual stream) is fixed by the first of them.

    Args:
        graph: The network's symmetries.
        params: All parameters and buffers by name.
        invariant: ``"error"`` divides the last layer by one positive number as well, which leaves every decision as it
            is and changes the loss; ``"loss"`` leaves that factor, so that outputs stay the same.
        normalisation: ``"kept"``: batch normalisation keeps its statistics, so that they can be re-estimated along a
            path. ``"folded"``: they move into weights and offsets, as [Toroids] has it: means become 0, variances 1.
        units: ``"kept"``: units keep their order and signs, ``standard_form(g x) = g standard_form(x)`` for
            permutations and signs g. ``"sorted"``: those are fixed too, ``standard_form(g x) = standard_form(x)`` for
            every g.

    Returns:
        New parameters. Dead units (rows or gains below ``DEAD``) keep theirs; ``dead_units`` counts them. Where an
        activation follows the last layer, its factor stays with ``"error"`` too.

    Raises:
        ParameterError: If ``params`` do not fit the network.
        ValueError: For an unknown ``invariant``, ``normalisation`` or ``units``.

    Example:
        >>> import compare, fullprecision
        >>> model = fullprecision.mlp(4, [3], 2)
        >>> graph = compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY)
        >>> std = compare.standard_form(graph, compare.parameters(model))
        >>> std[graph.layers[0].weight].norm(dim=1).round(decimals=6)
        tensor([1., 1., 1.])
    """
    for name, value, known in (
        ("invariant", invariant, ("error", "loss")),
        ("normalisation", normalisation, ("kept", "folded")),
        ("units", units, ("kept", "sorted")),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected {known[0]!r} or {known[1]!r}, got {value!r}")
    graph.check(params)
    form = graph.standardise(graph, params, invariant, normalisation)
    return form if units == "kept" else representative(graph, form).apply(form)


def dead_units(graph: Graph, params: Params) -> dict[str, int]:
    """Number of hidden units, by layer, that compute a constant: all weights (nearly) 0, or such a gain."""
    counts = {}
    for layer in graph.layers:
        if layer.last:
            continue
        dead = torch.zeros(params[layer.weight].shape[layer.axis], dtype=torch.bool)
        if not layer.binarised:
            dead |= _row_norms(params[layer.weight].double(), layer.axis) < DEAD
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


def positive_gains(graph: Graph, params: Params) -> Params:
    """Make the gains of normalisations positive, where the network's group allows it.

    Right behind a linear map, (w, bias, mean, gain) -> -(w, bias, mean, gain) leaves the unit as it was. Behind pooling
    the unit itself is negated: gain, offset and the consumers' columns.

    Args:
        graph: The network's symmetries.
        params: Parameters in their own types, in which negated thresholds step to the next number.

    Returns:
        All parameters; ties are broken as ``Element.apply`` does.
    """
    diagonals = list(identity(graph).diagonals)
    for index, block in enumerate(graph.blocks):
        diagonals[index] = diagonals[index].clone()
        for row, generator in zip(diagonals[index], block.generators, strict=True):
            gain = graph.gain_of(block, generator)
            if gain is not None:
                row.copy_(_signs(entries(params[gain.name], gain, block)[:, 0]))
    return Element(graph, identity(graph).permutations, tuple(diagonals)).apply(params)


def unit_scales(graph: Graph, params: Params, normalisation: Normalisation) -> Params:
    """Fix all scales from the input on: rows that a normalisation takes up, then each generator by its pivot's norm.

    Args:
        graph: The network's symmetries.
        params: Parameters in float64, gains positive.
        normalisation: Whether statistics stay or are folded.

    Returns:
        All parameters, the last layer's left as it was (see ``unit_last``).
    """
    fixed = dict(params)
    layers = {layer.weight: layer for layer in graph.layers}
    pivots: dict[str, list[tuple[int, Generator]]] = {}
    for index, block in enumerate(graph.blocks):
        for generator in block.generators:
            if generator.kind == "scale":
                pivots.setdefault(generator.pivot.name, []).append((index, generator))
    for name in graph.order:
        layer = layers.get(name)
        if layer is not None:
            fixed |= _rows(layer, fixed, normalisation, pivoted=bool(layer.norm and layer.norm.gain in pivots))
        for index, generator in pivots.get(name, []):
            fixed |= _by_pivot(graph, index, generator, fixed)
    return fixed


def _rows(layer: Layer, params: Params, normalisation: Normalisation, *, pivoted: bool) -> Params:
    """What one linear map's own normalisation, or its sign function for latents, can take up."""
    if normalisation == "folded" and layer.norm is not None:
        return _folded(layer, params, pivoted=pivoted)
    if layer.last or layer.quantised or (layer.norm is None and not layer.binarised):
        return {}
    weight = params[layer.weight]
    norms = _norms(_row_norms(weight, layer.axis))
    changed = {layer.weight: weight / _along(norms, weight, axis=layer.axis)}
    if layer.norm is None or layer.binarised:
        return changed
    return changed | _scaled_statistics(layer, params, norms) if _fits(layer, params) else {}


def _fits(layer: Layer, params: Params) -> bool:
    """Not so for grouped transposed convolutions, whose weight has one row for several units."""
    assert layer.norm is not None, "called for normalised layers"
    return params[layer.weight].shape[layer.axis] == len(params[layer.norm.mean])


def _by_pivot(graph: Graph, index: int, generator: Generator, params: Params) -> Params:
    """Divide by the norm of the pivot's entries, unit by unit."""
    block = graph.blocks[index]
    sizes = _norms(entries(params[generator.pivot.name], generator.pivot, block).norm(dim=1))
    if bool((sizes == 1).all()):
        return {}
    rest = identity(graph)
    diagonals = list(rest.diagonals)
    diagonals[index] = diagonals[index].clone()
    diagonals[index][block.generators.index(generator)] = 1 / sizes
    moved = Element(graph, rest.permutations, tuple(diagonals))
    return moved.apply_linear({name: params[name] for name in generator.names})


def unit_last(graph: Graph, params: Params, invariant: Invariant, normalisation: Normalisation) -> Params:
    """Give the last layer's weight unit Frobenius norm; its normalisation, or with ``"error"`` its loss, takes it up.

    With ``"error"`` the gains and offsets of a last normalisation are divided by the gains' root mean square.
    """
    found = [layer for layer in graph.layers if layer.last]
    if not found:
        return dict(params)
    layer = found[0]
    weight = params[layer.weight]
    size = _norms(weight.norm()) if not layer.quantised else torch.ones((), dtype=weight.dtype)
    latent = layer.binarised or layer.quantised
    folded = normalisation == "folded" and layer.norm is not None and not latent
    changed: Params = {}
    if layer.binarised:
        changed[layer.weight] = weight / size
    elif layer.norm is not None and not folded:
        changed = {layer.weight: weight / size} | _scaled_statistics(layer, params, size)
    elif invariant == "error":
        # What is linear in the outputs; a normalisation's variance and gain are not.
        norm = (layer.norm.mean, layer.norm.offset) if layer.norm else ()
        changed = {name: params[name] / size for name in (layer.weight, layer.bias, *norm) if name}
    if invariant == "error" and layer.norm and layer.norm.gain and layer.norm.offset and not folded:
        gain = changed.get(layer.norm.gain, params[layer.norm.gain])
        rms = _norms(gain.square().mean().sqrt())
        changed |= {layer.norm.gain: gain / rms, layer.norm.offset: params[layer.norm.offset] / rms}
    return {**params, **changed}


def _folded(layer: Layer, params: Params, *, pivoted: bool) -> Params:
    """Mean 0 and variance 1; what they did goes into weights and offset, or stays in the gain of a binarised layer.

    Units with a gain of (nearly) 0, and those whose negative gain a max pooling forbids to move, stay as they are.
    """
    norm, weight = layer.norm, params[layer.weight]
    assert norm is not None, "called for normalised layers"
    latent = layer.binarised or layer.quantised
    if not _fits(layer, params) or (norm.gain is None and latent):
        return {}
    deviation = torch.sqrt(params[norm.variance] + norm.eps)
    gain = params[norm.gain] if norm.gain else torch.ones_like(deviation)
    alpha = gain / deviation
    usable = (gain.abs() >= DEAD) & ~((alpha < 0) & layer.pooled)
    rows = _norms(_row_norms(weight, layer.axis)) if pivoted else 1 / alpha.abs().clamp_min(DEAD)
    rows = torch.where(usable, rows, 1.0)
    shift = params[layer.bias] if layer.bias else torch.zeros_like(alpha)
    changed = {norm.variance: torch.where(usable, 1 - norm.eps, params[norm.variance])}
    if latent:
        # Signs take up no factor; rows of latents get unit norm as they do with statistics kept. Levels neither.
        changed |= _rows(layer, params, "kept", pivoted=pivoted)
        rows = torch.ones_like(rows)
    else:
        changed[layer.weight] = weight / _along(rows, weight, axis=layer.axis)
    mean = (shift - params[norm.mean]) * alpha
    if norm.gain:
        changed[norm.gain] = torch.where(usable, alpha * rows, params[norm.gain])
    if norm.offset:
        changed[norm.offset] = torch.where(usable, params[norm.offset] + mean, params[norm.offset])
        changed[norm.mean] = torch.where(usable, 0.0, params[norm.mean])
    else:
        changed[norm.mean] = torch.where(usable, -mean, params[norm.mean])
    if layer.bias:
        changed[layer.bias] = torch.where(usable, 0.0, shift)
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


def _row_norms(weight: Tensor, axis: int) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(weight.movedim(axis, 0).flatten(1), dim=1)
    return norms


def _norms(norms: Tensor) -> Tensor:
    """Norms to divide by: 1 for dead units, and for those that are 1 to rounding, so that the form is a fixed point."""
    return torch.where((norms < DEAD) | ((norms - 1).abs() < 1e-6), 1.0, norms)


def _signs(gain: Tensor) -> Tensor:
    return torch.where(gain < 0, -1.0, 1.0).to(gain.dtype)


def _along(factor: Tensor, tensor: Tensor, *, axis: int = 0) -> Tensor:
    return factor.view([-1 if i == axis else 1 for i in range(tensor.ndim)]) if factor.ndim else factor
