"""The landscape of a network: energies, and the training of beads."""

import copy
import itertools
import math
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from string_networks import FULL, Points, digits_pair, parabola, regression, sigmoid_net
from torch import nn

import binarynets
from compare.data import load_data
from compare.evaluation import StatisticsError, evaluate, re_estimated
from compare.evaluation.statistics import calibrator
from compare.params import ParameterError, call, digest, lerp, parameters
from compare.seeds import derived
from compare.strings import (
    Lowering,
    NetworkLandscape,
    StringError,
    StringSettings,
    sample_string,
)
from compare.training import TrainingError

# Energies.


@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
@pytest.mark.parametrize("precision", ["binary", "full"])
def test_energies_are_those_of_the_networks_on_the_line(precision: str, statistics: str) -> None:
    digits = digits_pair(precision)
    ts = (0.0, 0.3, 0.5, 1.0)
    for energy in ("loss", "error"):
        landscape = NetworkLandscape(digits.model, digits.recipe, digits.train, energy=energy, statistics=statistics)
        found = landscape.energies(digits.a, digits.other, ts)
        for t, value in zip(ts, found, strict=True):
            params = digits.other if t == 1 else lerp(digits.a, digits.other, t)
            if statistics == "re-estimated":
                params = re_estimated(calibrator(digits.model), params, digits.train.calibration)
            score = evaluate(digits.model, params, digits.train)
            assert value == pytest.approx(score.loss if energy == "loss" else score.error, rel=1e-6)


@pytest.mark.parametrize(("energy", "loss"), [("squared error", F.mse_loss), ("absolute error", F.l1_loss)])
def test_energies_of_regressions(energy: str, loss: object) -> None:
    samples = parabola(5001)  # more than one batch
    model = sigmoid_net(0)
    a, b = parameters(model), parameters(sigmoid_net(1))
    landscape = NetworkLandscape(model, FULL, samples, energy=energy)
    for t, value in zip((0, 0.25, 1), landscape.energies(a, b, (0, 0.25, 1)), strict=True):
        output = call(model, lerp(a, b, t), samples.x)
        assert value == pytest.approx(float(loss(output.double(), samples.y.double())), rel=1e-9)


def test_regressions_with_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    samples = parabola()
    a, b = parameters(model), {k: v + 0.1 if v.is_floating_point() else v for k, v in parameters(model).items()}
    found = {}
    for statistics in ("re-estimated", "interpolated"):
        landscape = NetworkLandscape(
            model, FULL, samples, energy="squared error", statistics=statistics, calibration=samples.x,
            lowering=Lowering(batch=None, learning_rate=0.02, check=10),
        )  # fmt: skip
        (found[statistics],) = landscape.energies(a, b, (0.5,))
        lowered = landscape.lower(a, 1e-3, seed=0)
        assert lowered.reached
        assert landscape.energies(lowered.params, b, (0.0,)) == pytest.approx([lowered.energy], rel=1e-6)
    settled = re_estimated(calibrator(model), lerp(a, b, 0.5), samples.x)
    output = call(model.eval(), settled, samples.x)
    assert found["re-estimated"] == pytest.approx(float(F.mse_loss(output.double(), samples.y.double())), rel=1e-6)
    assert found["interpolated"] != pytest.approx(found["re-estimated"])


def test_a_faster_evaluation_gives_the_same_energies() -> None:
    digits = digits_pair("binary")
    ts = (0.0, 0.3, 0.5, 1.0)
    plain, fast = (
        NetworkLandscape(digits.model, digits.recipe, digits.train, energy="loss", evaluation=evaluation)
        for evaluation in (None, binarynets.FAMILY.evaluation)
    )
    assert plain.energies(digits.a, digits.other, ts) == fast.energies(digits.a, digits.other, ts)
    assert plain.described() == fast.described()


