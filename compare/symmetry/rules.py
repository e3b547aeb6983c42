"""One rule for each operation: what it does to units on their way from one linear map to the next.

A rule is a function ``(site, stream) -> stream``. It may read the module at the site, refuse it (``site.refuse``), and
write what it finds into the draft of the layer that produced the stream. A precision adds rules for its own layers, a
user for theirs: ``compare.trace(model, x, family, rules={MyActivation: odd})``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from compare.symmetry.graph import Norm, SymmetryError


@dataclass
class Draft:
    """A layer while it is being traced; ``inputs`` are the weights that read its units, each with its repeat."""

    name: str
    weight: str
    bias: str | None
    size: int
    binarised: bool
    integer: bool
    norm: Norm | None = None
    pooled: bool = False
    step: bool = False
    signs: bool = True
    scales: bool = True
    inputs: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stream:
    """What is known of a value on its way from the layer that produced it to the next.

    Attributes:
        draft: The producing layer; None for the network's input.
        repeat: Consecutive entries of axis 1 that belong to one unit.
        signs: Negating a unit at the place where that is possible negates its entries here.
        scales: Likewise for positive factors.
        integer: All entries are integers.
        activated: An activation was passed.
        averaged: An average was taken behind the offset that would break ties.
    """

    draft: Draft | None = None
    repeat: int = 1
    signs: bool = True
    scales: bool = True
    integer: bool = False
    activated: bool = False
    averaged: bool = False

    def without_signs(self, why: str) -> "Stream":
        """The stream behind an operation that negation does not pass."""
        if self.draft is not None and self.signs:
            self.draft.notes.append(f"signs are not admitted: {why}")
        return replace(self, signs=False)


@dataclass(frozen=True)
class Site:
    """Where an operation stands in the network: module path, the module or function, arguments, shapes."""

    name: str
    operation: Any
    arguments: Mapping[str, Any]
    shape_in: torch.Size
    shape_out: torch.Size

    def refuse(self, why: str) -> NoReturn:
        """Raise the error that names this place and says what to do."""
        kind = getattr(self.operation, "__name__", type(self.operation).__name__)
        raise SymmetryError(
            f"'{self.name}' ({kind}): {why}. Replace the operation by one that is known, or pass a rule for it: "
            "compare.trace(..., rules={Type: rule}), see compare.symmetry.rules"
        )

    def parameter(self, name: str) -> str:
        """The full name of one of the module's own parameters or buffers."""
        return f"{self.name}.{name}" if self.name else name


Rule: TypeAlias = Callable[[Site, Stream], Stream]


def linear_map(*, binarised: bool = False) -> Rule:
    """Rule for a module with ``weight`` ``[out, in, ...]`` and perhaps ``bias``: linear layers and convolutions.

    Args:
        binarised: The module uses the signs of its weight.
    """

    def rule(site: Site, stream: Stream) -> Stream:
        module = site.operation
        if getattr(module, "groups", 1) != 1:
            site.refuse("grouped convolutions are not supported yet")
        if isinstance(module, nn.Linear) and len(site.shape_in) != 2:
            site.refuse(f"expected an input [batch, features], got {list(site.shape_in)}; flatten it first")
        if stream.draft is not None:
            if module.weight.shape[1] != stream.draft.size * stream.repeat:
                site.refuse(f"its inputs are not the {stream.draft.size} units of '{stream.draft.name}'")
            _consume(stream.draft, stream, site.parameter("weight"), binarised)
        draft = Draft(
            name=site.name,
            weight=site.parameter("weight"),
            bias=site.parameter("bias") if module.bias is not None else None,
            size=module.weight.shape[0],
            binarised=binarised,
            integer=binarised and stream.integer,
        )
        return Stream(draft=draft)

    return rule


def _consume(draft: Draft, stream: Stream, weight: str, binarised: bool) -> None:
    draft.inputs.append((weight, stream.repeat))
    if draft.pooled and (draft.norm is None or draft.norm.gain is None):
        stream = stream.without_signs("max pooling lies behind the linear map, and no gain behind the pooling")
    affine = draft.norm is None or draft.norm.gain is not None
    draft.signs &= stream.signs
    # A binarised weight takes up no factor, neither to make a scale nor to undo one.
    makes_scale = affine and (draft.norm is not None or not draft.binarised)
    draft.scales &= stream.scales and makes_scale and not binarised


