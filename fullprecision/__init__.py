"""Full-precision counterparts: the same shapes with ReLU, scalings as their standard form, and their family."""

from fullprecision.family import FAMILY
from fullprecision.networks import mlp, resnet, vgg

__all__ = ["FAMILY", "mlp", "resnet", "vgg"]