@pytest.mark.parametrize("precision", ["binary", "full"])
def test_energies_are_those_of_settled_networks(precision: str) -> None:
    digits = digits_pair(precision)
    landscape = NetworkLandscape(digits.model, digits.recipe, digits.train, energy="error")
    string = sample_string(landscape, digits.a, digits.other, 0.5, settings=StringSettings(points=3, finer=1))
    for bead in string.beads:
        assert evaluate(digits.model, landscape.settled(bead.params), digits.train).error == bead.energy
    middle = landscape.settled(lerp(digits.a, digits.other, 0.5))
    score = evaluate(digits.model, middle, digits.train)
    assert (score.error,) == landscape.energies(digits.a, digits.other, (0.5,))
    with pytest.raises(ParameterError):
        landscape.settled({"w": torch.zeros(1)})
    plain = parameters(sigmoid_net(0))
    assert regression(sigmoid_net(0), parabola()).settled(plain) is plain


def test_energies_can_be_counted_on_other_samples() -> None:
    digits = digits_pair("full")
    few = digits.train.subset(100)
    landscape = NetworkLandscape(digits.model, digits.recipe, digits.train, measured=few, energy="error")
    params = re_estimated(calibrator(digits.model), digits.a, few.calibration)
    assert landscape.energies(digits.a, digits.a, (0.0,)) == (evaluate(digits.model, params, few).error,)


# Training of beads.


def test_a_bead_is_trained_as_a_literal_loop_does() -> None:
    model, samples = sigmoid_net(0), parabola()
    landscape = regression(model, samples, steps=400)
    start = parameters(sigmoid_net(1))
    target = 0.3 * landscape.energies(start, start, (0.0,))[0]
    found = landscape.lower(start, target, seed=0)
    working = copy.deepcopy(model)
    working.load_state_dict(start)
    adam = torch.optim.Adam(working.parameters(), lr=0.02)
    steps = 0
    while float(loss := F.mse_loss(working(samples.x), samples.y).detach().requires_grad_(False)) > target:
        adam.zero_grad()
        F.mse_loss(working(samples.x), samples.y).backward()
        adam.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * steps / 400))
        adam.step()
        steps += 1
    assert float(loss) <= target
    assert (found.reached, found.steps) == (True, steps)
    assert digest(found.params) == digest(parameters(working))
    assert found.energy <= target
    assert landscape.energies(found.params, start, (0.0,)) == (found.energy,)


def test_batches_are_drawn_from_the_seed_and_the_best_network_measured_is_kept() -> None:
    model, samples = sigmoid_net(0), parabola()
    start = parameters(model)
    landscape = regression(model, samples, batch=16, steps=9, check=1, learning_rate=2.0)
    found = landscape.lower(start, 0.0, seed=7)
    assert (found.reached, found.steps, found.evaluations) == (False, 9, 1 + 9)
    working = copy.deepcopy(model)
    adam = torch.optim.Adam(working.parameters(), lr=2.0)
    measured, step = [], 0
    for number in itertools.count():
        order = torch.randperm(65, generator=torch.Generator().manual_seed(derived(7, number)))
        for part in order.split(16):
            if len(part) == 1:
                continue
            if step > 0:
                loss = float(F.mse_loss(working(samples.x).double(), samples.y.double()).detach())
                measured.append((loss, digest(parameters(working))))
            if step == 9:
                break
            adam.zero_grad()
            F.mse_loss(working(samples.x[part]), samples.y[part]).backward()
            adam.param_groups[0]["lr"] = 2.0 * 0.5 * (1 + math.cos(math.pi * step / 9))
            adam.step()
            step += 1
        if step == 9:
            break
    assert min(measured) != measured[-1]
    assert (found.energy, digest(found.params)) == (pytest.approx(min(measured)[0]), min(measured)[1])
    assert digest(landscape.lower(start, 0.0, seed=7).params) == digest(found.params)
    assert digest(landscape.lower(start, 0.0, seed=8).params) != digest(found.params)


