"""Networks written as QONNX: what the file computes, what it holds, what is refused, and that nothing is changed."""

import copy
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8Bias,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryActPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from brevitas_examples.bnn_pynq.models import model_with_cfg
from torch import Tensor, nn

from binarynets.brevitas.checks import settled
from binarynets.brevitas.errors import BrevitasError
from binarynets.brevitas.export import Exported, export_qonnx
from compare.params import Params, lerp, parameters

_REASON = "needs the extra `export`: pip install 'binarynets[export]'"
for _package in ("onnxoptimizer", "onnxruntime", "qonnx"):
    pytest.importorskip(_package, reason=_REASON)
onnx = pytest.importorskip("onnx", reason=_REASON)


def mlp(weight: Any, activation: Any, **settings: Any) -> nn.Module:
    def layer(inputs: int, outputs: int) -> nn.Module:
        return qnn.QuantLinear(inputs, outputs, bias=False, weight_quant=weight, **settings)

    return nn.Sequential(
        nn.Flatten(),
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat),
        layer(12, 9),
        nn.BatchNorm1d(9),
        qnn.QuantIdentity(act_quant=activation),
        layer(9, 4),
        nn.BatchNorm1d(4),
    )


def small(weight: Any, **settings: Any) -> nn.Module:
    return nn.Sequential(qnn.QuantLinear(12, 4, bias=False, weight_quant=weight, **settings), nn.BatchNorm1d(4))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "binary": partial(mlp, SignedBinaryWeightPerTensorConst, SignedBinaryActPerTensorConst),
    "ternary": partial(mlp, SignedTernaryWeightPerTensorConst, SignedTernaryActPerTensorConst),
    "int4": partial(mlp, Int8WeightPerTensorFloat, Int8ActPerTensorFloat, weight_bit_width=4),
    "int4 a channel": partial(mlp, Int8WeightPerChannelFloat, Int8ActPerTensorFloat, weight_bit_width=4),
    "int8": partial(mlp, Int8WeightPerChannelFloat, Int8ActPerTensorFloat),
}


def randomised(model: nn.Module, shape: tuple[int, ...], seed: int, size: float = 1.0) -> nn.Module:
    """Random latents, gains, biases and running statistics; activation scales from a few batches."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for _ in range(3):
        model.train()(torch.rand(8, *shape, generator=generator) * 2 - 1)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.running_mean.copy_(normal(module.running_mean))
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                module.weight.copy_(normal(module.weight))
                module.bias.copy_(normal(module.bias))
            elif hasattr(module, "weight_quant"):
                module.weight.copy_(normal(module.weight) * 0.1 * size)
    return model


def inputs(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def own_output(model: nn.Module, params: Params, x: Tensor) -> Tensor:
    """Brevitas's own forward, of a copy."""
    network = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if name in params:
                tensor.copy_(params[name])
        found: Tensor = network(x.clone())
    return found


def executed(file: Path, x: Tensor) -> Tensor:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    graph = ModelWrapper(str(file))
    return torch.from_numpy(execute_onnx(graph, {graph.graph.input[0].name: x.numpy()})[graph.graph.output[0].name])


def same(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n].numpy(), b[n].numpy(), equal_nan=True) for n in a)


@pytest.mark.parametrize("name", MODELS)
def test_an_end_executes_as_the_model(name: str, tmp_path: Path) -> None:
    model = randomised(MODELS[name](), (12,), seed=1)
    x, file = inputs(6, 12), tmp_path / "end.onnx"
    result = export_qonnx(model, None, x, file)
    expected = own_output(model, parameters(model), x)
    assert result == Exported(file, file.stat().st_size, 6, 6, result.largest_difference, result.equal)
    assert result.largest_difference <= 1e-5
    found = executed(file, x)
    assert torch.equal(found, expected) == result.equal
    assert float((found - expected).abs().max()) == pytest.approx(result.largest_difference)


