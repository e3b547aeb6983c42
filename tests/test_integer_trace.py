"""Steps on integers: which networks have them, and what is said of the others."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import binarynets
from binarynets import BinaryConv1d, BinaryConv2d, BinaryLinear, Sign, magnitude_aware_sign
from binarynets.integer.affine import IntegerError
from binarynets.integer.plan import Add, Convolution, Decide, Flatten, Linear, Output, Pool, Scaling
from binarynets.integer.trace import plan
from compare.params import parameters


class Through(nn.Module):
    """A convolution, then any function of its sums, then a linear map."""

    def __init__(self, function: Callable[..., Tensor], features: int = 4) -> None:
        super().__init__()
        self.convolution = BinaryConv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.sign = Sign()
        self.linear = BinaryLinear(features, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(self, x))


class Sum(nn.Module):
    """The sum of two ways."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


def kinds(model: nn.Module) -> list[type]:
    return [type(step) for step in plan(model).steps]


def norm_scaling(name: str, *, eps: float = 1e-5, bias: str | None = None, divisor: int = 1) -> Scaling:
    names = (f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
    return Scaling(bias, *names, eps=eps, divisor=divisor)


def test_a_perceptron_is_a_chain() -> None:
    steps = plan(binarynets.mlp(4, [3], 2)).steps
    assert steps == (
        Flatten("flatten", 0, 1, -1),
        Linear("linear1", 1, "linear1.weight"),
        Decide("activation1", 2, norm_scaling("norm1")),
        Linear("linear2", 3, "linear2.weight"),
        Output("output", 4, norm_scaling("norm2")),
    )


def test_pooling_before_the_sign_compares_sums() -> None:
    steps = plan(binarynets.vgg((1, 8, 8), [[4, 4], [8]], [16], 10)).steps
    assert [type(step) for step in steps[:5]] == [Convolution, Decide, Convolution, Pool, Decide]
    assert steps[3] == Pool("pool1", 3, "max", (2, 2), (2, 2), (0, 0), (1, 1), False)
    assert steps[4].scaling == norm_scaling("norm1_2")


def test_pooling_behind_a_normalisation_compares_signs() -> None:
    model = nn.Sequential(
        BinaryConv1d(1, 2, 3), nn.BatchNorm1d(2), nn.MaxPool1d(2), Sign(), nn.Flatten(), BinaryLinear(4, 2)
    )
    assert kinds(model) == [Convolution, Decide, Pool, Flatten, Linear, Output]


def test_a_convolution_keeps_its_geometry() -> None:
    layer = BinaryConv2d(4, 6, (2, 4), stride=(1, 1), padding="same", dilation=(1, 3), groups=2)
    step = plan(nn.Sequential(layer, nn.Flatten())).steps[0]
    # Behind an even kernel there is one zero more.
    assert step == Convolution("0", 0, "0.weight", (1, 1), ((0, 1), (4, 5)), (1, 3), 2)
    valid = plan(nn.Sequential(BinaryConv1d(4, 6, 2, stride=2, padding="valid"), nn.Flatten())).steps[0]
    assert valid == Convolution("0", 0, "0.weight", (2,), ((0, 0),), (1,), 1)


def test_average_pooling_leaves_a_divisor() -> None:
    model = nn.Sequential(
        BinaryConv2d(1, 2, 3), nn.AvgPool2d((2, 4)), nn.AvgPool2d(2), nn.BatchNorm2d(2, eps=0.1), Sign(), nn.Flatten()
    )
    first, second, decision = plan(model).steps[1:4]
    assert first == Pool("1", 1, "sum", (2, 4), (2, 4), (0, 0), (1, 1), False)
    assert second.window == (2, 2)
    assert decision.scaling == norm_scaling("3", eps=0.1, divisor=32)


def test_integer_streams_are_added() -> None:
    body = nn.Sequential(Sign(), BinaryLinear(4, 4))
    model = nn.Sequential(BinaryLinear(3, 4), Sum(nn.Identity(), body), nn.BatchNorm1d(4), Sign(), BinaryLinear(4, 2))
    steps = plan(model).steps
    assert steps[3] == Add("1.add", 1, 3)
    assert [type(step) for step in steps] == [Linear, Decide, Linear, Add, Decide, Linear, Output]


def test_what_changes_no_sign_leaves_no_step() -> None:
    model = nn.Sequential(
        nn.Identity(),
        BinaryLinear(3, 4, bias=True),
        nn.Dropout(),
        nn.Hardtanh(inplace=True),
        Sign(),
        BinaryLinear(4, 2),
    )
    steps = plan(model).steps
    assert [type(step) for step in steps] == [Linear, Decide, Linear, Output]
    assert steps[1].scaling == Scaling(bias="1.bias")


def test_flattening_behind_a_normalisation_flattens_signs() -> None:
    model = nn.Sequential(BinaryConv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), Sign(), BinaryLinear(2, 2))
    assert kinds(model) == [Convolution, Decide, Flatten, Linear, Output]


