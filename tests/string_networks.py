"""Networks, data and landscapes for tests of strings."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from zoo import FAMILIES

import fullprecision
from compare.data import load_data
from compare.evaluation import Samples
from compare.params import Params
from compare.strings import (
    Lowering,
    NetworkLandscape,
)
from compare.symmetry import Graph, random_element, standard_form, trace
from compare.training import Recipe, TrainingSettings, train

FULL = fullprecision.FAMILY.recipe


@dataclass(frozen=True)
class Points:
    """Inputs and targets of a regression."""

    x: Tensor
    y: Tensor


def parabola(samples: int = 65) -> Points:
    x = torch.linspace(0, 1, samples)[:, None]
    return Points(x, 0.5 * x**2 + 0.25 * x + 0.1)


def sigmoid_net(seed: int) -> nn.Sequential:
    """1-4-4-1 as the authors of [Topology] have it: no offsets, sigmoids behind every layer."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    for inputs, outputs in ((1, 4), (4, 4), (4, 1)):
        model.extend([nn.Linear(inputs, outputs, bias=False), nn.Sigmoid()])
    for weight in model.parameters():
        nn.init.uniform_(weight, -1, 1)
    return model


def regression(
    model: nn.Module, samples: Samples, *, measured: Samples | None = None, **settings: object
) -> NetworkLandscape:
    lowering = Lowering(**{"batch": None, "learning_rate": 0.02, **settings})
    return NetworkLandscape(model, FULL, samples, energy="squared error", measured=measured, lowering=lowering)


@dataclass(frozen=True, eq=False)
class Trained:
    """A network trained on digits, and a copy of itself under a random element of its group, in standard form."""

    model: nn.Module
    graph: Graph
    a: Params
    copy: Params
    other: Params
    recipe: Recipe
    train: Samples


@cache
def digits_pair(precision: str) -> Trained:
    module, family = FAMILIES[precision]
    data = load_data("digits")
    settings = TrainingSettings(epochs=5, learning_rate=5e-3)
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(train(module.mlp(64, [24], 10), data, family.recipe, settings=settings).params)
    model = module.mlp(64, [24], 10).eval()
    graph = trace(model, data.train.x[:16], family, at=tuple(networks))
    a, other = (standard_form(graph, params, invariant="loss") for params in networks)
    moved = random_element(graph, torch.Generator().manual_seed(3)).apply(a)
    return Trained(model, graph, a, standard_form(graph, moved, invariant="loss"), other, family.recipe, data.train)
