"""Robustness to random flips against a literal implementation on the model itself."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import pixels, randomised, small_networks

import binarynets
from binarynets import magnitude_aware_sign
from binarynets.integer.affine import IntegerError
from binarynets.landscape.robustness import FRACTIONS, Robustness, flip_robustness
from compare.params import ParameterError, Params, call, parameters
from compare.seeds import derived

TINY = float(torch.finfo(torch.float32).tiny)


@torch.no_grad()
def error(model: nn.Module, params: Params, x: Tensor, y: Tensor) -> float:
    """Fraction of misclassified samples."""
    return float((call(model, params, x).argmax(1) != y).double().mean())


def literal(
    model: nn.Module, params: Params, names: list[str], x: Tensor, y: Tensor, p: float, draw: int, seed: int, pool: str
) -> float:
    """Error of one draw, bit by bit."""
    places = [(name, at) for name in names for at in range(params[name].numel())]
    generator = torch.Generator().manual_seed(derived(seed, "flip robustness", pool, p, draw))
    chosen = torch.randperm(len(places), generator=generator)[: round(p * len(places))]
    changed = {name: params[name].clone() for name in names}
    for i in chosen.tolist():
        name, at = places[i]
        value = float(changed[name].view(-1)[at])
        changed[name].view(-1)[at] = -value if value else -TINY
    return error(model, {**params, **changed}, x, y)


def problem(model: nn.Module, *, seed: int = 0) -> tuple[Params, Tensor, Tensor]:
    """Random parameters with latents of 0 among them, inputs and classes."""
    params = randomised(model, seed=seed)
    for name in params:
        if name.endswith("weight") and params[name].ndim > 1:
            params[name].view(-1)[::5] = 0.0
    x = pixels(60, seed=seed)
    with torch.no_grad():
        y = call(model, params, x).argmax(1)
    y[:6] = (y[:6] + 1) % 3
    return params, x, y


def magnitudes() -> nn.Module:
    """A network with a scale in its weights, so without an integer form."""
    return binarynets.mlp(64, [10, 8], 5, weight_quantiser=magnitude_aware_sign).eval()


MODELS = {
    "mlp": (lambda: small_networks("binary")["mlp"], "integer"),
    "vgg": (lambda: small_networks("binary")["vgg"], "integer"),
    "magnitudes": (magnitudes, "float"),
    "resnet": (lambda: binarynets.resnet((1, 8, 8), [4], [1], 3).eval(), "float"),
}


@pytest.mark.parametrize("name", MODELS)
def test_draws_are_the_literal_ones(name) -> None:
    make, evaluation = MODELS[name]
    model = make()
    params, x, y = problem(model)
    fractions = (0.0, 0.01, 0.2, 1.0)
    found = flip_robustness(model, params, x, y, fractions, draws=3, seed=7)
    assert found.evaluation == evaluation
    assert (found.reason is None) == (evaluation == "integer")
    assert found.samples == 60
    assert found.error == pytest.approx(error(model, params, x, y))
    names = [name for name in params if name in found.layers]
    assert list(found.layers) == [
        name for name, tensor in params.items() if name.endswith("weight") and tensor.ndim > 1
    ]
    for pool, curve, own in [("", found.overall, names), *((n, c, [n]) for n, c in found.layers.items())]:
        assert curve.bits == sum(params[name].numel() for name in own)
        assert curve.flips.tolist() == [round(p * curve.bits) for p in fractions]
        expected = [[literal(model, params, own, x, y, p, d, 7, pool) for d in range(3)] for p in fractions]
        np.testing.assert_allclose(curve.draws, expected, rtol=0, atol=1e-12)
    assert len({float(value) for value in found.overall.draws[2]}) > 1 or name == "resnet"


def test_nothing_flipped_is_the_network_itself() -> None:
    model = small_networks("binary")["mlp"]
    params, x, y = problem(model)
    for draws in (1, 4):
        curve = flip_robustness(model, params, x, y, [0, 0.3], draws=draws).overall
        assert curve.mean[0] == error(model, params, x, y)
        assert curve.standard_error[0] == 0
        assert math.isnan(curve.standard_error[1]) == (draws == 1)


def test_mean_and_standard_error() -> None:
    model = small_networks("binary")["mlp"]
    params, x, y = problem(model)
    curve = flip_robustness(model, params, x, y, [0.1, 0.2], draws=5, per_layer=False).overall
    for row, mean, spread in zip(curve.draws, curve.mean, curve.standard_error, strict=True):
        assert mean == pytest.approx(sum(row) / 5)
        assert spread == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in row) / 4 / 5))


def _same(a: Robustness, b: Robustness) -> bool:
    return np.array_equal(a.overall.draws, b.overall.draws)


def test_seeds_decide_and_layers_are_optional() -> None:
    model = small_networks("binary")["mlp"]
    params, x, y = problem(model)
    whole = flip_robustness(model, params, x, y, draws=6, seed=1)
    alone = flip_robustness(model, params, x, y, draws=6, seed=1, per_layer=False)
    assert whole.fractions == FRACTIONS
    assert _same(whole, alone)
    assert alone.layers == {}
    assert not _same(whole, flip_robustness(model, params, x, y, draws=6, seed=2, per_layer=False))


def test_real_inputs_take_the_model_itself_and_change_nothing() -> None:
    model = small_networks("binary")["mlp"].train()
    params, x, y = problem(model.eval())
    kept = {name: tensor.clone() for name, tensor in params.items()}
    found = flip_robustness(model.train(), params, x + 0.25, y, [0.1], draws=2)
    assert found.evaluation == "float"
    assert "integers" in str(found.reason)
    assert model.training
    assert found.error == error(model.eval(), params, x + 0.25, y)
    assert all(torch.equal(kept[name], params[name]) for name in kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fractions": []}, "fractions"),
        ({"fractions": [0.1, 1.5]}, "fractions"),
        ({"fractions": [-0.1]}, "fractions"),
        ({"fractions": [math.nan]}, "fractions"),
        ({"draws": 0}, "draws"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "one class for each"),
    ],
)
def test_what_does_not_fit_is_refused(change, said) -> None:
    model = small_networks("binary")["mlp"]
    params, x, y = problem(model)
    with pytest.raises(ValueError, match=said):
        flip_robustness(model, params, **({"x": x, "y": y} | change))


def test_networks_without_bits_and_foreign_parameters_are_refused() -> None:
    full = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    y = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(IntegerError, match="binary weights"):
        flip_robustness(full, parameters(full), pixels(4), y)
    with pytest.raises(ParameterError):
        flip_robustness(small_networks("binary")["mlp"], parameters(full), pixels(4), y)
