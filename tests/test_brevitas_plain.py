"""What stands for a Brevitas model gives the same numbers, under the same names, and writes nowhere."""

import copy
import functools
from pathlib import Path

import brevitas.nn as qnn
import pytest
import torch
from brevitas_nets import (
    EXAMPLES,
    HAND_MADE,
    UNIT,
    brevitas_outputs,
    changes,
    inputs,
    made,
    perceptron,
    state_of,
)
from torch import nn
from torch.func import functional_call

from binarynets.brevitas import (
    FAMILY,
    BrevitasError,
    counterpart,
    effective,
    from_brevitas,
    from_brevitas_params,
    load_state,
    plain,
    settled,
    to_brevitas,
)
from binarynets.brevitas.export import export_qonnx
from compare import (
    connect,
    distances,
    error_curve,
    evaluate,
    geodesic_path,
    linear_path,
    local_energy,
    match,
    parameters,
    standard_form,
    trace,
)
from compare.data import Data, Split
from compare.evaluation.statistics import calibrator, re_estimated
from compare.symmetry import random_element

CASES = {**HAND_MADE, **EXAMPLES}
pytestmark = pytest.mark.filterwarnings("ignore:Positional args are being deprecated")
every_case = pytest.mark.parametrize("name", CASES)
hand_made = pytest.mark.parametrize("name", HAND_MADE)


@functools.cache
def _made(name: str) -> nn.Module:
    """Latents 30 times their size; shared, so that a test that changes one makes others fail."""
    return made(CASES[name], latents=30.0)


@functools.cache
def _plain(name: str) -> nn.Module:
    """What stands for it; shared by tests that do not change it."""
    return plain(_made(name))


def _inputs(name: str, *, seed: int = 0):
    return inputs(CASES[name], 2 if name.startswith(("CNV", "RESNET")) else 6, seed=seed)


@every_case
def test_outputs_are_brevitas_bit_for_bit(name: str) -> None:
    model, x = _made(name), _inputs(name)
    before = state_of(model)
    expected = brevitas_outputs(model, x)
    assert bool((expected.std(0) > 0).any())  # not the same for all inputs
    found = _plain(name)
    with torch.no_grad():
        for _ in range(2):  # weights are made once, then kept
            assert torch.equal(found(x), expected)
    assert parameters(found).keys() == parameters(model).keys()
    assert [n for n, t in parameters(found).items() if not torch.equal(t, parameters(model)[n])] == []
    assert changes(before, state_of(model)) == []


@every_case
def test_effective_weights_are_what_brevitas_gives(name: str) -> None:
    model = _made(name)
    params = parameters(model)
    kept = copy.deepcopy(params)
    found = effective(_plain(name), params)
    assert found.keys() == params.keys()
    working = copy.deepcopy(model)
    for path, module in working.named_modules():
        if isinstance(module, qnn.mixin.QuantWeightMixin):
            with torch.no_grad():
                weight = module.quant_weight()
            # A weight of two layers goes by the name of the first.
            if f"{path}.weight" in found:
                assert torch.equal(found[f"{path}.weight"], getattr(weight, "value", weight))
    assert changes(kept, params) == []
    if name in WRITERS:
        assert changes(found, effective(model, params)) == []


@hand_made
def test_other_parameters_give_other_outputs(name: str) -> None:
    """Whatever is kept belongs to the parameters that it was made from."""
    case, model, x = HAND_MADE[name], _made(name), _inputs(name)
    found = plain(model)
    other = parameters(made(case, seed=5))
    with torch.no_grad():
        first = found(x)
        assert torch.equal(functional_call(found, other, (x,)), brevitas_outputs(model, x, other))
        assert torch.equal(found(x), first)
        moved = {n: 1.5 * t if n.endswith("weight") and t.ndim else t for n, t in parameters(model).items()}
        assert torch.equal(functional_call(found, moved, (x,)), brevitas_outputs(model, x, moved))
        for parameter_name, parameter in found.named_parameters():
            parameter.copy_(other[parameter_name])
        for buffer_name, buffer in found.named_buffers():
            if buffer_name in other:
                buffer.copy_(other[buffer_name])
        assert torch.equal(found(x), brevitas_outputs(model, x, other))
        assert not torch.equal(found(x), first)


