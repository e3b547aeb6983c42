"""Constructed paths: linear networks below the larger loss, rectified ones below a bound that falls with the width."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from compare.params import ParameterError, Params
from compare.strings.pruned import PrunedStringError, pruned_string, rank_one_floor
from compare.strings.theory import LinearNetworkPath, LinearPathError, linear_network_path

Loss = Callable[[Params], float]


def _network(sizes: Sequence[int], seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    pairs = itertools.pairwise(sizes)
    return {f"w{k}": torch.randn(n, m, generator=generator, dtype=torch.float64) for k, (m, n) in enumerate(pairs)}


def _whole(params: Params) -> Tensor:
    found = params["w0"]
    for k in range(1, len(params)):
        found = params[f"w{k}"] @ found
    return found


def _losses(inputs: int, outputs: int, ridge: float, seed: int) -> dict[str, Loss]:
    """Two convex losses of the product: squared error and cross-entropy."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, inputs, generator=generator, dtype=torch.float64)
    y = torch.randn(20, outputs, generator=generator, dtype=torch.float64)
    classes = torch.randint(outputs, (20,), generator=generator)

    def penalty(params: Params) -> float:
        return ridge * sum(float(weight.square().sum()) for weight in params.values())

    return {
        "squared": lambda params: float(((x @ _whole(params).T - y) ** 2).mean()) + penalty(params),
        "entropy": lambda params: (
            float(torch.nn.functional.cross_entropy(x @ _whole(params).T, classes)) + penalty(params)
        ),
    }


def _largest_step(path: LinearNetworkPath, points: int) -> float:
    grid = [path(float(t)) for t in np.linspace(0, 1, points)]
    return max(max(float((q[n] - p[n]).abs().max()) for n in p) for p, q in itertools.pairwise(grid))


def _highest_stays_low(path: LinearNetworkPath, losses: dict[str, Loss], points: int = 401) -> None:
    ends = [path.a, path.b]
    grid = [path(float(t)) for t in np.linspace(0, 1, points)]
    for name, loss in losses.items():
        worse = max(loss(end) for end in ends)
        assert max(loss(params) for params in grid) <= worse * (1 + 1e-9), name
    # No jumps, which a grid could miss: a grid 16 times as fine has smaller steps, also where a root begins at 0.
    steps, finer = (_largest_step(path, number) for number in (51, 801))
    assert finer < 0.5 * steps
    for t, end in zip((0.0, 1.0), ends, strict=True):
        assert all(torch.equal(tensor, end[name]) for name, tensor in path(t).items())
        near = path(abs(t - 1e-9))
        assert all(torch.allclose(tensor, end[name], atol=1e-4) for name, tensor in near.items())


