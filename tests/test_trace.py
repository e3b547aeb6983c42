"""What tracing finds, and what it refuses."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import pixels, small_networks

import binarynets
import fullprecision
from compare.params import call
from compare.symmetry import SymmetryError, trace
from compare.symmetry.rules import FUNCTION_RULES, MODULE_RULES, homogeneous, odd, passes


class Own(nn.Module):
    """A user's own module, in functional style."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.norm(self.first(torch.flatten(x, 1)))))


def _trace(model: nn.Module, **options):
    return trace(model.eval(), pixels(4), fullprecision.FAMILY, **options)


def test_a_users_own_module_is_traced() -> None:
    graph = _trace(Own())
    assert [(block.name, block.signs, block.scales) for block in graph.blocks] == [("first", False, True)]
    assert {tie.name for tie in graph.blocks[0].ties} >= {"first.bias", "norm.running_mean", "second.weight"}


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
        (binarynets.Sign(), True, False),
    ],
)
@pytest.mark.parametrize("normalised", [False, True])
def test_the_group_follows_the_activation(activation, signs, scales, normalised) -> None:
    norm = nn.BatchNorm1d(6) if normalised else nn.Identity()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm, activation, nn.Linear(6, 3))
    block = trace(model, pixels(4), binarynets.FAMILY).blocks[0]
    assert (block.signs, block.scales) == (signs, scales)


def test_signs_need_an_offset_before_the_sign_function() -> None:
    model = nn.Sequential(
        nn.Flatten(), binarynets.BinaryLinear(64, 6), binarynets.Sign(), binarynets.BinaryLinear(6, 3)
    )
    graph = trace(model, pixels(4), binarynets.FAMILY)
    assert not graph.blocks[0].signs
    assert any("exactly 0" in note for note in graph.notes)


def test_max_pooling_behind_the_sign_function_forbids_signs() -> None:
    model = nn.Sequential(
        binarynets.BinaryConv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        binarynets.Sign(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        binarynets.BinaryLinear(36, 3),
    )
    block = trace(model, pixels(4), binarynets.FAMILY).blocks[0]
    assert not block.signs
    assert block.notes


def test_max_pooling_before_the_normalisation_leaves_signs_to_gain_and_offset() -> None:
    graph = trace(small_networks("binary")["vgg"], pixels(4), binarynets.FAMILY)
    pooled = next(layer for layer in graph.layers if layer.pooled)
    negated = {tie.name for tie in graph.blocks[pooled.block].ties if tie.negates and tie.axis == 0}
    assert negated == {pooled.norm.gain, pooled.norm.offset}


def test_flattened_maps_repeat_their_unit() -> None:
    graph = trace(small_networks("full")["vgg"], pixels(4), fullprecision.FAMILY)
    assert [tie.repeat for block in graph.blocks for tie in block.ties if tie.axis == 1] == [1, 1, 4, 1]


def test_tracing_leaves_the_model_alone() -> None:
    model = small_networks("full")["vgg"].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, pixels(4), fullprecision.FAMILY)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        return self.map(y) if y.sum() > 0 else y


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        return y + self.map(y)


class _Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map, self.unused = nn.Linear(64, 3), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.flatten(1))


class _TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def _sequence(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), *modules, nn.Linear(6, 3))


def _twice() -> nn.Module:
    shared = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared)


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Branch(), "cannot be traced by torch.fx"),
        (_Residual(), "used more than once|join values"),
        (_Bare(), "no rule covers 'unused'"),
        (_TwoInputs(), "does not take example_input .*missing 1 required positional argument"),
        (_sequence(nn.LayerNorm(6)), r"'2' \(LayerNorm\): no rule is known"),
        (_sequence(nn.ReLU(), nn.BatchNorm1d(6)), r"'3' \(BatchNorm1d\): .* directly behind a linear map"),
        (_sequence(nn.BatchNorm1d(6, track_running_stats=False)), "running statistics"),
        (_twice(), "called twice"),
        (_tied(), "tied to others"),
        (nn.Sequential(nn.Linear(8, 3), nn.Flatten(), nn.Linear(24, 3)), r"expected an input \[batch, features\]"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), "grouped convolutions"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2)), "start_dim=1"),
        (nn.Sequential(nn.ReLU()), "no linear map"),
        (fullprecision.resnet((1, 8, 8), [4], [1], 3), "used more than once|join values"),
    ],
)
def test_what_is_not_known_is_refused_by_name(model, message) -> None:
    with pytest.raises(SymmetryError, match=message):
        _trace(model)


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


