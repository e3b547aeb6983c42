"""The integer form equals the network: logits bit for bit, for every input that the network itself adds exactly."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from integer_nets import METHODS, Residual, drawn, integers
from torch import Tensor, nn
from zoo import small_networks

from binarynets import BinaryConv1d, BinaryConv2d, BinaryLinear, Sign
from binarynets.integer import multiply, network
from binarynets.integer.affine import LIMIT, Affine, IntegerError
from binarynets.integer.evaluate import bounds, decided
from binarynets.integer.multiply import Method, fastest, multiplied
from binarynets.integer.network import IntegerNetwork, to_integer
from compare.params import Params, call, parameters


def check_equal(model: nn.Module, params: Params, x: Tensor) -> IntegerNetwork:
    dtype = next(tensor.dtype for tensor in params.values() if tensor.is_floating_point())
    expected = call(model.eval(), params, x.to(dtype))
    found = to_integer(model, params)
    for given_x, method in ((x.to(dtype), None), (x, None), *((x, method) for method in METHODS)):
        logits = found(given_x, method=method)
        assert logits.dtype == expected.dtype
        assert torch.equal(logits, expected)
    return found


def as_double(params: Params) -> Params:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in params.items()}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    kind=st.sampled_from(["signs", "pixels", "levels", "bytes", "wide"]),
    samples=st.sampled_from([1, 2, 17]),
    normalised=st.booleans(),
    biased=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_perceptrons(
    sizes: list[int], kind: str, samples: int, normalised: bool, biased: bool, double: bool, seed: int
) -> None:
    modules: list[nn.Module] = []
    for before, after in pairwise(sizes):
        modules += [BinaryLinear(before, after, bias=biased), *([nn.BatchNorm1d(after)] if normalised else []), Sign()]
    model = nn.Sequential(*modules[:-1])
    params = drawn(model, seed)
    x = integers(kind, samples, (sizes[0],), seed)
    check_equal(model, as_double(params) if double else params, x)


def met_thresholds(model: nn.Sequential, params: Params, x: Tensor, *, exact: bool) -> tuple[Params, int]:
    """Means that the first sample's own sums attain; and the number of exact zeros before signs.

    The sign of what rounding leaves of such a sum decides; with ``exact`` factors, powers of two, nothing is left.
    """
    params, zeros = dict(params), 0
    for index, module in enumerate(model):
        own = {name: tensor for name, tensor in params.items() if int(name.partition(".")[0]) < index}
        before = call(model[:index], own, x)
        if isinstance(module, nn.BatchNorm1d):
            params[f"{index}.running_mean"] = before[0].clone()
            params[f"{index}.bias"] = torch.zeros_like(before[0])
            if exact:
                params[f"{index}.running_var"] = torch.full_like(before[0], 16.0)
                params[f"{index}.weight"] = params[f"{index}.weight"].sign()
        elif isinstance(module, Sign):
            zeros += int((before[0] == 0).sum())
    return params, zeros


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(3, 40), min_size=2, max_size=5),
    kind=st.sampled_from(["signs", "pixels"]),
    exact=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_every_unit_meets_its_threshold(widths: list[int], kind: str, exact: bool, double: bool, seed: int) -> None:
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [BinaryLinear(before, after), nn.BatchNorm1d(after, eps=0.0), Sign()]
    model = nn.Sequential(*modules, BinaryLinear(widths[-1], 3)).eval()
    x = integers(kind, 50, (widths[0],), seed)
    params = as_double(drawn(model, seed)) if double else drawn(model, seed)
    params, zeros = met_thresholds(model, params, x.to(params["0.weight"].dtype), exact=exact)
    assert zeros == sum(widths[1:]) or not exact
    check_equal(model, params, x)


KITS: dict[int, tuple[Callable[..., nn.Module], ...]] = {
    1: (BinaryConv1d, nn.MaxPool1d, nn.AvgPool1d, nn.BatchNorm1d),
    2: (BinaryConv2d, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d),
}


def random_stage(choose: random.Random, kit: tuple[Callable[..., nn.Module], ...], before: int) -> nn.Sequential:
    """A convolution up to its signs, and what may be done to these."""
    convolution, largest, mean, norm = kit
    groups, biased, padding = choose.choice([1, before]), choose.random() < 0.3, choose.choice(["valid", 1, "same"])
    after, stride = groups * choose.randint(1, 3), 1 if padding == "same" else choose.randint(1, 2)
    options = {"stride": stride, "padding": padding, "dilation": choose.randint(1, 2), "groups": groups}
    ragged = {
        "stride": choose.choice([None, 1, 2]),
        "padding": choose.choice([0, 1]),
        "ceil_mode": choose.random() < 0.5,
    }
    possible = [
        (1.0, convolution(before, after, choose.randint(1, 3), bias=biased, **options)),
        (0.3, largest(choose.choice([2, 3]), **ragged)),
        (0.0 if biased else 0.3, mean(2, stride=choose.choice([None, 1]))),
        (0.8, norm(after, affine=choose.random() < 0.8)),
        (0.3, largest(2)),
        (0.2, nn.Hardtanh()),
        (1.0, Sign()),
        (0.3, mean(2, stride=1)),
        (0.4, Residual(convolution(after, after, 3, padding=1, groups=choose.choice([1, after])))),
    ]
    return nn.Sequential(*(module for chance, module in possible if choose.random() < chance))


def random_convnet(seed: int) -> tuple[nn.Module, tuple[int, ...]] | None:
    """Any chain that integers can follow, or None if the image became too small."""
    choose = random.Random(seed)
    axes, channels = choose.choice([1, 2]), choose.randint(1, 4)
    shape = (channels, *[choose.randint(7, 10)] * axes)
    stages: list[nn.Module] = []
    for _ in range(choose.randint(1, 3)):
        stage = random_stage(choose, KITS[axes], channels)
        stages.append(stage)
        channels = stage[0].out_channels  # type: ignore[assignment]
    stages.append(nn.Flatten())
    try:
        with torch.no_grad():
            features = nn.Sequential(*stages).eval()(torch.zeros(2, *shape)).shape[1]
    except RuntimeError:
        return None
    tail = [nn.BatchNorm1d(5)] if choose.random() < 0.7 else []
    return nn.Sequential(*stages, BinaryLinear(features, 5, bias=choose.random() < 0.3), *tail), shape


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), kind=st.sampled_from(["signs", "pixels", "wide"]), double=st.booleans())
def test_convnets_with_pooling_and_streams(seed: int, kind: str, double: bool) -> None:
    built = random_convnet(seed)
    assume(built is not None)
    model, shape = built  # type: ignore[misc]
    params = drawn(model, seed)
    check_equal(model, as_double(params) if double else params, integers(kind, 3, shape, seed))


@pytest.mark.parametrize("name", ["mlp", "deep mlp", "vgg", "vgg without dense"])
@pytest.mark.parametrize("seed", range(3))
def test_own_networks(name: str, seed: int) -> None:
    model = small_networks("binary")[name]
    check_equal(model, drawn(model, seed), integers("pixels", 40, (1, 8, 8), seed))


class Flattened(nn.Module):
    """A convolution, what changes no sign, a way to flatten, and a linear map."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), BinaryConv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Dropout2d(0.9))
        self.squash, self.sign, self.linear = nn.Hardtanh(), Sign(), BinaryLinear(48, 4)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.sign(self.squash(self.flatten(self.body(x)))))