@pytest.mark.parametrize("sizes", [(3, 3), (3, 4, 3), (5, 3, 2), (2, 3, 5), (3, 4, 5, 3), (4, 3, 6, 3, 2), (4, 2, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_wide_linear_networks_are_joined(sizes: tuple[int, ...], seed: int) -> None:
    a, b = (_network(sizes, 10 * seed + k) for k in range(2))
    path = linear_network_path(a, b, [*a])
    _highest_stays_low(path, _losses(sizes[0], sizes[-1], 0.0, seed))


@pytest.mark.parametrize("sizes", [(3, 4, 3), (5, 3, 2), (2, 3, 5), (4, 6, 4), (4, 2, 1)])
@pytest.mark.parametrize("ridge", [0.01, 0.3])
def test_with_ridge_two_layers_are_joined(sizes: tuple[int, ...], ridge: float) -> None:
    a, b = (_network(sizes, k) for k in range(2))
    losses = _losses(sizes[0], sizes[-1], ridge, 3)
    _highest_stays_low(linear_network_path(a, b, [*a], ridge=True), losses)


def test_without_regard_to_ridge_a_path_may_rise() -> None:
    a, b = (_network((5, 3, 2), k) for k in range(2))
    path, heavy = linear_network_path(a, b, [*a]), _losses(5, 2, 10.0, 3)["squared"]
    assert max(heavy(path(float(t))) for t in np.linspace(0, 1, 200)) > 1.05 * max(heavy(a), heavy(b))


@pytest.mark.parametrize("ridge", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 3), (5, 3, 2), (2, 4, 4)])
def test_networks_without_full_rank_are_joined(sizes: tuple[int, ...], ridge: bool) -> None:
    whole = _network(sizes, 0)
    for fallen in ("w0", "w1"):
        b = _network(sizes, 1)
        b[fallen][1:] = b[fallen][:1] * torch.arange(1, len(b[fallen]), dtype=torch.float64)[:, None]
        for first, second in ((whole, b), (b, whole), (b, {n: torch.zeros_like(w) for n, w in b.items()})):
            path = linear_network_path(first, second, [*whole], ridge=ridge)
            _highest_stays_low(path, _losses(sizes[0], sizes[-1], 0.1 if ridge else 0.0, 5))
            _keeps_the_product_near_junctions(path)


def _keeps_the_product_near_junctions(path: LinearNetworkPath) -> None:
    """Where a factor without full rank begins to be filled up, the layer below must not lose digits."""
    scale = 1 + max(float(_whole(end).abs().max()) for end in (path.a, path.b))
    for i in range(len(path.pieces)):
        junction = _whole(path(i / len(path.pieces)))
        for digits in range(3, 14):
            t = i / len(path.pieces) + 10.0**-digits
            # The product moves on one piece, in two for a change of signs, no faster than by its own size.
            moved = 10.0**-digits * len(path.pieces) * 4 * scale
            assert float((_whole(path(t)) - junction).abs().max()) <= moved + 1e-11, (i, digits)


def test_a_chain_of_factors_of_rank_one_is_joined() -> None:
    a, b = _network((4, 5, 5, 5, 4), 0), _network((4, 5, 5, 5, 4), 1)
    for weight in a.values():
        weight[:] = torch.outer(weight[:, 0], weight[0])
    path = linear_network_path(a, b, [*a])
    _highest_stays_low(path, _losses(4, 4, 0.0, 3))
    _keeps_the_product_near_junctions(path)


@pytest.mark.parametrize("apart", [1e-4, 1e-6, 1e-8])
def test_badly_conditioned_factors_are_joined(apart: float) -> None:
    a, b = (_network((3, 4, 3), k) for k in range(2))
    a["w0"][:, 1] = a["w0"][:, 0] + apart * a["w0"][:, 1]
    for first, second in ((a, b), (b, a)):
        for ridge in (True, False):
            path = linear_network_path(first, second, [*a], ridge=ridge)
            _highest_stays_low(path, _losses(3, 3, 0.1 if ridge else 0.0, 5))


@pytest.mark.parametrize("ridge", [False, True])
def test_a_single_layer_is_joined_by_a_straight_line(ridge: bool) -> None:
    a, b = (_network((3, 2), k) for k in range(2))
    path = linear_network_path(a, b, ["w0"], ridge=ridge)
    assert torch.allclose(path(0.25)["w0"], torch.lerp(a["w0"], b["w0"], 0.25))
    _highest_stays_low(path, _losses(3, 2, 0.1 if ridge else 0.0, 5))


@pytest.mark.parametrize("ridge", [False, True])
def test_directions_that_are_reversed_turn_in_pairs(ridge: bool) -> None:
    a, b = (_network((3, 4, 2), k) for k in range(2))
    a["w1"] = -torch.eye(2, 4, dtype=torch.float64)
    negated = {"w0": a["w0"] * torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]), "w1": -a["w1"]}
    losses = _losses(3, 2, 0.1 if ridge else 0.0, 9)
    for end in (b, negated):
        _highest_stays_low(linear_network_path(a, end, [*a], ridge=ridge), losses)


def _oriented(sizes: tuple[int, ...], sign: int, seed: int) -> Params:
    """With the sign of the last factor's determinant chosen; the product's stays free."""
    found = _network(sizes, seed)
    last = f"w{len(sizes) - 2}"
    if float(torch.linalg.det(found[last])) * sign < 0:
        found[last][0] *= -1
    return found


@pytest.mark.parametrize("ridge", [False, True])
def test_hidden_layers_as_wide_as_the_product(ridge: bool) -> None:
    sizes = (4, 2, 2)
    losses = _losses(4, 2, 0.05 if ridge else 0.0, 7)
    for sign in (1, -1):
        a, b = _oriented(sizes, sign, 0), _oriented(sizes, sign, 1)
        _highest_stays_low(linear_network_path(a, b, [*a], ridge=ridge), losses)
    a, b = _oriented(sizes, 1, 0), _oriented(sizes, -1, 1)
    with pytest.raises(LinearPathError, match="determinants there differ in sign"):
        linear_network_path(a, b, [*a], ridge=ridge)
    # A product without full rank lets the sign change, at either end,
    fallen = {"w0": b["w0"].clone(), "w1": b["w1"]}
    fallen["w0"][1] = 2 * fallen["w0"][0]
    for first, second in ((a, fallen), (fallen, a)):
        _highest_stays_low(linear_network_path(first, second, [*a], ridge=ridge), losses)
    # and so does a singular one on the way.
    square = (3, 3, 3)
    p, q = _oriented(square, 1, 0), _oriented(square, -1, 1)
    if float(torch.linalg.det(_whole(p)) * torch.linalg.det(_whole(q))) > 0:
        q["w0"][0] *= -1
    path = linear_network_path(p, q, [*p], ridge=ridge)
    _highest_stays_low(path, _losses(3, 3, 0.05 if ridge else 0.0, 7))
    q["w0"][0] *= -1
    with pytest.raises(LinearPathError, match="there may be none"):
        linear_network_path(p, q, [*p], ridge=ridge)


