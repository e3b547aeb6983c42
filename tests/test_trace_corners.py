"""Corners of tracing: each network is refused with a clear error, or traced, certified and put into standard form."""

# ruff: noqa: E501 (one network a line)

import pytest
import torch
import torch.nn.functional as F
from motifs import Own
from torch import Tensor, nn

import binarynets
import fullprecision
from compare.params import call, parameters
from compare.symmetry import SymmetryError, match, random_element, standard_form, trace
from compare.symmetry.certificate import randomised


def _lin(a: int, b: int) -> nn.Module:
    return nn.Linear(a, b)


def _shared_bias() -> nn.Module:
    first, second = _lin(6, 6), _lin(6, 6)
    second.bias = first.bias
    return nn.Sequential(first, nn.ReLU(), second)


def _shared_gain(part: str) -> nn.Module:
    first, second = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    setattr(second, part, getattr(first, part))
    return nn.Sequential(_lin(4, 6), first, nn.ReLU(), _lin(6, 6), second, nn.ReLU(), _lin(6, 3))


def _norm_twice() -> nn.Module:
    parts = {"a": _lin(4, 6), "b": _lin(6, 6), "n": nn.BatchNorm1d(6), "o": _lin(6, 3)}
    return Own(lambda m, x: m.o(torch.relu(m.n(m.b(torch.relu(m.n(m.a(x))))))), **parts)


def _heads(f, **parts: nn.Module) -> nn.Module:
    """An operation on [batch, 3 heads, 4 entries], made of 12 units."""
    return nn.Sequential(_lin(4, 12), nn.Tanh(), Own(lambda m, x: f(x.view(-1, 3, 4), m), **parts))


