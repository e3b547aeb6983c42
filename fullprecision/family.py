"""The family of full-precision networks."""

import torch
from torch import nn

from compare.family import Family
from compare.params import Params
from compare.training import Optimiser, Recipe, SettingsError, TrainingSettings
from fullprecision import networks
from fullprecision.scalings import standard_form


def effective(model: nn.Module, params: Params) -> Params:
    """The parameters the network computes with: copies, since nothing is latent."""
    return {name: tensor.clone() for name, tensor in params.items()}


def optimiser(model: nn.Module, settings: TrainingSettings) -> Optimiser:
    """Adam, or SGD with Nesterov momentum 0.9, on all parameters.

    Args:
        model: What is trained.
        settings: Which optimiser, learning rate and weight decay.

    Returns:
        The optimiser.

    Raises:
        SettingsError: For Bop, which is for binary weights.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "bop":
        raise SettingsError("optimiser: 'bop' is for binary weights; full precision offers 'adam' and 'sgd'")
    if settings.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
    return torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)


def _nothing(model: nn.Module) -> None:
    """Full precision clips nothing after a step."""


def _no_latents(model: nn.Module) -> dict[str, torch.Tensor]:
    return {}


FAMILY = Family(
    name="full",
    title="full precision (32-bit)",
    bits=32.0,
    rules={},
    standard_form=standard_form,
    effective=effective,
    networks={"mlp": networks.mlp, "vgg": networks.vgg, "resnet": networks.resnet},
    recipe=Recipe(
        name="full",
        settings=TrainingSettings(epochs=20, batch=100, optimiser="adam", learning_rate=1e-3),
        optimiser=optimiser,
        after_step=_nothing,
        latents=_no_latents,
    ),
)
