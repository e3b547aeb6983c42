"""The worst network in a ball against closed forms, brute force, and what it must be where nothing can change."""

import dataclasses
import itertools
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import binarynets
import fullprecision
from compare.errors import CompareError
from compare.evaluation import SharpnessError, evaluate, flip_sharpness, sharpness
from compare.params import call, parameters, sign
from compare.symmetry import random_element, trace


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


def _labelled(model: nn.Module, params: dict[str, Tensor], samples: int = 60) -> Split:
    x = pixels(samples).to(next(model.parameters()).dtype)
    return Split(x, call(model, params, x).argmax(1))


def _names(params: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in params.items() if tensor.ndim > 1]


def _double(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in params.items()}


def _in_double(precision: str, network: str) -> tuple[nn.Module, dict[str, Tensor]]:
    model = small_networks(precision)[network]
    return model.double(), _double(randomised(model))


class _Formula(nn.Module):
    """Two classes, whose margin is a function of the weights alone."""

    def __init__(self, weight: list[float], margin) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        margin = self.margin(self.weight).expand(len(x))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


ONE = Split(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(("steps", "restarts"), [(1, 0), (2, 0), (10, 1), (30, 3)])
@pytest.mark.parametrize("radius", [0.01, 0.2, 1.5])
def test_a_linear_margin_falls_by_the_radius_times_the_norm_of_its_slope(steps, restarts, radius) -> None:
    """The margin is the sum of c (1 + z), which over a ball of norm r is least at -r c / |c|."""
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 6), (1, 6)))
    model = nn.Linear(6, 2, bias=False).double()
    y = (x @ weight.T).argmax(1)
    found = sharpness(
        model, {"weight": weight}, Split(x, y), radius, names=["weight"], surrogate=False, steps=steps,
        restarts=restarts
    )  # fmt: skip
    own = float((x @ weight.T)[0, y[0]] - (x @ weight.T)[0, 1 - y[0]])
    least = own - radius * math.sqrt(12) * float((weight * x).norm())
    assert found.loss == pytest.approx(math.log1p(math.exp(-own)))
    assert found.worst_loss == pytest.approx(math.log1p(math.exp(-least)), rel=1e-6)
    assert (found.error, found.worst_error) == (0, float(least < 0))
    assert found.distance == pytest.approx(radius, rel=1e-9)


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_those_of_sam_in_fractions_of_the_weights(precision, steps) -> None:
    """The literal ascent, on one vector of all z: one step is SAM's own, several are put back onto the sphere."""
    model, params = _in_double(precision, "mlp")
    split, names = _labelled(model, params), sorted(_names(params))
    sizes = [params[name].numel() for name in names]

    def at(z: Tensor) -> dict[str, Tensor]:
        pieces = zip(names, torch.split(z, sizes), strict=True)
        return {**params, **{name: params[name] * (1 + piece.view_as(params[name])) for name, piece in pieces}}

    reach = 0.3 * math.sqrt(sum(sizes))
    z, scores = torch.zeros(sum(sizes), dtype=torch.float64), [evaluate(model, params, split)]
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(call(model, at(z), split.x), split.y), z)
        z = z.detach() + slope / slope.norm() * reach * (1 if steps == 1 else 2.5 / steps)
        z = z * min(1, reach / float(z.norm()))
        scores.append(evaluate(model, at(z), split))
    expected = max(scores, key=lambda score: score.loss)
    found = sharpness(
        model, params, split, 0.3, names=names, surrogate=precision == "binary", steps=steps, restarts=0, batch=17
    )
    assert found.loss < found.worst_loss == pytest.approx(expected.loss, rel=1e-9)
    assert found.worst_error == expected.error > found.error == 0
    assert found.distance == pytest.approx(0.3)
    assert found.surrogate == (precision == "binary")


@pytest.mark.parametrize("radius", [0.3, 0.6, 1.0])
def test_several_steps_find_the_worst_of_a_grid(radius) -> None:
    def margin(w: Tensor) -> Tensor:
        return 3 + torch.sin(4 * w[..., 0]) * w[..., 1] - w[..., 0] * w[..., 1] ** 2 / 2

    model = _Formula([0.7, -0.6], margin).eval()
    params = parameters(model)
    found = sharpness(model, params, ONE, radius, names=["weight"], surrogate=False, steps=60, restarts=3)
    angles, norms = torch.linspace(0, 2 * math.pi, 721), torch.linspace(0, radius * math.sqrt(2), 201)
    z = torch.stack([torch.cos(angles)[:, None] * norms, torch.sin(angles)[:, None] * norms], -1).view(-1, 2).double()
    worst = float(F.softplus(-margin(params["weight"] * (1 + z))).max())
    assert found.worst_loss == pytest.approx(worst, rel=2e-3)
    assert found.distance <= radius * (1 + 1e-9)


