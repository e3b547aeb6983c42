import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compare.params import ParameterError, call, check, lerp, parameters, sign


def test_parameters_are_copies() -> None:
    model = nn.BatchNorm1d(3)
    params = parameters(model)
    params["weight"].zero_()
    assert model.weight.tolist() == [1, 1, 1]


def test_call_uses_the_given_parameters_and_leaves_the_model() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.clone()
    assert call(model, {"weight": torch.tensor([[2.0, 3.0]])}, torch.ones(1, 2)).item() == 5
    assert torch.equal(model.weight, before)


def test_call_in_training_mode_leaves_the_given_statistics() -> None:
    model = nn.BatchNorm1d(2)
    params = parameters(model)
    call(model.train(), params, torch.randn(8, 2))
    assert torch.equal(params["running_mean"], torch.zeros(2))
    assert torch.equal(model.running_mean, torch.zeros(2))


@given(st.floats(width=32, allow_nan=False))
def test_sign_is_plus_or_minus_one(x: float) -> None:
    assert sign(torch.tensor(x)).item() == (1 if x >= 0 else -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("weight"), "'weight' is missing"),
        (lambda p: p.update(extra=torch.zeros(1)), "'extra' is surplus"),
        (lambda p: p.update(bias=torch.zeros(7)), r"'bias' has shape \[7\], expected \[3\]"),
        (lambda p: p["bias"].fill_(float("nan")), "'bias' holds 3 NaN or infinite"),
        (lambda p: p["weight"][0].fill_(float("inf")), "'weight' holds 2 NaN or infinite of 6"),
        (lambda p: p.update(bias=[1, 2, 3]), "'bias' is a list"),
        (lambda p: p.update(bias=torch.tensor([1, 2, 3])), "'bias' has type torch.int64, expected torch.float32"),
    ],
)
def test_parameters_that_do_not_fit_are_named(change, message) -> None:
    model = nn.Linear(2, 3)
    params = parameters(model)
    change(params)
    with pytest.raises(ParameterError, match=message):
        check(params, parameters(model))


def test_what_is_no_dict_is_refused() -> None:
    with pytest.raises(ParameterError, match="expected a dict"):
        check([torch.zeros(1)], {})  # type: ignore[arg-type]


def test_lerp_is_exact_at_the_ends_and_where_both_agree() -> None:
    a, b = {"w": torch.rand(100), "n": torch.tensor(3)}, {"w": torch.rand(100), "n": torch.tensor(9)}
    assert torch.equal(lerp(a, b, 0)["w"], a["w"])
    assert torch.equal(lerp(a, b, 1)["w"], b["w"])
    assert torch.equal(lerp(a, a, 0.3)["w"], a["w"])
    assert lerp(a, b, 0.7)["n"] == 3
