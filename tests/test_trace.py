"""What tracing asks for, refuses and leaves alone; how users help it on."""

import re

import pytest
import torch
import torch.nn.functional as F
from motifs import Own
from reference_nets import mobilenet_v2, resnet18, vgg16, vit
from torch import Tensor, nn
from zoo import pixels, small_networks

import binarynets
import fullprecision
from binarynets import BinaryLinear, Sign
from compare.symmetry import Graph, SymmetryError, trace
from compare.symmetry.rules import FUNCTION_RULES, MODULE_RULES, elementwise, homogeneous, odd, passes


def _trace(model: nn.Module, x: Tensor | None = None, **options) -> Graph:
    return trace(model.eval(), pixels(4) if x is None else x, fullprecision.FAMILY, **options)


def _sequence(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), *modules, nn.Linear(6, 3))


class Swish(nn.Module):
    """A user's own activation, of an operation that no rule knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.expit(x) * x


class Nested(nn.Module):
    """A user's network with the activation somewhere inside."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 3)
        self.body = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(torch.flatten(x, 1)))
        return self.last(y + self.body(y))


def test_an_unknown_operation_is_named_with_three_ways_on() -> None:
    with pytest.raises(SymmetryError, match=r"no rule is known") as caught:
        _trace(Nested(Swish()))
    message = str(caught.value)
    assert message.startswith("'special_expit' (special_expit)")
    assert all(way in message for way in ("rules={", "opaque=['special_expit']", "frozen=["))


def test_an_unknown_module_is_named_by_its_path() -> None:
    with pytest.raises(SymmetryError, match=r"'body\.1' \(Threshold\): no rule is known"):
        _trace(Nested(nn.Threshold(0.1, 0.0)))


def _sizes(graph: Graph) -> list[int]:
    return [block.size for block in graph.blocks if not block.rigid]


@pytest.mark.parametrize("key", [Swish, torch.special.expit], ids=["module type", "function"])
def test_first_way_on_a_rule(key) -> None:
    graph = _trace(Nested(Swish()), rules={key: elementwise})
    assert _sizes(graph) == [6, 5]


def test_a_rule_by_the_name_of_a_method() -> None:
    activation = Own(lambda m, x: x.arctan())
    with pytest.raises(SymmetryError, match=r"'arctan' \(arctan\): no rule is known"):
        _trace(_sequence(activation))
    assert _trace(_sequence(activation), rules={"arctan": odd}).blocks[0].signs


@pytest.mark.parametrize("place", ["special_expit", "body.1"])
def test_second_way_on_opaque(place) -> None:
    graph = _trace(Nested(Swish()), opaque=[place])
    assert _sizes(graph) == [6]
    assert not any(tie.name == "body.0.weight" and tie.axis == 0 for block in graph.blocks for tie in block.ties)


def test_third_way_on_frozen() -> None:
    graph = _trace(Nested(Swish()), frozen=["body.0"])
    assert _sizes(graph) == [6]


def test_parameters_of_an_opaque_module_count_as_covered() -> None:
    inner = Own(lambda m, x: torch.cumsum(m.inner(x), 1), inner=nn.Linear(6, 5))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), inner, nn.Linear(5, 3))
    graph = _trace(model, opaque=["5"])
    assert [block.size for block in graph.blocks] == [7]
    assert not any(tie.name.startswith("5") for block in graph.blocks for tie in block.ties)


@pytest.mark.parametrize("option", ["opaque", "frozen"])
def test_unknown_places_are_refused_with_those_there_are(option) -> None:
    with pytest.raises(SymmetryError, match=r"no operation 'secnod' in this network: expected one of .*first.*last"):
        _trace(Nested(nn.ReLU()), **{option: ["secnod"]})


def test_notes_say_why_units_are_frozen() -> None:
    notes = _trace(Nested(nn.ReLU()), frozen=["body.0"]).notes
    assert any("'body.0' is frozen" in note for note in notes)


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        return self.map(y) if y.sum() > 0 else y


class _Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map, self.unused = nn.Linear(64, 3), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.flatten(1))


