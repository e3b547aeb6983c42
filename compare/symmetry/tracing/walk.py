"""Following values through a network: one pass after the other, until nothing new is found of its spaces."""

import copy
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compare.params import Params, parameters
from compare.symmetry.certificate import drawn_like, randomised
from compare.symmetry.graph import SymmetryError
from compare.symmetry.rules import Rule
from compare.symmetry.tracing.site import Site, Tracing
from compare.symmetry.tracing.values import Value, still, still_value, values_in

_MOST_PASSES = 100


class _Recorder(fx.Interpreter):
    """Runs a network once and keeps every node's result."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.results: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        # Operations in place would change what is kept.
        self.results[n] = result.clone() if isinstance(result, Tensor) else result
        return self.results[n]


def _recorded(traced: fx.GraphModule, x: Tensor) -> dict[fx.Node, Any]:
    recorder = _Recorder(traced)
    with torch.no_grad():
        recorder.run(x)
    return recorder.results


def tie_rates(traced: fx.GraphModule, x: Tensor, networks: Sequence[Params]) -> dict[str, float]:
    """For each operation with one input, the fraction of entries of that input that were exactly 0.

    Args:
        traced: The network.
        x: Example inputs; as many drawn like them are added.
        networks: Parameters and buffers to count at, random ones beside them.

    Returns:
        The largest rate over networks, by the operation's place.
    """
    rates: dict[str, float] = {}
    working, generator = copy.deepcopy(traced), torch.Generator().manual_seed(0)
    inputs = torch.cat([x, drawn_like(x, generator).to(x.dtype)])
    own = parameters(working)
    for params in (*networks, randomised(own, generator)):
        _take(working, params)
        results = _recorded(working, inputs)
        for node in working.graph.nodes:
            before = [results[a] for a in node.all_input_nodes[:1] if isinstance(results[a], Tensor)]
            if before and before[0].numel():
                rate = float((before[0] == 0).double().mean())
                rates[_name(node)] = max(rates.get(_name(node), 0.0), rate)
    return rates


@torch.no_grad()
def _take(model: nn.Module, params: Params) -> None:
    """Write parameters and buffers into ``model``; constant tensors of forward are buffers of it, too, and stay."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in params:
            tensor.copy_(params[name])


def _name(node: fx.Node) -> str:
    return str(node.target if node.op == "call_module" else node.name)


class Walk:
    """Follows values through the network, pass after pass, until nothing new is found."""

    def __init__(
        self,
        traced: fx.GraphModule,
        known: Mapping[Any, Rule],
        opaque: frozenset[str],
        frozen: frozenset[str],
        x: Tensor,
    ) -> None:
        """Run the network on ``x`` once, to know every value's shape."""
        self._traced, self._known, self._opaque, self._frozen = traced, known, opaque, frozen
        self._results = _recorded(traced, x)
        self._integer = bool((x == x.round()).all())
        self.covered: set[str] = set()

    def settle(self, tracing: Tracing) -> Any:
        """Walk until no space changes any more; gives the network's output."""
        for _ in range(_MOST_PASSES):
            before = tracing.spaces.changes
            tracing.restart()
            output = self._pass(tracing)
            if tracing.spaces.changes == before:
                return output
        raise SymmetryError(
            "the network's units could not be told apart: tracing did not settle. This is a defect of compare.trace; "
            "frozen=['module'] on the modules around the latest change is a way on"
        )

    def _pass(self, tracing: Tracing) -> Any:
        values: dict[fx.Node, Any] = {}
        site = Site("output", "output", "output", None, tracing)
        for node in self._traced.graph.nodes:
            if node.op == "output":
                return fx.node.map_arg(node.args[0], lambda n: _ended(site, values[n]))
            values[node] = self._value(node, values, tracing)
        raise AssertionError("a traced graph ends in an output")

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any], tracing: Tracing) -> Any:
        result = self._results[node]
        if node.op == "placeholder":
            if not isinstance(result, Tensor):
                return result
            return still_value(result.shape, integer=self._integer)
        if node.op == "get_attr":
            if not isinstance(result, Tensor):
                return result
            if node.target not in tracing.aliases:
                return still_value(result.shape)
            return tracing.parameter(str(node.target), *(f"{user.name} of {node.name}" for user in node.users))
        args, kwargs = (fx.node.map_arg(a, values.__getitem__) for a in (node.args, node.kwargs))
        operands = list(values_in((args, kwargs)))
        if not _has_tensor(result):
            return result
        if not operands and node.op != "call_module":
            return _stills(result)
        return self._ruled(node, result, args, kwargs, operands, tracing)

    def _ruled(
        self, node: fx.Node, result: Any, args: Any, kwargs: Any, operands: list[Value], tracing: Tracing
    ) -> Any:
        module = self._traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = _name(node)
        site = Site(name, node.name, node.target if module is None else module, result, tracing)
        rule = self._known.get(type(module) if module is not None else node.target)
        if module is not None and name in self._opaque:
            self.covered |= {tracing.aliases[f"{name}.{own}"] for own in parameters(module)}
        if name in self._opaque or (rule is None and _nothing_moves(operands, module)):
            for axis in (axis for value in operands for axis in value.axes):
                site.still(axis, f"they meet the opaque operation '{name}'")
            return _stills(result)
        if rule is None:
            site.refuse("no rule is known for this operation")
        args, kwargs = _in_order(module, args, kwargs)
        try:
            found = rule(site, *args, **kwargs)
        except TypeError as error:
            site.refuse(f"its rule does not understand these arguments ({error})")
        if found is None and node.target is not operator.getitem:
            site.refuse("its rule gave nothing: expected a value")
        _check_shapes(site, found, result)
        found = fx.node.map_aggregate(found, lambda value: _anchored(site, value))
        if name in self._frozen:
            found = fx.node.map_aggregate(found, lambda v: _held(site, v))
        return _shared(found) if len(_users(node, self._results)) > 1 else found