def test_a_last_part_of_one_sample_is_no_step_of_a_pass() -> None:
    start = parameters(sigmoid_net(0))
    for samples, batch, every in ((65, 16, 4), (64, 16, 4), (66, 16, 5), (65, None, 1), (65, 100, 1)):
        points, steps = parabola(samples), every + 1
        landscape = regression(sigmoid_net(0), points, measured=parabola(9), batch=batch, steps=steps)
        # Above the target at the start, after a pass and after the last step.
        assert landscape.lower(start, 0.0, seed=0).evaluations == 3


def test_a_network_below_its_target_is_left_as_it_is() -> None:
    for precision in ("binary", "full"):
        digits = digits_pair(precision)
        landscape = NetworkLandscape(digits.model, digits.recipe, digits.train)
        found = landscape.lower(digits.a, 10.0, seed=0)
        assert (found.reached, found.steps, found.evaluations) == (True, 0, 1)
        assert digest(found.params) == digest(digits.a)
        assert all(found.params[name] is not tensor for name, tensor in digits.a.items())


@pytest.mark.parametrize("precision", ["binary", "full"])
def test_beads_of_classifiers_have_the_energy_that_is_said(precision: str) -> None:
    digits = digits_pair(precision)
    before = digest(digits.a), digest(parameters(digits.model))
    start = lerp(digits.a, digits.other, 0.5)
    for energy, target in (("loss", 0.4), ("error", 0.06)):
        landscape = NetworkLandscape(
            digits.model, digits.recipe, digits.train, energy=energy, lowering=Lowering(batch=50, steps=600)
        )
        found = landscape.lower(start, target, seed=1)
        assert found.reached
        assert found.steps % 29 == 0  # one measurement in each pass over 1438 samples
        assert found.steps > 0
        assert landscape.energies(found.params, digits.a, (0.0,)) == pytest.approx([found.energy], rel=1e-6)
        assert digest(landscape.lower(start, target, seed=1).params) == digest(found.params)
        settled = re_estimated(calibrator(digits.model), found.params, digits.train.calibration)
        assert digest(settled) == digest(found.params)
    assert (digest(digits.a), digest(parameters(digits.model))) == before


def test_latents_are_clipped_and_energies_those_of_the_binarised_network() -> None:
    digits = digits_pair("binary")
    landscape = NetworkLandscape(
        digits.model, digits.recipe, digits.train, energy="error", lowering=Lowering(steps=100, learning_rate=0.3)
    )
    found = landscape.lower(lerp(digits.a, digits.other, 0.5), 0.0, seed=0)
    latents = digits.recipe.latents(digits.model)
    assert all(float(found.params[name].abs().max()) <= 1 for name in latents)
    assert any(float(found.params[name].abs().max()) == 1 for name in latents)
    signs = {name: torch.sign(t) * 0.25 if name in latents else t for name, t in found.params.items()}
    assert landscape.energies(signs, signs, (0.0,)) == landscape.energies(found.params, signs, (0.0,))


def test_gradients_are_those_of_the_training_loss() -> None:
    model, samples = sigmoid_net(0), parabola()
    landscape = regression(model, samples)
    point = parameters(sigmoid_net(1))
    found = landscape.gradient(point, seed=0)
    assert tuple(found) == tuple(landscape.names) == tuple(dict(model.named_parameters()))
    (name, step) = ("2.weight", 1e-3)
    for place in ((0, 0), (3, 1)):
        energies = []
        for sign in (1, -1):
            moved = {k: v.double().clone() for k, v in point.items()}
            moved[name][place] += sign * step
            output = call(model.double(), moved, samples.x.double())
            energies.append(float(F.mse_loss(output, samples.y.double()).detach()))
        assert float(found[name][place]) == pytest.approx((energies[0] - energies[1]) / (2 * step), rel=1e-3)
    digits = digits_pair("binary")
    straight_through = NetworkLandscape(digits.model, digits.recipe, digits.train, lowering=Lowering(batch=50))
    first, again, other = (straight_through.gradient(digits.a, seed=seed) for seed in (0, 0, 1))
    assert digest(first) == digest(again) != digest(other)
    assert all(float(tensor.abs().max()) > 0 for tensor in first.values())


