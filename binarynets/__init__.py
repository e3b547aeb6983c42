"""Binary networks: layers, optimisers, networks, standard form, integer form, exact landscape, and their family."""

from typing import TYPE_CHECKING

import lazy_loader

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

if TYPE_CHECKING:
    from binarynets.integer.affine import IntegerError
    from binarynets.integer.network import IntegerNetwork, to_integer
    from binarynets.integer.packed import load_packed, save_packed
    from binarynets.integer.packed_network import PackedNetwork, packed
    from binarynets.integer.summary import summary
    from binarynets.landscape.exact import exact_path, exact_paths
    from binarynets.landscape.neighbourhood import flip_effects, flip_neighbourhood
    from binarynets.landscape.neighbourhood_profile import (
        harmless_fraction,
        layer_profiles,
        most_critical,
        unit_profile,
    )
    from binarynets.landscape.result import ExactPath
    from binarynets.landscape.robustness import Robustness, flip_robustness
    from binarynets.merging import Merged, merge

# Found when first asked for: numba takes half a second, which `import binarynets` need not.
__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "integer.affine": ["IntegerError"],
        "integer.network": ["IntegerNetwork", "to_integer"],
        "integer.packed": ["load_packed", "save_packed"],
        "integer.packed_network": ["PackedNetwork", "packed"],
        "integer.summary": ["summary"],
        "landscape.exact": ["exact_path", "exact_paths"],
        "landscape.neighbourhood": ["flip_effects", "flip_neighbourhood"],
        "landscape.neighbourhood_profile": ["harmless_fraction", "layer_profiles", "most_critical", "unit_profile"],
        "landscape.result": ["ExactPath"],
        "landscape.robustness": ["Robustness", "flip_robustness"],
        "merging": ["Merged", "merge"],
    },
)

__all__ = [
    "FAMILY",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryLinear",
    "Bop",
    "ExactPath",
    "IntegerError",
    "IntegerNetwork",
    "Merged",
    "OptimiserGroup",
    "PackedNetwork",
    "Robustness",
    "Sign",
    "annealed_sign",
    "approx_sign",
    "assign",
    "clip_latents_",
    "digest",
    "exact_path",
    "exact_paths",
    "flip_effects",
    "flip_neighbourhood",
    "flip_ratio",
    "flip_robustness",
    "harmless_fraction",
    "is_binarised",
    "latent_weights",
    "layer_profiles",
    "load_packed",
    "magnitude_aware_sign",
    "merge",
    "mlp",
    "most_critical",
    "packed",
    "resnet",
    "save_packed",
    "ste_sign",
    "summary",
    "swish_sign",
    "to_integer",
    "unit_profile",
    "vgg",
]