def test_one_unit_to_fit_one_number_really_has_two_valleys() -> None:
    a, b = ({"w0": torch.tensor([[s]]), "w1": torch.tensor([[s]])} for s in (1.0, -1.0))
    with pytest.raises(LinearPathError):
        linear_network_path(a, b, ["w0", "w1"])
    # Two units are enough: one may vanish while the other carries the product.
    a, b = ({"w0": torch.tensor([[s], [0.0]]), "w1": torch.tensor([[s, 0.0]])} for s in (1.0, -1.0))
    path = linear_network_path(a, b, ["w0", "w1"], ridge=True)
    assert max(float((_whole(path(t)) - 1).square()) for t in np.linspace(0, 1, 101).tolist()) < 1e-10


def test_three_layers_with_ridge_need_not_be_connected() -> None:
    k, y = 0.1, 1.0

    def least(m: float) -> float:
        """The least loss of three numbers whose product is m: all of the same size."""
        return (m - y) ** 2 + 3 * k * abs(m) ** (2 / 3)

    lower = min(least(m) for m in np.linspace(0.01, 1, 1000))
    assert lower < least(0)
    # Every path from 0 to the lower valley passes a product of 0.002, which costs more than staying at 0.
    assert least(0.002) > least(0)
    ends = ({f"w{i}": torch.full((2, 2), s) for i in range(3)} for s in (0.0, 1.0))
    with pytest.raises(LinearPathError, match="expected at most two layers, got 3"):
        linear_network_path(*ends, ["w0", "w1", "w2"], ridge=True)


def test_linear_paths_refuse_what_they_cannot_join() -> None:
    a, b = (_network((3, 4, 2), k) for k in range(2))
    for names, message in ((["w0"], "expected the names of all parameters, w0, w1"), ([], "got none")):
        with pytest.raises(LinearPathError, match=message):
            linear_network_path(a, b, names)
    with pytest.raises(LinearPathError, match="expected each layer to take"):
        linear_network_path(a, b, ["w1", "w0"])
    with pytest.raises(LinearPathError, match="at least 3 units"):
        linear_network_path(*(_network((3, 2, 4), k) for k in range(2)), ["w0", "w1"])
    with pytest.raises(LinearPathError, match=r"expected weights .*: bias"):
        linear_network_path({"bias": torch.zeros(2)}, {"bias": torch.zeros(2)}, ["bias"])
    with pytest.raises(ParameterError, match="'w1' is missing"):
        linear_network_path(a, {"w0": b["w0"]}, ["w0", "w1"])
    with pytest.raises(ParameterError, match="NaN"):
        linear_network_path(a, {**b, "w1": b["w1"] * torch.nan}, ["w0", "w1"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        linear_network_path(a, b, ["w0", "w1"])(1.1)
    single = linear_network_path(*({n: w.float() for n, w in end.items()} for end in (a, b)), ["w0", "w1"])
    assert single(0.3)["w0"].dtype == torch.float32


# One hidden layer.


def _task() -> tuple[Tensor, Tensor]:
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.hstack([torch.sin(2 * x[:, :1]) * x[:, 1:2], x[:, 2:].abs()])


def _trained(width: int, seed: int, x: Tensor, y: Tensor, *, steps: int = 200) -> Params:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], width), torch.nn.ReLU(), torch.nn.Linear(width, y.shape[1])
    ).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        optimiser.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimiser.step()
    found = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # Finished by least squares: ends that training left above what their last layer can do would hide a gap.
    design = torch.hstack([torch.relu(x @ found["0.weight"].T + found["0.bias"]), torch.ones(len(x), 1)])
    fitted = torch.linalg.lstsq(design, y, driver="gelsd").solution.T
    return {**found, "2.weight": fitted[:, :-1].contiguous(), "2.bias": fitted[:, -1].contiguous()}


