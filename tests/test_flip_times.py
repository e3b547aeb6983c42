"""When bits flip, in which order, and by which thresholds between knots; the kernels on any sequence of events."""

import numpy as np
import pytest
import torch
from test_exact import LATENT, ORDERS, Problem, networks, small
from torch import Tensor

from binarynets.integer.affine import Affine, IntegerError
from binarynets.integer.trace import plan
from binarynets.landscape.dense import Dense, Thresholds, _Block, _Start, count, ranks
from binarynets.landscape.perceptron import between_knots, perceptron
from binarynets.landscape.result import ExactPath
from compare.evaluation.statistics import calibrator, re_estimated
from compare.geometry import sphere
from compare.params import Params, lerp, sign


def settled(problem: Problem, found: ExactPath, order: str, knots: int) -> list[Params]:
    """Parameters at each knot with the statistics of that network."""
    measuring, path, there = calibrator(problem.model), problem.latent(order), []
    for k in range(knots):
        params = path(k / (knots - 1))
        if order not in LATENT and 0 < k < knots - 1:
            params = {**lerp(problem.a, problem.b, k / (knots - 1)), **bits_at(problem, found, k / (knots - 1))}
        there.append(re_estimated(measuring, params, problem.x))
    return there


def bits_at(problem: Problem, found: ExactPath, t: float) -> Params:
    """Signs after all flips until ``t``."""
    bits = {name: sign(problem.a[name]) for name in found.flips.names}
    for k, unit, source, when in zip(
        found.flips.layer, found.flips.unit, found.flips.source, found.t.tolist(), strict=True
    ):
        if when <= t:
            bits[found.flips.names[k]][unit, source] *= -1
    return bits


def between(knots: list[Params], t: float, bits: Params, x: Tensor) -> Tensor:
    """Classes of the network whose thresholds, and last gains, run straight between knots, in float64."""
    at = t * (len(knots) - 1)
    k = min(int(at), len(knots) - 2)
    part, signs = at - k, x.double()
    for layer, name in enumerate(bits, 1):
        sums = signs @ bits[name].double().T
        gain, tau = [], []
        for params in knots[k : k + 2]:
            norm = {
                end: params[f"norm{layer}.{end}"].double() for end in ("running_mean", "running_var", "weight", "bias")
            }
            gain.append(norm["weight"] / (norm["running_var"] + 1e-5).sqrt())
            tau.append(norm["running_mean"] - norm["bias"] / gain[-1])
        near = int(part >= 0.5)
        if layer == len(bits):
            offset = [-t * g for t, g in zip(tau, gain, strict=True)]
            return (sums * torch.lerp(*gain, part) + torch.lerp(*offset, part)).argmax(1)
        turning = gain[0].sign() != gain[1].sign()
        threshold = torch.where(turning, tau[near], torch.lerp(*tau, part))
        signs = torch.where((sums - threshold) * gain[near] >= 0, 1.0, -1.0).double()
    raise AssertionError


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_run_straight_between_knots(order, seed) -> None:
    problem = Problem([6, 8, 7, 6][: seed + 2], 4, 83, seed=seed)
    for end in (
        problem.a,
        problem.b,
    ):  # No ties, of sums with thresholds or of classes: float64 decides them otherwise.
        for name in (name for name in end if name.endswith(".bias")):
            end[name] = end[name] + 0.37 + torch.arange(len(end[name])) / 70
    found = problem.path(order, statistics="re-estimated", calibration=problem.x, knots=4, steps=30)
    knots = settled(problem, found, order, 4)
    for (g, bits), errors in zip(networks(found, problem.a), found.event_errors.tolist(), strict=True):
        t = float(found.grid_t[g])
        assert errors == int((between(knots, t, bits, problem.x) != problem.y).sum()), t


def weights(found: ExactPath, i: int) -> tuple[str, tuple[int, int]]:
    """Name and place of the i-th bit that flips."""
    flips = found.flips
    return flips.names[flips.layer[i]], (int(flips.unit[i]), int(flips.source[i]))


def triples(found: ExactPath) -> list[tuple[str, int, int]]:
    return [(name, *at) for name, at in (weights(found, i) for i in range(len(found.flips)))]


@pytest.mark.parametrize("order", ORDERS)
def test_all_bits_that_differ_flip_once(order) -> None:
    problem = small()
    found = problem.path(order)
    expected = {
        (name, unit, source)
        for name in found.flips.names
        for unit, source in (sign(problem.a[name]) != sign(problem.b[name])).nonzero().tolist()
    }
    assert len(found.flips) == len(expected)
    assert set(triples(found)) == expected
    for i, positive in enumerate(found.flips.positive):
        name, at = weights(found, i)
        assert positive == (problem.b[name][at] >= 0)


