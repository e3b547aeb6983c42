"""Small networks, one for each way in which the axes of tensors are tied; the laws of symmetry are tested on all.

Axes have different sizes, so that one taken for another raises. Every activation stands between two layers with
parameters. Inputs of binary networks are whole numbers.
"""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from reference_nets import Attention, ClassToken, Fused, Mbconv, Packed, SelfAttention, SqueezeExcite, Transformer
from torch import Tensor, nn

from binarynets import BinaryConv2d, BinaryLinear, Sign

Example = Callable[[int], Tensor]


@dataclass(frozen=True)
class Motif:
    """One network: ``build()`` gives the same one every time, in evaluation mode; ``example(samples)`` an input."""

    name: str
    build: Callable[[], nn.Module]
    example: Example
    precision: Literal["binary", "full"]


def real(*shape: int) -> Example:
    """Normal inputs, [samples, *shape], wide enough that random normalisations leave few units dead."""
    return lambda samples: 4 * torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))


def tokens(vocabulary: int, length: int) -> Example:
    """Integer tokens, [samples, length]."""
    return lambda samples: torch.randint(vocabulary, (samples, length), generator=torch.Generator().manual_seed(0))


def signs(*shape: int) -> Example:
    """Entries -1 and +1, [samples, *shape]."""
    return lambda samples: torch.sign(real(*shape)(samples))


def pixels(*shape: int) -> Example:
    """Even whole numbers from -16 to 16, as ``load_data`` gives them, [samples, *shape]."""
    return lambda samples: 2.0 * tokens(17, torch.Size(shape).numel())(samples).view(samples, *shape) - 16


def double(x: Tensor) -> Tensor:
    """An input for a network in float64: tokens stay integers."""
    return x.double() if x.is_floating_point() else x


class Own(nn.Module):
    """``function(self, x)``, with modules and parameters under the names given."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _residual(body: nn.Module, shortcut: nn.Module | None = None) -> nn.Module:
    if shortcut is None:
        return Own(lambda m, x: m.body(x) + x, body=body)
    return Own(lambda m, x: m.body(x) + m.shortcut(x), body=body, shortcut=shortcut)


def _beside(branch: nn.Module) -> nn.Module:
    return Own(lambda m, x: torch.cat([x, m.branch(x)], dim=1), branch=branch)


def _twice(layer: nn.Module, activation: nn.Module) -> nn.Module:
    return Own(lambda m, x: m.activation(m.layer(m.activation(m.layer(x)))), layer=layer, activation=activation)


class TiedLinear(nn.Module):
    """Two layers with one weight and a bias each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(4, 6))
        self.up, self.down = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(F.linear(F.relu(F.linear(x, self.outer, self.up)), self.inner))
        return F.linear(F.relu(F.linear(code, self.inner.t(), self.down)), self.outer.t())


class TiedVocabulary(nn.Module):
    """A language model's head with the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(8, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.head = nn.Linear(6, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.out(F.gelu(self.hidden(self.embed(x)))))


class CrossAttention(nn.Module):
    """Queries, keys and values of three different widths, [n, 5, 8] -> [n, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 6), nn.Linear(8, 4), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(6, 2, kdim=4, vdim=3, batch_first=True)
        self.head = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(self.query(x[:, :2]), F.relu(self.key(x)), F.relu(self.value(x)))
        return self.head(F.relu(y).mean(dim=1))


class OwnParameters(nn.Module):
    """Functional style throughout: no layer, [n, 2, 4, 5] -> [n, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.offset = nn.Parameter(torch.randn(6, 2, 3, 2)), nn.Parameter(torch.zeros(6))
        self.pointwise = nn.Parameter(torch.randn(5, 6, 1, 1))
        self.w1, self.b1, self.w2 = (nn.Parameter(torch.randn(size)) for size in ((7, 88), (7,), (3, 7)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.offset))
        y = F.relu(F.conv2d(x, self.pointwise))
        z = torch.cat((x, y), dim=1) + torch.cat((x, y), 1)
        return F.linear(F.relu(F.linear(z.view(x.size(0), -1), self.w1, self.b1)), self.w2)


class Split(nn.Module):
    """One map's units go two ways, ``parts[0]`` and ``parts[1]`` of them."""

    def __init__(self, width: int, parts: list[int]) -> None:
        super().__init__()
        self.parts = parts
        self.first = nn.Linear(4, width)
        self.left, self.right = nn.Linear(parts[0], 6), nn.Linear(parts[1], 6)
        self.head = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).split(self.parts, dim=1)
        return self.head(F.relu(self.left(F.relu(left)) + self.right(torch.tanh(right))))


