"""A digest of what a binary network computes: equal for all copies that differ by a symmetry."""

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from binarynets.family import FAMILY
from binarynets.layers import Binarised
from compare.params import Params, call, parameters, sign
from compare.symmetry.certificate import drawn_like, randomised
from compare.symmetry.graph import Graph, Layer, Norm, SymmetryError
from compare.symmetry.representative import representative
from compare.symmetry.thresholds import between_integers
from compare.symmetry.trace import trace

_LARGEST = 2.0**21
"""Pre-activations of unknown range are taken to be smaller: beyond, half an integer is lost in float32."""

_PADDING = "_reversed_padding_repeated_twice"
"""Where convolutions of torch keep their padding as numbers, also if it was given as a word."""

_PROBES = 64


def digest(model: nn.Module, params: Params, *, example_input: Tensor | None = None) -> str:
    """Sixteen hexadecimal digits, the same for networks that differ by symmetries, else different (up to SHA-256).

    The network is brought to its integer form (METHODS, section 6 there) and that to the representative of its orbit:
    weights are their signs, thresholds the middle between the two attainable pre-activations beside them, units
    sorted. The last layer counts by the factor and offset of each class, to the last bit. So nothing depends on latent
    magnitudes, on scales of hidden gains, on how statistics and offsets make up a threshold, on which of two duplicate
    units comes first, or on the incoming weights of a unit that is constant because no pre-activation reaches its
    threshold.

    Not identified, so of different digests, are networks that compute the same by no symmetry: a constant unit against
    a threshold moved in the next layer, duplicates whose outgoing weights are dealt out otherwise, bits that no input
    makes count; nor those that decide alike with other outputs, as after ``standard_form`` with ``invariant="error"``.
    Digests compare networks of one architecture: parameters' names and shapes count, what has no parameters (strides,
    pooling) does not.

    Args:
        model: The network. Whether a layer's inputs are all +1 or -1, which bounds its pre-activations and fixes
            their parity, is found by running it on random parameters and integers.
        params: All its parameters and buffers by name, as ``compare.parameters(model)`` gives them.
        example_input: A batch ``[batch, ...]`` of integers, to trace the model. Not needed where its first layer is
            linear and takes ``[batch, in_features]``.

    Returns:
        The digest.

    Raises:
        SymmetryError: If decisions of the network rest on more than integers (real inputs, averages, residual streams,
            full-precision layers), if a layer is called several times with different normalisations, or
            ``example_input`` is needed.
        ParameterError: If ``params`` do not fit the network.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(6, [5, 4], 3)
        >>> graph = compare.trace(model, torch.zeros(1, 6), binarynets.FAMILY)
        >>> params = compare.parameters(model)
        >>> copy = compare.random_element(graph, torch.Generator().manual_seed(0)).apply(params)
        >>> digest(model, copy) == digest(model, params)
        True
        >>> digest(model, compare.parameters(binarynets.mlp(6, [5, 4], 3))) == digest(model, params)
        False
    """
    x = _input_of(model) if example_input is None else example_input
    graph = trace(model, x, FAMILY)
    if not graph.exact:
        inexact = [layer.name for layer in graph.layers if not (layer.binarised and layer.integer)]
        raise SymmetryError(
            "expected a network whose decisions rest on integers alone (binarised layers on integers or signs); "
            f"got other numbers in {', '.join(map(repr, inexact))}. For such networks compare the representatives "
            "themselves, compare.standard_form(graph, params, units='sorted')"
        )
    graph.check(params)
    _prove_covered(graph)
    form = _integer_form(graph, params, _reaches(model, x))
    moved = representative(graph, form).apply_linear(form)
    return _hashed(moved)


def _input_of(model: nn.Module) -> Tensor:
    """Zeros for a first layer that is linear."""
    first = next((module for module in model.modules() if list(module.parameters(recurse=False))), None)
    if not isinstance(first, nn.Linear):
        raise SymmetryError(
            f"example_input: expected a batch of integers for a network that begins with {type(first).__name__}; it is "
            "left out only where the first layer is linear. Pass for instance data.train.x[:8]"
        )
    return torch.zeros(1, first.in_features, dtype=first.weight.dtype)


def _prove_covered(graph: Graph) -> None:
    """Scales have no integer form where a threshold's layer is called several times with different normalisations."""
    norms = [layer.norm for layer in graph.layers if layer.norm and layer.threshold]
    known = {name for norm in norms for name in (norm.gain, norm.offset)}
    scaled = {name for block in graph.blocks for g in block.generators if g.kind == "scale" for name in g.names}
    if scaled - known:
        raise SymmetryError(
            "expected sign functions behind layers that are called once; no integer form fixes the scales of "
            f"{', '.join(map(repr, sorted(scaled - known)))}. Compare the representatives themselves, "
            "compare.standard_form(graph, params, units='sorted')"
        )


