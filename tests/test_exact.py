"""Exact paths against the literal way: make the very network, evaluate it, count."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import binarynets
from binarynets.integer.affine import IntegerError
from binarynets.landscape import exact
from binarynets.landscape.exact import exact_path, exact_paths
from binarynets.landscape.result import ExactPath
from binarynets.layers import latent_weights
from compare.evaluation import error_curve
from compare.geometry import geodesic_path, linear_path
from compare.params import Params, call, lerp, parameters, sign
from compare.symmetry import trace

ORDERS = ("latent-line", "latent-geodesic", "random", "greedy")
LATENT = ORDERS[:2]
FEW = {"steps": 12, "knots": 5, "rounds": 3, "budget": 20, "threads": 2, "block": 64}


def drawn(model: nn.Module, *, seed: int) -> Params:
    """Random parameters: gains of both signs, sums that meet thresholds, duplicate rows, latents of 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    params, latent = parameters(model), latent_weights(model)
    for name, tensor in params.items():
        if name in latent:
            params[name] = normal(tensor)
            params[name].view(-1)[::13] = 0.0
            params[name][-1] = params[name][0]
        elif name.endswith("running_mean"):
            params[name] = (3 * normal(tensor)).round()
        elif name.endswith("running_var"):
            params[name] = 30 * torch.rand(tensor.shape, generator=generator) + 1
        elif name.endswith("weight"):
            params[name] = normal(tensor)
        elif tensor.is_floating_point():
            params[name] = normal(tensor) * (torch.rand(tensor.shape, generator=generator) < 0.5)
    # The last gains are alike, so that no class outdoes the others whatever the bits are.
    mean, gain, offset = (f"norm{len(latent)}.{end}" for end in ("running_mean", "weight", "bias"))
    params[mean], params[gain], params[offset] = 0 * params[mean], params[gain].abs() + 0.5, params[offset] / 4
    return params


class Problem:
    """A network, two ends, and samples, half of which the first end gets right."""

    def __init__(self, sizes: list[int], classes: int, samples: int, *, seed: int, largest: int = 255) -> None:
        self.model = binarynets.mlp(sizes[0], sizes[1:], classes).eval()
        self.a, self.b = drawn(self.model, seed=2 * seed), drawn(self.model, seed=2 * seed + 1)
        generator = torch.Generator().manual_seed(seed)
        self.x = 2.0 * torch.randint(0, largest + 1, (samples, sizes[0]), generator=generator) - largest
        self.x[samples // 2] = self.x[0]
        guessed = torch.randint(0, classes, (samples,), generator=generator)
        right = torch.rand(samples, generator=generator) < 0.5
        self.y = torch.where(right, call(self.model, self.a, self.x).argmax(1), guessed)
        self.samples = SimpleNamespace(x=self.x, y=self.y)

    def path(self, order: object = "latent-line", **options: object) -> ExactPath:
        return exact_path(self.model, self.a, self.b, self.x, self.y, order, **{**FEW, **options})

    def latent(self, order: str) -> Callable[[float], Params]:
        graph = trace(self.model, self.x[:4], binarynets.FAMILY)
        return (geodesic_path if order == "latent-geodesic" else linear_path)(graph, self.a, self.b)

    def curve(self, order: str, ts: list[float], *, samples: object = None, **options: object) -> list[int]:
        samples = samples or self.samples
        errors = error_curve(self.model, self.latent(order), samples, ts, **options).errors
        return [round(error * len(samples.y)) for error in errors]

    @torch.no_grad()
    def errors(self, params: Params) -> int:
        return int((call(self.model, params, self.x).argmax(1) != self.y).sum())


def small(seed: int = 3, **options: object) -> Problem:
    return Problem([7, 9, 6], 4, 90, seed=seed, **options)


def networks(found: ExactPath, a: Params) -> list[tuple[int, dict[str, Tensor]]]:
    """Of each network on the path the point of the grid whose thresholds it has, and its signs."""
    middles = ((found.grid_t[1:] + found.grid_t[:-1]) / 2).tolist()
    flips, bits = found.flips, {name: sign(a[name]) for name in found.flips.names}
    moves, made = 0, [(0, dict(bits))]
    for i, t in enumerate([*found.t.tolist(), 2.0]):
        while moves < len(middles) and middles[moves] < t:
            moves += 1
            made.append((moves, dict(bits)))
        if i < len(flips):
            name = flips.names[flips.layer[i]]
            bits[name] = bits[name].clone()
            bits[name][flips.unit[i], flips.source[i]] *= -1
            made.append((moves, dict(bits)))
    return made


def assert_literal(problem: Problem, found: ExactPath, *, most: int = 10**6, seed: int = 0) -> None:
    """Up to ``most`` networks of the path, thresholds that move included, against a dense evaluation."""
    made = networks(found, problem.a)
    assert len(made) == len(found.event_errors) == len(found.event_t)
    grid = found.grid_t.tolist()
    scales = [problem.a, *(lerp(problem.a, problem.b, t) for t in grid[1:-1]), problem.b]
    chosen = np.random.default_rng(seed).permutation(len(made))[:most].tolist()
    expected = [problem.errors({**scales[made[k][0]], **made[k][1]}) for k in chosen]
    assert found.event_errors[chosen].tolist() == expected
    flipped = torch.tensor([0, *(k for k in range(1, len(made)) if made[k][0] == made[k - 1][0])])
    assert found.errors[:-1].tolist() == found.event_errors[flipped][: len(found.t)].tolist()
    assert found.event_errors[-1] == problem.errors(problem.b)
    assert found.errors[-1] == problem.errors(problem.b if len(found.t) else problem.a)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [[8, 9], [5, 7, 10], [6, 3, 12, 5], [7, 8, 4, 5, 6]], ids=str)
