"""Corners of the adapter where a quicker reading of a quantiser went wrong once."""

import copy

import brevitas.nn as qnn
import pytest
import torch
from brevitas.quant import (
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerTensorFloat,
    Int32Bias,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
)
from brevitas.quant.float_quant_ocp import Fp8e4m3OCPActPerTensorFloat
from torch import Tensor, nn
from torch.func import functional_call

import compare
from binarynets.brevitas import FAMILY, BrevitasError, effective, plain, settled
from compare.evaluation.statistics import calibrator, re_estimated
from compare.params import ParameterError
from compare.symmetry import random_element

WEIGHT = {"weight_quant": Int8WeightPerTensorFloat, "bias": False}


def relu(**options) -> nn.Module:
    return qnn.QuantReLU(max_val=3.0, scaling_impl_type="const", **options)


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brevitas(model: nn.Module, x: Tensor, params: compare.Params | None = None) -> Tensor:
    """Brevitas's own forward, on copies."""
    working = copy.deepcopy(model).eval()
    with torch.no_grad():
        found = functional_call(working, {n: t.clone() for n, t in (params or {}).items()}, (x,))
    return getattr(found, "value", found)


def test_a_learned_bit_width_is_read_from_the_parameters_at_hand() -> None:
    torch.manual_seed(0)
    act = relu(bit_width=4, bit_width_impl_type="parameter")
    model = nn.Sequential(qnn.QuantLinear(12, 10, **WEIGHT), act, qnn.QuantLinear(10, 4, **WEIGHT)).eval()
    x, params = inputs(64, 12), compare.parameters(model)
    (name,) = [name for name in params if "bit_width" in name]
    params[name] = params[name] - 1.5
    assert not torch.equal(brevitas(model, x), brevitas(model, x, params))
    assert torch.equal(compare.call(plain(model, x), params, x), brevitas(model, x, params))


def test_many_bits_are_tried_where_they_end() -> None:
    act = qnn.QuantIdentity(bit_width=16, min_val=-40000.0, max_val=40000.0, scaling_impl_type="const")
    model = nn.Sequential(qnn.QuantLinear(12, 10, **WEIGHT), act, qnn.QuantLinear(10, 4, **WEIGHT)).eval()
    x = 1e5 * inputs(64, 12)
    assert torch.equal(compare.call(plain(model), {}, x), brevitas(model, x))
    (block,) = compare.trace(model, inputs(64, 12), FAMILY).blocks[:1]
    assert not block.signs  # the lowest integer has no counterpart


def test_a_learned_scale_that_is_one_now_makes_no_integers() -> None:
    class Learned(SignedBinaryActPerTensorConst):
        scaling_impl_type = "parameter"
        scaling_init = 1.0

    weight = {"weight_quant": SignedBinaryWeightPerTensorConst, "weight_scaling_const": 1.0, "bias": False}
    act = qnn.QuantIdentity(act_quant=Learned)
    model = nn.Sequential(
        qnn.QuantLinear(12, 9, **weight), nn.BatchNorm1d(9), act, qnn.QuantLinear(9, 4, **weight), nn.BatchNorm1d(4)
    ).eval()
    x = inputs(64, 12).sign()
    assert [layer.integer for layer in compare.trace(model, x, FAMILY).layers] == [True, False]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = qnn.QuantLinear(12, 12, bias=True, weight_quant=Int8WeightPerTensorFloat, bias_quant=Int32Bias)
        self.wide, self.narrow = relu(return_quant_tensor=True), qnn.QuantReLU(
            max_val=0.7, scaling_impl_type="const", return_quant_tensor=True
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.map(self.narrow(self.map(self.wide(x))))


def test_one_bias_behind_two_scales_is_refused() -> None:
    with pytest.raises(BrevitasError, match="its bias is quantised with the scale of its input"):
        plain(Twice().eval())


def test_floating_point_activations_are_read_and_admit_no_more_than_renaming() -> None:
    act = qnn.QuantIdentity(act_quant=Fp8e4m3OCPActPerTensorFloat)
    model, x = nn.Sequential(qnn.QuantLinear(12, 10, **WEIGHT), act, qnn.QuantLinear(10, 4, **WEIGHT)), inputs(64, 12)
    with torch.no_grad():
        model.train()(x)
    model = settled(model).eval()
    assert torch.equal(compare.call(plain(model, x), {}, x), brevitas(model, x))
    block = compare.trace(model, x, FAMILY).blocks[0]
    assert (block.size, block.signs, block.scales) == (10, False, False)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(self.norm(x)))


def test_statistics_of_a_normalisation_that_is_called_twice_are_means_over_all_calls() -> None:
    torch.manual_seed(0)
    model, x = Shared().eval(), 3 * inputs(100, 6) + 5
    found = re_estimated(calibrator(model), compare.parameters(model), x, batch=50)
    expected = copy.deepcopy(model)
    expected.norm.momentum = None
    expected.norm.reset_running_stats()
    expected.norm.train()
    with torch.no_grad():
        for part in x.chunk(2):
            expected(part)
    assert torch.allclose(found["norm.running_mean"], expected.norm.running_mean)
    assert torch.allclose(found["norm.running_var"], expected.norm.running_var)


