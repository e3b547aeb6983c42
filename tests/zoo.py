"""Networks and random parameters that several tests share."""

import torch
from torch import Tensor, nn

import binarynets
import fullprecision
from compare.params import Params, parameters

IMAGE = (1, 8, 8)
FAMILIES = {"binary": (binarynets, binarynets.FAMILY), "full": (fullprecision, fullprecision.FAMILY)}


def pixels(samples: int, *, seed: int = 0) -> Tensor:
    """Integer inputs as ``load_data`` gives them, [samples, 1, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 17, (samples, *IMAGE), generator=generator) - 16


def small_networks(precision: str, *, seed: int = 0) -> dict[str, nn.Module]:
    """Small networks of one precision, in evaluation mode."""
    module, _ = FAMILIES[precision]
    torch.manual_seed(seed)
    networks = {
        "mlp": module.mlp(64, [12, 9], 5),
        "deep mlp": module.mlp(64, [8, 7, 6, 5], 3),
        "vgg": module.vgg(IMAGE, [[4, 5], [6]], [7], 5),
        "vgg without dense": module.vgg(IMAGE, [[4], [6, 3]], [], 5),
    }
    if precision == "full":
        networks["no normalisation"] = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(36, 7), nn.LeakyReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4)),
        )
    return {name: network.eval() for name, network in networks.items()}


def randomised(model: nn.Module, *, seed: int = 0) -> Params:
    """Parameters with nothing left at its default: gains of both signs, means, positive variances."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in parameters(model).items():
        if not tensor.is_floating_point():
            drawn[name] = tensor
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        drawn[name] = torch.exp(noise) * 30 if name.endswith("running_var") else tensor + 0.5 * noise
    return drawn


def float64(model: nn.Module) -> nn.Module:
    """The same model in float64 (in place, as torch does)."""
    return model.double()


def difference(a: Params, b: Params) -> float:
    """Largest difference of any entry."""
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
