"""Exact paths: the error of every binary network between two, one after each flip of a bit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from binarynets.family import FAMILY
from binarynets.integer.affine import IntegerError
from binarynets.integer.trace import plan
from binarynets.landscape.blocks import in_threads
from binarynets.landscape.dense import Dense, check_inputs, count, ranks
from binarynets.landscape.flips import (
    Flips,
    Floats,
    Ints,
    Timed,
    differing,
    flipped,
    in_order,
    on_geodesic,
    on_line,
    sequence,
)
from binarynets.landscape.greedy import CANDIDATES, ROUNDS, greedy
from binarynets.landscape.line import Line, equally_spaced, threshold_grid
from binarynets.landscape.neighbourhood import FlipEffects, check_classes, check_tensors, flip_effects
from binarynets.landscape.perceptron import Perceptron, Scales, between_knots, interpolated, perceptron
from binarynets.landscape.result import ExactPath
from binarynets.landscape.sampled import sampled
from compare.evaluation.curve import Statistics
from compare.evaluation.score import Samples
from compare.evaluation.statistics import StatisticsError, calibrator, re_estimated
from compare.geometry import Path, geodesic_path, linear_path
from compare.params import Params, check, parameters, sign
from compare.progress import progress
from compare.symmetry import Graph, trace

Order: TypeAlias = Literal["latent-line", "latent-geodesic", "random", "greedy"]
Sequenced: TypeAlias = Flips | Sequence[tuple[str, int, int]]
Name = TypeVar("Name", bound=str)

STEPS = 240
"""Intervals of the threshold grid: a multiple of 24, so that the usual 25 points are among its own."""

KNOTS = 51
BLOCK = 128
BUDGET = 500


def exact_path(
    model: nn.Module,
    a: Params,
    b: Params,
    x: Tensor,
    y: Tensor,
    order: Order | Sequenced = "latent-line",
    *,
    statistics: Statistics = "interpolated",
    calibration: Tensor | None = None,
    knots: int = KNOTS,
    steps: int = STEPS,
    at: Sequence[float] = (),
    seed: int = 0,
    rounds: int = ROUNDS,
    candidates: float = CANDIDATES,
    budget: int = BUDGET,
    networks: int = 25,
    threads: int | None = None,
    block: int = BLOCK,
    graph: Graph | None = None,
    describe: str | None = None,
) -> ExactPath:
    """The error of every network between two binary networks, counted (METHODS, sections 4 and 6 there).

    Bits on which the ends agree never flip, the others flip once each. Their order is that of the latent path
    (``compare.linear_path`` or ``geodesic_path``), or another one at the times of the straight line, so that at each t
    equally many have flipped. Biases and everything that normalisation computes with run straight from ``a`` to ``b``.
    They make thresholds, which are taken from the very network of the path at each point of a fine grid and stand still
    around it; so ``compare.error_curve`` gives the same errors at all points of the grid. ``steps`` says how fine it
    is; to see what that changes, halve it.

    Multilayer perceptrons are followed flip by flip, in blocks of samples: a flip changes one unit's pre-activation,
    and only samples in which that unit turns go on. For any other network that has an integer form the error is exact
    at ``networks`` equally spaced t, and the result says that it is such a grid (``complete`` is False).

    Args:
        model: The network, with at least one hidden layer; not changed.
        a: Parameters and buffers of the first network.
        b: Of the second, matched to the first if symmetries are to be out of the way.
        x: Inputs ``[samples, ...]``, integers such as 2 p - 255 for pixels p, at most 32767.
        y: Classes ``[samples]``.
        order: ``"latent-line"``, ``"latent-geodesic"``, ``"random"``, ``"greedy"``, or the bits themselves in their
            order, as another path's ``flips`` or as ``(weight, row, column)`` for each.
        statistics: ``"interpolated"``: normalisation statistics run straight, as the path has them; ``"re-estimated"``:
            they are measured on ``calibration`` at knots, and between these thresholds run straight.
        calibration: Training inputs ``[samples, ...]`` to measure statistics on.
        knots: Their number, ends included.
        steps: Intervals of the threshold grid, equally spaced; the 25 points of the usual curve, knots, and ``at`` are
            added to its points.
        at: Further points of the grid, of either kind.
        seed: Of the random order, and of the greedy one's samples and candidates.
        rounds: The greedy order looks at the effect of all single flips so many times. After each look it draws
            candidates and takes its share of them: the lowest errors first, larger summed margins among equals.
        candidates: Flips drawn for each that is taken, at least 1; infinity for all that are left.
        budget: Samples that it looks at, a seeded choice.
        networks: On the grid of a network that is no perceptron.
        threads: Blocks at a time; None for as many as torch uses. Nothing depends on it.
        block: Samples of a block, a multiple of 64; nothing depends on it but memory (about 5 kB a sample and thread
            for 784-512-512-10) and speed.
        graph: The network's coupling graph, where it is there already.
        describe: Text before the progress line on a terminal; None shows none.

    Returns:
        Times, error counts, supremum.

    Raises:
        IntegerError: If the network has no integer form, ``x`` does not fit it, or a sequence is not that of the bits
            that differ; for the greedy order also if a gain is exactly 0 where it looks.
        ParameterError: If ``a`` or ``b`` do not fit the network.
        SymmetryError: If it cannot be traced.
        AntipodalError: As ``compare.geodesic_path``.
        StatisticsError: If statistics cannot be re-estimated.
        ValueError: For unknown or impossible options.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(6, [5, 4], 3).eval()
        >>> a, b = compare.parameters(model), compare.parameters(binarynets.mlp(6, [5, 4], 3))
        >>> x = torch.randint(-255, 256, (50, 6)).float()
        >>> found = exact_path(model, a, b, x, model(x).argmax(1))
        >>> int(found.errors[0]), len(found.errors) == len(found.t) + 1, found.missed() >= 0
        (0, True, True)
    """
    found = exact_paths(
        model,
        a,
        b,
        {"samples": _Samples(x, y)},
        order,
        statistics=statistics,
        calibration=calibration,
        knots=knots,
        steps=steps,
        at=at,
        seed=seed,
        rounds=rounds,
        candidates=candidates,
        budget=budget,
        networks=networks,
        threads=threads,
        block=block,
        graph=graph,
        describe=describe,
    )
    return found["samples"]


@dataclass(frozen=True)
class _Samples:
    x: Tensor
    y: Tensor


def exact_paths(
    model: nn.Module,
    a: Params,
    b: Params,
    splits: Mapping[Name, Samples],
    order: Order | Sequenced = "latent-line",
    *,
    statistics: Statistics = "interpolated",
    calibration: Tensor | None = None,
    knots: int = KNOTS,
    steps: int = STEPS,
    at: Sequence[float] = (),
    seed: int = 0,
    rounds: int = ROUNDS,
    candidates: float = CANDIDATES,
    budget: int = BUDGET,
    networks: int = 25,
    threads: int | None = None,
    block: int = BLOCK,
    graph: Graph | None = None,
    describe: str | None = None,
) -> dict[Name, ExactPath]:
    """As ``exact_path`` on several splits at once, in one pass over the flips; the greedy order looks at the first.

    Without ``calibration`` the first split that offers one is asked, as the splits of ``load_data`` do.
    """
    _check(
        order,
        statistics,
        at=at,
        block=block,
        candidates=candidates,
        knots=knots,
        steps=steps,
        rounds=rounds,
        budget=budget,
        networks=networks,
        seed=seed,
    )
    if not splits:
        raise ValueError("splits: expected at least one")
    for name, end in (("a", a), ("b", b)):
        check(end, parameters(model), what=name)
    a, b = ({name: tensor.detach() for name, tensor in end.items()} for end in (a, b))
    first = next(iter(splits.values()))
    check_tensors(first.x, first.y)
    planned = plan(model)
    own = next(tensor.dtype for tensor in a.values() if tensor.is_floating_point())
    graph = trace(model, first.x[:16].to(own), FAMILY) if graph is None else graph
    path = (geodesic_path if order == "latent-geodesic" else linear_path)(graph, a, b)
    settle = _settler(model, splits, calibration, own) if statistics == "re-estimated" else None
    network = perceptron(planned)
    if network is None:
        if order not in ("latent-line", "latent-geodesic"):
            raise ValueError("order: expected 'latent-line' or 'latent-geodesic' for a network that is no perceptron")
        return sampled(planned, path, splits, order, statistics, settle, networks=networks, at=at, describe=describe)
    knots_t = equally_spaced(knots if settle else 2)
    grid = threshold_grid(steps, at, knots_t)
    line = on_line(differing(network.weights, path.a, path.b), path.a, path.b, grid)
    if order == "greedy":
        if len(a[network.weights[-1]]) < 2:
            raise IntegerError("order: 'greedy' looks at margins, which a network of one class has not; take another")
        look = _look(model, first, settle, seed=seed, budget=budget, threads=threads)
        chosen = greedy(look, path, line, rounds=rounds, candidates=candidates, seed=seed, describe=describe)
        timed = in_order(line.flips, chosen, line)
    else:
        timed = _timed(line, path, graph, order, grid, seed)
    if settle is None:
        scales = interpolated(network, path.a, path.b, grid)
    else:
        latent = order in ("latent-line", "latent-geodesic")
        there = [path(t) if latent else flipped(path, timed, t, grid) for t in map(float, knots_t)]
        settled = [settle(params) for params in progress(there, describe, unit="knot")]
        scales = between_knots(network, knots_t, settled, grid)
    merged = Line(timed, grid)
    counted = _counted(_dense(network, path.a, scales, block), splits, merged, threads=threads, describe=describe)
    label = order if isinstance(order, str) else "given"
    return {name: merged.result(found, label, statistics, len(splits[name].y)) for name, found in counted.items()}


def _counted(
    dense: Dense, splits: Mapping[Name, Samples], line: Line, *, threads: int | None, describe: str | None
) -> dict[Name, Ints]:
    """Number of errors at first and after each event."""
    tasks = [(name, x, y) for name, split in splits.items() for x, y in _blocks(split, dense)]

    def work(task: tuple[Name, Tensor, Tensor]) -> tuple[Name, Ints]:
        name, x, y = task
        return name, count(dense, x, y, line.events)

    changes = {name: np.zeros(len(line.events) + 1, np.int64) for name in splits}
    for name, found in in_threads(work, tasks, threads=threads, describe=describe):
        changes[name] += found
    return {name: np.cumsum(found) for name, found in changes.items()}


def _blocks(split: Samples, dense: Dense) -> list[tuple[Tensor, Tensor]]:
    x = check_inputs(split.x, dense.weights[0].shape[1])
    check_classes(x, split.y, len(dense.weights[-1]))
    return list(zip(torch.split(x, dense.samples), torch.split(split.y, dense.samples), strict=True))


def _check(order: object, statistics: str, *, at: Sequence[float], candidates: float, **counts: object) -> None:
    if isinstance(order, str) and order not in get_args(Order):
        raise ValueError(f"order: expected one of {', '.join(get_args(Order))}, or a sequence of bits, got {order!r}")
    if statistics not in get_args(Statistics):
        raise ValueError(f"statistics: expected 'interpolated' or 're-estimated', got {statistics!r}")
    if not all(0 <= t <= 1 for t in at):
        raise ValueError(f"at: expected numbers between 0 and 1, got {list(at)}")
    if not candidates >= 1:
        raise ValueError(f"candidates: expected at least 1 for each flip that is taken, got {candidates}")
    for name, number in counts.items():
        if not isinstance(number, Integral):
            raise ValueError(f"{name}: expected a whole number, got {number!r}")
        if name == "block" and (number < 1 or number % 64):
            raise ValueError(f"block: expected a multiple of 64 samples, got {number}")
        if number < (least := {"seed": 0, "knots": 2, "networks": 2}.get(name, 1)):
            raise ValueError(f"{name}: expected at least {least}, got {number}")


def _timed(line: Timed, path: Path, graph: Graph, order: Order | Sequenced, grid: Floats, seed: int) -> Timed:
    """The flips in the order asked for, with their times."""
    flips = line.flips
    if order == "latent-line":
        return line
    if order == "latent-geodesic":
        return on_geodesic(differing(flips.names, path.a, path.b), path.a, path.b, graph.coordinates, grid)
    if order == "random":
        shuffled = torch.randperm(len(flips), generator=torch.Generator().manual_seed(seed))
        return in_order(flips, shuffled.numpy(), line)
    assert not isinstance(order, str)
    return in_order(flips, sequence(flips, order), line)


def _look(
    model: nn.Module,
    split: Samples,
    settle: Callable[[Params], Params] | None,
    *,
    seed: int,
    budget: int,
    threads: int | None,
) -> Callable[[Params], FlipEffects]:
    """The effect of all single flips on a seeded choice of samples."""
    chosen = torch.randperm(len(split.y), generator=torch.Generator().manual_seed(seed))[:budget]
    x, y = split.x[chosen], split.y[chosen]
    return lambda params: flip_effects(model, settle(params) if settle else params, x, y, threads=threads)


def _settler(
    model: nn.Module, splits: Mapping[Name, Samples], calibration: Tensor | None, dtype: torch.dtype
) -> Callable[[Params], Params]:
    if calibration is None:
        offered = (getattr(split, "calibration", None) for split in splits.values())
        calibration = next((x for x in offered if x is not None), None)
    if calibration is None:
        raise StatisticsError("re-estimated statistics: pass calibration=, training inputs to measure them on")
    measuring, x = calibrator(model), calibration.to(dtype)
    return lambda params: re_estimated(measuring, params, x)


def _dense(network: Perceptron, a: Params, scales: Scales, block: int) -> Dense:
    weights = tuple(sign(a[name]).float() for name in network.weights)
    return Dense(weights, scales.thresholds, ranks(scales.outputs, weights[-1].shape[1]), block)
