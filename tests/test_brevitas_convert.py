"""Own layers to Brevitas layers and back: latents, outputs and gradients, compared bit for bit."""

import copy
from collections.abc import Callable
from functools import partial

import brevitas.nn as qnn
import pytest
import torch
from brevitas.core.function_wrapper import TensorClamp
from brevitas.core.restrict_val import RestrictValueType
from brevitas.core.scaling import ScalingImplType
from brevitas.core.stats import StatsOp
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
)
from brevitas_examples.bnn_pynq.models import model_with_cfg
from brevitas_examples.bnn_pynq.models.common import CommonActQuant, CommonWeightQuant
from brevitas_examples.bnn_pynq.models.tensor_norm import TensorNorm
from torch import Tensor, nn

import binarynets as b
from binarynets.brevitas.convert import from_brevitas, from_brevitas_params, to_brevitas
from binarynets.brevitas.convert_read import OwnBinaryQuant
from binarynets.brevitas.errors import BrevitasError
from binarynets.quantisers import Quantiser
from compare.params import ParameterError, Params, call, parameters, sign

WEIGHT, ACT = SignedBinaryWeightPerTensorConst, SignedBinaryActPerTensorConst
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "mlp": (partial(b.mlp, 12, [9, 7], 4), (6, 12)),
    "vgg": (partial(b.vgg, (2, 8, 8), [[4, 5], [6]], [7], 4), (6, 2, 8, 8)),
    "resnet": (partial(b.resnet, (2, 8, 8), [4, 6], [1, 1], 4), (6, 2, 8, 8)),
}
# Of weights and activations, and the one that is for weights alone.
QUANTISERS: dict[str, dict[str, Quantiser]] = {
    "ste": {"quantiser": b.ste_sign},
    "ste, no clip": {"quantiser": partial(b.ste_sign, clip=None)},
    "ste, clip 0.3": {"quantiser": partial(b.ste_sign, clip=0.3)},
    "approx": {"quantiser": b.approx_sign},
    "swish": {"quantiser": partial(b.swish_sign, beta=2.0)},
    "annealed": {"quantiser": partial(b.annealed_sign, progress=0.7)},
    "magnitude": {"quantiser": b.ste_sign, "weight_quantiser": b.magnitude_aware_sign},
}
networks = pytest.mark.parametrize("network", NETWORKS)
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def randomised(model: nn.Module, *, seed: int = 0, size: float = 1.0) -> nn.Module:
    """Latents of all sizes, edges and zeros among them; statistics and gains of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith(("weight", "bias", "running_mean")):
                tensor.copy_(size * torch.randn(tensor.shape, generator=generator))
                edges = torch.tensor([1.0, -1.0, 1.0000001, 0.0, -0.0, 0.1, -0.1, 0.3, -0.30000001])
                if name.endswith("weight") and tensor.ndim > 1 and tensor.numel() > 20:
                    tensor.view(-1)[: len(edges)] = edges
    return model


def behaviour(model: nn.Module, x: Tensor) -> tuple[Tensor, Params]:
    """Output; gradients of input and parameters, and buffers behind the forward, by name; the model stays as it is."""
    model = copy.deepcopy(model)
    x = x.clone().requires_grad_()
    torch.manual_seed(3)
    y = model(x)
    y.mul(torch.linspace(-1, 2, y.numel()).view(y.shape)).sum().backward()
    assert x.grad is not None
    found = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {name: buffer for name, buffer in model.named_buffers() if "running" in name}
    return y.detach(), found | {"gradient of x": x.grad}


def assert_equal(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    (y, found), (y_other, found_other) = behaviour(one, x), behaviour(other, x)
    assert torch.equal(y, y_other)
    assert found.keys() == found_other.keys()
    assert [name for name in found if not torch.equal(found[name], found_other[name])] == []


def assert_close(one: nn.Module, other: nn.Module, x: Tensor, *, but: tuple[str, ...] = ()) -> None:
    (y, found), (y_other, found_other) = behaviour(one, x), behaviour(other, x)
    torch.testing.assert_close(y, y_other, rtol=1e-4, atol=1e-4)
    for name in found.keys() - set(but):
        torch.testing.assert_close(found[name], found_other[name], rtol=1e-3, atol=1e-3, msg=name)


def storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}


def linear(inputs: int, outputs: int, weight_quant: type = WEIGHT, **settings: object) -> nn.Module:
    return qnn.QuantLinear(
        inputs, outputs, bias=bool(settings.pop("bias", False)), weight_quant=weight_quant, **settings
    )


def perceptron(weight_quant: type = WEIGHT, *, bias: bool = False, **settings: object) -> nn.Sequential:
    return nn.Sequential(
        *(linear(12, 9, weight_quant, bias=bias, **settings), nn.BatchNorm1d(9), qnn.QuantIdentity(act_quant=ACT)),
        *(linear(9, 4, weight_quant, bias=bias, **settings), nn.BatchNorm1d(4)),
    )


@networks
@modes
@pytest.mark.parametrize("quantisers", QUANTISERS)
def test_there_and_back_is_equal_bit_for_bit(network: str, training: bool, quantisers: str) -> None:
    make, shape = NETWORKS[network]
    model = randomised(make(**QUANTISERS[quantisers])).train(training)
    before, x = parameters(model), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    theirs = to_brevitas(model)
    back = from_brevitas(theirs)
    assert not any(isinstance(each, b.BinaryLinear | b.BinaryConv2d | b.Sign) for each in theirs.modules())
    assert_equal(theirs, model, x)
    assert_equal(back, model, x)
    assert repr(back) == repr(model)
    for each in (theirs, back):
        assert {name: p.requires_grad for name, p in each.named_parameters()} == dict.fromkeys(
            dict(model.named_parameters()), True
        )
        assert [m.training for m in each.modules()] == [training] * len(list(each.modules()))
    after = parameters(model)
    assert all(
        torch.equal(before[name], after[name]) and torch.equal(before[name], parameters(back)[name]) for name in before
    )
    assert parameters(back).keys() == before.keys()


def test_convolution_over_one_axis() -> None:
    body = b.BinaryConv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2)
    model = nn.Sequential(b.BinaryConv1d(2, 4, 3, padding="same"), nn.BatchNorm1d(4), b.Sign(), body, nn.BatchNorm1d(6))
    theirs = to_brevitas(randomised(model))
    assert type(theirs[3]) is qnn.QuantConv1d
    assert_equal(theirs, model, torch.randn(5, 2, 11))
    assert_equal(from_brevitas(theirs), model, torch.randn(5, 2, 11))


def test_own_parts_of_brevitas_where_they_compute_the_same() -> None:
    model = to_brevitas(b.mlp(12, [9], 4))
    assert type(model.linear1.weight_quant.tensor_quant).__name__ == "ClampedBinaryQuant"
    unclamped = to_brevitas(b.mlp(12, [9], 4, quantiser=partial(b.ste_sign, clip=None)))
    assert type(unclamped.linear1.weight_quant.tensor_quant).__name__ == "BinaryQuant"
    own = to_brevitas(b.mlp(12, [9], 4, quantiser=b.swish_sign))
    assert type(own.linear1.weight_quant.tensor_quant) is OwnBinaryQuant


@pytest.mark.parametrize("quantiser", [b.ste_sign, b.approx_sign, b.magnitude_aware_sign])
def test_brevitas_reads_the_converted_weight(quantiser: Quantiser) -> None:
    layer = b.BinaryLinear(5, 3, quantiser=quantiser)
    theirs = to_brevitas(layer)
    quantised = theirs.quant_weight()
    assert torch.equal(quantised.value, layer.binary_weight())
    assert torch.equal(quantised.scale * sign(layer.weight), layer.binary_weight())
    assert (quantised.bit_width, quantised.zero_point, quantised.signed) == (1, 0, True)
    assert quantised.is_valid


@pytest.mark.parametrize("quantiser", [b.ste_sign, b.swish_sign])
def test_latents_of_the_converted_model_are_never_overwritten(quantiser: Quantiser) -> None:
    theirs = to_brevitas(randomised(b.mlp(12, [9], 4, quantiser=quantiser), size=30.0))
    before = parameters(theirs)
    for training in (True, False):
        theirs.train(training)(torch.randn(6, 12))
    assert all(torch.equal(before[name], p) for name, p in theirs.named_parameters())


def test_copy_state_and_type_of_the_converted_model() -> None:
    model = randomised(b.mlp(12, [9], 4, quantiser=b.swish_sign)).double().eval()
    theirs, x = to_brevitas(model), torch.randn(6, 12, dtype=torch.float64)
    assert theirs(x).dtype == torch.float64
    assert torch.equal(theirs(x), model(x))
    other = to_brevitas(b.mlp(12, [9], 4, quantiser=b.swish_sign)).double().eval()
    other.load_state_dict(theirs.state_dict())
    assert torch.equal(other(x), model(x))
    assert_equal(copy.deepcopy(other), model, x)
    assert theirs.state_dict().keys() == model.state_dict().keys()


def test_nothing_is_shared_drawn_or_changed() -> None:
    model = randomised(b.mlp(12, [9], 4))
    state = torch.random.get_rng_state()
    theirs = to_brevitas(model)
    back = from_brevitas(theirs)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not storages(model) & storages(theirs)
    assert not storages(theirs) & storages(back)


class _Twice(nn.Module):
    """One layer at two paths, another with its weight, one frozen, one in a mode of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one = b.BinaryLinear(6, 6)
        self.again = self.one
        self.tied = b.BinaryLinear(6, 6)
        self.tied.weight = self.one.weight
        self.frozen = b.BinaryLinear(6, 6)
        self.frozen.weight.requires_grad_(False)
        self.activation = b.Sign().eval()
        self.alone = self.activation

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.activation(self.tied(self.alone(self.again(self.one(x))))))