def test_training_that_diverges_is_told() -> None:
    samples = parabola()
    samples.y[3] = math.nan
    with pytest.raises(TrainingError, match=r"stopped in step 1: the loss became nan.*learning rate \(now 0\.02\)"):
        regression(sigmoid_net(0), samples).lower(parameters(sigmoid_net(0)), 1e-3, seed=0)
    linear = nn.Linear(1, 1)
    landscape = regression(linear, parabola(), steps=1, learning_rate=1e30)
    with pytest.raises(TrainingError, match="stopped in step 2: the loss became inf"):
        landscape.lower(parameters(linear), 0.0, seed=0)


def test_the_start_is_copied_where_no_energy_is_a_number() -> None:
    unknown = parabola(9)
    unknown.y[0] = math.nan
    landscape = regression(sigmoid_net(0), parabola(), measured=unknown, steps=2)
    start = parameters(sigmoid_net(1))
    found = landscape.lower(start, 1e-3, seed=0)
    assert (found.energy, found.reached, found.steps) == (math.inf, False, 2)
    assert digest(found.params) == digest(start)
    assert all(found.params[name] is not tensor for name, tensor in start.items())


def test_what_is_not_used_has_no_slope() -> None:
    model = sigmoid_net(0)
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    found = regression(model, parabola()).gradient(parameters(model), seed=0)
    assert torch.equal(found["spare"], torch.zeros(2))
    assert float(found["0.weight"].abs().max()) > 0


def test_frozen_latents_stay() -> None:
    digits = digits_pair("binary")
    model = copy.deepcopy(digits.model)
    (first, *_) = digits.recipe.latents(model)
    model.get_parameter(first).requires_grad_(False)
    landscape = NetworkLandscape(model, digits.recipe, digits.train, lowering=Lowering(steps=3, learning_rate=0.1))
    start = {**digits.a, first: 3 * torch.sign(digits.a[first])}
    found = landscape.lower(start, 0.0, seed=0)
    assert found.steps == 3
    assert torch.equal(found.params[first], start[first])


def test_dropout_is_drawn_from_the_seed() -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    landscape = regression(model, parabola(), steps=5)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    first = landscape.lower(parameters(model), 0.0, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert digest(landscape.lower(parameters(model), 0.0, seed=0).params) == digest(first.params)
    assert digest(landscape.lower(parameters(model), 0.0, seed=1).params) != digest(first.params)
    assert first.evaluations == 1 + 5  # with dropout the loss of a step is no energy


def test_brevitas_models_make_landscapes_for_one_process() -> None:
    quantised = pytest.importorskip("brevitas.nn")
    from brevitas.quant import SignedTernaryWeightPerTensorConst

    from binarynets.brevitas import TERNARY

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            *(quantised.QuantLinear(64, 12, bias=False, weight_quant=SignedTernaryWeightPerTensorConst), nn.ReLU()),
            quantised.QuantLinear(12, 10, bias=False, weight_quant=SignedTernaryWeightPerTensorConst),
            nn.BatchNorm1d(10),
        ).eval()

    model, data = made(0), load_data("digits").train
    a, b = parameters(model), parameters(made(1))
    before = digest(a)
    landscape = NetworkLandscape(
        model, TERNARY.recipe, data, energy="error", lowering=Lowering(batch=50, steps=300, learning_rate=5e-3)
    )
    for t, energy in zip((0.0, 0.5), landscape.energies(a, b, (0.0, 0.5)), strict=True):
        assert energy == evaluate(model, landscape.settled(lerp(a, b, t)), data).error
    found = landscape.lower(a, 0.3, seed=0)
    assert found.reached
    assert found.steps > 0
    assert landscape.energies(found.params, b, (0.0,)) == (found.energy,)
    slope = landscape.gradient(a, seed=0)
    assert set(slope) == set(landscape.names)
    assert float(slope["1.weight"].abs().max()) > 0
    assert digest(a) == before
    with pytest.raises(StringError, match="this landscape cannot be sent to other processes: use jobs=1"):
        sample_string(landscape, a, b, 0.5, jobs=2)


