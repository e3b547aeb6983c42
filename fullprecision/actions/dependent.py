"""The data-dependent action: any invertible g on hidden units of any activation, exact on one batch."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from compare.params import Params
from fullprecision.actions.exact import check_element
from fullprecision.actions.hidden import ActionError, Hidden

Method: TypeAlias = Literal["least squares", "smallest change", "rotation"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class Acted:
    """A network moved by an element.

    Attributes:
        params: Its parameters and buffers.
        residual: The largest difference that the action makes to U sigma(V z + b) on its batch, over the largest
            absolute value there, computed in float64 from ``params`` as they are stored: rounding to their type, unless
            features became dependent.
        rank: Rank of the moved features sigma(g H); the action is exact where it is the batch's size.
        condition: Their condition number.
    """

    params: Params
    residual: float
    rank: int
    condition: float


def element_near_identity(units: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """An element expm(epsilon T), the entries of T normal with variance 1 / units [Conserved].

    For many units eigenvalues of T about fill the unit disc, so the sizes of those of g lie about between exp(-epsilon)
    and exp(epsilon).

    Args:
        units: Size of g.
        epsilon: How far from the identity, 0 or more.
        generator: Source of randomness; it advances.

    Returns:
        float64 ``[units, units]``, invertible.

    Raises:
        ActionError: For a negative or infinite epsilon.
    """
    if not 0 <= epsilon < math.inf:
        raise ActionError(f"epsilon: expected a finite number from 0 on, got {epsilon}")
    drawn = torch.randn(units, units, generator=generator, dtype=torch.float64) / math.sqrt(units)
    return torch.matrix_exp(epsilon * drawn)


@torch.no_grad()
def act_on_batch(
    model: nn.Module, hidden: Hidden, params: Params, x: Tensor, g: Tensor, *, method: Method = "least squares"
) -> Acted:
    """(U, V, b) -> (U M, g V, g b) with M sigma(g H) = sigma(H) on the batch, H = V z + b [units, batch].

    On its batch the outputs stay as they are; elsewhere they change (``docs/actions.md``). With A = sigma(H),
    B = sigma(g H), and the pseudo-inverse B^+:

    - ``"least squares"``: M = A B^+ [Conserved]. What U does beyond the span of the batch's features is lost,
      also for g = 1.
    - ``"smallest change"``: M = 1 + (A - B) B^+, of all exact ones that with the least Frobenius norm of M - 1.
    - ``"rotation"``: M = A B^+ + s N: the complement of B's span is carried onto that of A's by the isometry N nearest
      to the identity (orthogonal Procrustes) times s, the ratio of the geometric means of A's and B's singular values.
      For a batch of one, M is |a| / |b| times an isometry that takes b/|b| to a/|a| and leaves alone what is orthogonal
      to both: the paper's closed form R_a R_b^-1 with rotations R chosen so, or a reflection where a and b are more
      than a right angle apart.

    For g = 1 the last two are the identity. Everything is computed in float64 and stored in the type of ``params``; B
    is that of g V and g b as stored.

    Args:
        model: The network; not changed.
        hidden: Its block, from ``hidden_units(model)``.
        params: Parameters and buffers by name; not changed.
        x: The batch ``[batch, ...]``, of no more samples than there are units; the block takes one vector of each.
        g: Invertible, ``[units, units]``.
        method: What is done beyond the span of the batch's features.

    Returns:
        The moved network, with how exact it is on the batch.

    Raises:
        ActionError: For a batch larger than the number of units or of another shape, an unknown method, or a wrong g.

    References:
        [Conserved]: Zhao et al., ICLR 2023, arXiv 2210.17216, section on nonlinear group actions.
    """
    if not 1 <= len(x) <= hidden.units:
        raise ActionError(
            f"x: expected from 1 to {hidden.units} samples, the number of units of {hidden.inner}, got {len(x)}: "
            "on more, no matrix keeps all outputs"
        )
    if method not in METHODS:
        raise ActionError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    wide = check_element(hidden, g)
    v, b = hidden.inner_of(params)
    z = hidden.inputs(params, x).double()
    if z.ndim != 2 or len(z) != len(x):
        raise ActionError(
            f"x: expected one vector for each of {len(x)} samples at {hidden.inner}, got {list(z.shape)} there from "
            f"inputs {list(x.shape)}: give [batch, ...], each sample one row"
        )
    new_v, new_b = (wide @ v.double()).to(v), None if b is None else (wide @ b.double()).to(b)
    before, after = (hidden.activation(_affine(*layer, z)) for layer in ((v, b), (new_v, new_b)))
    u = hidden.outer_of(params)
    kept, new_u = u.double() @ before, (u.double() @ undoing(before, after, method)).to(u)
    values = torch.linalg.svdvals(after)
    rank = int(torch.linalg.matrix_rank(after))
    return Acted(
        params=hidden.replaced(params, new_v, new_b, new_u),
        residual=float((new_u.double() @ after - kept).abs().max()) / (float(kept.abs().max()) or 1.0),
        rank=rank,
        condition=float(values[0] / values[rank - 1]) if rank else math.inf,
    )


def _affine(v: Tensor, b: Tensor | None, z: Tensor) -> Tensor:
    """V z + b in float64, ``[units, batch]``."""
    return v.double() @ z.T + (0 if b is None else b.double()[:, None])


def undoing(a: Tensor, b: Tensor, method: Method) -> Tensor:
    """M with M b = a, see ``act_on_batch``.

    Args:
        a: Features before, float64 ``[units, batch]``.
        b: Features after.
        method: What M is beyond the span of ``b``.

    Returns:
        ``[units, units]``.
    """
    inverse: Tensor = torch.linalg.pinv(b)
    if method == "least squares":
        return a @ inverse
    if method == "smallest change":
        return torch.eye(len(b), dtype=b.dtype) + (a - b) @ inverse
    return a @ inverse + _complement(a, b)


def _complement(a: Tensor, b: Tensor) -> Tensor:
    """From the complement of b's span onto that of a's: an isometry as near to the identity as there is, times s."""
    (u_a, s_a, _), (u_b, s_b, _) = (torch.linalg.svd(part, full_matrices=True) for part in (a, b))
    rank_a, rank_b = (int(torch.linalg.matrix_rank(part)) for part in (a, b))
    rest_a, rest_b = u_a[:, rank_a:], u_b[:, rank_b:]
    w, _, z = torch.linalg.svd(rest_a.T @ rest_b, full_matrices=False)
    scale = torch.exp(s_a[:rank_a].log().mean() - s_b[:rank_b].log().mean()) if rank_a and rank_b else 1.0
    carried: Tensor = scale * (rest_a @ w @ z @ rest_b.T)
    return carried