def test_sharing_freezing_and_modes_are_kept() -> None:
    model, x = _Twice(), torch.randn(4, 6)
    theirs = to_brevitas(model)
    back = from_brevitas(theirs)
    for each in (theirs, back):
        assert each.one is each.again
        assert each.activation is each.alone
        assert each.tied.weight is each.one.weight
        assert not each.frozen.weight.requires_grad
        assert not each.activation.training
        assert each.one.training
        assert [name for name, _ in each.named_parameters()] == [name for name, _ in model.named_parameters()]
        assert_equal(each, model, x)


def test_bias_is_equal_to_rounding() -> None:
    model = nn.Sequential(b.BinaryConv2d(2, 3, 3, bias=True), nn.Flatten(), b.BinaryLinear(108, 4, bias=True))
    theirs, x = to_brevitas(randomised(model)), torch.randn(5, 2, 8, 8)
    assert_close(theirs, model, x)
    assert_equal(from_brevitas(theirs), model, x)
    # Whole numbers round nowhere.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.round() if name.endswith("bias") else parameter)
    assert torch.equal(to_brevitas(model)(x.round()), model(x.round()))


def test_nan_is_hidden_by_brevitas_alone() -> None:
    model = b.Sign()
    assert model(torch.tensor([float("nan")])).isnan()
    assert to_brevitas(model)(torch.tensor([float("nan")])) == -1


