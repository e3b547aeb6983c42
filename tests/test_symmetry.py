"""Laws of the symmetry group, on a table of networks of both precisions."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import FAMILIES, difference, float64, pixels, randomised, small_networks

import binarynets
import fullprecision
from compare.params import ParameterError, call, parameters
from compare.symmetry import (
    Element,
    SymmetryError,
    dead_units,
    identity,
    random_element,
    standard_form,
    trace,
)
from compare.symmetry.element import step_up, without_zeros

CASES = [(precision, name) for precision in FAMILIES for name in small_networks(precision)]
cases = pytest.mark.parametrize(("precision", "name"), CASES)


def _setup(precision: str, name: str, seed: int = 0):
    model = small_networks(precision, seed=seed)[name]
    return model, trace(model, pixels(4), FAMILIES[precision][1])


def _random(graph, seed: int) -> Element:
    return random_element(graph, torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 17), min_size=0, max_size=4),
    seed=st.integers(0, 10**6),
    fresh=st.booleans(),
)
def test_binary_outputs_are_equal_bit_for_bit(hidden: list[int], seed: int, fresh: bool) -> None:
    """Fresh networks have thresholds of exactly 0, which integer pre-activations of even fan-in meet all the time."""
    torch.manual_seed(seed)
    model = binarynets.mlp(64, hidden, 5).eval()
    params = parameters(model) if fresh else randomised(model, seed=seed)
    x = pixels(64, seed=seed)
    graph = trace(model, x, binarynets.FAMILY, certify=False)
    moved = _random(graph, seed).apply(params)
    assert torch.equal(call(model, params, x), call(model, moved, x))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["vgg", "vgg without dense"]), fresh=st.booleans())
def test_binary_convnet_outputs_are_equal_bit_for_bit(seed: int, name: str, fresh: bool) -> None:
    model, graph = _setup("binary", name, seed)
    params = parameters(model) if fresh else randomised(model, seed=seed)
    x = pixels(32, seed=seed)
    moved = _random(graph, seed).apply(params)
    assert all(block.signs for block in graph.blocks)
    assert torch.equal(call(model, params, x), call(model, moved, x))


@settings(max_examples=30, deadline=None)
@given(hidden=st.lists(st.integers(1, 17), min_size=0, max_size=4), seed=st.integers(0, 10**6))
def test_full_precision_outputs_agree_to_rounding(hidden: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    model = float64(fullprecision.mlp(64, hidden, 5).eval())
    params, x = randomised(model, seed=seed), pixels(32, seed=seed).double()
    params = {name: t.double() if t.is_floating_point() else t for name, t in params.items()}
    graph = trace(model, x, fullprecision.FAMILY, certify=False)
    moved = _random(graph, seed).apply(params)
    expected = call(model, params, x)
    assert float((expected - call(model, moved, x)).abs().max()) <= 1e-10 * max(1, float(expected.abs().max()))


@cases
def test_an_element_moves_every_hidden_weight(precision: str, name: str) -> None:
    """Guards the tests above against elements that do nothing."""
    model, graph = _setup(precision, name)
    params = randomised(model)
    moved = _random(graph, 3).apply(params)
    for layer in graph.layers[:-1]:
        assert not torch.equal(moved[layer.weight], params[layer.weight])


@cases
def test_group_axioms(precision: str, name: str) -> None:
    model, graph = _setup(precision, name)
    params = randomised(model)
    g, h, k = (_random(graph, seed) for seed in range(3))
    assert difference(g.compose(h).apply(params), g.apply(h.apply(params))) < 1e-5
    assert difference(g.inverse().apply(g.apply(params)), params) < 1e-5
    assert difference(identity(graph).apply(params), params) == 0
    left, right = g.compose(h).compose(k), g.compose(h.compose(k))
    assert all(map(torch.equal, left.permutations, right.permutations))
    assert all(map(torch.allclose, left.diagonals, right.diagonals))


@pytest.mark.parametrize("name", list(small_networks("binary")))
def test_binary_elements_are_undone_bit_for_bit(name: str) -> None:
    """Once ties are broken, which every element does first, the identity included."""
    model, graph = _setup("binary", name)
    g = _random(graph, 1)
    for params in (parameters(model), randomised(model)):
        assert difference(g.inverse().apply(g.apply(params)), identity(graph).apply(params)) == 0
    assert difference(identity(graph).apply(randomised(model)), randomised(model)) == 0


@cases
def test_arguments_stay_as_they_are(precision: str, name: str) -> None:
    model, graph = _setup(precision, name)
    params = randomised(model)
    kept = copy.deepcopy(params)
    _random(graph, 0).apply(params)
    standard_form(graph, params)
    assert difference(params, kept) == 0


@cases
@pytest.mark.parametrize("seed", range(5))
def test_standard_form_keeps_the_function(precision: str, name: str, seed: int) -> None:
    model, graph = _setup(precision, name)
    params, x = randomised(model, seed=seed), pixels(64, seed=seed)
    before = call(model, params, x)
    same_loss = call(model, standard_form(graph, params, invariant="loss"), x)
    same_error = call(model, standard_form(graph, params), x)
    assert torch.allclose(before, same_loss, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert torch.equal(before.argmax(1), same_error.argmax(1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), fresh=st.booleans())
def test_binary_standard_form_keeps_every_hidden_bit(seed: int, fresh: bool) -> None:
    torch.manual_seed(seed)
    model = binarynets.mlp(64, [12, 9], 5).eval()
    graph = trace(model, pixels(4), binarynets.FAMILY, certify=False)
    params, x = parameters(model) if fresh else randomised(model, seed=seed), pixels(64, seed=seed)
    std = standard_form(graph, params, invariant="loss")
    got, expected = _hidden(model, std, x), _hidden(model, params, x)
    assert len(got) == 2
    assert all(map(torch.equal, got, expected))


def _hidden(model, params, x):
    """Outputs of the sign activations, one after the other."""
    found = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: found.append(output.clone()))
        for module in model.modules()
        if isinstance(module, binarynets.Sign)
    ]
    call(model, params, x)
    for hook in hooks:
        hook.remove()
    return found


@cases
def test_standard_form_is_a_fixed_point(precision: str, name: str) -> None:
    model, graph = _setup(precision, name)
    once = standard_form(graph, randomised(model))
    assert difference(standard_form(graph, once), once) == 0


@cases
def test_standard_form_has_unit_rows_and_gains(precision: str, name: str) -> None:
    model, graph = _setup(precision, name)
    std = standard_form(graph, randomised(model))
    for layer in graph.layers[:-1]:
        norms = std[layer.weight].flatten(1).norm(dim=1)
        if layer.norm is None:
            assert torch.allclose(norms, torch.ones_like(norms), atol=1e-6) == graph.blocks[layer.block].scales
            continue
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-6)
        signs = std[layer.norm.gain] if not layer.pooled or precision == "binary" else std[layer.norm.gain].abs()
        assert torch.allclose(signs, torch.ones_like(norms), atol=1e-6)
    assert std[graph.layers[-1].weight].norm().item() == pytest.approx(1, abs=1e-6)


@cases
@pytest.mark.parametrize("seed", range(3))
def test_standard_form_removes_scales_and_follows_permutations_and_signs(precision: str, name: str, seed: int) -> None:
    """c(g x) = h c(x), with h the permutations and signs of g, without its scales."""
    model, graph = _setup(precision, name)
    params, g = randomised(model, seed=seed), _random(graph, seed)
    # Signs of gains are fixed: in those, and in scales, the form is invariant, not equivariant.
    signs = [d.clone() for d in g.diagonals]
    for block, rows in zip(graph.blocks, signs, strict=True):
        for row, generator in zip(rows, block.generators, strict=True):
            if generator.kind == "scale" or generator.pivot.name in graph.gains:
                row.fill_(1)
    h = Element(graph, g.permutations, tuple(signs))
    expected = h.apply(standard_form(graph, params))
    got = standard_form(graph, g.apply(params))
    assert all(torch.allclose(got[n], expected[n], rtol=1e-5, atol=1e-5) for n in got)


def test_dead_units_stay_and_are_counted() -> None:
    model, graph = _setup("full", "mlp")
    params = randomised(model)
    params["linear1.weight"][2] = 0
    params[graph.layers[1].norm.gain][4] = 0
    std = standard_form(graph, params, invariant="loss")
    assert dead_units(graph, std) == {"linear1": 1, "linear2": 1}
    x = pixels(32)
    assert torch.allclose(call(model, params, x), call(model, std, x), rtol=1e-3, atol=1e-3)


def test_zero_latents_count_as_plus_one_also_when_negated() -> None:
    model, graph = _setup("binary", "mlp")
    params = randomised(model)
    params["linear1.weight"][:, ::3] = 0
    params["linear2.weight"][:, ::2] = -0.0
    x = pixels(64)
    moved = _random(graph, 0).apply(params)
    assert torch.equal(call(model, params, x), call(model, moved, x))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_negating_a_threshold_twice_gives_it_back(x: float) -> None:
    threshold = torch.tensor(x)
    assert torch.equal(-step_up(-step_up(threshold)), threshold + 0.0)


@given(
    st.floats(width=32, min_value=-1e6, max_value=1e6, allow_subnormal=False),
    st.floats(width=32, min_value=-1e6, max_value=1e6, allow_subnormal=False),
)
def test_a_negated_threshold_decides_the_opposite(u: float, x: float) -> None:
    left, threshold = torch.tensor(u), torch.tensor(x)
    for point in (left, -threshold):  # the second is a tie
        assert bool(point + threshold >= 0) != bool(-point - step_up(threshold) >= 0)


def test_without_zeros_keeps_signs() -> None:
    latent = without_zeros(torch.tensor([0.0, -0.0, 1e-40, -1e-40, 2.0]))
    assert (latent != 0).all()
    assert latent.sign().tolist() == [1, 1, 1, -1, 1]


@pytest.mark.parametrize(
    ("p", "d", "message"),
    [
        ([0, 0], [[1, 1], [1, 1]], "expected a permutation of 2 units"),
        ([1, 0], [[1, 1], [0, 1]], "nonzero"),
        ([1, 0], [[1, 1], [-1, 1]], "does not admit signs"),
        ([1, 0], [[2, 1], [1, 1]], "does not admit scales"),
        ([1, 0], [1, 1], r"nonzero diagonals \[2, 2\], got \[2\]"),
    ],
)
def test_elements_outside_the_group_are_refused(p, d, message) -> None:
    graph = trace(fullprecision.mlp(64, [2], 3).eval(), pixels(4), fullprecision.FAMILY)
    rest = identity(graph)
    assert [generator.kind for generator in graph.blocks[0].generators] == ["sign", "scale"]
    d = torch.tensor(d, dtype=torch.float64)
    with pytest.raises(SymmetryError, match=message):
        Element(graph, (torch.tensor(p), rest.permutations[1]), (d, rest.diagonals[1]))


def test_elements_of_different_networks_do_not_compose() -> None:
    first, second = (trace(fullprecision.mlp(64, [n], 3).eval(), pixels(4), fullprecision.FAMILY) for n in (2, 4))
    with pytest.raises(SymmetryError, match="same network"):
        identity(first).compose(identity(second))


def test_parameters_of_another_shape_are_refused() -> None:
    _, graph = _setup("full", "mlp")
    other = parameters(fullprecision.mlp(64, [12, 8], 5))
    with pytest.raises(ParameterError, match=r"'linear2\.weight' has shape"):
        standard_form(graph, other)
    with pytest.raises(ParameterError, match="does not fit"):
        identity(graph).apply(other)


def test_a_network_without_anything_binary_is_not_of_the_binary_family() -> None:
    model = small_networks("full")["mlp"]
    graph = trace(model, pixels(4), binarynets.FAMILY)
    with pytest.raises(SymmetryError, match=r"nothing in this network is binary.*fullprecision\.FAMILY"):
        standard_form(graph, parameters(model))


def test_unknown_invariant_is_refused() -> None:
    model, graph = _setup("full", "mlp")
    with pytest.raises(ValueError, match="'error' or 'loss'"):
        standard_form(graph, parameters(model), invariant="both")