def test_one_tensor_that_is_written_to_between_calls_is_made_anew() -> None:
    name = "4 bits by channel"
    model, x = _made(name), _inputs(name)
    found, params = plain(model), parameters(_made(name))
    with torch.no_grad():
        functional_call(found, params, (x,))
        params["0.weight"][0] *= -3
        assert torch.equal(functional_call(found, params, (x,)), brevitas_outputs(model, x, params))
        found.load_state_dict(params, strict=False)
        assert torch.equal(found(x), brevitas_outputs(model, x, params))
        found.get_parameter("0.weight").data = 2 * params["0.weight"].flip(0)
        other = {**params, "0.weight": 2 * params["0.weight"].flip(0)}
        assert torch.equal(found(x), brevitas_outputs(model, x, other))


def _data(name: str) -> Data:
    x = inputs(CASES[name], 24, seed=3)
    split = Split(x, torch.arange(24) % 4, calibration=x)
    return Data(name="noise", train=split, test=split, classes=4, input_shape=CASES[name].shape)


WRITERS = ("binary, scale 0.1", "ternary", "8 bits", "tensor norm", "conv2d, scale 0.1", "TFC_1W1A", "CNV_1W1A")
"""Quantisers that clamp latents in place, or count calls."""

CONVERTIBLE = ("TFC_1W1A",)
SMALL = ("binary, scale 0.1", "ternary", "8 bits", "tensor norm")


@pytest.mark.parametrize("name", WRITERS)
def test_no_public_call_writes_into_a_model_or_its_parameters(name: str, tmp_path: Path) -> None:
    model, data = _made(name), _data(name)
    other = made(CASES[name], seed=1, latents=30.0)
    a, b = parameters(model), parameters(other)
    before = {"model": state_of(model), "a": copy.deepcopy(a), "b": copy.deepcopy(b), "x": data.train.x.clone()}

    def unchanged(what: str) -> None:
        after = {"model": state_of(model), "a": a, "b": b, "x": data.train.x}
        for key in ("model", "a", "b"):
            assert changes(before[key], after[key]) == [], f"{what} changed {key}"
        assert torch.equal(before["x"], after["x"]), f"{what} changed inputs"

    found = plain(model, data.train.x)
    unchanged("plain")
    effective(model, a)
    unchanged("effective")
    settled(model)
    unchanged("settled")
    graph = trace(model, data.train.x, FAMILY)
    unchanged("trace")
    standard_form(graph, a)
    unchanged("standard_form")
    matched = match(graph, a, b).params
    unchanged("match")
    random_element(graph, torch.Generator().manual_seed(0)).apply(a)
    distances(graph, a, b)
    unchanged("distances")
    for path in (linear_path(graph, a, b), geodesic_path(graph, a, matched)):
        slow = error_curve(model, path, data.train, [0, 0.4, 1])
        unchanged("error_curve of the model")
        assert error_curve(found, path, data.train, [0, 0.4, 1]) == slow
        assert changes(path(0), a) == []
    assert evaluate(model, a, data.train) == evaluate(found, a, data.train)
    unchanged("evaluate")
    local_energy(model, a, data.train, [0.5], names=[n for n in a if n.endswith("weight")], draws=2)
    unchanged("local_energy")
    load_state(copy.deepcopy(model), model.state_dict())
    unchanged("load_state")
    if name in CONVERTIBLE:
        counterpart(model)
        unchanged("counterpart")
        from_brevitas_params(model, a)
        to_brevitas(from_brevitas(model))
        unchanged("from_brevitas")
    if name in SMALL:
        export_qonnx(model, b, data.train.x[:2], tmp_path / "model.onnx", tolerance=1e-3)
        unchanged("export_qonnx")
    if name in ("binary, scale 0.1", "tensor norm"):
        connect(FAMILY, model, a, b, data, points=2, samples=16)
        unchanged("connect")


@pytest.mark.parametrize("name", ["binary, scale 0.1", "ternary", "4 bits by channel", *EXAMPLES])
def test_ends_of_a_path_are_the_quantised_networks(name: str) -> None:
    model, x = _made(name), _inputs(name)
    a, b = parameters(model), parameters(made(CASES[name], seed=1))
    found = _plain(name)
    graph = trace(found, x, FAMILY, certify=False)
    for path in (linear_path(graph, a, b), geodesic_path(graph, a, b)):
        for t, end in ((0, a), (1, b), (0.37, path(0.37))):
            with torch.no_grad():
                got = functional_call(found, path(t), (x,))
            assert torch.equal(got, brevitas_outputs(model, x, end))
            assert changes(effective(found, path(t)), effective(found, end)) == []


