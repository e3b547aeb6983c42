"""The landscape between, and around, two binary networks, as part of a record."""

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from binarynets.integer.affine import IntegerError
from binarynets.integer.network import check_integers, to_integer
from binarynets.integer.trace import plan
from binarynets.landscape.exact import exact_paths
from binarynets.landscape.neighbourhood import flip_neighbourhood
from binarynets.landscape.neighbourhood_profile import layer_profiles, unit_profile
from binarynets.landscape.perceptron import perceptron
from binarynets.landscape.result import ExactPath
from binarynets.landscape.robustness import FRACTIONS, RobustnessCurve, flip_robustness
from compare.data import Split
from compare.evaluation.statistics import has_statistics
from compare.params import Params
from compare.runs import landscape as record
from compare.runs.part import SplitName, Statistics
from compare.symmetry import Graph

FEW = 1000
"""Samples of a robustness curve where each network takes its time."""

KNOTS = 49
"""Where statistics are measured anew: the 25 points of the usual curve are among these, so that the two agree there."""

DRAWS = 5
BINS = 200
ORDERS: tuple[record.Order, ...] = ("latent-line", "random", "greedy")


def landscape(
    graph: Graph,
    model: nn.Module,
    a: Params,
    b: Params,
    splits: Mapping[SplitName, Split],
    *,
    seed: int = 0,
    describe: str | None = None,
) -> tuple[record.Landscape | None, tuple[str, ...]]:
    """Count everything between and around two matched networks.

    Perceptrons are followed flip by flip in three orders, with statistics interpolated and re-estimated; of other
    networks that have an integer form 25 are counted on the latent line. The neighbourhood of ``a`` (perceptrons only:
    others take one evaluation a bit) is counted on both splits, its robustness to flips on test samples.

    Args:
        graph: The coupling graph.
        model: The network; not changed.
        a: Parameters and buffers of the first network.
        b: Of the second, matched.
        splits: Samples to count on, with calibration inputs.
        seed: Of orders and draws.
        describe: Text before the progress lines; None shows none.

    Returns:
        The part of the record, and notes: why there is none, or what was left out.
    """
    try:
        return _counted(graph, model, a, b, splits, seed=seed, describe=describe)
    except IntegerError as error:
        return None, (f"no exact landscape: {error}",)


def _counted(
    graph: Graph,
    model: nn.Module,
    a: Params,
    b: Params,
    splits: Mapping[SplitName, Split],
    *,
    seed: int,
    describe: str | None,
) -> tuple[record.Landscape, tuple[str, ...]]:
    begun = time.perf_counter()
    # What cannot be counted is found before anything costly.
    for params in (a, b):
        network = to_integer(model, params)
        for split in splits.values():
            network.errors(split.x[:1], split.y[:1])
            check_integers(split.x)
    chained = perceptron(plan(model)) is not None
    notes = () if chained else ("exact landscape: no perceptron, so 25 networks of a path and no neighbourhood",)
    kinds: tuple[Statistics, ...] = ("interpolated", "re-estimated") if has_statistics(model) else ("interpolated",)
    curves = []
    for statistics in kinds:
        for order in ORDERS if chained else ORDERS[:1]:
            told = describe and f"{describe}: exact, {order}, {statistics}"
            found = exact_paths(
                model,
                a,
                b,
                splits,
                order,
                statistics=statistics,
                knots=KNOTS,
                seed=seed,
                graph=graph,
                describe=told,
            )
            curves += [_curve(split, path) for split, path in found.items()]
    around = [_neighbourhood(model, a, name, split, describe) for name, split in splits.items()] if chained else []
    test = splits["test"] if chained else splits["test"].subset(FEW, seed)
    whole = record.Landscape(
        curves=tuple(curves),
        neighbourhoods=tuple(around),
        robustness=_robustness(model, a, test, seed=seed, layers=chained),
        seconds=time.perf_counter() - begun,
    )
    return whole, notes


def _curve(split: SplitName, path: ExactPath) -> record.ExactCurve:
    ts, lowest, highest = _envelope(path)
    supremum, missed = path.supremum, path.missed()
    return record.ExactCurve(
        treatment="matched",
        order=path.order,
        statistics=path.statistics,
        split=split,
        samples=path.samples,
        flips=0 if path.flips is None else len(path.flips),
        networks=len(path.event_errors),
        complete=path.complete,
        threshold_steps=len(path.grid_t) - 1,
        ends=(int(path.errors[0]) / path.samples, int(path.errors[-1]) / path.samples),
        supremum=supremum / path.samples,
        supremum_at=path.supremum_at,
        grid_supremum=(supremum - missed) / path.samples,
        missed=missed / path.samples,
        integral=path.integral,
        ts=ts,
        lowest=lowest,
        highest=highest,
    )


def _envelope(path: ExactPath) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Least and largest error in each of equal intervals of t; the network that enters one counts in it."""
    if not path.complete:
        pairs = torch.stack([path.errors[:-1], path.errors[1:]]).double() / path.samples
        return tuple(path.grid_t.tolist()), tuple(pairs.amin(0).tolist()), tuple(pairs.amax(0).tolist())
    t, errors = path.event_t.numpy(), path.event_errors.numpy()
    edges = np.arange(BINS + 1) / BINS
    first = np.searchsorted(t, edges[:-1], side="right") - 1
    last = np.append(np.searchsorted(t, edges[1:-1], side="right"), len(t))
    parts = [errors[start:end] for start, end in zip(first, last, strict=True)]
    low, high = ([int(pick(part)) / path.samples for part in parts] for pick in (np.min, np.max))
    return tuple(edges.tolist()), tuple(low), tuple(high)


def _neighbourhood(
    model: nn.Module, params: Params, name: SplitName, split: Split, describe: str | None
) -> record.Neighbourhood:
    told = describe and f"{describe}: neighbourhood, {name}"
    changes = flip_neighbourhood(model, params, split.x, split.y, describe=told)
    error = to_integer(model, params).errors(split.x, split.y) / len(split)
    layers = []
    for weight, profile in layer_profiles(changes).items():
        means = unit_profile(changes[weight]).mean.sort(descending=True).values
        layers.append(
            record.LayerFlips(
                weight=weight,
                bits=profile.bits,
                raising=profile.raising,
                lowering=profile.lowering,
                unchanging=profile.unchanging,
                mean=profile.mean / len(split),
                worst=profile.worst / len(split),
                unit_means=tuple((means / len(split)).tolist()),
            )
        )
    return record.Neighbourhood(network="a", split=name, samples=len(split), error=error, layers=tuple(layers))


def _robustness(
    model: nn.Module, params: Params, split: Split, *, seed: int, layers: bool
) -> tuple[record.Robustness, ...]:
    found = flip_robustness(
        model, params, split.x, split.y, (0.0, *FRACTIONS), draws=DRAWS, seed=seed, per_layer=layers
    )
    curves: list[tuple[str | None, RobustnessCurve]] = [(None, found.overall), *found.layers.items()]
    return tuple(
        record.Robustness(
            network="a",
            split="test",
            samples=len(split),
            draws=DRAWS,
            weight=name,
            bits=curve.bits,
            fractions=found.fractions,
            errors=tuple(curve.mean.tolist()),
            standard_errors=tuple(curve.standard_error.tolist()),
        )
        for name, curve in curves
    )
