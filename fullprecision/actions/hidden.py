"""Hidden units between two linear maps with nothing but an elementwise activation between them."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from compare.errors import CompareError
from compare.params import Params

_MODULES = (
    *(nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.Softplus),
    *(nn.Softsign, nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.LogSigmoid),
)
_FUNCTIONS: tuple[Any, ...] = (
    *(torch.relu, F.relu, F.leaky_relu, torch.tanh, F.tanh, torch.sigmoid, F.sigmoid, F.gelu, F.silu, F.elu),
    *(F.selu, F.softplus, F.softsign, F.hardtanh, F.relu6, F.hardswish, F.mish, torch.square, torch.sin, torch.cos),
)
_METHODS = ("relu", "tanh", "sigmoid", "square")
_NOTHING = (nn.Identity, nn.Dropout)


class ActionError(CompareError, ValueError):
    """A group that does not act on these units, or an element that is none of it."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """A block of hidden units: ``U sigma(V z + b) + c``, with V ``[units, inputs]`` and U ``[outputs, units]``.

    Attributes:
        inner: Module path of V, b.
        outer: Module path of U, c.
        units: Number of hidden units.
        linear: Nothing lies between the two: sigma is the identity.
        activation: sigma, elementwise; its input is not changed, also where the network's own works in place.
        before: The part of the network from its input to z.
    """

    inner: str
    outer: str
    units: int
    linear: bool
    activation: Callable[[Tensor], Tensor]
    before: nn.Module

    def inputs(self, params: Params, x: Tensor) -> Tensor:
        """The z for the network's inputs ``x``: ``[batch, inputs of V]``."""
        own = {*dict(self.before.named_parameters()), *dict(self.before.named_buffers())}
        # A clone, since the first of its modules may work in place.
        z: Tensor = functional_call(self.before, {name: params[name] for name in own}, (x.clone(),))
        return z

    def inner_of(self, params: Params) -> tuple[Tensor, Tensor | None]:
        """V and b."""
        return params[f"{self.inner}.weight"], params.get(f"{self.inner}.bias")

    def outer_of(self, params: Params) -> Tensor:
        """U."""
        return params[f"{self.outer}.weight"]

    def replaced(self, params: Params, v: Tensor, b: Tensor | None, u: Tensor) -> Params:
        """Copies of all parameters with others for V, b and U, in the types of the old ones."""
        new = {f"{self.inner}.weight": v, f"{self.outer}.weight": u}
        if b is not None:
            new[f"{self.inner}.bias"] = b
        return {name: (new[name].to(old) if name in new else old.clone()) for name, old in params.items()}


def hidden_units(model: nn.Module, name: str | None = None) -> tuple[Hidden, ...]:
    """Find all blocks of hidden units that these actions know.

    The two maps are ``nn.Linear``, used once each, their weights under one name and read nowhere else; only elementwise
    activations lie between them (and dropout, which evaluation leaves out). Batch normalisation is none.

    Args:
        model: A network that torch.fx can trace; not changed.
        name: Only the block whose first map has this module path.

    Returns:
        The blocks in the order of evaluation.

    Raises:
        ActionError: If the network cannot be traced, or has no such block.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 2))
        >>> [(block.inner, block.outer, block.units, block.linear) for block in hidden_units(model)]
        [('0', '2', 6, False), ('2', '3', 5, True)]
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model).eval())
    except Exception as error:  # fx raises whatever the user's forward raises on proxies
        raise ActionError(f"model: expected a network that torch.fx can trace: {error}") from error
    found = [block for node in traced.graph.nodes if (block := _block(traced, node)) is not None]
    names = [block.inner for block in found]
    if name is not None:
        found = [block for block in found if block.inner == name]
    if not found:
        raise ActionError(
            f"expected {'two linear maps' if name is None else repr(name) + ', a linear map,'} with an elementwise "
            f"activation alone before the next one; such are: {', '.join(names) or 'none'}"
        )
    return tuple(found)


def _block(traced: fx.GraphModule, node: fx.Node) -> Hidden | None:
    if not _is_own_linear(traced, node):
        return None
    between: list[fx.Node] = []
    end = node
    while len(end.users) == 1:
        (end,) = end.users
        if _is_own_linear(traced, end):
            return Hidden(
                inner=str(node.target),
                outer=str(end.target),
                units=traced.get_submodule(str(node.target)).out_features,  # type: ignore[arg-type]
                linear=not between,
                activation=_part(traced, between),
                before=_until(traced, node),
            )
        if not _is_elementwise(traced, end):
            return None
        if not _is_nothing(traced, end):
            between.append(end)
    return None


def _is_own_linear(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a linear map whose weight is used nowhere else."""
    if node.op != "call_module" or type(traced.get_submodule(str(node.target))) is not nn.Linear:
        return False
    name = str(node.target)
    calls = [other for other in traced.graph.nodes if other.op == "call_module" and str(other.target) == name]
    # A decoder tied as F.linear(h, self.inner.weight.t()) reads the weight without calling the module.
    names = (f"{other.target}." for other in traced.graph.nodes if other.op == "get_attr")
    is_read = any(each.startswith(f"{name}.") for each in names)
    holders = Counter(id(parameter) for _, parameter in traced.named_parameters(remove_duplicate=False))
    own = traced.get_submodule(name).parameters()
    return len(calls) == 1 and not is_read and all(holders[id(parameter)] == 1 for parameter in own)


def _is_elementwise(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))) in (*_MODULES, *_NOTHING)
    return node.target in (_FUNCTIONS if node.op == "call_function" else _METHODS)


def _is_nothing(traced: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), _NOTHING)


def _part(traced: fx.GraphModule, nodes: list[fx.Node]) -> fx.GraphModule:
    """Nodes one after the other, as a function of the first one's input."""
    graph = fx.Graph()
    # Activations in place would overwrite what they are given.
    value = graph.call_method("clone", (graph.placeholder("input"),))
    for node in nodes:
        value = graph.node_copy(node, lambda _, before=value: before)  # type: ignore[misc]
    graph.output(value)
    return fx.GraphModule(traced, graph)


def _until(traced: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    """The network up to a node's input."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for before in traced.graph.nodes:
        if before is node:
            break
        copied[before] = graph.node_copy(before, lambda old: copied[old])
    graph.output(copied[node.all_input_nodes[0]])
    return fx.GraphModule(traced, graph)
