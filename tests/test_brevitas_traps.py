"""Each trap of Brevitas that the adapter could fall into: what Brevitas does, and what is made of it."""

import copy
import subprocess
import sys

import brevitas.nn as qnn
import pytest
import torch
from brevitas.quant import Int8ActPerTensorFloat
from brevitas_nets import (
    BINARY,
    HAND_MADE,
    PER_CHANNEL,
    PER_TENSOR,
    TERNARY,
    UNIT,
    brevitas_outputs,
    changes,
    inputs,
    made,
    perceptron,
    relu,
    state_of,
    step,
    tanh,
)
from torch import fx, nn
from torch.func import functional_call

from binarynets.brevitas import FAMILY, BrevitasError, effective, load_state, plain, settled
from compare import SymmetryError, call, parameters, trace
from compare.symmetry import random_element

pytestmark = pytest.mark.filterwarnings("ignore:Positional args are being deprecated")
X = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))


def test_import_binarynets_does_not_import_brevitas() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, binarynets, compare, fullprecision; binarynets.FAMILY; binarynets.mlp(4, [3], 2);"
            "print([name for name in sys.modules if name.startswith(('brevitas', 'binarynets.brevitas', 'onnx'))])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"


def test_the_clamp_overwrites_latents_in_brevitas_and_never_here() -> None:
    model = made(HAND_MADE["binary, scale 0.1"], latents=30.0)
    params = parameters(model)
    kept = copy.deepcopy(params)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin(X)
    assert bool((twin[0].weight.abs() <= 0.1).all())  # the trap
    assert bool((model[0].weight.abs() > 0.1).any())
    found = plain(model, X)
    with torch.no_grad():
        functional_call(found, params, (X,))
        found(X)
    assert changes(kept, params) == []
    assert changes(kept, parameters(found)) == []
    assert changes(kept, parameters(model)) == []


def test_clipping_leaves_latents_that_are_not_trained_alone() -> None:
    model = qnn.QuantLinear(4, 3, bias=False, weight_quant=BINARY)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.weight.requires_grad_(False)
    FAMILY.recipe.after_step(model)
    assert bool((model.weight == 3).all())
    model.weight.requires_grad_(True)
    FAMILY.recipe.after_step(model)
    assert bool((model.weight == 1).all())


def test_scale_0_1_is_not_exact_under_permutation_and_the_graph_does_not_say_so() -> None:
    """Sums of +-0.1 depend on their order; what they decide seldom does, and in float64 hardly ever."""
    x = 2.0 * torch.randint(0, 17, (200, 64), generator=torch.Generator().manual_seed(0)) - 16
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for scale in (0.1, 1.0):
        torch.manual_seed(0)
        layer = qnn.QuantLinear(64, 9, bias=False, weight_quant=BINARY, weight_scaling_const=scale).eval()
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            twin.weight.copy_(layer.weight[:, order])
            outputs[scale] = torch.equal(layer(x), twin(x[:, order]))
            graph = trace(
                nn.Sequential(layer, nn.BatchNorm1d(9), step(), qnn.QuantLinear(9, 4, bias=False, **UNIT)), x, FAMILY
            )
            assert graph.exact == (scale == 1.0)
    assert outputs == {0.1: False, 1.0: True}


