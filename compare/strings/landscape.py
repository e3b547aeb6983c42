"""What strings are sampled on: an energy of parameters, and a way down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from compare.errors import CompareError
from compare.params import Params


class StringError(CompareError, ValueError):
    """Settings, levels or networks with which no string can be sampled."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """A network after training towards a target.

    Attributes:
        params: Its parameters and buffers by name.
        energy: Its energy, measured as ``Landscape.energies`` does: with statistics of its own where those are
            re-estimated, which ``params`` hold only if a step was made (``NetworkLandscape.settled`` gives them).
        reached: Whether the energy is at most the target.
        steps: Steps made.
        evaluations: Networks whose energy was measured.
    """

    params: Params
    energy: float
    reached: bool
    steps: int
    evaluations: int


class Landscape(Protocol):
    """An energy on parameters. All it does must be determined by its arguments, seeds included."""

    @property
    def names(self) -> Sequence[str]:
        """Parameters that lengths count, in a fixed order."""
        ...

    def energies(self, a: Params, b: Params, ts: Sequence[float]) -> tuple[float, ...]:
        """Energies of the networks (1 - t) a + t b, one for each of ``ts`` between 0 and 1; both ends exactly."""
        ...

    def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
        """Train from ``start`` until the energy is at most ``target``, or a limit is met; no step where it is already.

        Neither ``start`` nor the landscape itself is changed.
        """
        ...

    def described(self) -> Mapping[str, Any]:
        """Plain values: all that determines energies and training. A resumed search checks them."""
        ...


class Slope(Landscape, Protocol):
    """A landscape that also tells which way is down."""

    def gradient(self, params: Params, *, seed: int) -> Params:
        """Gradient of what training minimises, at ``params``, for each of ``names``; ``seed`` draws the batch."""
        ...
