"""Refusals: what makes a Brevitas model unfit for any analysis, found before one begins."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from binarynets.brevitas.errors import BrevitasError
from binarynets.brevitas.forms import check_scale


def check_model(model: nn.Module) -> None:
    """Raise ``BrevitasError`` unless all quantisers of ``model`` are fit for use.

    Args:
        model: Any module; it is not changed.

    Raises:
        BrevitasError: For what is no module, has no Brevitas layer, has a scale that is 0, infinite or NaN, or
            activation scales that are still being collected.
    """
    _check_module(model)
    if not any(is_of_brevitas(module) for module in model.modules()):
        raise BrevitasError(
            f"{type(model).__name__} has no Brevitas layer: for networks of binarynets' own layers pass "
            "binarynets.FAMILY, for full precision fullprecision.FAMILY"
        )
    for name, scaling in _collecting(model):
        if scaling.counter == 0:
            continue  # never called in training mode: its scale is 1
        raise BrevitasError(
            f"'{name}': its scale is still a running statistic (step {scaling.counter} of "
            f"{scaling.collect_stats_steps + 1}), which parameters by name do not hold: train further, or take "
            "binarynets.brevitas.settled(model), whose scales are those that the statistics give"
        )
    for name, _ in _unmeasured(model):
        raise BrevitasError(
            f"'{name}': its learned scale gets its value when the model is first called, which has not happened: call "
            "it once before parameters are taken from it, or take binarynets.brevitas.settled(model)"
        )
    _check_weights(copy.deepcopy(model))


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise BrevitasError(f"model: expected a torch.nn.Module with Brevitas layers, got {type(model).__name__}")


def is_of_brevitas(module: nn.Module) -> bool:
    """Whether this is a layer of Brevitas, or a subclass of one."""
    return any(kind.__module__.startswith("brevitas.nn.") for kind in type(module).__mro__)


def settled(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose learned scales are parameters, no longer statistics that are being collected.

    Args:
        model: A Brevitas model; it is not changed.

    Returns:
        The copy, with the same outputs in evaluation mode.
    """
    _check_module(model)
    working = copy.deepcopy(model)
    with torch.no_grad():
        for _, scaling in _collecting(working):
            restrict = getattr(scaling, "restrict_scaling_pre", nn.Identity())  # zero points have none
            scaling.value.copy_(restrict(scaling.buffer))
            scaling.counter = scaling.collect_stats_steps + 1
        for name in {name.partition("_quant.")[0] for name, _ in _unmeasured(working)}:
            owner, _, kind = name.rpartition(".")
            layer: Any = working.get_submodule(owner)
            quantiser = getattr(layer, f"{kind}_quant")
            training = quantiser.training
            quantiser.eval()(getattr(layer, kind).detach().clone())  # which measures
            quantiser.train(training)
    return working


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``model.load_state_dict``, with a message that says what to do where scales are missing.

    Args:
        model: A Brevitas model; changed only if everything fits.
        state: A state dict.

    Raises:
        BrevitasError: If names or shapes differ.
    """
    _check_module(model)
    trial = copy.deepcopy(model)
    try:
        found = trial.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BrevitasError(f"the state does not fit {type(model).__name__}: {error}") from error
    scales = [name for name in found.missing_keys if "scaling_impl" in name]
    if scales:
        raise BrevitasError(
            f"the state has no scale for {', '.join(scales[:3])}{' and others' if len(scales) > 3 else ''}: a model "
            "that was never called in training mode keeps none. Save it after a first training batch, or call this "
            "model once in training mode on data, then load the rest with load_state_dict(state, strict=False)"
        )
    if found.missing_keys or found.unexpected_keys:
        raise BrevitasError(
            f"the state does not fit {type(model).__name__}: missing {found.missing_keys[:5]}, not known "
            f"{found.unexpected_keys[:5]}. Expected the state_dict() of the same architecture and quantisers"
        )
    model.load_state_dict(state)


def _collecting(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Runtime statistics that are not yet a parameter."""
    for name, module in model.named_modules():
        steps = getattr(module, "collect_stats_steps", None)
        if steps is not None and hasattr(module, "counter") and module.counter <= steps:
            yield name, module


def _unmeasured(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Learned scales of weights and biases before they have taken their first value, which the first call gives."""
    for name, module in model.named_modules():
        if not getattr(module, "init_done", True):
            yield name, module


def _check_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        quantiser = getattr(module, "weight_quant", None)
        if quantiser is None or not getattr(quantiser, "is_quant_enabled", False):
            continue
        training = quantiser.training
        quantiser.eval()
        try:
            with torch.no_grad():
                found = quantiser(module.weight.detach().clone())
        except (AssertionError, RuntimeError) as error:
            raise BrevitasError(
                f"'{name}': its weight quantiser cannot be asked for the weight alone ({error}): expected one that "
                "needs nothing else; those that watch the accumulator need their input, and are not read"
            ) from error
        finally:
            quantiser.train(training)
        check_scale(torch.as_tensor(found.scale), f"'{name}': its weight quantiser")
        if not bool(torch.isfinite(module.weight).all()):
            raise BrevitasError(f"'{name}': its latent weight holds NaN or infinity: expected finite numbers")
