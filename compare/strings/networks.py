"""The landscape of a network on data: loss or error as energy, beads trained as the precision trains."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from compare.evaluation import Evaluation, Samples, error_curve, evaluate, re_estimated
from compare.evaluation.curve import Statistics
from compare.evaluation.score import BATCH
from compare.evaluation.statistics import StatisticsError, calibrator, has_statistics
from compare.geometry import linear_path
from compare.params import Coordinate, Params, call_in_place, check, digest, lerp, parameters
from compare.runs.configuration import identity
from compare.seeds import derived
from compare.strings.landscape import Lowered, StringError
from compare.strings.lowering import Trainer
from compare.strings.settings import Lowering
from compare.training.settings import Recipe

Energy: TypeAlias = Literal["loss", "error", "squared error", "absolute error"]

_LOSSES: Mapping[Energy, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": F.cross_entropy,
    "error": F.cross_entropy,
    "squared error": F.mse_loss,
    "absolute error": F.l1_loss,
}
_OF_CLASSES = ("loss", "error")

# A search that is kept is refused where this differs: raise it when the same arguments come to give other numbers.
_FORMAT = 1


class NetworkLandscape:
    """A network of any precision on data; a ``Slope``.

    The energy of a binary network is that of the binarised network: beads, and all networks between them, are latent.
    They are trained through the straight-through estimator, and what the recipe does after a step (clipping) is done.

    Example:
        >>> import fullprecision
        >>> from types import SimpleNamespace
        >>> x = torch.linspace(0, 1, 9)[:, None]
        >>> model = nn.Sequential(nn.Linear(1, 4), nn.Sigmoid(), nn.Linear(4, 1))
        >>> landscape = NetworkLandscape(
        ...     model, fullprecision.FAMILY.recipe, SimpleNamespace(x=x, y=x**2), energy="squared error"
        ... )
        >>> len(landscape.names)
        4
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        samples: Samples,
        *,
        energy: Energy = "loss",
        lowering: Lowering | None = None,
        measured: Samples | None = None,
        statistics: Statistics = "re-estimated",
        calibration: Tensor | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        """Say what the energy is.

        Args:
            model: The network, in any mode; not changed. Parameters that require no gradient stay between the ends'.
            recipe: The precision's, for instance ``binarynets.FAMILY.recipe``.
            samples: What beads are trained on: inputs ``[samples, ...]``, and classes ``[samples]`` or, for squared and
                absolute error, targets in the shape of the outputs.
            energy: ``"loss"``: mean cross-entropy, nats; ``"error"``: fraction of misclassified samples, while beads
                are trained on the cross-entropy; ``"squared error"``, ``"absolute error"``: means over all outputs.
            lowering: How beads are trained; without it the defaults.
            measured: Samples that the energy is counted on; without them ``samples``.
            statistics: ``"re-estimated"``: normalisation statistics are measured for each network whose energy is
                asked for; ``"interpolated"``: between beads they are mixed, and measured for each bead that was
                trained. No matter for networks without.
            calibration: Inputs that statistics are measured on; without it ``measured.calibration``, then
                ``samples.calibration``.
            evaluation: ``family.evaluation``, a faster way to the same bits.

        Raises:
            StringError: If the energy or ``statistics`` are unknown, targets do not fit the energy, or no parameter
                can be trained.
            StatisticsError: If statistics have to be measured and there is no calibration data.
        """
        self._model, self._recipe, self._samples = copy.deepcopy(model).eval(), recipe, samples
        self._energy, self._lowering = energy, lowering or Lowering()
        self._measured, self._evaluation = samples if measured is None else measured, evaluation
        self._reference = parameters(model)
        self._names = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        self._check(statistics)
        self._statistics: Statistics = statistics if has_statistics(model) else "interpolated"
        self._calibration = self._chosen(calibration) if has_statistics(model) else None

    @property
    def names(self) -> Sequence[str]:
        """Names of all parameters that require gradients, latent weights among them."""
        return self._names

    @property
    def coordinates(self) -> Mapping[str, Coordinate]:
        """All straight: the networks between two beads lie on the line between them."""
        return dict.fromkeys(self._reference, Coordinate("linear"))

    def check(self, params: Params, what: str = "params") -> None:
        """Raise ``ParameterError`` unless ``params`` fit the network."""
        check(params, self._reference, what=what)

    def energies(self, a: Params, b: Params, ts: Sequence[float]) -> tuple[float, ...]:
        """See ``Landscape``.

        Raises:
            ParameterError: If ``a`` or ``b`` does not fit the network.
            StringError: If targets have another shape than outputs.
        """
        if self._energy in _OF_CLASSES:
            curve = error_curve(
                self._model,
                linear_path(self, a, b),
                self._measured,
                ts,
                statistics=self._statistics,
                calibration=self._calibration,
                evaluation=self._evaluation,
            )
            return curve.losses if self._energy == "loss" else curve.errors
        self.check(a, "a")
        self.check(b, "b")
        networks = (a if t == 0 else b if t == 1 else lerp(a, b, t) for t in ts)
        return tuple(self._regressed(self._settled(each) if self._re_estimates else each) for each in networks)

    def lower(self, start: Params, target: float, *, seed: int) -> Lowered:
        """See ``Landscape``.

        Raises:
            ParameterError: If ``start`` does not fit the network.
            StringError: If targets have another shape than outputs.
            TrainingError: As soon as a loss is NaN or infinite.
        """
        (energy,) = self.energies(start, start, (0.0,))
        if energy <= target:
            return Lowered({name: tensor.clone() for name, tensor in start.items()}, energy, True, 0, 1)
        found = self._trainer.lower(start, target, seed, self._measure)
        return Lowered(found.params, found.energy, found.reached, found.steps, found.evaluations + 1)

    def gradient(self, params: Params, *, seed: int) -> Params:
        """See ``Slope``: of the loss on one batch, normalised by the batch's own statistics; 0 for what is not used."""
        working = {name: tensor.clone().requires_grad_(name in self._names) for name, tensor in params.items()}
        x, y = self._trainer.batch(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived(seed, "dropout"))
            loss = _loss(self._energy, call_in_place(self._training, working, x), y)
        found = torch.autograd.grad(loss, [working[name] for name in self._names], materialize_grads=True)
        return dict(zip(self._names, found, strict=True))

    def settled(self, params: Params) -> Params:
        """The network that has the energy of ``params`` when statistics are re-estimated.

        Args:
            params: Parameters and buffers by name; not changed.

        Returns:
            The same with statistics measured for this very network; ``params`` themselves where there are none.

        Raises:
            ParameterError: If ``params`` do not fit the network.
        """
        self.check(params)
        return self._settled(params)

    def described(self) -> Mapping[str, Any]:
        """See ``Landscape``: digests stand for network and data."""
        tensors = {"x": self._samples.x, "y": self._samples.y}
        measured = {"x": self._measured.x, "y": self._measured.y}
        return {
            "format": _FORMAT,
            "precision": self._recipe.name,
            "network": identity({"modules": repr(self._model), "shapes": _shapes(self._reference)}),
            "trained": list(self._names),
            "data": digest(tensors),
            "measured": digest(measured),
            "energy": self._energy,
            "lowering": {**asdict(self._lowering), "learning_rate": self._trainer.settings.learning_rate},
            "statistics": self._statistics,
            "calibration": None if self._calibration is None else digest({"x": self._calibration}),
        }

    @property
    def _re_estimates(self) -> bool:
        return self._statistics == "re-estimated"

    @cached_property
    def _trainer(self) -> Trainer:
        whole = self._lowering.batch is None or self._lowering.batch >= len(self._samples.y)
        random = any(isinstance(module, _DropoutNd) for module in self._model.modules())
        exact = whole and not random and self._calibration is None and self._measured is self._samples
        loss = partial(_loss, self._energy)
        return Trainer(
            self._model, self._recipe, self._samples, loss, self._lowering, exact and self._energy != "error"
        )

    @cached_property
    def _training(self) -> nn.Module:
        return copy.deepcopy(self._model).train()

    @cached_property
    def _calibrator(self) -> nn.Module:
        return calibrator(self._model)

    def _measure(self, params: Params) -> tuple[Params, float]:
        settled = self._settled(params)
        if self._energy not in _OF_CLASSES:
            return settled, self._regressed(settled)
        score = evaluate(self._model, settled, self._measured)
        return settled, score.loss if self._energy == "loss" else score.error

    def _settled(self, params: Params) -> Params:
        """With statistics measured for this very network, where it has any."""
        if self._calibration is None:
            return params
        return re_estimated(self._calibrator, params, self._calibration)

    @torch.no_grad()
    def _regressed(self, params: Params) -> float:
        """Mean squared or absolute error over all outputs of all samples."""
        own = {name: tensor.clone() for name, tensor in params.items()}  # some quantisers clamp latents in place
        total = 0.0
        for x, y in zip(torch.split(self._measured.x, BATCH), torch.split(self._measured.y, BATCH), strict=True):
            found = call_in_place(self._model, own, x)
            total += float(_loss(self._energy, found.double(), y.double())) * len(y)
        return total / len(self._measured.y)

    def _check(self, statistics: Statistics) -> None:
        if self._energy not in get_args(Energy):
            raise StringError(f"energy: expected one of {', '.join(get_args(Energy))}, got {self._energy!r}")
        if statistics not in get_args(Statistics):
            raise StringError(f"statistics: expected one of {', '.join(get_args(Statistics))}, got {statistics!r}")
        if not self._names:
            raise StringError(
                f"{type(self._model).__name__} has no parameter that can be trained: expected a model whose parameters "
                "require gradients; a module that only stands for another one for analysis has none, so pass that one"
            )
        for samples in (self._samples, self._measured):
            of_classes = self._energy in _OF_CLASSES
            if of_classes == samples.y.is_floating_point() or len(samples.y) < 2:
                expected = "class indices" if of_classes else "targets of real numbers"
                raise StringError(
                    f"energy {self._energy!r}: expected {expected} for at least 2 samples, got {samples.y.dtype} for "
                    f"{len(samples.y)}"
                )

    def _chosen(self, calibration: Tensor | None) -> Tensor:
        for split in (self._measured, self._samples):
            calibration = getattr(split, "calibration", None) if calibration is None else calibration
        if calibration is None:
            raise StatisticsError(
                "this network has batch normalisation: pass calibration=, training inputs to measure its statistics on"
            )
        return calibration


def _loss(energy: Energy, output: Tensor, y: Tensor) -> Tensor:
    """What beads are trained on; the energy itself but for ``"error"``."""
    if energy not in _OF_CLASSES and output.shape != y.shape:
        raise StringError(
            f"expected targets in the shape of the outputs, {list(output.shape)}, got {list(y.shape)}: reshape them"
        )
    return _LOSSES[energy](output, y)


def _shapes(params: Params) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in params.items()}