@pytest.mark.parametrize("name", MODELS)
def test_a_midpoint_of_other_parameters_executes_as_its_network(name: str, tmp_path: Path) -> None:
    model = settled(randomised(MODELS[name](), (12,), seed=1))
    middle = middle_of(model)
    x, file = inputs(6, 12), tmp_path / "middle.onnx"
    assert export_qonnx(model, middle, x, file).largest_difference <= 1e-5
    torch.testing.assert_close(executed(file, x), own_output(model, middle, x), atol=1e-5, rtol=0)
    assert not torch.allclose(executed(file, x), own_output(model, parameters(model), x), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "samples"),
    [("TFC_1W1A", (1, 28, 28), 6), ("TFC_1W2A", (1, 28, 28), 6), ("CNV_1W1A", (3, 32, 32), 2)],
)
def test_networks_of_bnn_pynq_are_equal_bit_for_bit(
    name: str, shape: tuple[int, ...], samples: int, tmp_path: Path
) -> None:
    model = randomised(model_with_cfg(name, False)[0], shape, seed=2)
    x, file = inputs(samples, *shape), tmp_path / "network.onnx"
    result = export_qonnx(model, parameters(model), x, file, tolerance=0)
    assert result.equal
    assert result.largest_difference == 0.0
    expected = own_output(model, parameters(model), x)
    assert len(expected.unique()) > 10  # the logits of samples differ
    assert torch.equal(executed(file, x), expected)


def test_the_file_holds_effective_weights(tmp_path: Path) -> None:
    """A threshold other than half a step, and rounding down: nodes that round to the nearest would differ."""
    floor = partial(small, Int8WeightPerTensorFloat, weight_bit_width=4, weight_float_to_int_impl_type="FLOOR")
    for model in (randomised(floor(), (12,), seed=3), randomised(MODELS["ternary"](), (12,), seed=3)):
        file = tmp_path / "weights.onnx"
        assert export_qonnx(model, None, inputs(6, 12), file).largest_difference <= 1e-5
        held = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in onnx.load(file).graph.initializer}
        for name, module in copy.deepcopy(model).named_modules():
            if hasattr(module, "quant_weight"):
                assert torch.equal(held[f"{name}.weight"], module.quant_weight().value)
                assert not torch.equal(held[f"{name}.weight"], module.weight)


def test_quantised_bias_and_unsigned_activations(tmp_path: Path) -> None:
    model = nn.Sequential(
        qnn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True),
        qnn.QuantLinear(12, 9, bias=True, bias_quant=Int8Bias, weight_bit_width=4),
        qnn.QuantReLU(bit_width=3),
        qnn.QuantLinear(9, 4, bias=True),
    )
    result = export_qonnx(randomised(model, (12,), seed=4), None, inputs(6, 12), tmp_path / "bias.onnx")
    assert result.largest_difference <= 1e-5


def test_the_batch_of_the_file_is_fixed_and_may_be_smaller_than_the_check(tmp_path: Path) -> None:
    model = randomised(MODELS["binary"](), (12,), seed=1)
    x, file = inputs(6, 12), tmp_path / "one.onnx"
    result = export_qonnx(model, None, x, file, batch=1)
    assert (result.batch, result.samples) == (1, 6)
    dims = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 12]
    torch.testing.assert_close(executed(file, x[3:4]), own_output(model, parameters(model), x)[3:4], atol=1e-5, rtol=0)
    for batch in (4, 0, 7):
        with pytest.raises(BrevitasError, match=f"divisor of the 6 samples of x, got {batch}"):
            export_qonnx(model, None, x, file, batch=batch)


@pytest.mark.parametrize("name", ["binary", "int4"])
def test_model_parameters_and_samples_stay_as_they_are(name: str, tmp_path: Path) -> None:
    """The default clamp of Brevitas would overwrite latents of 30 times their size."""
    model = settled(randomised(MODELS[name](), (12,), seed=1, size=30.0))
    params = {n: t * (2 if t.is_floating_point() and "act_quant" not in n else 1) for n, t in parameters(model).items()}
    model.train()
    model[3].eval()
    x = inputs(6, 12)
    for given in (None, params):
        before, copied, samples = parameters(model), {n: t.clone() for n, t in params.items()}, x.clone()
        modes, state = [m.training for m in model.modules()], torch.get_rng_state()
        export_qonnx(model, given, x, tmp_path / "file.onnx")
        assert same(before, parameters(model))
        assert same(copied, params)
        assert torch.equal(x, samples)
        assert modes == [m.training for m in model.modules()]
        assert torch.equal(state, torch.get_rng_state())
        model(x)  # it can still be trained
        model.load_state_dict(model.state_dict() | {n: t for n, t in before.items() if n in model.state_dict()})