def batch_norm(site: Site, stream: Stream) -> Stream:
    """Batch normalisation behind a linear map, or behind the pooling that follows it."""
    module, draft = site.operation, stream.draft
    if draft is None or stream.activated or draft.norm is not None or stream.repeat != 1:
        site.refuse("batch normalisation is supported directly behind a linear map or the pooling that follows it")
    if not module.track_running_stats:
        site.refuse("expected batch normalisation with running statistics")
    draft.norm = Norm(
        gain=site.parameter("weight") if module.affine else None,
        offset=site.parameter("bias") if module.affine else None,
        mean=site.parameter("running_mean"),
        variance=site.parameter("running_var"),
        eps=module.eps,
    )
    return replace(stream, integer=False, averaged=False)


def passes(site: Site, stream: Stream) -> Stream:
    """Identity, dropout at evaluation: everything passes."""
    return stream


def average(site: Site, stream: Stream) -> Stream:
    """Average pooling: signs and positive factors pass, integers do not stay integers."""
    draft = stream.draft
    if draft is None or stream.activated:
        return replace(stream, integer=False)
    draft.integer = False
    return replace(stream, integer=False, averaged=draft.norm is not None or draft.bias is not None)


def homogeneous(site: Site, stream: Stream) -> Stream:
    """ReLU and its leaky form: positive factors pass, signs do not."""
    return replace(stream, signs=False, integer=False, activated=True)


def softmax(site: Site, stream: Stream) -> Stream:
    """Softmax and its logarithm over the units: they may be renamed, no more."""
    dim = getattr(site.operation, "dim", site.arguments.get("dim"))
    if dim not in (1, 1 - len(site.shape_in)):
        site.refuse(f"expected dim=1, the units' axis, got dim={dim}")
    return pointwise(site, stream)


def pointwise(site: Site, stream: Stream) -> Stream:
    """Any other function of one entry: units may be renamed, no more."""
    return replace(stream, signs=False, scales=False, integer=False, activated=True)


def odd(site: Site, stream: Stream) -> Stream:
    """Odd continuous functions (tanh, hard tanh): signs pass, positive factors do not."""
    if isinstance(site.operation, nn.Hardtanh) and site.operation.min_val != -site.operation.max_val:
        return pointwise(site, stream)
    return replace(stream, scales=False, integer=False, activated=True)


def step(site: Site, stream: Stream) -> Stream:
    """The sign function, sign(0) = +1: signs pass where an offset can move a pre-activation away from exactly 0."""
    draft = stream.draft
    if draft is None:
        return Stream(signs=False, scales=False, integer=True)
    if stream.activated:
        return replace(stream.without_signs("an activation precedes the sign function"), integer=True, scales=False)
    draft.step = True
    offset = draft.norm.offset if draft.norm else draft.bias
    if stream.averaged:
        stream = stream.without_signs("an average lies between the offset and the sign function")
    if offset is None:
        stream = stream.without_signs(
            "a pre-activation can be exactly 0, where sign gives +1, and no offset can move it"
        )
    return replace(stream, scales=False, integer=True, activated=True)


def max_pool(site: Site, stream: Stream) -> Stream:
    """Max pooling: positive factors pass; signs only through a normalisation behind the pooling."""
    if stream.draft is not None and stream.draft.norm is None and not stream.activated:
        stream.draft.pooled = True
        return stream
    return stream.without_signs("max pooling follows the normalisation or the activation")


def flatten(site: Site, stream: Stream) -> Stream:
    """Flatten all but the batch axis: each unit takes as many consecutive entries as its map has places."""
    start = getattr(site.operation, "start_dim", site.arguments.get("start_dim", 0))
    end = getattr(site.operation, "end_dim", site.arguments.get("end_dim", -1))
    if start != 1 or end not in (-1, len(site.shape_in) - 1):
        site.refuse(f"expected flatten(start_dim=1), got start_dim={start}, end_dim={end}")
    return replace(stream, repeat=stream.repeat * site.shape_in[2:].numel())


MODULE_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), linear_map()),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), batch_norm),
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU), homogeneous),
    **dict.fromkeys((nn.Tanh, nn.Hardtanh, nn.Softsign), odd),
    **dict.fromkeys((nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.ELU, nn.SELU, nn.ReLU6, nn.Hardswish), pointwise),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d), passes),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), average),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), max_pool),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), softmax),
    nn.Flatten: flatten,
}

FUNCTION_RULES: dict[Any, Rule] = {
    **dict.fromkeys((F.relu, torch.relu, "relu", F.leaky_relu), homogeneous),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), odd),
    **dict.fromkeys((F.gelu, F.silu, torch.sigmoid, "sigmoid"), pointwise),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d), max_pool),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool2d), average),
    **dict.fromkeys((F.softmax, F.log_softmax), softmax),
    **dict.fromkeys((torch.flatten, "flatten"), flatten),
}