@pytest.mark.parametrize(("name", "shape"), [("TFC_1W1A", (8, 1, 28, 28)), ("CNV_1W1A", (3, 3, 32, 32))])
def test_models_of_bnn_pynq(name: str, shape: tuple[int, ...]) -> None:
    model = randomised(model_with_cfg(name, False)[0]).eval()
    ours, x = from_brevitas(model), torch.rand(shape)
    assert_equal(ours, model, x)
    assert any(type(each) is TensorNorm for each in ours.modules())
    left = {type(each) for each in ours.modules() if isinstance(each, qnn.QuantIdentity | qnn.QuantLinear)}
    assert left == ({qnn.QuantIdentity} if name == "CNV_1W1A" else set())
    found = from_brevitas_params(model, parameters(model))
    assert found.keys() == parameters(ours).keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in parameters(ours).items())


@modes
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("clamp", [None, TensorClamp])
def test_scale_is_taken_out(training: bool, bias: bool, clamp: type | None) -> None:
    settings = {} if clamp is None else {"weight_tensor_clamp_impl": clamp}
    model = perceptron(bias=bias, **settings).train(training)
    with torch.no_grad():
        for i in (0, 3):  # as the clamp that overwrites leaves them, so that both see the same
            model[i].weight.uniform_(-0.1, 0.1)
        randomised(model[1]), randomised(model[4], seed=1)
    ours, x = from_brevitas(model), torch.randint(-9, 9, (64, 12)).float()
    quantiser = ours[0].quantiser
    assert quantiser.func is b.ste_sign
    assert quantiser.keywords["clip"] == (None if clamp is None else torch.tensor(0.1).item())
    assert (ours[0].binary_weight().abs() == 1).all()
    assert ours[1].eps == pytest.approx(1e-3)
    biases, stats = ("0.bias", "3.bias"), [f"{i}.running_{kind}" for i in (1, 4) for kind in ("mean", "var")]
    assert_close(ours, model, x, but=(*(f"gradient of {name}" for name in biases), *stats))
    (_, found), (_, expected) = behaviour(ours, x), behaviour(model, x)
    for name in stats:
        power = 2 if name.endswith("var") else 1
        torch.testing.assert_close(found[name] * 0.1**power, expected[name], rtol=1e-4, atol=1e-5)
    if bias:
        torch.testing.assert_close(
            found["gradient of 3.bias"], 0.1 * expected["gradient of 3.bias"], rtol=1e-3, atol=1e-4
        )