def test_another_precisions_layers_are_refused_with_the_remedy() -> None:
    with pytest.raises(SymmetryError, match="trace with that precision's FAMILY"):
        _trace(binarynets.mlp(64, [4], 3))


def test_a_model_that_is_not_on_the_cpu_is_refused() -> None:
    with pytest.raises(SymmetryError, match="expected a model on the CPU, got parameters on meta"):
        _trace(Own().to("meta"))


def test_an_example_of_another_shape_is_refused() -> None:
    with pytest.raises(SymmetryError, match=r"Own does not take example_input \[4, 63\]"):
        trace(Own(), torch.randn(4, 63), fullprecision.FAMILY)


def test_pooling_over_the_units_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.MaxPool1d(2), nn.Linear(3, 2))
    with pytest.raises(SymmetryError, match="its inputs are not the 6 units of '1'"):
        _trace(model)


def test_no_gain_behind_pooling_means_no_signs() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4, affine=False), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    )
    assert not _trace(model).blocks[0].signs


def test_an_average_behind_the_offset_means_no_signs() -> None:
    model = nn.Sequential(
        *(binarynets.BinaryConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), binarynets.Sign()),
        *(nn.Flatten(), binarynets.BinaryLinear(36, 3)),
    )
    graph = trace(model, pixels(4), binarynets.FAMILY)
    assert not graph.blocks[0].signs
    assert any("an average lies between" in note for note in graph.notes)


def test_an_all_zero_example_proves_no_more_than_any() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    with pytest.raises(SymmetryError, match="do not hold"):
        trace(model, torch.zeros(4, 1, 8, 8), fullprecision.FAMILY, rules={nn.ReLU: odd})


@pytest.mark.parametrize("example", [torch.zeros(0, 1, 8, 8), torch.zeros(3), "no tensor"])
def test_an_example_that_is_no_batch_is_refused(example) -> None:
    with pytest.raises(SymmetryError, match="expected a batch"):
        trace(Own(), example, fullprecision.FAMILY)


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs()


def test_a_users_rule_is_used() -> None:
    graph = _trace(_sequence(_Square()), rules={_Square: odd})
    assert graph.blocks[0].signs


@pytest.mark.parametrize(
    ("activation", "wrong"),
    [
        (nn.GELU(), homogeneous),
        (nn.ReLU(), odd),
        (nn.Tanh(), homogeneous),
        (nn.Tanh(), passes),
        (binarynets.Sign(), homogeneous),
        (_Square(), passes),
    ],
)
@pytest.mark.parametrize("normalised", [False, True])
def test_the_certificate_catches_a_wrong_rule(activation, wrong, normalised) -> None:
    model = _sequence(*([nn.BatchNorm1d(6)] if normalised else []), activation)
    with pytest.raises(SymmetryError, match="symmetries of '1' do not hold"):
        _trace(model, rules={type(activation): wrong})


def test_the_certificate_catches_a_wrong_pooling_rule() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    with pytest.raises(SymmetryError, match="symmetries of '0' do not hold"):
        _trace(model, rules={nn.MaxPool2d: passes})
    assert not _trace(model).blocks[0].signs


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_the_certificate_catches_a_forgotten_buffer(name, monkeypatch) -> None:
    """A fresh network would hide it: all means 0, all variances 1."""
    module = sys.modules["compare.symmetry.trace"]  # the package's attribute of that name is the function
    complete = module._ties
    monkeypatch.setattr(
        module, "_ties", lambda draft: tuple(tie for tie in complete(draft) if not tie.name.endswith(f"norm.{name}"))
    )
    with pytest.raises(SymmetryError, match="do not hold"):
        _trace(Own())