def _loss(params: Params, x: Tensor, y: Tensor) -> float:
    hidden = torch.relu(x @ params["0.weight"].T + params["0.bias"])
    return float(((hidden @ params["2.weight"].T + params["2.bias"] - y) ** 2).mean())


def test_a_pruned_string_is_highest_at_a_bead_and_lower_for_wider_networks() -> None:
    x, y = _task()
    gaps = []
    for width in (8, 16, 32, 64):
        found = []
        for seed in range(3):
            a, b = (_trained(width, 2 * seed + k, x, y) for k in range(2))
            string = pruned_string(a, b, x, y)
            assert all(torch.equal(string.beads[0][n], a[n]) and torch.equal(string.beads[-1][n], b[n]) for n in a)
            assert [len(units) for units in string.kept] == [width - width // 2, width // 2]
            assert string.losses == pytest.approx([_loss(bead, x, y) for bead in string.beads], rel=1e-12)
            for p, q in itertools.pairwise(string.beads):
                ends = max(_loss(p, x, y), _loss(q, x, y))
                for t in np.linspace(0, 1, 21).tolist():
                    middle = {n: torch.lerp(p[n], q[n], t) for n in p}
                    assert _loss(middle, x, y) <= ends * (1 + 1e-9)
            found.append(string.gap)
        gaps.append(sum(found) / len(found))
    assert all(narrow > 2 * wide for narrow, wide in itertools.pairwise(gaps))


def test_units_are_removed_in_the_order_of_least_rise() -> None:
    x, y = _task()
    a = _trained(6, 0, x, y, steps=50)
    a["0.bias"][2] = -5.0  # never active
    string = pruned_string(a, a, x, y)
    hidden = torch.relu(x @ a["0.weight"].T + a["0.bias"])

    def residual(units: Sequence[int]) -> float:
        design = torch.hstack([hidden[:, list(units)], torch.ones(len(x), 1)])
        return float((y - design @ torch.linalg.lstsq(design, y, driver="gelsd").solution).square().sum())

    units = list(range(6))
    while len(units) > 3:
        units = min(([u for u in units if u != gone] for gone in units), key=residual)
    assert string.kept == (tuple(units), tuple(units))
    assert 2 not in units
    assert string.losses[1] == pytest.approx(residual(units) / y.numel(), rel=1e-9)


def test_two_units_swapped_stay_apart() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    floor = rank_one_floor(x, x)
    a = {"0.weight": torch.eye(2, dtype=torch.float64), "2.weight": torch.eye(2, dtype=torch.float64)}
    b = {"0.weight": a["0.weight"].flip(0), "2.weight": a["2.weight"].flip(1)}
    string = pruned_string(a, b, x, x)
    assert max(string.losses[0], string.losses[-1]) == 0
    assert string.gap >= floor > 0.02
    # Directions just beside an input's orthogonal approach the floor, 1/12, and none attains it.
    assert 1 / 12 < floor < rank_one_floor(x, x, angles=360) < 1 / 12 + 1e-3
    # Brute force: no first layer of rank 1, with whatever last layer, is below the floor.
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        w = torch.outer(*torch.randn(2, 2, generator=generator))
        features = torch.relu(x @ w.T)
        fitted = features @ torch.linalg.lstsq(features, x, driver="gelsd").solution
        assert float(((fitted - x) ** 2).mean()) >= floor - 1e-6
    # Without the third point one direction serves both units, and nothing keeps them apart.
    assert rank_one_floor(x[:2], x[:2]) < 1e-20


def test_pruned_strings_refuse_what_does_not_fit() -> None:
    x, y = _task()
    a = _trained(4, 0, x, y, steps=1)
    for others, message in (
        ({"last": "3"}, "0.weight, 3.weight and perhaps biases, got 0.bias"),
        ({"first": "1"}, "name its layers"),
    ):
        with pytest.raises(PrunedStringError, match=message):
            pruned_string(a, a, x, y, **others)
    for bad_x, bad_y in ((x[:, 0], y), (x, y[:5]), (x[:, :2], y), (x[:0], y[:0])):
        with pytest.raises(PrunedStringError, match=r"expected x \[samples, 3\] and y \[samples, 2\]"):
            pruned_string(a, a, bad_x, bad_y)
    with pytest.raises(ParameterError, match="surplus"):
        pruned_string(a, {**a, "more": x}, x, y)
    one = _trained(1, 0, x, y, steps=1)
    with pytest.raises(PrunedStringError, match="at least 2 units"):
        pruned_string(one, one, x, y)
    with pytest.raises(PrunedStringError, match=r"inputs \[samples, 2\], got \[100, 3\]"):
        rank_one_floor(x, y)
