"""Votes against a literal count, ties as they are defined, refusals."""

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from zoo import pixels, randomised, small_networks

from compare.evaluation import evaluate
from compare.evaluation.ensemble import EnsembleError, agreement, counts, decided, majority, vote, voted
from compare.params import call


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


def _labels(networks: int, samples: int, classes: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (networks, samples), generator=torch.Generator().manual_seed(seed))


def _literal(column: list[int]) -> int:
    """The most frequent label; of several, that of the earliest network that gave one of them."""
    count = Counter(column)
    return next(label for label in column if count[label] == max(count.values()))


@pytest.mark.parametrize("networks", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_majority_is_the_literal_count(networks: int, classes: int) -> None:
    labels = _labels(networks, 400, classes)
    assert majority(labels, classes).tolist() == [_literal(column) for column in labels.T.tolist()]
    assert counts(labels, classes).sum(0).tolist() == [networks] * 400


def test_copies_decide_as_one_and_two_as_the_first() -> None:
    labels = _labels(2, 100, 4)
    assert torch.equal(majority(labels[:1].expand(5, -1), 4), labels[0])
    assert torch.equal(majority(labels, 4), labels[0])


@pytest.mark.parametrize("networks", [2, 3, 6])
def test_agreement_is_the_mean_over_pairs(networks: int) -> None:
    labels = _labels(networks, 200, 3)
    pairs = [float((a == b).double().mean()) for a, b in itertools.combinations(labels, 2)]
    assert agreement(labels, 3) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert agreement(labels[:1], 3) == 1


def test_mean_probability_may_overrule_the_vote() -> None:
    outputs = torch.log(torch.tensor([[[0.51, 0.49]], [[0.51, 0.49]], [[0.01, 0.99]]]))
    assert decided(outputs, "majority").tolist() == [0]
    assert decided(outputs, "mean probability").tolist() == [1]


@pytest.mark.parametrize("batch", [7, 1000])
def test_a_vote_is_that_of_the_networks_outputs(batch: int) -> None:
    model = small_networks("full")["mlp"]
    networks = [randomised(model, seed=seed) for seed in range(4)]
    samples = Split(pixels(60), _labels(1, 60, 5)[0])
    found = vote(model, networks, samples, batch=batch)
    outputs = torch.stack([call(model, params, samples.x) for params in networks]).double()
    labels = outputs.argmax(2)
    expected = torch.tensor([_literal(column) for column in labels.T.tolist()])
    assert found.errors == tuple(evaluate(model, params, samples).error for params in networks)
    assert found.majority == float((expected != samples.y).double().mean())
    assert found.mean_probability == float((outputs.softmax(2).mean(0).argmax(1) != samples.y).double().mean())
    assert found.changed == float((expected != labels[0]).double().mean()) > 0
    ties = [list(Counter(c).values()).count(max(Counter(c).values())) > 1 for c in labels.T.tolist()]
    assert found.tied == sum(ties) / 60
    assert found.mean_error == sum(found.errors) / 4
    assert voted(outputs.float(), samples.y) == found


def test_requests_that_make_no_sense_are_refused() -> None:
    model = small_networks("full")["mlp"]
    one, samples = randomised(model), Split(pixels(4), torch.zeros(4, dtype=torch.long))
    with pytest.raises(EnsembleError, match="networks: expected one or more"):
        vote(model, [], samples)
    with pytest.raises(EnsembleError, match="samples: expected at least one"):
        vote(model, [one], Split(pixels(0), torch.zeros(0, dtype=torch.long)))
    with pytest.raises(EnsembleError, match=r"model\.eval"):
        vote(model.train(), [one], samples)
    with pytest.raises(EnsembleError, match=r"one network or more, got \[0, 3\]"):
        majority(torch.zeros(0, 3, dtype=torch.long), 2)
    for wrong in (torch.tensor([[0, 2]]), torch.tensor([[-1, 0]])):
        with pytest.raises(EnsembleError, match=r"classes from 0 to 1, got (0 to 2|-1 to 0)"):
            majority(wrong, 2)
    for networks in (1, 3):
        with pytest.raises(EnsembleError, match="labels: expected at least one sample"):
            agreement(torch.zeros(networks, 0, dtype=torch.long), 2)
    with pytest.raises(EnsembleError, match="batch: expected a positive number"):
        vote(model.eval(), [one], samples, batch=0)
    with pytest.raises(EnsembleError, match="expected one of majority, mean probability, got 'median'"):
        decided(torch.zeros(1, 1, 2), "median")  # type: ignore[arg-type]
