"""The course of conserved quantities over a training."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from compare.params import Params
from fullprecision.conserved.errors import ConservedError
from fullprecision.conserved.quantity import Quantity, moved

Measured: TypeAlias = tuple[tuple[Tensor, float], ...]
"""Values and scale of each quantity."""


class Log:
    """Values of quantities by step, for ``compare.train(..., observe=log, observe_every=100)``.

    A step that is seen again, after an interruption, takes the place of what was there. A training that goes on in
    another process is seen from where it goes on: give ``start``, the parameters before the first step, or drifts are
    distances from the first step that this log saw.

    Example:
        >>> import compare, fullprecision
        >>> from fullprecision.conserved import conserved_quantities
        >>> from compare.training import TrainingSettings
        >>> data = compare.load_data("digits")
        >>> model = fullprecision.mlp(64, [8], 10)
        >>> graph = compare.trace(model, data.train.x[:8], fullprecision.FAMILY)
        >>> log = Log(conserved_quantities(graph, model))
        >>> trained = compare.train(
        ...     model,
        ...     data,
        ...     fullprecision.FAMILY.recipe,
        ...     settings=TrainingSettings(epochs=1),
        ...     observe=log,
        ...     observe_every=5,
        ... )
        >>> log.steps
        (0, 5, 10, 15)
    """

    def __init__(self, quantities: Sequence[Quantity], start: Params | None = None) -> None:
        """Begin.

        Args:
            quantities: Which.
            start: Parameters that drifts are measured from; None for those of the first step that is seen.

        Raises:
            ConservedError: If there is no quantity, or ``start`` lacks what one is computed from.
        """
        if not quantities:
            raise ConservedError("quantities: expected at least one, got none: this network conserves nothing known")
        needed = {name for each in quantities for name in each.reads}
        missing = [] if start is None else sorted(needed.difference(start))
        if missing:
            raise ConservedError(f"start: expected parameters of the network, got none named {', '.join(missing)}")
        self.quantities = tuple(quantities)
        self._seen: dict[int, Measured] = {}
        self._start = None if start is None else self._measured(start)

    def __call__(self, step: int, params: Params) -> None:
        """Note the values at a step."""
        self._seen[step] = self._measured(params)

    @property
    def steps(self) -> tuple[int, ...]:
        """Which steps were seen, in their order."""
        return tuple(sorted(self._seen))

    def values(self, which: int) -> Tensor:
        """Values of one quantity, float64 ``[steps, ...]``.

        Raises:
            ConservedError: If no step was seen yet.
        """
        if not self._seen:
            raise ConservedError("nothing was seen yet: pass the log as observe= of compare.train, or call it")
        return torch.stack([self._seen[step][which][0] for step in self.steps])

    def drifts(self, which: int) -> tuple[float, ...]:
        """Distance of one quantity from ``start`` at each step, in units of its scale there.

        Raises:
            ConservedError: If no step was seen yet, or the quantity moved from where all its terms are 0.
        """
        values = self.values(which)
        first, scale = (self._start or self._seen[self.steps[0]])[which]
        return tuple(moved(self.quantities[which], each - first, scale) for each in values)

    def _measured(self, params: Params) -> Measured:
        return tuple(quantity.measured(params) for quantity in self.quantities)