def _mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def _cnn(*between: nn.Module) -> nn.Module:
    """Convolution with 6 channels, something that keeps them, a head for any size: [n, 2, 9, 10] -> [n, 3]."""
    return nn.Sequential(nn.Conv2d(2, 6, 3), *between, nn.Conv2d(6, 5, 2), nn.ReLU(), *_head(5))


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


def _embedded(*between: nn.Module, pool: nn.Module | None = None, width: int = 6) -> nn.Module:
    """Tokens [n, ..., 4] to one width, something that keeps it, one vector of them, and a head."""
    return nn.Sequential(nn.Linear(4, width), *between, pool or Own(lambda m, x: x.mean(1)), nn.Linear(width, 7))


def _flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _residual_cnn() -> nn.Module:
    def norm(inputs: int, outputs: int, size: int, *, stride: int = 1, padding: int = 0) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, size, stride, padding, bias=False), nn.BatchNorm2d(outputs)]

    same = nn.Sequential(*norm(4, 7, 3, padding=1), nn.ReLU(), *norm(7, 4, 3, padding=1))
    wider = nn.Sequential(*norm(4, 5, 3, padding=1, stride=2), nn.ReLU(), *norm(5, 6, 3, padding=1))
    projection = nn.Sequential(*norm(4, 6, 1, stride=2))
    relu = nn.ReLU(inplace=True)
    return _flat(*norm(2, 4, 3), relu, _residual(same), relu, _residual(wider, projection), nn.ReLU(), *_head(6))


def _dense() -> nn.Module:
    first = _beside(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU()))
    second = _beside(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)))
    return _flat(nn.Conv2d(2, 3, 3), nn.ReLU(), first, second, nn.BatchNorm2d(12), nn.ReLU(), *_head(12))


def _reshaped() -> nn.Module:
    shaped = Own(lambda m, x: x.view(-1, 4, 2, 3))
    flat = Own(lambda m, x: x.reshape(x.shape[0], -1))
    return _flat(nn.Linear(5, 24), nn.ReLU(), shaped, nn.Conv2d(4, 7, 2), nn.ReLU(), flat, nn.Linear(14, 3))


def _volume() -> nn.Module:
    pool = nn.AdaptiveMaxPool3d(1)
    return _flat(nn.Conv3d(2, 6, 2), nn.ReLU(), nn.Conv3d(6, 5, 2), nn.ReLU(), pool, nn.Flatten(), nn.Linear(5, 3))


def _transposed() -> nn.Module:
    return _flat(nn.ConvTranspose2d(2, 6, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2), nn.ReLU(), *_head(5))


def _grouped(channels: int, *groups: int) -> nn.Module:
    """Plain convolution, grouped ones of ``channels`` each, plain convolution."""
    middle = [part for g in groups for part in (nn.ReLU(), nn.Conv2d(channels, channels, 2, groups=g))]
    return _flat(nn.Conv2d(2, channels, 3), *middle, nn.ReLU(), nn.Conv2d(channels, 5, 2), nn.ReLU(), *_head(5))


def _depthwise(outputs: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.Conv2d(4, outputs, 3, groups=4), nn.ReLU(), nn.Conv2d(outputs, 6, 1), nn.ReLU(), *_head(6)]


def _gate(squash: nn.Module) -> nn.Module:
    return Own(lambda m, x: m.value(x) * m.gate(x), value=nn.Linear(4, 6), gate=_flat(nn.Linear(4, 6), squash))


