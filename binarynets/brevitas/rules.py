"""Tracing rules for the layers that stand for Brevitas's: the group is what the quantisers really admit.

Binary and odd weights admit signs; no weight with several levels admits a factor. Activations admit signs where they
are odd, and none where they clamp unevenly; none admits a factor. What a quantiser does is tried, not read off its
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from binarynets.brevitas.forms import probe
from binarynets.brevitas.layers import Activation, Map, Pool, Quantiser, Sum, TensorNorm, Unread
from binarynets.brevitas.weights import Facts
from compare.params import parameters
from compare.symmetry.rules import Rule, elementwise, homogeneous, linear_map, norms, odd, passes, step
from compare.symmetry.rules.joins import add
from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.values import Value


def _map(site: Site, x: Value) -> Value:
    """A linear map with quantised weights, and perhaps quantised inputs, bias and outputs."""
    layer: Map = site.operation
    facts = layer.facts
    x = _quantised(site, x, layer.input, "input_quant")
    enabled = layer.layer.weight_quant.is_quant_enabled
    result: Value = linear_map(binarised=facts.scale is not None, quantised=enabled and facts.scale is None)(site, x)
    weight = site.parameter("weight")
    assert weight is not None, "a linear map has a weight"
    if enabled:
        _limit(site, facts, weight)
        _of_quantiser(site, "weight_quant", weight)
        if facts.scale is not None and (facts.scale != 1 or len(parameters(layer.layer.weight_quant)) > 0):
            result = _real(result)
    bias = site.parameter("bias")
    if bias is not None and layer.layer.bias_quant.is_quant_enabled:
        site.unscaled(*bias.axes)
        if not _odd_bias(layer):
            site.positive(*bias.axes)
        result = _rounded_bias(result)
        _of_quantiser(site, "bias_quant", bias)
    if not layer.output.enabled:
        return result
    return _quantised(site, result, layer.output, "output_quant")


def _real(result: Value) -> Value:
    """Sums of numbers that are no integers, whatever they are sums of."""
    for draft in (result.source, result.tail):
        if draft is not None:
            draft.integer = False
    return replace(result, integer=False)


def _rounded_bias(result: Value) -> Value:
    """A bias that is rounded takes up no factor, no threshold and no mean."""
    for draft in (result.source, result.tail):
        if draft is not None:
            draft.quantised, draft.bias = True, None
    return _real(result)


def _limit(site: Site, facts: Facts, weight: Value) -> None:
    site.unscaled(*weight.axes)
    if not facts.odd:
        site.positive(*weight.axes)
    why = "its quantiser treats {} differently by their places (groups of entries with scales of their own)"
    if not facts.rows:
        site.still(weight.axis(0), why.format("rows"))
    if not facts.columns:
        site.still(weight.axis(1), why.format("columns"))


def _odd_bias(layer: Map) -> bool:
    """Whether the bias quantiser is odd, tried on numbers of all sizes."""
    quantiser = layer.layer.bias_quant
    bias = layer.layer.bias.detach()
    weight = layer.layer.weight_quant(layer.layer.weight.detach().clone())
    inputs = layer._input_tensor(weight)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1.0, 1e3, 1e6):
        probe = size * torch.randn(bias.shape, generator=generator).to(bias.dtype)
        positive, negative = (getattr(q, "value", q) for q in (quantiser(s * probe, inputs, weight) for s in (1, -1)))
        if not torch.equal(positive, -negative):
            return False
    return True


def _activation(site: Site, x: Value) -> Value:
    layer: Activation = site.operation
    return _quantised(site, _quantised(site, x, layer.input, "input_quant"), layer.act, "act_quant")


def _quantised(site: Site, x: Value, quantiser: Quantiser, owner: str) -> Value:
    """What passes an activation and its quantiser."""
    _of_quantiser(site, owner, x)
    rule = _rule_of(quantiser)
    found: Value = rule(site, x)
    if rule is step:
        # Integers times a scale are no integers any more; a parameter that is 1 now is not always.
        one = quantiser.constant and bool((quantiser.about()[0] == 1).all())
        return replace(found, integer=one)
    return found


def _rule_of(quantiser: Quantiser) -> Rule:
    if not quantiser.enabled and quantiser._proxy.fused_activation_quant_proxy is None:
        return passes
    form = quantiser.form
    identity = _is_identity(quantiser)
    if form is not None and form.kind == "sign" and identity:
        return step
    if quantiser.enabled and form is None:
        return elementwise  # a scale that depends on the input, a floating-point format: no factor, no sign
    x = _numbers(quantiser)
    with torch.no_grad():
        found = quantiser(x.clone())
        if torch.equal(found, x):
            return passes
        if torch.equal(quantiser(2 * x), 2 * found):
            return homogeneous
        return odd if torch.equal(quantiser(-x), -found) else elementwise


def _is_identity(quantiser: Quantiser) -> bool:
    probe = torch.linspace(-5, 5, 101)
    applied: Tensor = quantiser._proxy.fused_activation_quant_proxy.activation_impl(probe.clone())
    return torch.equal(applied, probe)


def _numbers(quantiser: Quantiser) -> Tensor:
    """Numbers to try, in a shape that scales with an entry for each channel take."""
    if not quantiser.enabled:
        return probe(torch.ones(()), torch.tensor(8.0))
    scale, _, bits = quantiser.about()
    return probe(scale, bits)


def _of_quantiser(site: Site, owner: str, scaled: Value) -> None:
    """Scales of a quantiser: one number stays as it is, those of channels move with the axis that they multiply."""
    module = site.operation.get_submodule(owner)
    for name in parameters(module):
        value = site.parameter(f"{owner}.{name}")
        if value is None or value.parameter is None or value.parameter == site.own("weight"):
            continue
        site.tracing.unscored.add(value.parameter)
        for place in range(-len(value.axes), 0):
            axis = value.axis(place)
            if -place <= len(scaled.axes) and len(axis) == len(scaled.axis(place)) > 1:
                site.one(axis)
                list(site.same(axis, scaled.axis(place)))
            else:
                site.still(axis)


def _sum(site: Site, a: Value, b: Value) -> Value:
    """A sum of quantised tensors, quantised."""
    layer: Sum = site.operation
    left, right = (_quantised(site, x, layer.input, "input_quant") for x in (a, b))
    return _quantised(site, add(site, left, right), layer.output, "output_quant")


def _pool(site: Site, x: Value) -> Value:
    """Pooling that cuts bits off: units may be renamed, no more."""
    site.one(*x.axes)
    found: Value = norms.average(site, x)
    return found.plain()


def _unread(site: Site, *values: Any) -> Any:
    """A layer that is not read."""
    kind = type(site.operation.layer)
    site.refuse(
        f"{kind.__module__}.{kind.__name__} is not read: expected linear maps, convolutions, activations, sums and "
        "average poolings of brevitas.nn, by their exact types"
    )


def _tensor_norm(site: Site, x: Value) -> Value:
    """One mean and one variance for all entries: they may be renamed, no more."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = site.parameter(name)
        assert value is not None, "it has them all"
        site.tracing.unscored.add(str(value.parameter))
        for axis in value.axes:
            site.still(axis)
    site.one(*x.axes)
    return replace(x.plain(), tail=x.tail)


RULES: Mapping[type[nn.Module], Rule] = {
    Map: _map,
    Activation: _activation,
    Sum: _sum,
    Pool: _pool,
    TensorNorm: _tensor_norm,
    Unread: _unread,
}
"""Rules for the layers of ``binarynets.brevitas.layers``, by exact type."""