def test_linear_maps_of_every_dimension() -> None:
    maps = {
        nn.Conv1d: (nn.BatchNorm1d, (1, 64)),
        nn.Conv2d: (nn.BatchNorm2d, (1, 8, 8)),
        nn.Conv3d: (nn.BatchNorm3d, (1, 4, 4, 4)),
    }
    for convolution, (norm, shape) in maps.items():
        model = nn.Sequential(convolution(1, 4, 3), norm(4), nn.ReLU(), convolution(4, 3, 2), nn.Flatten())
        x = torch.randn(4, *shape)
        graph = trace(model.eval(), x, fullprecision.FAMILY)
        assert graph.blocks[0].scales


def _example(kind: type[nn.Module]) -> nn.Module:
    """A module of this type with arguments that suit 1-d or 2-d maps of 4 channels."""
    arguments = {"Softmax": (1,), "LogSoftmax": (1,)}
    size = (2,) if "Pool" in kind.__name__ else ()
    return kind(*arguments.get(kind.__name__, size))


OTHERS = [kind for kind in MODULE_RULES if not hasattr(kind, "reset_parameters")]


def _linear_or_pooling(kind: type[nn.Module]) -> bool:
    """Behind these, unlike behind an activation or a flattening, a normalisation is known."""
    return "Pool" in kind.__name__ or "Dropout" in kind.__name__ or kind is nn.Identity


PLACES = [(kind, place) for kind in OTHERS for place in ("before", "not")]
PLACES += [(kind, "behind") for kind in OTHERS if _linear_or_pooling(kind)]


@pytest.mark.parametrize(("kind", "normalised"), PLACES)
def test_every_operation_with_a_rule_keeps_what_it_claims(kind, normalised) -> None:
    """Before the normalisation (poolings), behind it, and without one; the certificate is the judge."""
    flat = kind is nn.Flatten or "1d" in kind.__name__
    convolution, norm, shape = (nn.Conv1d, nn.BatchNorm1d, (1, 64)) if flat else (nn.Conv2d, nn.BatchNorm2d, (1, 8, 8))
    operation = _example(kind)
    middle = {"before": [norm(4), operation], "behind": [operation, norm(4)], "not": [operation]}[normalised]
    body = nn.Sequential(convolution(1, 4, 3), *middle, nn.Tanh() if "Pool" in kind.__name__ else nn.Identity())
    x = torch.randn(6, *shape)
    body = nn.Sequential(*body, nn.Flatten())
    model = nn.Sequential(*body, nn.Linear(body(x).shape[1], 3)).eval()
    assert len(trace(model, x, fullprecision.FAMILY).blocks) == 1


@pytest.mark.parametrize("operation", [op for op in FUNCTION_RULES if callable(op)], ids=lambda op: op.__name__)
def test_every_function_with_a_rule_keeps_what_it_claims(operation) -> None:
    arguments = {"flatten": {"start_dim": 1}, "softmax": {"dim": 1}, "log_softmax": {"dim": 1}}
    name = operation.__name__
    if "pool" in name:
        arguments[name] = {"output_size": 2} if "adaptive" in name else {"kernel_size": 2}
    flat = "1d" in name

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(1, 4, 3) if flat else nn.Conv2d(1, 4, 3)
            self.last = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.flatten(operation(self.first(x), **arguments.get(name, {})), 1))

    model, x = Functional(), torch.randn(6, *((1, 64) if flat else (1, 8, 8)))
    model(x)
    model.last = nn.Linear(model.last.in_features, 3)
    assert len(trace(model.eval(), x, fullprecision.FAMILY).blocks) == 1


def test_functional_forms() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 2), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.a(x)), 2)
            return self.c(torch.tanh(self.b(x)).flatten(1))

    graph = _trace(Functional())
    assert [(block.signs, block.scales) for block in graph.blocks] == [(False, True), (True, False)]


def test_rules_of_a_family_are_found_by_exact_type() -> None:
    class Twisted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.arange(1.0, 7.0)

    model = nn.Sequential(nn.Flatten(), Twisted(64, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(SymmetryError):
        _trace(model)


def test_call_of_a_traced_model_is_unchanged() -> None:
    model = Own().eval()
    x = pixels(8)
    expected = model(x)
    _trace(model)
    assert torch.equal(call(model, dict(model.named_parameters()) | dict(model.named_buffers()), x), expected)
