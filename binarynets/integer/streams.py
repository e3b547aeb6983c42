"""What is known of a value while a network is followed: integers of one step, and what has been done to them since."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from binarynets.integer.affine import IntegerError
from binarynets.integer.plan import Decide, Scaling, Step

PLAIN = Scaling()


@dataclass(frozen=True)
class Stream:
    """Integers, with what the network has done to them since: ``(integers / divisor + bias)``, then normalisation.

    Attributes:
        step: Which step makes the integers, counted from 1; 0 is the network's input.
        rank: Number of axes, the batch's included; None where it is not known (the input).
        scaling: What has been done to the integers.
        normalised: Place of the normalisation; empty if there was none.
        biased: Place of the map whose bias was added; empty if there was none.
        decided: Place of the operation behind which only the signs are known (as the integers); empty elsewhere.
    """

    step: int
    rank: int | None
    scaling: Scaling = PLAIN
    normalised: str = ""
    biased: str = ""
    decided: str = ""

    @property
    def obstacle(self) -> str:
        """Why the value is not an integer over a divisor; empty if it is one."""
        if self.decided:
            return f"it comes out of '{self.decided}', of which only the signs are integers"
        if self.normalised:
            return f"it comes out of normalisation '{self.normalised}'"
        return f"the bias of '{self.biased}' was added to it" if self.biased else ""


class Steps:
    """The steps found so far, and the names of parameters."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """Start without a step.

        Args:
            names: Name of each parameter and buffer, by ``id``.
        """
        self.found: list[Step] = []
        self._names = names
        self._taken: dict[str, int] = {}

    def append(self, step: Step) -> int:
        """Add a step; gives its number."""
        self.found.append(step)
        return len(self.found)

    def unique(self, name: str) -> str:
        """``name``, with ``:2`` behind it the second time, and so on: a module may be called more than once."""
        self._taken[name] = self._taken.get(name, 0) + 1
        return name if self._taken[name] == 1 else f"{name}:{self._taken[name]}"

    def name(self, tensor: Tensor | None) -> str | None:
        """Name of a parameter or buffer; None for None."""
        return None if tensor is None else self._names[id(tensor)]


@dataclass(frozen=True)
class Site:
    """One operation of the network.

    Attributes:
        name: Place of the module, or of the operation in it.
        kind: What it is, for messages.
        steps: Where steps go.
    """

    name: str
    kind: str
    steps: Steps

    def refuse(self, reason: str, remedy: str) -> NoReturn:
        """Raise ``IntegerError`` that names the operation, the reason and a way on."""
        raise IntegerError(f"'{self.name}' ({self.kind}) has no integer form: {reason}. {remedy}")

    def integers(self, x: Any, remedy: str) -> Stream:
        """``x`` if it is a stream of integers over a divisor; refuses it otherwise."""
        found = self.stream(x)
        if found.obstacle:
            self.refuse(f"expected integers, got real numbers: {found.obstacle}", remedy)
        return found

    def stream(self, x: Any) -> Stream:
        """``x`` if it is a value of the network; refuses anything else."""
        if not isinstance(x, Stream):
            self.refuse(
                f"expected a value that depends on the network's input, got {type(x).__name__}",
                "Constants and sizes cannot be computed with",
            )
        return x

    def ranked(self, x: Stream, *ranks: int) -> Stream:
        """``x`` if it may have as many axes as one of ``ranks``; of a single one it is known to have from here on."""
        if x.rank is not None and x.rank not in ranks:
            expected = " or ".join(map(str, ranks))
            self.refuse(
                f"expected a value of {expected} axes, the batch's included, got {x.rank}",
                "Flatten it before (torch.nn.Flatten)" if ranks == (2,) else "Reshape before the network, not in it",
            )
        return dataclasses.replace(x, rank=ranks[0] if len(ranks) == 1 else x.rank)

    def put(self, step: Step, rank: int | None, scaling: Scaling = PLAIN) -> Stream:
        """Add a step; gives what comes out of it."""
        return Stream(self.steps.append(step), rank, scaling)

    def decide(self, x: Stream) -> Stream:
        """Signs of ``x``."""
        if x.decided:
            return Stream(x.step, x.rank)
        return self.put(Decide(self.steps.unique(self.name), x.step, x.scaling), x.rank)

    def only_signs(self, x: Stream) -> Stream:
        """``x`` seen through something that keeps signs and orders, but is followed no further than that."""
        signs = self.decide(x)
        return dataclasses.replace(signs, decided=x.decided or self.name)