_FULL: dict[str, tuple[Callable[[], nn.Module], Example]] = {
    "linear": (lambda: _mlp(nn.ReLU()), real(4)),
    "no biases": (lambda: _flat(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)), real(4)),
    "leaky relu": (lambda: _mlp(nn.LeakyReLU(0.2)), real(4)),
    "prelu": (lambda: _mlp(nn.PReLU(6)), real(4)),
    "relu6": (lambda: _mlp(nn.ReLU6()), pixels(4)),
    "elu": (lambda: _mlp(nn.ELU()), real(4)),
    "gelu": (lambda: _mlp(nn.GELU()), real(4)),
    "silu": (lambda: _mlp(nn.SiLU()), real(4)),
    "tanh": (lambda: _mlp(nn.Tanh()), real(4)),
    "hard tanh": (lambda: _mlp(nn.Hardtanh()), real(4)),
    "dropout": (lambda: _mlp(nn.ReLU(), nn.Dropout(0.5)), real(4)),
    "batch norm": (lambda: _mlp(nn.BatchNorm1d(6), nn.ReLU()), real(4)),
    "batch norm, no affine": (lambda: _mlp(nn.BatchNorm1d(6, affine=False), nn.ReLU()), real(4)),
    "batch norm, tanh": (lambda: _mlp(nn.BatchNorm1d(6), nn.Tanh()), real(4)),
    "layer norm": (lambda: _mlp(nn.LayerNorm(6), nn.ReLU()), real(4)),
    "layer norm, no affine": (lambda: _mlp(nn.LayerNorm(6, elementwise_affine=False), nn.ReLU()), real(4)),
    "conv1d": (
        lambda: _flat(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)),
        real(2, 7),
    ),
    "conv2d": (lambda: _cnn(nn.ReLU()), real(2, 9, 10)),
    "conv3d": (_volume, real(2, 4, 5, 6)),
    "transposed conv": (_transposed, real(2, 3, 4)),
    "grouped conv": (lambda: _grouped(6, 2), real(2, 13, 14)),
    "grouped conv twice, nested": (lambda: _grouped(8, 2, 4), real(2, 13, 14)),
    "grouped conv twice, crosswise": (lambda: _grouped(6, 2, 3), real(2, 13, 14)),
    "depthwise": (lambda: _flat(nn.Conv2d(2, 4, 3), *_depthwise(4)), real(2, 13, 14)),
    "depthwise, two outputs each": (lambda: _flat(nn.Conv2d(2, 4, 3), *_depthwise(8)), real(2, 13, 14)),
    "batch norm 2d": (lambda: _cnn(nn.BatchNorm2d(6), nn.ReLU()), real(2, 9, 10)),
    "group norm": (lambda: _cnn(nn.GroupNorm(3, 6), nn.ReLU()), real(2, 9, 10)),
    "instance norm": (lambda: _cnn(nn.InstanceNorm2d(6, affine=True), nn.ReLU()), real(2, 9, 10)),
    "max pool": (lambda: _cnn(nn.ReLU(), nn.MaxPool2d(2)), real(2, 9, 10)),
    "max pool, tanh": (lambda: _cnn(nn.MaxPool2d(2), nn.Tanh()), real(2, 9, 10)),
    "average pool": (lambda: _cnn(nn.ReLU(), nn.AvgPool2d(2)), real(2, 9, 10)),
    "adaptive pool": (lambda: _cnn(nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3))), real(2, 9, 10)),
    "flatten": (lambda: _flat(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)), real(2, 4, 5)),
    "view and reshape": (_reshaped, real(5)),
    "residual mlp": (
        lambda: _flat(
            nn.Linear(4, 6), nn.ReLU(), _residual(_flat(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6))), _mlp6()
        ),
        real(4),
    ),
    "residual cnn": (_residual_cnn, real(2, 15, 17)),
    "concatenation": (_dense, real(2, 12, 13)),
    "gated unit": (lambda: _flat(_gate(nn.Sigmoid()), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), real(4)),
    "product of two maps": (lambda: _flat(_gate(nn.Identity()), nn.Linear(6, 3)), real(4)),
    "glu": (lambda: _flat(nn.Linear(4, 12), nn.GLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), real(4)),
    "squeeze-excite": (lambda: _cnn(nn.ReLU(), SqueezeExcite(6, 4)), real(2, 9, 10)),
    "mbconv": (lambda: _flat(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), Mbconv(4, 8, 3), *_head(4)), real(2, 7, 8)),
    "called twice": (lambda: _flat(nn.Linear(4, 6), nn.ReLU(), _twice(nn.Linear(6, 6), nn.ReLU()), _mlp6()), real(4)),
    "tied linear": (lambda: _flat(nn.Linear(4, 6), nn.ReLU(), TiedLinear(6), nn.ReLU(), _mlp6()), real(4)),
    "tied autoencoder": (TiedAutoencoder, real(7)),
    "tied vocabulary": (TiedVocabulary, tokens(8, 5)),
    "embedding": (
        lambda: _flat(nn.Embedding(8, 6), Own(lambda m, x: x.mean(dim=1)), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)),
        tokens(8, 5),
    ),
    "multi-head attention": (lambda: _embedded(Transformer(SelfAttention(6, 2), 6, 8)), real(9, 4)),
    "cross attention": (CrossAttention, real(5, 8)),
    "attention by hand": (lambda: _embedded(Transformer(Attention(6, 2), 6, 8)), real(9, 4)),
    "attention, packed qkv": (lambda: _embedded(Transformer(Packed(10, 2), 10, 8), width=10), real(9, 4)),
    "attention, fused": (lambda: _embedded(Transformer(Fused(6, 2), 6, 8)), real(9, 4)),
    "own parameters": (OwnParameters, real(2, 4, 5)),
    "split": (lambda: Split(8, [3, 5]), real(4)),
    "learnable scale": (
        lambda: _cnn(Own(lambda m, x: m.alpha * x, alpha=nn.Parameter(torch.ones(6, 1, 1))), nn.ReLU()),
        real(2, 9, 10),
    ),
    "positions": (
        lambda: _embedded(Own(lambda m, x: x + m.pos, pos=nn.Parameter(torch.randn(1, 5, 6))), nn.ReLU()),
        real(5, 4),
    ),
    "class token": (lambda: _embedded(ClassToken(8, 6), pool=Own(lambda m, x: x[:, 0])), real(8, 4)),
    "mean over tokens": (lambda: _embedded(nn.ReLU(), nn.LayerNorm(6)), real(5, 4)),
    "first token": (lambda: _embedded(nn.ReLU(), pool=Own(lambda m, x: x[:, 0])), real(5, 4)),
}


