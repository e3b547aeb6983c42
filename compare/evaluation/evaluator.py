"""How the networks of one path are evaluated: a protocol, and the plain way."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from compare.params import Params, call_in_place


class Evaluator(Protocol):
    """Evaluates many networks of one architecture on the same batches.

    What a batch gives all of them alike is made once, by ``prepare``; what a network gives all batches alike, by
    ``network``.
    """

    def size(self, x: Tensor) -> int:
        """Bytes that ``prepare(x)`` will keep, about, for a batch that is not empty."""
        ...

    def prepare(self, x: Tensor) -> Any:
        """A batch ``[batch, ...]`` as the evaluator's own networks take it. They may keep notes in it."""
        ...

    def network(self, t: float, params: Params) -> Callable[[Sequence[Any]], list[Tensor]]:
        """The network at ``t``: from prepared batches to outputs ``[batch, classes]`` of each."""
        ...


Evaluation: TypeAlias = Callable[[nn.Module], Evaluator | None]
"""From a model in evaluation mode to its evaluator, new for each curve; None where it has nothing to offer."""


class Plain:
    """Evaluates by calling the model."""

    def __init__(self, model: nn.Module) -> None:
        """Keep the model, which must be in evaluation mode."""
        self._model = model

    def size(self, x: Tensor) -> int:
        """Nothing is kept."""
        return 0

    def prepare(self, x: Tensor) -> Tensor:
        """The batch itself."""
        return x

    def network(self, t: float, params: Params) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        """The model with these parameters."""
        # Copies, since some quantisers clamp the latent weights that they are given, in place.
        own = {name: tensor.clone() for name, tensor in params.items()}
        return lambda batches: [call_in_place(self._model, own, x) for x in batches]
