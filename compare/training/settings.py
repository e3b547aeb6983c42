"""How a network is trained: settings that a user may change, and what a precision brings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, TypeAlias, get_args

from torch import Tensor, nn

from compare.runs.configuration import WITHOUT_BOP, without_bop
from compare.training.algorithms import Algorithm, Plain, SettingsError, algorithm, described

OptimiserName: TypeAlias = Literal["adam", "sgd", "bop"]


class Optimiser(Protocol):
    """The part of ``torch.optim.Optimizer`` that the loop needs."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups with their learning rates under ``lr`` (groups without one are left alone)."""
        ...

    def step(self) -> Any:
        """Change the parameters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take up a state."""
        ...


_PLAIN = Plain()


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training run.

    Attributes:
        epochs: Passes over the training data.
        batch: Samples a step.
        optimiser: Which optimiser; a precision may not offer all.
        learning_rate: At the start; falls to 0 on half a cosine over all steps.
        weight_decay: As the optimiser defines it.
        algorithm: Which minimum is sought, with its hyperparameters.
    """

    epochs: int = 20
    batch: int = 100
    optimiser: OptimiserName = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    algorithm: Algorithm = _PLAIN

    def __post_init__(self) -> None:
        """Check every number.

        Raises:
            SettingsError: Naming the setting, what came and what is expected.
        """
        if self.optimiser not in get_args(OptimiserName):
            known = ", ".join(get_args(OptimiserName))
            raise SettingsError(f"optimiser: expected one of {known}, got {self.optimiser!r}")
        if self.epochs < 1 or self.batch < 2:
            raise SettingsError(f"expected at least 1 epoch and 2 samples a batch, got {self.epochs} and {self.batch}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise SettingsError(
                "expected a positive learning_rate and a weight_decay of at least 0, both finite, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )
        self._check_algorithm()

    def _check_algorithm(self) -> None:
        if not isinstance(self.algorithm, Algorithm):
            raise SettingsError(
                f"algorithm: expected one such as compare.training.SAM(rho=0.1), got {self.algorithm!r}; "
                "compare.training.algorithm makes one from its name"
            )
        if self.optimiser == "bop" and self.algorithm.name in WITHOUT_BOP:
            raise SettingsError(without_bop(self.algorithm.name))

    def changed(self, **given: Any) -> "TrainingSettings":
        """These settings with those given that are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name; plain training names no algorithm."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "algorithm"}
        return found if isinstance(self.algorithm, Plain) else {**found, "algorithm": described(self.algorithm)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """The settings that ``as_dict`` described; other entries (those of a checkpoint) are left alone.

        Raises:
            SettingsError: If a value makes no setting.
        """
        names = {field.name for field in fields(cls)}
        found = {name: value for name, value in values.items() if name in names}
        if "algorithm" in found:
            found["algorithm"] = algorithm(**found["algorithm"])
        return cls(**found)


@dataclass(frozen=True)
class Recipe:
    """What a precision brings to training.

    Attributes:
        name: The precision's name, kept with checkpoints.
        settings: Its defaults.
        optimiser: Makes the optimiser for a model; raises SettingsError for one it does not offer.
        after_step: Called with the model after each step, may change it in place (latent clipping).
        latents: Latent weights of the model by name, for the flip ratio; empty where nothing is binarised.
    """

    name: str
    settings: TrainingSettings
    optimiser: Callable[[nn.Module, TrainingSettings], Optimiser]
    after_step: Callable[[nn.Module], None]
    latents: Callable[[nn.Module], Mapping[str, Tensor]]