def test_a_single_layer_is_a_network() -> None:
    assert plan(BinaryLinear(3, 2)).steps[0] == Linear("0", 0, "weight")


def test_a_tied_weight_has_its_first_name_and_a_repeated_module_one_name_for_each_call() -> None:
    sign = Sign()
    model = nn.Sequential(BinaryLinear(3, 3), sign, BinaryLinear(3, 3), sign, BinaryLinear(3, 2))
    model[2].weight = model[0].weight
    steps = plan(model).steps
    assert [step.name for step in steps] == ["0", "1", "2", "1:2", "4", "output"]
    assert steps[2].weight == "0.weight"
    assert all(step.weight in parameters(model) for step in steps if isinstance(step, Linear))


def test_the_model_is_not_changed_and_its_mode_does_not_count() -> None:
    model = binarynets.mlp(4, [3], 2)
    before, was = parameters(model), plan(model)
    assert plan(model.eval()) == was
    assert plan(model.train()) == was
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters(model).items())


@pytest.mark.parametrize(
    "flattened",
    [
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: torch.flatten(x, 1, 3),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.reshape((x.size()[0], -1)),
        lambda x: x.contiguous().view(-1, 144),
        lambda x: torch.reshape(x, (x.shape[0], 144)),
    ],
)
def test_ways_to_flatten(flattened: Callable[[Tensor], Tensor]) -> None:
    model = Through(lambda own, x: flattened(own.sign(own.norm(own.convolution(x)))), 144)
    assert kinds(model) == [Convolution, Decide, Flatten, Linear, Output]
    assert plan(model).steps[2].start == 1


def test_functions_do_as_modules() -> None:
    def function(own: Through, x: Tensor) -> Tensor:
        x = F.max_pool2d(own.convolution(x), 2, stride=1)
        x = F.avg_pool2d(torch.max_pool2d(x, 2), (1, 2))
        x = own.sign(F.hardtanh(F.dropout(own.norm(x), training=own.training)))
        return torch.flatten(torch.add(x, x), 1)

    steps = plan(Through(function)).steps
    assert [type(step) for step in steps] == [Convolution, Pool, Pool, Pool, Decide, Add, Flatten, Linear, Output]
    assert steps[1].stride == (1, 1)
    assert steps[2].stride == (2, 2)
    assert steps[4].scaling == norm_scaling("norm", divisor=2)


