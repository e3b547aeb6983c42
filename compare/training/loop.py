"""The one training loop: the same settings and seed give the same bits, interrupted or not."""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from compare.evaluation import Samples, evaluate
from compare.params import Params, digest, parameters, sign
from compare.runs.record import Epoch
from compare.seeds import derived
from compare.training.algorithms import RSGD, SAM, SettingsError
from compare.training.checkpoint import FILE, Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from compare.training.descent import (
    Descent,
    Single,
    of_the_batch,
    of_the_worst_nearby,
    put,
    rate,
)
from compare.training.descent import TrainingError as TrainingError
from compare.training.phases import Note, Phase, permuted, phases, standing
from compare.training.replicas import Replicas
from compare.training.settings import Recipe, TrainingSettings

Observer: TypeAlias = Callable[[int, Params], None]
"""Told the number of steps done, from the very first of the training on, and the network at that point."""


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
        history: One entry for each epoch; of an epoch with random labels, loss and error are those on these labels.
        seed: Seed of the order of samples, of dropout, and of what the algorithm draws.
        settings: What it was trained with.
        course: What only some algorithms have to tell of each epoch.
    """

    params: Params
    history: tuple[Epoch, ...]
    seed: int
    settings: TrainingSettings
    course: tuple[Note, ...] = ()


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
    observe: Observer | None = None,
    observe_every: int = 1,
) -> Trained:
    """Train a copy of ``model`` with cross-entropy on ``data.train``.

    Args:
        model: Initial network; not changed.
        data: Data set; samples are never augmented.
        recipe: What the precision brings, for instance ``binarynets.FAMILY.recipe``.
        settings: Settings; without them the recipe's.
        seed: Determines the order of samples, dropout, and what the algorithm draws (displacements of replicas, random
            labels). Initial parameters are the model's.
        folder: Where a checkpoint is kept after each epoch. Training goes on from one that is there, and gives the same
            bits as without interruption; a finished one is read.
        about: What else determines the run (plain values), kept with the checkpoint.
        describe: Text before the progress line; None shows none.
        observe: Called before each step whose number ``observe_every`` divides, the first being 0, and after the last,
            with that number and copies of parameters and buffers. Nothing that it does to them, and no random number
            that it draws, changes the training. A training that goes on from a checkpoint keeps counting; steps of
            finished epochs are not made again, so they are not seen again, nor is anything of a finished training.
        observe_every: Steps from one call to the next.

    Returns:
        The trained network; of replicas the barycentre, with normalisation statistics measured for it.

    Raises:
        TrainingError: As soon as a loss or parameter is NaN or infinite.
        CheckpointError: If the folder's checkpoint is damaged or was made with other settings.
        OutputError: If a checkpoint cannot be written.
        SettingsError: If ``observe_every`` is not a positive whole number.
    """
    settings = settings or recipe.settings
    if not isinstance(observe_every, int) or observe_every < 1:
        raise SettingsError(f"observe_every: expected a whole number of steps of at least 1, got {observe_every!r}")
    identity = _identity(model, data, recipe, settings, seed, about) if folder is not None else {}
    found = _resumable(folder, identity)
    if found and found.complete:
        return Trained(found.params, found.history, seed, settings, found.course)
    plan = phases(settings)
    history, course = (found.history, found.course) if found else ((), ())
    phase, done = standing(plan, history, course)
    assert phase is not None  # else the checkpoint were complete
    descent = _taken_up(copy.deepcopy(model), recipe, phase, seed, found)
    params: Params = {}
    # disable=None: quiet unless standard error is a terminal.
    bar = tqdm(desc=describe, unit="epoch", disable=None if describe else True, leave=False, dynamic_ncols=True,
               initial=len(history), total=sum(each.settings.epochs for each in plan))  # fmt: skip
    with bar:
        while phase is not None:
            look = _observed(observe, observe_every, descent, data)
            epoch, note, params = _epoch(len(history), done, descent, data, recipe, phase, seed, look)
            history, course = (*history, epoch), (*course, note)
            bar.set_postfix_str(_told(epoch, note), refresh=False)
            bar.update()
            following, done = standing(plan, history, course)
            if folder is not None:
                state = descent.state_dict() if following is phase else None
                complete = following is None
                write_checkpoint(folder, Checkpoint(params, identity, history, complete, state, course))
            if following is not None and following is not phase:
                descent = _descent(descent.models[0], recipe, following, seed)
            phase = following
    if observe is not None:
        copies = {name: tensor.clone() for name, tensor in params.items()}
        _tell(observe, len(history) * _steps(data, settings), copies)
    return Trained(params, history, seed, settings, course)


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
    if isinstance(settings.algorithm, RSGD):
        found["calibration"] = digest({"x": _calibration(data)})
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


def _taken_up(working: nn.Module, recipe: Recipe, phase: Phase, seed: int, found: Checkpoint | None) -> Descent:
    if found is not None:
        put(found.params, working, what="the checkpoint")
    descent = _descent(working, recipe, phase, seed)
    if found is not None and found.optimiser is not None:
        descent.load_state_dict(found.optimiser)
    return descent


def _descent(model: nn.Module, recipe: Recipe, phase: Phase, seed: int) -> Descent:
    algorithm = phase.settings.algorithm
    if isinstance(algorithm, RSGD):
        return Replicas(model, recipe, phase.settings, algorithm, seed=seed)
    gradient = of_the_worst_nearby(algorithm.rho) if isinstance(algorithm, SAM) else of_the_batch
    return Single(model, recipe, phase.settings, gradient)


def _observed(observe: Observer | None, every: int, descent: Descent, data: Data) -> Callable[[int], None]:
    """What is called before each step."""

    def look(step: int) -> None:
        if observe is None or step % every:
            return
        _tell(observe, step, descent.params(_calibration(data)))

    return look


def _tell(observe: Observer, step: int, params: Params) -> None:
    """Random numbers that are drawn meanwhile are drawn beside."""
    with torch.random.fork_rng(devices=[]):
        observe(step, params)


def _steps(data: Data, settings: TrainingSettings) -> int:
    """Steps of one epoch: a last batch of one sample is left out."""
    full, rest = divmod(len(data.train.y), settings.batch)
    return full + (rest > 1)


def _epoch(
    number: int,
    done: int,
    descent: Descent,
    data: Data,
    recipe: Recipe,
    phase: Phase,
    seed: int,
    look: Callable[[int], None],
) -> tuple[Epoch, Note, Params]:
    """One epoch: ``number`` before it in all, ``done`` of them in its phase."""
    began = time.perf_counter()
    x = data.train.x
    y = permuted(data.train.y, seed) if phase.random_labels else data.train.y
    own_seed = derived(seed, number)  # its own for each epoch, so that a resumed run needs no state of a generator
    orders = [_order(len(y), own_seed if not a else derived(seed, number, a)) for a in range(len(descent.models))]
    parts = [
        part
        for part in zip(*(torch.split(order, phase.settings.batch) for order in orders), strict=True)
        if len(part[0]) > 1  # batch normalisation needs two
    ]
    loss_sum, wrong, seen, flips = 0.0, 0.0, 0, 0.0
    bits = _bits(recipe, descent)
    for model in descent.models:
        _training_mode(model, dropout=phase.regularised)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own_seed)
        for step, part in enumerate(parts):
            look(number * len(parts) + step)
            progress = (done + step / len(parts)) / phase.settings.epochs
            loss, error = descent.step([(x[chosen], y[chosen]) for chosen in part], progress)
            if not math.isfinite(loss):
                raise TrainingError(_diverged(f"the loss became {loss}", number, step, phase.settings))
            before, bits = bits, _bits(recipe, descent)
            flips += _flipped(before, bits)
            loss_sum += loss * len(part[0])
            wrong += error * len(part[0])
            seen += len(part[0])
    for model in descent.models:
        model.eval()
    params = descent.params(_calibration(data))
    broken = [name for name, t in params.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        found = f"NaN or infinity in {', '.join(broken)}"
        raise TrainingError(_diverged(found, number, len(parts) - 1, phase.settings))
    epoch = Epoch(
        epoch=number + 1,
        train_loss=loss_sum / seen,
        train_error=wrong / seen,
        test_error=evaluate(descent.models[0], params, data.test).error,
        learning_rate=rate(phase.settings.learning_rate, done / phase.settings.epochs),
        flip_ratio=flips / len(parts) if bits.numel() else None,
        seconds=time.perf_counter() - began,
    )
    return epoch, Note(random_labels=phase.random_labels, **descent.figures()), params


def _order(samples: int, seed: int) -> Tensor:
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


def _training_mode(model: nn.Module, *, dropout: bool) -> None:
    model.train()
    for module in model.modules():
        if not dropout and isinstance(module, _DropoutNd):
            module.eval()


def _calibration(data: Data) -> Tensor:
    """Training inputs that statistics are measured on: those that the data set has set aside, else all."""
    found = getattr(data.train, "calibration", None)
    return found if isinstance(found, Tensor) else data.train.x


def _told(epoch: Epoch, note: Note) -> str:
    label = "random labels: " if note.random_labels else ""
    replicas = "" if note.coupling is None else f", coupling {note.coupling:.2g}, distance {note.distance:.2g}"
    return (
        f"{label}loss {epoch.train_loss:.3f}, train error {epoch.train_error:.2%}, "
        f"test error {epoch.test_error:.2%}{replicas}"
    )


def _bits(recipe: Recipe, descent: Descent) -> Tensor:
    """The signs of all latent weights of all networks."""
    latents = [latent for model in descent.models for latent in recipe.latents(model).values()]
    with torch.no_grad():
        return torch.cat([sign(latent).flatten() for latent in latents]) if latents else torch.empty(0)


def _flipped(before: Tensor, after: Tensor) -> float:
    """Fraction of signs that differ; a product of signs is much faster here than a comparison."""
    return 0.5 * (1 - float(torch.dot(before, after)) / len(before)) if len(before) else 0.0


def _diverged(what: str, epoch: int, step: int, settings: TrainingSettings) -> str:
    return (
        f"training stopped in epoch {epoch + 1}, step {step + 1}: {what}. Expected finite numbers; lower the "
        f"learning rate (now {settings.learning_rate}) or look for NaN in the data"
        + (". The checkpoint of the epoch before, if one was asked for, is kept" if epoch else "")
    )