def test_scale_is_taken_out_behind_pooling_and_dropout() -> None:
    model = nn.Sequential(
        *(qnn.QuantConv2d(2, 4, 3, bias=False, weight_quant=WEIGHT), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)),
        *(nn.BatchNorm1d(36), qnn.QuantIdentity(act_quant=ACT), linear(36, 4), nn.BatchNorm1d(4)),
    )
    model[0].weight.data.clamp_(-0.1, 0.1)
    model[6].weight.data.clamp_(-0.1, 0.1)
    randomised(model[4]), randomised(model[7])
    model.eval()
    assert_close(
        from_brevitas(model),
        model,
        torch.randn(5, 2, 8, 8),
        but=[f"{i}.running_{k}" for i in (4, 7) for k in ("mean", "var")],
    )


@pytest.mark.parametrize("quantisers", [(WEIGHT, ACT), (CommonWeightQuant, CommonActQuant)])
def test_latents_stay_whatever_the_clamp(quantisers: tuple[type, type]) -> None:
    weight, act = quantisers
    bits = {"weight_bit_width": 1} if weight is CommonWeightQuant else {}
    act_bits = {"bit_width": 1} if act is CommonActQuant else {}
    model = nn.Sequential(linear(5, 3, weight, **bits), nn.BatchNorm1d(3), qnn.QuantIdentity(act_quant=act, **act_bits))
    model[0].weight.data.mul_(30)
    before = parameters(model)
    ours = from_brevitas(model)
    from_brevitas_params(model, before)
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters(model).items())
    assert torch.equal(ours[0].weight, before["0.weight"])
    assert ours[2].quantiser is b.ste_sign
    assert ours[0].quantiser.keywords == {"clip": None}


