"""The group found is the largest there is: slow oracles that know nothing of tracing look for more diagonals."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from groups import ALL, FULL, graph_of, keeping, wide
from motifs import double
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from compare.params import Params
from compare.symmetry import Block, Graph

# The entrywise oracle finds more scales than the tracer: by how many, and why.
MORE_SCALES = {
    # w, bias and mean times s, gain divided by s: exact for given statistics, but not when they are measured again.
    "batch norm": 6,
    "batch norm, no affine": 6,
    "batch norm, tanh": 6,
    "batch norm 2d": 6,
    "residual cnn": 4 + 7 + 4 + 5 + 6 + 6,
    "concatenation": 3 + 5 + 4,
    "mbconv": 4 + 8 + 8 + 4,
    # Instance normalisation takes away the bias before it, softmax that of keys: those may be anything.
    "instance norm": 6,
    "multi-head attention": 6,
    "cross attention": 6,
    "attention by hand": 8,
    "attention, packed qkv": 10,
    "attention, fused": 6,
    "class token": 6,
    # The kernel is as high as the map: channel and row together may be scaled, 8 of them instead of 4 channels.
    "view and reshape": 4,
    # The shared weight times s, the two biases times s and s squared: one number for all units.
    "tied linear": 1,
}


@pytest.fixture(autouse=True)
def _differentiable(monkeypatch) -> None:
    """Torch's own functions are not differentiable by running statistics, or not batched."""

    def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, gain, offset, training, momentum, eps) -> Tensor:
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        y = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + eps)
        return y if gain is None else y * gain.view(shape) + offset.view(shape)

    def prelu(x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x > 0, x, slope * x)

    monkeypatch.setattr(F, "batch_norm", batch_norm)
    monkeypatch.setattr(F, "prelu", prelu)


def _tangents(model: nn.Module, params: Params, x: Tensor) -> Tensor:
    """How the outputs change when each parameter's entry grows by its own size, [samples * outputs, entries]."""
    moving = {name: tensor for name, tensor in params.items() if tensor.is_floating_point()}
    sizes = [tensor.numel() for tensor in moving.values()]
    flat = torch.cat([tensor.flatten() for tensor in moving.values()])

    def output(flat: Tensor, sample: Tensor) -> Tensor:
        parts = (part.view_as(moving[name]) for name, part in zip(moving, flat.split(sizes), strict=True))
        replaced = {**params, **dict(zip(moving, parts, strict=True))}
        return functional_call(model, replaced, (sample.unsqueeze(0),)).flatten()

    with sdpa_kernel(SDPBackend.MATH):
        return vmap(jacrev(output), in_dims=(None, 0))(flat, x).flatten(0, 1) * flat


def _claimed(graph: Graph, params: Params) -> Tensor:
    """The scales' generators as exponents of every entry, [generators and units, entries]."""
    rows = []
    for block in graph.blocks:
        for generator in block.generators:
            for unit in range(block.size) if generator.kind == "scale" else ():
                exponents = {name: torch.zeros_like(t) for name, t in params.items() if t.is_floating_point()}
                for tie, exponent in generator.factors:
                    mask = _mask(block, tie, unit, params[tie.name])
                    exponents[tie.name] += exponent * mask
                rows.append(torch.cat([tensor.flatten() for tensor in exponents.values()]))
    width = sum(tensor.numel() for tensor in params.values() if tensor.is_floating_point())
    return torch.stack(rows) if rows else torch.zeros(0, width, dtype=torch.float64)


def _mask(block: Block, tie, unit: int, tensor: Tensor) -> Tensor:
    """1 on the entries of one unit by one tie."""
    mask = torch.zeros_like(tensor)
    if tie.along is None:
        mask.narrow(tie.axis, tie.start + unit * tie.repeat, tie.repeat).fill_(1)
        return mask
    inside = tensor.shape[tie.axis] // tie.repeat
    each = tensor.shape[tie.along] * inside // block.size
    whole = mask.narrow(tie.along, unit // inside * each, each)
    whole.narrow(tie.axis, unit % inside * tie.repeat, tie.repeat).fill_(1)
    return mask


@pytest.mark.parametrize("name", FULL)
def test_no_other_scaling_of_entries_keeps_the_function(name) -> None:
    """Exponents for every single entry, the same for all parameters: their dimension is that of the tracer's scales."""
    model, x = ALL[name].build().double(), double(ALL[name].example(60))
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 0.1  # large enough to show
    if x.is_floating_point():
        x = x / 2  # attention saturates on larger inputs
    draws = [wide(name, seed) for seed in range(10)]
    stacked = torch.cat([_tangents(model, params, x) for params in draws])
    stacked = stacked / stacked.norm(dim=0).max()
    claimed = _claimed(graph_of(name), draws[0])
    assert claimed.shape[0] == torch.linalg.matrix_rank(claimed)
    if len(claimed):
        assert (stacked @ claimed.T).abs().max() < 1e-12
    values = torch.linalg.svdvals(torch.linalg.qr(stacked, mode="r").R)
    nullity = stacked.shape[1] - int((values > 1e-12 * values[0]).sum())
    assert nullity == len(claimed) + MORE_SCALES.get(name, 0)


# The sign of a bias that has no effect is free.
FREE_BIAS = {
    "instance norm": 0,
    "multi-head attention": 2,
    "cross attention": 4,
    "attention by hand": 2,
    "attention, packed qkv": 2,
    "attention, fused": 2,
    "class token": 2,
}
MOST_TIES = 9


def _leaves(graph: Graph) -> list[tuple[int, Block]]:
    """Blocks that are no wholes of others, with few enough ties to try all signs."""
    wholes = {block.parent for block in graph.blocks}
    return [(i, b) for i, b in enumerate(graph.blocks) if i not in wholes and len(b.ties) <= MOST_TIES]


@pytest.mark.parametrize("name", ALL)
def test_no_other_signs_keep_the_function(name) -> None:
    """All ways of negating one unit's entries on some of its ties: there are as many as the generators make."""
    draws = [(params, keeping(name, params)) for params in (wide(name, seed) for seed in range(4))]
    for index, block in _leaves(graph_of(name)):
        kept = 0
        for signs in itertools.product((1, -1), repeat=len(block.ties)):
            # Some units of some draws are dead: signs must do for all.
            kept += all(keeps(_negated(block, unit, signs, p)) for p, keeps in draws for unit in range(block.size))
        generators = sum(generator.kind == "sign" for generator in block.generators)
        assert kept == 2 ** (generators + (FREE_BIAS.get(name) == index)), block.name


def _negated(block: Block, unit: int, signs: tuple[int, ...], params: Params) -> Params:
    """One unit of the block, its entries on each tie times a sign."""
    moved = dict(params)
    for tie, sign in zip(block.ties, signs, strict=True):
        if sign < 0:
            moved[tie.name] = moved[tie.name] * (1 - 2 * _mask(block, tie, unit, params[tie.name]))
    return moved