@pytest.mark.parametrize(
    "flatten",
    [
        nn.Flatten(),
        lambda x: torch.flatten(x, 1),
        lambda x: x.flatten(start_dim=1),
        lambda x: x.flatten(2).flatten(1),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.view(x.size(0), 48),
    ],
)
def test_ways_to_flatten_and_what_changes_no_sign(flatten: Callable[[Tensor], Tensor]) -> None:
    model = Flattened(flatten)
    check_equal(model, drawn(model, 1), integers("signs", 40, (1, 5, 5), 0))


@pytest.mark.parametrize("seed", range(8))
def test_layouts_in_memory(seed: int) -> None:
    """Torch's batch normalisation has another loop for channels that lie last."""
    model = nn.Sequential(
        *(BinaryConv2d(2, 8, 2), nn.BatchNorm2d(8), Sign(), BinaryConv2d(8, 8, 2), nn.BatchNorm2d(8), Sign()),
        *(nn.Flatten(), BinaryLinear(72, 3), nn.BatchNorm1d(3)),
    )
    params, x = drawn(model, seed), integers("signs", 30, (2, 5, 5), seed).float()
    last = {name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in params.items()}
    for given_x in (x.to(memory_format=torch.channels_last), x.transpose(2, 3), x.repeat_interleave(2, 0)[::2]):
        for given_params in (params, last):
            check_equal(model, given_params, given_x)


def test_gradients_are_not_recorded() -> None:
    model = small_networks("binary")["mlp"]
    params = {name: t.requires_grad_() if t.is_floating_point() else t for name, t in drawn(model, 0).items()}
    found = to_integer(model, params)
    assert not found(integers("pixels", 3, (1, 8, 8), 0).float().requires_grad_()).requires_grad
    assert not found.output.gain.requires_grad


