"""The group of a Brevitas network is what its quantisers admit: checked on Brevitas's own forward, never on ours."""

import copy
import functools

import pytest
import torch
from brevitas_nets import (
    EXAMPLES,
    HAND_MADE,
    Case,
    GroupwiseWeight,
    brevitas_outputs,
    inputs,
    made,
    perceptron,
    tanh,
)
from torch import Tensor, nn

from binarynets.brevitas import FAMILY
from compare import match, parameters, standard_form, trace
from compare.params import Params
from compare.symmetry import Graph, random_element

pytestmark = pytest.mark.filterwarnings("ignore:Positional args are being deprecated")

# The group of each network, found by hand: "size/wholes:signs,scales" for each block in the order of evaluation.
# Behind batch normalisation every odd weight has the sign (w, mean, gain); an odd activation has that of (gain, offset,
# next columns), too, and a sign function the scale of (gain, offset). '!' marks units that do not move.
GROUPS = {
    "binary": "10:2,1 7:2,1",
    "binary, scale 0.1": "10:2,1 7:2,1",
    "binary, bias": "10:2,1 7:2,1",
    "binary, learned scale": "10:2,1 7:2,1",
    "mean of each row": "10:2,1 7:2,1",
    "ternary": "10:2,0 7:2,0",
    "8 bits": "10:1,0 7:1,0",
    "4 bits by channel": "10:1,0 7:1,0",
    "learned scale": "10:2,0 7:2,0",
    "learned scales by channel": "10:2,0 7:2,0",
    "wide weights": "10:0,0 7:0,0",
    "shifted weights": "10:0,0 7:0,0",
    "shifted activations": "10:1,0 7:1,0",
    "statistics": "10:1,0 7:1,0",
    "relu by channel": "5:1,0",
    "tanh": "10:1,0 7:1,0",
    "sigmoid": "10:1,0 7:1,0",
    "hard swish": "10:1,0 7:1,0",
    "asymmetric range": "10:1,0 7:1,0",
    "weights as they are": "10:1,0 7:1,0",
    "activations as they are": "10:1,0 7:1,0",
    "8-bit inputs": "10:2,1 7:2,1",
    # Outputs of the first map are quantised before normalisation, unevenly.
    "quantised input, output and bias": "10:0,0",
    "bias of its own scale": "10:1,0 7:1,0",
    "bias of the input's scale": "10:1,0",
    # The two groups have an input channel each, which stays.
    "conv1d": "2!:0,0 6/2:2,1",
    "conv2d": "5:2,1 6:2,1",
    "conv2d, 3 bits": "5:1,0 6:1,0",
    "conv2d, scale 0.1": "5:2,1 6:2,1",
    "max pool behind the sign": "5:1,1 6:2,1",
    "average pool": "5:2,0 6:2,0",
    "groups": "3:0,0 6/3:0,0 9/3:1,0",
    "transposed": "5:1,0 4:1,0",
    "transposed, 1d": "5:2,0",
    "truncating pool": "5:1,0",
    "chain of quantised tensors": "5:0,0",
    # Two maps write to the stream, each with a normalisation of its own.
    "addition": "8:2,0",
    "tied": "8:1,0",
    "plain layers between": "10:2,1 9:0,1 8:1,0",
    # A factor on a row changes the scale that all rows share.
    "no normalisation": "10:0,0 7:0,0",
    "tensor norm": "10:2,1 7:2,1",
    "TFC_1W1A": "64:2,1 64:2,1 64:2,1",
    "SFC_1W1A": "256:2,1 256:2,1 256:2,1",
    "LFC_1W1A": "1024:2,1 1024:2,1 1024:2,1",
    "TFC_1W2A": "64:2,0 64:2,0 64:2,0",
    "TFC_2W2A": "64:2,0 64:2,0 64:2,0",
    # Max pooling behind the sign function: the sign goes no further.
    "CNV_1W1A": "64:2,1 64:1,1 128:2,1 128:1,1 256:2,1 256:2,1 512:2,1 512:2,1",
    "CNV_1W2A": "64:2,0 64:1,0 128:2,0 128:1,0 256:2,0 256:2,0 512:2,0 512:2,0",
    # A stream holds three normalisations' outputs.
    "RESNET18_4W4A": "64:3,0 64:1,0 64:1,0 128:1,0 128:3,0 128:1,0 256:1,0 256:3,0 256:1,0 512:1,0 512:3,0 512:1,0",
}
EXACT = ("TFC_1W1A", "SFC_1W1A", "LFC_1W1A")
BITWISE = (*EXACT, "CNV_1W1A")  # inputs of 8 bits are no integers, but their sums are exact, too
CASES = {**HAND_MADE, **EXAMPLES}


