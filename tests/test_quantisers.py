import math
import struct
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.func import grad, jvp, vmap

from binarynets import quantisers as q


def _ede(x: float, progress: float) -> float:
    t = 0.1 * (10 / 0.1) ** progress
    return max(1 / t, 1.0) * t * (1 - math.tanh(t * x) ** 2)


def _swish(x: float, beta: float) -> float:
    if abs(beta * x) > 500:
        return 0.0
    return beta * (2 - beta * x * math.tanh(beta * x / 2)) / (1 + math.cosh(beta * x))


# Each elementwise quantiser with its gradient as the papers write it, for one float.
CASES = {
    "ste": (q.ste_sign, lambda x: float(abs(x) <= 1)),
    "ste, clip 0.3": (partial(q.ste_sign, clip=0.3), lambda x: float(abs(x) <= 0.3)),
    "ste, no clip": (partial(q.ste_sign, clip=None), lambda x: 1.0),
    "approx": (q.approx_sign, lambda x: 2 - 2 * abs(x) if abs(x) <= 1 else 0.0),
    "swish": (q.swish_sign, partial(_swish, beta=5.0)),
    "swish, beta 2": (partial(q.swish_sign, beta=2.0), partial(_swish, beta=2.0)),
    "annealed, start": (partial(q.annealed_sign, progress=0.0), partial(_ede, progress=0.0)),
    "annealed, middle": (partial(q.annealed_sign, progress=0.6), partial(_ede, progress=0.6)),
    "annealed, end": (partial(q.annealed_sign, progress=1.0), partial(_ede, progress=1.0)),
}
cases = pytest.mark.parametrize(("quantise", "gradient"), CASES.values(), ids=CASES)
# torch's own decompositions for jvp are scripted as they are imported.
uses_jvp = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
POINTS = [0.0, -0.0, 1e-300, 0.3, -0.3, 0.299, 0.301, 0.5, -0.7, 1.0, -1.0, 1.001, -1.5, 3.0, -12.0, 1e3, -1e30, 1e300]


def _gradient(quantise: q.Quantiser, x: Tensor) -> Tensor:
    return grad(lambda x: quantise(x).sum())(x)


@cases
def test_gradient_is_the_formula(quantise, gradient) -> None:
    x = torch.tensor(POINTS, dtype=torch.float64)
    expected = torch.tensor([gradient(point) for point in POINTS], dtype=torch.float64)
    torch.testing.assert_close(_gradient(quantise, x), expected, rtol=1e-12, atol=1e-12)


@cases
@settings(max_examples=50, deadline=None)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_value_is_exactly_one_or_minus_one(quantise, gradient, bits: list[int]) -> None:
    numbers = [struct.unpack("f", struct.pack("I", each))[0] for each in bits]
    finite = [each for each in numbers if math.isfinite(each)] + [0.0, -0.0, 3.4e38, -3.4e38, 1e-45]
    expected = [1.0 if each >= 0 else -1.0 for each in finite]
    assert quantise(torch.tensor(finite)).tolist() == expected


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nan_is_seen_and_types_are_kept(quantise, gradient, dtype: torch.dtype) -> None:
    y = quantise(torch.tensor([math.nan, 2.0, -2.0], dtype=dtype))
    assert y.dtype == dtype
    assert y[0].isnan()
    assert y[1:].tolist() == [1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@settings(max_examples=50, deadline=None)
@given(clip=st.floats(1e-3, 1e4))
def test_clip_passes_its_edge_and_not_the_next_number(dtype: torch.dtype, clip: float) -> None:
    edge = torch.tensor(clip, dtype=dtype)
    beyond = torch.nextafter(edge, torch.tensor(math.inf, dtype=dtype))
    x = torch.stack([edge, -edge, beyond, -beyond])
    assert _gradient(partial(q.ste_sign, clip=clip), x).tolist() == [1, 1, 0, 0]


def test_clip_that_rounds_up_to_a_power_of_two_keeps_its_edge() -> None:
    x = torch.tensor([1.0, 1.0 + 2**-23])
    assert _gradient(partial(q.ste_sign, clip=1 - 1e-12), x).tolist() == [1, 0]


@uses_jvp
@cases
def test_function_transforms_agree_with_the_formula(quantise, gradient) -> None:
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    slope = torch.tensor([gradient(point) for point in x.flatten().tolist()], dtype=torch.float64).reshape(3, 4)
    value, tangent = jvp(quantise, (x,), (2 * torch.ones_like(x),))
    assert torch.equal(value, quantise(x))
    torch.testing.assert_close(tangent, 2 * slope)
    assert torch.equal(vmap(quantise)(x), quantise(x))
    torch.testing.assert_close(vmap(grad(lambda row: quantise(row).sum()))(x), slope)


@pytest.mark.parametrize(
    "quantise", [*(case[0] for case in CASES.values()), q.magnitude_aware_sign], ids=[*CASES, "magnitude-aware"]
)
def test_compiled_is_the_same(quantise) -> None:
    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(quantise, backend="aot_eager", fullgraph=True)(a)
    plain = quantise(b)
    (compiled**2 + compiled).sum().backward()
    (plain**2 + plain).sum().backward()
    assert torch.equal(compiled, plain)
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("quantise", [q.ste_sign, q.approx_sign, q.swish_sign, q.magnitude_aware_sign])
def test_traced_is_the_same(quantise) -> None:
    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    assert torch.equal(fx.symbolic_trace(lambda x: quantise(x))(x), quantise(x))


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5), (3, 2, 2, 2)])
def test_magnitude_aware_scales_each_output_channel(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w.view(-1)[0] = 0.0
    gradient = _gradient(q.magnitude_aware_sign, w)
    for k in range(shape[0]):
        scale = sum(abs(each) for each in w[k].flatten().tolist()) / w[k].numel()
        signs = torch.tensor([1.0 if each >= 0 else -1.0 for each in w[k].flatten().tolist()]).double()
        torch.testing.assert_close(q.magnitude_aware_sign(w)[k].flatten(), scale * signs)
        torch.testing.assert_close(gradient[k], scale * (w[k].abs() <= 1).double())


@uses_jvp
def test_magnitude_aware_under_transforms() -> None:
    w = torch.randn((2, 3, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = vmap(grad(lambda w: (q.magnitude_aware_sign(w) ** 2).sum()))(w)
    one = torch.stack([grad(lambda w: (q.magnitude_aware_sign(w) ** 2).sum())(w) for w in w])
    torch.testing.assert_close(each, one)
    _, tangent = jvp(q.magnitude_aware_sign, (w[0],), (torch.ones_like(w[0]),))
    torch.testing.assert_close(tangent, _gradient(q.magnitude_aware_sign, w[0]))


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_bad_clip(clip: float) -> None:
    with pytest.raises(ValueError, match="clip: expected a positive finite number"):
        q.ste_sign(torch.ones(1), clip=clip)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_bad_beta(beta: float) -> None:
    with pytest.raises(ValueError, match="beta: expected a positive finite number"):
        q.swish_sign(torch.ones(1), beta)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_bad_progress(progress: float) -> None:
    with pytest.raises(ValueError, match="progress: expected the fraction"):
        q.annealed_sign(torch.ones(1), progress)


def test_magnitude_aware_needs_channels() -> None:
    with pytest.raises(ValueError, match=r"at least two axes, got shape \[3\]"):
        q.magnitude_aware_sign(torch.ones(3))
