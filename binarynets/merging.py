"""Several binary networks made one: each bit by majority vote, or from the mean of the latent weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from compare.errors import CompareError
from compare.evaluation import re_estimated
from compare.evaluation.statistics import calibrator
from compare.params import Params, sign
from compare.symmetry import Graph

How: TypeAlias = Literal["majority", "latents"]
Ties: TypeAlias = Literal["latents", "first"]


class MergeError(CompareError, ValueError):
    """Networks that cannot be merged as asked for."""


@dataclass(frozen=True, eq=False)
class Merged:
    """One network made of several.

    Attributes:
        params: Its parameters and buffers. The latent weight of a bit by majority is (votes for +1 - votes for -1) /
            networks; a tied one has the size of half a vote.
        agreement: Mean over bits and networks of how often a network has the merged bit: 1 for copies of one network;
            for bits drawn by lot 3/4 of two or three networks, 0.64 of eight, towards 1/2 for many.
        tied: Fraction of bits with as many votes for +1 as for -1.
        re_estimated: Whether normalisation statistics were measured for the merged network.
    """

    params: Params
    agreement: float
    tied: float
    re_estimated: bool


def merge(
    model: nn.Module,
    graph: Graph,
    networks: Sequence[Params],
    *,
    how: How = "majority",
    ties: Ties = "latents",
    calibration: Tensor | None = None,
) -> Merged:
    """Merge binary networks into one of the same size.

    A bit of the merged network says something only where all networks mean the same unit by it, so bring them to
    standard form and match them first (``compare.standard_form``, ``compare.match_many``). The standard form makes
    hidden gains positive and rows of latent weights unit vectors, so that means of latents weigh networks alike.

    Everything that is not binarised (offsets, gains, statistics of normalisation, weights and biases of real layers) is
    the mean over the networks. Statistics so averaged are those of no network: sums of merged weights vary more or less
    than those of the parts. With ``calibration`` they are measured anew, as [REPAIR] asks.

    Args:
        model: The network; not changed.
        graph: Its symmetries; ``graph.binarised`` names latent weights.
        networks: Two or more, parameters and buffers by name; not changed.
        how: ``"majority"``: each bit is that of most networks. ``"latents"``: the sign of the mean latent weight.
        ties: What decides a bit with as many votes for either side (an even number of networks): ``"latents"``, the
            sign of the sum of the latent weights (+1 where that is 0), or ``"first"``, the first network.
        calibration: Training inputs ``[samples, ...]`` to measure statistics on; None keeps the means.

    Returns:
        The merged network, and how far the parts agree on its bits.

    Raises:
        MergeError: For fewer than two networks, an unknown ``how`` or ``ties``, or a graph without binary weights.
        ParameterError: If a network does not fit the graph.
        StatisticsError: If there is nothing to re-estimate, or too few calibration samples.

    References:
        [REPAIR]: Jordan et al., ICLR 2023, arXiv 2211.08403.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(4, [6], 2).eval()
        >>> graph, one = compare.trace(model, torch.ones(2, 4), binarynets.FAMILY), compare.parameters(model)
        >>> merge(model, graph, [one, one, one]).agreement
        1.0
    """
    _check(graph, networks, how, ties)
    merged = {name: _mean(name, networks) for name in networks[0]}
    bits = {name: torch.stack([sign(params[name]) for params in networks]) for name in sorted(graph.binarised)}
    if how == "majority":
        merged |= {name: _majority(bits[name], _first(merged, networks, name, ties)) for name in bits}
    agreement, tied = _figures(bits, merged)
    if calibration is not None:
        merged = re_estimated(calibrator(model), merged, calibration)
    return Merged(merged, agreement, tied, calibration is not None)


def _first(merged: Params, networks: Sequence[Params], name: str, ties: Ties) -> Tensor:
    """The bits that break ties."""
    return sign(merged[name] if ties == "latents" else networks[0][name])


def _mean(name: str, networks: Sequence[Params]) -> Tensor:
    first = networks[0][name]
    if not first.is_floating_point():
        return first.clone()
    total = torch.stack([params[name].double() for params in networks])
    return total.mean(0).to(first.dtype)


def _majority(bits: Tensor, breaking: Tensor) -> Tensor:
    """Latent weights ``[...]`` from bits ``[networks, ...]``; where the vote is tied, half a vote for ``breaking``."""
    votes = bits.sum(0)
    return torch.where(votes == 0, breaking / 2, votes) / len(bits)


def _figures(bits: Params, merged: Params) -> tuple[float, float]:
    agreeing = sum(int((each == sign(merged[name])).sum()) for name, each in bits.items())
    tied = sum(int((each.sum(0) == 0).sum()) for each in bits.values())
    cast = sum(each.numel() for each in bits.values())
    return agreeing / cast, tied / sum(each[0].numel() for each in bits.values())


def _check(graph: Graph, networks: Sequence[Params], how: str, ties: str) -> None:
    if len(networks) < 2:
        raise MergeError(f"networks: expected two or more, got {len(networks)}")
    for name, value, options in (("how", how, get_args(How)), ("ties", ties, get_args(Ties))):
        if value not in options:
            raise MergeError(f"{name}: expected one of {', '.join(options)}, got {value!r}")
    if not graph.binarised:
        raise MergeError("graph: expected a network with binary weights, got one without: there are no bits to vote on")
    for index, params in enumerate(networks):
        graph.check(params, f"networks[{index}]")
