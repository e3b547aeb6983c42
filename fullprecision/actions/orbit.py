"""Many elements applied to one network: an ensemble that costs no training."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compare.params import Params
from compare.seeds import derived
from fullprecision.actions.dependent import Method, act_on_batch, element_near_identity
from fullprecision.actions.hidden import ActionError, Hidden


@dataclass(frozen=True, eq=False)
class Orbit:
    """Networks that agree on a batch.

    Attributes:
        networks: One for each element.
        epsilon: Size of the elements.
        residuals: Of each, see ``Acted.residual``.
        ranks: Of the moved features of each: where it is less than the batch's size, features are dependent and the
            element need not be exact.
        condition: The largest condition number of moved features.
    """

    networks: tuple[Params, ...]
    epsilon: float
    residuals: tuple[float, ...]
    ranks: tuple[int, ...]
    condition: float


def orbit(
    model: nn.Module,
    hidden: Hidden,
    params: Params,
    x: Tensor,
    epsilon: float,
    *,
    members: int = 10,
    method: Method = "least squares",
    seed: int = 0,
) -> Orbit:
    """Networks g_1 x, g_2 x, ... of random elements g_i = expm(epsilon T_i), all exact on the same batch.

    The T_i are the same for every epsilon and method, so that these are compared without the noise of the draws.

    Args:
        model: The network; not changed.
        hidden: The block that the elements act on.
        params: Parameters and buffers by name; not changed.
        x: The batch, of no more samples than there are units.
        epsilon: Size of the elements; 0 gives the identity.
        members: How many.
        method: See ``act_on_batch``.
        seed: Of the T_i.

    Returns:
        The networks; ``compare.evaluation.vote`` lets them decide together.

    Raises:
        ActionError: For fewer than one member, or as ``act_on_batch``.
    """
    if members < 1:
        raise ActionError(f"members: expected a positive number, got {members}")
    generator = torch.Generator().manual_seed(derived(seed, "orbit"))
    elements = (element_near_identity(hidden.units, epsilon, generator) for _ in range(members))
    acted = [act_on_batch(model, hidden, params, x, g, method=method) for g in elements]
    return Orbit(
        networks=tuple(each.params for each in acted),
        epsilon=float(epsilon),
        residuals=tuple(each.residual for each in acted),
        ranks=tuple(each.rank for each in acted),
        condition=max(each.condition for each in acted),
    )
