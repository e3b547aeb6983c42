import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam

from binarynets.layers import BinaryLinear, latent_weights
from binarynets.optimisers import Bop, OptimiserGroup, assign

adam = partial(Adam, lr=1e-2)
sgd = partial(SGD, lr=1e-2, momentum=0.9)


def _bop_naive(w: float, gradients: list[float], threshold: float, adaptivity: float) -> float:
    """The algorithm as the paper writes it, for one weight."""
    m = 0.0
    w = 1.0 if w >= 0 else -1.0
    for gradient in gradients:
        m = (1 - adaptivity) * m + adaptivity * gradient
        if abs(m) > threshold and math.copysign(1, m) == w:
            w = -w
    return w


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    st.lists(st.integers(-8, 8), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_bop_is_the_algorithm(weights: list[float], gradients: list[int], threshold: float, adaptivity: float) -> None:
    # All numbers are sums of few powers of two, so that both ways round alike and ties with the threshold occur.
    w = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    bop = Bop([w], threshold=threshold, adaptivity=adaptivity)
    for gradient in gradients:
        w.grad = torch.full_like(w, gradient)
        bop.step()
    assert w.tolist() == [_bop_naive(each, list(map(float, gradients)), threshold, adaptivity) for each in weights]


def test_bop_leaves_alone_what_has_no_gradient() -> None:
    w = nn.Parameter(torch.tensor([0.3]))
    Bop([w]).step()
    assert w.item() == pytest.approx(0.3)


def test_bop_shows_a_gradient_that_is_not_finite() -> None:
    for bad in (math.nan, math.inf):
        w = nn.Parameter(torch.tensor([1.0, 1.0]))
        w.grad = torch.tensor([bad, 0.0])
        Bop([w]).step()
        assert w[0].isnan()
        assert w[1] == 1


def test_bop_uses_the_numbers_of_each_group_and_the_closure() -> None:
    a, b = (nn.Parameter(torch.ones(1)) for _ in range(2))
    bop = Bop([{"params": [a]}, {"params": [b], "threshold": 2.0}], threshold=0.5, adaptivity=1.0)

    def closure() -> float:
        loss = (a + b).sum()
        loss.backward()
        return loss.item()

    assert bop.step(closure) == 2
    assert (a.item(), b.item()) == (-1, 1)


@pytest.mark.parametrize("threshold", [-1e-9, math.nan, math.inf])
def test_bad_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold: expected a finite number of at least 0"):
        Bop([nn.Parameter(torch.ones(1))], threshold=threshold)


@pytest.mark.parametrize("adaptivity", [0.0, -1.0, 1.1, math.nan])
def test_bad_adaptivity(adaptivity: float) -> None:
    with pytest.raises(ValueError, match="adaptivity: expected a number above 0 and at most 1"):
        Bop([nn.Parameter(torch.ones(1))], adaptivity=adaptivity)


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(BinaryLinear(5, 8), nn.BatchNorm1d(8), BinaryLinear(8, 3), nn.BatchNorm1d(3))


def _group(model: nn.Module, rest=adam) -> OptimiserGroup:
    latents = latent_weights(model)
    bop = partial(Bop, threshold=1e-4, adaptivity=1e-1)
    return assign(model, (latents, bop), (lambda name: name not in latents, rest))


def _train(model: nn.Module, optimiser: OptimiserGroup, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        x = torch.randn((20, 5), generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long()).backward()
        optimiser.step()


@pytest.mark.parametrize("rest", [adam, sgd])
def test_resumed_training_gives_the_same_bits(rest) -> None:
    whole = _model()
    _train(whole, _group(whole, rest), 6)
    first, second = _model(), _model(seed=1)
    optimiser = _group(first, rest)
    _train(first, optimiser, 3)
    second.load_state_dict(first.state_dict())
    resumed = _group(second, rest)
    resumed.load_state_dict(optimiser.state_dict())
    _train(second, resumed, 3, start=3)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
    fresh = _model(seed=1)
    fresh.load_state_dict(first.state_dict())
    _train(fresh, _group(fresh, rest), 3, start=3)
    assert any(not torch.equal(value, fresh.state_dict()[name]) for name, value in whole.state_dict().items())


def test_all_parameters_train_side_by_side() -> None:
    model = _model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _train(model, _group(model), 10)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name])
    assert all(set(weight.unique().tolist()) == {-1.0, 1.0} for weight in latent_weights(model).values())


def test_zero_grad_clears_all() -> None:
    model = _model()
    model(torch.randn(4, 5)).sum().backward()
    _group(model).zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameter_groups_are_the_optimisers_own() -> None:
    group = _group(_model())
    group.param_groups[1]["lr"] = 0.5
    assert group.optimisers[1].param_groups[0]["lr"] == 0.5
    assert [len(each["params"]) for each in group.param_groups] == [2, 4]


def test_frozen_parameters_need_no_optimiser() -> None:
    model = _model()
    model[1].requires_grad_(False)
    assert sum(len(each["params"]) for each in _group(model).param_groups) == 4


def test_bad_rules() -> None:
    model, every = _model(), (lambda name: True, adam)
    with pytest.raises(ValueError, match=r"parameter '1.weight' has no optimiser: expected exactly one"):
        assign(model, (["0.weight"], Bop))
    with pytest.raises(ValueError, match=r"parameter '0.weight' has no optimiser"):
        assign(model)
    with pytest.raises(ValueError, match=r"parameter '2.weight' is claimed by the rules \[0, 1\]"):
        assign(model, (["2.weight"], Bop), every)
    with pytest.raises(ValueError, match="rule 1 selects no parameter, so its optimiser would own nothing"):
        assign(model, every, (lambda name: False, Bop))
    with pytest.raises(ValueError, match=r"rule 0 selects \['1.running_mean', 'w'\]: expected names out of"):
        assign(model, (["w", "1.running_mean"], Bop), every)
    with pytest.raises(ValueError, match="rule 0: expected a collection of names or a function, got the string"):
        assign(model, ("0.weight", Bop), every)


def test_bad_states() -> None:
    group = _group(_model())
    with pytest.raises(ValueError, match="expected a list of 2 states under 'optimisers', got 1"):
        group.load_state_dict({"optimisers": [{}]})
    with pytest.raises(ValueError, match="got none"):
        group.load_state_dict(group.optimisers[0].state_dict())
