"""What the changes of a neighbourhood say: the most critical bits, and profiles of layers and units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class CriticalBit(NamedTuple):
    """One bit, and what its flip does.

    Attributes:
        name: Of the weight.
        place: Its index there.
        change: Change of the number of errors.
    """

    name: str
    place: tuple[int, ...]
    change: int


@dataclass(frozen=True)
class LayerProfile:
    """The bits of one weight.

    Attributes:
        bits: Their number.
        raising: Fraction of them whose flip makes more errors.
        lowering: Fraction whose flip makes fewer.
        unchanging: Fraction whose flip leaves the number as it is; the three add up to 1.
        mean: Mean change of the number of errors.
        worst: Largest change.
        best: Smallest change.
    """

    bits: int
    raising: float
    lowering: float
    unchanging: float
    mean: float
    worst: int
    best: int


@dataclass(frozen=True, eq=False)
class UnitProfile:
    """The bits of each unit or output channel (axis 0) of one weight; all tensors are ``[units]``.

    Attributes:
        bits: Number of bits of one unit.
        raising: Fraction of them whose flip makes more errors, float64.
        lowering: Fraction whose flip makes fewer.
        unchanging: Fraction whose flip leaves the number as it is.
        mean: Mean change of the number of errors, float64.
        worst: Largest change, int64.
        best: Smallest change, int64.
    """

    bits: int
    raising: Tensor
    lowering: Tensor
    unchanging: Tensor
    mean: Tensor
    worst: Tensor
    best: Tensor


def most_critical(changes: Mapping[str, Tensor], k: int = 10) -> list[CriticalBit]:
    """The bits whose flips make the most errors more.

    Args:
        changes: What ``flip_neighbourhood`` gives.
        k: How many; all bits if there are fewer.

    Returns:
        The bits by falling change; among equal ones those of earlier weights and places come first.

    Raises:
        ValueError: If there is no bit, or ``k`` is not positive.

    Example:
        >>> most_critical({"w": torch.tensor([[0, 2], [-1, 2]])}, k=2)
        [CriticalBit(name='w', place=(0, 1), change=2), CriticalBit(name='w', place=(1, 1), change=2)]
    """
    if k < 1:
        raise ValueError(f"k: expected a positive number of bits, got {k}")
    _check(changes)
    found: list[CriticalBit] = []
    for name, change in changes.items():
        flat = change.reshape(-1)
        largest = torch.sort(flat, descending=True, stable=True).indices[:k]
        places = zip(*(axis.tolist() for axis in torch.unravel_index(largest, change.shape)), strict=True)
        found += [CriticalBit(name, place, int(flat[i])) for place, i in zip(places, largest, strict=True)]
    return sorted(found, key=lambda bit: -bit.change)[:k]


def harmless_fraction(changes: Mapping[str, Tensor]) -> float:
    """Fraction of all bits whose flip makes no more errors than there are.

    Args:
        changes: What ``flip_neighbourhood`` gives.

    Returns:
        From 0 to 1; bits whose flip makes fewer errors count as harmless.

    Raises:
        ValueError: If there is no bit.

    Example:
        >>> harmless_fraction({"w": torch.tensor([[0, 2], [-1, 0]])})
        0.75
    """
    _check(changes)
    bits = sum(change.numel() for change in changes.values())
    return sum(int((change <= 0).sum()) for change in changes.values()) / bits


def layer_profiles(changes: Mapping[str, Tensor]) -> dict[str, LayerProfile]:
    """How the flips of each layer's bits act.

    Args:
        changes: What ``flip_neighbourhood`` gives.

    Returns:
        A profile by name of the weight, in the same order.

    Raises:
        ValueError: If there is no bit.

    Example:
        >>> layer_profiles({"w": torch.tensor([[0, 2], [-1, 0]])})["w"]
        LayerProfile(bits=4, raising=0.25, lowering=0.25, unchanging=0.5, mean=0.25, worst=2, best=-1)
    """
    _check(changes)
    found = {}
    for name, change in changes.items():
        own = unit_profile(change.reshape(1, -1))
        found[name] = LayerProfile(
            bits=own.bits,
            raising=float(own.raising),
            lowering=float(own.lowering),
            unchanging=float(own.unchanging),
            mean=float(own.mean),
            worst=int(own.worst),
            best=int(own.best),
        )
    return found


def unit_profile(change: Tensor) -> UnitProfile:
    """How the flips of each unit's bits act.

    Args:
        change: Of one weight ``[units, ...]``, an entry of what ``flip_neighbourhood`` gives.

    Returns:
        The profile.

    Raises:
        ValueError: If there is no bit.

    Example:
        >>> unit_profile(torch.tensor([[0, 2], [-1, 0]])).mean
        tensor([ 1.0000, -0.5000], dtype=torch.float64)
    """
    _check({"change": change})
    rows = change.reshape(len(change), -1)
    return UnitProfile(
        bits=rows.shape[1],
        raising=(rows > 0).double().mean(1),
        lowering=(rows < 0).double().mean(1),
        unchanging=(rows == 0).double().mean(1),
        mean=rows.double().mean(1),
        worst=rows.amax(1),
        best=rows.amin(1),
    )


def _check(changes: Mapping[str, Tensor]) -> None:
    empty = [name for name, change in changes.items() if change.numel() == 0 or change.ndim == 0]
    if not changes or empty:
        got = f"none for '{empty[0]}'" if empty else "no weight at all"
        raise ValueError(f"changes: expected one number for each bit, as flip_neighbourhood gives, got {got}")