@pytest.mark.parametrize("name", ["tensor norm", "TFC_1W1A", "conv2d, 3 bits", "addition"])
def test_re_estimated_statistics_are_those_of_a_literal_loop(name: str) -> None:
    model, x = _made(name), inputs(CASES[name], 20, seed=4)
    params = parameters(model)
    kept = copy.deepcopy(params)
    found = re_estimated(calibrator(_plain(name)), params, x, batch=7)
    working = copy.deepcopy(model).eval()
    norms = [m for m in working.modules() if hasattr(m, "running_var")]
    for module in norms:
        module.train()
    with torch.no_grad():
        for number, part in enumerate(x.chunk(3), 1):
            for module in norms:
                module.momentum = 1 / number
            working(part)
    expected = parameters(working)
    names = [n for n in expected if "running" in n]
    assert names
    for n in names:
        torch.testing.assert_close(found[n], expected[n], rtol=1e-5, atol=1e-6)
        assert not torch.equal(found[n], params[n])
    assert [
        n for n in found if n not in names and not n.endswith("tracked") and not torch.equal(found[n], kept[n])
    ] == []
    assert changes(kept, params) == []


@pytest.mark.parametrize("name", ["TFC_1W1A", "relu, statistics", "binary, scale 0.1"])
def test_a_model_in_training_mode_is_read_in_evaluation_mode(name: str) -> None:
    model, x = copy.deepcopy(_made(name)).train(), _inputs(name)
    before = state_of(model)
    with torch.no_grad():
        assert torch.equal(plain(model, x)(x), brevitas_outputs(model, x))
    assert changes(before, state_of(model)) == []


@pytest.mark.parametrize("name", ["binary", "binary, scale 0.1", "ternary", "8 bits", "tensor norm", "conv2d"])
def test_curves_are_the_same_in_the_family_s_own_way(name: str) -> None:
    """Counted from bits where the model is binary, of scale 1 and a perceptron; else as it is."""
    x = torch.randint(-128, 128, (40, *CASES[name].shape), generator=torch.Generator().manual_seed(1)) * 2.0 + 1
    split = Split(x, torch.arange(40) % 4, calibration=x)
    network, graph = _plain(name), trace(_plain(name), x, FAMILY, certify=False)
    path = linear_path(graph, parameters(_made(name)), parameters(made(CASES[name], seed=1)))
    assert FAMILY.evaluation is not None
    assert (FAMILY.evaluation(copy.deepcopy(network).eval()) is not None) == (name == "binary")
    for statistics in ("interpolated", "re-estimated"):
        slow = error_curve(network, path, split, [0, 0.3, 0.5, 1], statistics=statistics)
        fast = error_curve(network, path, split, [0, 0.3, 0.5, 1], statistics=statistics, evaluation=FAMILY.evaluation)
        assert fast == slow


def test_copies_share_nothing() -> None:
    name = "binary, scale 0.1"
    model, x = _made(name), _inputs(name)
    found = plain(model)
    twin = copy.deepcopy(found)
    storages = [{t.data_ptr() for t in (*m.parameters(), *m.buffers()) if t.numel()} for m in (model, found, twin)]
    assert not storages[0] & storages[1]
    assert not storages[1] & storages[2]
    with torch.no_grad():
        first = found(x)
        twin.get_parameter("0.weight").neg_()
        assert torch.equal(found(x), first)
        assert not torch.equal(twin(x), first)


def test_a_model_in_float64() -> None:
    for name in ("binary, scale 0.1", "4 bits by channel", "bias of the input's scale", "tensor norm"):
        model, x = copy.deepcopy(_made(name)).double(), _inputs(name).double()
        with torch.no_grad():
            assert torch.equal(plain(model)(x), brevitas_outputs(model, x))
            assert torch.equal(plain(_made(name)).double()(x), brevitas_outputs(model, x))


def test_what_differs_from_the_model_is_refused() -> None:
    """A hook does what no reading of the layers can see."""
    model = perceptron(UNIT).eval()
    model[6].register_forward_hook(lambda _m, _i, output: 2 * output)
    x = torch.randn(5, 12)
    with pytest.raises(BrevitasError, match="gives other outputs"):
        plain(model, x)


def test_a_learned_scale_without_a_value_is_refused_and_settled() -> None:
    """Brevitas writes it into the model in the first call."""
    model = HAND_MADE["learned scales by channel"].make().eval()
    x, before = torch.randn(5, 12), state_of(model)
    with pytest.raises(BrevitasError, match=r"'0\.weight_quant.*first called.*settled\(model\)"):
        plain(model, x)
    ready = settled(model)
    assert changes(before, state_of(model)) == []
    expected = brevitas_outputs(model, x)
    with torch.no_grad():
        assert torch.equal(plain(ready, x)(x), expected)
    assert parameters(ready)["0.weight_quant.tensor_quant.scaling_impl.value"].unique().numel() > 1
