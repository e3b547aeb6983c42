"""What is recorded of orbits: their votes on other samples, and attacks on them."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from compare.data import Split
from compare.evaluation import evaluate
from compare.evaluation.attack import Attacked, InputRange, fgsm, pgd
from compare.evaluation.ensemble import agreement, decided
from compare.params import Params, call
from compare.runs.orbits import AttackName, AttackVotes, OrbitVotes, Votes
from fullprecision.actions.dependent import Method
from fullprecision.actions.orbit import Orbit

ATTACKS: dict[AttackName, Callable[..., Attacked]] = {"fgsm": fgsm, "pgd": pgd}


@torch.no_grad()
def outputs_of(model: nn.Module, networks: Sequence[Params], x: Tensor) -> Tensor:
    """Logits of each network, computed in single precision.

    Args:
        model: In evaluation mode; not changed.
        networks: Parameters and buffers by name of each.
        x: Inputs ``[samples, ...]``.

    Returns:
        ``[networks, samples, classes]``.
    """
    return torch.stack([call(model, _single(params), x) for params in networks])


def _single(params: Params) -> Params:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in params.items()}


def votes_of(outputs: Tensor, own: Tensor, y: Tensor) -> Votes:
    """The votes of networks.

    Args:
        outputs: Their logits ``[networks, samples, classes]``.
        own: Those of the network that they were made of ``[samples, classes]``.
        y: Class indices ``[samples]``.

    Returns:
        Their part of a record.
    """
    labels, together = outputs.argmax(2), decided(outputs, "majority")
    return Votes(
        samples=len(y),
        errors=tuple(_fraction(each != y) for each in labels),
        majority=_fraction(together != y),
        mean_probability=_fraction(decided(outputs, "mean probability") != y),
        agreement=agreement(labels, outputs.shape[2]),
        changed=_fraction(together != own.argmax(1)),
    )


def orbit_votes(
    model: nn.Module, params: Params, found: Orbit, samples: Split, *, method: Method, batch: int
) -> OrbitVotes:
    """What the networks of an orbit do on other samples than its batch.

    Args:
        model: In evaluation mode; not changed.
        params: The network that was moved.
        found: Its orbit.
        samples: What is measured on.
        method: How the orbit was made.
        batch: Size of the batch on which it is exact.

    Returns:
        The part of a record.
    """
    outputs, (own,) = outputs_of(model, found.networks, samples.x), outputs_of(model, [params], samples.x)
    change = (outputs - own).double().square().mean().sqrt() / own.double().square().mean().sqrt()
    independent = [r for r, rank in zip(found.residuals, found.ranks, strict=True) if rank == batch]
    return OrbitVotes(
        method=method,
        batch=batch,
        epsilon=found.epsilon,
        residual=max(found.residuals),
        independent_residual=max(independent, default=None),
        dependent=len(found.ranks) - len(independent),
        condition=found.condition,
        output_change=float(change),
        labels_changed=_fraction(outputs.argmax(2) != own.argmax(1)),
        votes=votes_of(outputs, own, samples.y),
    )


def attack_votes(
    model: nn.Module,
    params: Params,
    found: Orbit,
    samples: Split,
    radii: Sequence[float],
    *,
    within: InputRange,
    method: Method,
    batch: int,
) -> Iterator[AttackVotes]:
    """Attack a network, and its orbit: with the network's inputs, and in expectation over the orbit.

    Args:
        model: In evaluation mode; not changed.
        params: The network itself.
        found: Its orbit.
        samples: What is attacked.
        radii: Fractions of the range of inputs.
        within: That range.
        method: How the orbit was made.
        batch: Size of the batch on which it is exact.

    Yields:
        The part of a record, for each attack and radius.
    """
    networks = [_single(each) for each in found.networks]
    for name, attack in ATTACKS.items():
        for radius in radii:
            plain = attack(model, [params], samples, radius, within=within)
            through = attack(model, networks, samples, radius, within=within)
            transferred, attacked = (outputs_of(model, networks, each.x) for each in (plain, through))
            yield AttackVotes(
                attack=name,
                radius=radius,
                method=method,
                batch=batch,
                epsilon=found.epsilon,
                samples=len(samples),
                plain=evaluate(model, params, plain).error,
                transferred_majority=_fraction(decided(transferred, "majority") != samples.y),
                transferred_mean_probability=_fraction(decided(transferred, "mean probability") != samples.y),
                majority=_fraction(decided(attacked, "majority") != samples.y),
                mean_probability=_fraction(decided(attacked, "mean probability") != samples.y),
            )


def _fraction(where: Tensor) -> float:
    return float(where.double().mean())
