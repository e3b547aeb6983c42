"""What is recorded of orbits: their votes on other samples, and attacks on them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from compare.data import Split
from compare.evaluation import evaluate
from compare.evaluation.attack import Attacked, InputRange, fgsm, pgd
from compare.evaluation.ensemble import decided, voted
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
    found = voted(outputs, y)
    return Votes(
        samples=found.samples,
        errors=found.errors,
        majority=found.majority,
        mean_probability=found.mean_probability,
        agreement=found.agreement,
        changed=_fraction(decided(outputs, "majority") != own.argmax(1)),
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


Plain: TypeAlias = Mapping[tuple[AttackName, float], Attacked]
"""Inputs made for one network alone, by attack and radius."""


def plain_attacks(
    model: nn.Module, params: Params, samples: Split, radii: Sequence[float], *, within: InputRange
) -> Plain:
    """Attack a network itself: once for all of its orbits.

    Args:
        model: In evaluation mode; not changed.
        params: The network.
        samples: What is attacked.
        radii: Fractions of the range of inputs.
        within: That range.

    Returns:
        The changed inputs.
    """
    return {
        (name, radius): attack(model, [params], samples, radius, within=within)
        for name, attack in ATTACKS.items()
        for radius in radii
    }


def attack_votes(
    model: nn.Module,
    params: Params,
    found: Orbit,
    samples: Split,
    plain: Plain,
    *,
    within: InputRange,
    method: Method,
    batch: int,
) -> Iterator[AttackVotes]:
    """Attack an orbit: with the inputs made for its network, and in expectation over the orbit.

    Args:
        model: In evaluation mode; not changed.
        params: The network itself.
        found: Its orbit.
        samples: What is attacked.
        plain: Those samples after ``plain_attacks`` on the network; the same attacks and radii are taken.
        within: The range of inputs.
        method: How the orbit was made.
        batch: Size of the batch on which it is exact.

    Yields:
        The part of a record, for each attack and radius.
    """
    networks = [_single(each) for each in found.networks]
    for (name, radius), own in plain.items():
        through = ATTACKS[name](model, networks, samples, radius, within=within)
        wrong = [_wrong(outputs_of(model, networks, each.x), samples.y) for each in (own, through)]
        (transferred, transferred_mean), (attacked, attacked_mean) = wrong
        yield AttackVotes(
            attack=name,
            radius=radius,
            method=method,
            batch=batch,
            epsilon=found.epsilon,
            samples=len(samples),
            plain=evaluate(model, params, own).error,
            transferred_majority=_fraction(transferred),
            transferred_mean_probability=_fraction(transferred_mean),
            majority=_fraction(attacked),
            mean_probability=_fraction(attacked_mean),
            either_majority=_fraction(transferred | attacked),
        )


def _wrong(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples the vote of labels gets wrong, and which the mean probability."""
    return decided(outputs, "majority") != y, decided(outputs, "mean probability") != y


def _fraction(where: Tensor) -> float:
    return float(where.double().mean())
