"""Exact neighbourhoods against the literal way: flip one latent sign, evaluate the model, count."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import pixels, randomised, small_networks

import binarynets
from binarynets.integer.affine import IntegerError
from binarynets.integer.network import to_integer
from binarynets.landscape import neighbourhood
from binarynets.landscape.neighbourhood import chain, flip_effects, flip_neighbourhood
from binarynets.landscape.neighbourhood_profile import (
    harmless_fraction,
    layer_profiles,
    most_critical,
    unit_profile,
)
from binarynets.layers import BinaryConv1d, BinaryConv2d, BinaryLinear, Sign, latent_weights
from compare.params import Params, call, parameters

TINY = float(torch.finfo(torch.float32).tiny)


def tied(model: nn.Module, *, seed: int) -> Params:
    """Random parameters, half of the channels with thresholds that integers meet, some rows and latents special."""
    generator = torch.Generator().manual_seed(seed)
    params = randomised(model, seed=seed)
    for name, tensor in params.items():
        half = torch.rand(len(tensor) if tensor.ndim else 1, generator=generator) < 0.5
        if name.endswith("running_mean"):
            params[name] = torch.where(half, torch.randint(-3, 4, tensor.shape, generator=generator).float(), tensor)
        elif name.endswith(".bias") and "norm" in name:
            params[name] = torch.where(half, 0.0, tensor)
        elif name in latent_weights(model):
            params[name] = torch.randn(tensor.shape, generator=generator)
            params[name].view(-1)[::7] = 0.0
            params[name][-1] = params[name][0]
    return params


def inputs(samples: int, shape: tuple[int, ...], classes: int, *, seed: int, largest: int) -> tuple[Tensor, Tensor]:
    """Odd integers up to ``largest`` in magnitude, some samples twice, and classes."""
    generator = torch.Generator().manual_seed(seed)
    x = 2.0 * torch.randint(0, largest + 1, (samples, *shape), generator=generator) - largest
    x[samples // 2] = x[0]
    return x, torch.randint(0, classes, (samples,), generator=generator)


def margin(logits: Tensor, y: Tensor) -> float:
    """The literal sum of margins."""
    total = 0.0
    for row, label in zip(logits.double().tolist(), y.tolist(), strict=True):
        total += row[label] - max(value for c, value in enumerate(row) if c != label)
    return total


@torch.no_grad()
def literal(model: nn.Module, params: Params, x: Tensor, y: Tensor, name: str, at: int) -> tuple[int, float]:
    """Change of errors and margin, from the model itself."""
    weight = params[name].clone()
    flat = weight.view(-1)
    flat[at] = -TINY if flat[at] == 0 else -flat[at]
    before, after = call(model, params, x), call(model, {**params, name: weight}, x)
    errors = [int((logits.argmax(1) != y).sum()) for logits in (before, after)]
    return errors[1] - errors[0], margin(after, y) - margin(before, y) if before.shape[1] > 1 else 0.0


def assert_literal(model: nn.Module, params: Params, x: Tensor, y: Tensor, *, most: int, seed: int = 0) -> int:
    """Compare up to ``most`` bits of each weight with the literal way; how many changes of errors were not 0."""
    errors, margins = flip_effects(model, params, x, y, threads=1)
    assert list(errors) == list(margins) == list(latent_weights(model))
    generator = torch.Generator().manual_seed(seed)
    found = 0
    for name, change in errors.items():
        assert change.shape == margins[name].shape == params[name].shape
        assert change.dtype == torch.int64
        assert margins[name].dtype == torch.float64
        for at in torch.randperm(change.numel(), generator=generator)[:most].tolist():
            wrong, moved = literal(model, params, x, y, name, at)
            assert int(change.view(-1)[at]) == wrong, (name, at)
            assert float(margins[name].view(-1)[at]) == pytest.approx(moved, rel=1e-9, abs=1e-6), (name, at)
            found += wrong != 0
    return found


@pytest.mark.parametrize("hidden", [[], [9], [13, 8], [3, 40, 5], [7, 11, 6, 9], [65, 130]])
@pytest.mark.parametrize("largest", [1, 255])
def test_every_single_bit_of_a_perceptron(hidden, largest) -> None:
    model = binarynets.mlp(12, hidden, 4).eval()
    params = tied(model, seed=len(hidden))
    x, y = inputs(30, (12,), 4, seed=1, largest=largest)
    assert assert_literal(model, params, x, y, most=600) > 0


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(3, 40), min_size=1, max_size=5),
    classes=st.integers(2, 11),
    samples=st.integers(1, 70),
    largest=st.sampled_from([1, 2, 16, 255]),
    seed=st.integers(0, 2**20),
)
def test_bits_of_any_perceptron(sizes, classes, samples, largest, seed) -> None:
    model = binarynets.mlp(sizes[0], sizes[1:], classes).eval()
    x, y = inputs(samples, (sizes[0],), classes, seed=seed, largest=largest)
    assert_literal(model, tied(model, seed=seed), x, y, most=40, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_biases_without_normalisation_and_both_types(dtype) -> None:
    layers = BinaryLinear(8, 9, bias=True), Sign(), BinaryLinear(9, 6, bias=True), Sign(), BinaryLinear(6, 3)
    model = nn.Sequential(*layers).to(dtype).eval()
    params = {name: tensor.to(dtype) for name, tensor in tied(model, seed=3).items()}
    x, y = inputs(25, (8,), 3, seed=2, largest=3)
    assert assert_literal(model, params, x.to(dtype), y, most=100) > 10


@pytest.mark.parametrize("layers", [[BinaryLinear(6, 4)], [BinaryLinear(6, 5), Sign(), BinaryLinear(5, 4)]])
def test_equal_outputs_go_to_the_first_class(layers) -> None:
    model = nn.Sequential(*layers).eval()
    x, y = inputs(40, (6,), 4, seed=5, largest=1)
    assert assert_literal(model, tied(model, seed=1), x, y, most=100) > 10


def test_inputs_as_large_as_int16_has_them() -> None:
    model = binarynets.mlp(3, [6], 3).eval()
    x, y = inputs(20, (3,), 3, seed=4, largest=32767)
    x[0] = torch.tensor([32767.0, -32767.0, 32767.0])
    params = tied(model, seed=4)
    params["norm1.running_var"] = torch.full((6,), 1e9)
    assert assert_literal(model, params, x, y, most=100) > 0


class _Residual(nn.Module):
    """Streams of integers and of signs that are added, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = BinaryConv2d(1, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.sign = Sign()
        self.inner = BinaryConv2d(4, 4, 3, stride=1, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = BinaryLinear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x)
        stream = stream + self.inner(self.sign(self.first(stream)))
        stream = stream + self.inner(self.sign(self.second(stream)))
        return self.head(torch.flatten(self.sign(self.norm(stream)), 1))


OTHERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "vgg": (binarynets.vgg((1, 8, 8), [[4, 5], [6]], [7], 5), (1, 8, 8), 5),
    "strides, dilation, groups": (
        nn.Sequential(
            *(BinaryConv2d(2, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), nn.BatchNorm2d(4), Sign()),
            *(nn.MaxPool2d(2), BinaryConv2d(4, 6, 2, groups=2, padding=1), nn.AvgPool2d(2), nn.BatchNorm2d(6), Sign()),
            *(nn.Flatten(), BinaryLinear(12, 3), nn.BatchNorm1d(3)),
        ),
        (2, 9, 6),
        3,
    ),
    "one axis": (
        nn.Sequential(
            BinaryConv1d(2, 5, 3, stride=2, padding=2), nn.BatchNorm1d(5), Sign(), nn.Flatten(), BinaryLinear(30, 3)
        ),
        (2, 9),
        3,
    ),
    "residual, shared": (_Residual(), (1, 4, 4), 3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_bits_of_other_networks(name) -> None:
    model, shape, classes = OTHERS[name]
    x, y = inputs(14, shape, classes, seed=1, largest=8)
    assert chain(to_integer(model.eval(), parameters(model)), x) is None
    found = assert_literal(model.eval(), tied(model, seed=2), x, y, most=150)
    assert found > 0


def test_other_networks_do_not_depend_on_their_blocks(monkeypatch) -> None:
    model, shape, classes = OTHERS["one axis"]
    x, y = inputs(14, shape, classes, seed=1, largest=8)
    params = tied(model.eval(), seed=2)
    whole = flip_neighbourhood(model, params, x, y)
    monkeypatch.setattr("binarynets.landscape.neighbourhood_steps.MEMORY", 4000)
    parts = flip_neighbourhood(model, params, x, y)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_weight_that_a_perceptron_uses_twice() -> None:
    layer, sign = BinaryLinear(7, 7), Sign()
    model = nn.Sequential(layer, sign, layer, sign, BinaryLinear(7, 3)).eval()
    x, y = inputs(30, (7,), 3, seed=2, largest=1)
    assert assert_literal(model, tied(model, seed=1), x, y, most=100) > 5


def test_nothing_depends_on_blocks_and_threads(monkeypatch) -> None:
    model = binarynets.mlp(20, [30, 17, 9], 5).eval()
    params = tied(model, seed=0)
    x, y = inputs(300, (20,), 5, seed=0, largest=16)
    whole = flip_effects(model, params, x, y, threads=1)
    for block, threads in ((64, 1), (37, 3), (1, 2), (1000, None)):
        monkeypatch.setattr(neighbourhood, "BLOCK", block)
        parts = flip_effects(model, params, x, y, threads=threads)
        for name in whole.errors:
            assert torch.equal(whole.errors[name], parts.errors[name])
            assert torch.equal(whole.margins[name], parts.margins[name])


def test_the_plain_call_gives_the_same_and_changes_nothing() -> None:
    model = small_networks("binary")["mlp"]
    params = tied(model, seed=1)
    kept = {name: tensor.clone() for name, tensor in params.items()}
    x, y = pixels(20), torch.arange(20) % 5
    errors = flip_neighbourhood(model, params, x, y)
    effects = flip_effects(model, params, x, y)
    assert all(torch.equal(errors[name], effects.errors[name]) for name in errors)
    assert all(torch.equal(kept[name], params[name]) for name in kept)


def test_samples_add_up() -> None:
    model = binarynets.mlp(20, [30, 17], 5).eval()
    params = tied(model, seed=0)
    x, y = inputs(50, (20,), 5, seed=0, largest=16)
    whole, some, rest = (
        flip_neighbourhood(model, params, x[part], y[part]) for part in (slice(50), slice(20), slice(20, 50))
    )
    assert all(torch.equal(whole[name], some[name] + rest[name]) for name in whole)


def test_one_class_is_never_wrong_and_has_no_margin() -> None:
    model = binarynets.mlp(6, [5], 1).eval()
    x, y = inputs(8, (6,), 1, seed=0, largest=1)
    assert all(not change.any() for change in flip_neighbourhood(model, parameters(model), x, y).values())
    with pytest.raises(IntegerError, match="two classes"):
        flip_effects(model, parameters(model), x, y)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x + 0.5, y), "integers"),
        (lambda x, y: (x, y[:-1]), "one class for each"),
        (lambda x, y: (x[:0], y[:0]), "at least one sample"),
        (lambda x, y: (x, y + 4), "from 0 to 4"),
        (lambda x, y: (x, y - 1), "from 0 to 4"),
        (lambda x, y: (x, y.float()), "class indices"),
        (lambda x, y: (x[:, 1:], y), "64"),
        (lambda x, y: (x * 40000, y), "32767"),
    ],
)
def test_what_does_not_fit_is_refused(change, said) -> None:
    model = small_networks("binary")["mlp"]
    x, y = change(pixels(10).flatten(1), torch.arange(10) % 5)
    with pytest.raises(IntegerError, match=said):
        flip_neighbourhood(model, parameters(model), x, y)