def test_average_before_a_biased_map() -> None:
    model = nn.Sequential(BinaryConv1d(1, 3, 2), Sign(), nn.AvgPool1d(4), nn.Flatten(), BinaryLinear(6, 5, bias=True))
    for tail in ([], [nn.BatchNorm1d(5)]):
        whole = nn.Sequential(*model, *tail)
        params = drawn(whole, 1)
        params["4.bias"] = torch.linspace(-3, 3, 5)
        check_equal(whole, params, integers("signs", 30, (1, 9), 0))


def test_negative_gains_behind_max_pooling() -> None:
    model = nn.Sequential(
        *(BinaryConv2d(1, 4, 2), nn.BatchNorm2d(4), nn.MaxPool2d(2), Sign(), nn.Flatten(), BinaryLinear(16, 3))
    )
    params = drawn(model, 0)
    params["1.weight"] = torch.tensor([-1.0, 1.0, -0.1, -3.0])
    params["1.running_mean"] = torch.tensor([0.0, 2.0, 1.0, -1.0])
    check_equal(model, params, integers("signs", 60, (1, 5, 5), 0))


def test_streams_of_sums_and_shared_modules() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.map, self.norm, self.sign = (
                *(BinaryLinear(7, 6), BinaryLinear(6, 6), nn.BatchNorm1d(6), Sign()),
            )
            self.last = BinaryLinear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            stream = self.first(x)
            for _ in range(3):
                stream = stream + self.map(self.sign(self.norm(stream)))
            return self.last(self.sign(stream)) + self.last(self.sign(self.norm(stream)))

    model = Network()
    found = check_equal(model, drawn(model, 2), integers("pixels", 50, (7,), 0))
    assert len(found.bits) == 3
    assert len(found.thresholds) == 5


def test_thresholds_on_and_beside_integers() -> None:
    """The mean is an attainable sum and the offset 0: the sign of exactly 0 decides, for both signs of the gain."""
    model = nn.Sequential(BinaryLinear(5, 4), nn.BatchNorm1d(4), Sign(), BinaryLinear(4, 2))
    params = drawn(model, 0)
    params["1.weight"], params["1.bias"] = torch.tensor([1.0, -1.0, 0.3, -0.3]), torch.zeros(4)
    params["1.running_mean"] = torch.tensor([1.0, 1.0, -3.0, -3.0])
    found = check_equal(model, params, torch.cartesian_prod(*[torch.tensor([-1, 1])] * 5))
    assert found.thresholds[1].tolist() == [1, 2, -3, -2]
    assert found.negated[1].tolist() == [False, True, False, True]


def test_units_that_are_constant_by_their_threshold() -> None:
    model = nn.Sequential(BinaryLinear(5, 4), nn.BatchNorm1d(4), Sign(), BinaryLinear(4, 2))
    params = drawn(model, 0)
    params["1.weight"], params["1.running_var"] = torch.tensor([1.0, -1.0, 1e-30, -1e-30]), torch.ones(4)
    params["1.bias"] = torch.tensor([1e20, 1e20, -1.0, -1.0])
    found = check_equal(model, params, torch.cartesian_prod(*[torch.tensor([-1, 1])] * 5))
    assert found.thresholds[1].abs().tolist() == [LIMIT] * 4


@settings(max_examples=200, deadline=None)
@given(
    gain=st.floats(-100, 100, width=32).filter(lambda g: abs(g) > 1e-6),
    offset=st.floats(-1e6, 1e6, width=32),
    shift=st.none() | st.floats(-(2**22), 2**22, width=32),
    double=st.booleans(),
)
def test_thresholds_are_where_the_function_changes_sign(
    gain: float, offset: float, shift: float | None, double: bool
) -> None:
    dtype = torch.float64 if double else torch.float32
    parts = (None if part is None else torch.tensor([part], dtype=dtype) for part in (gain, offset, shift))
    affine = Affine(*parts)  # type: ignore[arg-type]
    threshold, negated = affine.thresholds()
    middle = int(threshold.clamp(-(2**23), 2**23))
    sums = torch.arange(middle - 5, middle + 6)[:, None]
    assert torch.equal((sums >= threshold) != negated, affine(sums) >= 0)


def test_thresholds_heed_the_rounding_of_a_bias() -> None:
    """5 - 1e-9 is 5 in float32, which passes, though the real threshold lies above it."""
    one, bias = torch.ones(1), torch.tensor([-1e-9])
    for way, expected in ((one, 5), (-one, 6)):
        affine = Affine(way, -5 * way, bias)
        assert affine(torch.tensor([[5]])).item() == 0
        assert affine.thresholds()[0].item() == expected


