"""Conserved quantities: the flow along the gradient keeps each, not wrong ones; drift is in proportion to the step."""

import importlib
import math
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import Tensor, nn

import binarynets
import compare
import fullprecision
from compare.symmetry.rules import elementwise
from fullprecision.conserved import (
    KNOWN,
    ConservedError,
    Elementwise,
    Quantity,
    Radial,
    conserved_quantities,
    drift_law,
    gradient_descent,
    orthonormal,
    relative_drift,
)

RATES = (0.02, 0.01, 0.005, 0.0025)


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.square(torch.relu(x))


class Squash(nn.Module):
    """tanh of the radius."""

    def forward(self, x: Tensor) -> Tensor:
        radius = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.tanh(radius) * x / radius


class RadialSquare(nn.Module):
    """f(r) = r^2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=1, keepdim=True) * x


ACTIVATIONS = {
    Squash: Radial(lambda r: torch.sinh(r) ** 2 / 2),
    RadialSquare: Radial(lambda r: r**2 / 4, degree=2),
}
RULES = dict.fromkeys(ACTIVATIONS, elementwise)  # a permutation of the units permutes what comes out


def two_layers(activation: nn.Module, *, bias: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6, bias=bias), activation, nn.Linear(6, 3))


def deep(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), activation, nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def convolutions(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        activation,
        nn.Conv2d(4, 3, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def grouped(first: int, second: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=first), nn.Conv2d(4, 4, 2, groups=second), nn.Flatten(), nn.Linear(4, 3)
    )


class SeveralExponents(nn.Module):
    """Two consumers of one unit: behind ReLU and behind its square."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.square = SquaredReLU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(torch.relu(hidden)) + self.third(self.square(hidden))


class Case:
    def __init__(
        self, model: nn.Module, x: Tensor, *, whitened: bool = False, training: bool = False, std: float = 0.6
    ) -> None:
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=std)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps = 1e-12  # the default would let rows move
        self.model, self.x = model.double(), x.double()
        self.model.train(training)
        self.y = torch.randn(len(x), 3, dtype=torch.float64)
        graph = compare.trace(self.model, self.x, fullprecision.FAMILY, rules=RULES)
        self.quantities = conserved_quantities(
            graph, self.model, activations=ACTIVATIONS, samples=self.x if whitened else None
        )
        self.params = compare.parameters(self.model)
        self.names = [name for name, _ in self.model.named_parameters()]

    def loss(self, params: Mapping[str, Tensor]) -> Tensor:
        return F.mse_loss(compare.call(self.model, params, self.x), self.y)

    def kinds(self) -> set[str]:
        return {quantity.kind for quantity in self.quantities}


