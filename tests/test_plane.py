"""The plane through three networks: its geometry, its errors, its picture."""

import math
from types import SimpleNamespace

import pytest
import torch
import vl_convert
from zoo import FAMILIES, difference, pixels, randomised, small_networks

from compare.evaluation import StatisticsError, error_plane, evaluate, re_estimated
from compare.evaluation.statistics import calibrator
from compare.geometry import PlaneError, bent_path, geodesic_path, linear_path, plane
from compare.params import ParameterError, parameters, sign
from compare.report.plane_charts import plane_chart
from compare.symmetry import standard_form, trace

POINTS = {"a": (0.0, 0.0), "b": (4.0, 0.0), "bend": (2.0, 1.5)}


def _three(precision: str = "full", name: str = "mlp"):
    model = small_networks(precision)[name]
    graph = trace(model, pixels(4), FAMILIES[precision][1])
    return model, graph, *(standard_form(graph, randomised(model, seed=seed)) for seed in (1, 2, 3))


def _samples(precision: str = "full") -> SimpleNamespace:
    return SimpleNamespace(x=pixels(60), y=torch.arange(60) % 5, calibration=pixels(80, seed=1))


def _flat(graph, params):
    """All weights of linear maps as one vector."""
    weights = [name for name, kind in graph.coordinates.items() if kind.kind != "linear"]
    return torch.cat([params[name].double().flatten() for name in weights])


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_the_three_networks_lie_at_their_coordinates_bit_for_bit(precision, name) -> None:
    _, graph, a, b, c = _three(precision, name)
    found = plane(graph, a, b, c)
    for corner, network in zip(found.corners, (a, b, c), strict=True):
        assert all(torch.equal(found(*corner)[key], network[key]) for key in network)
        found(*corner)["linear1.weight"].zero_()
        assert difference(found(*corner), network) == 0
        assert found.project(network) == pytest.approx(corner, abs=1e-9)


def test_the_basis_is_orthonormal_and_coordinates_are_distances() -> None:
    _, graph, a, b, c = _three()
    found = plane(graph, a, b, c)
    first, second = (_flat(graph, axis) for axis in found.basis)
    gram = torch.stack([first, second]) @ torch.stack([first, second]).T
    assert torch.allclose(gram, torch.eye(2, dtype=torch.float64), atol=1e-12)
    vectors = [_flat(graph, network) for network in (a, b, c)]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        distance = float((vectors[i] - vectors[j]).norm())
        assert math.dist(found.corners[i], found.corners[j]) == pytest.approx(distance, rel=1e-9)
    assert found.corners[0] == (0, 0)
    assert found.corners[1][1] == 0
    assert found.corners[2][1] > 0


def test_points_of_the_plane_are_those_of_the_basis() -> None:
    _, graph, a, b, c = _three()
    found = plane(graph, a, b, c)
    first, second = (_flat(graph, axis) for axis in found.basis)
    for u, v in ((0.7, 2.0), (-1.0, -3.0), (5.0, 0.1)):
        expected = _flat(graph, a) + u * first + v * second
        assert torch.allclose(_flat(graph, found(u, v)), expected, atol=1e-5)
        assert found.project(found(u, v)) == pytest.approx((u, v), abs=1e-5)


def test_a_linear_bent_path_lies_in_its_plane_and_a_geodesic_one_beside_it() -> None:
    _, graph, a, b, c = _three()
    found = plane(graph, a, b, c)
    for t in (0.2, 0.5, 0.9):
        on_line = bent_path(graph, a, c, b)(t)
        assert difference(found(*found.project(on_line)), on_line) < 1e-4  # norms, offsets and statistics included
    beside = geodesic_path(graph, a, b)(0.5)
    assert difference(found(*found.project(beside)), beside) > 1e-2


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("statistics", ["re-estimated", "interpolated"])
def test_errors_are_those_of_evaluate(precision, statistics) -> None:
    model, graph, a, *others = _three(precision)
    # Equal variances stay positive, however far the plane goes.
    b, c = ({name: a[name] if "running_var" in name else t for name, t in other.items()} for other in others)
    samples, made, margin = _samples(), plane(graph, a, b, c), 0.1
    measured = error_plane(model, made, samples, points=(3, 4), margin=margin, statistics=statistics)
    measuring = calibrator(model)

    def literal(params):
        return params if statistics == "interpolated" else re_estimated(measuring, params, samples.calibration)

    corners = tuple(evaluate(model, literal(network), samples).error for network in (a, b, c))
    assert measured.corner_errors == corners
    assert len({loss for row in measured.losses for loss in row}) == 12
    assert (len(measured.vs), {len(row) for row in measured.errors}) == (4, {3})
    for i, v in enumerate(measured.vs):
        for j, u in enumerate(measured.us):
            score = evaluate(model, literal(made(u, v)), samples)
            assert (measured.errors[i][j], measured.losses[i][j]) == (score.error, score.loss)
    spans = [(min(places), max(places)) for places in zip(*measured.corners, strict=True)]
    beyond = margin * max(high - low for low, high in spans)
    for (low, high), values in zip(spans, (measured.us, measured.vs), strict=True):
        assert (values[0], values[-1]) == pytest.approx((low - beyond, high + beyond))


