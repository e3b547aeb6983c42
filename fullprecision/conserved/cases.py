"""Small problems in double precision, one for each conserved quantity: a network, samples, and a loss to descend."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.params import Params, call, parameters
from compare.seeds import derived
from compare.symmetry import trace
from compare.symmetry.rules import elementwise
from fullprecision.conserved.activations import Activation, Radial
from fullprecision.conserved.find import conserved_quantities, orthonormal
from fullprecision.conserved.quantity import Quantity
from fullprecision.family import FAMILY
from fullprecision.networks import mlp

INPUTS, HIDDEN, OUTPUTS, SAMPLES = 8, 6, 3, 24
PIXELS, CHANNELS = (2, 4), 4
"""Of the convolutional problem: the inputs as an image, the outputs of its second convolution."""

EPS = 1e-12
"""Of batch normalisation: what eps adds to the drift of rows does not fall with the step."""


class SquaredReLU(nn.Module):
    """max(x, 0)^2: homogeneous of degree 2."""

    def forward(self, x: Tensor) -> Tensor:
        """The square of the rectified input."""
        return torch.square(torch.relu(x))


class RadialTanh(nn.Module):
    """tanh(|z|) z / |z| of each sample's vector z."""

    def forward(self, z: Tensor) -> Tensor:
        """``[batch, units]`` to the same."""
        radius = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        shrunk: Tensor = torch.tanh(radius) / radius * z
        return shrunk


def _of_radial_tanh(radius: Tensor) -> Tensor:
    return torch.sinh(radius) ** 2 / 2  # f / f' = sinh cosh


OWN: Mapping[type[nn.Module], Activation] = {RadialTanh: Radial(_of_radial_tanh)}


@dataclass(frozen=True, eq=False)
class Problem:
    """What is descended, and what should be conserved.

    Attributes:
        params: Where the descent starts, float64.
        names: Parameters that move.
        loss: Mean squared error on all samples; smooth in the parameters.
        quantities: Those that are conserved.
    """

    params: Params
    names: tuple[str, ...]
    loss: Callable[[Params], Tensor]
    quantities: tuple[Quantity, ...]


def _two_layers(activation: nn.Module, *, bias: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN, bias=bias), activation, nn.Linear(HIDDEN, OUTPUTS))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, *PIXELS)),
        *(nn.Conv2d(1, HIDDEN, 2, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, CHANNELS, 2)),
        *(nn.Flatten(), nn.Linear(CHANNELS * INPUTS, OUTPUTS)),
    )


def _normalised() -> nn.Module:
    network = mlp(INPUTS, [HIDDEN], OUTPUTS)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = EPS
    return network


@dataclass(frozen=True)
class _Kind:
    network: Callable[[], nn.Module]
    whitened: bool = False
    deviation: float = 0.4  # of all parameters; the deeper, the less, or steps are too long for the curvature


CASES: Mapping[str, _Kind] = {
    "linear": _Kind(lambda: _two_layers(nn.Identity(), bias=True)),
    "ReLU": _Kind(lambda: _two_layers(nn.ReLU(), bias=True)),
    "LeakyReLU": _Kind(lambda: _two_layers(nn.LeakyReLU(0.2), bias=True)),
    "squared ReLU": _Kind(lambda: _two_layers(SquaredReLU(), bias=True)),
    "ReLU, convolutions": _Kind(_convolutions, deviation=0.25),
    "batch normalisation": _Kind(_normalised),
    "tanh": _Kind(lambda: _two_layers(nn.Tanh(), bias=False), whitened=True),
    "sigmoid": _Kind(lambda: _two_layers(nn.Sigmoid(), bias=False), whitened=True),
    "radial tanh": _Kind(lambda: _two_layers(RadialTanh(), bias=False), whitened=True),
}
"""By name, as ``problem`` takes it."""


def problem(name: str, seed: int) -> Problem:
    """A small problem with normal samples, targets and weights.

    Args:
        name: One of ``CASES``.
        seed: Of all that is drawn.

    Returns:
        The problem; batch normalisation is in training mode.
    """
    kind, generator = CASES[name], torch.Generator().manual_seed(derived(seed, "conserved", name))
    x = _normal(generator, INPUTS if kind.whitened else SAMPLES, INPUTS)
    x = orthonormal(x) if kind.whitened else x
    y = _normal(generator, len(x), OUTPUTS)
    model = kind.network().double().train()
    graph = trace(copy.deepcopy(model), x, FAMILY, rules=dict.fromkeys(OWN, elementwise))
    found = conserved_quantities(graph, model, activations=OWN, samples=x if kind.whitened else None)
    names = tuple(name for name, _ in model.named_parameters())
    params = parameters(model)
    params |= {name: kind.deviation * _normal(generator, *params[name].shape) for name in names}

    def loss(point: Params) -> Tensor:
        return F.mse_loss(call(model, point, x), y)

    return Problem(params, names, loss, found)


def wrong(quantity: Quantity) -> Quantity:
    """The same terms in another proportion, which nothing conserves: a control of the measurement."""

    def terms(params: Params) -> tuple[Tensor, Tensor]:
        plus, minus = quantity.terms(params)
        return plus, 2 * minus

    return replace(quantity, formula=f"wrong: {quantity.formula}", terms=terms)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
