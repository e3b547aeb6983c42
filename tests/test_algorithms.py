"""RSGD, ADV and SAM: each against its formulas written out, and the promises of the one loop for all of them."""

import copy
import json
import re
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo import FAMILIES, difference, pixels

from compare.cli import main
from compare.data import Data as LoadedData
from compare.data import Split as LoadedSplit
from compare.experiment import training_settings
from compare.params import parameters
from compare.runs.configuration import HYPERPARAMETERS, ConfigurationError, configure, folder_name
from compare.training import (
    ADV,
    ALGORITHMS,
    RSGD,
    SAM,
    CheckpointError,
    Note,
    Plain,
    SettingsError,
    TrainingError,
    TrainingSettings,
    algorithm,
    read_checkpoint,
    train,
)
from compare.training import loop as loop_module
from compare.training.descent import of_the_batch, of_the_worst_nearby
from compare.training.phases import permuted
from compare.training.replicas import Replicas, _displace_, barycentre, coupling, pulled, squared_distances


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Data:
    name: str
    train: Split
    test: Split


SETTINGS = TrainingSettings(epochs=3, batch=16, optimiser="sgd", learning_rate=1e-2)
CHOSEN = {"rsgd": RSGD(replicas=3, spread=0.5), "adv": ADV(random_epochs=2), "sam": SAM(rho=0.1)}


def _data(samples: int = 65) -> Data:
    """The class is where a bright bar lies."""
    x = pixels(samples + 40)
    y = torch.arange(len(x)) % 3
    for label in range(3):
        x[y == label, 0, 2 * label] = 16
    return Data("bars", Split(x[:samples], y[:samples]), Split(x[samples:], y[samples:]))