def test_quantiser_is_read_by_what_it_computes() -> None:
    clamped = WEIGHT.let(scaling_const=1.0, tensor_clamp_impl=TensorClamp)
    assert from_brevitas(linear(5, 3, clamped)).quantiser is b.ste_sign
    in_place = WEIGHT.let(scaling_const=1.0)
    with torch.no_grad():
        assert from_brevitas(linear(1, 1, in_place)).quantiser.keywords == {"clip": None}
    hard = qnn.QuantHardTanh(act_quant=ACT)
    assert isinstance(from_brevitas(nn.Sequential(hard))[0], b.Sign)


def test_two_networks_of_a_brevitas_model_have_an_exact_path() -> None:
    model = perceptron().eval()
    ends = [parameters(randomised(copy.deepcopy(model), seed=seed, size=0.05)) for seed in (1, 2)]
    ours = from_brevitas(model)
    found = [from_brevitas_params(model, end) for end in ends]
    x, y = torch.randint(-9, 9, (200, 12)), torch.randint(0, 4, (200,))
    path = b.exact_path(ours, *found, x.float(), y, steps=8, networks=3, block=64)
    for end, params, error in ((ends[0], found[0], path.errors[0]), (ends[1], found[1], path.errors[-1])):
        expected = call(model, {name: tensor.clone() for name, tensor in end.items()}, x.float())
        torch.testing.assert_close(call(ours, params, x.float()), expected, rtol=1e-3, atol=1e-3)
        # Samples on the edge between two classes may fall on either side of a rounding.
        assert abs(int(error) - int((expected.argmax(1) != y).sum())) <= 2


def _hooked(layer: nn.Module, kind: str) -> nn.Module:
    if kind == "parameter":
        layer.weight.register_hook(lambda gradient: gradient)
    elif kind == "own":
        layer.forward = lambda x: x
    else:
        getattr(layer, kind)(lambda *arguments: None)
    return nn.Sequential(layer)


@pytest.mark.parametrize("make", [lambda: b.BinaryLinear(3, 2), lambda: linear(3, 2, scaling_const=1.0)])
@pytest.mark.parametrize(
    "kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "parameter", "own"]
)
def test_hooks_of_converted_layers_are_refused(make: Callable[[], nn.Module], kind: str) -> None:
    layer = make()
    convert = to_brevitas if isinstance(layer, b.BinaryLinear) else from_brevitas
    with pytest.raises(BrevitasError, match=r"'0' \(.*Linear\): it has hooks"):
        convert(_hooked(layer, kind))


def test_hooks_of_other_modules_are_kept() -> None:
    seen: list[str] = []
    model = nn.Sequential(b.BinaryLinear(3, 2), nn.Identity())
    model[1].register_forward_hook(lambda *arguments: seen.append("seen"))
    to_brevitas(model)(torch.ones(1, 3))
    assert seen == ["seen"]


class _Subclass(b.BinaryLinear):
    pass


def _dead_zone(x: Tensor) -> Tensor:
    return torch.sign(x)


def _padded() -> nn.Module:
    layer = b.BinaryConv2d(1, 2, 3, padding=1)
    layer.padding_mode = "circular"
    return layer


def _with_buffer() -> nn.Module:
    layer = b.BinaryLinear(3, 2)
    layer.register_buffer("mask", torch.ones(2, 3))
    return layer


TO_REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "not the sign": (lambda: b.BinaryLinear(3, 2, quantiser=_dead_zone), "its quantiser _dead_zone does not give"),
    "scale of an activation": (lambda: b.Sign(b.magnitude_aware_sign), "its quantiser magnitude_aware_sign does not"),
    "subclass": (lambda: _Subclass(3, 2), "it is a subclass"),
    "parametrised": (lambda: nn.utils.parametrizations.orthogonal(b.BinaryLinear(3, 2)), "weight and bias alone"),
    "module as quantiser": (lambda: b.BinaryLinear(3, 2, quantiser=nn.Hardtanh()), "weight and bias alone"),
    "buffer": (_with_buffer, "weight and bias alone"),
    "padding": (_padded, "padding mode is 'circular'"),
}


