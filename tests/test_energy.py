"""Local energy against the literal loop, and against what it must be where that is known in closed form."""

import dataclasses
import math
import statistics
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from zoo import FAMILIES, difference, pixels, randomised, small_networks

from compare.errors import CompareError
from compare.evaluation import local_energy
from compare.params import call, parameters
from compare.seeds import derived
from compare.symmetry import random_element, standard_form, trace

SIGMAS = (0.2, 0.7, 1.5)


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


def _labelled(model: nn.Module, params: dict[str, Tensor], samples: int = 60) -> Split:
    """Samples that the network itself labels, one in five of them wrongly."""
    x = pixels(samples)
    y = call(model, params, x).argmax(1)
    y[::5] = (y[::5] + 1) % 5
    return Split(x, y)


def _weights(params: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in params.items() if tensor.ndim > 1]


def _literal(model, params, split, sigmas, names, draws, seed):
    """The definition, one network, one sample and one draw at a time."""

    def error(candidate):
        guesses = [int(call(model, candidate, x[None]).argmax()) for x in split.x]
        return sum(guess != int(y) for guess, y in zip(guesses, split.y, strict=True)) / len(guesses)

    generator = torch.Generator().manual_seed(derived(seed, "local energy"))
    zs = [{name: torch.randn(params[name].shape, generator=generator) for name in sorted(names)} for _ in range(draws)]
    found = {}
    for sigma in sigmas:
        rises = []
        for z in zs:
            moved = {name: params[name] + sigma * z[name] * params[name] for name in names}
            rises.append(error({**params, **moved}) - error(params))
        found[sigma] = (statistics.fmean(rises), statistics.stdev(rises) / math.sqrt(draws))
    return found


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("network", ["mlp", "vgg"])
def test_local_energy_is_the_literal_loop(precision, network) -> None:
    model = small_networks(precision)[network]
    params = randomised(model)
    split, names = _labelled(model, params), _weights(params)
    found = local_energy(model, params, split, SIGMAS, names=reversed(names), draws=4, seed=7)
    expected = _literal(model, params, split, SIGMAS, names, 4, 7)
    assert (found.sigmas, found.error, found.draws, found.samples) == (SIGMAS, 12 / 60, 4, 60)
    assert found.rises == pytest.approx([expected[sigma][0] for sigma in SIGMAS], abs=1e-12)
    assert found.standard_errors == pytest.approx([expected[sigma][1] for sigma in SIGMAS], abs=1e-12)
    assert any(found.rises)


def _cdf(x: float) -> float:
    return statistics.NormalDist().cdf(x)


