"""Networks on a path that are no perceptrons: exact error counts at some of them, through the integer form."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch

from binarynets.integer.network import folded_plan
from binarynets.integer.plan import Plan
from binarynets.landscape.line import equally_spaced
from binarynets.landscape.result import ExactPath
from compare.evaluation.curve import Statistics
from compare.evaluation.score import Samples
from compare.geometry import Path
from compare.params import Params
from compare.progress import progress

Name = TypeVar("Name", bound=str)


def sampled(
    plan: Plan,
    path: Path,
    splits: Mapping[Name, Samples],
    order: str,
    statistics: Statistics,
    settle: Callable[[Params], Params] | None,
    *,
    networks: int,
    at: Sequence[float],
    describe: str | None,
) -> dict[Name, ExactPath]:
    """Error counts at points of a path.

    Args:
        plan: The network's steps.
        path: The path.
        splits: Samples to count on.
        order: What the result is to say.
        statistics: Likewise.
        settle: Measures normalisation statistics anew, None to leave them as they are.
        networks: Number of equally spaced points, ends included.
        at: Further points.
        describe: Text before the progress line; None shows none.

    Returns:
        Paths with ``complete`` False, whose times are the points.
    """
    ts = np.unique(np.concatenate([equally_spaced(networks), np.array(at, np.float64)]))
    counts: dict[Name, list[int]] = {name: [] for name in splits}
    for t in progress(ts, describe, unit="network"):
        params = path(float(t))
        network = folded_plan(plan, settle(params) if settle else params)
        for name, split in splits.items():
            counts[name].append(network.errors(split.x, split.y))
    grid = torch.from_numpy(ts)
    return {
        name: ExactPath(
            order=order,
            statistics=statistics,
            samples=len(splits[name].y),
            flips=None,
            t=grid[1:],
            errors=torch.tensor(found),
            grid_t=grid,
            grid_errors=torch.tensor(found),
            event_t=grid,
            event_errors=torch.tensor(found),
            complete=False,
        )
        for name, found in counts.items()
    }