def _model(precision: str, *, dropout: float = 0.1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = dict(FAMILIES[precision][0].mlp(64, [12, 9], 3).named_children())
    return nn.Sequential(OrderedDict(flatten=layers.pop("flatten"), dropout=nn.Dropout(dropout), **layers))


def _train(precision: str, **options):
    model = options.pop("model", None) or _model(precision)
    return train(
        model, options.pop("data", _data()), FAMILIES[precision][1].recipe, **{"settings": SETTINGS, **options}
    )


def _batches(data: Data, replicas: int) -> list[tuple[Tensor, Tensor]]:
    return [(data.train.x[a * 16 : a * 16 + 16], data.train.y[a * 16 : a * 16 + 16]) for a in range(replicas)]


# --- the promises of the loop -----------------------------------------------------------------------------------------


class _InterruptError(Exception):
    """Stands for Ctrl-C, a crash, or a full disk."""


def _stopped(monkeypatch, folder, stop: int, precision: str, **options) -> None:
    write = loop_module.write_checkpoint

    def interrupted(place, checkpoint):
        write(place, checkpoint)
        if len(checkpoint.history) == stop:
            raise _InterruptError

    monkeypatch.setattr(loop_module, "write_checkpoint", interrupted)
    with pytest.raises(_InterruptError):
        _train(precision, folder=folder, **options)
    monkeypatch.setattr(loop_module, "write_checkpoint", write)


@pytest.mark.parametrize(
    ("name", "precision", "optimiser", "stop"),
    [
        ("rsgd", "full", "sgd", 1),
        ("rsgd", "binary", "adam", 2),
        ("adv", "binary", "bop", 1),
        ("adv", "full", "adam", 2),  # exactly between the phases
        ("adv", "full", "sgd", 3),
        ("sam", "binary", "sgd", 1),
        ("sam", "full", "adam", 2),
    ],
)
def test_a_resumed_run_gives_the_same_bits(tmp_path, monkeypatch, name, precision, optimiser, stop) -> None:
    settings = replace(SETTINGS, optimiser=optimiser, algorithm=CHOSEN[name])
    whole = _train(precision, settings=settings)
    _stopped(monkeypatch, tmp_path, stop, precision, settings=settings)
    assert len(read_checkpoint(tmp_path).history) == stop
    resumed = _train(precision, settings=settings, folder=tmp_path)
    assert difference(resumed.params, whole.params) == 0
    plain = [epoch.model_dump(exclude={"seconds"}) for epoch in whole.history]
    assert [epoch.model_dump(exclude={"seconds"}) for epoch in resumed.history] == plain
    assert resumed.course == whole.course
    read = _train(precision, settings=settings, folder=tmp_path)
    assert difference(read.params, whole.params) == 0
    assert read.course == whole.course


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("precision", FAMILIES)
def test_seeds_decide_the_bits_and_the_model_stays(precision, name) -> None:
    model = _model(precision)
    before, random_state = parameters(model), torch.get_rng_state()
    settings = replace(SETTINGS, algorithm=CHOSEN[name])
    first, again, other = (_train(precision, model=model, settings=settings, seed=seed) for seed in (1, 1, 2))
    assert difference(first.params, again.params) == 0
    assert difference(first.params, other.params) > 0
    assert difference(parameters(model), before) == 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize(
    ("precision", "optimiser"), [("binary", "adam"), ("binary", "sgd"), ("full", "adam"), ("full", "sgd")]
)
def test_every_algorithm_learns(precision, optimiser, name) -> None:
    settings = replace(SETTINGS, epochs=15, optimiser=optimiser, algorithm=CHOSEN[name])
    settings = replace(settings, learning_rate=1e-2 if optimiser == "adam" else 0.1)
    trained = _train(precision, settings=settings, model=_model(precision, dropout=0), data=_data(113))
    assert trained.history[-1].test_error < 0.4  # 2/3 by chance


def test_another_algorithm_or_hyperparameter_belongs_to_another_folder(tmp_path) -> None:
    _train("full", settings=replace(SETTINGS, algorithm=SAM(rho=0.1)), folder=tmp_path)
    for chosen in (SAM(rho=0.2), Plain(), RSGD()):
        with pytest.raises(CheckpointError, match=r"other settings \(.*algorithm.* differ\)"):
            _train("full", settings=replace(SETTINGS, algorithm=chosen), folder=tmp_path)


def test_checkpoints_of_plain_training_are_as_before_there_were_algorithms(tmp_path) -> None:
    expected = {"epochs": 3, "batch": 16, "optimiser": "sgd", "learning_rate": 1e-2, "weight_decay": 0.0}
    assert SETTINGS.as_dict() == expected
    trained = _train("full", folder=tmp_path)
    file = tmp_path / "network.safetensors"
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    assert json.loads(metadata.pop("course")) == [{}] * 3
    save_file(tensors, file, metadata)
    old = read_checkpoint(tmp_path)
    assert old.course == (Note(),) * 3
    assert difference(_train("full", folder=tmp_path).params, trained.params) == 0


def test_every_algorithm_survives_its_description() -> None:
    for chosen in (Plain(), RSGD(replicas=5), ADV(random_error=0.1), SAM(rho=2.0)):
        settings = replace(SETTINGS, algorithm=chosen)
        assert TrainingSettings.from_dict({**json.loads(json.dumps(settings.as_dict())), "seed": 3}) == settings


# --- replicated SGD ---------------------------------------------------------------------------------------------------


def test_barycentre_and_coupling_by_hand() -> None:
    replicas = [
        {"w": torch.tensor([[0.0, 3.0]]), "b": torch.tensor([1.0]), "n": torch.tensor(4)},
        {"w": torch.tensor([[3.0, 3.0]]), "b": torch.tensor([1.0]), "n": torch.tensor(5)},
        {"w": torch.tensor([[6.0, 0.0]]), "b": torch.tensor([4.0]), "n": torch.tensor(6)},
    ]
    centre = barycentre(replicas)
    assert {name: tensor.tolist() for name, tensor in centre.items()} == {"w": [[3, 2]], "b": [2], "n": 4}
    for replica in (*replicas, centre):
        del replica["n"]
    assert squared_distances(replicas, centre) == [9 + 1 + 1, 0 + 1 + 1, 9 + 4 + 4]
    assert coupling(replicas, 0.5) == pytest.approx(0.5 * (11 + 2 + 17) / 3)
    # 1 + 2 x 0.25 x 2 = 2: half the way to the centre.
    after = pulled(replicas, 2.0, 0.25)
    assert [w["w"].tolist() for w in after] == [[[1.5, 2.5]], [[3, 2.5]], [[4.5, 1]]]
    assert [w["b"].tolist() for w in after] == [[1.5], [1.5], [3]]


def test_the_pull_is_the_couplings_gradient_taken_where_it_arrives() -> None:
    """The gradient by autograd, through the barycentre."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    arrived = torch.stack([w["w"] for w in pulled([{"w": w} for w in start], 3.0, 0.4)]).requires_grad_()
    term = 3.0 * ((arrived - arrived.mean(0)) ** 2).sum(1).mean()
    (gradient,) = torch.autograd.grad(4 * term, arrived)
    assert torch.allclose(arrived, start - 0.4 * gradient)
    assert float(term.detach()) == pytest.approx(coupling([{"w": w} for w in arrived.detach()], 3.0))


@pytest.mark.parametrize("precision", FAMILIES)
def test_steps_of_replicas_are_the_literal_ones(precision) -> None:
    """Two steps of Nesterov's SGD for each of three replicas, each followed by clipping and the pull."""
    data, recipe = _data(), FAMILIES[precision][1].recipe
    chosen = RSGD(replicas=3, coupling=0.7, growth=16.0, spread=0.5)
    tested = Replicas(_model(precision, dropout=0).double(), recipe, SETTINGS, chosen, seed=0)
    batches = [(x.double(), y) for x, y in _batches(data, 3)]
    models = copy.deepcopy(tested.models)
    velocities = [[torch.zeros_like(p) for p in model.parameters()] for model in models]
    first = None
    for progress, rate in ((0.0, 1e-2), (0.5, 5e-3)):  # half a cosine
        loss, _ = tested.step(batches, progress)
        losses = [F.cross_entropy(model(x), y) for model, (x, y) in zip(models, batches, strict=True)]
        gradients = [
            torch.autograd.grad(own, list(model.parameters())) for own, model in zip(losses, models, strict=True)
        ]
        own_loss = float(sum(losses).detach() / 3)
        assert loss == pytest.approx(own_loss)
        with torch.no_grad():
            same = list(zip(*(model.parameters() for model in models), strict=True))
            squares = sum(((w - sum(ws) / 3) ** 2).sum() for ws in same for w in ws) / 3
            first = first or 0.7 * own_loss / float(squares)
            strength = first * 16**progress
            for model, own, velocity in zip(models, gradients, velocities, strict=True):
                for w, g, v in zip(model.parameters(), own, velocity, strict=True):
                    v.mul_(0.9).add_(g)
                    w -= rate * (g + 0.9 * v)
                recipe.after_step(model)
            for ws in same:
                centre = sum(ws) / 3
                for w in ws:
                    w.copy_(centre + (w - centre) / (1 + 2 * rate * strength))
        assert tested.figures()["coupling"] == pytest.approx(strength)
    for model, expected in zip(tested.models, models, strict=True):
        assert difference(parameters(model), parameters(expected)) < 1e-9


def test_the_coupling_grows_exponentially_and_replicas_collapse() -> None:
    settings = replace(SETTINGS, epochs=10, learning_rate=0.05, algorithm=RSGD(growth=1e4, spread=0.5))
    course = _train("full", settings=settings).course
    ratios = [after.coupling / before.coupling for before, after in pairwise(course)]
    assert ratios == pytest.approx([1e4 ** (1 / 10)] * 9)
    assert course[-1].distance < 1e-2 * course[0].distance


def test_replicas_start_apart_and_see_batches_of_their_own(monkeypatch) -> None:
    seen, starts = [], []

    class Watched(Replicas):
        def step(self, batches, progress):
            if not seen:
                starts.extend(parameters(model) for model in self.models)
            seen.append([x for x, _ in batches])
            return super().step(batches, progress)

    monkeypatch.setattr(loop_module, "Replicas", Watched)
    model = _model("full")
    _train("full", model=model, settings=replace(SETTINGS, epochs=1, algorithm=RSGD(spread=0.5)))
    assert len(seen) == 4
    assert all(not torch.equal(step[a], step[b]) for step in seen for a, b in ((0, 1), (0, 2), (1, 2)))
    for a in range(3):  # each replica has seen every sample but the one that is left over
        assert len(torch.cat([step[a] for step in seen]).flatten(1).unique(dim=0)) == 64
    given = parameters(model)
    for start in starts:
        moved = (start["linear1.weight"] - given["linear1.weight"]).std() / given["linear1.weight"].std()
        assert float(moved) == pytest.approx(0.5, rel=0.1)
        assert torch.equal(start["norm1.weight"], given["norm1.weight"])
    assert difference(starts[0], starts[1]) > 0


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("precision", FAMILIES)
def test_the_result_is_the_barycentre_with_statistics_measured_for_it(tmp_path, monkeypatch, precision, apart) -> None:
    """On inputs that are set apart for that, where the data set has some, else on those trained on."""
    data, settings = _data(), replace(SETTINGS, algorithm=CHOSEN["rsgd"])
    inputs = data.train.x
    if apart:
        inputs = pixels(50, seed=9)
        data = LoadedData(
            "bars", LoadedSplit(*_pair(data.train), inputs), LoadedSplit(*_pair(data.test), inputs), 3, (1, 8, 8)
        )
    model = _model(precision, dropout=0)
    _stopped(monkeypatch, tmp_path, 1, precision, model=model, settings=settings, data=data)
    found = read_checkpoint(tmp_path)
    weight = torch.stack([replica["linear1.weight"] for replica in found.optimiser["replicas"]]).mean(0)
    assert torch.allclose(found.params["linear1.weight"], weight)
    used = model.linear1
    with torch.no_grad():
        used.weight.copy_(weight)
        sums = used(inputs.flatten(1))
    assert torch.allclose(found.params["norm1.running_mean"], sums.mean(0), atol=1e-4)
    assert torch.allclose(found.params["norm1.running_var"], sums.var(0), rtol=1e-4)
    if apart:
        other = replace(data, train=LoadedSplit(*_pair(data.train), pixels(50, seed=8)))
        with pytest.raises(CheckpointError, match=r"other settings \(calibration differ\)"):
            _train(precision, model=_model(precision, dropout=0), settings=settings, data=other, folder=tmp_path)


def _pair(split) -> tuple[Tensor, Tensor]:
    return split.x, split.y


def test_a_network_without_normalisation_has_a_barycentre_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    trained = _train("full", model=model, settings=replace(SETTINGS, learning_rate=1e-3, algorithm=CHOSEN["rsgd"]))
    assert sorted(trained.params) == ["1.bias", "1.weight", "3.bias", "3.weight"]


def test_a_weight_of_one_entry_stays_where_it_is() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 3))
    before = parameters(model)
    _displace_(model, 0.5, seed=0)
    assert torch.equal(parameters(model)["0.weight"], before["0.weight"])
    assert not torch.equal(parameters(model)["1.weight"], before["1.weight"])


