import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.func import functional_call, grad, vmap

from binarynets.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryLinear,
    Sign,
    clip_latents_,
    flip_ratio,
    is_binarised,
    latent_weights,
)
from binarynets.quantisers import magnitude_aware_sign, swish_sign

LAYERS = {
    "linear": (lambda **options: BinaryLinear(6, 4, **options), (5, 6)),
    "conv1d": (lambda **options: BinaryConv1d(6, 4, 3, padding=1, stride=2, groups=2, **options), (5, 6, 7)),
    "conv2d": (lambda **options: BinaryConv2d(6, 4, (3, 2), padding=1, dilation=2, **options), (5, 6, 7, 7)),
}
layers = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def _reference(layer: nn.Module) -> nn.Module:
    """The full-precision layer of torch that holds the signs as its weight."""
    if isinstance(layer, nn.Linear):
        plain: nn.Module = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    else:
        kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        plain = kind(*(getattr(layer, name) for name in names), bias=layer.bias is not None)
    plain.load_state_dict(layer.state_dict())
    plain.weight.data = _signs(layer.weight.data)
    return plain


@layers
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_that_of_the_signs(build, shape: tuple[int, ...], bias: bool) -> None:
    layer = build(bias=bias)
    layer.weight.data.view(-1)[:2] = torch.tensor([0.0, -0.0])
    if bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), _reference(layer)(x))
    assert torch.equal(layer.binary_weight(), _signs(layer.weight))


@layers
def test_gradient_reaches_latent_weights_inside_the_clip(build, shape: tuple[int, ...]) -> None:
    layer = build()
    layer.weight.data.view(-1)[0] = 1.5
    layer(torch.rand(shape) + 1).sum().backward()
    assert layer.weight.grad.view(-1)[0] == 0
    assert bool((layer.weight.grad.view(-1)[1:] != 0).all())


@layers
def test_bias_is_added_last_so_that_sums_are_exact(build, shape: tuple[int, ...]) -> None:
    layer = build(bias=True)
    x = _signs(torch.randn(shape)) * 255
    nn.init.constant_(layer.bias, 0.1)
    shifted = layer(x)
    nn.init.zeros_(layer.bias)
    assert torch.equal(shifted, layer(x) + 0.1)


@layers
def test_quantiser_is_used_and_shown(build, shape: tuple[int, ...]) -> None:
    layer = build(quantiser=magnitude_aware_sign)
    assert torch.equal(layer.binary_weight(), magnitude_aware_sign(layer.weight))
    assert "quantiser=magnitude_aware_sign" in repr(layer)
    layer.quantiser = partial(swish_sign, beta=2.0)
    assert "beta=2.0" in repr(layer)
    assert torch.equal(layer.binary_weight(), _signs(layer.weight))


@layers
def test_start_is_glorot_uniform_from_the_seed(build, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    layer = build(bias=True)
    torch.manual_seed(3)
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    bound = (6 / (fan_in + fan_out)) ** 0.5
    expected = (2 * torch.rand(layer.weight.shape) - 1) * bound
    torch.testing.assert_close(layer.weight.data, expected)
    assert torch.equal(layer.bias, torch.zeros(4))


@layers
def test_copies_saves_and_functional_calls(build, shape: tuple[int, ...]) -> None:
    layer, other, x = build(), build(), torch.randn(shape)
    assert list(layer.state_dict()) == ["weight"]
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    params = {"weight": other.weight.detach()}
    assert torch.equal(functional_call(layer, params, (x,)), other(x))
    batched = {"weight": torch.stack([layer.weight.detach(), other.weight.detach()])}
    gradient = grad(lambda params: functional_call(layer, params, (x,)).sum())
    torch.testing.assert_close(vmap(gradient)(batched)["weight"][1], gradient(params)["weight"])


@layers
def test_traced_layer_is_the_same(build, shape: tuple[int, ...]) -> None:
    model, x = nn.Sequential(build(bias=True), Sign()), torch.randn(shape)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))


def test_sign_binarises_with_its_quantiser() -> None:
    x = torch.tensor([-2.0, -0.0, 0.5], requires_grad=True)
    sign = Sign(swish_sign)
    assert sign(x).tolist() == [-1, 1, 1]
    sign(x).sum().backward()
    assert x.grad[1] == 5
    assert repr(sign) == "Sign(quantiser=swish_sign)"


def _mixed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(BinaryLinear(4, 4, bias=True), Sign()), BinaryLinear(4, 2))


def test_latent_weights_are_the_parameters_of_binarised_layers_alone() -> None:
    model = _mixed()
    latents = latent_weights(model)
    assert list(latents) == ["1.0.weight", "2.weight"]
    assert latents["2.weight"] is model[2].weight
    assert [is_binarised(module) for module in model] == [False, False, True]
    assert latent_weights(nn.Linear(2, 2)) == {}
    assert list(latent_weights(model[2])) == ["weight"]


def test_clip_latents_changes_latents_alone_and_no_sign() -> None:
    model = _mixed()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    clip_latents_(model, 0.5)
    for name, parameter in model.named_parameters():
        latent = name in ("1.0.weight", "2.weight")
        assert torch.equal(parameter, before[name].clamp(-0.5, 0.5) if latent else before[name])
        assert parameter.requires_grad


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_bound(bound: float) -> None:
    with pytest.raises(ValueError, match="bound: expected a positive finite number"):
        clip_latents_(BinaryLinear(1, 1), bound)


numbers = st.sampled_from([-2.0, -1e-30, -0.0, 0.0, 1e-30, 1.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12), st.integers(1, 11))
def test_flip_ratio_counts(pairs: list[tuple[float, float]], cut: int) -> None:
    a, b = (torch.tensor(side) for side in zip(*pairs, strict=True))
    naive = sum((x >= 0) != (y >= 0) for x, y in pairs) / len(pairs)
    assert flip_ratio({"u": a[:cut], "v": a[cut:]}, {"v": b[cut:], "u": b[:cut]}) == naive


def test_bad_flip_ratios() -> None:
    w = torch.ones(2)
    with pytest.raises(ValueError, match=r"expected the same names, got \['v'\]"):
        flip_ratio({"w": w}, {"w": w, "v": w})
    with pytest.raises(ValueError, match=r"'w': expected the same shape, got \[2\] before and \[1\] after"):
        flip_ratio({"w": w}, {"w": w[:1]})
    with pytest.raises(ValueError, match="expected latent weights, got none"):
        flip_ratio({}, {})


def test_latents_that_are_not_trained_are_not_clipped() -> None:
    model = BinaryLinear(3, 2)
    with torch.no_grad():
        model.weight.fill_(2.0)
    model.weight.requires_grad_(False)
    clip_latents_(model)
    assert bool((model.weight == 2).all())