def test_one_linear_layer_errs_as_often_as_a_normal_number_is_negative() -> None:
    """Two classes: the margin is normal, its mean the sum of all w x, its deviation sigma sqrt(sum of (w x)^2)."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(2, 6, generator=generator), torch.randn(5, 6, generator=generator)
    model, params = nn.Linear(6, 2, bias=False).eval(), {"weight": weight}
    y = (x @ weight.T).argmax(1)
    sigmas, draws = (0.3, 1.0, 3.0), 4000
    found = local_energy(model, params, Split(x, y), sigmas, names=["weight"], draws=draws)
    assert found.error == 0
    for sigma, rise, error in zip(sigmas, found.rises, found.standard_errors, strict=True):
        products = weight[None] * x[:, None]
        margin = (products.sum(2).gather(1, y[:, None]) * 2).squeeze(1) - products.sum((1, 2))
        deviations = sigma * products.square().sum((1, 2)).sqrt()
        expected = statistics.fmean(_cdf(-float(m / d)) for m, d in zip(margin, deviations, strict=True))
        assert 0.01 < expected < 0.6
        assert abs(rise - expected) < 4 * error
        assert error < 0.01


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_mean_and_standard_error_on_one_sample_are_those_of_a_coin(sigma) -> None:
    """Of one sample the error is 0 or 1; it is 1 as often as one normal number is negative."""
    generator = torch.Generator().manual_seed(2)
    weight, x = torch.randn(2, 8, generator=generator), torch.randn(1, 8, generator=generator)
    sums = (x @ weight.T)[0]
    margin, products = float((sums[0] - sums[1]).abs()), weight * x
    chance = _cdf(-margin / (sigma * float(products.square().sum().sqrt())))
    split, draws = Split(x, sums.argmax()[None]), 4000
    found = local_energy(nn.Linear(8, 2, bias=False), {"weight": weight}, split, [sigma], names=["weight"], draws=draws)
    expected = math.sqrt(chance * (1 - chance) / draws)
    assert 0.01 < chance < 0.5
    assert abs(found.rises[0] - chance) < 4 * expected
    assert found.standard_errors[0] == pytest.approx(expected, rel=0.15)


def test_bits_flip_as_often_as_the_docstring_says() -> None:
    """One weight between one input and two classes: it is misclassified exactly when its bit has flipped."""

    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            out = x * torch.where(self.weight < 0, -1.0, 1.0)
            return torch.cat([out, -out], 1)

    samples, draws = Split(torch.ones(1, 1), torch.zeros(1, dtype=torch.long)), 4000
    sigmas = (0.5, 1.0, 2.0)
    found = local_energy(Signs(), {"weight": torch.full((1, 1), 3e-7)}, samples, sigmas, names=["weight"], draws=draws)
    for sigma, stated, rise, error in zip(
        sigmas, (0.023, 0.159, 0.309), found.rises, found.standard_errors, strict=True
    ):
        assert stated == pytest.approx(_cdf(-1 / sigma), abs=5e-4)
        assert abs(rise - _cdf(-1 / sigma)) < 4 * error


@pytest.mark.parametrize("precision", FAMILIES)
def test_the_noise_does_not_see_scales_that_the_function_does_not_depend_on(precision) -> None:
    """The same draws hit the network and its standard form in the same way, since noise is multiplied."""
    module, family = FAMILIES[precision]
    torch.manual_seed(0)
    model = module.mlp(64, [12, 9], 5).eval()
    params, names = randomised(model), ["linear1.weight", "linear2.weight", "linear3.weight"]
    graph = trace(model, pixels(16), family)
    assert names == [layer.weight for layer in graph.layers]
    split = _labelled(model, params, 200)
    plain, form = (
        local_energy(model, one, split, SIGMAS, names=names)
        for one in (params, standard_form(graph, params, invariant="loss"))
    )
    # Negated units see other bits of the same noise: equal up to what the draws leave open.
    for one, other, *errors in zip(plain.rises, form.rises, plain.standard_errors, form.standard_errors, strict=True):
        assert abs(one - other) <= 4 * math.hypot(*errors)
    if precision == "full":
        assert plain.rises == pytest.approx(form.rises, abs=1 / 200)


def test_noise_is_independent_of_weights_drawn_with_the_same_seed() -> None:
    """Numbers that one generator gives in one state correlate (by -0.35), and would shift every unit the same way."""
    torch.manual_seed(0)
    layer = nn.Linear(784, 512, bias=False)
    seen: list[float] = []
    layer.register_forward_hook(lambda *found: seen.append(float(found[2].detach().mean())))
    split = Split(torch.ones(1, 784), torch.zeros(1, dtype=torch.long))
    local_energy(layer, parameters(layer), split, [1.0], names=["weight"], draws=3, seed=0)
    own, *others = seen
    deviation = float(layer.weight.detach().norm()) / 512
    assert all(abs(mean - own) < 4 * deviation for mean in others)


def test_symmetric_copies_have_the_same_energy_up_to_the_draws() -> None:
    model = small_networks("binary")["mlp"]
    params = randomised(model)
    graph = trace(model, pixels(16), FAMILIES["binary"][1])
    copied = random_element(graph, torch.Generator().manual_seed(1)).apply(params)
    split, names = _labelled(model, params, 200), _weights(params)
    first, other = (local_energy(model, one, split, SIGMAS, names=names, draws=50) for one in (params, copied))
    for one, two, *errors in zip(first.rises, other.rises, first.standard_errors, other.standard_errors, strict=True):
        assert abs(one - two) <= 4 * math.hypot(*errors)


def test_the_seed_alone_decides_and_all_sigmas_see_the_same_noise() -> None:
    model = small_networks("full")["mlp"]
    params = randomised(model)
    split, names = _labelled(model, params), _weights(params)
    torch.manual_seed(1)
    first = local_energy(model, params, split, SIGMAS, names=names, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert local_energy(model, params, split, SIGMAS, names=names, seed=3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert local_energy(model, params, split, SIGMAS, names=names, seed=4).rises != first.rises
    for index, sigma in enumerate(SIGMAS):
        alone = local_energy(model, params, split, [sigma], names=names, seed=3)
        assert alone.rises == first.rises[index : index + 1]


def test_only_the_named_tensors_are_moved_and_no_argument_is_changed() -> None:
    model = small_networks("full")["mlp"].train()
    params = randomised(model)
    before, own = {name: tensor.clone() for name, tensor in params.items()}, parameters(model)
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(parameters(module)))
    split = _labelled(model.eval(), params)
    seen.clear()
    local_energy(model.train(), params, split, [0.5], names=["linear2.weight"], draws=3)
    assert model.training
    assert difference(params, before) == difference(parameters(model), own) == 0
    assert len(seen) == 4
    for candidate in seen:
        moved = {name for name in params if not torch.equal(candidate[name], params[name])}
        assert moved == (set() if candidate is seen[0] else {"linear2.weight"})


def test_the_result_is_frozen() -> None:
    model = nn.Linear(2, 2).eval()
    split = Split(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    found = local_energy(model, parameters(model), split, [1], names=["weight"], draws=2)
    assert found.sigmas == (1.0,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.error = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": []}, "sigmas: expected at least one, all positive and finite, got none"),
        ({"sigmas": [0.0, 1.0]}, "sigmas: .* positive and finite, got 0, 1"),
        ({"sigmas": [float("nan")]}, "sigmas: .* got nan"),
        ({"sigmas": [float("inf")]}, "sigmas: .* got inf"),
        ({"sigmas": [1.0, 0.5]}, "sigmas: expected increasing numbers, got 1, 0.5"),
        ({"sigmas": [1.0, 1.0]}, "sigmas: expected increasing numbers, got 1, 1"),
        ({"draws": 1}, "draws: expected at least 2, for a standard error, got 1"),
        ({"names": []}, "names: expected at least one tensor"),
        ({"names": ["linear9.weight"]}, "names: expected names of params, got 'linear9.weight'"),
        ({"names": ["norm1.num_batches_tracked"]}, "real numbers, got 'norm1.num_batches_tracked' of type torch.int64"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message) -> None:
    model = small_networks("full")["mlp"]
    params = parameters(model)
    options = {"sigmas": [1.0], "names": ["linear1.weight"], **change}
    with pytest.raises(ValueError, match=message) as caught:
        local_energy(model, params, _labelled(model, params), options.pop("sigmas"), **options)
    assert isinstance(caught.value, CompareError)
