"""What each operation does to a stream of integers, or why it has no integer form."""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binarynets.integer.plan import Add, Convolution, Flatten, Linear, Pool
from binarynets.integer.streams import Site, Stream
from binarynets.layers import Binarised, BinaryConv1d, BinaryConv2d, BinaryLinear, Sign
from binarynets.quantisers import is_sign

ModuleRule: TypeAlias = Callable[[Site, Any, Stream], Stream]

_SIGN_FIRST = "Put binarynets.Sign before it, which makes integers again"


class Batch:
    """The number of samples, where a forward asks for it."""


class Shape:
    """The shape of a value, where a forward asks for it; only the number of samples can be read."""


def linear(site: Site, module: BinaryLinear, x: Stream) -> Stream:
    """Sums over bits; the bias waits for the decision."""
    _check_quantiser(site, module)
    x = site.ranked(site.integers(x, _SIGN_FIRST), 2)
    step = Linear(site.steps.unique(site.name), x.step, _weight(site, module))
    return _biased(site, site.put(step, 2, x.scaling), module.bias)


def convolution(site: Site, module: BinaryConv1d | BinaryConv2d, x: Stream) -> Stream:
    """Sums over windows; the bias waits for the decision."""
    _check_quantiser(site, module)
    if module.padding_mode != "zeros":
        site.refuse(f"padding with '{module.padding_mode}' is not supported", "Use padding_mode='zeros'")
    rank = len(module.kernel_size) + 2
    x = site.ranked(site.integers(x, _SIGN_FIRST), rank)
    step = Convolution(
        site.steps.unique(site.name),
        x.step,
        _weight(site, module),
        tuple(module.stride),
        _padding(module),
        tuple(module.dilation),
        module.groups,
    )
    return _biased(site, site.put(step, rank, x.scaling), module.bias)


def _padding(module: BinaryConv1d | BinaryConv2d) -> tuple[tuple[int, int], ...]:
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    if module.padding == "same":
        # An odd rest goes behind, as torch has it.
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(each), int(each)) for each in module.padding)


def _check_quantiser(site: Site, module: Binarised | Sign) -> None:
    if not is_sign(module.quantiser):
        site.refuse(
            "its quantiser gives other values than +1 and -1 by sign",
            "Use ste_sign, or fold magnitudes into the normalisation behind it",
        )


def _weight(site: Site, module: Binarised) -> str:
    name = site.steps.name(module.weight)
    assert name is not None
    return name


def _biased(site: Site, x: Stream, bias: Tensor | None) -> Stream:
    if bias is None:
        return x
    return dataclasses.replace(x, scaling=dataclasses.replace(x.scaling, bias=site.steps.name(bias)), biased=site.name)


def sign_activation(site: Site, module: Sign, x: Stream) -> Stream:
    """The decision."""
    _check_quantiser(site, module)
    return site.decide(x)


def batch_norm(site: Site, module: nn.BatchNorm1d | nn.BatchNorm2d, x: Stream) -> Stream:
    """Waits for the decision."""
    if module.running_mean is None or module.running_var is None:
        site.refuse(
            "it normalises with the statistics of each batch",
            "Use track_running_stats=True, and statistics of training",
        )
    x = site.ranked(x, *((4,) if isinstance(module, nn.BatchNorm2d) else (2, 3)))
    if x.normalised or x.decided:
        site.refuse(
            f"expected integers, got real numbers: {x.obstacle}",
            "One normalisation between a sum and its sign is supported: fold one into the other",
        )
    names = (site.steps.name(each) for each in (module.running_mean, module.running_var, module.weight, module.bias))
    mean, variance, gain, offset = names
    scaling = dataclasses.replace(x.scaling, mean=mean, variance=variance, gain=gain, offset=offset, eps=module.eps)
    return dataclasses.replace(x, scaling=scaling, normalised=site.name)


def max_pool(site: Site, module: nn.MaxPool1d | nn.MaxPool2d, x: Stream) -> Stream:
    """The largest of each window: of integers; behind a normalisation, whose gains may be negative, of the signs."""
    window = module.kernel_size
    given = (window, window if module.stride is None else module.stride, module.padding, module.dilation)
    axes = 1 if isinstance(module, nn.MaxPool1d) else 2
    return _max_pool(site, axes, x, *given, module.ceil_mode, module.return_indices)


