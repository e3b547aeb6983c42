"""The exact landscape of binary Brevitas models: counted in own layers, compared with Brevitas's own forward."""

import brevitas.nn as qnn
import pytest
import torch
from brevitas.quant import Int8ActPerTensorFloat, SignedBinaryActPerTensorConst, SignedBinaryWeightPerTensorConst
from brevitas_examples.bnn_pynq.models import model_with_cfg
from torch import nn

import binarynets
import compare
from binarynets.brevitas import FAMILY, INT4, BrevitasError, counterpart, plain, settled
from compare.symmetry import random_element


def perceptron(scale: float) -> nn.Sequential:
    weight = {"weight_quant": SignedBinaryWeightPerTensorConst, "weight_scaling_const": scale, "bias": False}
    return nn.Sequential(
        nn.Flatten(),
        qnn.QuantLinear(64, 15, **weight),
        nn.BatchNorm1d(15),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
        qnn.QuantLinear(15, 11, **weight),
        nn.BatchNorm1d(11),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
        qnn.QuantLinear(11, 10, **weight),
        nn.BatchNorm1d(10),
    )


def drawn(model: nn.Module, seed: int) -> compare.Params:
    """Random parameters and statistics of the size that pre-activations have."""
    generator = torch.Generator().manual_seed(seed)
    params = {}
    for name, tensor in compare.parameters(model).items():
        noise = torch.randn(tensor.shape, generator=generator)
        last = name.rpartition(".")[2]
        if not tensor.is_floating_point():
            params[name] = tensor
        elif last == "running_var":
            params[name] = noise.exp() * 10
        elif last == "weight" and tensor.ndim == 1:
            params[name] = 1 + 0.3 * noise
        else:
            params[name] = noise
    return params


def wrong(model: nn.Module, params: compare.Params, split) -> int:
    """Errors of Brevitas's own forward."""
    own = {name: tensor.clone() for name, tensor in params.items()}
    logits = torch.func.functional_call(model.eval(), own, (split.x,))
    return int((logits.argmax(1) != split.y).sum())


@pytest.fixture(scope="module")
def digits() -> compare.Data:
    return compare.load_data("digits")


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_networks_of_a_path_are_brevitas_own(digits, scale) -> None:
    model = perceptron(scale)
    a, b = drawn(model, 1), drawn(model, 2)
    own, split = counterpart(model), digits.test.subset(200)
    x = own.inputs(split.x)
    path = binarynets.exact_path(own.model, own.params(a), own.params(b), x, split.y, "latent-line")
    assert path.complete
    line = compare.linear_path(compare.trace(model, split.x[:8], FAMILY), a, b)
    grid = path.grid_t.tolist()[::40]
    expected = [wrong(model, line(t), split) for t in grid]
    curve = compare.error_curve(plain(model), line, split, grid)
    assert [round(error * 200) for error in curve.errors] == expected
    for t, errors in zip(grid, expected, strict=True):
        # At a point of the grid the thresholds are the path's own; flips up to it have happened.
        entered = int((path.event_t <= t).sum()) - 1
        assert int(path.event_errors[entered]) == errors


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_integer_form_decides_as_brevitas_does(digits, scale) -> None:
    model = perceptron(scale)
    own = counterpart(model)
    for seed in range(5):
        params = drawn(model, seed)
        integer = binarynets.to_integer(own.model, own.params(params))
        assert integer.errors(own.inputs(digits.test.x), digits.test.y) == wrong(model, params, digits.test)


@pytest.mark.parametrize("name", ["TFC_1W1A", "SFC_1W1A"])
def test_bnn_pynq_networks_are_counted_behind_their_own_preparation(name) -> None:
    model = model_with_cfg(name, False)[0].eval()
    x = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    params = drawn(model, 3)
    norm = next(name for name, module in model.named_modules() if type(module).__name__ == "TensorNorm")
    params[f"{norm}.weight"], params[f"{norm}.running_var"] = torch.ones(1), torch.ones(1)
    own = counterpart(model)
    assert set(own.inputs(x).unique().tolist()) == {-1.0, 1.0}
    y = torch.func.functional_call(model, {n: t.clone() for n, t in params.items()}, (x,)).argmax(1)
    assert binarynets.to_integer(own.model, own.params(params)).errors(own.inputs(x), y) == 0
    params[f"{norm}.weight"] = -torch.ones(1)
    with pytest.raises(BrevitasError, match="its gain is not positive"):
        own.params(params)


def test_digests_of_symmetric_copies_are_equal_and_of_others_differ(digits) -> None:
    model = perceptron(1.0)
    a, own = drawn(model, 1), counterpart(model)
    element = random_element(compare.trace(model, digits.train.x[:8], FAMILY), torch.Generator().manual_seed(5))
    x = own.inputs(digits.train.x[:8])
    first, same, other = (
        binarynets.digest(own.model, own.params(params), example_input=x)
        for params in (a, element.apply(a), drawn(model, 2))
    )
    assert first == same != other


def test_connect_counts_it_and_says_why_not(digits) -> None:
    model = perceptron(0.1)
    record = compare.connect(FAMILY, model, drawn(model, 1), drawn(model, 2), digits, points=3, samples=60)
    assert record.landscape is not None
    own = [c for c in record.landscape.curves if (c.statistics, c.split) == ("interpolated", "test")]
    usual = next(
        curve
        for curve in record.curves
        if (curve.treatment, curve.statistics, curve.split, curve.path) == ("matched", "interpolated", "test", "linear")
    )
    assert {curve.ends for curve in own} == {(usual.errors[0], usual.errors[-1])}
    model[3] = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat)
    model.train()(digits.train.x[:10])
    model = settled(model)
    record = compare.connect(FAMILY, model, drawn(model, 1), drawn(model, 2), digits, points=3, samples=60)
    assert record.landscape is None
    assert any("no exact landscape" in note for note in record.notes)


def test_networks_without_binary_weights_have_none_and_need_no_note(digits) -> None:
    model = INT4.networks["mlp"](64, [8], 10)
    a, b = drawn(model, 1), drawn(model, 2)
    record = compare.connect(INT4, model, a, b, digits, points=3, samples=60)
    assert record.landscape is None
    assert not any("landscape" in note for note in record.notes)
