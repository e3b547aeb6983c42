"""Errors against a literal count, statistics against their definition."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from zoo import FAMILIES, difference, pixels, randomised, small_networks

from compare.evaluation import StatisticsError, error_curve, error_curves, evaluate, re_estimated
from compare.evaluation.statistics import calibrator
from compare.geometry import linear_path
from compare.params import call, parameters
from compare.symmetry import trace


@dataclass(frozen=True)
class Split:
    x: Tensor
    y: Tensor


def _split(samples: int = 50, seed: int = 0) -> Split:
    return Split(
        pixels(samples, seed=seed), torch.randint(0, 5, (samples,), generator=torch.Generator().manual_seed(seed))
    )


def _model(precision: str = "binary", name: str = "mlp") -> nn.Module:
    return small_networks(precision)[name]


@pytest.mark.parametrize("batch", [1, 7, 50, 1000])
def test_errors_and_losses_are_counted_literally(batch) -> None:
    model, split = _model(), _split()
    params = randomised(model)
    found = evaluate(model, params, split, batch=batch)
    wrong, loss = 0, 0.0
    for x, y in zip(split.x, split.y, strict=True):
        logits = call(model, params, x[None])[0].double()
        wrong += int(logits.argmax() != y)
        loss -= float(logits.log_softmax(0)[y])
    assert found.wrong == wrong
    assert found.error == wrong / 50
    assert found.loss == pytest.approx(loss / 50, rel=1e-5)


def test_a_model_in_training_mode_and_no_samples_are_refused() -> None:
    model = _model()
    with pytest.raises(ValueError, match="evaluation mode"):
        evaluate(model.train(), parameters(model), _split())
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate(model.eval(), parameters(model), Split(pixels(0), torch.zeros(0, dtype=torch.long)))


def test_re_estimated_statistics_are_those_of_the_pre_activations() -> None:
    model = _model("full")
    params, x = randomised(model), pixels(200)
    found = re_estimated(calibrator(model), params, x)
    sums = x.flatten(1) @ params["linear1.weight"].T
    assert torch.allclose(found["norm1.running_mean"], sums.mean(0), rtol=1e-4, atol=1e-3)
    assert torch.allclose(found["norm1.running_var"], sums.var(0), rtol=1e-4)
    assert difference({k: v for k, v in found.items() if "running" not in k and "num" not in k}, params_of(params)) == 0


def params_of(params):
    return {name: tensor for name, tensor in params.items() if "running" not in name and "num" not in name}


def test_re_estimation_takes_the_mean_over_batches_and_forgets_the_past() -> None:
    model = _model("full")
    x = pixels(200)
    params = randomised(model)
    params["norm1.num_batches_tracked"] = torch.tensor(17)
    whole = re_estimated(calibrator(model), params, x)
    parts = [re_estimated(calibrator(model), params, part) for part in x.chunk(4)]
    expected = torch.stack([part["norm1.running_var"] for part in parts]).mean(0)
    assert torch.allclose(
        re_estimated(calibrator(model), params, x, batch=50)["norm1.running_var"], expected, rtol=1e-4
    )
    assert not torch.allclose(whole["norm1.running_mean"], params["norm1.running_mean"])


def test_re_estimation_changes_neither_model_nor_arguments() -> None:
    model = _model("full")
    params, before = randomised(model), parameters(model)
    kept = {name: tensor.clone() for name, tensor in params.items()}
    re_estimated(calibrator(model), params, pixels(20))
    assert difference(params, kept) == 0
    assert difference(parameters(model), before) == 0
    assert not model.training


def test_dropout_stays_off_while_statistics_are_measured() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 3), nn.BatchNorm1d(3))
    results = [re_estimated(calibrator(model), parameters(model), pixels(50)) for _ in range(2)]
    assert difference(*results) == 0


@pytest.mark.parametrize("statistics", ["interpolated", "re-estimated"])
@pytest.mark.parametrize("precision", FAMILIES)
def test_a_curve_is_the_score_of_each_network_on_the_path(precision, statistics) -> None:
    model, split, calibration = _model(precision), _split(), pixels(100, seed=9)
    graph = trace(model, pixels(4), FAMILIES[precision][1])
    path = linear_path(graph, randomised(model, seed=1), randomised(model, seed=2))
    ts = [0, 0.3, 1]
    curve = error_curve(model, path, split, ts, statistics=statistics, calibration=calibration)
    for t, error, loss in zip(ts, curve.errors, curve.losses, strict=True):
        params = path(t)
        if statistics == "re-estimated":
            params = re_estimated(calibrator(model), params, calibration)
        score = evaluate(model, params, split)
        assert error == score.error
        # In full precision the first layer's outputs are mixed between the ends, and rounded otherwise.
        mixed = precision == "full" and t not in (0, 1)
        assert loss == (pytest.approx(score.loss, rel=1e-5) if mixed else score.loss)
    assert (curve.ts, curve.samples, curve.statistics) == ((0.0, 0.3, 1.0), 50, statistics)


def test_several_splits_give_what_each_gives_alone() -> None:
    model = _model()
    path = lambda _: randomised(model)  # noqa: E731
    first, second = _split(seed=1), _split(30, seed=2)
    both = error_curves(model, path, {"train": first, "test": second}, [0.5])
    assert both["train"] == error_curve(model, path, first, [0.5])
    assert both["test"].samples == 30


def test_calibration_comes_from_the_split_where_it_has_some() -> None:
    @dataclass(frozen=True)
    class Calibrated(Split):
        calibration: Tensor

    model, split = _model(), _split()
    path = lambda _: randomised(model)  # noqa: E731
    calibrated = Calibrated(split.x, split.y, pixels(100, seed=9))
    given = error_curve(model, path, split, [0], statistics="re-estimated", calibration=calibrated.calibration)
    assert error_curve(model, path, calibrated, [0], statistics="re-estimated") == given


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": "new"}, "'interpolated' or 're-estimated'"),
        ({"ts": []}, "at least one number"),
        ({"ts": [1.2]}, "between 0 and 1"),
        ({"statistics": "re-estimated"}, "pass calibration="),
        ({"statistics": "re-estimated", "calibration": pixels(1)}, "at least 2 calibration samples, got 1"),
    ],
)
def test_bad_requests_are_refused(options, message) -> None:
    model = _model()
    with pytest.raises(ValueError, match=message):
        error_curve(model, lambda _: parameters(model), _split(), **{"ts": [0.0], **options})


def test_a_network_without_normalisation_has_nothing_to_re_estimate() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(StatisticsError, match="no batch normalisation"):
        error_curve(model, lambda _: parameters(model), _split(), [0], statistics="re-estimated", calibration=pixels(9))
