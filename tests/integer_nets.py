"""Random parameters and inputs for tests of the integer form."""

import random

import torch
from torch import Tensor, nn

from binarynets.integer.multiply import Method
from compare.params import Params, parameters

METHODS: tuple[Method | None, ...] = (None, "float32", "int8", "bits")


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def drawn(model: nn.Module, seed: int) -> Params:
    """Random parameters: gains of both signs, thresholds of all kinds, latent weights of exactly 0."""
    generator, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    params = parameters(model)
    ties = choose.random() < 0.4
    for name, tensor in params.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            params[name] = noise * (torch.rand(tensor.shape, generator=generator) > 0.05)
            params[name][-1] = params[name][0]  # rows that are equal
        elif name.endswith("running_var"):
            params[name] = torch.rand(tensor.shape, generator=generator) * 10 ** choose.uniform(-6, 4)
        elif name.endswith("running_mean"):
            params[name] = (noise * 4).round() if ties else noise * choose.choice([0.5, 5, 1000])
        elif name.endswith("weight"):
            params[name] = noise + 0.001
        else:
            params[name] = torch.zeros_like(noise) if ties else noise * choose.choice([1, 30])
    return params


def integers(kind: str, samples: int, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high, gain, shift = {
        "signs": (0, 2, 2, -1),
        "pixels": (0, 256, 2, -255),
        "levels": (0, 256, 1, 0),
        "bytes": (-128, 128, 1, 0),
        "wide": (-3000, 3001, 1, 0),
    }[kind]
    return torch.randint(low, high, (samples, *shape), generator=generator) * gain + shift
