"""Integer pre-activations: ties, thresholds between integers, and where integers end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import pixels, small_networks

import binarynets
import fullprecision
from binarynets import BinaryConv1d, BinaryConv2d, BinaryLinear, Sign
from compare.params import Params, call, parameters
from compare.symmetry import random_element, standard_form, trace
from compare.symmetry.standard import DEAD
from compare.symmetry.thresholds import between_integers

NETWORKS = {
    "mlp": lambda: binarynets.mlp(64, [12, 9], 5),
    "vgg": lambda: binarynets.vgg((1, 8, 8), [[4, 5], [6]], [7], 5),
    "biased": lambda: nn.Sequential(
        *(nn.Flatten(), BinaryLinear(64, 12, bias=True), nn.BatchNorm1d(12), Sign()),
        *(BinaryLinear(12, 9, bias=True), Sign(), BinaryLinear(9, 5), nn.BatchNorm1d(5)),
    ),
    "1-d": lambda: nn.Sequential(
        *(BinaryConv1d(1, 4, 3, padding=1, stride=2), nn.MaxPool1d(2), nn.BatchNorm1d(4), Sign()),
        *(nn.Flatten(), BinaryLinear(16, 5), nn.BatchNorm1d(5)),
    ),
}


def _network(name: str) -> tuple[nn.Module, Tensor]:
    model = NETWORKS[name]().eval()
    return model, _input_of(model)


def _full_of_ties(model: nn.Module, seed: int) -> Params:
    """Integer means, biases and offsets of 0, gains of both signs: nearly every unit meets its threshold."""
    generator = torch.Generator().manual_seed(seed)
    params = parameters(model)
    for name, tensor in params.items():
        if name.endswith(("running_mean", "bias")):
            params[name] = torch.randint(-4, 5, tensor.shape, generator=generator).float()
        elif name.endswith("running_var"):
            params[name] = torch.randint(1, 40, tensor.shape, generator=generator).float()
        elif tensor.ndim == 1 and tensor.is_floating_point():
            params[name] = torch.randn(tensor.shape, generator=generator)
    for layer in trace(model, _input_of(model), binarynets.FAMILY, certify=False).layers:
        if layer.norm:
            params[layer.norm.offset] = torch.zeros_like(params[layer.norm.offset])
    return params


def _input_of(model: nn.Module) -> Tensor:
    return pixels(96) if not isinstance(next(iter(model)), BinaryConv1d) else pixels(96)[:, 0, :2].reshape(96, 1, 16)


def _pre_activations(model: nn.Module, params: Params, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, inputs: found.append(inputs[0].clone()))
        for module in model.modules()
        if isinstance(module, Sign)
    ]
    call(model, params, x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_elements_are_exact_where_every_unit_meets_its_threshold(name: str, seed: int) -> None:
    model, x = _network(name)
    graph = trace(model, x, binarynets.FAMILY, certify=False)
    params = _full_of_ties(model, seed)
    assert all(block.signs for block in graph.blocks)
    moved = random_element(graph, torch.Generator().manual_seed(seed)).apply(params)
    assert torch.equal(call(model, params, x), call(model, moved, x))


def test_these_networks_do_meet_their_thresholds() -> None:
    for name in NETWORKS:
        model, x = _network(name)
        ties = [bool((z == 0).any()) for z in _pre_activations(model, _full_of_ties(model, 0), x)]
        assert any(ties), name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(4))
def test_the_standard_form_keeps_every_decision_and_leaves_no_tie(name: str, seed: int) -> None:
    model, x = _network(name)
    graph = trace(model, x, binarynets.FAMILY, certify=False)
    params = _full_of_ties(model, seed)
    std = standard_form(graph, params, invariant="loss")
    assert torch.allclose(call(model, params, x), call(model, std, x), rtol=1e-4, atol=1e-4)
    for z in _pre_activations(model, std, x):
        assert not bool((z == 0).any())


@pytest.mark.parametrize("name", NETWORKS)
def test_thresholds_lie_half_way_between_integers(name: str) -> None:
    model, x = _network(name)
    graph = trace(model, x, binarynets.FAMILY, certify=False)
    std = standard_form(graph, _full_of_ties(model, 1))
    for layer in graph.layers:
        if not layer.step:
            continue
        assert layer.integer
        offset = std[layer.threshold].double()
        shift = std[layer.bias].double() if layer.norm and layer.bias else 0.0
        if layer.norm:
            deviation = torch.sqrt(std[layer.norm.variance].double() + layer.norm.eps)
            threshold = std[layer.norm.mean].double() - offset * deviation / std[layer.norm.gain].double() - shift
        else:
            threshold = -offset
        assert torch.allclose(threshold - threshold.floor(), torch.full_like(threshold, 0.5), atol=1e-4)


@given(
    gain=st.sampled_from([-2.5, -1.0, -0.3, 0.3, 1.0, 2.5]),
    mean=st.floats(-50, 50, width=32),
    variance=st.floats(0, 400, width=32),
    offset=st.floats(-3, 3, width=32),
)
@settings(max_examples=100, deadline=None)
def test_every_integer_is_decided_as_before(gain: float, mean: float, variance: float, offset: float) -> None:
    """The literal oracle: all integers through the network's own batch normalisation, in float32."""
    model = binarynets.mlp(4, [1], 2).eval()
    graph = trace(model, torch.ones(2, 4), binarynets.FAMILY, certify=False)
    params = parameters(model)
    norm = graph.layers[0].norm
    values = {norm.gain: gain, norm.mean: mean, norm.variance: variance, norm.offset: offset}
    params |= {name: torch.tensor([value]) for name, value in values.items()}
    moved = params | {name: t.float() for name, t in between_integers(graph, params).items()}
    integers = torch.arange(-3000.0, 3001)[:, None]
    before, after = (
        nn.functional.batch_norm(integers, p[norm.mean], p[norm.variance], p[norm.gain], p[norm.offset], eps=norm.eps)
        for p in (params, moved)
    )
    assert torch.equal(before >= 0, after >= 0)