def test_nothing_worse_is_the_network_itself() -> None:
    """The loss is largest at the centre: steps and random starts only lower it."""
    model = _Formula([1.0, -2.0], lambda w: (w - torch.tensor([1.0, -2.0]).double()).square().sum()).eval()
    found = sharpness(model, parameters(model), ONE, 0.5, names=["weight"], surrogate=False, restarts=3)
    assert found.worst_loss == found.loss == pytest.approx(math.log(2))
    assert (found.worst_error, found.distance) == (found.error, 0)


def test_a_search_misled_by_rounding_gives_the_network_itself(monkeypatch) -> None:
    model = _Formula([1.0], lambda w: w.sum()).eval()
    better = {"weight": torch.tensor([0.5], dtype=torch.float64)}
    monkeypatch.setattr(sys.modules[sharpness.__module__], "_ascent", lambda *_: [(9.0, better)])
    found = sharpness(model, parameters(model), ONE, 0.5, names=["weight"], surrogate=False)
    assert (found.worst_loss, found.worst_error, found.distance) == (found.loss, 0, 0)


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("network", ["mlp", "vgg"])
def test_the_loss_is_never_below_the_own_and_the_point_never_outside(precision, network) -> None:
    model = small_networks(precision)[network]
    params = randomised(model)
    split = _labelled(model, params)
    for radius in (1e-6, 0.01, 0.1, 1.0):
        found = sharpness(
            model, params, split, radius, names=_names(params), surrogate=precision == "binary", steps=3, restarts=1
        )
        assert found.worst_loss >= found.loss
        assert found.distance <= radius * (1 + 1e-6)
        assert (found.radius, found.steps, found.restarts, found.samples) == (radius, 3, 1, 60)


@pytest.mark.parametrize("network", ["mlp", "no normalisation"])
def test_the_ball_does_not_see_scales_that_the_function_does_not_depend_on(network) -> None:
    model, params = _in_double("full", network)
    graph = trace(model, pixels(16).double(), fullprecision.FAMILY)
    copied = random_element(graph, torch.Generator().manual_seed(1)).apply(params)
    split, names = _labelled(model, params), [layer.weight for layer in graph.layers]
    one, other = (sharpness(model, p, split, 0.05, names=names, surrogate=False, restarts=0) for p in (params, copied))
    assert one.worst_loss == pytest.approx(other.worst_loss, rel=1e-6)
    assert one.worst_loss > 1.2 * one.loss
    assert one.worst_error == other.worst_error


def test_a_ball_that_reaches_no_latent_of_the_other_sign_holds_one_network() -> None:
    """No |z| comes to 1 where the sum of squares stays below 1; gradients through the signs lead nowhere."""
    model = small_networks("binary")["mlp"]
    params = randomised(model)
    split, names = _labelled(model, params), _names(params)
    size = sum(params[name].numel() for name in names)
    found = sharpness(model, params, split, 0.99 / math.sqrt(size), names=names, surrogate=True)
    assert (found.worst_loss, found.worst_error, found.distance) == (found.loss, found.error, 0)


def _binary(*sizes: int) -> tuple[nn.Module, dict[str, Tensor], Split, list[str]]:
    torch.manual_seed(0)
    model = binarynets.mlp(sizes[0], list(sizes[1:-1]), sizes[-1]).eval()
    params = randomised(model)
    x = torch.randint(-8, 9, (40, sizes[0]), generator=torch.Generator().manual_seed(0)) * 2.0 + 1
    return model, params, Split(x, call(model, params, x).argmax(1)), _names(params)


def _flipped(params: dict[str, Tensor], names: list[str], places: tuple[int, ...]) -> dict[str, Tensor]:
    flat = torch.cat([params[name].flatten() for name in names])
    flat[list(places)] *= -1
    pieces = torch.split(flat, [params[name].numel() for name in names])
    return {**params, **{name: piece.view_as(params[name]) for name, piece in zip(names, pieces, strict=True)}}