@functools.cache
def _traced(name: str) -> tuple[nn.Module, Graph, Tensor]:
    samples = 2 if name.startswith(("CNV", "RESNET")) else 16
    model, x = made(CASES[name]), inputs(CASES[name], samples)
    # The tests below are the certificate, on Brevitas's own forward.
    return model, trace(model, x, FAMILY, certify=name in HAND_MADE), x


def described(graph: Graph) -> str:
    return " ".join(
        f"{block.size}{'' if block.parent is None else f'/{graph.blocks[block.parent].size}'}{'!' * block.rigid}:"
        f"{sum(g.kind == 'sign' for g in block.generators)},{sum(g.kind == 'scale' for g in block.generators)}"
        for block in graph.blocks
    )


def _moved(graph: Graph, params: Params, seed: int) -> Params:
    return random_element(graph, torch.Generator().manual_seed(seed)).apply(params)


def _changed(a: Params, b: Params) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.parametrize("name", GROUPS)
def test_the_group_is_the_one_found_by_hand(name: str) -> None:
    assert described(_traced(name)[1]) == GROUPS[name]


@pytest.mark.parametrize("name", GROUPS)
def test_brevitas_own_forward_stays_as_it_is(name: str) -> None:
    """Bit for bit where all sums are of integers at scale 1, else in float64."""
    model, graph, x = _traced(name)
    assert graph.exact == (name in EXACT)
    if name not in BITWISE:
        model, x = copy.deepcopy(model).double(), x.double()
    for seed in range(1 if name.startswith(("CNV", "RESNET")) else 3):
        params = parameters(model)
        moved = _moved(graph, params, seed)
        assert {layer.weight for layer in graph.layers[:-1]} <= _changed(params, moved)
        expected, got = (brevitas_outputs(model, x, p) for p in (params, moved))
        assert bool((expected.std(0) > 0).any())
        if name in BITWISE:
            assert torch.equal(got, expected)
        else:
            assert float((got - expected).abs().max()) <= 1e-9 * float(expected.abs().max())


# What the units between two maps could admit, by the tensors that move: signs of (w, mean, gain), signs and factors of
# (gain, offset, next columns). A sign function forgets factors, so that the columns keep theirs.
def _negated_before(first: str, norm: str, _next: str) -> dict[str, tuple[int, float]]:
    return {
        f"{first}.weight": (0, 1),
        f"{first}.bias": (0, 1),
        f"{norm}.running_mean": (0, 1),
        f"{norm}.weight": (0, 1),
    }


def _passed_on(_first: str, norm: str, after: str) -> dict[str, tuple[int, float]]:
    return {f"{norm}.weight": (0, 1), f"{norm}.bias": (0, 1), f"{after}.weight": (1, -1)}


def _forgotten(_first: str, norm: str, _next: str) -> dict[str, tuple[int, float]]:
    return {f"{norm}.weight": (0, 1), f"{norm}.bias": (0, 1)}


def _multiplied(params: Params, d: Tensor, ties: dict[str, tuple[int, float]]) -> Params:
    moved = dict(params)
    for name, (axis, exponent) in ties.items():
        if name in moved:
            factor = d**exponent
            moved[name] = moved[name] * factor.view([-1 if i == axis else 1 for i in range(moved[name].ndim)])
    return moved


