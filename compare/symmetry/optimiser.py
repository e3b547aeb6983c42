"""What an optimiser remembers, moved together with the parameters, so that training can go on after an element."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from compare.symmetry.element import Element
from compare.symmetry.graph import SymmetryError

Names: TypeAlias = Sequence[str] | Sequence[Sequence[str]]

_GRADIENTS = frozenset({"exp_avg", "momentum_buffer", "grad_avg", "average"})
"""Averages of gradients: Adam and its kin, SGD, RMSprop, Bop."""

_SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"})
"""Averages of squared gradients: Adam and its kin, RMSprop, Adagrad."""

_SIZES = frozenset({"exp_inf"})
"""Sizes of gradients: Adamax."""


def apply_to_optimiser(
    element: Element, model: nn.Module, state_dict: Mapping[str, Any], *, names: Names | None = None
) -> dict[str, Any]:
    """The state of an optimiser after the parameters were moved by an element.

    Where the parameters move by g, gradients move by g^-T: a permutation and signs act on them as on the parameters, a
    factor d of a weight divides its gradient by d. Averages of gradients move as gradients do; those of squared
    gradients are divided by d^2 and never negated; counters of steps stay.

    For permutations and signs a step of the optimiser commutes with the element: training goes on as it would have. For
    scales it does not: SGD moves a weight by the gradient, which is divided where the weight is multiplied, and Adam by
    lengths that do not depend on the gradient's size. Weight decay is not invariant to scales either. Where a sign
    function follows, signs are exact up to the next float of a threshold.

    Args:
        element: The element that is applied to the parameters as well.
        model: The network, for the order of its parameters; it is not changed.
        state_dict: ``optimiser.state_dict()`` of SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad, of
            ``binarynets.Bop``, or of several in one (``{"optimisers": [...]}``). It is not changed.
        names: Names of the parameters in the optimiser's order, ``owned_names(model, optimiser)``; for several
            optimisers a list for each. Not needed if the optimiser was made from ``model.parameters()``, all of them or
            those that are trained.

    Returns:
        A new state, for ``load_state_dict``.

    Raises:
        SymmetryError: For a state that is not of these parameters, or for a tensor in it that is not known.

    Example:
        >>> import compare, fullprecision
        >>> model = fullprecision.mlp(4, [6], 2)
        >>> graph = compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY)
        >>> adam = torch.optim.Adam(model.parameters())
        >>> model(torch.randn(8, 4)).sum().backward()
        >>> adam.step()
        >>> g = compare.random_element(graph, torch.Generator().manual_seed(0))
        >>> _ = model.load_state_dict(g.apply(compare.parameters(model)))
        >>> adam.load_state_dict(apply_to_optimiser(g, model, adam.state_dict()))
    """
    if "optimisers" in state_dict:
        parts = state_dict["optimisers"]
        if names is None or len(names) != len(parts) or any(isinstance(part, str) for part in names):
            raise SymmetryError(
                f"names: expected a list of names for each of {len(parts)} optimisers: pass "
                "names=owned_names(model, optimiser)"
            )
        moved = [apply_to_optimiser(element, model, s, names=list(n)) for s, n in zip(parts, names, strict=True)]
        return {**copy.deepcopy({key: v for key, v in state_dict.items() if key != "optimisers"}), "optimisers": moved}
    owners = _owners(model, state_dict, names)
    moved_state = copy.deepcopy(dict(state_dict))
    acting = _actions(element)
    for index, entries in moved_state["state"].items():
        name = owners[index]
        for key, value in entries.items():
            if not isinstance(value, Tensor) or value.ndim == 0 or key == "step":
                continue
            action = acting.get(key)
            if action is None or value.shape != element.graph.reference[name].shape:
                raise SymmetryError(_unknown(name, key, value, element.graph.reference[name]))
            entries[key] = action.apply_linear({name: value})[name]
    return moved_state


def owned_names(model: nn.Module, optimiser: Any) -> list[str] | list[list[str]]:
    """Names of the parameters that an optimiser owns, in the order that its state counts them.

    Args:
        model: The network.
        optimiser: Any ``torch.optim`` optimiser, or several in one with ``.optimisers``.

    Returns:
        Names; for several optimisers a list for each.

    Raises:
        SymmetryError: If it owns a parameter that is not the network's.
    """
    if hasattr(optimiser, "optimisers"):
        return [_own(model, part) for part in optimiser.optimisers]
    return _own(model, optimiser)


def _own(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    foreign = [list(parameter.shape) for parameter in owned if id(parameter) not in known]
    if foreign:
        raise SymmetryError(
            f"optimiser: expected parameters of this model, got {len(foreign)} others (the first of shape {foreign[0]})"
            ": pass the very model that it trains, not a copy"
        )
    return [known[id(parameter)] for parameter in owned]


def _owners(model: nn.Module, state_dict: Mapping[str, Any], names: Names | None) -> dict[int, str]:
    """For each number in the state the parameter's name."""
    if "state" not in state_dict or "param_groups" not in state_dict:
        raise SymmetryError(
            f"state_dict: expected what optimiser.state_dict() gives, with 'state' and 'param_groups', got "
            f"{', '.join(map(repr, state_dict)) or 'nothing'}"
        )
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    parameters = dict(model.named_parameters())
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    candidates = [list(names)] if names is not None else [list(parameters), trained]
    fitting = [found for found in candidates if len(found) == len(numbers)]
    if not fitting:
        raise SymmetryError(
            f"state_dict: expected a state of {len(candidates[0])} parameters, got one of {len(numbers)}: pass "
            "names=owned_names(model, optimiser)"
        )
    unknown = [name for name in fitting[0] if not isinstance(name, str) or name not in parameters]
    if unknown:
        raise SymmetryError(f"names: expected parameters of the model, got {unknown[0]!r}")
    return dict(zip(numbers, map(str, fitting[0]), strict=True))


def _actions(element: Element) -> dict[str, Element]:
    """For each kind of average the element that moves it as ``apply_linear`` moves parameters."""
    found: dict[str, Element] = {}
    for kinds, power, signed in ((_GRADIENTS, -1, True), (_SQUARES, -2, False), (_SIZES, -1, False)):
        diagonals = tuple(
            torch.stack(
                [
                    row**power if generator.kind == "scale" else row if signed else row.abs()
                    for row, generator in zip(d, block.generators, strict=True)
                ]
            )
            if len(d)
            else d
            for d, block in zip(element.diagonals, element.graph.blocks, strict=True)
        )
        found |= dict.fromkeys(kinds, Element(element.graph, element.permutations, diagonals))
    return found


def _unknown(name: str, key: str, value: Tensor, parameter: Tensor) -> str:
    known = ", ".join(sorted(_GRADIENTS | _SQUARES | _SIZES))
    return (
        f"state_dict: expected averages known to move with parameters ({known}), of the parameter's shape "
        f"{list(parameter.shape)}; got '{key}' {list(value.shape)} of '{name}'. If the shape is another parameter's, "
        "pass names=owned_names(model, optimiser); otherwise start the optimiser anew, or use SGD, Adam, AdamW or Bop"
    )
