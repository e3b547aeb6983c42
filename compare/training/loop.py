"""The one training loop: the same settings and seed give the same bits, interrupted or not."""

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from compare.errors import CompareError
from compare.evaluation import Samples, evaluate
from compare.params import Params, check, digest, parameters, sign
from compare.runs.record import Epoch
from compare.seeds import derived
from compare.training.checkpoint import FILE, Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from compare.training.settings import Optimiser, Recipe, TrainingSettings


class TrainingError(CompareError, RuntimeError):
    """Training that cannot go on: a loss or a parameter became NaN or infinite."""


class Data(Protocol):
    """A data set with a training and a test split."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def train(self) -> Samples:
        """What is trained on."""
        ...

    @property
    def test(self) -> Samples:
        """What the test error is counted on after each epoch; it has no influence on training."""
        ...


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        params: Parameters and buffers by name.
        history: One entry for each epoch.
        seed: Seed of the order of samples and of dropout.
        settings: What it was trained with.
    """

    params: Params
    history: tuple[Epoch, ...]
    seed: int
    settings: TrainingSettings


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    folder: Path | None = None,
    about: Mapping[str, Any] | None = None,
    describe: str | None = None,
) -> Trained:
    """Train a copy of ``model`` with cross-entropy on ``data.train``.

    Args:
        model: Initial network; not changed.
        data: Data set; samples are never augmented.
        recipe: What the precision brings, for instance ``binarynets.FAMILY.recipe``.
        settings: Settings; without them the recipe's.
        seed: Determines the order of samples and dropout. Initial parameters are the model's.
        folder: Where a checkpoint is kept after each epoch. Training goes on from one that is there, and gives the same
            bits as without interruption; a finished one is read.
        about: What else determines the run (plain values), kept with the checkpoint.
        describe: Text before the progress line; None shows none.

    Returns:
        The trained network.

    Raises:
        TrainingError: As soon as a loss or parameter is NaN or infinite.
        CheckpointError: If the folder's checkpoint is damaged or was made with other settings.
        OutputError: If a checkpoint cannot be written.
    """
    settings = settings or recipe.settings
    identity = _identity(model, data, recipe, settings, seed, about) if folder is not None else {}
    found = _resumable(folder, identity)
    if found and found.complete:
        return Trained(found.params, found.history, seed, settings)
    working = copy.deepcopy(model)
    optimiser = recipe.optimiser(working, settings)
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group.get("lr"))
    history = _take_up(found, working, optimiser) if found else ()
    epochs = range(len(history), settings.epochs)
    # disable=None: quiet unless standard error is a terminal.
    bar = tqdm(epochs, desc=describe, unit="epoch", disable=None if describe else True, leave=False, dynamic_ncols=True,
               initial=len(history), total=settings.epochs)  # fmt: skip
    for epoch in bar:
        history = (*history, _epoch(epoch, working, data, recipe, optimiser, settings, seed))
        bar.set_postfix_str(f"loss {history[-1].train_loss:.3f}, test error {history[-1].test_error:.2%}")
        if folder is not None:
            complete = epoch + 1 == settings.epochs
            state = None if complete else optimiser.state_dict()
            write_checkpoint(folder, Checkpoint(parameters(working), identity, history, complete, state))
    return Trained(parameters(working), history, seed, settings)


def _identity(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    settings: TrainingSettings,
    seed: int,
    about: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything that determines the result, as JSON gives it back: tuples would come back as lists."""
    found = {
        "seed": seed,
        "data": data.name,
        "training_data": digest({"x": data.train.x, "y": data.train.y}),
        "initial_parameters": digest(parameters(model)),
        "precision": recipe.name,
        **settings.as_dict(),
        **(about or {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _resumable(folder: Path | None, identity: dict[str, Any]) -> Checkpoint | None:
    if folder is None or not (folder / FILE).exists():
        return None
    found = read_checkpoint(folder)
    if found.settings != identity:
        differing = sorted(k for k in found.settings.keys() | identity if found.settings.get(k) != identity.get(k))
        raise CheckpointError(
            f"{folder} holds a network trained with other settings ({', '.join(differing)} differ): "
            "choose another folder, or remove it"
        )
    return found


def _take_up(found: Checkpoint, working: nn.Module, optimiser: Optimiser) -> tuple[Epoch, ...]:
    check(found.params, parameters(working), what="the checkpoint")
    with torch.no_grad():
        for name, tensor in [*working.named_parameters(), *working.named_buffers()]:
            if name in found.params:
                tensor.copy_(found.params[name])
    if found.optimiser is not None:
        optimiser.load_state_dict(found.optimiser)
    return found.history


def _epoch(
    epoch: int,
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    optimiser: Optimiser,
    settings: TrainingSettings,
    seed: int,
) -> Epoch:
    began = time.perf_counter()
    x, y = data.train.x, data.train.y
    own_seed = derived(seed, epoch)  # its own for each epoch, so that a resumed run needs no state of a generator
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(own_seed))
    batches = [part for part in torch.split(order, settings.batch) if len(part) > 1]  # batch normalisation needs two
    loss_sum, wrong, seen, flips = 0.0, 0, 0, 0.0
    bits = _bits(recipe.latents(model))
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own_seed)
        for number, part in enumerate(batches):
            _set_rate(optimiser, (epoch + number / len(batches)) / settings.epochs)
            loss, logits = _step(model, x[part], y[part], optimiser, recipe)
            if not math.isfinite(loss):
                raise TrainingError(_diverged(f"the loss became {loss}", epoch, number, settings))
            before, bits = bits, _bits(recipe.latents(model))
            flips += _flipped(before, bits)
            loss_sum += loss * len(part)
            wrong += int((logits.argmax(1) != y[part]).sum())
            seen += len(part)
    model.eval()
    params = parameters(model)
    broken = [name for name, t in params.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise TrainingError(_diverged(f"NaN or infinity in {', '.join(broken)}", epoch, len(batches) - 1, settings))
    return Epoch(
        epoch=epoch + 1,
        train_loss=loss_sum / seen,
        train_error=wrong / seen,
        test_error=evaluate(model, params, data.test).error,
        learning_rate=_rate(settings.learning_rate, epoch / settings.epochs),
        flip_ratio=flips / len(batches) if bits.numel() else None,
        seconds=time.perf_counter() - began,
    )


def _step(model: nn.Module, x: Tensor, y: Tensor, optimiser: Optimiser, recipe: Recipe) -> tuple[float, Tensor]:
    optimiser.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    recipe.after_step(model)
    return float(loss.detach()), logits.detach()


def _rate(base: float, progress: float) -> float:
    return base * 0.5 * (1 + math.cos(math.pi * progress))


def _set_rate(optimiser: Optimiser, progress: float) -> None:
    for group in optimiser.param_groups:
        if group["initial_lr"] is not None:
            group["lr"] = _rate(group["initial_lr"], progress)


def _bits(latents: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([sign(latent).flatten() for latent in latents.values()]) if latents else torch.empty(0)


def _flipped(before: Tensor, after: Tensor) -> float:
    """Fraction of signs that differ; a product of signs is much faster here than a comparison."""
    return 0.5 * (1 - float(torch.dot(before, after)) / len(before)) if len(before) else 0.0


def _diverged(what: str, epoch: int, step: int, settings: TrainingSettings) -> str:
    return (
        f"training stopped in epoch {epoch + 1}, step {step + 1}: {what}. Expected finite numbers; lower the "
        f"learning rate (now {settings.learning_rate}) or look for NaN in the data"
        + (". The checkpoint of the epoch before, if one was asked for, is kept" if epoch else "")
    )