def _mlp6() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))


def _binary_mlp(inputs: int, *, bias: bool) -> nn.Module:
    def hidden(inputs: int, outputs: int) -> list[nn.Module]:
        norm = [] if bias else [nn.BatchNorm1d(outputs)]
        return [BinaryLinear(inputs, outputs, bias=bias), *norm, Sign()]

    return _flat(*hidden(inputs, 8), *hidden(8, 7), BinaryLinear(7, 3, bias=bias))


def _binary_cnn(*between: nn.Module) -> nn.Module:
    """Binary convolution with 6 channels, something that keeps them, and a dense head: [n, 2, 10, 13] -> [n, 3]."""
    last = [BinaryConv2d(6, 7, 2), nn.BatchNorm2d(7), Sign(), nn.Flatten(), BinaryLinear(7 * 3 * 4, 3)]
    return _flat(BinaryConv2d(2, 6, 3), *between, *last)


def _binary_grouped(groups: int, outputs: int) -> nn.Module:
    middle = [BinaryConv2d(6, outputs, 3, groups=groups), nn.BatchNorm2d(outputs), Sign()]
    return _flat(BinaryConv2d(2, 6, 3), nn.BatchNorm2d(6), Sign(), *middle, *_binary_end(outputs, 7 * 8))


def _binary_end(channels: int, positions: int) -> list[nn.Module]:
    """Another convolution of one position each, then a dense layer that sees every position."""
    last = [BinaryConv2d(channels, 5, 1), nn.BatchNorm2d(5), Sign()]
    return [*last, nn.Flatten(), BinaryLinear(5 * positions, 3), nn.BatchNorm1d(3)]


def _bireal() -> nn.Module:
    def block() -> nn.Module:
        return _residual(nn.Sequential(Sign(), BinaryConv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)))

    return _flat(
        BinaryConv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        block(),
        block(),
        Sign(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        BinaryLinear(6, 3),
    )


def _binary_concatenation() -> nn.Module:
    more = nn.Sequential(BinaryConv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), Sign())
    start = [BinaryConv2d(2, 3, 3), nn.BatchNorm2d(3), Sign(), _beside(more)]
    return _flat(*start, *_binary_end(8, 7 * 9))


def _binary_twice() -> nn.Module:
    twice = _twice(BinaryLinear(8, 8), Sign())
    return _flat(BinaryLinear(5, 8), nn.BatchNorm1d(8), Sign(), twice, BinaryLinear(8, 3))


_BINARY: dict[str, tuple[Callable[[], nn.Module], Example]] = {
    "binary mlp": (lambda: _binary_mlp(5, bias=False), signs(5)),
    "binary mlp with biases": (lambda: _binary_mlp(6, bias=True), signs(6)),
    "binary cnn, pool norm sign": (lambda: _binary_cnn(nn.MaxPool2d(2), nn.BatchNorm2d(6), Sign()), pixels(2, 10, 13)),
    "binary cnn, norm pool sign": (lambda: _binary_cnn(nn.BatchNorm2d(6), nn.MaxPool2d(2), Sign()), pixels(2, 10, 13)),
    "binary cnn, norm sign pool": (lambda: _binary_cnn(nn.BatchNorm2d(6), Sign(), nn.MaxPool2d(2)), pixels(2, 10, 13)),
    "binary depthwise": (lambda: _binary_grouped(6, 6), pixels(2, 11, 12)),
    "binary grouped conv": (lambda: _binary_grouped(3, 9), pixels(2, 11, 12)),
    "binary residual": (_bireal, pixels(2, 9, 10)),
    "binary concatenation": (_binary_concatenation, pixels(2, 9, 11)),
    "binary called twice": (_binary_twice, signs(5)),
}


def _seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build().eval()

    return seeded


MOTIFS: dict[str, Motif] = {
    **{name: Motif(name, _seeded(build), example, "full") for name, (build, example) in _FULL.items()},
    **{name: Motif(name, _seeded(build), example, "binary") for name, (build, example) in _BINARY.items()},
}
