"""The family of binary networks: 1-bit weights and activations."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from binarynets import networks
from binarynets.layers import BinaryConv1d, BinaryConv2d, BinaryLinear, Sign, clip_latents_, latent_weights
from binarynets.optimisers import Bop, assign
from binarynets.quantisers import is_sign
from binarynets.signs import standard_form
from compare.data import Split
from compare.evaluation import Evaluator
from compare.family import Family
from compare.params import Params, sign
from compare.runs.landscape import Landscape
from compare.runs.part import SplitName
from compare.runs.study import Rises
from compare.symmetry.graph import Graph
from compare.symmetry.rules import linear_map, step
from compare.symmetry.tracing.site import Site
from compare.symmetry.tracing.values import Value
from compare.training import Optimiser, Recipe, TrainingSettings

_SETTINGS = TrainingSettings(epochs=20, batch=100, optimiser="adam", learning_rate=3e-3)


def _binarised_map(site: Site, x: Value) -> Value:
    if not is_sign(site.operation.quantiser):
        site.refuse("its quantiser gives other weights than +1 and -1 by sign, whose symmetries are not supported yet")
    result: Value = linear_map(binarised=True)(site, x)
    return result


def _sign_activation(site: Site, x: Value) -> Value:
    if not is_sign(site.operation.quantiser):
        site.refuse("its quantiser gives other values than +1 and -1 by sign, whose symmetries are not supported yet")
    return step(site, x)


def effective(model: nn.Module, params: Params) -> Params:
    """The parameters the network computes with: latent weights replaced by their signs, the rest as it is.

    Args:
        model: The network, whose layers say which weights are latent.
        params: Parameters and buffers by name.

    Returns:
        New tensors.
    """
    latents = latent_weights(model)
    return {name: sign(tensor) if name in latents else tensor.clone() for name, tensor in params.items()}


def optimiser(model: nn.Module, settings: TrainingSettings) -> Optimiser:
    """Adam or SGD on all parameters, or Bop on binarised weights beside Adam on the rest.

    Args:
        model: What is trained.
        settings: Which optimiser, learning rate and weight decay (which reaches no latent weight: it would only shrink
            them, and their size has no effect).

    Returns:
        The optimiser; Bop's part has no learning rate.
    """
    latents = latent_weights(model)
    rate = settings.learning_rate
    if settings.optimiser == "bop":
        adam = partial(torch.optim.Adam, lr=rate, weight_decay=settings.weight_decay)
        return assign(model, (latents, Bop), (lambda name: name not in latents, adam))
    rest = [parameter for name, parameter in model.named_parameters() if name not in latents]
    groups: list[dict[str, Any]] = [
        {"params": list(latents.values())},
        {"params": rest, "weight_decay": settings.weight_decay},
    ]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=rate)


def _landscape(
    graph: Graph,
    model: nn.Module,
    a: Params,
    b: Params,
    splits: Mapping[SplitName, Split],
    *,
    seed: int,
    describe: str | None,
) -> tuple[Landscape | None, tuple[str, ...]]:
    from binarynets.landscape.measure import landscape  # numba takes its time

    return landscape(graph, model, a, b, splits, seed=seed, describe=describe)


def _evaluation(model: nn.Module) -> Evaluator | None:
    from binarynets.integer.along import along  # numba takes its time

    return along(model)


def _flips(
    model: nn.Module,
    params: Params,
    split: SplitName,
    samples: Split,
    fractions: Sequence[float],
    *,
    draws: int,
    seed: int,
) -> Rises:
    from binarynets.landscape.robustness import flip_robustness  # numba takes its time

    found = flip_robustness(model, params, samples.x, samples.y, fractions, draws=draws, seed=seed, per_layer=False)
    return Rises(
        split=split,
        samples=found.samples,
        draws=draws,
        error=found.error,
        sizes=found.fractions,
        rises=tuple(float(mean) - found.error for mean in found.overall.mean),
        standard_errors=tuple(map(float, found.overall.standard_error)),
    )


FAMILY = Family(
    name="binary",
    title="binary (1-bit weights and activations)",
    bits=1.0,
    rules={**dict.fromkeys((BinaryLinear, BinaryConv1d, BinaryConv2d), _binarised_map), Sign: _sign_activation},
    standard_form=standard_form,
    effective=effective,
    networks={"mlp": networks.mlp, "vgg": networks.vgg, "resnet": networks.resnet},
    landscape=_landscape,
    evaluation=_evaluation,
    flips=_flips,
    recipe=Recipe(
        name="binary", settings=_SETTINGS, optimiser=optimiser, after_step=clip_latents_, latents=latent_weights
    ),
)
