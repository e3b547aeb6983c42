"""The laws of symmetry on every small network: invariance, group axioms, and a slow oracle for the action."""

import itertools

import pytest
import torch
from groups import ALL, FULL, GROUPS, graph_of, keeping, wide
from motifs import MOTIFS
from torch import Tensor
from torch.func import functional_call
from zoo import FAMILIES, randomised

from compare.params import Params
from compare.symmetry import Block, Element, Generator, Graph, Tie, identity, random_element, trace

each = pytest.mark.parametrize("name", ALL)


def _drawn(name: str, seed: int) -> Element:
    return random_element(graph_of(name), torch.Generator().manual_seed(seed))


def _shown(graph: Graph) -> str:
    def one(block: Block) -> str:
        parent = "" if block.parent is None else f"/{graph.blocks[block.parent].size}"
        signs = sum(generator.kind == "sign" for generator in block.generators)
        return f"{block.size}{'!' * block.rigid}{parent}:{signs},{len(block.generators) - signs}"

    return " ".join(map(one, graph.blocks))


@each
def test_the_group_is_the_one_found_by_hand(name) -> None:
    assert _shown(graph_of(name)) == GROUPS[name]


def test_every_network_has_a_group_found_by_hand() -> None:
    assert set(GROUPS) == set(ALL)


def test_a_trained_binary_stream_admits_signs() -> None:
    motif = MOTIFS["binary residual"]
    model = motif.build()
    model.load_state_dict(randomised(model))
    assert _shown(trace(model, motif.example(4), FAMILIES["binary"][1])) == "6:4,1"


@each
@pytest.mark.parametrize("seed", range(3))
def test_outputs_stay(name, seed) -> None:
    params = wide(name, seed)
    assert keeping(name, params, 0 if graph_of(name).exact else 1e-10)(_drawn(name, seed).apply(params))


@pytest.mark.parametrize("name", [name for name in ALL if name not in FULL])
@pytest.mark.parametrize("seed", range(3))
def test_binary_outputs_stay_bit_for_bit_in_single_precision(name, seed) -> None:
    graph, model, x = graph_of(name), ALL[name].build(), ALL[name].example(32)
    # Averages of signs reach the last linear map there, all else is made of integers.
    assert graph.exact == (name != "binary residual")
    params = randomised(model, seed=seed)
    expected, got = (functional_call(model, p, (x,)) for p in (params, _drawn(name, seed).apply(params)))
    if graph.exact:
        assert torch.equal(expected, got)
    else:
        torch.testing.assert_close(expected, got)


@each
def test_every_permutation_and_every_generator_moves_something(name) -> None:
    params, graph = wide(name, 0), graph_of(name)
    for index, block in enumerate(graph.blocks):
        if not block.rigid:
            assert _different(params, _literal(graph, _swap(graph, index, 0, 1), params))
        for row in range(len(block.generators)):
            rest = identity(graph)
            rest.diagonals[index][row, -1] = -1 if block.generators[row].kind == "sign" else 2
            assert _different(params, rest.apply(params))


def _different(a: Params, b: Params) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


@each
def test_group_axioms(name) -> None:
    g, h, k = (_drawn(name, seed) for seed in range(3))
    one, params = identity(graph_of(name)), wide(name, 0)
    assert g.compose(h).compose(k) == g.compose(h.compose(k))
    assert g.compose(one) == g == one.compose(g)
    assert g.compose(g.inverse()) == one == g.inverse().compose(g)
    assert g != h
    _close(g.compose(h).apply_linear(params), g.apply_linear(h.apply_linear(params)))
    _close(g.inverse().apply_linear(g.apply_linear(params)), params)
    assert not _different(one.apply_linear(params), params)
    _close(g.apply(h.apply(params)), g.compose(h).apply(params))


def _close(a: Params, b: Params) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-11, atol=1e-13)


def _unit(block: Block, tie: Tie, entry: tuple[int, ...], shape: torch.Size) -> int | None:
    """The unit that an entry of a tensor belongs to by this tie, None for an entry outside of it."""
    place = entry[tie.axis] - tie.start
    if tie.along is None:
        return place // tie.repeat if 0 <= place < block.size * tie.repeat else None
    inside = shape[tie.axis] // tie.repeat
    wholes = block.size // inside
    return entry[tie.along] * wholes // shape[tie.along] * inside + place // tie.repeat