@pytest.mark.parametrize("largest", [1, 255])
def test_every_network_of_a_path_is_counted(order, sizes, largest) -> None:
    problem = Problem(sizes, 3, 70, seed=len(sizes), largest=largest)
    found = problem.path(order)
    assert found.order == order
    assert found.complete
    assert len(torch.unique(found.errors)) > 3
    assert_literal(problem, found)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(3, 40), min_size=2, max_size=5),
    classes=st.integers(2, 11),
    samples=st.integers(1, 150),
    largest=st.sampled_from([1, 2, 16, 255]),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 2**20),
)
def test_paths_of_any_perceptron(sizes, classes, samples, largest, order, seed) -> None:
    problem = Problem(sizes, classes, samples, seed=seed, largest=largest)
    found = problem.path(order, seed=seed, at=[0.3, 0.301])
    assert_literal(problem, found, most=25, seed=seed)


@pytest.mark.parametrize("order", ORDERS[:3])
def test_a_gain_of_zero_makes_a_constant_unit(order) -> None:
    problem = small()
    for end in (problem.a, problem.b):
        end["norm1.weight"][2] = end["norm2.weight"][0] = 0.0
    problem.b["norm1.weight"][4] = 0.0
    assert_literal(problem, problem.path(order))


@pytest.mark.parametrize("order", LATENT)
@pytest.mark.parametrize("steps", [1, 7, 24])
def test_error_curve_agrees_at_every_point_of_the_grid(order, steps) -> None:
    at = [0.0, 1e-9, 1 / 3, 0.3333, 0.77, float(np.nextafter(1.0, 0.0)), 1.0]
    problem = small(seed=steps)
    found = problem.path(order, steps=steps, at=at)
    ts = found.grid_t.tolist()
    assert set(ts) == {i / steps for i in range(steps + 1)} | {i / 24 for i in range(25)} | set(at)
    assert ts == sorted(ts)
    assert found.grid_errors.tolist() == [found.at(t) for t in ts] == problem.curve(order, ts)


@pytest.mark.parametrize("order", LATENT)
@pytest.mark.parametrize("knots", [2, 5, 8])
def test_error_curve_agrees_at_every_knot(order, knots) -> None:
    problem = small(seed=knots)
    re_estimated = {"statistics": "re-estimated", "calibration": problem.x[:41]}
    found = problem.path(order, knots=knots, **re_estimated)
    ts = [i / (knots - 1) for i in range(knots)]
    assert found.statistics == "re-estimated"
    assert [found.at(t) for t in ts] == problem.curve(order, ts, **re_estimated)
    assert found.errors[-1] == found.event_errors[-1] == found.at(1.0)


