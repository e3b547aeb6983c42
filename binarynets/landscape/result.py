"""What an exact path returns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from binarynets.landscape.flips import Flips
from compare.evaluation.curve import Statistics


@dataclass(frozen=True, eq=False)
class ExactPath:
    """The error of every network on a path, counted.

    A network is given by its bits and its thresholds. Bits flip one by one; thresholds and the gains of the last layer
    stand still around each point of the threshold grid and change half-way between two.

    Attributes:
        order: In which order the bits flip.
        statistics: Whether normalisation statistics are the path's own or measured anew at knots.
        samples: Number of samples that errors are counted on.
        flips: The bits in the order in which they flip; None where only a grid was counted.
        t: Time of each flip, float64 ``[flips]``, not decreasing, between 0 and 1.
        errors: Number of misclassified samples, int64 ``[flips + 1]``: of the first network, then after each flip; the
            last entry is the second network's, thresholds included. Where no bit differs, the first network's alone.
        grid_t: The threshold grid, float64, from 0 to 1; at each of its points the network is that of the path.
        grid_errors: Number of misclassified samples there, int64.
        event_t: Times of all changes of the network, of bits and of thresholds, float64, beginning with 0.
        event_errors: Number of misclassified samples after each, int64.
        complete: Every network of the path has been counted; False where only those at ``t`` were, a grid.
    """

    order: str
    statistics: Statistics
    samples: int
    flips: Flips | None
    t: Tensor
    errors: Tensor
    grid_t: Tensor
    grid_errors: Tensor
    event_t: Tensor
    event_errors: Tensor
    complete: bool = True

    @property
    def supremum(self) -> int:
        """The largest number of misclassified samples of any network on the path."""
        return int(self.event_errors.max())

    @property
    def supremum_at(self) -> float:
        """Where it is reached first, t."""
        return float(self.event_t[int(self.event_errors.argmax())])

    @property
    def integral(self) -> float:
        """The integral of the error over t from 0 to 1, a fraction."""
        if not self.complete:
            return min(1.0, float(torch.trapezoid(self.event_errors.double(), self.event_t)) / self.samples)
        until = torch.cat([self.event_t[1:], torch.ones(1, dtype=torch.float64)])
        # Rounding may add up to a little more than all.
        return min(1.0, float(((until - self.event_t) * self.event_errors).sum()) / self.samples)

    def at(self, t: float) -> int:
        """Number of misclassified samples of the network at ``t``, a point of the threshold grid.

        Raises:
            ValueError: If ``t`` is none.
        """
        found = torch.nonzero(self.grid_t == t).flatten()
        if len(found) == 0:
            raise ValueError(f"t: expected a point of the threshold grid, got {t!r}; pass it as at=[{t!r}]")
        return int(self.grid_errors[found[0]])

    def missed(self, points: int = 25) -> int:
        """How much higher the supremum is than the highest of the networks at equally spaced points, in samples.

        Args:
            points: Their number, ends included; they must be points of the threshold grid, as 25 always are.

        Raises:
            ValueError: If one is none.
        """
        return self.supremum - max(self.at(i / (points - 1)) for i in range(points))
