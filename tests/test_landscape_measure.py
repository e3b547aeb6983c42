"""The landscape as part of a record: perceptrons whole, convnets on a grid, others with the reason why not."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import binarynets
from binarynets.landscape import measure
from compare.data import Split
from compare.evaluation import error_curve
from compare.geometry import linear_path
from compare.params import Params, parameters
from compare.symmetry import trace


def _shaken(model: nn.Module, seed: int) -> Params:
    """Random parameters and statistics, gains positive."""
    generator = torch.Generator().manual_seed(seed)
    params = parameters(model)
    for name, tensor in params.items():
        if name.endswith("running_var"):
            params[name] = 1 + 20 * torch.rand(tensor.shape, generator=generator)
        elif tensor.is_floating_point() and not name.endswith(("norm1.weight", "norm2.weight")):
            params[name] = torch.randn(tensor.shape, generator=generator)
    return params


def _splits(shape: tuple[int, ...], classes: int) -> dict[str, Split]:
    generator = torch.Generator().manual_seed(9)

    def split(n: int) -> tuple[Tensor, Tensor]:
        x = 2.0 * torch.randint(0, 256, (n, *shape), generator=generator) - 255
        return x, torch.randint(0, classes, (n,), generator=generator)

    calibration = split(40)[0]
    return {"train": Split(*split(90), calibration), "test": Split(*split(50), calibration)}


def _measured(model: nn.Module, shape: tuple[int, ...], classes: int):
    splits = _splits(shape, classes)
    a, b = _shaken(model, 1), _shaken(model, 2)
    graph = trace(model, splits["train"].x[:4], binarynets.FAMILY)
    return measure.landscape(graph, model, a, b, splits, seed=3), (graph, a, b, splits)


@pytest.fixture(scope="module")
def perceptron():
    return _measured(binarynets.mlp(12, [9, 7], 4).eval(), (12,), 4)


def test_a_perceptron_is_counted_whole(perceptron) -> None:
    (found, notes), _ = perceptron
    assert notes == ()
    assert [(c.statistics, c.order, c.split) for c in found.curves] == [
        (statistics, order, split)
        for statistics in ("interpolated", "re-estimated")
        for order in ("latent-line", "random", "greedy")
        for split in ("train", "test")
    ]
    assert all(c.complete and c.networks > c.flips > 0 for c in found.curves)
    assert len({c.flips for c in found.curves}) == 1
    assert [n.split for n in found.neighbourhoods] == ["train", "test"]
    assert [r.weight for r in found.robustness] == [None, "linear1.weight", "linear2.weight", "linear3.weight"]


def test_numbers_of_a_curve_are_those_of_the_path(perceptron) -> None:
    (found, _), (graph, a, b, splits) = perceptron
    model = binarynets.mlp(12, [9, 7], 4).eval()
    for curve in (found.curves[0], found.curves[1], found.curves[6]):
        split = splits[curve.split]
        path = binarynets.exact_path(
            model,
            a,
            b,
            split.x,
            split.y,
            statistics=curve.statistics,
            calibration=split.calibration,
            knots=measure.KNOTS,
            graph=graph,
        )
        usual = error_curve(
            model, linear_path(graph, a, b), split, [i / 24 for i in range(25)], statistics=curve.statistics
        )
        assert curve.grid_supremum == pytest.approx(max(usual.errors))
        assert curve.supremum * len(split) == pytest.approx(path.supremum)
        assert curve.missed * len(split) == pytest.approx(path.missed())
        assert curve.integral == pytest.approx(path.integral)
        assert (curve.ends[0] * len(split), curve.ends[1] * len(split)) == pytest.approx(
            (int(path.errors[0]), int(path.errors[-1]))
        )


def test_the_envelope_holds_every_network(perceptron) -> None:
    (_, _), (graph, a, b, splits) = perceptron
    split = splits["test"]
    path = binarynets.exact_path(binarynets.mlp(12, [9, 7], 4).eval(), a, b, split.x, split.y, graph=graph)
    ts, lowest, highest = measure._envelope(path)
    events = list(zip(path.event_t.tolist(), path.event_errors.tolist(), strict=True))
    for k, (start, end) in enumerate(itertools.pairwise(ts)):
        entering = [error for t, error in events if t <= start][-1:]
        inside = [error for t, error in events if start < t <= end]
        last = k == len(ts) - 2
        own = entering + [error for t, error in events if start < t < end] if not last else entering + inside
        assert lowest[k] * len(split) <= min(own) + 1e-9
        assert highest[k] * len(split) >= max(own) - 1e-9
    assert max(highest) * len(split) == pytest.approx(path.supremum)


def test_a_convnet_is_counted_on_a_grid_that_says_so() -> None:
    model = binarynets.vgg((2, 8, 8), [[4], [6]], [8], 3).eval()
    (found, notes), (graph, a, b, splits) = _measured(model, (2, 8, 8), 3)
    assert notes == ("exact landscape: no perceptron, so 25 networks of a path and no neighbourhood",)
    assert [c.complete for c in found.curves] == [False] * 4
    assert not found.neighbourhoods
    ts = [i / 24 for i in range(25)]
    for curve in found.curves:
        expected = error_curve(
            model, linear_path(graph, a, b), splits[curve.split], ts, statistics=curve.statistics
        ).errors
        assert curve.supremum == max(expected)
        assert curve.missed == 0
        assert curve.networks == 25
        assert curve.ends == (expected[0], expected[-1])


def test_a_network_without_integer_form_has_no_landscape_and_says_why() -> None:
    model = binarynets.resnet((2, 8, 8), [4], [1], 3).eval()
    (found, notes), _ = _measured(model, (2, 8, 8), 3)
    assert found is None
    (note,) = notes
    assert note.startswith("no exact landscape: 'residual1_1.add'")


def test_inputs_that_are_no_integers_leave_a_note() -> None:
    model = binarynets.mlp(12, [9, 7], 4).eval()
    splits = {name: Split(split.x / 255, split.y, split.calibration / 255) for name, split in _splits((12,), 4).items()}
    a, b = _shaken(model, 1), _shaken(model, 2)
    graph = trace(model, splits["train"].x[:4], binarynets.FAMILY)
    found, (note,) = measure.landscape(graph, model, a, b, splits, seed=3)
    assert found is None
    assert note.startswith("no exact landscape: x: expected integers")


def test_a_convnet_is_counted_at_further_points() -> None:
    model = binarynets.vgg((2, 8, 8), [[4]], [], 3).eval()
    a, b, split = _shaken(model, 1), _shaken(model, 2), _splits((2, 8, 8), 3)["test"]
    found = binarynets.exact_path(model, a, b, split.x, split.y, networks=3, at=[0.3, *(i / 24 for i in range(25))])
    assert len(found.errors) == 26
    assert found.missed() >= 0
    assert found.at(0.3) >= 0


def test_orders_other_than_latent_ones_are_for_perceptrons() -> None:
    model = binarynets.vgg((2, 8, 8), [[4]], [], 3).eval()
    params, split = parameters(model), _splits((2, 8, 8), 3)["test"]
    with pytest.raises(ValueError, match="no perceptron"):
        binarynets.exact_path(model, params, params, split.x, split.y, "random")


def test_parameters_with_gradients_and_inputs_of_integers_are_taken() -> None:
    model = binarynets.mlp(12, [9, 7], 4).eval()
    a, b, split = _shaken(model, 1), _shaken(model, 2), _splits((12,), 4)["train"]
    expected = binarynets.exact_path(model, a, b, split.x, split.y)
    graded = [{n: t.clone().requires_grad_(t.is_floating_point()) for n, t in end.items()} for end in (a, b)]
    for x in (split.x, split.x.to(torch.int16), split.x.long()):
        for statistics in ("interpolated", "re-estimated"):
            found = binarynets.exact_path(model, *graded, x, split.y, statistics=statistics, calibration=x, knots=3)
            if statistics == "interpolated":
                assert torch.equal(found.errors, expected.errors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"block": 64.0}, "block: expected a whole number"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"x": [[1.0] * 12]}, "x: expected a tensor, got list"),
    ],
)
def test_rubbish_is_refused(changes, message) -> None:
    model = binarynets.mlp(12, [9], 4).eval()
    params, split = parameters(model), _splits((12,), 4)["test"]
    arguments = {"x": split.x, "y": split.y, **changes}
    with pytest.raises(ValueError, match=message):
        binarynets.exact_path(model, params, params, **arguments)


def test_errors_of_an_integer_network_want_a_class_for_each_sample() -> None:
    model, split = binarynets.mlp(12, [9], 4).eval(), _splits((12,), 4)["test"]
    network = binarynets.to_integer(model, parameters(model))
    with pytest.raises(binarynets.IntegerError, match="one class for each of 50 samples"):
        network.errors(split.x, split.y[:, None])


def test_the_greedy_order_wants_two_classes() -> None:
    model = binarynets.mlp(12, [9], 1).eval()
    a, b, split = _shaken(model, 1), _shaken(model, 2), _splits((12,), 1)["test"]
    with pytest.raises(ValueError, match="one class"):
        binarynets.exact_path(model, a, b, split.x, split.y, "greedy")