@pytest.mark.parametrize("order", LATENT)
def test_a_finer_grid_moves_no_flip_and_no_end(order) -> None:
    coarse, fine = (small().path(order, steps=steps) for steps in (24, 240))
    torch.testing.assert_close(coarse.t, fine.t, rtol=0, atol=1e-5)
    assert (coarse.errors[0], coarse.errors[-1]) == (fine.errors[0], fine.errors[-1])
    assert [coarse.at(i / 24) for i in range(25)] == [fine.at(i / 24) for i in range(25)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
def test_nothing_depends_on_blocks_and_threads(order, statistics) -> None:
    problem = Problem([9, 11, 70, 6], 4, 330, seed=1)
    options = {"statistics": statistics, "calibration": problem.x, "seed": 5}
    reference = problem.path(order, **options)
    for block, threads in [(64, 1), (64, 3), (128, 2), (320, 1), (320, 3), (384, None)]:
        found = problem.path(order, **options, block=block, threads=threads)
        assert torch.equal(found.event_errors, reference.event_errors), (block, threads)
        assert torch.equal(found.errors, reference.errors)
        assert torch.equal(found.t, reference.t)


@pytest.mark.parametrize("order", ORDERS)
def test_several_splits_in_one_pass_are_those_alone(order) -> None:
    problem = small()
    rest = SimpleNamespace(x=problem.x[:17].flip(0), y=problem.y[:17])
    both = exact_paths(problem.model, problem.a, problem.b, {"train": problem.samples, "test": rest}, order, **FEW)
    assert list(both) == ["train", "test"]
    assert (both["train"].samples, both["test"].samples) == (90, 17)
    assert torch.equal(both["train"].event_errors, problem.path(order).event_errors)
    sequence = both["train"].flips
    alone = exact_path(problem.model, problem.a, problem.b, rest.x, rest.y, sequence, **FEW)
    if order != "latent-geodesic":  # Its times are not those of the line.
        assert torch.equal(both["test"].event_errors, alone.event_errors)
    if order in LATENT:
        assert both["test"].grid_errors.tolist() == problem.curve(order, both["test"].grid_t.tolist(), samples=rest)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
def test_a_result_is_what_it_says(order, statistics) -> None:
    problem = small()
    found = problem.path(order, statistics=statistics, calibration=problem.x)
    assert len(found.errors) == len(found.t) + 1 == len(found.flips) + 1
    assert found.t.dtype == found.grid_t.dtype == found.event_t.dtype == torch.float64
    assert found.errors.dtype == found.grid_errors.dtype == found.event_errors.dtype == torch.int64
    for times in (found.t, found.event_t, found.grid_t):
        assert times.tolist() == sorted(times.tolist())
        assert 0 <= times[0] <= times[-1] <= 1
    assert len(found.event_t) == len(found.t) + len(found.grid_t)
    assert found.samples == 90
    events = list(zip(found.event_t.tolist(), found.event_errors.tolist(), strict=True))
    assert found.supremum == max(error for _, error in events)
    assert found.supremum >= max(int(found.errors.max()), int(found.grid_errors.max()))
    assert found.supremum_at == next(t for t, error in events if error == found.supremum)
    assert found.missed() == found.supremum - max(found.at(i / 24) for i in range(25)) >= 0
    assert found.missed(2) == found.supremum - max(found.at(0), found.at(1))
    ends = [t for t, _ in events[1:]] + [1.0]
    literal = sum((end - t) * error for (t, error), end in zip(events, ends, strict=True)) / 90
    assert found.integral == pytest.approx(literal, rel=1e-12)
    with pytest.raises(ValueError, match=r"grid, got 0\.123; pass it as at=\[0\.123\]"):
        found.at(0.123)
    with pytest.raises(ValueError, match="grid, got"):
        found.missed(12)


@pytest.mark.parametrize("order", LATENT)
def test_a_path_back_visits_the_same_networks(order) -> None:
    problem = small()
    for end in (problem.a, problem.b):  # A latent of 0 is +1: it flips at its own end, on whichever way.
        for name in latent_weights(problem.model):
            end[name] = torch.where(end[name] == 0, 0.5, end[name])
    there = problem.path(order, steps=24)
    problem.a, problem.b = problem.b, problem.a
    back = problem.path(order, steps=24)
    torch.testing.assert_close(back.t, 1 - there.t.flip(0), rtol=0, atol=1e-6)
    assert torch.equal(back.grid_t, torch.arange(25).double() / 24)
    assert back.grid_errors.tolist() == there.grid_errors.flip(0).tolist()
    assert abs(back.integral - there.integral) < 1e-5
    assert_literal(problem, back)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "sideways"}, "one of latent-line, latent-geodesic, random, greedy, or a sequence .*'sideways'"),
        ({"statistics": "guessed"}, "'interpolated' or 're-estimated', got 'guessed'"),
        ({"block": 100}, "block: expected a multiple of 64 samples, got 100"),
        ({"block": 0}, "block: expected a multiple of 64"),
        ({"threads": 0}, "threads: expected a positive number"),
        ({"knots": 1}, "knots: expected at least 2, got 1"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"rounds": 0}, "rounds: expected at least 1"),
        ({"budget": 0}, "budget: expected at least 1"),
        ({"candidates": 0.5}, "candidates: expected at least 1"),
        ({"networks": 1}, "networks: expected at least 2"),
        ({"at": [0.5, 1.5]}, r"at: expected numbers between 0 and 1, got \[0.5, 1.5\]"),
        ({"at": [float("nan")]}, "at: expected numbers between 0 and 1"),
        ({"statistics": "re-estimated"}, "pass calibration="),
    ],
)
def test_options_are_checked(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        small().path(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.full((90,), 4)}, "y: expected class indices from 0 to 3, got torch.int64 from 4 to 4"),
        ({"y": torch.full((90,), -1)}, "y: expected class indices"),
        ({"y": torch.zeros(90)}, "y: expected class indices from 0 to 3, got torch.float32"),
        ({"y": torch.zeros(89, dtype=torch.int64)}, "y: expected one class for each"),
        ({"x": torch.full((90, 7), 0.5)}, "x: expected integers, .* got other numbers"),
        ({"x": torch.full((90, 7), torch.inf)}, "x: expected integers"),
        ({"x": torch.full((90, 7), 40000.0)}, "x: expected integers up to 32767 .* got 40000"),
    ],
)
@pytest.mark.parametrize("order", ["latent-line", "greedy"])
def test_samples_are_checked(change, message, order) -> None:
    problem = small()
    graph = trace(problem.model, problem.x[:4], binarynets.FAMILY)
    x, y = change.get("x", problem.x), change.get("y", problem.y)
    with pytest.raises(IntegerError, match=message):
        exact_path(problem.model, problem.a, problem.b, x, y, order, graph=graph, **FEW)