def test_replicas_that_start_at_one_point_are_refused() -> None:
    model = _model("full")
    nn.init.zeros_(model.linear1.weight)
    nn.init.zeros_(model.linear2.weight)
    nn.init.zeros_(model.linear3.weight)
    with pytest.raises(TrainingError, match="all replicas start at one point"):
        _train("full", model=model, settings=replace(SETTINGS, algorithm=RSGD()))


# --- random labels first ----------------------------------------------------------------------------------------------


def _labels_seen(monkeypatch, **options) -> list[list[tuple[Tensor, Tensor]]]:
    """What each epoch of four steps was trained on."""
    seen = []

    def watched(model, x, y):
        seen.append((x, y))
        return of_the_batch(model, x, y)

    monkeypatch.setattr(loop_module, "of_the_batch", watched)
    _train("full", **options)
    monkeypatch.setattr(loop_module, "of_the_batch", of_the_batch)
    return [seen[i : i + 4] for i in range(0, len(seen), 4)]


def _label_of(data: Data, labels: Tensor, x: Tensor) -> Tensor:
    place = [int((data.train.x == one).flatten(1).all(1).nonzero()[0]) for one in x]
    return labels[place]


def test_labels_are_permuted_in_the_first_phase_only(monkeypatch) -> None:
    data = _data()
    settings = replace(SETTINGS, algorithm=ADV(random_epochs=2))
    epochs = _labels_seen(monkeypatch, settings=settings, seed=5)
    drawn = permuted(data.train.y, 5)
    assert len(epochs) == 5
    for number, batches in enumerate(epochs):
        for x, y in batches:
            assert torch.equal(y, _label_of(data, drawn if number < 2 else data.train.y, x))


