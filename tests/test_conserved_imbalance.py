"""Starts of one function and another quantity, and the small problems of the measurements."""

import math
import re
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compare
import fullprecision
from compare.evaluation import curvature
from fullprecision.conserved import ConservedError, conserved_quantities, drift_law
from fullprecision.conserved.cases import CASES, problem, wrong
from fullprecision.conserved.imbalance import balanced_exponent, descended, enlarged, scaled


@dataclass(frozen=True)
class Samples:
    x: Tensor
    y: Tensor


def _setting(activation: nn.Module | None = None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), activation or nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(20, 4, dtype=torch.float64)
    graph = compare.trace(model, x, fullprecision.FAMILY)
    return model, graph, compare.parameters(model), Samples(x, torch.arange(20) % 3)


def test_elements_keep_the_function_and_change_the_quantity() -> None:
    model, graph, params, samples = _setting()
    (quantity,) = conserved_quantities(graph, model)
    moved, other = scaled(graph, params, 0.7), enlarged(graph, params, 0.7)
    torch.testing.assert_close(compare.call(model, moved, samples.x), compare.call(model, params, samples.x))
    assert not torch.allclose(compare.call(model, other, samples.x), compare.call(model, params, samples.x))
    u, v = (params["2.weight"] ** 2).sum(0), (params["0.weight"] ** 2).sum(1) + params["0.bias"] ** 2
    torch.testing.assert_close(quantity(moved), u * math.exp(-1.4) - v * math.exp(1.4))
    torch.testing.assert_close(quantity(other), u - v * math.exp(1.4))


def _squared_gradient(model: nn.Module, params: dict[str, Tensor], samples: Samples) -> float:
    point = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    F.cross_entropy(compare.call(model, point, samples.x), samples.y).backward()
    return sum(float((tensor.grad**2).sum()) for tensor in point.values())


def test_the_balanced_kernel_is_where_the_squared_gradient_is_least() -> None:
    """And it is the same to either side, as A e^(2c) + B e^(-2c) + C is."""
    model, graph, params, samples = _setting()
    params = scaled(graph, params, 0.4)
    found = balanced_exponent(graph, model, params, samples)
    away = {d: _squared_gradient(model, scaled(graph, params, found + d), samples) for d in (-0.6, -0.01, 0, 0.01, 0.6)}
    assert away[0] < min(away[-0.01], away[0.01])
    assert away[-0.6] == pytest.approx(away[0.6], rel=1e-6)
    assert balanced_exponent(graph, model, scaled(graph, params, found), samples) == pytest.approx(0, abs=1e-6)


def test_balance_has_the_closed_form() -> None:
    model, graph, params, samples = _setting()
    point = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    F.cross_entropy(compare.call(model, point, samples.x), samples.y).backward()
    squares = {name: float((tensor.grad**2).sum()) for name, tensor in point.items()}
    closed = math.log((squares["0.weight"] + squares["0.bias"]) / squares["2.weight"]) / 4
    assert balanced_exponent(graph, model, params, samples) == pytest.approx(closed, abs=1e-6)


@pytest.mark.parametrize("steps", [12, 380])
def test_what_becomes_of_a_start_is_what_a_plain_loop_gives(steps: int) -> None:
    """The target is reached after the speed was measured, or before."""
    model, graph, params, samples = _setting()
    (quantity,) = conserved_quantities(graph, model)
    options = {"exponents": [0.3], "rate": 0.1, "steps": steps, "target": 1.0, "most": 400}
    (found,) = descended(graph, model, params, samples, quantity, **options)
    point = scaled(graph, params, 0.3)
    start, losses, at = point, [], None
    for step in range(401):
        point = {name: tensor.clone().requires_grad_() for name, tensor in point.items()}
        loss = F.cross_entropy(compare.call(model, point, samples.x), samples.y)
        losses.append(float(loss.detach()))
        if at is None and losses[-1] <= 1.0:
            at, there = step, {name: tensor.detach().clone() for name, tensor in point.items()}
        loss.backward()
        point = {name: (tensor - 0.1 * tensor.grad).detach() for name, tensor in point.items()}
    assert 12 < at < 380
    assert found.steps == at
    assert found.loss == losses[0]
    assert found.rate == pytest.approx(math.log(losses[0] / losses[steps]) / (0.1 * steps))
    assert found.value == pytest.approx(float(quantity(start).mean()))
    for eigenvalue, where in ((found.first_eigenvalue, start), (found.last_eigenvalue, there)):
        expected = curvature(model, where, samples, names=list(params), surrogate=False, probes=2).eigenvalues[0]
        assert eigenvalue == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("target", [10.0, 1e-9])
