import pytest
import torch
from torch import Tensor, fx, nn

import binarynets.networks
import fullprecision.networks
from binarynets.layers import Sign, is_binarised
from binarynets.quantisers import magnitude_aware_sign, swish_sign
from compare.networks import Residual, ShapeError

PRECISIONS = [binarynets.networks, fullprecision.networks]
SHAPES = {
    "mlp": (lambda family, **options: family.mlp(64, [8, 6], 3, **options), (5, 1, 8, 8)),
    "linear": (lambda family, **options: family.mlp(64, [], 3, **options), (5, 64)),
    "vgg": (lambda family, **options: family.vgg((2, 13, 8), [[4, 4], [6]], [8, 5], 3, **options), (5, 2, 13, 8)),
    "vgg, no dense": (lambda family, **options: family.vgg((2, 8, 8), [[4]], [], 3, **options), (5, 2, 8, 8)),
    "resnet": (lambda family, **options: family.resnet((2, 8, 8), [4, 6], [2, 1], 3, **options), (5, 2, 8, 8)),
    "resnet, odd image": (
        lambda family, **options: family.resnet((2, 7, 5), [4, 6], [1, 1], 3, **options),
        (5, 2, 7, 5),
    ),
}
shapes = pytest.mark.parametrize(("build", "shape"), SHAPES.values(), ids=SHAPES)
precisions = pytest.mark.parametrize("family", PRECISIONS, ids=lambda family: family.__name__.split(".")[0])


def _pixels(shape: tuple[int, ...]) -> Tensor:
    return 2.0 * torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) - 255


def _kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model]