# Refusals.


def test_what_makes_no_landscape_is_refused() -> None:
    model, samples = sigmoid_net(0), parabola()
    digits = load_data("digits").train
    with pytest.raises(
        StringError, match="energy: expected one of loss, error, squared error, absolute error, got 'r'"
    ):
        NetworkLandscape(model, FULL, samples, energy="r")
    with pytest.raises(StringError, match=r"energy 'loss': expected class indices .* got torch.float32 for 65"):
        NetworkLandscape(model, FULL, samples)
    with pytest.raises(StringError, match=r"energy 'squared error': expected targets of real numbers .* torch.int64"):
        NetworkLandscape(model, FULL, digits, energy="squared error")
    with pytest.raises(StringError, match=r"at least 2 samples, got torch.float32 for 1"):
        NetworkLandscape(model, FULL, Points(samples.x[:1], samples.y[:1]), energy="squared error")
    frozen = copy.deepcopy(model).requires_grad_(False)
    with pytest.raises(StringError, match="Sequential has no parameter that can be trained"):
        NetworkLandscape(frozen, FULL, samples, energy="squared error")
    flat = regression(model, Points(samples.x, samples.y[:, 0]))
    with pytest.raises(StringError, match=re.escape("shape of the outputs, [65, 1], got [65]: reshape them")):
        flat.energies(parameters(model), parameters(model), (0.0,))
    for used in (
        lambda apart: apart.lower(parameters(model), 1e-9, seed=0),
        lambda apart: apart.gradient(parameters(model), seed=0),
    ):
        with pytest.raises(StringError, match="reshape them"):
            used(regression(model, Points(samples.x, samples.y[:, 0]), measured=samples))
    with pytest.raises(StringError, match="statistics: expected one of interpolated, re-estimated, got 'none'"):
        NetworkLandscape(model, FULL, samples, energy="squared error", statistics="none")
    normalised = binarynets.mlp(64, [8], 10)
    bare = SimpleNamespace(x=digits.x.flatten(1), y=digits.y)
    with pytest.raises(StatisticsError, match="pass calibration="):
        NetworkLandscape(normalised, binarynets.FAMILY.recipe, bare)


def test_parameters_that_do_not_fit_are_refused() -> None:
    model = sigmoid_net(0)
    landscape, good = regression(model, parabola()), parameters(model)
    for bad in ({**good, "0.weight": torch.ones(3, 1)}, {"0.weight": good["0.weight"]}):
        with pytest.raises(ParameterError):
            landscape.energies(good, bad, (0.5,))
        with pytest.raises(ParameterError):
            landscape.lower(bad, 0.1, seed=0)


def test_the_identity_tells_landscapes_apart() -> None:
    model, samples = sigmoid_net(0), parabola()
    same = [regression(model, samples).described(), regression(sigmoid_net(5), parabola()).described()]
    assert same[0] == same[1]
    frozen = copy.deepcopy(model)
    frozen[0].weight.requires_grad_(False)
    others = [
        regression(frozen, samples),
        regression(nn.Sequential(nn.Linear(1, 1)), samples),
        regression(model, parabola(33)),
        regression(model, samples, steps=3),
        NetworkLandscape(model, FULL, samples, energy="absolute error", lowering=Lowering(batch=None)),
        NetworkLandscape(model, binarynets.FAMILY.recipe, samples, energy="squared error"),
        NetworkLandscape(model, FULL, samples, measured=parabola(9), energy="squared error"),
    ]
    assert all(other.described() != same[0] for other in others)
