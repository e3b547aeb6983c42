"""Optimisers of binary weights, and several optimisers side by side on one model."""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from compare.params import sign

Selector: TypeAlias = Collection[str] | Callable[[str], bool]
Factory: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]


class Bop(Optimizer):
    r"""Binary optimiser: flips a weight when the running mean of its gradient says so for long enough.

    With gradient :math:`g`, adaptivity :math:`\gamma`, threshold :math:`\tau`, for each weight:
    :math:`m \leftarrow (1 - \gamma) m + \gamma g`; then :math:`w \leftarrow -w` if :math:`|m| > \tau` and
    :math:`\mathrm{sign}(m) = \mathrm{sign}(w)`.

    Weights are +1 and -1 from the first step on: what they are before is replaced by its sign at that step, which
    changes nothing in a layer that uses the signs. A gradient that is NaN or infinite makes its weight NaN. The running
    mean is ``state[parameter]["average"]``, in the shape of the parameter.

    References:
        Helwegen et al., Latent Weights Do Not Exist, NeurIPS 2019, arXiv 1906.02107, algorithm 1.

    Example:
        >>> w = nn.Parameter(torch.tensor([0.3, -0.3]))
        >>> w.grad = torch.tensor([1.0, 1.0])
        >>> Bop([w]).step()
        >>> w.data
        tensor([-1., -1.])
    """

    def __init__(self, params: ParamsT, *, threshold: float = 1e-8, adaptivity: float = 1e-4) -> None:
        """Check the numbers and take the parameters.

        Args:
            params: Parameters, or groups of them, as for any ``torch.optim`` optimiser.
            threshold: tau, at least 0, in units of the gradient.
            adaptivity: gamma, above 0 and at most 1.

        Raises:
            ValueError: If a number is outside its range.
        """
        if not 0 <= threshold < math.inf:
            raise ValueError(f"threshold: expected a finite number of at least 0, got {threshold}")
        if not 0 < adaptivity <= 1:
            raise ValueError(f"adaptivity: expected a number above 0 and at most 1, got {adaptivity}")
        super().__init__(params, {"threshold": threshold, "adaptivity": adaptivity})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step with the gradients as they are.

        Args:
            closure: Computes loss and gradients anew and returns the loss; rarely needed.

        Returns:
            What ``closure`` returns, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._flip_(weight, weight.grad, group["threshold"], group["adaptivity"])
        return loss

    def _flip_(self, weight: Tensor, gradient: Tensor, threshold: float, adaptivity: float) -> None:
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        m = state["average"].lerp_(gradient, adaptivity)
        w = sign(weight)
        # With w = +-1 both conditions are one, m w > tau. The sign function hides NaN; m - m, else 0, brings it back.
        weight.copy_(w * sign(threshold - m * w) + (m - m))


class OptimiserGroup:
    """Several optimisers that together own all trainable parameters of one model; made by ``assign``.

    Attributes:
        optimisers: The optimisers, in the order of the rules they come from.
    """

    def __init__(self, optimisers: Iterable[Optimizer]) -> None:
        """Join optimisers as they are; ``assign`` also checks what they own.

        Args:
            optimisers: Over disjoint sets of parameters.
        """
        self.optimisers = tuple(optimisers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimisers, in order; changes to a group (a learning rate) take effect."""
        return [group for optimiser in self.optimisers for group in optimiser.param_groups]

    def step(self) -> None:
        """Let each optimiser make one step."""
        for optimiser in self.optimisers:
            optimiser.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters, as ``torch.optim.Optimizer.zero_grad``."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of all optimisers, for ``load_state_dict``."""
        return {"optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that ``state_dict`` gave for the same model and rules.

        Args:
            state_dict: It is not changed.

        Raises:
            ValueError: If it is not a state of this many optimisers, or one of them does not fit.
        """
        states = state_dict.get("optimisers")
        if not isinstance(states, list) or len(states) != len(self.optimisers):
            found = len(states) if isinstance(states, list) else "none"
            raise ValueError(
                f"state_dict: expected a list of {len(self.optimisers)} states under 'optimisers', got {found}; "
                "it must come from an OptimiserGroup with the same rules"
            )
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(state)


def assign(model: nn.Module, *rules: tuple[Selector, Factory]) -> OptimiserGroup:
    """Give each trainable parameter of ``model`` to exactly one optimiser.

    Args:
        model: Any module; parameters with ``requires_grad=False`` need no optimiser.
        rules: Pairs of a selector (a collection of parameter names, or a function that tells of a name whether it is
            meant) and a function that makes the optimiser from a list of parameters.

    Returns:
        The optimisers, used as one.

    Raises:
        ValueError: Naming a parameter with no optimiser or with two, an optimiser that would own nothing, or a selected
            name that is no trainable parameter.

    Example:
        >>> from functools import partial
        >>> from binarynets.layers import BinaryLinear, latent_weights
        >>> model = nn.Sequential(BinaryLinear(4, 2), nn.BatchNorm1d(2))
        >>> latents = latent_weights(model)
        >>> adam = partial(torch.optim.Adam, lr=1e-2)
        >>> group = assign(model, (latents, Bop), (lambda name: name not in latents, adam))
        >>> [type(optimiser).__name__ for optimiser in group.optimisers]
        ['Bop', 'Adam']
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    owned = [_selected(selector, trainable, rule) for rule, (selector, _) in enumerate(rules)]
    for name in trainable:
        owners = [rule for rule, names in enumerate(owned) if name in names]
        if len(owners) != 1:
            claim = f"is claimed by the rules {owners}" if owners else "has no optimiser"
            raise ValueError(
                f"parameter '{name}' {claim}: expected exactly one. Change the selectors of the {len(rules)} rules, "
                "or set requires_grad=False if it is not to be trained"
            )
    return OptimiserGroup(
        factory([trainable[name] for name in names]) for names, (_, factory) in zip(owned, rules, strict=True)
    )


def _selected(selector: Selector, trainable: Collection[str], rule: int) -> list[str]:
    if isinstance(selector, str):
        raise ValueError(f"rule {rule}: expected a collection of names or a function, got the string '{selector}'")
    if callable(selector):
        names = [name for name in trainable if selector(name)]
    else:
        unknown = sorted(set(selector) - set(trainable))
        if unknown:
            raise ValueError(f"rule {rule} selects {unknown}: expected names out of {list(trainable)} (all trainable)")
        names = [name for name in trainable if name in selector]
    if not names:
        raise ValueError(f"rule {rule} selects no parameter, so its optimiser would own nothing: remove or change it")
    return names