@shapes
@precisions
def test_outputs_and_gradients(family, build, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build(family)
    output = model(_pixels(shape))
    assert output.shape == (5, 3)
    nn.functional.cross_entropy(output, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@shapes
def test_precisions_share_names_and_shapes(build, shape: tuple[int, ...]) -> None:
    binary, full = (build(family).state_dict() for family in PRECISIONS)
    assert {name: value.shape for name, value in binary.items()} == {name: value.shape for name, value in full.items()}
    linear_biases = [name for name in full if name.endswith("bias") and "norm" not in name]
    assert linear_biases == []


@shapes
@precisions
def test_traced_is_the_same(family, build, shape: tuple[int, ...]) -> None:
    model = build(family).eval()
    assert torch.equal(fx.symbolic_trace(model)(_pixels(shape)), model(_pixels(shape)))


@shapes
def test_every_linear_map_and_activation_is_binary(build, shape: tuple[int, ...]) -> None:
    modules = list(build(binarynets.networks).modules())
    maps = [module for module in modules if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert maps
    assert all(is_binarised(module) for module in maps)
    assert not any(isinstance(module, nn.ReLU) for module in modules)


@shapes
def test_quantisers_are_handed_on(build, shape: tuple[int, ...]) -> None:
    model = build(binarynets.networks, quantiser=swish_sign, weight_quantiser=magnitude_aware_sign)
    for module in model.modules():
        if is_binarised(module):
            assert module.quantiser is magnitude_aware_sign
        if isinstance(module, Sign):
            assert module.quantiser is swish_sign
    both = build(binarynets.networks, quantiser=swish_sign)
    assert {module.quantiser for module in both.modules() if hasattr(module, "quantiser")} == {swish_sign}


def test_mlp_takes_flat_samples_and_images() -> None:
    model = binarynets.networks.mlp(784, [16], 10).eval()
    x = _pixels((3, 1, 28, 28))
    assert torch.equal(model(x), model(x.flatten(1)))


def test_order_of_an_mlp() -> None:
    assert _kinds(fullprecision.networks.mlp(4, [3], 2)) == [
        "Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"
    ]  # fmt: skip


def test_order_of_a_vgg_pools_before_normalisation() -> None:
    assert _kinds(fullprecision.networks.vgg((1, 4, 4), [[2, 2], [3]], [5], 2)) == [
        "Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU",
        "Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU",
        "Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d",
    ]  # fmt: skip


def test_sums_of_binary_networks_are_integers() -> None:
    model = binarynets.networks.vgg((1, 8, 8), [[4, 4]], [6], 3)
    sums = []
    for module in model:
        if is_binarised(module):
            module.register_forward_hook(lambda module, inputs, output: sums.append(output))
    model(_pixels((5, 1, 8, 8)))
    assert len(sums) == 4
    assert all(torch.equal(each, each.round()) for each in sums)


def test_resnet_adds_to_the_stream_and_halves_at_each_new_width() -> None:
    model = fullprecision.networks.resnet((1, 8, 8), [4, 6, 6], [1, 2, 1], 3).eval()
    residuals = [module for module in model if isinstance(module, Residual)]
    assert [_kinds(each.body) for each in residuals] == [["ReLU", "Conv2d", "BatchNorm2d"]] * 8
    changes = [i for i, each in enumerate(residuals) if not isinstance(each.shortcut, nn.Identity)]
    assert changes == [2, 6]
    assert _kinds(residuals[2].shortcut) == ["AvgPool2d", "Conv2d", "BatchNorm2d"]
    x = model.stem(_pixels((2, 1, 8, 8)))
    assert torch.equal(residuals[0](x), x + residuals[0].body(x))
    sizes = []
    for each in residuals:
        x = each(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(4, 8, 8)] * 2 + [(6, 4, 4)] * 4 + [(6, 2, 2)] * 2


@precisions
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f: f.mlp(0, [3], 2), "inputs: expected a positive integer, got 0"),
        (lambda f: f.mlp(4, [3, -1], 2), r"hidden\[1\]: expected a positive integer, got -1"),
        (lambda f: f.mlp(4, 3, 2), "hidden: expected a list of positive integers, got 3"),
        (lambda f: f.mlp(4, [3], 2.0), "classes: expected a positive integer, got 2.0"),
        (lambda f: f.mlp(4, [True], 2), r"hidden\[0\]: expected a positive integer, got True"),
        (lambda f: f.vgg((1, 8), [[3]], [], 2), r"input_shape: expected \(channels, height, width\), got \(1, 8\)"),
        (lambda f: f.vgg((1, 8, 0), [[3]], [], 2), r"input_shape\[2\]: expected a positive integer"),
        (lambda f: f.vgg((1, 8, 8), [], [], 2), "stages: expected a list of stages such as"),
        (lambda f: f.vgg((1, 8, 8), [3, 4], [], 2), r"stages\[0\]: expected a list of positive integers, got 3"),
        (
            lambda f: f.vgg((1, 8, 8), [[3], []], [], 2),
            r"stages\[1\]: expected the channels of at least one convolution",
        ),
        (lambda f: f.vgg((1, 8, 8), [[3], [0]], [], 2), r"stages\[1\]\[0\]: expected a positive integer, got 0"),
        (lambda f: f.vgg((1, 8, 8), [[3]], [0], 2), r"dense\[0\]: expected a positive integer, got 0"),
        (lambda f: f.vgg((1, 8, 3), [[3], [3]], [], 2), "an image of 8 x 3 is too small to be halved 2 times"),
        (lambda f: f.resnet((1, 8, 8), [], [], 2), "got 0 widths and 0 blocks"),
        (lambda f: f.resnet((1, 8, 8), [3, 4], [1], 2), "got 2 widths and 1 blocks"),
        (lambda f: f.resnet((1, 8, 8), [3, 4], 1, 2), "blocks: expected a list of positive integers, got 1"),
        (lambda f: f.resnet((1, 1, 8), [3, 4], [1, 1], 2), "an image of 1 x 8 is too small to be halved 1 times"),
        (lambda f: f.resnet((1, 8, 8), [3], [1], 0), "classes: expected a positive integer, got 0"),
    ],
)
def test_bad_sizes(family, build, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(family)