def test_flips_are_those_of_the_literal_progressive_search() -> None:
    """One flip after the other, at the largest rise that the gradient by the binary weights promises."""
    model, params, split, names = _binary(6, 4, 3)
    binary = {**params, **{name: sign(params[name]) for name in names}}
    places: tuple[int, ...] = ()
    scores = [evaluate(model, params, split)]
    for _ in range(5):
        current = _flipped(binary, names, places)
        leaves = {name: current[name].clone().requires_grad_() for name in names}
        loss = F.cross_entropy(call(model, {**current, **leaves}, split.x), split.y)
        gradient = torch.autograd.grad(loss, list(leaves.values()))
        rise = [float(-2 * g * s) for name, part in zip(names, gradient, strict=True)
                for g, s in zip(part.flatten(), current[name].flatten(), strict=True)]  # fmt: skip
        places = (*places, max(set(range(len(rise))) - set(places), key=rise.__getitem__))
        scores.append(evaluate(model, _flipped(binary, names, places), split))
    found = flip_sharpness(model, params, split, 5 / 36, names=names, steps=5, batch=9)
    worst = max(scores, key=lambda score: score.loss)
    assert found.worst_loss == pytest.approx(worst.loss)
    assert found.loss == pytest.approx(scores[0].loss)
    assert found.worst_error == worst.error
    assert found.distance == pytest.approx(scores.index(worst) / 36)
    assert found.worst_error > 0
    assert (found.ball, found.surrogate, found.steps, found.restarts) == ("bits", True, 5, 0)


def test_flips_of_one_layer_and_one_sample_are_the_worst_there_are() -> None:
    model = nn.Sequential(binarynets.BinaryLinear(6, 2)).eval()
    params = randomised(model)
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5, -4.0, 2.5]])
    split = Split(x, call(model, params, x).argmax(1))
    found = flip_sharpness(model, params, split, 3 / 12, names=["0.weight"])
    every = [
        evaluate(model, _flipped(params, ["0.weight"], places), split).loss
        for count in range(4)
        for places in itertools.combinations(range(12), count)
    ]
    assert found.worst_loss == pytest.approx(max(every))
    assert found.distance == 3 / 12


@pytest.mark.parametrize("quantiser", [binarynets.ste_sign, binarynets.approx_sign, binarynets.swish_sign])
def test_flips_do_not_depend_on_the_sizes_of_latents_nor_on_the_quantiser(quantiser) -> None:
    model, params, split, names = _binary(6, 4, 3)
    expected = flip_sharpness(model, params, split, 0.2, names=names)
    for module in model.modules():
        if binarynets.is_binarised(module):
            module.quantiser = quantiser
    other = {name: tensor * tensor.abs() * 7 if name in names else tensor for name, tensor in params.items()}
    found = flip_sharpness(model, other, split, 0.2, names=names)
    assert dataclasses.replace(found, worst_loss=0) == dataclasses.replace(expected, worst_loss=0)
    assert found.worst_loss == pytest.approx(expected.worst_loss)


def test_all_bits_may_flip_and_zeros_are_positive() -> None:
    model = nn.Sequential(binarynets.BinaryLinear(3, 2)).eval()
    params = {"0.weight": torch.tensor([[0.0, 1.0, 1.0], [-1.0, -0.0, -2.0]])}
    split = Split(torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0]))
    found = flip_sharpness(model, params, split, 1.0, names=["0.weight"], steps=1)
    # Sums 3 and -1; all flipped: -3 and 1.
    assert found.loss == pytest.approx(math.log1p(math.exp(-4)))
    assert found.worst_loss == pytest.approx(math.log1p(math.exp(4)))
    assert (found.error, found.worst_error, found.distance) == (0, 1, 1)
    nothing = flip_sharpness(model, params, split, 0.05, names=["0.weight"])
    assert (nothing.worst_loss, nothing.distance) == (nothing.loss, 0)


def test_searched_flips_are_worse_than_drawn_ones() -> None:
    model, params, split, names = _binary(30, 20, 10, 5)
    found = flip_sharpness(model, params, split, 0.02, names=names)
    drawn = binarynets.flip_robustness(model, params, split.x, split.y, [0.02], draws=20).overall
    assert found.distance <= 0.02 + 1 / drawn.bits
    assert found.worst_error > drawn.draws.max()


