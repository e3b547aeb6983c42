"""The observer of a training changes no bit and counts steps as if nothing had interrupted; the log; initial values."""

from dataclasses import replace

import pytest
import torch
from test_training import SETTINGS, _data, _model
from torch import Tensor, nn
from zoo import FAMILIES

import compare
import fullprecision
from compare.training import ADV, RSGD, SettingsError, TrainingError, train
from compare.training import loop as loop_module
from fullprecision.conserved import SCHEMES, ConservedError, Log, conserved_quantities, drawn, expected

STEPS = 7  # of an epoch: 113 samples in batches of 16, the last of one sample is left out
ALGORITHMS = {"plain": {}, "rsgd": {"algorithm": RSGD(replicas=2)}, "adv": {"algorithm": ADV(random_epochs=1)}}


def _train(precision: str = "full", **options):
    return train(_model(precision), _data(), FAMILIES[precision][1].recipe, **{"settings": SETTINGS, **options})


class Meddler:
    """Keeps what it sees, then spoils it, and draws random numbers."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, Tensor]] = {}

    def __call__(self, step: int, params: dict[str, Tensor]) -> None:
        self.seen[step] = {name: tensor.clone() for name, tensor in params.items()}
        for tensor in params.values():
            tensor.zero_()
        torch.rand(3)


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["full", "binary"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_observer_changes_no_bit(precision: str, algorithm: str) -> None:
    settings = replace(SETTINGS, epochs=2, **ALGORITHMS[algorithm])
    plain = _train(precision, settings=settings)
    watched = _train(precision, settings=settings, observe=(meddler := Meddler()), observe_every=3)
    assert _same(plain.params, watched.params)
    assert [replace_seconds(epoch) for epoch in plain.history] == [replace_seconds(epoch) for epoch in watched.history]
    last = STEPS * len(plain.history)
    assert sorted(meddler.seen) == sorted({*range(0, last, 3), last})
    assert _same(meddler.seen[last], plain.params)


def replace_seconds(epoch):
    return epoch.model_copy(update={"seconds": 0.0})


def test_what_is_seen_first_is_the_model_itself() -> None:
    _train(observe=(meddler := Meddler()), observe_every=100)
    assert sorted(meddler.seen) == [0, 4 * STEPS]
    assert _same(meddler.seen[0], compare.parameters(_model("full")))


def test_an_interrupted_training_is_seen_as_one_that_was_not(tmp_path, monkeypatch) -> None:
    _train(observe=(whole := Meddler()), observe_every=2)
    kept = loop_module.write_checkpoint

    def stops(folder, checkpoint):
        kept(folder, checkpoint)
        if len(checkpoint.history) == 2:
            raise TrainingError("interrupted")

    monkeypatch.setattr(loop_module, "write_checkpoint", stops)
    with pytest.raises(TrainingError, match="interrupted"):
        _train(folder=tmp_path, observe=(first := Meddler()), observe_every=2)
    monkeypatch.setattr(loop_module, "write_checkpoint", kept)
    _train(folder=tmp_path, observe=(second := Meddler()), observe_every=2)
    assert max(first.seen) < 2 * STEPS <= min(second.seen)
    both = {**first.seen, **second.seen}
    assert both.keys() == whole.seen.keys()
    assert all(_same(both[step], whole.seen[step]) for step in both)
    _train(folder=tmp_path, observe=(third := Meddler()))
    assert not third.seen


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_an_interval_must_be_a_number_of_steps(every: float) -> None:
    with pytest.raises(SettingsError, match="observe_every: expected a whole number of steps"):
        _train(observe=Meddler(), observe_every=every)


def _quantities():
    model = fullprecision.mlp(64, [12, 9], 3)
    return conserved_quantities(compare.trace(model, _data().train.x[:8].flatten(1), fullprecision.FAMILY), model)


def test_a_log_keeps_the_course() -> None:
    log = Log(_quantities())
    data = _data()
    model = fullprecision.mlp(64, [12, 9], 3)
    meddler = Meddler()
    trained = train(model, data, fullprecision.FAMILY.recipe, settings=SETTINGS, observe=log, observe_every=10)
    train(model, data, fullprecision.FAMILY.recipe, settings=SETTINGS, observe=meddler, observe_every=10)
    assert log.steps == (0, 10, 20, 28)
    for which, quantity in enumerate(log.quantities):
        values = torch.stack([quantity(meddler.seen[step]) for step in log.steps])
        torch.testing.assert_close(log.values(which), values)
        moved = torch.linalg.vector_norm(quantity(trained.params) - quantity(meddler.seen[0]))
        drifts = log.drifts(which)
        assert drifts[0] == 0
        assert drifts[-1] == pytest.approx(float(moved) / quantity.scale(meddler.seen[0]))
    with pytest.raises(ConservedError, match="expected at least one"):
        Log([])


def test_a_log_of_a_training_that_goes_on_measures_from_the_start_it_is_given() -> None:
    quantities = _quantities()
    start, *seen = ({name: tensor * size for name, tensor in _parameters().items()} for size in (1.0, 1.1, 1.3))
    whole, late, told = Log(quantities), Log(quantities), Log(quantities, start)
    for log, points in ((whole, (start, *seen)), (late, seen), (told, seen)):
        for point in points:
            log(3 - len(points) + len(log.steps), point)
    assert told.steps == late.steps == (1, 2)
    assert told.drifts(0) == whole.drifts(0)[1:]
    assert late.drifts(0)[0] == 0 < told.drifts(0)[0]


def test_a_log_computes_terms_once_a_step() -> None:
    calls = []
    quantity = _quantities()[0]

    def terms(params):
        calls.append(1)
        return quantity.terms(params)

    Log([replace(quantity, terms=terms)])(0, _parameters())
    assert len(calls) == 1


def test_logs_without_a_course_are_refused() -> None:
    log = Log(_quantities())
    for ask in (log.values, log.drifts):
        with pytest.raises(ConservedError, match="nothing was seen yet"):
            ask(0)
    with pytest.raises(ConservedError, match=r"start: expected parameters of the network, got none named linear"):
        Log(_quantities(), {})
    zero = {name: torch.zeros_like(tensor) for name, tensor in _parameters().items()}
    log(0, zero)
    assert log.drifts(0) == (0.0,)
    log(1, _parameters())
    with pytest.raises(ConservedError, match="all terms are 0 at the start"):
        log.drifts(0)


def _parameters():
    torch.manual_seed(0)
    return compare.parameters(fullprecision.mlp(64, [12, 9], 3))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", [(8, 5, 3), (3, 6, 10)])
def test_initial_values_have_the_closed_form_moments(scheme, sizes: tuple[int, int, int]) -> None:
    """Within 5 standard errors of 4000 networks; units of one are averaged first, as orthogonal ones are dependent."""
    inputs, hidden, outputs = sizes
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [
            (drawn(scheme, (outputs, hidden), generator) ** 2).sum(0)
            - (drawn(scheme, (hidden, inputs), generator) ** 2).sum(1)
            for _ in range(4000)
        ]
    )
    found = expected(scheme, *sizes)
    for measured, moment in ((values, found.mean), ((values - found.mean) ** 2, found.variance)):
        per_network = measured.mean(1)
        error = float(per_network.std()) / 4000**0.5
        assert abs(float(per_network.mean()) - moment) <= 5 * error + 1e-12


@pytest.mark.parametrize("scheme", SCHEMES)
def test_drawn_weights_are_those_of_torch(scheme) -> None:
    """The same moments as torch's own initialisation, of a layer of 400 x 300."""
    weight = drawn(scheme, (400, 300), torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    own = nn.Linear(300, 400, bias=False).weight.detach()
    theirs = {
        "xavier normal": nn.init.xavier_normal_,
        "xavier uniform": nn.init.xavier_uniform_,
        "kaiming normal": nn.init.kaiming_normal_,
        "kaiming uniform": nn.init.kaiming_uniform_,
        "lecun normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
        "torch default": lambda w: w,
        "orthogonal": nn.init.orthogonal_,
    }[scheme](own)
    assert float(weight.std()) == pytest.approx(float(theirs.std()), rel=0.01)
    assert float(weight.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.2)


def test_unknown_schemes_and_sizes_are_refused() -> None:
    with pytest.raises(ConservedError, match="scheme: expected one of xavier normal"):
        expected("he", 1, 1, 1)
    with pytest.raises(ConservedError, match="expected positive numbers"):
        drawn("orthogonal", (0, 1), torch.Generator())
