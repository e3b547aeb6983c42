"""A family: what a precision supplies. ``compare`` knows no precision; they are found through entry points."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Protocol

from torch import Tensor, nn

from compare.data import Split
from compare.errors import CompareError
from compare.evaluation import Evaluation
from compare.params import Params
from compare.precisions import installed
from compare.runs import landscape as record
from compare.runs.part import SplitName
from compare.runs.study import Rises
from compare.symmetry.graph import Graph, StandardForm
from compare.symmetry.rules import Rule
from compare.training import Recipe


class PrecisionError(CompareError, ValueError):
    """A precision that is not installed, or an entry point that gives no family."""


class Landscape(Protocol):
    """Measures the landscape between, and around, two networks of a precision, beyond what all precisions share."""

    def __call__(
        self,
        graph: Graph,
        model: nn.Module,
        a: Params,
        b: Params,
        splits: Mapping[SplitName, Split],
        *,
        seed: int,
        describe: str | None,
    ) -> tuple[record.Landscape | None, tuple[str, ...]]:
        """The part of a record, None where there is none, and notes: why, or what was left out."""
        ...


class Flips(Protocol):
    """Measures how much the error of a network rises when fractions of its bits are flipped at random."""

    def __call__(
        self,
        model: nn.Module,
        params: Params,
        split: SplitName,
        samples: Split,
        fractions: Sequence[float],
        *,
        draws: int,
        seed: int,
    ) -> Rises:
        """Rises of the error on ``samples``, which are of ``split``, for each fraction of all bits."""
        ...


def as_it_is(model: nn.Module, x: Tensor) -> nn.Module:
    """The model itself stands for the model."""
    return model


@dataclass(frozen=True)
class Family:
    """What a precision supplies.

    Attributes:
        name: Short name, as on the command line.
        title: One line for reports.
        rules: Tracing rules for its own layers, by exact module type; they decide the diagonal group of each block.
        standard_form: Its standard form, called through ``compare.standard_form``.
        effective: ``(model, params) -> params``: latent weights replaced by those the network uses.
        networks: Constructors by name (``mlp``, ``vgg``, ``resnet``), the same shapes in every precision.
        recipe: Its training.
        landscape: What else it can measure of two matched networks, or None.
        flips: What flipping bits does to the error, or None where there are no bits.
        plain: ``(model, example inputs) -> model``: what is traced and evaluated in place of a model: a module with the
            same names of parameters and buffers and the same outputs. The model itself unless said otherwise.
        evaluation: ``model -> evaluator`` of the networks of a path, faster than the model and with the same outputs
            bit for bit; None where there is none.
        bits: Bits of a weight, None where that makes no sense; reports order precisions by it.
    """

    name: str
    title: str
    rules: Mapping[type[nn.Module], Rule]
    standard_form: StandardForm
    effective: Callable[[nn.Module, Params], Params]
    networks: Mapping[str, Callable[..., nn.Module]]
    recipe: Recipe
    landscape: Landscape | None = None
    flips: Flips | None = None
    plain: Callable[[nn.Module, Tensor], nn.Module] = as_it_is
    evaluation: Evaluation | None = None
    bits: float | None = None


def families(names: tuple[str, ...] | None = None) -> dict[str, Family]:
    """Import the families of the precisions named, or of all that are installed.

    Args:
        names: Precisions, or None for all.

    Returns:
        Families by name, in the order asked for.

    Raises:
        PrecisionError: For a name that is not installed (the message lists those that are), or one that makes no
            folder's name; if the entry point cannot be imported or gives no family of that name.
    """
    found = installed()
    loaded = {}
    for name in found if names is None else names:
        if name not in found:
            raise PrecisionError(f"unknown precision {name!r}: installed are {', '.join(found) or 'none'}")
        loaded[name] = _loaded(found[name])
    return loaded


def _loaded(point: EntryPoint) -> Family:
    where = f"the entry point {point.value} of precision {point.name!r}"
    # The name becomes a folder's.
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", point.name):
        raise PrecisionError(f"{where}: expected a name of letters, digits, '-', '_' and '.' that begins with no '.'")
    try:
        family = point.load()
    except (ImportError, AttributeError) as error:
        raise PrecisionError(
            f"{where} cannot be loaded ({error}): install or mend the package that offers it"
        ) from error
    if not isinstance(family, Family):
        raise PrecisionError(f"{where} gives no compare.Family, but {type(family).__name__}")
    if family.name != point.name:
        raise PrecisionError(f"{where} gives a family of another name, {family.name!r}: expected the same name")
    return family