def test_networks_without_integer_form_and_threads_are_refused() -> None:
    model = binarynets.resnet((1, 8, 8), [4], [1], 3).eval()
    with pytest.raises(IntegerError, match="residual1_1"):
        flip_neighbourhood(model, parameters(model), pixels(4), torch.zeros(4, dtype=torch.int64))
    model = small_networks("binary")["mlp"]
    with pytest.raises(ValueError, match="threads"):
        flip_neighbourhood(model, parameters(model), pixels(4), torch.zeros(4, dtype=torch.int64), threads=0)


CHANGES = {"a": torch.tensor([[0, 2, -1], [5, 0, 0]]), "b": torch.tensor([[[5]], [[-3]]])}


def test_the_most_critical_bits_in_order() -> None:
    found = most_critical(CHANGES, 3)
    assert found == [("a", (1, 0), 5), ("b", (0, 0, 0), 5), ("a", (0, 1), 2)]
    assert len(most_critical(CHANGES, 100)) == 8
    assert most_critical(CHANGES, 100)[-1] == ("b", (1, 0, 0), -3)


def test_profiles() -> None:
    layers = layer_profiles(CHANGES)
    assert (layers["a"].bits, layers["a"].worst, layers["a"].best) == (6, 5, -1)
    assert layers["a"].mean == 1
    assert (layers["a"].raising, layers["a"].lowering, layers["a"].unchanging) == (2 / 6, 1 / 6, 3 / 6)
    units = unit_profile(CHANGES["b"])
    assert units.bits == 1
    assert units.mean.tolist() == units.worst.tolist() == units.best.tolist() == [5, -3]
    assert units.raising.tolist() == [1, 0]
    assert harmless_fraction(CHANGES) == 5 / 8


@pytest.mark.parametrize("function", [most_critical, harmless_fraction, layer_profiles])
@pytest.mark.parametrize("changes", [{}, {"a": torch.zeros(0, 3)}])
def test_profiles_of_nothing_are_refused(function, changes) -> None:
    with pytest.raises(ValueError, match="expected one number for each bit"):
        function(changes)


def test_a_number_of_critical_bits_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive number of bits"):
        most_critical(CHANGES, 0)
