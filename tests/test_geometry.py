"""Laws of paths, distances and barriers."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import FAMILIES, difference, pixels, randomised, small_networks

from compare.geometry import (
    AntipodalError,
    PiecesError,
    barrier,
    bent_path,
    distances,
    geodesic_path,
    lengths,
    linear_path,
    sphere,
)
from compare.params import ParameterError, parameters, sign
from compare.symmetry import standard_form, trace

PATHS = [linear_path, geodesic_path]


def _ends(precision: str = "full", name: str = "mlp"):
    model = small_networks(precision)[name]
    graph = trace(model, pixels(4), FAMILIES[precision][1])
    return graph, *(standard_form(graph, randomised(model, seed=seed)) for seed in (1, 2))


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("name", ["mlp", "vgg"])
@pytest.mark.parametrize("make", PATHS)
def test_ends_are_exact_and_arguments_stay(precision, name, make) -> None:
    graph, a, b = _ends(precision, name)
    path = make(graph, a, b)
    assert difference(path(0), a) == difference(path(1), b) == 0
    path(0)["linear1.weight"].zero_()
    assert difference(path(0), a) == 0


@pytest.mark.parametrize("make", PATHS)
def test_a_path_does_not_move_with_the_callers_tensors(make) -> None:
    graph, a, b = _ends()
    path = make(graph, a, b)
    before = path(0.25)
    a["linear1.weight"].zero_()
    assert difference(path(0.25), before) == 0
    assert path(0)["linear1.weight"].abs().sum() > 0


@pytest.mark.parametrize("make", PATHS)
def test_ends_of_different_types_are_refused(make) -> None:
    graph, a, b = _ends()
    b["linear1.weight"] = b["linear1.weight"].double()
    with pytest.raises(ParameterError, match=r"'linear1\.weight' is torch.float32 in a and torch.float64 in b"):
        make(graph, a, b)


@pytest.mark.parametrize("make", PATHS)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_a_path_between_equal_networks_stands_still(make, t) -> None:
    graph, a, _ = _ends()
    assert difference(make(graph, a, a)(t), a) == 0


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_linear_path_is_the_line(t) -> None:
    graph, a, b = _ends()
    expected = {name: (1 - t) * a[name] + t * b[name] for name in a if a[name].is_floating_point()}
    found = linear_path(graph, a, b)(t)
    assert difference(expected, found) < 1e-4


def test_the_geodesic_has_constant_speed_and_unit_rows() -> None:
    graph, a, b = _ends()
    path = geodesic_path(graph, a, b)
    whole = distances(graph, a, b)
    for t in (0.25, 0.5, 0.75):
        from_a, to_b = distances(graph, a, path(t)), distances(graph, path(t), b)
        assert from_a.angle == pytest.approx(t * whole.angle, rel=1e-5)
        assert to_b.angle == pytest.approx((1 - t) * whole.angle, rel=1e-5)
        rows = path(t)["linear1.weight"].norm(dim=1)
        assert torch.allclose(rows, torch.ones_like(rows), atol=1e-6)


@pytest.mark.parametrize("make", PATHS)
def test_reversed_paths_meet(make) -> None:
    graph, a, b = _ends()
    assert difference(make(graph, a, b)(0.3), make(graph, b, a)(0.7)) < 1e-4


def test_a_differing_bit_flips_once_and_agreeing_bits_never() -> None:
    graph, a, b = _ends("binary")
    for make in PATHS:
        path = make(graph, a, b)
        signs = [sign(path(t)["linear1.weight"]) for t in torch.linspace(0, 1, 41).tolist()]
        flips = sum((after != before).int() for before, after in itertools.pairwise(signs))
        assert torch.equal(flips, (sign(a["linear1.weight"]) != sign(b["linear1.weight"])).int())


def test_the_line_flips_at_the_ratio_of_magnitudes() -> None:
    graph, a, b = _ends("binary")
    left, right = a["linear1.weight"], b["linear1.weight"]
    at = left.abs() / (left.abs() + right.abs())
    for t in (0.3, 0.6):
        changed = (left * right < 0) & (at < t)
        expected = torch.where(changed, -sign(left), sign(left))
        assert torch.equal(sign(linear_path(graph, a, b)(t)["linear1.weight"]), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_angles_equal_arccos_of_the_inner_product(seed: int, dimension: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 5, dimension, generator=generator, dtype=torch.float64)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert torch.allclose(sphere.angles(a, b), torch.arccos(cosine.clamp(-1, 1)), atol=1e-7)


def test_angles_are_exact_where_arccos_is_not() -> None:
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1e-9]], dtype=torch.float64)
    assert sphere.angles(a, b).item() == pytest.approx(1e-9, rel=1e-6)
    assert sphere.angles(a, a).item() == 0
    assert sphere.angles(a, 0 * a).item() == 0


def test_hamming_angle_and_euclidean_distance_agree_for_signs() -> None:
    """Theta = arccos(1 - 2 d_H) for one layer of signs [METHODS 4]."""
    graph, a, b = _ends("binary", "mlp")
    signs = [{n: sign(t) if n in graph.binarised else t for n, t in params.items()} for params in (a, b)]
    last = graph.layers[-1].weight
    found = distances(graph, *signs)
    theta = sphere.angles(signs[0][last].double().reshape(1, -1), signs[1][last].double().reshape(1, -1)).item()
    share = float((signs[0][last] != signs[1][last]).double().mean())
    assert theta == pytest.approx(math.acos(1 - 2 * share))
    weights = sum(a[name].numel() for name in graph.binarised)
    assert found.euclidean**2 == pytest.approx(4 * found.hamming * weights)


def test_distances_are_a_metric_on_the_same_spheres() -> None:
    graph, a, b = _ends()
    there, back = distances(graph, a, b), distances(graph, b, a)
    assert there.angle == pytest.approx(back.angle)
    assert distances(graph, a, a).angle == 0
    assert there.hamming is None
    assert there.rms_angle == pytest.approx(there.angle / math.sqrt(there.spheres))
    assert there.spheres == 12 + 9 + 1


def test_opposite_points_are_refused_by_name() -> None:
    graph, a, _ = _ends()
    b = {**a, "linear1.weight": -a["linear1.weight"]}
    with pytest.raises(AntipodalError, match=r"'linear1\.weight': point \d+ of b is opposite"):
        geodesic_path(graph, a, b)
    linear_path(graph, a, b)(0.5)


@pytest.mark.parametrize("make", PATHS)
@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
def test_t_outside_the_path_is_refused(make, t) -> None:
    graph, a, b = _ends()
    with pytest.raises(ValueError, match="between 0 and 1"):
        make(graph, a, b)(t)


def _corners(precision: str = "full", name: str = "mlp"):
    graph, a, b = _ends(precision, name)
    return graph, a, standard_form(graph, randomised(small_networks(precision)[name], seed=3)), b


@pytest.mark.parametrize("precision", FAMILIES)
@pytest.mark.parametrize("pieces", ["linear", "geodesic"])
def test_ends_and_bend_are_exact_and_arguments_stay(precision, pieces) -> None:
    graph, a, middle, b = _corners(precision)
    path = bent_path(graph, a, middle, b, pieces=pieces)
    corners = dict(zip((0, 0.5, 1), (a, middle, b), strict=True))
    for t, corner in corners.items():
        assert all(torch.equal(path(t)[name], corner[name]) for name in corner)
        path(t)["linear1.weight"].zero_()
    before = {name: tensor.clone() for name, tensor in middle.items()}
    middle["linear1.weight"].zero_()
    assert difference(path(0.5), before) == difference(path.middle, before) == 0
    assert path.kind == pieces


@pytest.mark.parametrize("pieces", ["linear", "geodesic"])
def test_the_halves_of_a_bent_path_are_paths(pieces) -> None:
    graph, a, middle, b = _corners()
    path = bent_path(graph, a, middle, b, pieces=pieces)
    make = {"linear": linear_path, "geodesic": geodesic_path}[pieces]
    for t in (0.1, 0.3, 0.49):
        assert difference(path(t), make(graph, a, middle)(2 * t)) == 0
    for t in (0.51, 0.8, 0.9):
        assert difference(path(t), make(graph, middle, b)(2 * t - 1)) == 0


@pytest.mark.parametrize("pieces", ["linear", "geodesic"])
def test_a_bend_on_the_straight_path_adds_no_length(pieces) -> None:
    graph, a, middle, b = _corners()
    norm = {"linear": "euclidean", "geodesic": "angle"}[pieces]
    straight = {"linear": linear_path, "geodesic": geodesic_path}[pieces](graph, a, b)
    whole = getattr(lengths(graph, a, b), norm)
    assert whole == pytest.approx(getattr(distances(graph, a, b), norm))
    assert getattr(lengths(graph, a, straight(0.5), b), norm) == pytest.approx(whole, rel=1e-6)
    # And a path cut finely is as long as its pieces are: the sum of many short chords.
    path = bent_path(graph, a, middle, b, pieces=pieces)
    fine = lengths(graph, *(path(i / 64) for i in range(65)))
    assert getattr(fine, norm) == pytest.approx(getattr(lengths(graph, a, middle, b), norm), rel=1e-5)
    assert getattr(fine, norm) > whole


def test_a_bent_path_of_unknown_pieces_is_refused() -> None:
    graph, a, middle, b = _corners()
    with pytest.raises(PiecesError, match="expected one of linear, geodesic, got 'bezier'"):
        bent_path(graph, a, middle, b, pieces="bezier")
    with pytest.raises(ParameterError, match="middle does not fit"):
        bent_path(graph, a, parameters(small_networks("full")["vgg"]), b)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bent_path(graph, a, middle, b)(1.01)
    with pytest.raises(ValueError, match="at least 2 networks, got 1"):
        lengths(graph, a)


@pytest.mark.parametrize("function", [*PATHS, distances])
def test_parameters_that_do_not_fit_are_refused(function) -> None:
    graph, a, _ = _ends()
    with pytest.raises(ParameterError, match="b does not fit"):
        function(graph, a, parameters(small_networks("full")["vgg"]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_barriers_are_their_definitions(errors: list[float]) -> None:
    ts = np.linspace(0, 1, len(errors))
    found = barrier(ts, errors)
    assert found.height == max(errors) - max(errors[0], errors[-1])
    chord = (1 - ts) * errors[0] + ts * errors[-1]
    assert found.over_chord == pytest.approx(max(0, (np.array(errors) - chord).max()), abs=1e-12)
    assert found.height >= 0
    assert found.over_chord >= 0


@pytest.mark.parametrize(
    ("ts", "errors"), [([0, 1], [1]), ([0, 0.5], [1, 1]), ([0, 0.8, 0.5, 1], [0, 0, 0, 0]), ([], [])]
)
def test_a_curve_that_is_none_has_no_barrier(ts, errors) -> None:
    with pytest.raises(ValueError, match="expected increasing ts from 0 to 1"):
        barrier(ts, errors)