def test_targets_at_the_start_and_out_of_reach(target: float) -> None:
    model, graph, params, samples = _setting()
    (quantity,) = conserved_quantities(graph, model)
    options = {"exponents": [0.0], "rate": 0.1, "steps": 3, "target": target, "most": 5}
    (found,) = descended(graph, model, params, samples, quantity, **options)
    if target > 1:
        assert found.steps == 0
        assert found.last_eigenvalue == found.first_eigenvalue
    else:
        assert found.steps is None
        assert found.last_eigenvalue is None


def test_refusals() -> None:
    model, graph, params, samples = _setting(nn.Tanh())
    with pytest.raises(ConservedError, match="expected a first block that may be scaled"):
        scaled(graph, params, 1.0)
    model, graph, params, samples = _setting()
    (quantity,) = conserved_quantities(graph, model)
    with pytest.raises(ConservedError, match="lower the rate"):
        descended(graph, model, params, samples, quantity, exponents=[0.0], rate=1e200, steps=9)
    with pytest.raises(ConservedError, match="expected gradients in incoming and in outgoing weights"):
        balanced_exponent(graph, model, {name: torch.zeros_like(each) for name, each in params.items()}, samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arm": "x"}, "arm: expected one of same function, initial scale, got 'x'"),
        ({"rate": -0.1}, "rate, target: expected positive numbers, got -0.1"),
        ({"rate": math.nan}, "rate, target: expected positive numbers"),
        ({"target": 0.0}, "rate, target: expected positive numbers"),
        ({"steps": 0}, "steps, most: expected at least 1 and 0, got 0"),
        ({"most": -1}, "steps, most: expected at least 1 and 0"),
        ({"exponents": []}, "exponents: expected at least one finite number"),
        ({"exponents": [math.inf]}, "exponents: expected at least one finite number"),
    ],
)
def test_options_that_make_no_descent_are_refused(options: dict, message: str) -> None:
    model, graph, params, samples = _setting()
    (quantity,) = conserved_quantities(graph, model)
    with pytest.raises(ConservedError, match=re.escape(message)):
        descended(graph, model, params, samples, quantity, **{"exponents": [0.0], **options})


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.Dropout(0.5)])
def test_what_depends_on_the_mode_is_refused_in_training(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 5), layer, nn.ReLU(), nn.Linear(5, 3)).double()
    _, _, _, samples = _setting()
    graph = compare.trace(model, samples.x, fullprecision.FAMILY)
    quantity = conserved_quantities(graph, model)[0]
    options = {"exponents": [0.0], "rate": 0.01, "steps": 1, "target": 9.0}
    with pytest.raises(ConservedError, match=r"'1': expected neither normalisation by the batch nor dropout"):
        descended(graph, model, compare.parameters(model), samples, quantity, **options)
    model.eval()
    assert descended(graph, model, compare.parameters(model), samples, quantity, **options)[0].steps == 0


@pytest.mark.parametrize("name", CASES)
def test_small_problems_conserve_what_they_say(name: str) -> None:
    """Once with few steps: halving them halves the drift; twice the second term does not."""
    given, again = problem(name, 0), problem(name, 0)
    assert all(torch.equal(given.params[each], again.params[each]) for each in given.names)
    assert not torch.equal(given.params[given.names[0]], problem(name, 1).params[given.names[0]])
    controls = [wrong(quantity) for quantity in given.quantities if quantity.kind != "rows"]
    laws = drift_law(
        given.loss,
        given.params,
        [*given.quantities, *controls],
        names=given.names,
        time=0.2,
        rates=(0.004, 0.002),
    )
    assert len(controls) >= 1
    for law in laws[: len(given.quantities)]:
        assert 0.9 < law.slope < 1.1
    for law in laws[len(given.quantities) :]:
        assert abs(law.slope) < 0.1