def test_the_permutation_is_one_and_seeded() -> None:
    y = _data().train.y
    drawn = permuted(y, 0)
    assert torch.equal(drawn, permuted(y, 0))
    assert not torch.equal(drawn, permuted(y, 1))
    assert torch.equal(drawn.sort().values, y.sort().values)
    assert 0.4 < float((drawn != y).float().mean()) < 0.9  # 2/3 on average


def test_the_second_phase_begins_anew_without_regularisation(monkeypatch) -> None:
    """A fresh optimiser without weight decay, a schedule of its own, no dropout."""
    made, rates, masked = [], [], []

    class Watched(torch.optim.SGD):
        def step(self) -> None:
            rates[-1].append(self.param_groups[0]["lr"])
            super().step()

    def optimiser(model, settings):
        made.append(settings)
        rates.append([])
        return Watched(model.parameters(), lr=settings.learning_rate, momentum=0.9)

    class Dropout(nn.Dropout):
        def forward(self, x):
            masked.append(self.training)
            return super().forward(x)

    model = _model("full")
    model.dropout = Dropout(0.1)
    recipe = replace(FAMILIES["full"][1].recipe, optimiser=optimiser)
    chosen = ADV(random_epochs=2, random_learning_rate=0.5)
    trained = train(model, _data(), recipe, settings=replace(SETTINGS, weight_decay=0.1, algorithm=chosen))
    assert [(s.epochs, s.learning_rate, s.weight_decay) for s in made] == [(2, 0.5, 0.1), (3, 1e-2, 0.0)]
    assert [len(each) for each in rates] == [2 * 4, 3 * 4]
    assert [rates[0][0], rates[1][0]] == [0.5, 1e-2]
    assert rates[0][-1] < 0.05
    assert rates[1][-1] < 1e-3
    trainings = [masked[i] for i in range(len(masked)) if i % 5 < 4]  # the fifth pass of an epoch is the test's
    assert trainings == [True] * 8 + [False] * 12
    assert [note.random_labels for note in trained.course] == [True, True, False, False, False]
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3, 4, 5]
    assert [epoch.learning_rate for epoch in trained.history] == pytest.approx([0.5, 0.25, 1e-2, 7.5e-3, 2.5e-3])