def test_signs_of_zeros_and_denormals_are_those_of_brevitas() -> None:
    model = perceptron(UNIT).eval()
    edges = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 1e-45, -1e-45])
    with torch.no_grad():
        model[0].weight.view(-1)[:6] = edges
        weight = model[0].quant_weight().value.view(-1)[:6]
        assert weight[:2].tolist() == [1, 1]
        assert effective(model, parameters(model))["0.weight"].view(-1)[:6].tolist() == weight.tolist()
        x = X.clone()
        x.view(-1)[:6] = edges
        model = nn.Sequential(step(), *model).eval()
        assert torch.equal(plain(model, x)(x), brevitas_outputs(model, x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_refused(bad: float) -> None:
    """Brevitas gives -1 for NaN, in silence."""
    model = perceptron(UNIT).eval()
    with torch.no_grad():
        model[3].weight[1, 2] = bad
        assert torch.isfinite(model(X)).all()  # the trap
    with pytest.raises(BrevitasError, match=r"'3'.*NaN or infinity"):
        plain(model)


def test_a_constant_scale_by_output_channel_is_one_number() -> None:
    """``weight_scaling_per_output_channel`` is ignored by Brevitas, so nothing has to move with channels."""
    settings = {**UNIT, "weight_scaling_const": 0.5, "weight_scaling_per_output_channel": True}
    model = perceptron(settings).eval()
    assert model[0].quant_weight().scale.numel() == 1
    graph = trace(model, X, FAMILY)
    assert all("scaling" not in tie.name for block in graph.blocks for tie in block.ties)
    assert float(effective(model, parameters(model))["0.weight"].abs().unique()) == 0.5


@pytest.mark.parametrize("quantiser", [PER_TENSOR, PER_CHANNEL])
def test_one_bit_with_an_integer_quantiser_is_refused(quantiser: type) -> None:
    model = perceptron({"weight_quant": quantiser, "weight_bit_width": 1}, relu).eval()
    with torch.no_grad():
        assert torch.isnan(model[0](X)).any()  # the trap
    with pytest.raises(BrevitasError, match=r"'0'.*scale of inf.*SignedBinaryWeightPerTensorConst.*bit width 1"):
        plain(model)
    with pytest.raises(BrevitasError, match="scale of inf"):
        trace(model, X, FAMILY)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("where", ["weight", "activation"])
def test_a_scale_that_is_none_is_refused(bad: float, where: str) -> None:
    if where == "weight":
        model = made(HAND_MADE["learned scale"])
        scaling = model[0].weight_quant.tensor_quant.scaling_impl
    else:
        model = made(HAND_MADE["statistics"])
        scaling = model[2].act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
    with torch.no_grad():
        scaling.value.fill_(bad)
        broken = not bool(torch.isfinite(model(X)).all())
    if bad < 0 or not broken:
        # Brevitas takes the size of a scale, and some have a smallest one: what comes out is a scale.
        assert torch.equal(plain(model, X)(X), brevitas_outputs(model, X))
        return
    with pytest.raises(BrevitasError, match=rf"'{0 if where == 'weight' else 2}'.*scale of (0|nan|inf)"):
        plain(model)


def test_missing_scale_keys_say_what_to_do() -> None:
    state = HAND_MADE["statistics"].make().state_dict()
    assert not any("scaling_impl.value" in name for name in state)  # the trap
    trained = made(HAND_MADE["statistics"])
    before = state_of(trained)
    with pytest.raises(BrevitasError, match=r"no scale for .*scaling_impl.*once in training mode"):
        load_state(trained, state)
    assert changes(before, state_of(trained)) == []
    with pytest.raises(BrevitasError, match=r"does not fit.*missing.*'0.weight'"):
        load_state(trained, {n: t for n, t in trained.state_dict().items() if n != "0.weight"})
    with pytest.raises(BrevitasError, match=r"not known.*'more'"):
        load_state(trained, {**trained.state_dict(), "more": torch.zeros(1)})
    with pytest.raises(BrevitasError, match="size mismatch"):
        load_state(trained, {**trained.state_dict(), "0.weight": torch.zeros(2, 2)})
    assert changes(before, state_of(trained)) == []


@pytest.mark.parametrize(
    "name", ["statistics", "shifted activations", "learned scales by channel", "binary, scale 0.1"]
)
def test_a_state_dict_goes_there_and_back(name: str) -> None:
    model = made(HAND_MADE[name])
    fresh = HAND_MADE[name].make()
    load_state(fresh, model.state_dict())
    assert torch.equal(brevitas_outputs(fresh, X), brevitas_outputs(model, X))
    with torch.no_grad():
        assert torch.equal(plain(fresh, X)(X), brevitas_outputs(model, X))


def test_running_scales_are_refused_and_settled() -> None:
    torch.manual_seed(0)
    model = HAND_MADE["statistics"].make().train()
    for number in range(3):
        model(inputs(HAND_MADE["statistics"], 9, seed=number))
    model.eval()
    before = state_of(model)
    for read in (lambda: plain(model, X), lambda: trace(model, X, FAMILY)):
        with pytest.raises(BrevitasError, match=r"'2\.act_quant.*running statistic \(step 3 of.*settled\(model\)"):
            read()
    ready = settled(model)
    assert changes(before, state_of(model)) == []
    expected = brevitas_outputs(model, X)
    assert torch.equal(brevitas_outputs(ready, X), expected)
    with torch.no_grad():
        assert torch.equal(plain(ready, X)(X), expected)
    values = [n for n in parameters(ready) if n.endswith("scaling_impl.value")]
    assert len(values) == 2
    doubled = {n: 2 * t if n in values else t for n, t in parameters(ready).items()}
    assert not torch.equal(call(plain(ready), doubled, X), expected)  # they are parameters now


def test_torch_fx_alone_cannot_follow_binary_activations_and_the_adapter_can() -> None:
    model = perceptron(UNIT).eval()
    with pytest.raises(Exception, match=r".+"):
        fx.symbolic_trace(model)
    assert trace(model, X, FAMILY).blocks


class Branching(nn.Module):
    """Its forward depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = qnn.QuantLinear(12, 4, bias=False, **UNIT)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)


def test_a_forward_that_depends_on_data_is_refused() -> None:
    with pytest.raises(BrevitasError, match=r"Branching cannot be followed.*depends on data"):
        plain(Branching())


@pytest.mark.parametrize(("fan_in", "signs"), [(64, 0), (63, 2)])
def test_ties_at_zero_without_normalisation_forbid_signs_and_are_told(fan_in: int, signs: int) -> None:
    """Sums of 64 signs are 0 in about 9.9 % of all cases, those of 63 never."""
    torch.manual_seed(0)
    layers = [
        step(),
        qnn.QuantLinear(fan_in, 50, bias=False, **UNIT),
        step(),
        qnn.QuantLinear(50, 4, bias=False, **UNIT),
    ]
    model, x = nn.Sequential(*layers).eval(), torch.randn(200, fan_in)
    graph = trace(model, x, FAMILY)
    (block,) = graph.blocks
    assert bool(signs) == block.signs
    rate = max(graph.tie_rates.values())
    assert rate == pytest.approx(0.0 if signs else 0.099, abs=0.015 if not signs else 0)
    assert any("%" in note for note in graph.notes) == (not signs)
    negated = parameters(model)
    for name in ("1.weight", "3.weight"):
        negated[name] = -negated[name]
    assert torch.equal(brevitas_outputs(model, x, negated), brevitas_outputs(model, x)) == bool(signs)
    moved = random_element(graph, torch.Generator().manual_seed(0)).apply(parameters(model))
    assert torch.equal(brevitas_outputs(model, x, moved), brevitas_outputs(model, x))


def test_max_pooling_behind_the_sign_stops_signs() -> None:
    graph = trace(made(HAND_MADE["max pool behind the sign"]), inputs(HAND_MADE["conv2d"], 8), FAMILY)
    # What is left is the sign of (w, mean, gain), which never reaches the sign function.
    (generator,) = (g for g in graph.blocks[0].generators if g.kind == "sign")
    assert generator.names == {"0.weight", "1.running_mean", "1.weight"}


def test_ternary_weights_round_half_the_scale_to_zero() -> None:
    model = perceptron({"weight_quant": TERNARY}, lambda: tanh(2)).eval()
    edges = torch.tensor([0.05, -0.05, 0.050001, -0.050001, 0.0499, 3.0, -3.0])
    with torch.no_grad():
        model[0].weight.view(-1)[:7] = edges
    found = effective(model, parameters(model))["0.weight"].view(-1)[:7]
    assert torch.equal(found, model[0].quant_weight().value.detach().view(-1)[:7])
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.1, -0.1, 0, 0.1, -0.1]))


def test_activations_that_clamp_unevenly_have_no_signs() -> None:
    """8-bit ones have 128 levels below 0 and 127 above."""
    act = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, min_val=-1.0, max_val=1.0, scaling_impl_type="const")
    act.eval()
    far = torch.tensor([-9.0, 9.0])
    assert float(act(far).sum()) != 0  # the trap
    model = nn.Sequential(qnn.QuantLinear(12, 9, bias=False, **UNIT), act, qnn.QuantLinear(9, 4, bias=False, **UNIT))
    assert not trace(model.eval(), X, FAMILY).blocks[0].signs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "expected a torch.nn.Module"),
        ("resnet18", "expected a torch.nn.Module.*got str"),
        (nn.Linear(12, 4), "no Brevitas layer.*fullprecision.FAMILY"),
        (nn.Sequential(), "no Brevitas layer"),
    ],
)
def test_what_is_no_brevitas_model_is_refused(model, message: str) -> None:
    with pytest.raises(BrevitasError, match=message):
        plain(model)


@pytest.mark.parametrize("shape", [(3, 11), (12, 3), (2, 3, 4)])
def test_an_example_of_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(BrevitasError, match=r"does not take the example \[.*\]"):
        plain(perceptron(UNIT).eval(), x)
    with pytest.raises((BrevitasError, SymmetryError), match="does not take the example"):
        trace(perceptron(UNIT).eval(), torch.randn(shape), FAMILY)


def test_a_single_layer_is_read_or_refused_with_a_way_on() -> None:
    layer = qnn.QuantLinear(12, 4, bias=False, **UNIT).eval()
    with pytest.raises((BrevitasError, SymmetryError), match="Sequential"):
        trace(layer, X, FAMILY)
    assert trace(nn.Sequential(layer), X, FAMILY).blocks == ()


@pytest.mark.parametrize("x", [torch.zeros(0, 12), torch.full((3, 12), float("nan"))])
def test_examples_that_say_nothing_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(SymmetryError, match="example_input"):
        trace(perceptron(UNIT).eval(), x, FAMILY)
