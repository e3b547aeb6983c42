"""What the integer form says of parameters and inputs that it cannot take."""

from collections.abc import Callable

import pytest
import torch
from integer_nets import METHODS, Residual, drawn, integers
from torch import Tensor, nn
from zoo import small_networks

import binarynets
from binarynets import BinaryConv1d, BinaryLinear, Sign
from binarynets.integer.affine import IntegerError
from binarynets.integer.multiply import Method
from binarynets.integer.network import IntegerNetwork, to_integer
from compare.params import ParameterError, Params, parameters


def mlp() -> nn.Module:
    return binarynets.mlp(6, [5, 4], 3).eval()


def converted(change: Callable[[Params], object] = lambda params: None) -> IntegerNetwork:
    model = mlp()
    params = drawn(model, 0)
    change(params)
    return to_integer(model, params)


def test_gains_of_zero_are_refused() -> None:
    with pytest.raises(IntegerError, match=r"'norm2'.*channel 3 is 0.*constant"):
        converted(lambda params: params["norm2.weight"][3:].zero_())


@pytest.mark.parametrize("x", [torch.full((2, 6), 0.5), torch.full((2, 6), torch.inf), torch.full((2, 6), torch.nan)])
@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_are_no_integers_are_refused(x: Tensor, method: Method | None) -> None:
    with pytest.raises(IntegerError, match="expected integers, such as 2 p - 255"):
        converted()(x, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_whose_sums_the_network_would_round_are_refused(method: Method | None) -> None:
    found = converted()
    with pytest.raises(IntegerError, match=r"'linear1'.*2\*\*24"):
        found(torch.full((2, 6), 2**22), method=method)
    model = nn.Sequential(BinaryConv1d(1, 2, 3), nn.Flatten(), Sign(), BinaryLinear(8, 2))
    with pytest.raises(IntegerError, match=r"'0'.*2\*\*24"):
        to_integer(model, parameters(model))(torch.full((1, 1, 6), 2**23), method=method)


def test_so_many_inputs_that_the_network_would_round_are_refused() -> None:
    model = nn.Sequential(BinaryLinear(66_000, 2), Sign(), BinaryLinear(2, 2))
    with pytest.raises(IntegerError, match=r"'0'.*2\*\*24"):
        to_integer(model, parameters(model))(torch.full((1, 66_000), 255))


@pytest.mark.parametrize("first", [nn.AvgPool1d(16), Residual(nn.Identity()), nn.MaxPool1d(2)])
def test_values_that_the_network_would_round_are_refused(first: nn.Module) -> None:
    model = nn.Sequential(first, nn.BatchNorm1d(1), Sign(), nn.Flatten(), BinaryLinear(2, 2))
    found = to_integer(model, parameters(model))
    with pytest.raises(IntegerError, match=r"'0.*2\*\*24"):
        found(torch.full((1, 1, 32), 2**24 - 1 if isinstance(first, Residual) else 2**24))


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(IntegerError, match=r"'linear1': expected \[batch, 6\], got \[\d, 5\]"):
        converted()(torch.ones(2, 5))


def test_images_of_another_shape_are_refused() -> None:
    model = small_networks("binary")["vgg"]
    found = to_integer(model, parameters(model))
    for shape in ((2, 3, 8, 8), (2, 64)):
        with pytest.raises(IntegerError, match=r"'convolution1_1': expected \[batch, 1, \.\.\., \.\.\.\], got"):
            found(torch.ones(shape))


@pytest.mark.parametrize("x", [[1, 2], torch.ones(6), torch.ones(0, 6)])
def test_what_is_no_batch_is_refused(x: Tensor) -> None:
    with pytest.raises(IntegerError, match=r"expected a tensor \[batch, \.\.\.\] of at least one sample"):
        converted()(x)


TYPES = [
    getattr(torch, f"{kind}{bits}") for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)[kind == "float" :]
]


@pytest.mark.parametrize("dtype", [*TYPES, torch.bool, torch.bfloat16])
def test_inputs_of_any_type(dtype: torch.dtype) -> None:
    found, x = converted(), integers("signs", 5, (6,), 0)
    ones = (x > 0).to(dtype)
    assert torch.equal(found(ones), found((x > 0).float()))


def test_params_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"'norm1\.weight'"):
        converted(lambda params: params.pop("norm1.weight"))
    with pytest.raises(ParameterError, match=r"norm1\.bias.*NaN"):
        converted(lambda params: params["norm1.bias"].fill_(torch.nan))
    for name in ("norm1", "norm3"):
        with pytest.raises(IntegerError, match=f"'{name}'.*variance below 0"):
            converted(lambda params, name=name: params[f"{name}.running_var"].fill_(-1.0))  # type: ignore[misc]


@pytest.mark.parametrize("change", [Tensor.half, Tensor.bfloat16])
def test_params_of_few_bits_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    params = {name: change(t) if t.is_floating_point() else t for name, t in parameters(mlp()).items()}
    with pytest.raises(IntegerError, match="expected all in float32 or all in float64, got torch"):
        to_integer(mlp(), params)
    with pytest.raises(IntegerError, match=r"got torch\.float32, torch\.float64"):
        converted(lambda params: params.update({"norm1.bias": params["norm1.bias"].double()}))


def test_a_network_without_binarised_layers_is_refused() -> None:
    with pytest.raises(IntegerError, match="at least one layer of binarynets"):
        to_integer(nn.Sequential(nn.Flatten(), Sign()), {})