def _max_pool(
    site: Site,
    axes: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Stream:
    if return_indices:
        site.refuse("positions of maxima are not integers of the network", "Use return_indices=False")
    x = site.ranked(site.stream(x), axes + 2)
    # Sums are ordered before a bias as behind it, rounding included; a normalisation of negative gain turns the order.
    before = site.only_signs(x) if x.normalised else x
    window = _sizes(kernel_size, axes)
    step = Pool(
        site.steps.unique(site.name),
        before.step,
        "max",
        window,
        window if stride is None else _sizes(stride, axes),
        _sizes(padding, axes),
        _sizes(dilation, axes),
        bool(ceil_mode),
    )
    return dataclasses.replace(before, step=site.steps.append(step))


def average_pool(site: Site, module: nn.AvgPool1d | nn.AvgPool2d, x: Stream) -> Stream:
    """The sum of each window; the divisor waits for the decision."""
    axes = 1 if isinstance(module, nn.AvgPool1d) else 2
    divisor = getattr(module, "divisor_override", None)
    given = module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad
    return _average_pool(site, axes, x, *given, divisor)


def _average_pool(
    site: Site,
    axes: int,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Stream:
    x = site.ranked(
        site.integers(x, "Average the signs behind binarynets.Sign, or the sums before bias and norm"), axes + 2
    )
    window = _sizes(kernel_size, axes)
    size = math.prod(window)
    if any(_sizes(padding, axes)) or ceil_mode or divisor_override is not None:
        site.refuse(
            "windows at the rim are divided by other numbers than those inside",
            "Use padding=0, ceil_mode=False and divisor_override=None",
        )
    if size & (size - 1):
        site.refuse(
            f"a mean of {size} numbers is rounded: only windows of a power of two are exact",
            "Use such a window, or max pooling",
        )
    strides = window if stride is None or stride == [] else _sizes(stride, axes)
    nothing, ones = (0,) * axes, (1,) * axes
    step = Pool(site.steps.unique(site.name), x.step, "sum", window, strides, nothing, ones, False)
    return site.put(step, x.rank, dataclasses.replace(x.scaling, divisor=x.scaling.divisor * size))


def _sizes(given: Any, axes: int) -> tuple[int, ...]:
    return (int(given),) * axes if isinstance(given, int) else tuple(map(int, given)) * (axes if len(given) == 1 else 1)


def flatten(site: Site, module: nn.Flatten, x: Stream) -> Stream:
    """Axes made one."""
    return _flatten(site, x, module.start_dim, module.end_dim)


def _flatten(site: Site, x: Any, start_dim: int = 0, end_dim: int = -1) -> Stream:
    before = site.stream(x)
    if start_dim < 1 or (end_dim < 0 and end_dim != -1):
        site.refuse(
            f"axes {start_dim} to {end_dim} are made one: expected a start behind the batch's axis 0, and -1 as end",
            "Use torch.nn.Flatten()",
        )
    rank = before.rank
    last = end_dim == -1 or (rank is not None and end_dim == rank - 1)
    if rank is not None and last and start_dim == rank - 1:
        return before
    if start_dim == 1 and (before.normalised or before.biased):
        # Behind it no axis holds the channels alone.
        before = site.only_signs(before)
    step = Flatten(site.steps.unique(site.name), before.step, start_dim, end_dim)
    flat = start_dim + 1 if last else None if rank is None else rank - (end_dim - start_dim)
    return dataclasses.replace(before, step=site.steps.append(step), rank=flat)


def _view(site: Site, x: Any, *sizes: Any) -> Stream:
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list | torch.Size):
        sizes = tuple(sizes[0])
    whole = len(sizes) == 2 and (isinstance(sizes[0], Batch) or sizes[0] == -1) and isinstance(sizes[1], int)
    if not whole or (sizes[0] == -1 and sizes[1] == -1):
        site.refuse(
            "only shapes [batch, everything else] are supported", "Use torch.nn.Flatten(), or x.view(len(x), -1)"
        )
    return _flatten(site, x, 1)


def unchanged(site: Site, module: nn.Module, x: Stream) -> Stream:
    """In evaluation mode it is the identity."""
    return x


def hard_tanh(site: Site, module: nn.Hardtanh, x: Stream) -> Stream:
    """Keeps signs; nothing else is known of the value behind it."""
    return _hard_tanh(site, x, module.min_val, module.max_val)


def _hard_tanh(site: Site, x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Stream:
    if not min_val < 0 <= max_val:
        site.refuse(f"it cuts off at {min_val} and {max_val} and so changes signs", "Use bounds on both sides of 0")
    return site.only_signs(site.stream(x))


def _add(site: Site, x: Any, y: Any, *, alpha: float = 1) -> Stream:
    remedy = "A stream has to stay integer between its additions: add sums or signs, and normalise behind the addition"
    left, right = site.integers(x, remedy), site.integers(y, remedy)
    if alpha != 1:
        site.refuse(f"alpha={alpha} scales one of the streams", "Add without alpha")
    if left.scaling.divisor != right.scaling.divisor:
        site.refuse(
            f"average pooling divided one stream by {left.scaling.divisor}, the other by {right.scaling.divisor}",
            "Pool both, or behind the addition",
        )
    if left.rank is not None and right.rank is not None and left.rank != right.rank:
        site.refuse(f"the streams have {left.rank} and {right.rank} axes", "Flatten both, or none")
    step = Add(site.steps.unique(site.name), left.step, right.step)
    return site.put(step, right.rank if left.rank is None else left.rank, left.scaling)


def _size(site: Site, x: Any, axis: int | None = None) -> Shape | Batch:
    return Shape() if axis is None else _item(site, Shape(), axis)


def _attribute(site: Site, x: Any, name: str) -> Shape:
    if name != "shape":
        site.refuse(f"the attribute '{name}' is not supported", "Only x.shape[0] is, in x.view(x.shape[0], -1)")
    return Shape()


def _item(site: Site, x: Any, index: Any) -> Batch:
    if not isinstance(x, Shape) or index != 0:
        site.refuse("only the number of samples can be read, x.shape[0]", "Cut values before the network, not in it")
    return Batch()


def _max_pool_1d(site: Site, x: Any, *rest: Any, **options: Any) -> Stream:
    return _max_pool(site, 1, x, *rest, **options)


def _max_pool_2d(site: Site, x: Any, *rest: Any, **options: Any) -> Stream:
    return _max_pool(site, 2, x, *rest, **options)


def _average_pool_1d(site: Site, x: Any, *rest: Any, **options: Any) -> Stream:
    return _average_pool(site, 1, x, *rest, **options)


def _average_pool_2d(site: Site, x: Any, *rest: Any, **options: Any) -> Stream:
    return _average_pool(site, 2, x, *rest, **options)


def _dropout(site: Site, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Stream:
    if training:
        site.refuse("it draws at random in evaluation mode too", "Pass training=self.training, or use torch.nn.Dropout")
    return site.stream(x)


def _contiguous(site: Site, x: Any) -> Stream:
    return site.stream(x)


MODULES: dict[type[nn.Module], ModuleRule] = {
    BinaryLinear: linear,
    BinaryConv1d: convolution,
    BinaryConv2d: convolution,
    Sign: sign_activation,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.MaxPool1d: max_pool,
    nn.MaxPool2d: max_pool,
    nn.AvgPool1d: average_pool,
    nn.AvgPool2d: average_pool,
    nn.Flatten: flatten,
    nn.Hardtanh: hard_tanh,
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout), unchanged),
}
"""By exact type: a subclass may do anything in its forward."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.reshape, "view", "reshape"), _view),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool_1d),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool_2d),
    F.avg_pool1d: _average_pool_1d,
    F.avg_pool2d: _average_pool_2d,
    F.hardtanh: _hard_tanh,
    F.dropout: _dropout,
    "contiguous": _contiguous,
    "size": _size,
    getattr: _attribute,
    operator.getitem: _item,
}
"""Functions, and names of tensors' methods."""

SAME_MEMORY: frozenset[Callable[..., Any]] = frozenset(
    {unchanged, flatten, hard_tanh, _flatten, _view, _hard_tanh, _dropout, _contiguous}
)
"""Rules of operations whose output may be their input, or a view of it."""

_REAL_MAP = "its weights are real numbers, and so are its sums"
_REAL_ACTIVATION = "its values are real numbers"
_OWN_STATISTICS = "it normalises each sample by its own statistics, so that there is no threshold"

REASONS: dict[Any, tuple[str, str]] = {
    **dict.fromkeys(
        (nn.Linear, nn.Conv1d, nn.Conv2d, F.linear, F.conv1d, F.conv2d),
        (_REAL_MAP, "Use binarynets.BinaryLinear, BinaryConv1d or BinaryConv2d"),
    ),
    **dict.fromkeys(
        (
            *(
                nn.ReLU,
                nn.ReLU6,
                nn.LeakyReLU,
                nn.PReLU,
                nn.GELU,
                nn.SiLU,
                nn.ELU,
                nn.Sigmoid,
                nn.Softplus,
                nn.Hardswish,
            ),
            *(F.relu, torch.relu, "relu", "relu_", torch.sigmoid, "sigmoid", F.leaky_relu, F.gelu, F.silu),
        ),
        (f"{_REAL_ACTIVATION}, and it is not odd", "Use binarynets.Sign, which makes integers"),
    ),
    **dict.fromkeys(
        (nn.Tanh, nn.Softsign, torch.tanh, F.tanh, "tanh", F.softsign),
        (_REAL_ACTIVATION, "Before binarynets.Sign it changes nothing and can go; elsewhere use Sign"),
    ),
    **dict.fromkeys(
        (nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, "softmax", "log_softmax"),
        ("it is no affine map of sums", "Pass the network up to its logits: the decisions are the same"),
    ),
    **dict.fromkeys(
        (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.LocalResponseNorm, nn.RMSNorm),
        (_OWN_STATISTICS, "Use BatchNorm1d or BatchNorm2d"),
    ),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
        ("its window, and so its divisor, depends on the image", "Use AvgPool with a window of a power of two"),
    ),
}
"""Why, and the way on, for what people try first."""