def _averaged(*layers: nn.Module) -> nn.Module:
    body = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(*body, BinaryLinear(body(pixels(1)).shape[1], 3), nn.BatchNorm1d(3)).eval()


@pytest.mark.parametrize(
    "model",
    [
        _averaged(BinaryConv2d(1, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4), Sign()),
        _averaged(BinaryConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), Sign()),
        _averaged(Sign(), nn.AvgPool2d(3, 1, 1), BinaryConv2d(1, 4, 3), nn.BatchNorm2d(4), Sign()),
        _averaged(nn.LeakyReLU(), BinaryConv2d(1, 4, 3), nn.BatchNorm2d(4), Sign()),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_averages_are_no_integers_and_keep_their_thresholds(model, seed) -> None:
    graph = trace(model, pixels(4), binarynets.FAMILY)
    assert not any(layer.integer for layer in graph.layers if layer.step)
    generator = torch.Generator().manual_seed(seed)
    params = parameters(model)
    for name, tensor in params.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            params[name] = torch.exp(noise) if "var" in name else tensor + noise
    std = standard_form(graph, params, invariant="loss")
    x = pixels(128)
    before, after = _pre_activations(model, params, x), _pre_activations(model, std, x)
    changed = (torch.sign(before[-1]) != torch.sign(after[-1])).double().mean()
    assert float(changed) == 0


def test_integers_end_at_real_inputs() -> None:
    model = binarynets.mlp(64, [6, 5], 3).eval()
    integer = [layer.integer for layer in trace(model, pixels(4), binarynets.FAMILY).layers]
    real = [layer.integer for layer in trace(model, torch.randn(4, 64), binarynets.FAMILY).layers]
    assert integer == [True, True, True]
    assert real == [False, True, True]


def test_a_latent_that_underflows_keeps_its_sign() -> None:
    model = small_networks("binary")["mlp"]
    graph = trace(model, pixels(4), binarynets.FAMILY)
    params = parameters(model)
    params["linear1.weight"][:, 0] = -1.2e-38
    params["linear1.weight"][:, 1] = 1e12
    std = standard_form(graph, params)
    assert bool((std["linear1.weight"][:, 0] < 0).all())


@pytest.mark.parametrize(
    ("name", "size"), [("linear1.weight", 1e-25), ("norm1.weight", 1e-39), ("linear1.weight", 0.0)]
)
def test_tiny_rows_and_gains_count_as_dead_and_overflow_nothing(name: str, size: float) -> None:
    model = fullprecision.mlp(64, [6], 3).eval()
    graph = trace(model, pixels(4), fullprecision.FAMILY)
    params = parameters(model)
    params[name][2] = size
    std = standard_form(graph, params, invariant="loss")
    graph.check(std)
    assert size < DEAD
    x = pixels(32)
    assert torch.allclose(call(model, params, x), call(model, std, x), rtol=1e-4, atol=1e-4)


def test_large_rows_without_variance_keep_the_function() -> None:
    model = fullprecision.mlp(64, [6], 3).eval()
    graph = trace(model, pixels(4), fullprecision.FAMILY)
    params = parameters(model)
    params["linear1.weight"] *= 3000
    params["norm1.running_var"].zero_()
    std = standard_form(graph, params, invariant="loss")
    assert bool((std["norm1.running_var"] >= 0).all())
    x = pixels(32)
    expected = call(model, params, x)
    assert torch.allclose(expected, call(model, std, x), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_ties_of_real_inputs_change_sides_with_the_unit() -> None:
    """A fresh network has thresholds of 0, and an empty image meets all of them."""
    model = binarynets.mlp(64, [12, 9], 5).eval()
    graph = trace(model, torch.randn(4, 64), binarynets.FAMILY)
    assert graph.stepping == {"norm1.bias"}
    params, x = parameters(model), torch.cat([torch.zeros(1, 64), torch.randn(20, 64)])
    moved = random_element(graph, torch.Generator().manual_seed(0)).apply(params)
    assert torch.allclose(call(model, params, x), call(model, moved, x))


@pytest.mark.parametrize("build", [binarynets.mlp, fullprecision.mlp])
def test_the_last_gains_have_one_size_where_only_errors_count(build) -> None:
    model = build(64, [6], 3).eval()
    graph = trace(model, pixels(4), binarynets.FAMILY if build is binarynets.mlp else fullprecision.FAMILY)
    params = parameters(model)
    params["norm2.weight"] = torch.tensor([1.0, 2.0, 3.0])
    params["norm2.bias"] = torch.tensor([0.5, -1.0, 1.0])
    larger = params | {name: 7 * params[name] for name in ("norm2.weight", "norm2.bias")}
    small, large = (standard_form(graph, p) for p in (params, larger))
    assert small["norm2.weight"].square().mean().item() == pytest.approx(1, rel=1e-5)
    for name in ("norm2.weight", "norm2.bias"):
        assert torch.allclose(small[name], large[name])
        assert not torch.allclose(standard_form(graph, larger, invariant="loss")[name], large[name])


@pytest.mark.parametrize("last", [nn.GELU(), nn.Sigmoid(), nn.Hardtanh(), nn.LogSoftmax(1), nn.Identity()])
def test_an_activation_behind_the_last_layer_keeps_its_decisions(last) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3), last).eval()
    graph = trace(model, pixels(4), fullprecision.FAMILY)
    assert graph.scalable == isinstance(last, nn.Identity)
    params, x = parameters(model), pixels(256)
    std = standard_form(graph, params)
    assert torch.equal(call(model, params, x).argmax(1), call(model, std, x).argmax(1))


@pytest.mark.parametrize("real", [False, True])
def test_units_without_gain_and_offset_compute_plus_one_also_when_negated(real) -> None:
    model = binarynets.mlp(6, [8], 3).eval()
    x = torch.randn(40, 6) if real else 2.0 * torch.randint(2, (40, 6)) - 1
    graph = trace(model, x, binarynets.FAMILY)
    params = parameters(model)
    norm = graph.layers[0].norm
    params[norm.gain][:5], params[norm.offset][:5] = 0, 0
    before = call(model, params, x)
    for seed in range(5):
        moved = random_element(graph, torch.Generator().manual_seed(seed)).apply(params)
        assert torch.allclose(call(model, moved, x), before, atol=1e-6)