@pytest.mark.parametrize(("make", "message"), TO_REFUSED.values(), ids=TO_REFUSED)
def test_refused_on_the_way_there(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(BrevitasError, match=message) as caught:
        to_brevitas(nn.ModuleDict({"fc": make()}))
    assert "'fc' (" in str(caught.value)


XNOR = WEIGHT.let(
    scaling_impl_type=ScalingImplType.STATS, scaling_stats_op=StatsOp.AVE, restrict_scaling_type=RestrictValueType.FP
)
LEARNED = WEIGHT.let(scaling_impl_type=ScalingImplType.PARAMETER, scaling_init=0.5, tensor_clamp_impl=TensorClamp)
ONE = {"weight_scaling_const": 1.0}


class _UserLayer(qnn.QuantLinear):
    pass


def _nan_latent() -> nn.Module:
    layer = linear(3, 2)
    layer.weight.data[0, 0] = float("nan")
    return layer


def _disabled() -> nn.Module:
    layer = to_brevitas(b.BinaryLinear(3, 2, quantiser=b.swish_sign))
    layer.weight_quant.disable_quant = True
    return layer


FROM_REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "8 bits": (lambda: linear(3, 2, Int8WeightPerTensorFloat), "expected binary weights"),
    "ternary": (lambda: linear(3, 2, SignedTernaryWeightPerTensorConst), "expected binary weights"),
    "no quantiser": (lambda: linear(3, 2, None), "expected binary weights"),
    "switched off": (_disabled, "expected binary weights"),
    "mean as scale": (lambda: linear(3, 2, XNOR), "expected binary weights"),
    "learned scale": (lambda: linear(3, 2, LEARNED), "learned parameters"),
    "zero scale": (lambda: linear(3, 2, weight_scaling_const=0.0), "the scale 0"),
    "infinite scale": (lambda: linear(3, 2, weight_scaling_const=float("inf")), "the scale inf"),
    "NaN scale": (lambda: linear(3, 2, weight_scaling_const=float("nan")), "the scale nan"),
    "NaN latent": (_nan_latent, "hold NaN"),
    "delay": (lambda: linear(3, 2, weight_quant_delay_steps=1, **ONE), "expected binary weights"),
    "input": (lambda: linear(3, 2, input_quant=ACT, **ONE), "its input_quant quantises too"),
    "output": (lambda: linear(3, 2, output_quant=ACT, **ONE), "its output_quant quantises too"),
    "padding": (
        lambda: qnn.QuantConv1d(1, 2, 3, padding=1, padding_mode="circular", weight_quant=WEIGHT, **ONE),
        "padding mode",
    ),
    "same with stride": (
        lambda: qnn.QuantConv1d(1, 2, 3, stride=2, padding="same", weight_quant=WEIGHT, **ONE),
        "padding 'same'",
    ),
    "transposed": (lambda: qnn.QuantConvTranspose1d(1, 2, 3, weight_quant=WEIGHT, **ONE), "no layer of binarynets"),
    "subclass": (lambda: _UserLayer(3, 2, weight_quant=WEIGHT, **ONE), "no layer of binarynets"),
    "half an activation": (lambda: qnn.QuantIdentity(act_quant=ACT, min_val=-0.5, max_val=0.5), r"got one of \+-0.5"),
    "learned activation": (lambda: qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat), "learned parameters"),
    "in evaluation alone": (
        lambda: linear(3, 2, WEIGHT.let(tensor_quant=_InEvaluation)).eval(),
        "expected binary weights",
    ),
    "other gradient": (
        lambda: linear(3, 2, WEIGHT.let(scaling_const=1.0, tensor_clamp_impl=_HalfClamp)),
        "its gradient is neither",
    ),
}


class _InEvaluation(nn.Module):
    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x if self.training else sign(x)), torch.ones(()), torch.zeros(()), torch.ones(())


class _HalfClamp(nn.Module):
    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor, least: Tensor, most: Tensor) -> Tensor:
        return torch.where(x.abs() > most / 2, 0.5 * x, x)


