"""Attacks against their literal definition, the ball and the range that they keep to, refusals."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import pixels, small_networks

import compare
from compare.data import Data
from compare.data.split import Split as RealSplit
from compare.evaluation import evaluate
from compare.evaluation.attack import AttackError, InputRange, fgsm, input_range, pgd
from compare.params import Params, call, parameters


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


WITHIN = InputRange(torch.full((1, 1, 1), -16.0), torch.full((1, 1, 1), 16.0))


def _some(networks: int = 1) -> tuple[nn.Module, list[Params], Split]:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5))
    models = [nn.Sequential(*layers).eval()]
    found = []
    for seed in range(networks):
        torch.manual_seed(seed + 1)
        drawn = {name: 0.1 * torch.randn_like(tensor) for name, tensor in parameters(models[0]).items()}
        found.append(drawn)
    y = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1))
    return models[0], found, Split(pixels(40), y)


def _mean_loss(model: nn.Module, networks: list[Params], x: Tensor, y: Tensor) -> Tensor:
    return sum(F.cross_entropy(call(model, params, x), y) for params in networks) / len(networks)


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("batch", [7, 100])
def test_one_step_is_the_sign_of_the_mean_losss_gradient(networks: int, batch: int) -> None:
    model, some, samples = _some(networks)
    found = fgsm(model, some, samples, 0.05, within=WITHIN, batch=batch)
    for i in range(5):
        x = samples.x[i : i + 1].clone().requires_grad_()
        gradient = torch.autograd.grad(_mean_loss(model, some, x, samples.y[i : i + 1]), x)[0]
        moved = (x.detach() + 0.05 * 32 * gradient.sign()).clamp(-16, 16)
        assert torch.allclose(found.x[i : i + 1], moved, atol=1e-5)
    assert 0 < found.furthest <= 0.05 + 1e-6
    assert torch.equal(found.y, samples.y)


def test_several_are_attacked_together_and_not_one_of_them() -> None:
    model, some, samples = _some(3)
    together = fgsm(model, some, samples, 0.05, within=WITHIN)
    assert not any(torch.equal(together.x, fgsm(model, [one], samples, 0.05, within=WITHIN).x) for one in some)


@pytest.mark.parametrize("networks", [1, 3])
def test_the_strong_attack_keeps_to_ball_and_range_and_never_lowers_the_loss(networks: int) -> None:
    model, some, samples = _some(networks)
    found = pgd(model, some, samples, 0.08, within=WITHIN, steps=6)
    assert float((found.x - samples.x).abs().max()) <= 0.08 * 32 + 1e-4
    assert float(found.x.abs().max()) <= 16

    def losses(x: Tensor) -> Tensor:
        each = [F.cross_entropy(call(model, params, x), samples.y, reduction="none") for params in some]
        return torch.stack(each).mean(0)

    assert bool((losses(found.x) >= losses(samples.x) - 1e-6).all())
    quick = fgsm(model, some, samples, 0.08, within=WITHIN)
    assert float(losses(found.x).mean()) > float(losses(quick.x).mean()) > float(losses(samples.x).mean())


def test_each_sample_keeps_its_worst_point() -> None:
    """The literal ascent, sample by sample, from the same start."""
    model, some, samples = _some()
    few = Split(samples.x[:3], samples.y[:3])
    found = pgd(model, some, few, 0.1, within=WITHIN, steps=4, seed=5)
    from compare.seeds import derived

    generator = torch.Generator().manual_seed(derived(5, "pgd"))
    noise = 2 * torch.rand(few.x.shape, generator=generator, dtype=torch.float64).float() - 1
    for i in range(3):
        x, y = few.x[i : i + 1], few.y[i : i + 1]
        point, seen = (x + 3.2 * noise[i : i + 1]).clamp(-16, 16), [x]
        for _ in range(4):
            seen.append(point)
            leaf = point.clone().requires_grad_()
            gradient = torch.autograd.grad(_mean_loss(model, some, leaf, y), leaf)[0]
            point = (point + 2.5 / 4 * 3.2 * gradient.sign()).clamp(x - 3.2, x + 3.2).clamp(-16, 16)
        seen.append(point)
        worst = max(seen, key=lambda each: float(_mean_loss(model, some, each, y)))
        assert torch.allclose(found.x[i : i + 1], worst, atol=1e-4)


def test_attacks_raise_the_error_of_a_trained_network() -> None:
    data = compare.load_data("digits")
    torch.manual_seed(0)
    import fullprecision

    model = fullprecision.mlp(64, [16], 10).eval()
    settings = compare.TrainingSettings(epochs=3, batch=50)
    params = compare.train(model, data, fullprecision.FAMILY.recipe, settings=settings).params
    within, samples = input_range(data), data.test.subset(100)
    clean = evaluate(model, params, samples).error
    errors = [
        evaluate(model, params, attack(model, [params], samples, 0.1, within=within)).error for attack in (fgsm, pgd)
    ]
    assert all(error > clean + 0.2 for error in errors)


def test_the_straight_through_gradient_reaches_inputs_of_a_binary_network() -> None:
    model = small_networks("binary")["mlp"]
    found = fgsm(model, [parameters(model)], Split(pixels(20), torch.zeros(20, dtype=torch.long)), 0.1, within=WITHIN)
    assert found.furthest > 0


def test_the_range_is_that_of_possible_pixels() -> None:
    data = compare.load_data("digits")
    found = input_range(data)
    assert (found.low.flatten().tolist(), found.high.flatten().tolist()) == ([-16.0], [16.0])
    x = torch.tensor([[[[-255.0]], [[3.0]], [[9.0]]]])
    part = RealSplit(x, torch.zeros(1, dtype=torch.long), x)
    colour = Data("cifar10", part, part, 10, (3, 1, 1))
    found = input_range(colour)
    assert found.high.shape == (3, 1, 1)
    assert found.width.flatten().tolist() == [510.0] * 3
    narrow = InputRange(torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1), torch.tensor([1.0, 1.0, 5.0]).view(3, 1, 1))
    assert narrow.clamped(x).flatten().tolist() == [-1.0, 1.0, 5.0]
    with pytest.raises(AttackError, match="expected inputs from -16 to 16"):
        input_range(replace(colour, name="digits"))


def test_requests_that_make_no_sense_are_refused() -> None:
    model, some, samples = _some()
    with pytest.raises(AttackError, match="networks: expected one or more"):
        fgsm(model, [], samples, 0.1, within=WITHIN)
    with pytest.raises(AttackError, match="samples: expected at least one"):
        fgsm(model, some, Split(pixels(0), torch.zeros(0, dtype=torch.long)), 0.1, within=WITHIN)
    with pytest.raises(AttackError, match="radius: expected a positive"):
        fgsm(model, some, samples, 0.0, within=WITHIN)
    with pytest.raises(AttackError, match="steps: expected a positive"):
        pgd(model, some, samples, 0.1, within=WITHIN, steps=0)
    with pytest.raises(AttackError, match="batch: expected a positive number of samples, got 0"):
        fgsm(model, some, samples, 0.1, within=WITHIN, batch=0)
    for x in (samples.x * 1.01, samples.x * math.nan):
        with pytest.raises(AttackError, match=r"expected inputs in the range, here -16 to 16, got .*: give the range"):
            pgd(model, some, Split(x, samples.y), 0.1, within=WITHIN)
    assert fgsm(model, some, Split(samples.x * (1 + 1e-7), samples.y), 0.1, within=WITHIN).furthest > 0
    endless = [{name: tensor * math.inf for name, tensor in some[0].items()}]
    with pytest.raises(AttackError, match="loss: expected it and its gradient finite"):
        fgsm(model, endless, samples, 0.1, within=WITHIN)
    with pytest.raises(AttackError, match=r"model\.eval"):
        fgsm(model.train(), some, samples, 0.1, within=WITHIN)

    class Constant(nn.Module):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return torch.zeros(len(input), 5)

    with pytest.raises(AttackError, match="no gradient reaches the inputs"):
        fgsm(Constant().eval(), [{}], samples, 0.1, within=WITHIN)
