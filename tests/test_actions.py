"""Group actions: outputs stay, groups compose, exactness on the batch, literal formulas, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compare
import fullprecision
from compare.params import call, parameters
from compare.seeds import derived
from compare.symmetry import SymmetryError
from fullprecision.actions import (
    METHODS,
    ActionError,
    act_linearly,
    act_on_batch,
    element_near_identity,
    hidden_units,
    orbit,
    scaling,
)


def _in_place() -> nn.Module:
    return nn.ReLU(inplace=True)


ACTIVATIONS = [nn.ReLU, _in_place, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus]


def _network(activation: Callable[[], nn.Module] | None = nn.Tanh, *, bias: bool = True) -> nn.Sequential:
    """6 inputs, blocks of 10 and 12 units, 3 outputs, in float64."""
    torch.manual_seed(1)
    between = [] if activation is None else [activation()]
    first = [nn.Flatten(), nn.Linear(6, 10, bias=bias), *between, nn.Dropout(0.5), nn.Linear(10, 12, bias=bias)]
    return nn.Sequential(*first, *between, nn.Linear(12, 3, bias=bias)).double().eval()


def _inputs(samples: int, *, seed: int = 0) -> Tensor:
    return torch.randn(samples, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _element(units: int, epsilon: float = 0.5, *, seed: int = 0) -> Tensor:
    return element_near_identity(units, epsilon, torch.Generator().manual_seed(seed))


def _change(model: nn.Module, a: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> float:
    return float((call(model, a, x) - call(model, b, x)).abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("index", [0, 1])
def test_the_general_linear_group_keeps_outputs_of_linear_blocks(index: int, bias: bool) -> None:
    model = _network(None, bias=bias)
    params, block = parameters(model), hidden_units(model)[index]
    assert block.linear
    g, h = (_element(block.units, 1.0, seed=seed) for seed in (0, 1))
    moved = act_linearly(block, params, g)
    assert _change(model, params, moved, _inputs(50)) < 1e-10
    assert float((moved[f"{block.inner}.weight"] - params[f"{block.inner}.weight"]).abs().max()) > 0.1
    # An action: (g h) x = g (h x), and g^-1 undoes g.
    both, one_by_one = act_linearly(block, params, g @ h), act_linearly(block, act_linearly(block, params, h), g)
    back = act_linearly(block, moved, torch.linalg.inv(g))
    for name in params:
        assert torch.allclose(both[name], one_by_one[name], atol=1e-10)
        assert torch.allclose(back[name], params[name], atol=1e-10)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_positive_diagonals_keep_outputs_of_homogeneous_blocks(activation: type[nn.Module]) -> None:
    model = _network(activation)
    params = parameters(model)
    graph = compare.trace(model, _inputs(8), fullprecision.FAMILY)
    for block in hidden_units(model):
        factors = torch.exp(torch.randn(block.units, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
        moved = scaling(graph, block.inner, factors).apply(params)
        assert _change(model, params, moved, _inputs(50)) < 1e-10
        v, b = block.inner_of(params)
        assert torch.allclose(block.inner_of(moved)[0], factors[:, None] * v, atol=1e-12)
        assert torch.allclose(moved[f"{block.inner}.bias"], factors * b, atol=1e-12)
        assert torch.allclose(block.outer_of(moved), block.outer_of(params) / factors, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("samples", [1, 3, 5])
def test_the_data_dependent_action_is_exact_on_its_batch(
    method: str, activation: Callable[[], nn.Module], samples: int
) -> None:
    model = _network(activation)
    params, x = parameters(model), _inputs(samples)
    for block in hidden_units(model):
        found = act_on_batch(model, block, params, x, _element(block.units), method=method)
        assert found.rank == samples
        assert _change(model, params, found.params, x) < 1e-8
        assert found.residual < 1e-8
        assert _change(model, params, found.params, _inputs(50, seed=7)) > 1e-4  # and not elsewhere


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_as_large_as_the_block_leaves_no_choice(method: str) -> None:
    model = _network(nn.Sigmoid)
    block, params, x = hidden_units(model)[0], parameters(model), _inputs(10)
    found = act_on_batch(model, block, params, x, _element(10), method=method)
    other = act_on_batch(model, block, params, x, _element(10), method="least squares")
    assert _change(model, params, found.params, x) < 1e-8
    assert torch.allclose(block.outer_of(found.params), block.outer_of(other.params), atol=1e-6)


def test_least_squares_are_the_papers_formula() -> None:
    model = _network(nn.Tanh)
    block, params, x, g = hidden_units(model)[0], parameters(model), _inputs(7), _element(10)
    found = act_on_batch(model, block, params, x, g).params
    v, b, u = params["1.weight"], params["1.bias"], params["4.weight"]
    h = v @ x.T + b[:, None]
    expected = u @ torch.tanh(h) @ torch.linalg.pinv(torch.tanh(g @ h))
    assert torch.allclose(found["4.weight"], expected, atol=1e-10)
    assert torch.allclose(found["1.weight"], g @ v, atol=1e-12)
    assert torch.allclose(found["1.bias"], g @ b, atol=1e-12)
    assert torch.equal(found["4.bias"], params["4.bias"])


def test_least_squares_compose_on_one_batch() -> None:
    model = _network(nn.Tanh)
    block, params, x = hidden_units(model)[1], parameters(model), _inputs(7)
    g, h = _element(12), _element(12, seed=1)
    once = act_on_batch(model, block, params, x, g @ h).params
    twice = act_on_batch(model, block, act_on_batch(model, block, params, x, h).params, x, g).params
    for name in params:
        assert torch.allclose(once[name], twice[name], atol=1e-9)


def test_the_identity_moves_nothing_but_least_squares_lose_what_the_batch_does_not_span() -> None:
    model = _network(nn.Tanh)
    block, params, x = hidden_units(model)[0], parameters(model), _inputs(4)
    one = torch.eye(10, dtype=torch.float64)
    for method in ("smallest change", "rotation"):
        found = act_on_batch(model, block, params, x, one, method=method).params
        assert all(torch.allclose(found[name], params[name], atol=1e-12) for name in params)
    lost = act_on_batch(model, block, params, x, one).params
    assert int(torch.linalg.matrix_rank(lost["4.weight"])) == 4
    assert _change(model, params, lost, _inputs(50, seed=7)) > 0.1


def test_of_one_sample_the_rotation_is_the_papers_closed_form() -> None:
    """|a| / |b| times an isometry that takes b/|b| to a/|a| and leaves alone what is orthogonal to both."""
    from fullprecision.actions.dependent import undoing

    draw = torch.Generator().manual_seed(0)
    a, b = (torch.rand(9, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    m = undoing(a, b, "rotation")
    turn = m * (b.norm() / a.norm())
    assert torch.allclose(m @ b, a, atol=1e-12)
    assert torch.allclose(turn @ turn.T, torch.eye(9, dtype=torch.float64), atol=1e-12)
    assert float(torch.linalg.det(turn)) == pytest.approx(1)
    beside = torch.linalg.svd(torch.cat([a, b], 1)).U[:, 2:]
    assert torch.allclose(turn @ beside, beside, atol=1e-12)
    # The rotation of one plane, written out: 1 + (a b' - b a') + (a b' - b a')^2 / (1 + cos).
    a, b = a / a.norm(), b / b.norm()
    wedge = a @ b.T - b @ a.T
    literal = torch.eye(9, dtype=torch.float64) + wedge + wedge @ wedge / (1 + float(a.T @ b))
    assert torch.allclose(turn, literal, atol=1e-12)


def test_no_other_exact_matrix_changes_less_than_the_smallest_change() -> None:
    from fullprecision.actions.dependent import undoing

    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(9, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    one = torch.eye(9, dtype=torch.float64)
    least = float((undoing(a, b, "smallest change") - one).norm())
    beyond = one - b @ torch.linalg.pinv(b)
    for _ in range(20):
        other = undoing(a, b, "smallest change") + torch.randn(9, 9, generator=draw, dtype=torch.float64) @ beyond
        assert torch.allclose(other @ b, a, atol=1e-10)
        assert float((other - one).norm()) > least
    assert all(float((undoing(a, b, method) - one).norm()) >= least for method in METHODS)


def test_dependent_features_are_told() -> None:
    model = _network(nn.ReLU)
    block, params = hidden_units(model)[0], parameters(model)
    x = _inputs(1).expand(3, -1)  # thrice the same sample: rank 1, and exact all the same
    found = act_on_batch(model, block, params, x, _element(10))
    assert (found.rank, found.residual < 1e-8) == (1, True)
    nothing = {**params, "4.weight": torch.zeros_like(params["4.weight"])}
    assert act_on_batch(model, block, nothing, _inputs(3), _element(10)).residual == 0
    silent = {**params, "1.bias": params["1.bias"] - 100}  # every unit is silent, g wakes some of them
    assert act_on_batch(model, block, silent, _inputs(3), -torch.eye(10).double()).rank > 0
    assert act_on_batch(model, block, silent, _inputs(3), torch.eye(10).double()).condition == math.inf


def test_elements_of_epsilon_0_are_the_identity_and_spectra_keep_to_their_disc() -> None:
    assert torch.equal(_element(5, 0.0), torch.eye(5, dtype=torch.float64))
    g = _element(200, 0.5)
    sizes = torch.linalg.eigvals(g).abs()
    assert math.exp(-0.65) < float(sizes.min()) < float(sizes.max()) < math.exp(0.65)
    draws = torch.cat([_element(30, 1e-6, seed=seed).flatten() for seed in range(20)])
    entries = (draws - torch.eye(30, dtype=torch.float64).flatten().repeat(20)) / 1e-6
    assert float(entries.std()) == pytest.approx(1 / math.sqrt(30), rel=0.02)


def test_an_orbit_is_its_elements_and_pairs_them_over_epsilon() -> None:
    model = _network(nn.Tanh)
    block, params, x = hidden_units(model)[1], parameters(model), _inputs(5)
    found = orbit(model, block, params, x, 0.3, members=4, method="rotation", seed=2)
    assert len(found.networks) == len(found.residuals) == 4
    assert all(_change(model, params, each, x) < 1e-8 for each in found.networks)
    assert len({float(each["4.weight"][0, 0]) for each in found.networks}) == 4
    # The same T at another epsilon: g(0.6) = g(0.3)^2.
    again = orbit(model, block, params, x, 0.6, members=2, seed=2).networks[1]
    draw = torch.Generator().manual_seed(derived(2, "orbit"))
    _, g = (element_near_identity(12, 0.3, draw) for _ in range(2))
    v, _ = block.inner_of(params)
    assert torch.allclose(block.inner_of(found.networks[1])[0], g @ v, atol=1e-12)
    assert torch.allclose(block.inner_of(again)[0], g @ g @ v, atol=1e-12)


def test_an_activation_leaves_its_input_alone() -> None:
    for block in hidden_units(_network(_in_place)):
        h = -torch.ones(3)
        assert torch.equal(block.activation(h), torch.zeros(3))
        assert torch.equal(h, -torch.ones(3))
    first = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval()
    x = _inputs(3)
    act_on_batch(first, hidden_units(first)[0], parameters(first), x, _element(8))
    assert torch.equal(x, _inputs(3))


def test_powers_are_scaled_as_their_exponent_asks() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 10), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.square(self.a(x)))

    model = Squares().double().eval()
    params, graph = parameters(model), compare.trace(model, _inputs(8), fullprecision.FAMILY)
    factors = torch.linspace(0.5, 2, 10, dtype=torch.float64)
    moved = scaling(graph, "a", factors).apply(params)
    assert _change(model, params, moved, _inputs(50)) < 1e-10
    assert torch.allclose(moved["a.weight"], factors[:, None] * params["a.weight"], atol=1e-12)
    assert torch.allclose(moved["b.weight"], params["b.weight"] / factors**2, atol=1e-12)


def test_the_residual_is_that_of_what_is_returned() -> None:
    model = _network(nn.Tanh).float()
    block, params, x = hidden_units(model)[1], parameters(model), _inputs(5).float()
    found = act_on_batch(model, block, params, x, _element(12))
    z = block.inputs(params, x).double()

    def inner_output(given: dict[str, Tensor]) -> Tensor:
        v, b = block.inner_of(given)
        return block.outer_of(given).double() @ torch.tanh(v.double() @ z.T + b.double()[:, None])

    kept = inner_output(params)
    expected = (inner_output(found.params) - kept).abs().max() / kept.abs().max()
    assert found.residual == pytest.approx(float(expected), rel=1e-6)
    assert 1e-9 < found.residual < 1e-5  # rounding of single precision, not of double


def test_an_orbit_in_single_precision_is_exact_to_its_rounding() -> None:
    model = _network(nn.Tanh).float()
    block, params, x = hidden_units(model)[1], parameters(model), _inputs(5).float()
    (moved,) = orbit(model, block, params, x, 0.3, members=1).networks
    assert {tensor.dtype for tensor in moved.values()} == {torch.float32}
    assert _change(model, params, moved, x) < 1e-4


def test_blocks_of_a_network_written_out_are_found_and_the_model_stays() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.tanh(self.b(self.a(x.flatten(1)).sigmoid())))

    model = Written().double()
    before = parameters(model)
    assert [(block.inner, block.outer, block.units) for block in hidden_units(model)] == [("a", "b", 8), ("b", "c", 7)]
    (block,) = hidden_units(model, "b")
    moved = act_on_batch(model, block, before, _inputs(6), _element(7), method="rotation").params
    assert _change(model, before, moved, _inputs(6)) < 1e-8
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters(model).items())
    assert model.training


def test_what_is_no_block_is_not_taken_for_one() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))

    class Tied(Shared):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.b(torch.tanh(self.a(x))), self.a.weight.t())

    class TiedOuter(Shared):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x))) + x @ self.b.weight

    class Residual(Shared):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.a(x))
            return self.b(h) + h

    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    normalised = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6))
    for model in (Shared(), Tied(), TiedOuter(), Residual(), tied, normalised, nn.Linear(2, 2)):
        with pytest.raises(ActionError, match="such are: none"):
            hidden_units(model)


def test_requests_that_make_no_sense_are_refused() -> None:
    model = _network(nn.Tanh)
    params, x = parameters(model), _inputs(5)
    block = hidden_units(model)[0]
    with pytest.raises(ActionError, match=r"'9', a linear map, .* such are: 1, 4"):
        hidden_units(model, "9")
    with pytest.raises(ActionError, match="expected from 1 to 10 samples, the number of units of 1, got 11"):
        act_on_batch(model, block, params, _inputs(11), _element(10))
    with pytest.raises(ActionError, match="method: expected one of least squares, smallest change, rotation"):
        act_on_batch(model, block, params, x, _element(10), method="guess")
    with pytest.raises(ActionError, match=r"a matrix \[10, 10\] .* got \[3, 3\]"):
        act_on_batch(model, block, params, x, _element(3))
    with pytest.raises(ActionError, match="finite entries, got 100 of 100"):
        act_on_batch(model, block, params, x, math.nan * _element(10))
    with pytest.raises(ActionError, match="g: expected an invertible matrix"):
        act_on_batch(model, block, params, x, torch.ones(10, 10))
    flat = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).double().eval()
    for wrong in (_inputs(1)[0], _inputs(4).reshape(2, 2, 6)):
        with pytest.raises(ActionError, match=r"one vector for each of \d samples at 0, got .* \[batch, \.\.\.\]"):
            act_on_batch(flat, hidden_units(flat)[0], parameters(flat), wrong, _element(10))
    with pytest.raises(ActionError, match="an activation follows"):
        act_linearly(block, params, _element(10))
    linear = _network(None)
    with pytest.raises(ActionError, match="expected an invertible matrix"):
        act_linearly(hidden_units(linear)[0], parameters(linear), torch.ones(10, 10))
    with pytest.raises(ActionError, match="epsilon: expected a finite number from 0 on, got -1"):
        _element(3, -1)
    with pytest.raises(ActionError, match="members: expected a positive number, got 0"):
        orbit(model, block, params, x, 0.1, members=0)
    graph = compare.trace(model, x, fullprecision.FAMILY)
    with pytest.raises(ActionError, match="block: expected one of 1, 4, got '7'"):
        scaling(graph, "7", torch.ones(10))
    with pytest.raises(ActionError, match="1: its activation is not homogeneous"):
        scaling(graph, "1", torch.ones(10))
    relu = _network(nn.ReLU)
    homogeneous = compare.trace(relu, x, fullprecision.FAMILY)
    with pytest.raises(SymmetryError, match="positive scales"):
        scaling(homogeneous, "1", -torch.ones(10))

    class Untraceable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ActionError, match=r"torch\.fx can trace"):
        hidden_units(Untraceable())
