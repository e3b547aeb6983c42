"""Curvature against the dense Hessian, and against closed forms."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from zoo import FAMILIES, difference, pixels, randomised, small_networks

import binarynets
import fullprecision
from compare.errors import CompareError
from compare.evaluation import HessianError, curvature
from compare.params import parameters, sign
from compare.symmetry import random_element, standard_form, trace

# torch.func.hessian makes torch compile its own forward derivatives in the way that torch itself advises against.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


def _problem(module=fullprecision, samples: int = 40) -> tuple[nn.Module, dict[str, Tensor], Split]:
    """A network of 64 - 4 - 3 in float64 with nothing at its default, and labelled samples."""
    torch.manual_seed(0)
    model = module.mlp(64, [4], 3).double().eval()
    params = {name: t.double() if t.is_floating_point() else t for name, t in randomised(model).items()}
    y = torch.randint(0, 3, (samples,), generator=torch.Generator().manual_seed(0))
    return model, params, Split(pixels(samples).double() / 16, y)


def _names(params: dict[str, Tensor]) -> list[str]:
    return sorted(name for name, tensor in params.items() if tensor.ndim > 1)


def _dense(function, params: dict[str, Tensor], names: list[str]) -> Tensor:
    """The whole Hessian of ``function(tensors by name)``, entries of the tensors one after the other."""
    sizes = [params[name].numel() for name in names]

    def flat(vector: Tensor) -> Tensor:
        pieces = torch.split(vector, sizes)
        return function({name: piece.view_as(params[name]) for name, piece in zip(names, pieces, strict=True)})

    return torch.func.hessian(flat)(torch.cat([params[name].flatten() for name in names]))


def _dense_of_model(model, params, split, names) -> Tensor:
    return _dense(
        lambda moved: F.cross_entropy(functional_call(model, {**params, **moved}, (split.x,)), split.y), params, names
    )


@pytest.mark.parametrize("batch", [17, 2000])
def test_eigenvalues_and_trace_are_those_of_the_dense_hessian(batch) -> None:
    model, params, split = _problem()
    names = _names(params)
    dense = _dense_of_model(model, params, split, names)
    found = curvature(
        model, params, split, names=reversed(names), surrogate=False, count=3, probes=200, tolerance=1e-10, batch=batch
    )
    expected = torch.linalg.eigvalsh(dense).flip(0)
    assert found.eigenvalues == pytest.approx(expected[:3].tolist(), rel=1e-8)
    assert max(found.residuals) < 1e-8
    assert abs(found.trace - float(dense.trace())) < 4 * found.trace_error
    # The variance of a probe of signs is twice the sum of squares beside the diagonal.
    deviation = math.sqrt(2 * float((dense - dense.diag().diag()).square().sum()))
    assert found.trace_error * math.sqrt(200) == pytest.approx(deviation, rel=0.2)
    assert found.trace_error < 0.3 * float(expected[0])
    assert (found.parameters, found.samples, found.probes) == (len(dense), 40, 200)
    assert (found.coordinates, found.surrogate) == ("weights", False)


def test_single_precision_gives_the_same_within_its_tolerance() -> None:
    model, params, split = _problem()
    names = _names(params)
    exact = torch.linalg.eigvalsh(_dense_of_model(model, params, split, names))[-1]
    single = {name: t.float() if t.is_floating_point() else t for name, t in params.items()}
    rounded = Split(split.x.float(), split.y)
    found = curvature(model.float(), single, rounded, names=names, surrogate=False)
    assert found.eigenvalues[0] == pytest.approx(float(exact), rel=1e-4)
    assert found.residuals[0] < 1e-3 * found.eigenvalues[0]


def test_relative_coordinates_scale_rows_and_columns_by_the_weights() -> None:
    model, params, split = _problem()
    names = _names(params)
    weights = torch.cat([params[name].flatten() for name in names])
    dense = weights[:, None] * _dense_of_model(model, params, split, names) * weights
    found = curvature(
        model, params, split, names=names, surrogate=False, count=2, probes=200, coordinates="relative", tolerance=1e-10
    )
    expected = torch.linalg.eigvalsh(dense).flip(0)
    assert found.eigenvalues == pytest.approx(expected[:2].tolist(), rel=1e-8)
    assert abs(found.trace - float(dense.trace())) < 4 * found.trace_error
    assert found.coordinates == "relative"


def test_half_the_relative_trace_is_what_small_noise_adds_to_the_loss() -> None:
    model, params, split = _problem()
    names, sigma = _names(params), 1e-3

    def loss(signed: float, z: dict[str, Tensor]) -> float:
        moved = {name: params[name] * (1 + signed * z[name]) for name in names}
        return float(F.cross_entropy(functional_call(model, {**params, **moved}, (split.x,)), split.y))

    generator = torch.Generator().manual_seed(0)
    rises = []
    for _ in range(400):
        z = {name: torch.randn(params[name].shape, generator=generator, dtype=torch.float64) for name in names}
        rises.append((loss(sigma, z) + loss(-sigma, z)) / 2 - loss(0, z))
    found = curvature(model, params, split, names=names, surrogate=False, probes=100, coordinates="relative")
    error = math.hypot(np.std(rises, ddof=1) / math.sqrt(400), sigma**2 / 2 * found.trace_error)
    assert abs(np.mean(rises) - sigma**2 / 2 * found.trace) < 4 * error
    assert error < 0.2 * abs(np.mean(rises))


@pytest.mark.parametrize("coordinates", ["weights", "relative"])
def test_relative_coordinates_alone_do_not_see_scales_that_the_function_does_not_depend_on(coordinates) -> None:
    model, params, split = _problem()
    graph = trace(model, split.x[:8], fullprecision.FAMILY)
    copied = random_element(graph, torch.Generator().manual_seed(1)).apply(params)
    options = {"names": _names(params), "surrogate": False, "coordinates": coordinates, "tolerance": 1e-10}
    one, other = (curvature(model, p, split, **options).eigenvalues[0] for p in (params, copied))
    assert (one == pytest.approx(other, rel=1e-8)) == (coordinates == "relative")


def test_a_straight_through_gradient_gives_the_hessian_of_what_stands_in() -> None:
    """Each sign keeps its value and takes the slope of hard tanh; written out for a network of two layers."""
    model, params, split = _problem(binarynets)
    names = _names(params)

    def normalised(x: Tensor, layer: int) -> Tensor:
        mean, variance = params[f"norm{layer}.running_mean"], params[f"norm{layer}.running_var"]
        return F.batch_norm(x, mean, variance, params[f"norm{layer}.weight"], params[f"norm{layer}.bias"])

    def outputs(moved: dict[str, Tensor], step) -> Tensor:
        x = split.x.flatten(1) @ step(moved["linear1.weight"], "first").T
        x = step(normalised(x, 1), "hidden") @ step(moved["linear2.weight"], "second").T
        return normalised(x, 2)

    met = {}

    def meet(x: Tensor, place: str) -> Tensor:
        met[place] = x
        return sign(x)

    own = outputs(params, meet)
    assert torch.equal(own, functional_call(model, params, (split.x,)))
    assert 0 < int((met["hidden"].abs() <= 1).sum()) < met["hidden"].numel()

    def tangent(x: Tensor, place: str) -> Tensor:
        return sign(met[place]) + (met[place].abs() <= 1) * (x - met[place])

    dense = _dense(lambda moved: F.cross_entropy(outputs(moved, tangent), split.y), params, names)
    found = curvature(model, params, split, names=names, surrogate=True, count=2, probes=200, tolerance=1e-10)
    expected = torch.linalg.eigvalsh(dense).flip(0)
    assert found.eigenvalues == pytest.approx(expected[:2].tolist(), rel=1e-8)
    assert abs(found.trace - float(dense.trace())) < 4 * found.trace_error
    assert found.surrogate


def test_a_surrogate_is_that_of_the_function_in_standard_form_with_the_weights_that_count() -> None:
    model, params, split = _problem(binarynets)
    split = Split(2 * (8 * split.x).round(), split.y)
    graph = trace(model, split.x[:8], binarynets.FAMILY)
    copied = random_element(graph, torch.Generator().manual_seed(1)).apply(params)
    noise = torch.rand(params["linear1.weight"].shape, generator=torch.Generator().manual_seed(2)).double()
    copied |= {"linear1.weight": copied["linear1.weight"] * (0.5 + noise)}
    copied |= {name: 2 * copied[name] for name in ("norm1.weight", "norm1.bias")}
    assert torch.equal(functional_call(model, copied, (split.x,)), functional_call(model, params, (split.x,)))
    forms = [standard_form(graph, p, invariant="loss") for p in (params, copied)]
    options = {"names": _names(params), "surrogate": True, "tolerance": 1e-10}

    def largest(candidate: dict[str, Tensor], coordinates: str) -> float:
        return curvature(model, candidate, split, coordinates=coordinates, **options).eigenvalues[0]

    used = [binarynets.FAMILY.effective(model, form) for form in forms]
    one, other, relative = largest(used[0], "weights"), largest(used[1], "weights"), largest(used[1], "relative")
    assert one == pytest.approx(other, rel=1e-8) == pytest.approx(relative, rel=1e-8)
    assert one > 0
    for coordinates in ("weights", "relative"):
        plain = [largest(candidate, coordinates) for candidate in (params, copied)]
        assert plain[0] != pytest.approx(plain[1], rel=1e-2)


@pytest.mark.parametrize("precision", FAMILIES)
def test_statistics_are_those_given_and_nothing_is_changed(precision) -> None:
    model = small_networks(precision)["vgg"].train()
    params = randomised(model)
    split = Split(pixels(30), torch.arange(30) % 5)
    before, own = {name: tensor.clone() for name, tensor in params.items()}, parameters(model)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"names": _names(params), "surrogate": precision == "binary", "probes": 3, "tolerance": 1e-2}
    found = curvature(model, params, split, **options)
    assert model.training
    assert difference(params, before) == difference(parameters(model), own) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert curvature(model.eval(), params, split, **options) == found
    other = curvature(model, params, split, seed=1, **options)
    assert other.trace != found.trace
    assert other.eigenvalues == pytest.approx(found.eigenvalues, rel=0.05)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.trace = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": []}, "names: expected at least one tensor"),
        ({"names": ["linear9.weight"]}, "names: expected names of params, got 'linear9.weight'"),
        ({"names": ["norm1.num_batches_tracked"]}, "real numbers, got 'norm1.num_batches_tracked'"),
        ({"count": 0}, "count: expected 1 to 255 eigenvalues of 256 parameters, got 0"),
        ({"count": 256}, "count: expected 1 to 255 .* got 256"),
        ({"probes": 1}, "probes: expected at least 2, for a standard error, got 1"),
        ({"coordinates": "angles"}, "coordinates: expected 'weights' or 'relative', got 'angles'"),
        ({"tolerance": 0.0}, "tolerance: expected a number between 0 and 1, got 0"),
        ({"samples": Split(torch.ones(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))}, "samples: expected at least"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message) -> None:
    model, params, split = _problem()
    options = {"samples": split, "names": ["linear1.weight"], "surrogate": False, **change}
    with pytest.raises(HessianError, match=message) as caught:
        curvature(model, params, **options)
    assert isinstance(caught.value, CompareError)


class _Quantised(nn.Module):
    """A linear map whose weight passes through ``quantiser``."""

    def __init__(self, quantiser) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.quantiser = quantiser

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.quantiser(self.weight).T


@pytest.mark.parametrize(
    ("quantiser", "message"),
    [
        (lambda weight: sign(weight.detach()), "no gradient reaches the tensors in names"),
        (lambda weight: weight.sign(), "the 1 largest of 6 eigenvalues were not found .* without any curvature"),
    ],
)
def test_weights_without_a_gradient_or_curvature_are_refused(quantiser, message) -> None:
    model, split = _Quantised(quantiser), Split(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(HessianError, match=message):
        curvature(model, parameters(model), split, names=["weight"], surrogate=True)
