"""Binary networks: quantisers, layers, optimisers, networks, their standard form and their family."""

from binarynets.digest import digest
from binarynets.family import FAMILY
from binarynets.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryLinear,
    Sign,
    clip_latents_,
    flip_ratio,
    is_binarised,
    latent_weights,
)
from binarynets.networks import mlp, resnet, vgg
from binarynets.optimisers import Bop, OptimiserGroup, assign
from binarynets.quantisers import annealed_sign, approx_sign, magnitude_aware_sign, ste_sign, swish_sign

__all__ = [
    "FAMILY",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryLinear",
    "Bop",
    "OptimiserGroup",
    "Sign",
    "annealed_sign",
    "approx_sign",
    "assign",
    "clip_latents_",
    "digest",
    "flip_ratio",
    "is_binarised",
    "latent_weights",
    "magnitude_aware_sign",
    "mlp",
    "resnet",
    "ste_sign",
    "swish_sign",
    "vgg",
]