def test_random_labels_end_once_they_are_fitted() -> None:
    model = _model("full", dropout=0)
    settings = replace(SETTINGS, optimiser="adam", algorithm=ADV(random_epochs=100, random_error=0.3))
    trained = _train("full", model=model, settings=settings)
    errors = [
        epoch.train_error for epoch, note in zip(trained.history, trained.course, strict=True) if note.random_labels
    ]
    assert len(errors) < 100
    assert errors[-1] <= 0.3
    assert min(errors[:-1]) > 0.3
    assert len(trained.history) == len(errors) + 3


# --- sharpness-aware minimisation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", FAMILIES)
def test_a_sam_step_is_the_literal_one(precision) -> None:
    """Two passes through fresh copies; the gradient of the moved copy moves the first, whose statistics it keeps."""
    model, recipe = _model(precision, dropout=0).double(), FAMILIES[precision][1].recipe
    x, y = _data().train.x[:16].double(), _data().train.y[:16]
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    F.cross_entropy(first(x), y).backward()
    norm = sum((p.grad**2).sum() for p in first.parameters()) ** 0.5
    with torch.no_grad():
        for moved, p in zip(second.parameters(), first.parameters(), strict=True):
            moved += 0.3 * p.grad / norm
    F.cross_entropy(second(x), y).backward()
    gradients = [p.grad for p in second.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    loss, _ = of_the_worst_nearby(0.3)(model, x, y)
    assert float(loss) == pytest.approx(float(F.cross_entropy(first(x), y).detach()))
    for p, gradient, start in zip(model.parameters(), gradients, before, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-12)
        assert torch.equal(p, start)
    plain = copy.deepcopy(first)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == 1
    fresh = _model(precision, dropout=0).double().train()
    fresh(x)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), fresh.buffers(), strict=True))
    optimiser = recipe.optimiser(model, SETTINGS)
    optimiser.step()
    for p, gradient, start in zip(model.parameters(), gradients, before, strict=True):
        assert torch.allclose(p, start - 1e-2 * 1.9 * gradient, atol=1e-12)  # Nesterov's first step
    assert difference(parameters(model), parameters(plain)) > 0


def test_both_passes_of_sam_share_their_dropout_masks() -> None:
    """A tiny radius gives the plain step then, and the generator ends where one pass leaves it."""
    x, y = _data().train.x[:16], _data().train.y[:16]
    gradients, ends = [], []
    for gradient in (of_the_batch, of_the_worst_nearby(1e-6)):
        model = _model("full", dropout=0.5)
        torch.manual_seed(3)
        gradient(model, x, y)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        ends.append(torch.get_rng_state())
    assert difference(*gradients) < 1e-3
    assert torch.equal(*ends)


