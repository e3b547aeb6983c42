"""The steps of a binary network whose every decision rests on integers, without their numbers."""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Scaling:
    """What lies between an integer sum and a decision: names of parameters and buffers.

    Attributes:
        bias: Of the linear map, added before normalisation; None where there is none.
        mean: Running mean of the normalisation, None where there is no normalisation.
        variance: Its running variance.
        gain: Its learned factor, or None.
        offset: Its learned offset, or None.
        eps: Added to the variance.
        divisor: What average pooling divides the sum by, a power of two.
    """

    bias: str | None = None
    mean: str | None = None
    variance: str | None = None
    gain: str | None = None
    offset: str | None = None
    eps: float = 0.0
    divisor: int = 1


@dataclass(frozen=True)
class Flatten:
    """Axes ``start`` to ``end`` made one."""

    name: str
    source: int
    start: int
    end: int


@dataclass(frozen=True)
class Linear:
    """Sums over bits: ``[..., in]`` to ``[..., out]``, integers to integers."""

    name: str
    source: int
    weight: str


@dataclass(frozen=True)
class Convolution:
    """Sums over windows, padded with zeros; ``[batch, channels, ...]`` with one or two axes of space."""

    name: str
    source: int
    weight: str
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before and after, for each axis of space
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class Pool:
    """The largest or the sum of each window (an average is the sum, its divisor waits in the next ``Scaling``)."""

    name: str
    source: int
    kind: Literal["max", "sum"]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool


@dataclass(frozen=True)
class Add:
    """The sum of two streams of integers."""

    name: str
    source: int
    other: int


@dataclass(frozen=True)
class Decide:
    """The sign of scaled sums; channels lie on axis 1."""

    name: str
    source: int
    scaling: Scaling


@dataclass(frozen=True)
class Output:
    """Scaled sums, the network's result; channels lie on axis 1."""

    name: str
    source: int
    scaling: Scaling


Step: TypeAlias = Flatten | Linear | Convolution | Pool | Add | Decide | Output


@dataclass(frozen=True)
class Plan:
    """Steps in the order of evaluation; ``source`` counts them from 1, 0 is the network's input. The last is an Output.

    Attributes:
        steps: The steps; ``name`` is the module's path.
    """

    steps: tuple[Step, ...]

    @property
    def layers(self) -> tuple["Layer", ...] | None:
        """The layers of a perceptron: linear maps, each decided on before the next; None for any other network.

        The input may be flattened first. A weight that two layers share makes it no perceptron here: one bit is then in
        two places.
        """
        steps = list(enumerate(self.steps))
        in_a_row = all(step.source == index for index, step in steps)
        if isinstance(self.steps[0], Flatten):
            steps = steps[1:]
        maps, decisions = steps[::2], steps[1::2]
        found = tuple(
            Layer(linear, decision, index)
            for (_, linear), (index, decision) in zip(maps, decisions, strict=False)
            if isinstance(linear, Linear) and isinstance(decision, Decide | Output)
        )
        weights = {layer.linear.weight for layer in found}
        whole = 2 * len(found) == len(steps) and len(weights) == len(found)
        return found if in_a_row and whole and found else None


@dataclass(frozen=True)
class Layer:
    """One layer of a perceptron.

    Attributes:
        linear: Its map.
        decision: What is made of the sums.
        index: Of the decision in the plan's steps.
    """

    linear: Linear
    decision: Decide | Output
    index: int