def test_the_seed_alone_decides_and_nothing_is_changed() -> None:
    for precision in FAMILIES:
        model = small_networks(precision)["mlp"]
        params = randomised(model)
        split, names = _labelled(model, params), _names(params)
        before, own = {name: tensor.clone() for name, tensor in params.items()}, parameters(model)
        state = torch.get_rng_state()
        options = {"names": names, "surrogate": precision == "binary", "steps": 2, "restarts": 2}
        found = sharpness(model.train(), params, split, 0.1, **options)
        assert model.training
        assert found == sharpness(model.eval(), params, split, 0.1, **options)
        if precision == "binary":
            flips = flip_sharpness(model.train(), params, split, 0.1, names=names)
            assert flips == flip_sharpness(model.eval(), params, split, 0.1, names=names[::-1])
        assert difference(params, before) == difference(parameters(model), own) == 0
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.loss = 0.0  # type: ignore[misc]


def test_random_starts_depend_on_the_seed() -> None:
    def margin(w: Tensor) -> Tensor:
        return -(w - 1).square().sum() - 0.3 * (w[0] - 1) * (w[1] - 1)

    model = _Formula([1.0, 1.0], margin).eval()
    options = {"names": ["weight"], "surrogate": False, "steps": 1}
    # The gradient at the centre is exactly 0, so only random starts find anything.
    alone = sharpness(model, parameters(model), ONE, 0.5, restarts=0, **options)
    assert (alone.worst_loss, alone.distance) == (alone.loss, 0)
    found = [sharpness(model, parameters(model), ONE, 0.5, seed=seed, restarts=1, **options) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0].worst_loss != found[2].worst_loss
    assert min(one.worst_loss for one in found) > alone.loss


NO_SAMPLES = Split(torch.ones(0, 64), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.0}, "radius: expected a positive finite number, got 0"),
        ({"radius": math.inf}, "radius: .* got inf"),
        ({"radius": math.nan}, "radius: .* got nan"),
        ({"steps": 0}, "steps: expected a positive number, got 0"),
        ({"restarts": -1}, "restarts: expected 0 or more, got -1"),
        ({"names": []}, "names: expected at least one tensor"),
        ({"names": ["linear9.weight"]}, "names: expected names of params, got 'linear9.weight'"),
        ({"names": ["norm1.num_batches_tracked"]}, "real numbers, got 'norm1.num_batches_tracked'"),
        ({"samples": NO_SAMPLES}, "samples: expected at least one, got none"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message) -> None:
    model = small_networks("full")["mlp"]
    params = parameters(model)
    options = {"samples": _labelled(model, params), "radius": 0.1, "names": ["linear1.weight"], **change}
    with pytest.raises(SharpnessError, match=message) as caught:
        sharpness(model, params, options.pop("samples"), options.pop("radius"), surrogate=False, **options)
    assert isinstance(caught.value, CompareError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0.0}, "fraction: expected a number above 0, at most 1, got 0"),
        ({"fraction": 1.01}, "fraction: .* got 1.01"),
        ({"fraction": math.nan}, "fraction: .* got nan"),
        ({"steps": 0}, "steps: expected a positive number, got 0"),
        ({"names": []}, "names: expected at least one tensor"),
        ({"names": ["norm1.weight"]}, r"signs alone \(graph.binarised\); it changes with the sizes of norm1.weight"),
        ({"samples": NO_SAMPLES}, "samples: expected at least one, got none"),
    ],
)
def test_flips_that_make_no_sense_are_refused(change, message) -> None:
    model = small_networks("binary")["mlp"]
    params = randomised(model)
    options = {"samples": _labelled(model, params), "fraction": 0.1, "names": ["linear1.weight"], **change}
    with pytest.raises(SharpnessError, match=message):
        flip_sharpness(model, params, options.pop("samples"), options.pop("fraction"), **options)


def test_tensors_without_a_gradient_are_refused() -> None:
    model = _Formula([1.0, 2.0], lambda w: sign(w.detach()).sum()).eval()
    with pytest.raises(SharpnessError, match="no gradient reaches the tensors in names"):
        sharpness(model, parameters(model), ONE, 0.1, names=["weight"], surrogate=True)


def test_the_example_of_the_guide_to_flatness_runs(capsys) -> None:
    guide = (Path(__file__).parents[1] / "docs" / "flatness.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    exec(compile(program, "flatness.md", "exec"), {})
    full, binary = capsys.readouterr().out.split("binary surrogate\n")
    assert full.splitlines()[0] == "full exact"
    assert len(binary.splitlines()) == 5
    assert binary.splitlines()[-1].startswith("worst flips: error ")