def test_times_on_the_line_are_where_latents_pass_zero() -> None:
    problem = small()
    found = problem.path()
    for i, t in enumerate(found.t.tolist()):
        name, at = weights(found, i)
        a, b = float(problem.a[name][at]), float(problem.b[name][at])
        assert t == pytest.approx(abs(a) / (abs(a) + abs(b)), abs=1e-6)


def test_times_on_the_geodesic_are_where_its_rows_pass_zero() -> None:
    problem = small()
    found = problem.path("latent-geodesic")
    last = found.flips.names[-1]
    for i, t in enumerate(found.t.tolist()):
        name, (unit, source) = weights(found, i)
        a, b = (end[name].double() for end in (problem.a, problem.b))
        u, v = (end.view(1, -1) if name == last else end[unit : unit + 1] for end in (a, b))
        column = unit * a.shape[1] + source if name == last else source
        u, v = u / u.norm(), v / v.norm()
        theta = torch.acos((u * v).sum())
        moved = torch.sin((1 - t) * theta) * u + torch.sin(t * theta) * v
        assert float(moved[0, column]) == pytest.approx(0, abs=1e-5)
        assert sphere.angles(u, v)[0] == pytest.approx(float(theta))


@pytest.mark.parametrize("order", ["random", "greedy"])
def test_other_orders_have_the_times_of_the_line(order) -> None:
    assert torch.equal(small().path(order).t, small().path().t)


def test_a_seed_draws_another_random_order() -> None:
    first, again, other = (small().path("random", seed=seed) for seed in (0, 0, 1))
    assert triples(first) == triples(again) != triples(other)


@pytest.mark.parametrize("order", ["random", "greedy", "latent-line"])
def test_a_given_sequence_is_the_path_it_comes_from(order) -> None:
    problem = small()
    found = problem.path(order)
    for sequence in (found.flips, triples(found)):
        again = problem.path(sequence)
        assert again.order == "given"
        assert triples(again) == triples(found)
        assert torch.equal(again.t, found.t)
        assert torch.equal(again.event_errors, found.event_errors)


@pytest.mark.parametrize("order", LATENT)
def test_equal_times_on_points_of_the_grid(order) -> None:
    """Opposite latents: t = 1/2 for all of them."""
    problem = small()
    for name in ("linear1.weight", "linear2.weight", "linear3.weight"):
        problem.a[name] = torch.where(problem.a[name] < 0, -0.5, 0.5)
        problem.b[name] = torch.where(problem.b[name] < 0, -0.5, 0.5)
    found = problem.path(order, steps=24)
    if order == "latent-line":
        assert set(found.t.tolist()) == {0.5}
    ts = found.grid_t.tolist()
    assert found.grid_errors.tolist() == problem.curve(order, ts)
    # A latent of 0 is +1: at t = 1/2 exactly those have flipped that become +1.
    bits = {name: sign(value) for name, value in problem.latent(order)(0.5).items() if name in found.flips.names}
    for name in bits:
        if order == "latent-line":
            assert torch.equal(bits[name] > 0, (problem.a[name] > 0) | (problem.b[name] > 0))


@pytest.mark.parametrize("order", ORDERS)
def test_a_path_from_a_network_to_itself(order) -> None:
    problem = small()
    problem.b = problem.a
    found = problem.path(order, steps=24)
    assert (len(found.flips), len(found.t), len(found.errors)) == (0, 0, 1)
    assert set(found.event_errors.tolist()) == {problem.errors(problem.a)} == set(found.grid_errors.tolist())
    assert (found.missed(), found.supremum_at) == (0, 0.0)
    assert problem.path([]).errors.tolist() == found.errors.tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_latents_of_zero_at_the_ends(order) -> None:
    problem = small()
    problem.a["linear1.weight"][:, ::2] = 0.0
    problem.b["linear2.weight"][::2] = 0.0
    problem.a["linear3.weight"][0], problem.b["linear3.weight"][0] = 0.0, 0.0
    found = problem.path(order, steps=24)
    assert (found.errors[0], found.errors[-1]) == (problem.errors(problem.a), problem.errors(problem.b))
    assert (found.t == 0).any()
    assert (found.t == 1).any()
    if order in LATENT:
        assert found.grid_errors.tolist() == problem.curve(order, found.grid_t.tolist())


