"""Merging against a literal vote, what copies and matched networks give, refusals."""

import itertools

import pytest
import torch
from zoo import difference, pixels, randomised, small_networks

import binarynets
import compare
import fullprecision
from binarynets.merging import MergeError, merge
from compare.evaluation import StatisticsError, re_estimated
from compare.evaluation.statistics import calibrator
from compare.params import ParameterError, Params, parameters
from compare.report.merging import agreement_by_lot


def _some(networks: int, name: str = "mlp"):
    model = small_networks("binary")[name]
    graph = compare.trace(model, pixels(4), binarynets.FAMILY)
    return model, graph, [randomised(model, seed=seed) for seed in range(networks)]


def _literal_bit(latents: list[float], ties: str) -> float:
    votes = sum(1 if latent >= 0 else -1 for latent in latents)
    breaking = sum(latents) if ties == "latents" else latents[0]
    decisive = votes if votes else breaking
    return 1.0 if decisive >= 0 else -1.0


@pytest.mark.parametrize("networks", [2, 3, 4, 7])
@pytest.mark.parametrize("ties", ["latents", "first"])
@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_bits_are_those_of_the_literal_vote(networks: int, ties: str, name: str) -> None:
    model, graph, some = _some(networks, name)
    found = merge(model, graph, some, ties=ties)
    assert graph.binarised
    for weight in graph.binarised:
        columns = torch.stack([params[weight].flatten() for params in some]).T.tolist()
        expected = [_literal_bit(column, ties) for column in columns]
        assert compare.sign(found.params[weight]).flatten().tolist() == expected
    for other in set(found.params) - graph.binarised:
        if found.params[other].is_floating_point():
            mean = sum(params[other].double() for params in some) / networks
            assert torch.allclose(found.params[other].double(), mean, rtol=1e-6, atol=1e-6)


def test_figures_are_the_literal_shares() -> None:
    model, graph, some = _some(4)
    found = merge(model, graph, some)
    agreeing = tied = bits = 0
    for weight in graph.binarised:
        own = torch.stack([compare.sign(params[weight]) for params in some])
        agreeing += int((own == compare.sign(found.params[weight])).sum())
        tied += int((own.sum(0) == 0).sum())
        bits += own[0].numel()
    assert found.agreement == agreeing / (4 * bits)
    assert found.tied == tied / bits
    assert 0.3 < found.tied < 0.45  # 6 of 16 for bits drawn by lot
    assert merge(model, graph, some[:3]).tied == 0


@pytest.mark.parametrize("networks", [2, 3, 5, 8])
def test_agreement_by_lot_is_that_of_all_votes(networks: int) -> None:
    votes = [sum(bits) for bits in itertools.product((0, 1), repeat=networks)]
    literal = sum(max(k, networks - k) / networks for k in votes) / len(votes)
    assert agreement_by_lot(networks) == pytest.approx(literal)
    model, graph, some = _some(networks)
    draw = torch.Generator().manual_seed(0)
    by_lot = [
        {name: torch.randn(p.shape, generator=draw) if name in graph.binarised else p for name, p in params.items()}
        for params in some
    ]
    assert merge(model, graph, by_lot).agreement == pytest.approx(literal, abs=0.02)


def test_latents_that_cancel_count_as_plus_one() -> None:
    model, graph, (one, *_) = _some(1)
    opposite = {name: -tensor if name in graph.binarised else tensor for name, tensor in one.items()}
    found = merge(model, graph, [one, opposite])
    assert found.tied == 1
    assert all(bool((compare.sign(found.params[name]) == 1).all()) for name in graph.binarised)
    first = merge(model, graph, [one, opposite], ties="first")
    assert all(torch.equal(compare.sign(first.params[name]), compare.sign(one[name])) for name in graph.binarised)


def test_latents_are_averaged_and_two_networks_merge_alike_both_ways() -> None:
    model, graph, some = _some(2)
    mean = merge(model, graph, some, how="latents")
    for name in graph.binarised:
        assert torch.allclose(mean.params[name], (some[0][name] + some[1][name]) / 2, atol=1e-6)
        assert torch.equal(compare.sign(mean.params[name]), compare.sign(merge(model, graph, some).params[name]))


@pytest.mark.parametrize("networks", [2, 3])
def test_copies_of_one_network_are_that_network(networks: int) -> None:
    model, graph, (one, *_) = _some(1)
    found = merge(model, graph, [one] * networks)
    assert (found.agreement, found.tied) == (1.0, 0.0)
    x = pixels(50, seed=3)
    assert torch.equal(compare.call(model, found.params, x), compare.call(model, one, x))


def test_symmetric_copies_merge_to_the_network_once_matched_and_not_before() -> None:
    model, graph, (one, *_) = _some(1)
    draw = torch.Generator().manual_seed(0)
    copies = [compare.random_element(graph, draw).apply(one) for _ in range(3)]
    standard = [compare.standard_form(graph, params, invariant="loss") for params in copies]
    x, before = pixels(100, seed=3), merge(model, graph, standard)
    matched = merge(model, graph, compare.match_many(graph, standard).params)
    assert before.agreement < 0.9
    assert matched.agreement == 1
    labels = [compare.call(model, params, x).argmax(1) for params in (one, matched.params, before.params)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


def test_statistics_are_measured_for_the_merged_network() -> None:
    model, graph, some = _some(3)
    x = pixels(100, seed=5)
    kept, measured = merge(model, graph, some), merge(model, graph, some, calibration=x)
    assert difference(measured.params, re_estimated(calibrator(model), kept.params, x)) == 0
    assert (kept.re_estimated, measured.re_estimated) == (False, True)
    assert difference(kept.params, measured.params) > 0


def test_nothing_is_changed() -> None:
    model, graph, some = _some(2)
    before: list[Params] = [{name: tensor.clone() for name, tensor in params.items()} for params in some]
    own = parameters(model)
    merge(model, graph, some, calibration=pixels(20))
    assert all(difference(a, b) == 0 for a, b in zip(some, before, strict=True))
    assert difference(parameters(model), own) == 0


def test_requests_that_make_no_sense_are_refused() -> None:
    model, graph, some = _some(2)
    with pytest.raises(MergeError, match="expected two or more, got 1"):
        merge(model, graph, some[:1])
    with pytest.raises(MergeError, match="how: expected one of majority, latents, got 'mean'"):
        merge(model, graph, some, how="mean")
    with pytest.raises(MergeError, match="ties: expected one of latents, first, got 'last'"):
        merge(model, graph, some, ties="last")
    with pytest.raises(ParameterError, match="networks\\[1\\]"):
        merge(model, graph, [some[0], {}])
    with pytest.raises(StatisticsError, match="at least 2 calibration samples"):
        merge(model, graph, some, calibration=pixels(1))
    full = small_networks("full")["mlp"]
    other = compare.trace(full, pixels(4), fullprecision.FAMILY)
    with pytest.raises(MergeError, match="no bits to vote on"):
        merge(full, other, [parameters(full)] * 2)
