"""The group of every small network, found by hand, and a few networks more; what tests of the laws share."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from motifs import MOTIFS, Motif, Own, double, real
from torch import Tensor, nn
from torch.func import functional_call
from zoo import FAMILIES, randomised

from compare.params import Params
from compare.symmetry import Graph, trace

# The group of each network, found by hand: "size/wholes:signs,scales" for each block in the order of evaluation;
# '!' marks units that do not move (inside their wholes), though they carry diagonals or wholes.
GROUPS = {
    "linear": "6:0,1 5:0,1",
    "no biases": "6:0,1",
    "leaky relu": "6:0,1 5:0,1",
    "prelu": "6:0,1 5:0,1",
    "relu6": "6:0,0 5:0,1",
    "elu": "6:0,0 5:0,1",
    "gelu": "6:0,0 5:0,1",
    "silu": "6:0,0 5:0,1",
    "tanh": "6:1,0 5:0,1",
    "hard tanh": "6:1,0 5:0,1",
    "dropout": "6:0,1 5:0,1",
    # w, bias, mean, gain are negated together; gain and offset are scaled.
    "batch norm": "6:1,1 5:0,1",
    "batch norm, no affine": "6:0,0 5:0,1",
    "batch norm, tanh": "6:2,0 5:0,1",
    "layer norm": "6:0,1 5:0,1",
    "layer norm, no affine": "6:0,0 5:0,1",
    "conv1d": "6:0,1 5:0,1",
    "conv2d": "6:0,1 5:0,1",
    "conv3d": "6:0,1 5:0,1",
    "transposed conv": "6:0,1 5:0,1",
    "grouped conv": "2:0,0 6/2:0,1 6/2:0,1 5:0,1",
    "grouped conv twice, nested": "2:0,0 8/2:0,1 4/2:0,0 8/4:0,1 8/4:0,1 5:0,1",
    "grouped conv twice, crosswise": "2!:0,0 6/2:0,1 6!/2:0,1 3!:0,0 6/3:0,1 5:0,1",
    "depthwise": "4:0,2 6:0,1",
    "depthwise, two outputs each": "4:0,1 8/4:0,1 6:0,1",
    "batch norm 2d": "6:1,1 5:0,1",
    "group norm": "3:0,0 6/3:0,1 5:0,1",
    "instance norm": "6:1,1 5:0,1",
    "max pool": "6:0,1 5:0,1",
    "max pool, tanh": "6:0,0 5:0,1",
    "average pool": "6:0,1 5:0,1",
    "adaptive pool": "6:0,1 5:0,1",
    "flatten": "4:0,1",
    "view and reshape": "4:0,1 7:0,1",
    "residual mlp": "6:0,1 5:0,1 7:0,1",
    # Two convolutions write to the stream, each with its own normalisation: two signs, one scale for all.
    "residual cnn": "4:2,1 7:1,1 5:1,1 6:2,1",
    # Means pin the units' scales, the gains of both normalisations are free.
    "concatenation": "3:0,2 5:0,2 4:1,1",
    "gated unit": "6:1,1 5:0,1",
    "product of two maps": "6:2,2",
    "glu": "6:1,1 5:0,1",
    "squeeze-excite": "6:0,1 4:0,1 5:0,1",
    "mbconv": "4:3,1 8:2,0 3:0,1",
    "called twice": "6:0,1 7:0,1",
    "tied linear": "6:0,1 7:0,1",
    "tied autoencoder": "6:0,1 4:1,0",
    "tied vocabulary": "6:1,1 7:0,0",
    "embedding": "6:1,1 7:0,1",
    # The stream is pinned by layer norms, whose gains are free. Queries go with keys, values with outputs.
    "multi-head attention": "6:2,2 2:0,0 6/2:1,1 6/2:1,1 8:0,0",
    "cross attention": "6:1,1 4:0,1 3:0,1 2:0,0 6/2:1,1 6/2:1,1 6:0,1",
    "attention by hand": "6:2,2 2:0,0 8/2:1,1 10/2:1,1 8:0,0",
    "attention, packed qkv": "10:2,2 2:0,0 10/2:1,1 10/2:1,1 8:0,0",
    "attention, fused": "6:2,2 2:0,0 6/2:1,1 6/2:1,1 8:0,0",
    "own parameters": "6:0,1 5:0,1 7:0,1",
    "split": "3:0,1 5:1,0 6:0,1",
    "learnable scale": "6:1,2 5:0,1",
    "positions": "6:0,1",
    "class token": "6:1,1 2:0,0 6/2:1,1 6/2:1,1",
    "mean over tokens": "6:1,1",
    "first token": "6:0,1",
    "binary mlp": "8:2,1 7:2,1",
    "binary mlp with biases": "8:1,0 7:1,0",
    "binary cnn, pool norm sign": "6:1,1 7:2,1",
    "binary cnn, norm pool sign": "6:1,1 7:2,1",
    "binary cnn, norm sign pool": "6:1,1 7:2,1",
    "binary depthwise": "6:4,2 5:2,1 3!:1,0",
    "binary grouped conv": "3:0,0 6/3:2,1 9/3:2,1 5:2,1 3!:1,0",
    # A fresh stream is often exactly 0, where sign gives +1: its own sign is refused (see the test below).
    "binary residual": "6:3,1",
    "binary concatenation": "3:2,1 5:2,1 5:2,1 3!:1,0",
    "binary called twice": "8:1,1",
    "transposed conv in groups": "2:0,0 6/2:0,1 4/2:1,0 5:0,1",
    "transposed conv, depthwise": "6:0,2 5:0,1",
    "transposed conv, two outputs each": "6:0,1 12/6:0,1 5:0,1",
    "groups called twice": "2:0,0 6/2:0,1",
    "group norm, then wider groups": "2:0,0 4/2:0,0 8/4:0,1 6/2:0,1",
    "depthwise behind a concatenation": "4:0,2 2:0,2",
    "two outputs each behind a concatenation": "4:0,1 2:0,1 8/4:0,1 4/2:0,1",
    "tokens flattened": "6:0,1",
    "relu of both signs": "6:0,1",
    "skip and upsampling": "4:0,1 5:0,1 7:0,1",
}


def _pair(outputs: int, middle: nn.Module, after: nn.Module) -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), middle, after, nn.Conv2d(outputs, 5, 1), nn.ReLU(), *head)


def _joined(last: nn.Module, outputs: int) -> nn.Module:
    join = Own(lambda m, x: torch.cat([m.a(x), m.b(x)], dim=1), a=nn.Conv2d(2, 4, 3), b=nn.Conv2d(2, 2, 3))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 3))
    return nn.Sequential(join, nn.ReLU(), last, nn.ReLU(), *head)


def _twice() -> nn.Module:
    both = Own(lambda m, x: F.relu(m.layer(F.relu(m.layer(x)))), layer=nn.Conv2d(6, 6, 1, groups=2))
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), both, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def _groups_of_groups() -> nn.Module:
    end = (nn.Conv2d(8, 6, 1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), *end)


def _skip() -> nn.Module:
    def forward(m: Own, x: Tensor) -> Tensor:
        return torch.cat([x, F.interpolate(m.inner(F.max_pool2d(x, 2)), scale_factor=2)], dim=1)

    skip = Own(forward, inner=nn.Conv2d(4, 5, 3, padding=1))
    end = (nn.ReLU(), nn.Conv2d(9, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3))
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), skip, *end)


_MORE = {
    "transposed conv in groups": (lambda: _pair(4, nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Tanh()), real(2, 6, 7)),
    "transposed conv, depthwise": (lambda: _pair(6, nn.ConvTranspose2d(6, 6, 2, groups=6), nn.ReLU()), real(2, 6, 7)),
    "transposed conv, two outputs each": (
        lambda: _pair(12, nn.ConvTranspose2d(6, 12, 2, groups=6), nn.ReLU()),
        real(2, 6, 7),
    ),
    "groups called twice": (_twice, real(2, 6, 7)),
    "group norm, then wider groups": (_groups_of_groups, real(2, 6, 7)),
    "depthwise behind a concatenation": (lambda: _joined(nn.Conv2d(6, 6, 2, groups=6), 6), real(2, 6, 7)),
    "two outputs each behind a concatenation": (lambda: _joined(nn.Conv2d(6, 12, 2, groups=6), 12), real(2, 6, 7)),
    "tokens flattened": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)),
        real(3, 4),
    ),
    "relu of both signs": (
        lambda: nn.Sequential(
            nn.Linear(4, 6), Own(lambda m, x: torch.cat([F.relu(x), F.relu(-x)], dim=1)), nn.Linear(12, 3)
        ),
        real(4),
    ),
    "skip and upsampling": (_skip, real(2, 6, 8)),
}


def _seeded(build):
    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build().eval()

    return seeded


ALL = MOTIFS | {name: Motif(name, _seeded(build), example, "full") for name, (build, example) in _MORE.items()}
FULL = [name for name, motif in ALL.items() if motif.precision == "full"]


@functools.cache
def graph_of(name: str) -> Graph:
    """The traced graph, without the certificate: the tests are one."""
    motif = ALL[name]
    return trace(motif.build(), motif.example(4), FAMILIES[motif.precision][1], certify=False)


def wide(name: str, seed: int) -> Params:
    """Random parameters and statistics in float64."""
    drawn = randomised(ALL[name].build(), seed=seed)
    return {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in drawn.items()}


@functools.cache
def _runner(name: str) -> tuple[nn.Module, Tensor]:
    return ALL[name].build().double(), double(ALL[name].example(16))


def _output(name: str, params: Params) -> Tensor:
    model, x = _runner(name)
    with torch.no_grad():
        return functional_call(model, params, (x,))


def keeping(name: str, params: Params, tolerance: float = 1e-10) -> Callable[[Params], bool]:
    """Whether other parameters give the outputs of these, up to ``tolerance`` times the largest output."""
    expected = _output(name, params)
    largest = expected.abs().max()
    return lambda moved: bool((expected - _output(name, moved)).abs().max() <= tolerance * largest)