_FIRST, _SECOND = ("input", "self", "tensors", "tensor"), ("other", "mat2")
"""Names by which torch's functions call their first and second operands."""


def _in_order(module: nn.Module | None, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Operands in their places, also where the call names them."""
    if module is not None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        return bound.args, dict(bound.kwargs)
    args, kwargs = tuple(args), dict(kwargs)
    for place, names in enumerate((_FIRST, _SECOND)):
        named = [name for name in names if name in kwargs]
        if named and len(args) == place:
            args = (*args, kwargs.pop(named[0]))
    return args, kwargs


def _users(node: fx.Node, results: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """Operations that read the value; questions for its shape do not count."""
    return [user for user in node.users if user.op == "output" or _has_tensor(results[user])]


def _shared(found: Any) -> Any:
    """A value that several operations read: no normalisation or threshold may take liberties with it."""
    if not isinstance(found, Value):
        return found
    return Value(found.axes, found.integer, None, found.tail, found.parameter)


def _has_tensor(result: Any) -> bool:
    return isinstance(result, Tensor) or (
        isinstance(result, tuple | list) and any(isinstance(item, Tensor) for item in result)
    )


def _nothing_moves(operands: Sequence[Value], module: nn.Module | None) -> bool:
    """An unknown operation on values that do not move gives one that does not."""
    if module is not None and list(module.parameters()):
        return False
    still_now = (axis.still and not any(p.sign or p.scale for p in axis.pieces) for v in operands for axis in v.axes)
    return all(still_now)


def _stills(result: Any) -> Any:
    if isinstance(result, Tensor):
        return still_value(result.shape)
    return tuple(map(_stills, result)) if isinstance(result, tuple | list) else result


def _anchored(site: Site, value: Any) -> Any:
    """Units inside wholes that stand on no axis any more keep their order: nothing says which wholes they are in."""
    if not isinstance(value, Value):
        return value
    for i, axis in enumerate(value.axes):
        if axis.within and all(list(axis.now().within) != other.label for other in value.axes):
            return _anchored(site, value.with_axis(i, site.still(axis, "their wholes are gone")))
    return value


def _held(site: Site, value: Any) -> Any:
    if not isinstance(value, Value):
        return value
    for axis in value.axes:
        site.still(axis, f"'{site.name}' is frozen")
    return Value(tuple(still(len(axis)) for axis in value.axes), value.integer)


def _check_shapes(site: Site, found: Any, result: Any) -> None:
    if isinstance(found, Value) and isinstance(result, Tensor) and found.shape != tuple(result.shape):
        site.refuse(f"its rule gives a value of shape {list(found.shape)}, the operation {list(result.shape)}")


def _ended(site: Site, value: Any) -> Any:
    """The network's output: nothing acts on it, and its units stay where they are."""
    for found in values_in(value):
        for axis in found.axes:
            site.still(axis)
    return value
