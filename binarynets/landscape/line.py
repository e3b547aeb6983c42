"""The networks of a path in the order of their times: flips of bits, and moves of thresholds between them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from binarynets.landscape.flips import Floats, Ints, Timed
from binarynets.landscape.result import ExactPath
from compare.evaluation.curve import Statistics

MOVE = 0
"""The layer of an event that moves thresholds and gains; weights of layer l have l, from 1."""


def equally_spaced(points: int) -> Floats:
    """I / (points - 1) from 0 to 1."""
    return np.arange(points) / (points - 1)


def threshold_grid(steps: int, at: Sequence[float], knots: Floats) -> Floats:
    """All points at which thresholds are known: equally spaced, the usual 25, knots, and what is asked for."""
    return np.unique(np.concatenate([equally_spaced(steps + 1), equally_spaced(25), knots, np.array(at, np.float64)]))


class Line:
    """Flips and moves of thresholds in the order of their times.

    Attributes:
        events: As ``kernels.follow`` takes them, int32 ``[events, 4]``.
    """

    def __init__(self, timed: Timed, grid: Floats) -> None:
        """Merge both.

        Args:
            timed: The flips.
            grid: The threshold grid; thresholds of a point hold from half-way before it to half-way behind it.
        """
        self._timed, self._grid = timed, grid
        # At each point of the grid, how many flips have happened there; and how many before its thresholds come.
        until = np.searchsorted(timed.by, np.arange(len(grid)), side="right")
        middle = (grid[1:] + grid[:-1]) / 2
        # Clipped, since half-way between neighbouring floats is one of them.
        before = np.clip(np.searchsorted(timed.t, middle, side="right"), until[:-1], until[1:])
        flips = timed.flips
        rows = np.stack([flips.layer + 1, flips.unit, flips.source, flips.positive], 1).astype(np.int32)
        moves = np.zeros((len(middle), 4), np.int32)
        moves[:, 0], moves[:, 1] = MOVE, np.arange(1, len(grid))
        self.events: npt.NDArray[np.int32] = np.ascontiguousarray(np.insert(rows, before, moves, axis=0))
        self._event_t: Floats = np.insert(timed.t, before, middle)
        self._after_flip = np.flatnonzero(self.events[:, 0] != MOVE) + 1
        self._at_grid = until + np.arange(len(grid))

    def result(self, counted: Ints, order: str, statistics: Statistics, samples: int) -> ExactPath:
        """The path, given the number of errors at first and after each event."""
        errors = np.concatenate([counted[:1], counted[self._after_flip]])
        if len(self._timed.t):
            errors[-1] = counted[-1]
        return ExactPath(
            order=order,
            statistics=statistics,
            samples=samples,
            flips=self._timed.flips,
            t=torch.from_numpy(self._timed.t),
            errors=torch.from_numpy(errors),
            grid_t=torch.from_numpy(self._grid),
            grid_errors=torch.from_numpy(counted[self._at_grid]),
            event_t=torch.from_numpy(np.concatenate([np.zeros(1), self._event_t])),
            event_errors=torch.from_numpy(counted),
        )
