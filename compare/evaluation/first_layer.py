"""Networks of a path whose first layer is multiplied once, for the path's ends, and not again at each t.

A linear map's output is linear in its weight: where row k of the weight at t is ``alpha_k(t) a_k + beta_k(t) b_k``, so
is unit k's output. On a line and on a geodesic alpha and beta are known numbers, so products with the weights of both
ends are made once for each batch, and mixed for each t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compare.evaluation.cut import Cut, cut
from compare.params import Params


@runtime_checkable
class Piece(Protocol):
    """A path between two networks whose parameters are sums of those of its ends; ``geometry.Path`` is one."""

    @property
    def a(self) -> Params:
        """The end at t = 0."""
        ...

    @property
    def b(self) -> Params:
        """The end at t = 1."""
        ...

    def coefficients(self, name: str, t: float) -> tuple[Tensor, Tensor]:
        """Alpha and beta of a parameter at ``t``, float64 ``[rows]`` or ``[1]``."""
        ...


@runtime_checkable
class Pieced(Protocol):
    """A path that consists of such pieces."""

    def piece(self, t: float) -> tuple[Piece, float]:
        """The piece that ``t`` lies on, the same object each time, and where on it."""
        ...


Products: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""The first layer's outputs with the weights of either end, for each piece of the path."""


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """Evaluates the networks of a path behind their first layer.

    Attributes:
        parts: The network, cut behind its first layer.
        path: The path.
        pieces: Its pieces.
    """

    parts: Cut
    path: Pieced
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, model: nn.Module, path: object, ts: Sequence[float]) -> Self | None:
        """The evaluator of a path's networks at ``ts``, None where the first layer needs each network's own weights."""
        if not isinstance(path, Pieced):
            return None
        pieces = {id(piece): piece for piece in (path.piece(t)[0] for t in ts)}
        if any(id(path.piece(t)[0]) not in pieces for t in ts):  # pieces are made anew in each call
            return None
        parts = cut(model)
        if parts is None or not all(_fits(parts, piece) for piece in pieces.values()):
            return None
        return cls(parts, path, tuple(pieces.values()))

    def size(self, x: Tensor) -> int:
        """Bytes of the products."""
        one = self.prepare(x[:1])
        return len(x) * sum(product.nbytes for pair in one for product in pair)

    def prepare(self, x: Tensor) -> Products:
        """The first layer's outputs at the ends of each piece."""
        inputs: Tensor = self.parts.before(x)
        return tuple((self._product(piece.a, inputs), self._product(piece.b, inputs)) for piece in self.pieces)

    @staticmethod
    def joined(parts: Sequence[Products]) -> Products:
        """The products of several batches as those of one."""
        pieces = zip(*parts, strict=True)
        return tuple((torch.cat([a for a, _ in piece]), torch.cat([b for _, b in piece])) for piece in pieces)

    def network(self, t: float, params: Params) -> Callable[[Sequence[Products]], list[Tensor]]:
        """The rest of the network at ``t``, after the mixture of the products."""
        own, mixture = self.behind(params), self.mixture(t, params)
        rest = self.parts.rest
        if self.path.piece(t)[1] not in (0, 1):  # at an end outputs are the model's bit for bit
            own, rest = self.parts.scaled(own), self.parts.quick
        renamed = {f"network.{name}": tensor for name, tensor in own.items()}
        outputs = _OnBatches(rest)
        return lambda batches: functional_call(outputs, renamed, (batches, mixture))

    def behind(self, params: Params) -> Params:
        """The parameters that the rest of the network has. A path gives new ones each time, so they need no copies."""
        state = self.parts.rest.state_dict()
        return {name: tensor for name, tensor in params.items() if name in state}

    def mixture(self, t: float, params: Params) -> Callable[[Products], Tensor]:
        """From products to the first layer's output at ``t``, a new tensor, exactly that of an end at an end."""
        piece, s = self.path.piece(t)
        at = next(i for i, other in enumerate(self.pieces) if other is piece)
        if s in (0, 1):
            return lambda products: products[at][int(s)].clone()
        weight = f"{self.parts.name}.weight"
        alpha, beta = piece.coefficients(weight, s)
        if len(alpha) == 1 and float(alpha) == 1 - s and float(beta) == s:
            return lambda products: torch.lerp(*products[at], s)  # the bias runs straight as well
        offset = self._offset(piece, params, alpha, beta)
        return lambda products: _mixed(*products[at], alpha, beta, offset, last=isinstance(self.parts.layer, nn.Linear))

    def _offset(self, piece: Piece, params: Params, alpha: Tensor, beta: Tensor) -> Tensor | None:
        """What the mixed biases of the ends leave to the bias at t: it runs straight, rows of a weight may turn."""
        name = f"{self.parts.name}.bias"
        if name not in piece.a:
            return None
        return params[name].double() - alpha * piece.a[name].double() - beta * piece.b[name].double()

    def _product(self, end: Params, inputs: Tensor) -> Tensor:
        own = {key: end[f"{self.parts.name}.{key}"] for key, _ in self.parts.layer.named_parameters()}
        found: Tensor = functional_call(self.parts.layer, own, (inputs,))
        return found


class _OnBatches(nn.Module):
    """A network, called on one batch after the other: parameters are exchanged once for all of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batches: Sequence[Products], mixture: Callable[[Products], Tensor]) -> list[Tensor]:
        return [self.network(mixture(products)) for products in batches]


def _fits(parts: Cut, piece: Piece) -> bool:
    """Whether the ends have every parameter of the parts under its own name."""
    layer = {f"{parts.name}.{key}" for key, _ in parts.layer.named_parameters()}
    names = layer | parts.rest.state_dict().keys()
    return isinstance(piece, Piece) and names <= piece.a.keys()


def _mixed(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor, offset: Tensor | None, *, last: bool) -> Tensor:
    """``alpha a + beta b + offset``; units lie on the last axis, or on axis 1."""
    shape = (-1,) if last else (-1, *[1] * (a.ndim - 2))
    one, other = (part.to(a).view(shape) for part in (alpha, beta))
    found = torch.mul(a, one).addcmul_(b, other)
    return found if offset is None else found.add_(offset.to(a).view(shape))