def _holds(model: nn.Module, x: Tensor, params: Params, copies: list[Params]) -> bool:
    expected = brevitas_outputs(model, x, params)
    return all(
        float((brevitas_outputs(model, x, p) - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
        for p in copies
    )


UNEVEN = ("wide weights", "shifted weights", "bias of its own scale")

# Path of a map, of the normalisation behind it, of the next map.
PLACES = {
    **{
        name: ("0", "1", "3")
        for name, case in HAND_MADE.items()
        if case.shape == (12,)
        and GROUPS.get(name, "").startswith("10:")
        and name not in (*UNEVEN, "8-bit inputs", "no normalisation")
        and name not in ("quantised input, output and bias", "bias of the input's scale", "plain layers between")
    },
    "8-bit inputs": ("1", "2", "4"),
    "quantised input, output and bias": ("0", "1", "3"),
    "bias of the input's scale": ("0", "1", "4"),
    "conv2d": ("0", "1", "3"),
    "conv2d, 3 bits": ("0", "1", "4"),
    "max pool behind the sign": ("0", "1", "4"),
    "average pool": ("0", "1", "4"),
    "truncating pool": ("0", "1", "5"),
    "plain layers between": ("0", "1", "3"),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_group_is_neither_too_small_nor_too_large(name: str) -> None:
    """Each possible generator is tried on Brevitas's own forward: those that hold are as many as the graph has."""
    model, graph, _ = _traced(name)
    model, x, place = copy.deepcopy(model).double(), inputs(CASES[name], 500, seed=9).double(), PLACES[name]
    params = parameters(model)
    block = graph.blocks[0]
    generator = torch.Generator().manual_seed(0)
    some = 2.0 * torch.randint(0, 2, (3, block.size), generator=generator).double() - 1
    signs = [-torch.ones(block.size).double(), *some]
    scales = [torch.full((block.size,), 2.0).double(), 1 + torch.rand(block.size, generator=generator).double()]
    found = {"sign": 0, "scale": 0}
    for ties in (_negated_before, _passed_on):
        copies = [_multiplied(params, d, ties(*place)) for d in signs]
        found["sign"] += _holds(model, x, params, copies)
    # Behind a sign function and before binary weights both say the same: columns have no size.
    factors = [[_multiplied(params, d, ties(*place)) for d in scales] for ties in (_passed_on, _forgotten)]
    found["scale"] += any(_holds(model, x, params, copies) for copies in factors)
    kinds = [one.kind for one in block.generators]
    assert found == {kind: kinds.count(kind) for kind in found}


@pytest.mark.parametrize("name", ["4 bits by channel", "relu by channel", "learned scales by channel", "groups"])
def test_scales_of_channels_move_with_their_channel(name: str) -> None:
    """And must: a copy in which they stay is another network."""
    model, graph, x = _traced(name)
    model, x = copy.deepcopy(model).double(), inputs(CASES[name], 200, seed=9).double()
    params = parameters(model)
    own = [tie.name for block in graph.blocks for tie in block.ties if "scaling_impl" in tie.name]
    assert bool(own) == (name in ("relu by channel", "learned scales by channel"))
    with torch.no_grad():
        for tensor in own:
            params[tensor] *= torch.exp(torch.randn(params[tensor].shape, generator=torch.Generator().manual_seed(1)))
    moved = _moved(graph, params, 1)
    assert _holds(model, x, params, [moved])
    for tensor in own:
        assert not _holds(model, x, params, [{**moved, tensor: params[tensor]}])


@pytest.mark.parametrize("size", [3, 4])
def test_groups_of_entries_with_scales_of_their_own_stay_together(size: int) -> None:
    """Columns of one group may not leave it; nothing false is claimed, rows move."""
    weight = {"weight_quant": GroupwiseWeight, "weight_group_size": size, "weight_bit_width": 4}
    case = Case(lambda: perceptron(weight, tanh), (12,))
    model, x = made(case), inputs(case, 200)
    graph = trace(model, x, FAMILY)
    assert all(block.rigid for block in graph.blocks)
    assert any("groups of entries" in note for note in graph.notes)
    double, x = copy.deepcopy(model).double(), x.double()
    params = parameters(double)
    assert _holds(double, x, params, [_moved(graph, params, 0)])
    renamed = {n: t.flip(0) if n.split(".")[0] in "01" and t.ndim else t for n, t in params.items()}
    renamed["3.weight"] = params["3.weight"].flip(1)
    assert not _holds(double, x, params, [renamed])


PLANTED = ("TFC_1W1A", "TFC_2W2A", "binary, scale 0.1", "mean of each row", "ternary", "4 bits by channel", "conv2d")


@pytest.mark.parametrize("name", PLANTED)
def test_matching_finds_a_planted_copy(name: str) -> None:
    model, graph, x = _traced(name)
    a = standard_form(graph, parameters(model), invariant="loss")
    b = standard_form(graph, _moved(graph, a, 5), invariant="loss")
    found = match(graph, a, b)
    weights = [layer.weight for layer in graph.layers]
    assert _changed({n: a[n] for n in weights}, b) != set()
    for weight in weights:
        torch.testing.assert_close(found.params[weight], a[weight], rtol=1e-5, atol=1e-6)
    assert found.objective == pytest.approx(sum(float(a[n].double().square().sum()) for n in weights), rel=1e-6)
    assert torch.equal(brevitas_outputs(model, x, found.params).argmax(1), brevitas_outputs(model, x, a).argmax(1))


STANDARD = (*EXACT, "CNV_1W1A", "TFC_1W2A", "TFC_2W2A", *HAND_MADE)


@pytest.mark.parametrize("name", [name for name in STANDARD if name in GROUPS])
def test_the_standard_form_keeps_outputs_and_the_size_of_weights_of_several_bits(name: str) -> None:
    model, graph, x = _traced(name)
    if name not in BITWISE:
        model, x = copy.deepcopy(model).double(), x.double()
    params = parameters(model)
    std = standard_form(graph, params, invariant="loss")
    expected, got = (brevitas_outputs(model, x, p) for p in (params, std))
    if name in BITWISE:
        assert torch.equal(got, expected)
    else:
        assert float((got - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    for layer in graph.layers:
        if layer.quantised:
            assert torch.equal(std[layer.weight].abs(), params[layer.weight].abs())
        elif layer.binarised and not layer.last and not layer.axis:
            norms = std[layer.weight].flatten(1).norm(dim=1)
            torch.testing.assert_close(norms, torch.ones_like(norms))
    again = standard_form(graph, std, invariant="loss")
    assert all(torch.allclose(again[n], std[n], rtol=1e-6, atol=1e-7) for n in std)
    error = standard_form(graph, params)
    assert torch.equal(brevitas_outputs(model, x, error).argmax(1), expected.argmax(1))
    assert all(torch.equal(error[g.weight].abs(), params[g.weight].abs()) for g in graph.layers if g.quantised)


@pytest.mark.parametrize("name", UNEVEN)
def test_what_rounds_unevenly_is_another_weight_when_negated(name: str) -> None:
    """Hardly seen in outputs: one level of 256 at the edge, or the range that levels are spread over."""
    model, graph, _ = _traced(name)
    what = "bias" if name.startswith("bias") else "weight"
    twin = copy.deepcopy(model)
    with torch.no_grad():
        entries = getattr(twin[0], what)
        row = int(entries.abs().view(10, -1).amax(1).argmax())
        entries[row].neg_()
        plus, minus = ((m[0].quant_bias() if what == "bias" else m[0].quant_weight()).value for m in (model, twin))
    assert not torch.equal(plus[row], -minus[row])
    assert sum(generator.kind == "sign" for generator in graph.blocks[0].generators) == (what == "bias")