class _TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Branch(), "cannot be traced by torch.fx.*Control flow that depends on data"),
        (nn.Sequential(nn.Identity(), _Branch()), "in module '1'"),
        (_Bare(), "no rule covers 'unused'.*three ways on"),
        (_TwoInputs(), "does not take example_input .*missing 1 required positional argument"),
        (_sequence(nn.BatchNorm1d(6, track_running_stats=False)), "'2' .*running statistics"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "no linear map"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, return_indices=True)), r"'1' \(MaxPool2d\).*indices"),
        (nn.Linear(8, 3), "expected a network, got a single Linear: wrap it"),
        (nn.Sequential(*_sequence()[:2], Own(lambda m, x: x @ m.v, v=nn.Parameter(torch.ones(6)))), "got a vector"),
        (_sequence(Own(lambda m, x: x[:, [0, 2, 1, 3, 4, 5]])), "expected an index of numbers"),
    ],
)
def test_what_is_not_known_is_refused_by_name(model, message) -> None:
    with pytest.raises(SymmetryError, match=f"(?s){message}"):
        _trace(model)


@pytest.mark.parametrize("example", [torch.zeros(0, 1, 8, 8), torch.tensor(3.0), "no tensor"])
def test_an_example_that_is_no_batch_is_refused(example) -> None:
    with pytest.raises(SymmetryError, match="expected a batch"):
        trace(Nested(nn.ReLU()), example, fullprecision.FAMILY)


@pytest.mark.parametrize("example", [torch.randn(4, 63), torch.randn(4, 64).double(), torch.ones(4, 64).long()])
def test_an_example_of_another_shape_or_type_is_refused(example) -> None:
    shown = re.escape(f"{list(example.shape)} ({example.dtype})")
    with pytest.raises(SymmetryError, match=f"Nested does not take example_input {shown}.*type of its parameters"):
        _trace(Nested(nn.ReLU()), example)


def test_a_model_that_is_not_on_the_cpu_is_refused() -> None:
    with pytest.raises(SymmetryError, match="expected a model on the CPU, got parameters on meta"):
        _trace(Nested(nn.ReLU()).to("meta"))


def test_another_precisions_layers_need_its_rules() -> None:
    with pytest.raises(SymmetryError, match=r"'.*' \(.*\): no rule is known|cannot be traced"):
        _trace(binarynets.mlp(64, [4], 3))


def test_quantisers_with_other_values_are_refused() -> None:
    model = binarynets.mlp(64, [4], 3, weight_quantiser=binarynets.magnitude_aware_sign).eval()
    for weight in binarynets.latent_weights(model).values():
        weight.data = torch.sign(weight.data)  # as Bop leaves them: here the scale does not show
    with pytest.raises(SymmetryError, match=r"'linear1' \(BinaryLinear\): its quantiser"):
        trace(model, pixels(4), binarynets.FAMILY)


def test_activations_with_a_dead_zone_are_refused() -> None:
    def ternary(x: Tensor) -> Tensor:
        return torch.where((x > 0) & (x < 0.4), 0.0, binarynets.ste_sign(x))

    model = binarynets.mlp(64, [4], 3, quantiser=ternary, weight_quantiser=binarynets.ste_sign).eval()
    with pytest.raises(SymmetryError, match=r"\(Sign\): its quantiser"):
        trace(model, pixels(4), binarynets.FAMILY)


def test_rules_are_found_by_exact_type() -> None:
    class Twisted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.expit(super().forward(x))

    model = nn.Sequential(nn.Flatten(), Twisted(64, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(SymmetryError, match="special_expit"):
        _trace(model)
    assert _trace(model, opaque=["1"]).blocks == ()


def test_tracing_leaves_the_model_alone() -> None:
    model = small_networks("full")["vgg"].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, pixels(4), fullprecision.FAMILY)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("activation", "signs", "scales"),
    [
        (nn.ReLU(), False, True),
        (nn.LeakyReLU(), False, True),
        (nn.Tanh(), True, False),
        (nn.Hardtanh(), True, False),
        (nn.Hardtanh(-1, 2), False, False),
        (nn.GELU(), False, False),
        (nn.SiLU(), False, False),
        (nn.Identity(), True, True),
        # sign(d x) = sign(x): weight and bias before it are scaled together, nothing behind it.
        (Sign(), True, True),
    ],
    ids=str,
)
def test_the_group_follows_the_activation(activation, signs, scales) -> None:
    block = trace(_sequence(activation), pixels(4), binarynets.FAMILY).blocks[0]
    assert (block.signs, block.scales) == (signs, scales)
    assert {tie.name for tie in block.ties} == {"1.weight", "1.bias", "3.weight"}