@pytest.mark.parametrize("bound", [2**22 - 1, math.inf])
def test_decisions_up_to_the_largest_sums(bound: float) -> None:
    largest = int(min(bound, 2**24 - 1))
    sums = torch.tensor([0, 1, 5, largest - 1, largest])
    x = torch.cat([-sums, sums]).sort().values
    threshold = torch.cat([x, torch.tensor([-LIMIT, LIMIT])]).to(torch.int32).repeat(2)
    negated = torch.arange(len(threshold)) >= len(threshold) // 2
    expected = ((x[:, None] >= threshold) != negated) * 2.0 - 1
    assert torch.equal(decided(x.float()[:, None].expand(-1, len(threshold)), threshold, negated, bound), expected)


def test_bounds_of_values() -> None:
    body = nn.Sequential(Sign(), BinaryLinear(4, 4))
    model = nn.Sequential(BinaryLinear(3, 4), Sign(), Residual(body), nn.BatchNorm1d(4), Sign(), BinaryLinear(4, 2))
    found = to_integer(model, parameters(model))
    assert bounds(found.plan, found.bits) == (math.inf, math.inf, 1, 1, 4, 5, 1, 4)
    model = nn.Sequential(Sign(), nn.AvgPool2d((2, 4)), BinaryConv2d(4, 2, 3, groups=2), nn.Flatten())
    found = to_integer(model, parameters(model))
    assert bounds(found.plan, found.bits) == (math.inf, 1, 8, 8 * 18, 8 * 18)


def test_predict_takes_the_first_of_equal_classes_and_errors_counts() -> None:
    model = nn.Sequential(BinaryLinear(2, 3))
    params = {"0.weight": torch.tensor([[-1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])}
    found = to_integer(model, params)
    x = torch.tensor([[1, 1], [-1, 1], [1, -1], [-1, -1]])
    assert found.sums(x).dtype == torch.int32
    assert found.sums(x).tolist() == [[0, 2, 2], [2, 0, 0], [-2, 0, 0], [0, -2, -2]]
    assert found.predict(x).tolist() == [1, 0, 1, 0]
    assert found.errors(x, torch.tensor([1, 1, 2, 0])) == 2


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_networks("binary")[name]
    x = integers("pixels", 33, (1, 8, 8), 0)
    found = to_integer(model, drawn(model, 0))
    whole = [found(x, method=method) for method in METHODS]
    monkeypatch.setattr(network, "MEMORY", 10_000)
    monkeypatch.setattr("binarynets.integer.chain.SAMPLES", 4)
    assert all(torch.equal(found(x, method=m), before) for m, before in zip(METHODS, whole, strict=True))


def test_nothing_given_is_changed_and_training_mode_does_not_count() -> None:
    model = small_networks("binary")["vgg"].train()
    params, x = drawn(model, 0), integers("pixels", 9, (1, 8, 8), 0).float()
    copies, x_before = {name: tensor.clone() for name, tensor in params.items()}, x.clone()
    found = to_integer(model, params)
    logits = found(x)
    assert all(torch.equal(tensor, copies[name]) for name, tensor in params.items())
    assert torch.equal(x, x_before)
    assert all(module.training for module in model.modules())
    for tensor in params.values():
        tensor.zero_()
    assert torch.equal(found(x), logits)


@pytest.mark.parametrize("size", range(1, 20))
@pytest.mark.parametrize("method", multiply.__dict__["_PRODUCTS"])
def test_products(size: int, method: Method) -> None:
    generator = torch.Generator().manual_seed(size)
    bits = torch.randint(0, 2, (7, size), generator=generator, dtype=torch.bool)
    for kind in ("signs", "pixels", "levels", "bytes", "wide"):
        x = integers(kind, 6, (size,), size)
        expected = (x @ (bits.long() * 2 - 1).T).to(torch.float32)
        assert torch.equal(multiplied(x.float(), bits, method), expected)
        assert torch.equal(multiplied(x.float(), bits, method, bound=3000 if kind == "wide" else 255), expected)
    signs = integers("signs", 6, (size,), size).float()
    assert torch.equal(multiplied(signs, bits, method, bound=1), signs @ (bits.float() * 2 - 1).T)


def test_the_fastest_method_is_measured_once() -> None:
    assert fastest("cpu") in multiply.__dict__["_PRODUCTS"]
    before = fastest.cache_info().misses
    fastest("cpu")
    assert fastest.cache_info().misses == before


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="float32, int8, bits"):
        multiplied(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), "int4")  # type: ignore[arg-type]


def test_biases_that_round_away_the_integers_are_refused() -> None:
    model = nn.Sequential(BinaryLinear(9, 1, bias=True), nn.BatchNorm1d(1), Sign(), BinaryLinear(1, 2)).eval()
    params = parameters(model)
    params["0.bias"] = torch.tensor([1e8])
    with pytest.raises(IntegerError, match=r"biases up to 2\*\*22.* got 100000000"):
        to_integer(model, params)
