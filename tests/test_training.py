"""The training loop: the same bits every time, interrupted or not; failures early and clear."""

import json
import math
from collections import OrderedDict
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from zoo import FAMILIES, difference, pixels

import binarynets
from compare.params import parameters, sign
from compare.training import (
    CheckpointError,
    SettingsError,
    TrainingError,
    TrainingSettings,
    read_checkpoint,
    train,
)
from compare.training import loop as loop_module


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Data:
    name: str
    train: Split
    test: Split


SETTINGS = TrainingSettings(epochs=4, batch=16, learning_rate=1e-2)


def _data(samples: int = 113) -> Data:
    """The class is where a bright bar lies. 113 = 7 x 16 + 1: the last batch has one sample."""
    x = pixels(samples + 40)
    y = torch.arange(len(x)) % 3
    for label in range(3):
        x[y == label, 0, 2 * label] = 16
    return Data("bars", Split(x[:samples], y[:samples]), Split(x[samples:], y[samples:]))


def _model(precision: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    # Dropout must resume bit for bit as well; it is named, so that the layers keep their names.
    layers = dict(FAMILIES[precision][0].mlp(64, [12, 9], 3).named_children())
    return nn.Sequential(OrderedDict(flatten=layers.pop("flatten"), dropout=nn.Dropout(0.1), **layers))


def _train(precision: str, **options):
    return train(_model(precision), _data(), FAMILIES[precision][1].recipe, **{"settings": SETTINGS, **options})


class _InterruptError(Exception):
    """Stands for Ctrl-C, a crash, or a full disk."""


@pytest.mark.parametrize("optimiser", ["adam", "sgd", "bop"])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_gives_the_same_bits(tmp_path, monkeypatch, optimiser, stop) -> None:
    settings = replace(SETTINGS, optimiser=optimiser)
    whole = _train("binary", settings=settings)
    write = loop_module.write_checkpoint

    def interrupted(folder, checkpoint):
        write(folder, checkpoint)
        if len(checkpoint.history) == stop:
            raise _InterruptError

    monkeypatch.setattr(loop_module, "write_checkpoint", interrupted)
    with pytest.raises(_InterruptError):
        _train("binary", settings=settings, folder=tmp_path)
    monkeypatch.setattr(loop_module, "write_checkpoint", write)
    assert len(read_checkpoint(tmp_path).history) == stop
    resumed = _train("binary", settings=settings, folder=tmp_path)
    assert difference(resumed.params, whole.params) == 0
    plain = [epoch.model_dump(exclude={"seconds"}) for epoch in whole.history]
    assert [epoch.model_dump(exclude={"seconds"}) for epoch in resumed.history] == plain


@pytest.mark.parametrize("precision", FAMILIES)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(precision) -> None:
    first, second, other = _train(precision, seed=1), _train(precision, seed=1), _train(precision, seed=2)
    assert difference(first.params, second.params) == 0
    assert difference(first.params, other.params) > 0


@pytest.mark.parametrize("precision", FAMILIES)
def test_training_learns_and_leaves_the_model(precision) -> None:
    model = _model(precision)
    before, random_state = parameters(model), torch.get_rng_state()
    trained = train(model, _data(), FAMILIES[precision][1].recipe, settings=replace(SETTINGS, epochs=30))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert trained.history[-1].train_loss < 0.7 * trained.history[0].train_loss
    assert trained.history[-1].test_error < 0.3  # 2/3 by chance
    assert difference(parameters(model), before) == 0


def test_a_finished_run_is_read_not_made_again(tmp_path, monkeypatch) -> None:
    first = _train("full", folder=tmp_path)
    monkeypatch.setattr(loop_module, "_epoch", lambda *_: pytest.fail("trained again"))
    again = _train("full", folder=tmp_path)
    assert difference(first.params, again.params) == 0
    assert first.history == again.history


def test_the_configuration_lies_beside_the_checkpoint(tmp_path) -> None:
    _train("binary", folder=tmp_path, about={"precision": "binary"})
    described = json.loads((tmp_path / "training.json").read_text())
    assert described["settings"]["learning_rate"] == 1e-2
    assert described["settings"]["precision"] == "binary"
    assert described["complete"]
    assert read_checkpoint(tmp_path).settings == described["settings"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.safetensors", "training.json"]


def test_the_flip_ratio_is_the_share_of_signs_changed_in_a_step() -> None:
    """One epoch of one step, against a literal count."""
    model, data = _model("binary"), _data(16)
    recipe = FAMILIES["binary"][1].recipe
    trained = train(model, data, recipe, settings=replace(SETTINGS, epochs=1, learning_rate=0.5))
    before, after = parameters(model), trained.params
    latents = [name for name in before if name.startswith("linear")]
    changed = sum(int((sign(before[name]) != sign(after[name])).sum()) for name in latents)
    assert changed > 0
    assert trained.history[0].flip_ratio == pytest.approx(changed / sum(before[name].numel() for name in latents))
    assert _train("full").history[0].flip_ratio is None


def test_latents_stay_clipped() -> None:
    trained = _train("binary", settings=replace(SETTINGS, learning_rate=1.0))
    assert max(float(t.abs().max()) for name, t in trained.params.items() if name.startswith("linear")) <= 1


def test_bop_flips_binary_weights() -> None:
    trained = _train("binary", settings=replace(SETTINGS, optimiser="bop"))
    assert set(trained.params["linear1.weight"].unique().tolist()) == {-1.0, 1.0}
    assert trained.history[0].flip_ratio > 0


def test_the_rate_falls_on_half_a_cosine_step_by_step() -> None:
    rates = []

    class Watched(torch.optim.SGD):
        def step(self) -> None:
            rates.append(self.param_groups[0]["lr"])
            super().step()

    recipe = replace(
        FAMILIES["full"][1].recipe, optimiser=lambda model, s: Watched(model.parameters(), lr=s.learning_rate)
    )
    history = train(_model("full"), _data(), recipe, settings=SETTINGS).history
    steps = 4 * 7  # the last batch, of one sample, is left out
    assert rates == pytest.approx([1e-2 * 0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)])
    assert [epoch.learning_rate for epoch in history] == pytest.approx(rates[::7])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": "lion"}, "one of adam, sgd, bop, got 'lion'"),
        ({"epochs": 0}, "at least 1 epoch"),
        ({"batch": 1}, "2 samples a batch"),
        ({"learning_rate": 0.0}, "positive learning_rate"),
        ({"learning_rate": float("nan")}, "positive learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainingSettings(**settings)


def test_a_folder_belongs_to_one_network_and_one_data_set(tmp_path) -> None:
    """Another shape, other initial weights, other data of the same name, another precision."""
    _train("full", folder=tmp_path)
    recipe = FAMILIES["full"][1].recipe
    torch.manual_seed(1)
    shape = FAMILIES["full"][0].mlp(64, [7], 3)
    for model, data in ((shape, _data()), (_model("full", seed=1), _data()), (_model("full"), _data(114))):
        with pytest.raises(CheckpointError, match=r"other settings \((initial_parameters|training_data) differ\)"):
            train(model, data, recipe, settings=SETTINGS, folder=tmp_path)
    with pytest.raises(CheckpointError, match="precision"):
        train(_model("full"), _data(), FAMILIES["binary"][1].recipe, settings=SETTINGS, folder=tmp_path)


def test_what_describes_a_run_may_hold_tuples_and_buffers_may_be_left_out_of_the_state(tmp_path, monkeypatch) -> None:
    def model() -> nn.Module:
        built = _model("full")
        built.flatten.register_buffer("scale", torch.ones(2), persistent=False)
        return built

    recipe = FAMILIES["full"][1].recipe
    run = {"settings": SETTINGS, "folder": tmp_path, "about": {"hidden": (12, 9)}}
    write = loop_module.write_checkpoint

    def interrupted(folder, checkpoint):
        write(folder, checkpoint)
        raise _InterruptError

    monkeypatch.setattr(loop_module, "write_checkpoint", interrupted)
    with pytest.raises(_InterruptError):
        train(model(), _data(), recipe, **run)
    monkeypatch.setattr(loop_module, "write_checkpoint", write)
    train(model(), _data(), recipe, **run)
    assert len(train(model(), _data(), recipe, **run).history) == 4


@pytest.mark.parametrize("precision", FAMILIES)
def test_nan_in_the_data_stops_training_at_once(precision) -> None:
    data = _data()
    data.train.x[5] = float("nan")
    with pytest.raises(TrainingError, match=r"epoch 1, step \d+: .*lower the learning rate \(now 0.01\)"):
        train(_model(precision), data, FAMILIES[precision][1].recipe, settings=SETTINGS)


def test_nan_in_parameters_is_found_where_the_loss_hides_it() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.unused = nn.Linear(64, 3), nn.Parameter(torch.tensor([float("nan")]))

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x.flatten(1)) + 0 * self.unused.detach().nan_to_num()

    with pytest.raises(TrainingError, match="NaN or infinity in unused"):
        train(Forgetful(), _data(), FAMILIES["full"][1].recipe, settings=SETTINGS)


def test_another_configurations_checkpoint_is_refused(tmp_path) -> None:
    _train("full", folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings \(learning_rate, seed differ\)"):
        _train("full", folder=tmp_path, seed=1, settings=replace(SETTINGS, learning_rate=0.1))


@pytest.mark.parametrize("damage", [b"", b"rubbish" * 100, None])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage) -> None:
    _train("full", folder=tmp_path)
    file = tmp_path / "network.safetensors"
    file.write_bytes(file.read_bytes()[:-50] if damage is None else damage)
    with pytest.raises(CheckpointError, match=r"network\.safetensors is not a checkpoint"):
        _train("full", folder=tmp_path)


def test_a_missing_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path)


def test_full_precision_offers_no_bop() -> None:
    with pytest.raises(SettingsError, match="'adam' and 'sgd'"):
        _train("full", settings=replace(SETTINGS, optimiser="bop"))


def test_weight_decay_reaches_no_latent_weight() -> None:
    model = _model("binary")
    groups = binarynets.FAMILY.recipe.optimiser(model, replace(SETTINGS, weight_decay=0.1)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decays[id(p)] for p in binarynets.latent_weights(model).values()} == {0}
    assert len(decays) == len(list(model.parameters()))
    bop = binarynets.FAMILY.recipe.optimiser(model, replace(SETTINGS, optimiser="bop", weight_decay=0.1)).param_groups
    assert [group.get("weight_decay") for group in bop] == [None, 0.1]