def test_signs_behind_a_pooling_are_left_to_gain_and_offset() -> None:
    graph = trace(small_networks("binary")["vgg"], pixels(4), binarynets.FAMILY)
    pooled = next(layer for layer in graph.layers if layer.pooled)
    signs = [generator for generator in graph.blocks[pooled.block].generators if generator.kind == "sign"]
    assert [g.names & {pooled.weight, pooled.norm.gain, pooled.norm.offset, pooled.norm.mean} for g in signs] == [
        {pooled.norm.gain, pooled.norm.offset}
    ]


def test_an_all_zero_example_proves_no_more_than_any() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    with pytest.raises(SymmetryError, match="do not hold"):
        _trace(model, torch.zeros(4, 1, 8, 8), rules={nn.ReLU: odd})


@pytest.mark.parametrize("wrong", [homogeneous, odd, passes])
def test_no_certificate_where_none_is_asked_for(wrong) -> None:
    model = _sequence(nn.GELU())
    assert _trace(model, rules={nn.GELU: wrong}, certify=False).blocks
    with pytest.raises(SymmetryError, match="'1' do not hold"):
        _trace(model, rules={nn.GELU: wrong})


def _plain_binary(inputs: int) -> nn.Module:
    """No normalisation, no bias: pre-activations are integers of the parity of ``inputs``."""
    torch.manual_seed(0)
    return nn.Sequential(BinaryLinear(inputs, 6, bias=False), Sign(), BinaryLinear(6, 3, bias=False)).eval()


def _bits(inputs: int) -> Tensor:
    return torch.sign(torch.randn(64, inputs, generator=torch.Generator().manual_seed(1)))


def test_ties_refuse_signs_with_their_rate() -> None:
    graph = trace(_plain_binary(4), _bits(4), binarynets.FAMILY)
    rate = graph.tie_rates["1"]
    assert abs(rate - 6 / 16) < 0.1  # a sum of four signs is 0 in 6 of 16 cases
    assert not graph.blocks[0].signs
    (note,) = graph.notes
    assert f"{100 * rate:.3g} % of the pre-activations of '1' were exactly 0" in note
    assert "accept_ties" in note


def test_odd_sums_admit_signs() -> None:
    graph = trace(_plain_binary(5), _bits(5), binarynets.FAMILY)
    assert graph.tie_rates == {"1": 0.0}
    assert graph.blocks[0].signs
    assert graph.exact
    assert not graph.notes


def test_ties_may_be_accepted() -> None:
    model, x = _plain_binary(4), _bits(4)
    rate = trace(model, x, binarynets.FAMILY).tie_rates["1"]
    for accepted, admitted in ((rate, True), (1.0, True), (0.99 * rate, False)):
        graph = trace(model, x, binarynets.FAMILY, accept_ties=accepted, certify=False)
        assert graph.blocks[0].signs == admitted
        assert graph.tie_rates["1"] == rate
    with pytest.raises(SymmetryError, match="do not hold"):
        trace(model, x, binarynets.FAMILY, accept_ties=1.0)


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        # A stream for each stage, and the inside of each of its two blocks.
        (lambda: resnet18(width=4), [4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32]),
        (lambda: vgg16(width=4), [4] * 2 + [8] * 2 + [16] * 3 + [32] * 6),
        (lambda: vgg16(width=4, batch_norm=False), [4] * 2 + [8] * 2 + [16] * 3 + [32] * 6),
        # Stem and its depthwise block; for each stage a stream, for each block its expansion; the last map.
        (lambda: mobilenet_v2(width=4), [8, 4, 24, 6, 36, 36, 8, 48, 48, 48, 16, 96, 64]),
    ],
    ids=["resnet18", "vgg16", "vgg16 without normalisation", "mobilenet_v2"],
)
def test_well_known_networks(build, sizes) -> None:
    torch.manual_seed(0)
    graph = _trace(build(), torch.randn(2, 3, 32, 32), certify=False)
    assert sorted(_sizes(graph)) == sorted(sizes)
    assert all(block.parent is None for block in graph.blocks)


