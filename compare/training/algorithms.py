"""Which minimum is sought: training algorithms, each with its hyperparameters."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeAlias

from compare.errors import CompareError


class SettingsError(CompareError, ValueError):
    """Settings that a precision or an algorithm does not offer."""


@dataclass(frozen=True)
class Plain:
    """The optimiser's own steps on the loss of each batch."""

    name: ClassVar[str] = "plain"


@dataclass(frozen=True)
class RSGD:
    """Replicated SGD: several coupled networks whose barycentre is the result; seeks wide minima.

    References:
        Pittorino et al., Entropic gradient descent algorithms and wide flat minima, ICLR 2021, arXiv 2006.07897.

    Attributes:
        replicas: Number of networks, y.
        coupling: The coupling term at the first step, as a multiple of the replicas' mean loss there (1: balanced).
        growth: Factor by which the coupling's strength grows over the whole training, exponentially.
        spread: Distance of each replica's initial weights from the given ones, as a multiple of these weights' standard
            deviation in each tensor.
    """

    name: ClassVar[str] = "rsgd"

    replicas: int = 3
    coupling: float = 1.0
    growth: float = 1e4
    spread: float = 0.3

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            SettingsError: Naming the hyperparameter, what came and what is expected.
        """
        if not isinstance(self.replicas, int) or self.replicas < 2:
            raise SettingsError(f"replicas: expected a whole number of at least 2, got {self.replicas}")
        if not 1 <= self.growth < math.inf:
            raise SettingsError(f"growth: expected a finite number of at least 1, got {self.growth}")
        _check_positive(self, "coupling", "spread")


@dataclass(frozen=True)
class ADV:
    """Random labels first, the true ones from there without regularisation; finds sharp minima.

    References:
        Liu, Papailiopoulos, Achlioptas, Bad global minima exist and SGD can reach them, NeurIPS 2020, arXiv 1906.02613.

    Attributes:
        random_epochs: Most passes over the training data with permuted labels.
        random_error: The first phase ends early once its training error over an epoch (a fraction) is at most this.
        random_learning_rate: Of the first phase, at its start; None takes that of the second.
    """

    name: ClassVar[str] = "adv"

    random_epochs: int = 50
    random_error: float = 0.0
    random_learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            SettingsError: Naming the hyperparameter, what came and what is expected.
        """
        if not isinstance(self.random_epochs, int) or self.random_epochs < 1:
            raise SettingsError(f"random_epochs: expected a whole number of at least 1, got {self.random_epochs}")
        if not 0 <= self.random_error < 1:
            raise SettingsError(f"random_error: expected a fraction of at least 0 and below 1, got {self.random_error}")
        if self.random_learning_rate is not None:
            _check_positive(self, "random_learning_rate")


@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation: steps along the gradient at the worst point near by; seeks flat minima.

    References:
        Foret et al., Sharpness-aware minimization for efficiently improving generalization, ICLR 2021,
        arXiv 2010.01412.

    Attributes:
        rho: Euclidean distance to that point, over all trainable parameters together.
    """

    name: ClassVar[str] = "sam"

    rho: float = 0.05

    def __post_init__(self) -> None:
        """Check the radius.

        Raises:
            SettingsError: If it is not positive and finite.
        """
        _check_positive(self, "rho")


Algorithm: TypeAlias = Plain | RSGD | ADV | SAM

ALGORITHMS: Mapping[str, type[Algorithm]] = {kind.name: kind for kind in (Plain, RSGD, ADV, SAM)}


def algorithm(name: str, **hyperparameters: Any) -> Algorithm:
    """An algorithm by its name.

    Args:
        name: One of ``ALGORITHMS``.
        hyperparameters: Those of its fields that are not to have their defaults.

    Returns:
        The algorithm.

    Raises:
        SettingsError: If there is no such algorithm, it has no such hyperparameter, or a number is out of its range.

    Example:
        >>> algorithm("sam", rho=0.1)
        SAM(rho=0.1)
    """
    if name not in ALGORITHMS:
        raise SettingsError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {name!r}")
    known = [field.name for field in fields(ALGORITHMS[name])]
    foreign = sorted(hyperparameters.keys() - set(known))
    if foreign:
        owners = [kind.name for kind in ALGORITHMS.values() if {field.name for field in fields(kind)} & set(foreign)]
        others = f", or choose {' or '.join(map(repr, owners))}" if owners else ""
        raise SettingsError(
            f"the algorithm {name!r} has no {', '.join(foreign)}; its hyperparameters are: "
            f"{', '.join(known) or 'none'}. Leave out what it does not have{others}"
        )
    return ALGORITHMS[name](**hyperparameters)


def described(chosen: Algorithm) -> dict[str, Any]:
    """Name and hyperparameters as plain values, as ``algorithm`` takes them."""
    return {"name": chosen.name, **asdict(chosen)}


def _check_positive(chosen: Algorithm, *names: str) -> None:
    for name in names:
        value = getattr(chosen, name)
        if not 0 < value < math.inf:
            raise SettingsError(f"{name}: expected a positive finite number, got {value}")