def test_the_loop_takes_sam_steps(monkeypatch) -> None:
    calls = []

    def made(rho):
        def gradient(model, x, y):
            calls.append(rho)
            return of_the_batch(model, x, y)

        return gradient

    monkeypatch.setattr(loop_module, "of_the_worst_nearby", made)
    _train("full", settings=replace(SETTINGS, algorithm=SAM(rho=0.2)))
    assert calls == [0.2] * 12


# --- settings, configuration, command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: RSGD(replicas=1), "replicas: expected a whole number of at least 2, got 1"),
        (lambda: RSGD(replicas=2.5), "replicas: expected a whole number"),
        (lambda: RSGD(coupling=0.0), "coupling: expected a positive finite number"),
        (lambda: RSGD(growth=0.5), "growth: expected a finite number of at least 1"),
        (lambda: RSGD(spread=float("nan")), "spread: expected a positive finite number, got nan"),
        (lambda: ADV(random_epochs=0), "random_epochs: expected a whole number of at least 1, got 0"),
        (lambda: ADV(random_error=1.0), "random_error: expected a fraction"),
        (lambda: ADV(random_learning_rate=-1.0), "random_learning_rate: expected a positive"),
        (lambda: SAM(rho=0.0), "rho: expected a positive finite number, got 0"),
        (lambda: algorithm("lion"), "algorithm: expected one of plain, rsgd, adv, sam, got 'lion'"),
        (lambda: algorithm("sam", replicas=3), "'sam' has no replicas; its hyperparameters are: rho"),
        (
            lambda: algorithm("plain", rho=3),
            r"'plain' has no rho; its hyperparameters are: none\. Leave out what it does not have, or choose 'sam'$",
        ),
        (lambda: algorithm("sam", momentum=3), r"'sam' has no momentum; .*: rho\. Leave out what it does not have$"),
        (lambda: replace(SETTINGS, algorithm="sam"), "expected one such as compare.training.SAM"),
        (
            lambda: replace(SETTINGS, optimiser="bop", algorithm=SAM()),
            "'sam' does not go with the optimiser 'bop'.*no sign",
        ),
        (lambda: replace(SETTINGS, optimiser="bop", algorithm=RSGD()), "'rsgd' does not go .* barycentre"),
    ],
)
def test_what_does_not_fit_is_refused(made, message) -> None:
    with pytest.raises(SettingsError, match=message):
        made()


def test_the_configuration_knows_every_hyperparameter() -> None:
    """And its default, in the same order: the two are written apart, since help comes without torch."""
    known = {name: list(own.items()) for name, own in HYPERPARAMETERS.items()}
    assert {name: list(asdict(kind()).items()) for name, kind in ALGORITHMS.items()} == known