def test_inputs_of_another_length_are_refused() -> None:
    problem = small()
    graph = trace(problem.model, problem.x[:4], binarynets.FAMILY)
    with pytest.raises(IntegerError, match="x: expected 7 numbers a sample, got 8"):
        exact_path(problem.model, problem.a, problem.b, torch.ones(90, 8), problem.y, graph=graph, **FEW)


def test_no_samples_are_refused() -> None:
    problem = small()
    graph = trace(problem.model, problem.x[:4], binarynets.FAMILY)
    with pytest.raises(IntegerError, match="at least one sample"):
        exact_path(problem.model, problem.a, problem.b, problem.x[:0], problem.y[:0], graph=graph, **FEW)


def test_no_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="splits: expected at least one"):
        exact_paths(small().model, small().a, small().b, {})


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
def test_arguments_are_not_changed(order, statistics) -> None:
    problem = small()
    problem.model.train()
    state = {name: value.clone() for name, value in problem.model.state_dict().items()}
    kept = [{name: value.clone() for name, value in end.items()} for end in (problem.a, problem.b)]
    x, y = problem.x.clone(), problem.y.clone()
    torch.manual_seed(0)
    drawn_before = torch.get_rng_state()
    problem.path(order, statistics=statistics, calibration=problem.x)
    assert torch.equal(torch.get_rng_state(), drawn_before)
    assert problem.model.training
    for before, after in zip([state, *kept], [problem.model.state_dict(), problem.a, problem.b], strict=True):
        assert list(before) == list(after)
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(problem.x, x)
    assert torch.equal(problem.y, y)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interruption_ends_all_threads(monkeypatch, threads) -> None:
    problem, calls, count = Problem([5, 6], 3, 64 * 40, seed=0), [], exact.count

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return count(*arguments)

    monkeypatch.setattr(exact, "count", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        problem.path(block=64, threads=threads)
    assert set(threading.enumerate()) == before
    # Those that run end, and the pool may begin a few more until it is told.
    assert len(calls) < 40


def test_nothing_is_printed_unless_asked_for(capsys) -> None:
    small().path("greedy", statistics="re-estimated", calibration=small().x)
    assert capsys.readouterr() == ("", "")