def middle_of(model: nn.Module) -> Params:
    a = parameters(model)
    return lerp(a, a | {n: -0.7 * t.roll(1) for n, t in a.items() if n.endswith(".weight") and t.ndim > 1}, 0.4)


def refused(model: nn.Module, file: Path, match: str, params: Params | None = None, x: Tensor | None = None) -> None:
    file.write_text("what was there before")
    with pytest.raises(BrevitasError, match=match):
        export_qonnx(model, params, inputs(6, 12) if x is None else x, file)
    assert file.read_text() == "what was there before"
    assert list(file.parent.iterdir()) == [file]


def test_a_model_without_brevitas_layers_is_refused(tmp_path: Path) -> None:
    refused(nn.Sequential(nn.Linear(12, 4)), tmp_path / "f", "Sequential has no layer of Brevitas.*pass the Brevitas")


@pytest.mark.parametrize("package", ["onnx", "onnxoptimizer", "onnxruntime", "qonnx"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(MODELS["binary"](), tmp_path / "f", rf"needs the package {package} .*pip install 'binarynets\[export\]'")


def test_an_onnx_too_new_for_onnxruntime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = onnx.helper.make_model

    def newer(*args: Any, **settings: Any) -> Any:
        model = make(*args, **settings)
        model.ir_version = 99
        return model

    monkeypatch.setattr(onnx.helper, "make_model", newer)
    refused(MODELS["binary"](), tmp_path / "f", r"too new for this onnxruntime.*binarynets\[export\].*onnx==1")


@pytest.mark.parametrize(("scale", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (0.0, "zero or less")])
def test_constant_scales_of_weights(scale: float, kind: str, tmp_path: Path) -> None:
    model = small(SignedBinaryWeightPerTensorConst, weight_scaling_const=scale)
    refused(model, tmp_path / "f", f"'0': the scale of its weights is {kind}: ")


@pytest.mark.parametrize(("scale", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (0.0, "zero or less")])
def test_scales_of_activations(scale: float, kind: str, tmp_path: Path) -> None:
    model = nn.Sequential(
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst, scaling_init=scale),
        qnn.QuantLinear(12, 4, bias=False),
    )
    refused(model, tmp_path / "f", rf"'0\.act_quant': the scale of its activations is {kind}: run some batches")


def test_nan_in_the_scale_of_params_names_the_quantiser(tmp_path: Path) -> None:
    model = settled(randomised(MODELS["int8"](), (12,), seed=1))
    name = next(n for n in parameters(model) if n.startswith("4.act_quant") and n.endswith("value"))
    params = parameters(model) | {name: torch.tensor(float("nan"))}
    refused(model, tmp_path / "f", r"'4\.act_quant': the scale of its activations is NaN", params)


def test_scales_that_depend_on_the_input_are_refused(tmp_path: Path) -> None:
    class Dynamic(Int8ActPerTensorFloat):  # type: ignore[misc]
        proxy_class = DynamicActQuantProxyFromInjector

    model = nn.Sequential(qnn.QuantIdentity(act_quant=Dynamic), qnn.QuantLinear(12, 4, bias=False))
    refused(model, tmp_path / "f", r"'0\.act_quant' has no scale of its own.*does not depend on the input")


def test_integers_of_one_bit_are_refused(tmp_path: Path) -> None:
    model = small(Int8WeightPerTensorFloat, weight_bit_width=1)
    refused(model, tmp_path / "f", "'0': the scale of its weights is (infinite|NaN).*SignedBinaryWeightPerTensorConst")


def test_scales_that_are_still_statistics_are_not_taken_from_elsewhere(tmp_path: Path) -> None:
    ends = [randomised(MODELS["int8"](), (12,), seed=seed) for seed in (1, 2)]
    refused(ends[0], tmp_path / "f", "running statistic.*settled", parameters(ends[1]))
    a, b = (settled(end) for end in ends)
    middle = lerp(parameters(a), parameters(b), 0.5)
    x, file = inputs(6, 12), tmp_path / "f"
    assert export_qonnx(a, middle, x, file).largest_difference <= 1e-5
    torch.testing.assert_close(executed(file, x), own_output(a, middle, x), atol=1e-5, rtol=0)


def test_params_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, file = small(SignedBinaryWeightPerTensorConst), tmp_path / "f"
    own = parameters(model)
    refused(model, file, "'1.bias' is missing", {n: t for n, t in own.items() if n != "1.bias"})
    refused(model, file, r"'0.weight' has shape \[3, 12\]", own | {"0.weight": torch.zeros(3, 12)})
    refused(model, file, "'1.bias' is a int", own | {"1.bias": 3})  # type: ignore[dict-item]
    refused(model, file, "expected a dict of tensors", [])  # type: ignore[arg-type]
    refused(model, file, "'0.weight' holds 48 NaN", own | {"0.weight": torch.full((4, 12), float("nan"))})
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    refused(model, file, "'0.weight' holds 1 NaN")


def test_samples_are_checked(tmp_path: Path) -> None:
    model, file = small(SignedBinaryWeightPerTensorConst), tmp_path / "f"
    for x in (torch.zeros(0, 12), torch.zeros(12), torch.full((2, 12), float("nan")), [1.0]):
        refused(model, file, "x: expected finite samples", x=x)  # type: ignore[arg-type]
    for x in (torch.ones(2, 13), torch.ones(2, 12, dtype=torch.int64)):
        refused(model, file, re.escape(f"x: Sequential does not take samples {list(x.shape)} of {x.dtype}"), x=x)


def test_a_model_that_returns_no_tensor_is_refused(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = qnn.QuantLinear(12, 4, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x

    refused(Pair(), tmp_path / "f", "the model returns tuple, expected one tensor")


def test_what_brevitas_cannot_export_is_told(tmp_path: Path) -> None:
    class Backwards(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.solve(torch.eye(4), x.T).T

    model = nn.Sequential(qnn.QuantLinear(12, 4, bias=False), Backwards())
    refused(model, tmp_path / "f", "Brevitas could not export Sequential: .*linalg")


def test_a_layer_that_means_something_else_in_qonnx_is_found(tmp_path: Path) -> None:
    """Brevitas writes the levels 0 and 1 of a 1-bit QuantReLU as -1 and 1: the check on data must see it."""
    model = nn.Sequential(qnn.QuantReLU(bit_width=1), qnn.QuantLinear(12, 4, bias=False))
    model.train()(inputs(8, 12))
    refused(model, tmp_path / "f", "differs from the model by up to .* in 6 of 6 samples .*nothing was written")


@pytest.mark.parametrize("wrong", ["one number", "NaN", "shape"])
def test_nothing_is_written_if_the_execution_differs(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qonnx.core.onnx_exec as executor

    execute = executor.execute_onnx

    def changed(*args: Any) -> dict[str, np.ndarray]:
        ((name, found),) = execute(*args).items()
        found = found.copy()
        if wrong == "shape":
            return {name: found[:, :2]}
        found[2, 1] += 0.01 if wrong == "one number" else np.nan
        return {name: found}

    monkeypatch.setattr(executor, "execute_onnx", changed)
    match = "the exported graph gives" if wrong == "shape" else "in 1 of 6 samples"
    refused(randomised(MODELS["binary"](), (12,), seed=1), tmp_path / "f", match)


def test_a_difference_within_the_tolerance_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qonnx.core.onnx_exec as executor

    execute = executor.execute_onnx
    monkeypatch.setattr(executor, "execute_onnx", lambda *args: {n: t + 0.25 for n, t in execute(*args).items()})
    model = randomised(MODELS["binary"](), (12,), seed=1)
    result = export_qonnx(model, None, inputs(6, 12), tmp_path / "f", tolerance=0.3)
    assert result.largest_difference == pytest.approx(0.25, abs=1e-5)
    assert not result.equal


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    guide = Path(__file__).parent.parent / "docs" / "export.md"
    (program,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "export.md", "exec"), {})
    assert "batch=1, samples=20, largest_difference=0.0, equal=True" in capsys.readouterr().out
    assert (tmp_path / "midpoint.onnx").is_file()