def _x(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(*(shape or (12, 5)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WHITE = orthonormal(_x(3, 4, 5))
CASES = {
    "linear": (lambda: Case(two_layers(nn.Identity(), bias=True), _x()), {"matrix"}),
    "linear convolutions": (lambda: Case(convolutions(nn.Identity()), _x(0, 8, 1, 4, 4)), {"matrix"}),
    "relu": (lambda: Case(two_layers(nn.ReLU(), bias=True), _x()), {"units"}),
    "leaky relu": (lambda: Case(two_layers(nn.LeakyReLU(0.2), bias=True), _x()), {"units"}),
    "deep relu": (lambda: Case(deep(nn.ReLU()), _x()), {"units"}),
    "relu convolutions": (lambda: Case(convolutions(nn.ReLU()), _x(0, 8, 1, 4, 4)), {"units", "matrix"}),
    "squared relu": (lambda: Case(two_layers(SquaredReLU(), bias=True), _x(), std=0.3), {"units"}),
    "tanh": (lambda: Case(two_layers(nn.Tanh()), WHITE, whitened=True), {"elementwise"}),
    "sigmoid": (lambda: Case(two_layers(nn.Sigmoid()), WHITE, whitened=True), {"elementwise"}),
    "tanh, identity input": (lambda: Case(two_layers(nn.Tanh()), torch.eye(5), whitened=True), {"elementwise"}),
    "radial": (lambda: Case(two_layers(Squash()), WHITE, whitened=True), {"radial"}),
    "radial square": (lambda: Case(two_layers(RadialSquare(), bias=True), _x()), {"layer"}),
    "batch normalisation": (lambda: Case(fullprecision.mlp(5, [6, 4], 3), _x(), training=True), {"units", "rows"}),
    "grouped, then linear": (lambda: Case(grouped(2, 1), _x(0, 8, 4, 4, 4)), {"units", "matrix"}),
    "depthwise, then linear": (lambda: Case(grouped(4, 1), _x(0, 8, 4, 4, 4)), {"units", "matrix"}),
    "linear, then grouped": (lambda: Case(grouped(1, 2), _x(0, 8, 4, 4, 4)), {"units"}),
    "several exponents": (lambda: Case(SeveralExponents(), _x(), std=0.3), {"units"}),
    "residual": (
        lambda: Case(fullprecision.resnet((1, 4, 4), [3], [1], 3), _x(0, 8, 1, 4, 4), training=True),
        {"units", "rows"},
    ),
}


def rate_of_change(case: Case, quantity: Quantity) -> Tensor:
    """dQ/dt along the negative gradient, by automatic differentiation: the literal statement."""
    point = {name: case.params[name].clone().requires_grad_() for name in case.names}
    down = torch.autograd.grad(case.loss({**case.params, **point}), list(point.values()), materialize_grads=True)
    direction = {name: -gradient for name, gradient in zip(point, down, strict=True)}

    def along(t: Tensor) -> Tensor:
        return quantity({**case.params, **{n: case.params[n] + t * direction[n] for n in direction}})

    zero = torch.zeros((), dtype=torch.float64)
    _, change = torch.autograd.functional.jvp(along, zero, torch.ones_like(zero))
    return change


@pytest.mark.parametrize("name", CASES)
def test_the_flow_along_the_gradient_keeps_each_quantity(name: str) -> None:
    make, kinds = CASES[name]
    case = make()
    assert case.kinds() == kinds
    for quantity in case.quantities:
        off = 1e-9 if quantity.kind == "rows" else 1e-12  # to eps
        assert float(rate_of_change(case, quantity).abs().max()) < off * quantity.scale(case.params)
        assert quantity(case.params).abs().max() > 0


SHALLOW = ("linear", "relu", "leaky relu", "squared relu", "tanh", "sigmoid", "radial", "several exponents")
STEEP = ("linear convolutions", "batch normalisation", "residual")


@pytest.mark.parametrize("name", SHALLOW)
def test_drift_is_in_proportion_to_the_step(name: str) -> None:
    case = CASES[name][0]()
    for law in drift_law(case.loss, case.params, case.quantities, names=case.names, time=1.0, rates=RATES):
        assert 0.9 <= law.slope <= 1.1
        assert law.losses[1] < 0.9 * law.losses[0]


@pytest.mark.parametrize("name", STEEP)
def test_drift_is_in_proportion_to_short_steps_where_the_loss_is_steep(name: str) -> None:
    case, rates = CASES[name][0](), [rate / 10 for rate in RATES]
    for law in drift_law(case.loss, case.params, case.quantities, names=case.names, time=0.05, rates=rates):
        assert 0.9 <= law.slope <= 1.1
        assert law.losses[1] < 0.99 * law.losses[0]


@pytest.mark.parametrize("name", ["linear", "relu", "leaky relu", "squared relu", "tanh", "sigmoid", "radial"])
def test_the_drift_of_a_wrong_quantity_does_not_fall_with_the_step(name: str) -> None:
    case = CASES[name][0]()
    wrong = [wrongly(quantity) for quantity in case.quantities]
    for law in drift_law(case.loss, case.params, wrong, names=case.names, time=1.0, rates=RATES):
        assert abs(law.slope) < 0.1
        assert min(law.drifts) > 1e-3


def wrongly(quantity: Quantity) -> Quantity:
    """The same terms, the second with the wrong weight."""

    def terms(params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        plus, minus = quantity.terms(params)
        return plus, 2 * minus

    return Quantity(quantity.name, quantity.kind, "wrong", quantity.condition, quantity.reads, False, terms)


def test_values_are_those_of_the_formulas() -> None:
    """By loops over the units, of a squared ReLU with biases and of a linear block."""
    case = CASES["squared relu"][0]()
    (found,) = case.quantities
    v, b, u = (case.params[name] for name in ("0.weight", "0.bias", "2.weight"))
    literal = [float((u[:, i] ** 2).sum() - ((v[i] ** 2).sum() + b[i] ** 2) / 2) for i in range(6)]
    np.testing.assert_allclose(found(case.params), literal)
    case = CASES["linear"][0]()
    (found,) = case.quantities
    v, b, u = (case.params[name] for name in ("0.weight", "0.bias", "2.weight"))
    for i in range(6):
        for j in range(6):
            value = sum(u[k, i] * u[k, j] for k in range(3)) - sum(v[i, k] * v[j, k] for k in range(5)) - b[i] * b[j]
            assert math.isclose(found(case.params)[i, j], value, abs_tol=1e-12)


def test_formulas_name_exponents() -> None:
    """Numbers are those of the ties; the name of a formula with several exponents does not pretend to one."""
    case = CASES["several exponents"][0]()
    (found,) = case.quantities
    assert found.formula == "sum of e |w|^2 over ties"
    v, b, u, w = (case.params[f"{name}"] for name in ("first.weight", "first.bias", "second.weight", "third.weight"))
    literal = (w**2).sum(0) + (u**2).sum(0) / 2 - ((v**2).sum(1) + b**2) / 2
    torch.testing.assert_close(found(case.params), literal)
    formulas = {name: [each.formula for each in CASES[name][0]().quantities] for name in ("relu", "squared relu")}
    assert formulas == {"relu": ["|u|^2 - |v|^2"], "squared relu": ["|u|^2 - |v|^2 / 2"]}


class DataDependent(nn.Module):
    """Cannot be looked into."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if x.sum() > 0 else x.relu()


class OwnTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_modules_that_cannot_be_looked_into_are_taken_whole() -> None:
    model = two_layers(DataDependent())
    graph = compare.trace(model, _x().float(), fullprecision.FAMILY, rules={DataDependent: elementwise})
    assert not conserved_quantities(graph, model)
    own = Case(two_layers(OwnTanh()), WHITE, whitened=True)  # others are looked into
    assert own.kinds() == {"elementwise"}


def test_networks_of_brevitas_have_their_quantities_marked() -> None:
    qnn = pytest.importorskip("brevitas.nn")
    family = importlib.import_module("binarynets.brevitas").FAMILY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brevitas' own, while it is built and run
        model = nn.Sequential(qnn.QuantLinear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        found = conserved_quantities(compare.trace(model, _x().float(), family), model)
    assert [(each.kind, each.surrogate) for each in found] == [("units", True), ("rows", True)]


def test_gains_and_offsets_balance_the_columns_behind() -> None:
    case = CASES["batch normalisation"][0]()
    first = next(quantity for quantity in case.quantities if quantity.kind == "units")
    gain, offset = case.params["norm1.weight"], case.params["norm1.bias"]
    expected = (case.params["linear2.weight"] ** 2).sum(0) - gain**2 - offset**2
    np.testing.assert_allclose(first(case.params), expected)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid()])
def test_antiderivatives_are_those_of_sigma_over_its_derivative(activation: nn.Module) -> None:
    found = KNOWN[type(activation)]
    assert isinstance(found, Elementwise)

    def ratio(z: float) -> float:
        point = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        value = activation(point)
        (slope,) = torch.autograd.grad(value, point)
        return float((value / slope).detach())

    for end in (-1.7, 0.4, 2.3):
        ends = torch.tensor([0.0, end], dtype=torch.float64)
        low, high = found.antiderivative(ends).tolist()
        assert math.isclose(high - low, quad(ratio, 0, end)[0], rel_tol=1e-9)


def test_rows_before_batch_normalisation_move_by_eps_alone() -> None:
    """<w, grad w> = eps / (variance + eps) * gain * grad gain, for each unit."""
    case = Case(fullprecision.mlp(5, [6, 4], 3), _x(), training=True)
    case.model.norm1.eps = 0.3
    point = {name: case.params[name].clone().requires_grad_() for name in case.names}
    gradient = dict(
        zip(point, torch.autograd.grad(case.loss({**case.params, **point}), list(point.values())), strict=True)
    )
    variance = (case.x @ case.params["linear1.weight"].T).var(0, correction=0)
    left = (case.params["linear1.weight"] * gradient["linear1.weight"]).sum(1)
    right = 0.3 / (variance + 0.3) * case.params["norm1.weight"] * gradient["norm1.weight"]
    torch.testing.assert_close(left, right)


def test_running_statistics_conserve_no_rows() -> None:
    """The condition is part of the quantity: in evaluation mode the norms move."""
    case = Case(fullprecision.mlp(5, [6, 4], 3), _x(), training=False)
    rows = [quantity for quantity in case.quantities if quantity.kind == "rows"]
    assert {quantity.condition for quantity in rows} == {"batch statistics"}
    assert float(rate_of_change(case, rows[0]).abs().max()) > 1e-3


def test_samples_that_are_not_orthonormal_conserve_nothing_elementwise() -> None:
    case = CASES["tanh"][0]()
    (quantity,) = case.quantities
    case.x = case.x * 2
    assert float(rate_of_change(case, quantity).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "model",
    [
        two_layers(nn.Tanh(), bias=True),  # a bias shifts all samples alike
        nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3)),
        two_layers(nn.GELU()),
        nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Sigmoid(), nn.Linear(6, 3)),
    ],
)
def test_what_is_not_known_is_not_claimed(model: nn.Module) -> None:
    case = Case(model, WHITE, whitened=True)
    assert "elementwise" not in case.kinds()


class Twice(nn.Module):
    """A linear map whose outputs go two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden) + self.third(torch.relu(hidden))


def test_units_with_two_consumers_conserve_numbers_and_no_matrix() -> None:
    case = Case(Twice(), _x())
    assert case.kinds() == {"units"}
    (quantity,) = case.quantities
    assert float(rate_of_change(case, quantity).abs().max()) < 1e-12
    assert {"second.weight", "third.weight"} <= set(quantity.reads)


class Shared(nn.Module):
    """The same square weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)))


def test_shared_weights_conserve_no_matrix() -> None:
    case = Case(Shared(), _x())
    assert all("first.weight" not in quantity.reads for quantity in case.quantities if quantity.kind == "matrix")
    for quantity in case.quantities:
        assert float(rate_of_change(case, quantity).abs().max()) < 1e-12 * quantity.scale(case.params)


def test_weights_that_do_not_move_conserve_nothing_with_others() -> None:
    model = two_layers(nn.ReLU(), bias=True)
    model[2].weight.requires_grad_(False)
    assert not conserved_quantities(compare.trace(model, _x().float(), fullprecision.FAMILY), model)


def test_latents_are_marked_and_not_conserved() -> None:
    model = binarynets.mlp(5, [6, 4], 3).double()
    graph = compare.trace(model, _x(), binarynets.FAMILY)
    found = conserved_quantities(graph, model)
    assert found
    assert all(quantity.surrogate for quantity in found)
    # The counterpart's quantities are computed from parameters of the same names.
    counterpart = fullprecision.mlp(5, [6, 4], 3).double()
    same = conserved_quantities(compare.trace(counterpart, _x(), fullprecision.FAMILY), counterpart)
    y = torch.arange(12) % 3
    model.train()

    def loss(params: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(compare.call(model, params, _x()), y)

    names = [name for name, _ in model.named_parameters()]
    laws = drift_law(loss, compare.parameters(model), same, names=names, time=1.0, rates=RATES)
    assert all(abs(law.slope) < 0.5 for law in laws[:1])
    assert laws[0].drifts[-1] > 1e-3


def test_descent_and_drift_leave_the_start_alone() -> None:
    case = CASES["relu"][0]()
    before = {name: tensor.clone() for name, tensor in case.params.items()}
    end = gradient_descent(case.loss, case.params, names=["2.weight"], rate=0.1, steps=3)
    assert all(torch.equal(before[name], case.params[name]) for name in before)
    assert torch.equal(end["0.weight"], before["0.weight"])
    assert not torch.equal(end["2.weight"], before["2.weight"])
    (quantity,) = case.quantities
    assert relative_drift(quantity, case.params, case.params) == 0.0
    moved = torch.linalg.vector_norm(quantity(end) - quantity(case.params))
    v, b, u = (case.params[name] for name in ("0.weight", "0.bias", "2.weight"))
    scale = torch.linalg.vector_norm((u**2).sum(0) + (v**2).sum(1) + b**2)
    assert relative_drift(quantity, case.params, end) == pytest.approx(float(moved / scale))


def test_refusals() -> None:
    case = CASES["relu"][0]()
    graph = compare.trace(case.model, case.x, fullprecision.FAMILY)
    with pytest.raises(ConservedError, match="expected orthonormal ones"):
        conserved_quantities(graph, case.model, samples=_x(0, 3, 5))
    with pytest.raises(ConservedError, match=r"expected \[samples, features\]"):
        conserved_quantities(graph, case.model, samples=_x(0, 3))
    tanh = two_layers(nn.Tanh())
    with pytest.raises(ConservedError, match="expected 5 features"):
        conserved_quantities(compare.trace(tanh, _x().float(), fullprecision.FAMILY), tanh, samples=torch.eye(4))
    with pytest.raises(ConservedError, match="as many samples as features"):
        orthonormal(_x(0, 6, 5))
    with pytest.raises(ConservedError, match="linearly independent"):
        orthonormal(torch.ones(2, 5))
    with pytest.raises(ConservedError, match="expected finite floating-point numbers, got"):
        orthonormal(torch.eye(3, dtype=torch.int64))
    for bad in (math.nan, math.inf):
        with pytest.raises(ConservedError, match="expected finite floating-point numbers"):
            orthonormal(torch.eye(3) * bad)
        with pytest.raises(ConservedError, match="expected orthonormal ones"):
            conserved_quantities(graph, case.model, samples=torch.full((2, 5), bad))
    with pytest.raises(ConservedError, match="names: expected some of"):
        gradient_descent(case.loss, case.params, names=["none"], rate=0.1, steps=1)
    with pytest.raises(ConservedError, match="positive rate"):
        gradient_descent(case.loss, case.params, names=case.names, rate=0.0, steps=1)
    with pytest.raises(ConservedError, match="the loss became"):
        gradient_descent(case.loss, case.params, names=case.names, rate=1e3, steps=400)
    with pytest.raises(ConservedError, match="two different positive"):
        drift_law(case.loss, case.params, case.quantities, names=case.names, time=1.0, rates=[0.1])
    with pytest.raises(ConservedError, match="a multiple of each rate"):
        drift_law(case.loss, case.params, case.quantities, names=case.names, time=1.0, rates=[0.1, 0.03])
    for bad in (math.nan, math.inf, 0.0):
        with pytest.raises(ConservedError, match="time: expected a positive number"):
            drift_law(case.loss, case.params, case.quantities, names=case.names, time=bad, rates=[0.1, 0.05])
        with pytest.raises(ConservedError, match="two different positive"):
            drift_law(case.loss, case.params, case.quantities, names=case.names, time=1.0, rates=[0.1, bad])


def test_a_descent_that_diverges_in_its_last_step_is_refused() -> None:
    case = CASES["relu"][0]()
    with pytest.raises(ConservedError, match="after 1 steps"):
        gradient_descent(case.loss, case.params, names=case.names, rate=1e200, steps=1)
    # Where the loss does not see it, the drift does.
    (quantity,) = case.quantities
    with pytest.raises(ConservedError, match="became infinite"):
        drift_law(
            lambda params: params["0.weight"].sum().clamp(max=1.0) + params["2.weight"].sum() * 1e-3,
            {**case.params, "0.weight": case.params["0.weight"] - 9},
            [quantity],
            names=["0.weight"],
            time=1e200,
            rates=[1e200, 5e199],
        )


def test_a_start_without_terms_has_no_unit_for_its_drift() -> None:
    case = CASES["relu"][0]()
    (quantity,) = case.quantities
    zero = {name: torch.zeros_like(tensor) for name, tensor in case.params.items()}
    assert relative_drift(quantity, zero, zero) == 0
    with pytest.raises(ConservedError, match="all terms are 0 at the start"):
        relative_drift(quantity, zero, case.params)