def linear(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(BinaryLinear(3, 4), *between, BinaryLinear(4, 2))


def convolution(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(BinaryConv2d(1, 2, 3), *between, nn.Flatten(), BinaryLinear(2, 2))


def shared_in_place() -> nn.Module:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.squash, self.sign = BinaryLinear(3, 3), nn.Hardtanh(inplace=True), Sign()

        def forward(self, x: Tensor) -> Tensor:
            sums = self.linear(x)
            return sums + self.sign(self.squash(torch.flatten(sums, 1)))

    return Shared()


def several(output: Callable[[Tensor], object]) -> nn.Module:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = BinaryLinear(3, 3)

        def forward(self, x: Tensor) -> object:
            return output(self.linear(x))

    return Several()


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class OwnLinear(BinaryLinear):
    pass


REFUSED: dict[str, tuple[nn.Module, str, str]] = {
    "real map": (linear(Sign(), nn.Linear(4, 4), Sign()), "'2' (Linear)", "BinaryLinear"),
    "relu": (linear(nn.ReLU()), "'1' (ReLU)", "not odd"),
    "tanh": (linear(nn.Tanh()), "'1' (Tanh)", "can go"),
    "softmax": (nn.Sequential(BinaryLinear(3, 4), nn.Softmax(1)), "'1' (Softmax)", "up to its logits"),
    "layer norm": (linear(nn.LayerNorm(4), Sign()), "'1' (LayerNorm)", "BatchNorm1d"),
    "group norm": (convolution(nn.GroupNorm(1, 2), Sign()), "'1' (GroupNorm)", "BatchNorm"),
    "magnitudes": (nn.Sequential(BinaryLinear(3, 2, quantiser=magnitude_aware_sign)), "'0'", "by sign"),
    "magnitudes of signs": (linear(Sign(lambda x: 2 * x)), "'1' (Sign)", "by sign"),
    "a subclass": (nn.Sequential(OwnLinear(3, 2)), "'0.weight' (a tensor)", "may use parameters"),
    "two norms": (linear(nn.BatchNorm1d(4), nn.BatchNorm1d(4), Sign()), "'2' (BatchNorm1d)", "fold one"),
    "norm behind hardtanh": (linear(nn.Hardtanh(), nn.BatchNorm1d(4), Sign()), "'2' (BatchNorm1d)", "'1'"),
    "no sign before a map": (linear(nn.BatchNorm1d(4)), "'2' (BinaryLinear)", "normalisation '1'"),
    "batch statistics": (linear(nn.BatchNorm1d(4, track_running_stats=False), Sign()), "'1'", "track_running_stats"),
    "padding": (
        nn.Sequential(BinaryConv2d(1, 2, 3, padding=1), nn.Flatten()),
        "'0' (BinaryConv2d)",
        "'circular'",
    ),
    "mean of 9": (convolution(nn.AvgPool2d(3), Sign()), "'1' (AvgPool2d)", "power of two"),
    "ragged mean": (convolution(nn.AvgPool2d(2, ceil_mode=True), Sign()), "'1' (AvgPool2d)", "ceil_mode"),
    "padded mean": (convolution(nn.AvgPool2d(2, padding=1), Sign()), "'1' (AvgPool2d)", "padding=0"),
    "divisor": (convolution(nn.AvgPool2d(2, divisor_override=3), Sign()), "'1' (AvgPool2d)", "divisor_override"),
    "mean of real": (convolution(nn.BatchNorm2d(2), nn.AvgPool2d(2), Sign()), "'2' (AvgPool2d)", "'1'"),
    "adaptive mean": (convolution(nn.AdaptiveAvgPool2d(1)), "'1' (AdaptiveAvgPool2d)", "depends on the image"),
    "indices": (convolution(nn.MaxPool2d(1, return_indices=True)), "'1' (MaxPool2d)", "return_indices"),
    "clipped at 0": (linear(nn.Hardtanh(0.0, 1.0), Sign()), "'1' (Hardtanh)", "both sides"),
    "overwritten": (shared_in_place(), "'squash' (Hardtanh)", "inplace=False"),
    "overwritten by a function": (
        several(lambda x: x + F.hardtanh(torch.flatten(x, 1), inplace=True)),
        "'hardtanh' (hardtanh)",
        "inplace=False",
    ),
    "axis of the batch": (nn.Sequential(nn.Flatten(0), BinaryLinear(3, 2)), "'0' (Flatten)", "batch"),
    "not flat": (nn.Sequential(BinaryConv2d(1, 2, 3), Sign(), BinaryLinear(2, 2)), "'2' (BinaryLinear)", "4"),
    "not flat at the end": (nn.Sequential(BinaryConv2d(1, 2, 3)), "'output'", "Flatten"),
    "flat logits of signs": (
        nn.Sequential(BinaryConv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()),
        "'output'",
        "'2'",
    ),
    "real stream": (
        nn.Sequential(Sum(nn.Sequential(BinaryLinear(3, 3), nn.BatchNorm1d(3)), nn.Identity()), Sign()),
        "'0.add' (add)",
        "normalisation '0.left.1'",
    ),
    "biased stream": (
        nn.Sequential(Sum(BinaryLinear(3, 3, bias=True), nn.Identity()), Sign()),
        "'0.add' (add)",
        "the bias of '0.left'",
    ),
    "two divisors": (
        nn.Sequential(Sum(nn.AvgPool1d(2, stride=1), nn.AvgPool1d((1,), stride=1)), nn.Flatten()),
        "'0.add' (add)",
        "divided one stream by 2, the other by 1",
    ),
    "alpha": (several(lambda x: torch.add(x, x, alpha=2)), "'add' (add)", "alpha=2"),
    "constant": (several(lambda x: x + 1), "'add' (add)", "int"),
    "difference": (several(lambda x: x - 1), "'sub' (sub)", "not among"),
    "random": (several(lambda x: F.dropout(x)), "'dropout' (dropout)", "self.training"),
    "shape": (several(lambda x: x.view(-1, x.shape[1])), "'getitem' (getitem)", "number of samples"),
    "view": (several(lambda x: x.view(3, -1)), "'view' (view)", "Flatten"),
    "attribute": (several(lambda x: x.T), "'getattr_1' (getattr)", "'T'"),
    "strange arguments": (several(lambda x: x.flatten(1, unknown=2)), "'flatten' (flatten)", "unknown"),
    "pair": (several(lambda x: (x, x)), "'output'", "tuple"),
    "two inputs": (TwoInputs(), "TwoInputs", "one input, got 2"),
    "data decides": (nn.Sequential(Branch(), BinaryLinear(3, 2)), "'0'", "control flow"),
}
REFUSED["padding"][0][0].padding_mode = "circular"


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_module_the_reason_and_a_way_on(case: str) -> None:
    model, place, reason = REFUSED[case]
    with pytest.raises(IntegerError) as caught:
        plan(model)
    assert place in str(caught.value)
    assert reason in str(caught.value)


def test_own_residual_networks_are_refused_by_the_name_of_the_stream() -> None:
    with pytest.raises(IntegerError, match=r"'residual1_1.add' \(add\).*normalisation 'stem.norm'"):
        plan(binarynets.resnet((3, 8, 8), [4, 8], [1, 1], 10))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(IntegerError, match=r"expected a torch\.nn\.Module, got str"):
        plan("model")  # type: ignore[arg-type]