def test_binary_networks_are_measured_by_their_signs() -> None:
    model, graph, a, b, c = _three("binary")
    made, samples = plane(graph, a, b, c), _samples()

    class Signs:
        corners = made.corners

        def __call__(self, u, v):
            params = made(u, v)
            return {name: sign(tensor) if name in graph.binarised else tensor for name, tensor in params.items()}

    assert error_plane(model, made, samples, points=(3, 3)) == error_plane(model, Signs(), samples, points=(3, 3))


def test_networks_on_one_line_are_refused() -> None:
    _, graph, a, b, c = _three()
    for third in (a, b, linear_path(graph, a, b)(0.25)):
        with pytest.raises(PlaneError, match="lie on one line"):
            plane(graph, a, b, third)
    with pytest.raises(PlaneError, match="lie on one line"):
        plane(graph, a, a, c)
    with pytest.raises(ParameterError, match="c does not fit"):
        plane(graph, a, b, parameters(small_networks("full")["vgg"]))
    with pytest.raises(ValueError, match="expected finite numbers"):
        plane(graph, a, b, c)(0.0, float("nan"))


def test_requests_that_make_no_sense_are_refused() -> None:
    model, graph, a, b, c = _three()
    made, samples = plane(graph, a, b, c), _samples()
    with pytest.raises(ValueError, match="expected 'interpolated' or 're-estimated', got 'own'"):
        error_plane(model, made, samples, statistics="own")
    with pytest.raises(ValueError, match="at least 2 points"):
        error_plane(model, made, samples, points=(1, 5))
    with pytest.raises(ValueError, match="margin from 0 on"):
        error_plane(model, made, samples, margin=-0.1)
    bare = SimpleNamespace(x=samples.x, y=samples.y)
    with pytest.raises(StatisticsError, match="pass calibration="):
        error_plane(model, made, bare)
    given = error_plane(model, made, bare, points=(2, 2), calibration=samples.calibration)
    assert given == error_plane(model, made, samples, points=(2, 2))
    with pytest.raises(StatisticsError, match="negative variance"):
        error_plane(model, made, samples, points=(2, 2), margin=3.0, statistics="interpolated")


def _measured(errors) -> SimpleNamespace:
    us, vs = (0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0)
    return SimpleNamespace(us=us, vs=vs, errors=errors, samples=1000, statistics="re-estimated")


def _rows(spec, mark):
    """The data of each layer that draws with ``mark``."""
    drawn = [layer["data"] for layer in spec["layer"] if layer["mark"]["type"] == mark]
    return [spec["datasets"][data["name"]] if "name" in data else data["values"] for data in drawn]


def test_the_map_holds_every_error_where_it_was_measured() -> None:
    errors = [[0.1 * row + 0.01 * column for column in range(5)] for row in range(3)]
    chart = plane_chart(_measured(errors), POINTS, title="A plane")
    (rows,) = _rows(chart.spec, "rect")
    assert {(row["u"], row["v"]): row["error"] for row in rows} == {
        (u, v): 100 * errors[v][u] for v in range(3) for u in range(5)
    }
    assert (rows[0]["left"], rows[0]["right"], rows[0]["bottom"], rows[0]["top"]) == (-0.5, 0.5, -0.5, 0.5)
    assert rows[0]["shown"] == 0.05  # no error at all: half a sample, on a logarithmic scale
    # Five rectangles by three, all squares.
    assert chart.spec["width"] / chart.spec["height"] == pytest.approx(5 / 3, rel=0.01)
    assert "1000 train samples" in chart.note
    assert "re-estimated" in chart.note


def test_the_three_networks_and_the_path_are_marked() -> None:
    errors = [[0.1] * 5] * 3
    spec = plane_chart(_measured(errors), POINTS, title="A plane").spec
    (marked,) = _rows(spec, "circle")
    assert {row["name"]: (row["u"], row["v"]) for row in marked} == POINTS
    lines = _rows(spec, "line")
    assert [[(row["u"], row["v"]) for row in line] for line in lines] == [
        [POINTS["a"], POINTS["b"]],
        [POINTS["a"], POINTS["bend"], POINTS["b"]],
    ]
    curved = [POINTS["a"], (1.0, 1.2), POINTS["bend"], (3.0, 1.2), POINTS["b"]]
    spec = plane_chart(_measured(errors), POINTS, title="A plane", path=curved).spec
    lines = _rows(spec, "line")
    assert [(row["u"], row["v"]) for row in lines[1]] == curved


@pytest.mark.parametrize("errors", [[[0.0] * 5] * 3, [[0.1, 0.9, 0.0, 0.3, 0.2]] * 3])
def test_the_map_can_be_drawn(errors) -> None:
    spec = plane_chart(_measured(errors), POINTS, title="A plane").spec
    assert vl_convert.vegalite_to_png(spec)[:4] == b"\x89PNG"
    assert "bend" in vl_convert.vegalite_to_svg(spec)