@dataclass(frozen=True)
class _Reach:
    """Which pre-activations a layer on signs can have: from -fan_in to fan_in, of its parity if nothing is padded."""

    fan_in: int
    padded: bool

    def middle(self, half: Tensor) -> Tensor:
        """From a number between two integers to the middle between the two attainable ones beside it."""
        if self.padded:
            return half
        below = half - 0.5
        return torch.where((below - self.fan_in).remainder(2) == 0, below + 1, below)


def _reaches(model: nn.Module, x: Tensor) -> dict[str, _Reach]:
    """Layers, by the name of their weight, that see +1 and -1 alone, on random inputs and parameters."""
    working = copy.deepcopy(model).eval()
    names = {id(parameter): name for name, parameter in working.named_parameters()}
    layers = {layer: names[id(layer.weight)] for layer in working.modules() if isinstance(layer, Binarised)}
    on_signs = dict.fromkeys(layers.values(), True)
    padded = {name for layer, name in layers.items() if any(getattr(layer, _PADDING, ()))}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Binarised), "hooked below"
        on_signs[layers[layer]] &= bool((inputs[0].abs() == 1).all())

    for layer in layers:
        layer.register_forward_pre_hook(watch)
    generator = torch.Generator().manual_seed(0)
    batch = x.repeat(math.ceil(_PROBES / len(x)), *[1] * (x.ndim - 1))
    for _ in range(3):
        call(working, randomised(parameters(working), generator), drawn_like(batch, generator).to(x.dtype))
    fan_in = {name: layer.weight[0].numel() for layer, name in layers.items()}
    return {name: _Reach(fan_in[name], name in padded) for name, found in on_signs.items() if found}


def _integer_form(graph: Graph, params: Params, reaches: Mapping[str, _Reach]) -> Params:
    """Parameters of the same decisions that scales and latent magnitudes leave as they are, in float64."""
    form = {name: tensor.double() for name, tensor in params.items() if tensor.is_floating_point()}
    offsets = between_integers(graph, params)
    for layer in graph.layers:
        found = {layer.weight: sign(form[layer.weight])}
        if layer.threshold:
            found |= _threshold(layer, form, offsets[layer.threshold], reaches.get(layer.weight))
        elif layer.last:
            found |= _outputs(layer, form)
        form |= found
    return form


def _threshold(layer: Layer, form: Params, offset: Tensor, reach: _Reach | None) -> Params:
    """The direction of the gain, and an offset that is an integer or half of one; constant units see nothing."""
    norm, weight = layer.norm, sign(form[layer.weight])
    gain = form[norm.gain] if norm and norm.gain else torch.ones_like(offset)
    shift = form[layer.bias] if norm and layer.bias else torch.zeros_like(offset)
    mean, variance = (form[norm.mean], form[norm.variance] + norm.eps) if norm else (torch.zeros(()), torch.ones(()))
    slope = gain / torch.sqrt(variance)
    threshold = mean - offset / torch.where(slope == 0, 1.0, slope) - shift
    half = torch.floor(threshold.clamp(-_LARGEST - 1, _LARGEST)) + 0.5
    middle = reach.middle(half) if reach else half
    largest = reach.fan_in if reach else _LARGEST
    constant = (slope == 0) | (middle.abs() > largest)
    direction = torch.where(constant, 1.0, torch.sign(gain))
    fires = torch.where(slope == 0, offset >= 0, middle * torch.sign(gain) < 0)
    always = torch.where(fires, largest + 1.0, -largest - 1.0)
    found = {
        layer.weight: torch.where(constant.view(-1, *[1] * (weight.ndim - 1)), 0.0, weight),
        str(layer.threshold): torch.where(constant, always, -direction * middle),
    }
    return found | _plain_norm(norm, layer.bias, direction) if norm else found


def _outputs(layer: Layer, form: Params) -> Params:
    """One factor and one offset for each class, to the last bit: elements only negate the factor, with its row."""
    norm = layer.norm
    if norm is None:
        return {}
    slope = 1 / torch.sqrt(form[norm.variance] + norm.eps)
    slope = slope * form[norm.gain] if norm.gain else slope
    shift = (form[layer.bias] if layer.bias else 0.0) - form[norm.mean]
    offset = shift * slope + (form[norm.offset] if norm.offset else 0.0)
    return _plain_norm(norm, layer.bias, slope) | {norm.offset or norm.mean: offset}


def _plain_norm(norm: Norm, bias: str | None, gain: Tensor) -> Params:
    """Statistics that do nothing; without a gain its place is the variance's."""
    nothing = torch.zeros_like(gain)
    found = {norm.variance: torch.ones_like(gain), norm.mean: nothing, norm.gain or norm.variance: gain}
    return found | ({bias: nothing} if bias else {})


def _hashed(form: Params) -> str:
    found = hashlib.sha256()
    for name in sorted(form):
        # Adding 0 turns -0 to 0; the byte order is fixed.
        entries = (form[name] + 0.0).contiguous().numpy().astype("<f8")
        found.update(f"{name} {entries.shape} ".encode())
        found.update(entries.tobytes())
    return found.hexdigest()[:16]