def test_help_tells_the_defaults_of_hyperparameters(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "the algorithm's own" not in text
    for option, default in [
        ("replicas", "3"),
        ("coupling", "1"),
        ("growth", "10000"),
        ("spread", "0.3"),
        ("random-epochs", "50"),
        ("random-error", "0"),
        ("random-learning-rate", "that of --learning-rate"),
        ("rho", "0.05"),
    ]:
        assert re.search(rf" --{option} [A-Z_]+ [^-][^()]*(\([^()]*\)[^()]*)*\(default: {default}\)", text), option


def test_configurations_of_plain_training_keep_their_identity() -> None:
    """Folders of runs from before there were algorithms are found again."""
    assert (
        folder_name(configure({}))
        == folder_name(configure({"training.algorithm": "plain"}))
        == "digits-mlp-5ede0359f385"
    )
    assert folder_name(configure({"training.algorithm": "sam"})) != folder_name(configure({}))
    rho = [folder_name(configure({"training.algorithm": "sam", "training.rho": rho})) for rho in (0.1, 0.2)]
    assert len({*rho}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"training.algorithm": "sam", "training.replicas": "3"},
            r"'sam' has no replicas; its hyperparameters are: rho. "
            "--replicas belongs to --algorithm rsgd: add that, or leave it out$",
        ),
        (
            {"training.rho": "0.1"},
            r"'plain' has no rho; its hyperparameters are: none\. "
            "--rho belongs to --algorithm sam: add that, or leave it out$",
        ),
        (
            {"training.rho": "0.1", "training.random_epochs": "3", "training.random_error": "0"},
            r"no random_epochs, random_error, rho; .*none\. --random-epochs, --random-error belong to --algorithm adv: "
            "add that, or leave them out; --rho belongs to --algorithm sam: add that, or leave it out$",
        ),
        (
            {"training.algorithm": "rsgd", "training.optimiser": "bop"},
            "training: the algorithm 'rsgd' does not go with the optimiser 'bop'.*barycentre. Use the optimiser 'adam'",
        ),
        ({"training.algorithm": "sam", "training.optimiser": "bop"}, "'sam' does not go with .*no sign"),
        ({"training.algorithm": "lion"}, r"algorithm \(--algorithm\): got 'lion', expected 'plain', 'rsgd'"),
        ({"training.algorithm": "sam", "training.rho": "0"}, r"rho \(--rho\): got '0', expected greater than 0"),
        ({"training.algorithm": "adv", "training.random_error": "1"}, r"random_error \(--random-error\)"),
    ],
)
def test_the_configuration_refuses_what_does_not_fit(options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configure(options)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--algorithm", "rsgd", "--replicas", "2", "--growth", "100"],
            {"replicas": 2, "growth": 100.0, "coupling": 1.0},
        ),
        (["--algorithm", "adv", "--random-epochs", "1"], {"random_epochs": 1, "random_error": 0.0}),
        (["--algorithm", "sam", "--rho", "0.2"], {"rho": 0.2}),
    ],
)
def test_the_command_line_trains_with_it(tmp_path, capsys, words, expected) -> None:
    out = str(tmp_path / "network")
    common = ["train", "--precision", "full", "--hidden", "8", "--epochs", "1", "--out", out]
    assert main([*common, *words]) == 0
    described = json.loads((tmp_path / "network" / "training.json").read_text())
    assert described["settings"]["algorithm"].items() >= {"name": words[1], **expected}.items()
    assert ("coupling" in described["history"][0]) == (words[1] == "rsgd")
    assert described["history"][0].get("random_labels", False) == (words[1] == "adv")
    told = capsys.readouterr().out
    assert ("(running mean of the replicas over the last epoch), test error" in told) == (words[1] == "rsgd")
    assert ("% of their barycentre\n" in told) == (words[1] == "rsgd")
    assert "test error" in told


def test_a_dry_run_refuses_bop_where_it_does_not_belong(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "--precisions", "binary", "--optimiser", "bop", "--dry-run", "--algorithm"]
    assert main([*words, "rsgd"]) == 2
    assert "compare-nets run: error: the options: training: the algorithm 'rsgd' does" in capsys.readouterr().err
    assert main([*words, "adv"]) == 0


def test_the_progress_line_tells_what_the_algorithm_does(monkeypatch) -> None:
    lines = []
    monkeypatch.setattr(loop_module.tqdm, "set_postfix_str", lambda _, text, **__: lines.append(text))
    _train("full", settings=replace(SETTINGS, epochs=1, algorithm=ADV(random_epochs=1)))
    _train("full", settings=replace(SETTINGS, epochs=1, algorithm=RSGD()))
    assert lines[0].startswith("random labels: loss ")
    assert "train error" in lines[0]
    assert not lines[1].startswith("random")
    assert ", coupling " in lines[2]
    assert ", distance " in lines[2]


def test_the_guides_example_runs(capsys) -> None:
    guide = (Path(__file__).parents[1] / "docs/algorithms.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(example, {})
    assert re.fullmatch(
        r"test error of the barycentre [\d.]+%, coupling [\d.e+]+, distance [\d.e-]+\n", capsys.readouterr().out
    )


def test_the_guide_tells_every_hyperparameter_and_its_default() -> None:
    guide = (Path(__file__).parents[1] / "docs/algorithms.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| .* \| (.*) \|$", guide, re.MULTILINE)
    told = [(owner, name, default) for owner, name, default in rows if owner in ALGORITHMS]
    assert told == [
        (owner, name, "that of the true labels" if default is None else f"{default:g}")
        for owner, own in HYPERPARAMETERS.items()
        for name, default in own.items()
    ]


def test_a_recipe_keeps_its_own_algorithm_unless_another_is_asked_for() -> None:
    family = FAMILIES["full"][1]
    own = replace(family.recipe.settings, algorithm=SAM(rho=0.2))
    family = replace(family, recipe=replace(family.recipe, settings=own))
    asked = {"training.algorithm": "rsgd", "training.replicas": 4}
    for options, expected in (
        ({"training.epochs": 3}, SAM(rho=0.2)),
        ({"training.algorithm": "plain"}, Plain()),
        (asked, RSGD(replicas=4)),
    ):
        assert training_settings(family, configure(options)).algorithm == expected