def test_a_sequence_must_name_each_bit_once() -> None:
    problem = small()
    right = triples(problem.path())
    name, unit, source = right[0]
    kept = next((name, u, s) for u in range(5) for s in range(5) if (name, u, s) not in right)
    wrong = {
        "one is missing": right[1:],
        "one comes twice": [*right, right[3]],
        "one instead of another": [right[1], *right[1:]],
        "one that does not differ": [*right[1:], kept],
        "one beyond the weight": [*right[1:], (name, 99, 0)],
        "no such weight": [*right[1:], ("linear9.weight", unit, source)],
        "none": [],
    }
    for sequence in wrong.values():
        with pytest.raises(IntegerError, match=f"each of the {len(right)} bits that differ exactly once"):
            problem.path(sequence)
    with pytest.raises(IntegerError, match=r"'linear9.weight', .* is none of them"):
        problem.path(wrong["no such weight"])
    flips = problem.path().flips
    with pytest.raises(IntegerError, match="exactly once"):
        problem.path(flips[np.arange(len(flips) - 1)])


@pytest.mark.parametrize("order", LATENT)
@pytest.mark.parametrize("seed", range(3))
def test_points_of_the_grid_upon_flips(order, seed) -> None:
    """The path rounds: a bit has flipped on a point of the grid when it has on the path, whatever its time says."""
    problem = small(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for end in (problem.a, problem.b):
        for name in ("linear1.weight", "linear2.weight", "linear3.weight"):
            end[name] = end[name] * 10 ** (4 * torch.rand(end[name].shape, generator=generator) - 3)
    times = problem.path(order).t.numpy()
    close = [times, np.nextafter(times, 0), np.nextafter(times, 1), times.astype(np.float32).astype(np.float64)]
    at = np.clip(np.concatenate(close), 0, 1).tolist()
    found = problem.path(order, at=at)
    ts = found.grid_t.tolist()
    assert set(at) <= set(ts)
    assert found.grid_errors.tolist() == problem.curve(order, ts)
    assert found.event_t.tolist() == sorted(found.event_t.tolist())


class Events:
    """A network as the kernels take it, with thresholds of four steps, and a block of samples."""

    def __init__(self, sizes: list[int], samples: int, *, seed: int, far: int = 1) -> None:
        draw = np.random.default_rng(seed)
        steps, classes = 4, sizes[-1]
        weights = [draw.choice([-1.0, 1.0], pair) for pair in zip(sizes[1:], sizes, strict=False)]
        limits = [draw.integers(-6, 6, (steps, units)) * (far if i == 0 else 1) for i, units in enumerate(sizes[1:-1])]
        self.thresholds = [Thresholds(limit, draw.random(limit.shape) < 0.3) for limit in limits]
        self.outputs = [
            Affine(
                torch.from_numpy((2 * draw.random(classes) - 0.5).astype(np.float32)),
                torch.from_numpy(draw.normal(size=classes).round().astype(np.float32)),
            )
            for _ in range(steps)
        ]
        self.weights = [torch.from_numpy(weight.astype(np.float32)) for weight in weights]
        self.x = torch.from_numpy((far * (2 * draw.integers(0, 2, (samples, sizes[0])) - 1)).astype(np.float32))
        self.y = torch.from_numpy(draw.integers(0, classes, samples))
        self.dense = self.at([])

    def at(self, events: list[tuple[int, int, int, int]]) -> Dense:
        """The network's first state after ``events``; moves of thresholds do not count."""
        weights = [weight.clone() for weight in self.weights]
        for layer, unit, source, positive in events:
            if layer:
                weights[layer - 1][unit, source] = 1.0 if positive else -1.0
        fan_in = weights[-1].shape[1]
        samples = 64 * -(-len(self.y) // 64)
        return Dense(tuple(weights), tuple(self.thresholds), ranks(self.outputs, fan_in), samples)

    def literal(self, events: list[tuple[int, int, int, int]]) -> list[int]:
        """Errors at first and after each event, and by how much they changed."""
        found = []
        for n in range(len(events) + 1):
            step = next((unit for layer, unit, *_ in reversed(events[:n]) if layer == 0), 0)
            signs = self.x
            *hidden, last = self.at(events[:n]).weights
            for weight, own in zip(hidden, self.thresholds, strict=True):
                on = (signs @ weight.T >= torch.from_numpy(own.limit[step])) != torch.from_numpy(own.negated[step])
                signs = on.float() * 2 - 1
            logits = self.outputs[step](signs @ last.T)
            found.append(int((logits.argmax(1) != self.y).sum()))
        return np.diff(found, prepend=0).tolist()

    def flip(self, layer: int, unit: int, source: int) -> tuple[int, int, int, int]:
        return layer, unit, source, int(self.weights[layer - 1][unit, source] < 0)


def random_events(network: Events, number: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Bits that flip, each as it stands, and moves of thresholds among them."""
    draw, found, state = np.random.default_rng(seed), [], [weight.clone() for weight in network.weights]
    for n in range(number):
        if n % 15 == 14:
            found.append((0, int(draw.integers(4)), 0, 0))
            continue
        layer = int(draw.integers(1, len(state) + 1))
        unit, source = (int(draw.integers(size)) for size in state[layer - 1].shape)
        state[layer - 1][unit, source] *= -1
        found.append((layer, unit, source, int(state[layer - 1][unit, source] > 0)))
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("far", [1, 255])
def test_kernels_on_any_events_at_every_width(seed, far) -> None:
    draw = np.random.default_rng(seed)
    sizes = [int(size) for size in draw.integers(3, 150 if seed % 5 == 0 else 41, seed % 4 + 3)]
    network = Events([*sizes[:-1], int(draw.integers(2, 12))], int(draw.integers(5, 150)), seed=seed, far=far)
    events = random_events(network, 60, seed)
    rows, expected = np.array(events, np.int32), network.literal(events)
    assert count(network.dense, network.x, network.y, rows).tolist() == expected
    start = _Start.evaluated(network.dense, network.x, network.y)
    for width in (np.int8, np.int16, np.int32):
        found = _Block(network.dense, start, width).follow(rows)
        assert found is not None
        assert found.tolist() == expected, width


def test_sums_that_outgrow_eight_bits() -> None:
    """The halved sums of a unit with 300 inputs pass 127 when all its weights become those of its inputs."""
    network = Events([3, 300, 4, 3], 20, seed=0)
    signs = network.dense.signs(0, network.x @ network.weights[0].T)
    towards = [network.flip(2, 1, i) for i in range(300) if network.weights[1][1, i] != signs[0, i]]
    events = [*towards, (0, 1, 0, 0)]
    rows, expected = np.array(events, np.int32), network.literal(events)
    start = _Start.evaluated(network.dense, network.x, network.y)
    assert start.largest <= 112
    assert _Block(network.dense, start, np.int8).follow(rows) is None
    assert _Block(network.dense, start, np.int16).follow(rows).tolist() == expected
    assert count(network.dense, network.x, network.y, rows).tolist() == expected
    assert _Block(network.dense, start, np.int8).follow(rows[:5]).tolist() == expected[:6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_are_ordered_as_the_outputs_are(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gain, offset = (torch.randn(5, generator=generator).to(dtype) for _ in range(2))
    gain[1:3], offset[1:3] = torch.tensor([-1.0, 1.0]), 0.0  # equal at the sum 0
    (found,) = ranks([Affine(gain, offset)], 12)
    assert found.dtype == np.int32
    sums = torch.arange(12, -13, -2)
    values = Affine(gain, offset)(sums[:, None].expand(-1, 5)).T.reshape(-1)
    flat = torch.from_numpy(found).reshape(-1)
    assert torch.equal(flat[:, None] < flat, values[:, None] < values)
    assert torch.equal(flat[:, None] == flat, values[:, None] == values)


@pytest.mark.parametrize("gain", [-2.0, 2.0])
def test_a_sum_that_meets_a_threshold_between_knots_is_on(gain) -> None:
    """Thresholds 2 and 4 at the knots, so 3 half-way; a sum of 3 makes 0, whose sign is +1."""
    problem = small()
    knots = [dict(problem.a), dict(problem.b)]
    for params, mean in zip(knots, (2.0, 4.0), strict=True):
        units = torch.ones(9)
        params["norm1.running_mean"], params["norm1.bias"] = mean * units, 0 * units
        params["norm1.weight"], params["norm1.running_var"] = gain * units, 4 * units
    network = perceptron(plan(problem.model))
    scales = between_knots(network, np.array([0.0, 1.0]), knots, np.array([0.0, 0.5, 1.0]))
    own = scales.thresholds[0]
    for step, threshold in enumerate((2, 3, 4)):
        sums = np.arange(-9, 10)[:, None]
        on = (sums >= own.limit[step]) != own.negated[step]
        assert (on == ((sums - threshold) * gain >= 0)).all()