def test_scales_of_a_last_axis_move_with_it() -> None:
    act = qnn.QuantReLU(
        bit_width=4,
        scaling_per_output_channel=True,
        per_channel_broadcastable_shape=(1, 1, 7),
        scaling_stats_permute_dims=(2, 0, 1),
    )
    model = nn.Sequential(qnn.QuantLinear(12, 7, **WEIGHT), act, qnn.QuantLinear(7, 4, **WEIGHT))
    x = inputs(20, 5, 12)
    with torch.no_grad():
        model.train()(x * torch.linspace(0.2, 3, 12))
    model = settled(model).eval()
    graph, params = compare.trace(model, x, FAMILY), compare.parameters(model)
    block = graph.blocks[0]
    assert {tie.name for tie in block.ties if "scaling_impl" in tie.name}
    moved = random_element(graph, torch.Generator().manual_seed(1)).apply(params)
    assert any(not torch.equal(moved[name], params[name]) for name in params)
    assert torch.allclose(brevitas(model, x, moved), brevitas(model, x, params), atol=1e-5)


@pytest.mark.parametrize("asked", ["scale", "int", "item"])
def test_a_forward_that_asks_quantised_tensors_for_more_than_values_is_refused(asked) -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.map = relu(return_quant_tensor=True), qnn.QuantLinear(6, 3, **WEIGHT)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(x)
            return self.map({"scale": lambda: y.value / y.scale, "int": lambda: y.int(), "item": lambda: y[0]}[asked]())

    with pytest.raises(BrevitasError, match="the forward asks a quantised tensor for"):
        plain(Asking().eval())


@pytest.mark.parametrize("normalisation", ["kept", "folded"])
@pytest.mark.parametrize("weight", [None, SignedBinaryWeightPerTensorConst, Int8WeightPerTensorFloat])
def test_a_rounded_bias_is_left_alone_by_the_standard_form(weight, normalisation) -> None:
    torch.manual_seed(0)
    bias = {"bias": True, "bias_quant": Int8BiasPerTensorFloatInternalScaling}
    act = qnn.QuantIdentity(bit_width=8, min_val=-3.0, max_val=3.0, scaling_impl_type="const")
    model = nn.Sequential(
        qnn.QuantLinear(12, 9, weight_quant=weight, **bias), nn.BatchNorm1d(9), act, qnn.QuantLinear(9, 4, **WEIGHT)
    )
    x = inputs(400, 12)
    with torch.no_grad():
        model[0].bias.normal_()
        model[1].weight.normal_(1, 0.5)
        model.train()(x)
    model = settled(model).eval().double()
    x = x.double()
    graph, params = compare.trace(model, x[:60], FAMILY), compare.parameters(model)
    form = compare.standard_form(graph, params, invariant="loss", normalisation=normalisation)
    assert torch.allclose(brevitas(model, x, form), brevitas(model, x, params), atol=1e-6)


def test_parameters_that_do_not_fit_are_refused() -> None:
    model = nn.Sequential(qnn.QuantLinear(12, 3, **WEIGHT)).eval()
    for params in ({}, {"0.weight": torch.zeros(3, 3)}):
        with pytest.raises(ParameterError, match="does not fit the network"):
            effective(model, params)


def test_a_sum_of_quantised_tensors_is_read() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = qnn.QuantLinear(12, 6, **WEIGHT), qnn.QuantLinear(12, 6, **WEIGHT)
            self.add, self.last = qnn.QuantEltwiseAdd(), qnn.QuantLinear(6, 3, **WEIGHT)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.add(self.left(x), self.right(x)))

    model, x = Residual(), inputs(60, 12)
    with torch.no_grad():
        model.train()(x)
    model = settled(model).eval()
    assert torch.equal(compare.call(plain(model, x), {}, x), brevitas(model, x))
    (block, *_) = compare.trace(model, x, FAMILY).blocks
    assert {tie.name for tie in block.ties} == {"left.weight", "right.weight", "last.weight"}


def test_gradients_are_refused_and_layers_that_are_not_read_are_named() -> None:
    model, x = nn.Sequential(qnn.QuantLinear(12, 3, **WEIGHT)).eval(), inputs(4, 12)
    with pytest.raises(BrevitasError, match=r"expected torch\.no_grad"):
        plain(model)(x.requires_grad_())

    class Own(qnn.QuantLinear):
        pass

    own = nn.Sequential(Own(12, 3, **WEIGHT)).eval()
    with pytest.raises(compare.SymmetryError, match="Own is not read"):
        compare.trace(own, inputs(4, 12), FAMILY)