def test_a_vision_transformer() -> None:
    torch.manual_seed(0)
    graph = _trace(vit(depth=2, width=16, heads=4, mlp=12), torch.randn(2, 3, 32, 32))
    # The stream; in each layer heads, with keys and with values inside, and the perceptron.
    assert _sizes(graph) == [16, *[4, 16, 16, 12] * 2]
    assert sum(block.parent is not None for block in graph.blocks) == 4


def _example(kind: type[nn.Module]) -> nn.Module:
    """A module of this type with arguments that suit maps of 4 channels."""
    arguments = {"Softmax": (1,), "LogSoftmax": (1,), "GLU": (1,), "GroupNorm": (2, 4), "Unflatten": (1, (4, 1))}
    size = (2,) if "Pool" in kind.__name__ else (4,) if "Norm" in kind.__name__ else ()
    return kind(*arguments.get(kind.__name__, size))


_APART = (nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.LayerNorm, nn.RMSNorm)
_KINDS = [k for k in MODULE_RULES if isinstance(k, type) and not re.search("Conv|Upsampl", k.__name__)]
_KINDS = [k for k in _KINDS if k not in _APART]


@pytest.mark.parametrize("kind", _KINDS)
def test_every_module_with_a_rule_keeps_what_it_claims(kind) -> None:
    """The certificate is the judge; further channels are halved by a gate."""
    space = 3 if "3d" in kind.__name__ else 1 if "1d" in kind.__name__ else 2
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[space - 1]
    torch.manual_seed(0)
    body = nn.Sequential(convolution(2, 4, 2), _example(kind), nn.Flatten())
    x = 2 * torch.randn(6, 2, *[7, 6, 5][:space])
    model = nn.Sequential(*body, nn.Linear(body(x).shape[1], 3))
    assert _trace(model, x).blocks[0].size in (2, 4)


_ARGUMENTS = {
    "flatten": {"start_dim": 1},
    "softmax": {"dim": 1},
    "log_softmax": {"dim": 1},
    "clamp": {"min": -1, "max": 1},
    "mean": {"dim": 2},
    "sum": {"dim": (2, 3)},
    "amax": {"dim": -1},
    "glu": {"dim": 1},
    "pad": {"pad": (1, 2)},
    "interpolate": {"scale_factor": 2},
    "unsqueeze": {"dim": 2},
    "transpose": {"dim0": 2, "dim1": 3},
    "permute": {"dims": (0, 1, 3, 2)},
    "reshape": {"shape": (-1, 4, 30)},
    "narrow": {"dim": 1, "start": 1, "length": 2},
}
_BINARY = {
    "masked_fill",
    "add",
    "iadd",
    "sub",
    "isub",
    "mul",
    "imul",
    "truediv",
    "div",
    "matmul",
    "bmm",
    "linear",
    "embedding",
}
_LISTS = {
    "cat",
    "concat",
    "stack",
    "chunk",
    "split",
    "unbind",
    "getitem",
    "einsum",
    "scaled_dot_product_attention",
    "t",
}
_UNARY = [f for f in FUNCTION_RULES if callable(f) and "conv" not in f.__name__ and f.__name__ not in _BINARY | _LISTS]


@pytest.mark.parametrize("operation", _UNARY, ids=lambda op: op.__name__)
def test_every_function_with_a_rule_keeps_what_it_claims(operation) -> None:
    name = operation.__name__
    arguments = _ARGUMENTS.get(name, {})
    if "pool" in name:
        arguments = {"output_size": 2} if "adaptive" in name else {"kernel_size": 2}
    elif "dropout" in name:
        arguments = {"training": False}
    space = 3 if "3d" in name else 1 if "1d" in name else 2
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[space - 1](2, 4, 2)
    positive = name in {"sqrt", "rsqrt", "log"}

    def function(m: Own, x: Tensor) -> Tensor:
        y = torch.exp(m.first(x)) if positive else m.first(x)
        return operation(y, 2) if name == "pow" else operation(y, **arguments)

    torch.manual_seed(0)
    body, x = Own(function, first=convolution), torch.randn(6, 2, *[7, 6, 5][:space])
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(body(x).flatten(1).shape[1], 3))
    assert _trace(model, x).blocks
