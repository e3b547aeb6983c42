"""The course of conserved quantities over a training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compare.params import Params
from fullprecision.conserved.errors import ConservedError
from fullprecision.conserved.quantity import Quantity


class Log:
    """Values of quantities by step, for ``compare.train(..., observe=log, observe_every=100)``.

    A step that is seen again, after an interruption, takes the place of what was there.

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

    def __init__(self, quantities: Sequence[Quantity]) -> None:
        """Begin.

        Args:
            quantities: Which.

        Raises:
            ConservedError: If there is none.
        """
        if not quantities:
            raise ConservedError("quantities: expected at least one, got none: this network conserves nothing known")
        self.quantities = tuple(quantities)
        self._values: dict[int, tuple[Tensor, ...]] = {}
        self._scales: dict[int, tuple[float, ...]] = {}

    def __call__(self, step: int, params: Params) -> None:
        """Note the values at a step."""
        self._values[step] = tuple(quantity(params) for quantity in self.quantities)
        self._scales[step] = tuple(quantity.scale(params) for quantity in self.quantities)

    @property
    def steps(self) -> tuple[int, ...]:
        """Which steps were seen, in their order."""
        return tuple(sorted(self._values))

    def values(self, which: int) -> Tensor:
        """Values of one quantity, float64 ``[steps, ...]``."""
        return torch.stack([self._values[step][which] for step in self.steps])

    def drifts(self, which: int) -> tuple[float, ...]:
        """Distance of one quantity from where it was first seen, at each step, in units of its scale there."""
        values = self.values(which)
        moved = torch.linalg.vector_norm((values - values[0]).flatten(1), dim=1)
        scale = self._scales[self.steps[0]][which]
        return tuple(float(each) / scale if each else 0.0 for each in moved)