def _literal(graph: Graph, element: Element | list[Tensor], params: Params) -> Params:
    """x[i] -> d_i x[p_i], entry by entry; a list of permutations, admissible or not, stands for no diagonal."""
    permutations = element.permutations if isinstance(element, Element) else element
    moved = {}
    for name, tensor in params.items():
        ties = [(i, block, tie) for i, block in enumerate(graph.blocks) for tie in block.ties if tie.name == name]
        moved[name] = tensor.clone()
        for entry in itertools.product(*map(range, tensor.shape if ties else ())):
            source = list(entry)
            for i, block, tie in ties:
                unit = _unit(block, tie, entry, tensor.shape)
                if unit is not None:
                    inside = block.size if tie.along is None else tensor.shape[tie.axis] // tie.repeat
                    local = int(permutations[i][unit]) % inside
                    offset = (entry[tie.axis] - tie.start) % tie.repeat
                    source[tie.axis] = tie.start + local * tie.repeat + offset
            moved[name][entry] = tensor[tuple(source)]
        if isinstance(element, Element):
            _scale(element, name, moved[name])
    return moved


def _scale(element: Element, name: str, tensor: Tensor) -> None:
    for block, diagonals in zip(element.graph.blocks, element.diagonals, strict=True):
        for generator, d in zip(block.generators, diagonals, strict=True):
            for tie, exponent in generator.factors:
                for entry in itertools.product(*map(range, tensor.shape if tie.name == name else (0,))):
                    unit = _unit(block, tie, entry, tensor.shape)
                    if unit is not None:
                        tensor[entry] *= float(d[unit]) ** exponent


@each
def test_the_action_is_the_literal_one(name) -> None:
    params, element = wide(name, 1), _drawn(name, 1)
    expected = _literal(graph_of(name), element, params)
    _close(element.apply_linear(params), expected)
    _close(element.apply(params), expected)
    assert _different(params, expected)


def _swap(graph: Graph, index: int, i: int, j: int) -> list[Tensor]:
    """Permutations that exchange two units of one block, with all that is in them, admissible or not."""
    found = [torch.arange(block.size) for block in graph.blocks]
    found[index][[i, j]] = torch.tensor([j, i])
    for child, block in enumerate(graph.blocks):
        if block.parent is not None and child > index:
            above = found[block.parent]
            inside = block.size // len(above)
            found[child] = (above[:, None] * inside + torch.arange(inside)).flatten()
    return found


# Two partitions that do not fit into each other hold all units still, though 0 and 1 are together in both.
STILL = {("grouped conv twice, crosswise", 2, 0, 1), ("grouped conv twice, crosswise", 2, 4, 5)}


@each
def test_no_other_two_units_may_be_exchanged(name) -> None:
    graph, params = graph_of(name), wide(name, 2)
    keeps = keeping(name, params)
    for index, block in enumerate(graph.blocks):
        inside = block.size // (1 if block.parent is None else graph.blocks[block.parent].size)
        units = sorted({0, 1, inside, block.size - 2, block.size - 1} & set(range(block.size)))
        for i, j in itertools.combinations(units, 2):
            admitted = (i // inside == j // inside and not block.rigid) or (name, index, i, j) in STILL
            exchanged = _literal(graph, _swap(graph, index, i, j), params)
            assert keeps(exchanged) == admitted, (block.name, i, j)


@each
def test_units_of_different_blocks_may_not_be_exchanged(name) -> None:
    params = wide(name, 2)
    for a, b in itertools.combinations(graph_of(name).blocks, 2):
        moved = dict(params)
        for left, right in itertools.product(a.ties, b.ties):
            if all(getattr(left, what) == getattr(right, what) for what in ("name", "axis", "repeat", "along")):
                at = torch.arange(params[left.name].shape[left.axis])
                first, second = (tie.start + torch.arange(tie.repeat) for tie in (left, right))
                at[first], at[second] = second, first
                moved[left.name] = moved[left.name].index_select(left.axis, at)
        assert not _different(params, moved) or not keeping(name, params)(moved)


@pytest.mark.parametrize(("axis", "along"), [(0, 1), (1, 0), (2, 0), (0, 2)])
def test_units_inside_wholes_on_any_pair_of_axes(axis, along) -> None:
    """Tracing puts wholes on the first axis; the action is the literal one wherever they stand."""
    shape = [3, 3, 3]
    shape[axis], shape[along] = 6, 4  # 2 wholes of 2 places each, 3 units in a whole, 2 entries a unit
    wholes = Block("wholes", 2, (Tie("w", along, repeat=2),))
    tie = Tie("w", axis, repeat=2, along=along)
    units = Block("units", 6, (tie,), (Generator("scale", ((tie, 1.0),)),), parent=0)
    params = {"w": torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    graph = Graph(
        layers=(), blocks=(wholes, units), reference=params, standardise=graph_of("linear").standardise, scalable=False
    )
    for seed in range(4):
        element = random_element(graph, torch.Generator().manual_seed(seed))
        _close(element.apply_linear(params), _literal(graph, element, params))