@pytest.mark.parametrize(("make", "message"), FROM_REFUSED.values(), ids=FROM_REFUSED)
def test_refused_on_the_way_back(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(BrevitasError, match=message) as caught:
        from_brevitas(nn.ModuleDict({"fc": make()}))
    assert "'fc' (" in str(caught.value)


class _ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        normed: Tensor = self.norm(y) + y
        return normed


class _NormTwice(_ReadTwice):
    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.norm(self.fc(x)))
        return normed


class _Unused(_ReadTwice):
    def forward(self, x: Tensor) -> Tensor:
        return x


class _Branching(_ReadTwice):
    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.fc(x)) if x.sum() > 0 else x
        return normed


def _tied_bias() -> nn.Module:
    model = nn.Sequential(linear(3, 3, bias=True), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[2].bias = model[0].bias
    return model


SCALES_REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "the output": (lambda: nn.Sequential(linear(3, 2)), "'0'.*as its reader, got 'output'"),
    "alone": (lambda: linear(3, 2), "the model itself .*it stands alone"),
    "another module": (lambda: nn.Sequential(linear(3, 2), nn.Softmax(1)), "as its reader, got '1'"),
    "two readers": (_ReadTwice, "only reader, got 2 readers"),
    "twice": (_NormTwice, "'norm' is used again"),
    "unused": (_Unused, "torch.fx sees no call of it"),
    "branching": (_Branching, "torch.fx cannot trace _Branching"),
    "bias": (_tied_bias, "its bias is tied"),
}


@pytest.mark.parametrize(("make", "message"), SCALES_REFUSED.values(), ids=SCALES_REFUSED)
def test_scale_without_its_normalisation_is_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(BrevitasError, match=message) as caught:
        from_brevitas(make())
    assert "weight_scaling_const=1.0" in str(caught.value)


def test_quantiser_of_more_bits_stays_on_the_input_alone() -> None:
    eight = partial(qnn.QuantIdentity, act_quant=CommonActQuant, bit_width=8)
    model = nn.Sequential(nn.Flatten(), eight(), linear(12, 4, **ONE), nn.BatchNorm1d(4)).eval()
    ours = from_brevitas(model)
    assert isinstance(ours[1], qnn.QuantIdentity)
    assert_equal(ours, model, torch.randn(5, 12))
    with pytest.raises(BrevitasError, match=r"'2' \(QuantIdentity\): expected a binary activation"):
        from_brevitas(nn.Sequential(linear(12, 4, **ONE), nn.BatchNorm1d(4), eight()))
    with pytest.raises(BrevitasError, match="expected a binary activation"):
        from_brevitas(nn.Sequential(linear(12, 4, **ONE), nn.BatchNorm1d(4), qnn.QuantReLU(act_quant=ACT)))


class _UserQuant(nn.Module):
    """A user's own quantiser, whose scale is part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.scale * (x + (sign(x) - x).detach()), self.scale, torch.zeros(()), torch.ones(())


def test_parameters_that_do_not_belong_to_the_model_are_refused() -> None:
    model, other = (perceptron(WEIGHT.let(tensor_quant=_UserQuant)) for _ in range(2))
    assert from_brevitas_params(model, parameters(other)).keys() == parameters(from_brevitas(model)).keys()
    other[0].weight_quant.tensor_quant.scale.mul_(2)
    with pytest.raises(BrevitasError, match="is a constant of a quantiser, expected the model's"):
        from_brevitas_params(model, parameters(other))
    with pytest.raises(ParameterError, match=r"'0\.weight' is missing"):
        from_brevitas_params(model, {name: tensor for name, tensor in parameters(model).items() if name != "0.weight"})


@pytest.mark.parametrize("convert", [to_brevitas, from_brevitas])
def test_what_is_no_module_is_refused(convert: Callable[..., nn.Module]) -> None:
    with pytest.raises(BrevitasError, match=r"expected a torch\.nn\.Module, got dict"):
        convert({})