SOUND = {
    "shared bias": (_shared_bias, (6,)),
    "shared gain": (lambda: _shared_gain("weight"), (4,)),
    "shared offset": (lambda: _shared_gain("bias"), (4,)),
    "norm called twice": (_norm_twice, (4,)),
    "one output, squeezed": (lambda: nn.Sequential(_lin(4, 4), nn.ReLU(), _lin(4, 1), Own(lambda m, x: x.squeeze(-1))), (4,)),
    "one unit": (lambda: nn.Sequential(_lin(4, 1), nn.ReLU(), _lin(1, 3)), (4,)),
    "one channel, flattened": (lambda: nn.Sequential(nn.Conv2d(2, 1, 2), nn.ReLU(), nn.Flatten(), _lin(9, 3)), (2, 4, 4)),
    "names of operands": (
        lambda: Own(
            lambda m, x: m.c(torch.flatten(input=torch.cat(tensors=[h := F.relu(input=m.a(input=x)), h + m.b(h)], dim=1), start_dim=1)),
            a=_lin(4, 6), b=_lin(6, 6), c=_lin(12, 3),
        ),
        (4,),
    ),
    "other": (lambda: Own(lambda m, x: m.b(torch.add(h := m.a(x).tanh(), other=h)), a=_lin(4, 6), b=_lin(6, 3)), (4,)),
    "constant": (lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: x * torch.arange(1.0, 7.0)), nn.ReLU(), _lin(6, 3)), (4,)),
    "reciprocal": (lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: 1 / (x * x + 1)), _lin(6, 3)), (4,)),
    "power of two": (lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: 2**x.tanh()), _lin(6, 3)), (4,)),
    "clamp": (lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: x.clamp(min=0)), _lin(6, 3)), (4,)),
    "rounded quotient": (
        lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: torch.div(x, 0.3, rounding_mode="floor")), _lin(6, 3)), (4,),
    ),
    "shift by padding": (lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: F.pad(x, (1, -1))), nn.ReLU(), _lin(6, 3)), (4,)),
    "zeros beside units": (lambda: nn.Sequential(_lin(4, 6), nn.ReLU(), Own(lambda m, x: F.pad(x, (1, 2))), _lin(9, 3)), (4,)),
    "softmax over heads": (lambda: _heads(lambda x, m: m.o(x.softmax(1).flatten(1)), o=_lin(12, 3)), (4,)),
    "mean over heads": (lambda: _heads(lambda x, m: m.o(x.mean(1)), o=_lin(4, 3)), (4,)),
    "heads against heads": (lambda: _heads(lambda x, m: m.o((x @ x.transpose(1, 2)).flatten(1)), o=_lin(9, 3)), (4,)),
    "heads summed by einsum": (lambda: _heads(lambda x, m: m.o(torch.einsum("bhd,bgd->bhg", x, x).flatten(1)), o=_lin(9, 3)), (4,)),
    "heads of unequal number": (
        lambda: _heads(lambda x, m: m.o(torch.cat([x, m.p(x.flatten(1)).view(-1, 2, 4)], 1).flatten(1)), p=_lin(12, 8), o=_lin(20, 3)),
        (4,),
    ),
    "mask": (
        lambda: _heads(lambda x, m: m.o(x.masked_fill(torch.tensor([True, False, False, True]), 0.0).flatten(1)), o=_lin(12, 3)),
        (4,),
    ),
    "group norm on the input's channels": (
        lambda: Own(lambda m, x: m.o(m.n(m.a(torch.relu(m.a(x))))), a=_lin(4, 4), n=nn.GroupNorm(2, 4), o=_lin(4, 3)), (4,),
    ),
    "grouped on the input": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), _lin(24, 3)), (4, 4, 4)),
    "zero attention": (
        lambda: Own(
            lambda m, x: m.o(m.a(h := m.i(x), h, h)[0]),
            i=_lin(4, 6), a=nn.MultiheadAttention(6, 2, batch_first=True, add_zero_attn=True), o=_lin(6, 3),
        ),
        (5, 4),
    ),
    "weights of each head": (
        lambda: Own(
            lambda m, x: m.a(h := m.i(x), h, h, average_attn_weights=False)[1].mean(1),
            i=_lin(4, 6), a=nn.MultiheadAttention(6, 2, batch_first=True),
        ),
        (5, 4),
    ),
    "last norm without gains": (lambda: nn.Sequential(_lin(4, 6), nn.ReLU(), _lin(6, 3), nn.BatchNorm1d(3, affine=False)), (4,)),
    "last norm behind pooling": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.MaxPool2d(3), nn.BatchNorm2d(3), nn.Flatten()), (1, 4, 4),
    ),
    "last norm on flattened maps": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.BatchNorm1d(12)), (1, 4, 4)),
    "channel shuffle": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 1), nn.ReLU(), Own(lambda m, x: x.view(-1, 2, 3, 3, 3).transpose(1, 2).reshape(-1, 6, 3, 3)), nn.Conv2d(6, 3, 3)
        ),
        (2, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_it_is_traced_and_its_standard_form_keeps_it(name) -> None:
    build, shape = SOUND[name]
    torch.manual_seed(0)
    model, generator = build().eval(), torch.Generator().manual_seed(1)
    graph = trace(model, torch.randn(4, *shape), fullprecision.FAMILY)
    model, x = model.double(), torch.randn(32, *shape, dtype=torch.float64)
    graph = trace(model, x[:4], fullprecision.FAMILY, certify=False)
    for _ in range(3):
        params = randomised(parameters(model), generator)
        for gain in graph.gains:
            params[gain] = params[gain] * (2 * torch.randint(2, params[gain].shape, generator=generator) - 1)
        before = call(model, params, x)
        size = float(before.abs().max())
        moved = random_element(graph, generator).apply(params)
        assert float((call(model, moved, x) - before).abs().max()) <= 1e-9 * size
        for normalisation in ("kept", "folded"):
            same = standard_form(graph, params, invariant="loss", normalisation=normalisation)
            assert float((call(model, same, x) - before).abs().max()) <= 1e-8 * size
            scaled = call(model, standard_form(graph, params, normalisation=normalisation), x)
            factor = float((before * scaled).sum() / scaled.square().sum())
            assert factor > 0
            assert float((factor * scaled - before).abs().max()) <= 1e-7 * size


@pytest.mark.parametrize("name", SOUND)
def test_no_element_that_is_searched_exceeds_the_bound(name) -> None:
    build, shape = SOUND[name]
    model = build().eval()
    graph = trace(model, torch.randn(4, *shape), fullprecision.FAMILY, certify=False)
    a, b = (randomised(parameters(model), torch.Generator().manual_seed(seed)) for seed in (1, 2))
    found = match(graph, a, b)
    assert found.objective <= found.bound + 1e-5 * abs(found.bound)


REFUSED = {
    "tensor beside a power": lambda: Own(lambda m, x: m.b(m.a(x).abs() ** m.p), a=_lin(4, 6), b=_lin(6, 3), p=nn.Parameter(torch.ones(6))),
    "tensor bounds": lambda: Own(lambda m, x: m.b(m.a(x).clamp(m.p, m.p + 1)), a=_lin(4, 6), b=_lin(6, 3), p=nn.Parameter(torch.ones(6))),
    "dropout that never stops": lambda: nn.Sequential(_lin(4, 6), Own(lambda m, x: F.dropout(x)), _lin(6, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_three_ways_on(name) -> None:
    with pytest.raises(SymmetryError, match="three ways on"):
        trace(REFUSED[name]().eval(), torch.randn(4, 4), fullprecision.FAMILY)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("net", {}, "expected a torch.nn.Module, got str"),
        (nn.Sequential(nn.LazyLinear(3), nn.ReLU()), {}, "run it once"),
        (_lin(4, 3), {}, "wrap it"),
        (nn.Sequential(_lin(4, 3)), {"opaque": "0"}, r"write opaque=\['0'\]"),
        (nn.Sequential(_lin(4, 3)), {"accept_ties": -1}, "a fraction from 0 to 1"),
        (nn.Sequential(_lin(4, 3), nn.ReLU()), {"rules": {nn.ReLU: lambda site, x: None}}, "gave nothing"),
    ],
)
def test_rubbish_is_told(model, options, message) -> None:
    with pytest.raises(SymmetryError, match=message):
        trace(model, torch.randn(4, 4), fullprecision.FAMILY, **options)


def test_inputs_that_are_no_numbers_are_told() -> None:
    with pytest.raises(SymmetryError, match="expected finite numbers"):
        trace(nn.Sequential(_lin(4, 3)), torch.full((2, 4), torch.nan), fullprecision.FAMILY)
    with pytest.raises(SymmetryError, match="not finite at random"):
        trace(
            nn.Sequential(_lin(4, 3), Own(lambda m, x: torch.log(-x * x - 1))), torch.randn(2, 4), fullprecision.FAMILY
        )


def test_a_shared_threshold_is_not_moved() -> None:
    """One bias before two sign functions behind different layers: ties are measured there, not broken."""
    torch.manual_seed(0)
    first, second = (binarynets.BinaryLinear(4, 4, bias=True) for _ in range(2))
    second.bias = first.bias
    model = nn.Sequential(first, binarynets.Sign(), second, binarynets.Sign(), binarynets.BinaryLinear(4, 3)).eval()
    x: Tensor = 2.0 * torch.randint(2, (16, 4)) - 1
    graph = trace(model, x, binarynets.FAMILY)
    assert not any(layer.step for layer in graph.layers)
    assert set(graph.tie_rates) == {"1", "3"}
