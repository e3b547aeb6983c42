"""From a network to its steps on integers: torch.fx, one rule for each operation, and a refusal for everything else."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import fx, nn

from binarynets.integer.affine import IntegerError
from binarynets.integer.operations import FUNCTIONS, MODULES, REASONS, SAME_MEMORY
from binarynets.integer.plan import Output, Plan
from binarynets.integer.streams import Site, Steps, Stream


def plan(model: nn.Module) -> Plan:
    """The steps of a binary network whose every decision rests on integers.

    What stands between two binarised maps must come down to comparing integers with thresholds: bias, batch
    normalisation (as in evaluation mode), max pooling before or after it, average pooling over a power of two of
    numbers, ``Flatten``, sums of streams that no normalisation or bias has made real, then ``Sign``.

    ``x += y`` is taken as ``x = x + y``: other names of what it overwrites must not be read behind it.

    Args:
        model: Any module with one input and one output, the logits; its mode does not count. It is not changed.

    Returns:
        The steps, which name the model's parameters and hold none.

    Raises:
        IntegerError: Naming the first operation that has no integer form, the reason, and a way on.

    Example:
        >>> from binarynets.networks import mlp
        >>> [step.name for step in plan(mlp(4, [3], 2)).steps]
        ['flatten', 'linear1', 'activation1', 'linear2', 'output']
    """
    if not isinstance(model, nn.Module):
        raise IntegerError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    working = copy.deepcopy(model).eval()
    # First names, as compare.parameters has them.
    tensors = [*working.named_parameters(), *working.named_buffers()]
    steps = Steps({id(tensor): name for name, tensor in tensors})
    alone = _is_leaf(working)
    traced = _symbolic(nn.Sequential(working) if alone else working)
    values: dict[fx.Node, Any] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            _finish(steps, fx.node.map_arg(node.args[0], values.__getitem__))
        else:
            values[node] = _value(node, values, traced, steps)
    return Plan(tuple(steps.found))


def _is_leaf(module: nn.Module) -> bool:
    return type(module) in MODULES or type(module) in REASONS


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.failed = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, *arguments: Any) -> Any:
        """Keep the path of the innermost module whose forward raised."""
        try:
            return super().call_module(m, *arguments)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def _symbolic(model: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        traced = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # fx raises whatever the user's forward raises on proxies
        where = f"module '{tracer.failed}'" if tracer.failed else "its own forward"
        raise IntegerError(
            f"{type(model).__name__} has no integer form: torch.fx cannot trace {where}: {error}. "
            "Expected layers of binarynets and no control flow that depends on data"
        ) from error
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder" and not node.args]
    if len(inputs) != 1:
        raise IntegerError(f"{type(model).__name__}: expected a forward with one input, got {len(inputs)}")
    return traced


def _value(node: fx.Node, values: Mapping[fx.Node, Any], traced: fx.GraphModule, steps: Steps) -> Any:
    if node.op == "placeholder":
        return node.args[0] if node.args else Stream(0, None)
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    site, rule = _site(node, traced, steps), _rule(node, traced)
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    if node.op == "get_attr":
        site.refuse("it is used by itself", "Only layers of binarynets, and normalisation, may use parameters")
    if rule is None:
        _refuse(site, node.target if module is None else type(module))
    if (kwargs.get("inplace") or getattr(module, "inplace", False)) and _is_read_elsewhere(node, traced):
        site.refuse("it overwrites a value that is read elsewhere too", "Use inplace=False")
    if module is not None:
        return rule(site, module, site.stream(next(iter([*args, *kwargs.values()]))))
    try:
        return rule(site, *args, **kwargs)
    except TypeError as error:
        site.refuse(f"its arguments are not understood ({error})", "Use the module of torch.nn in its place")


def _site(node: fx.Node, traced: fx.GraphModule, steps: Steps) -> Site:
    if node.op == "call_module":
        return Site(str(node.target), type(traced.get_submodule(str(node.target))).__name__, steps)
    # Operations are named behind the path of the module whose forward they stand in.
    path = [path for path, _ in node.meta.get("nn_module_stack", {}).values()][-1:]
    if node.op == "get_attr":
        return Site(str(node.target), "a tensor", steps)
    kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return Site(".".join([*path, node.name]), kind, steps)


def _refuse(site: Site, operation: Any) -> NoReturn:
    reason, remedy = REASONS.get(
        operation, ("it is not among the supported operations", "binarynets.integer.trace.plan tells which are")
    )
    site.refuse(reason, remedy)


def _is_read_elsewhere(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether the memory of the operation's input is that of a value with other readers."""
    before = node.all_input_nodes[0]
    if len(before.users) > 1:
        return True
    rule = _rule(before, traced)
    return rule in SAME_MEMORY and _is_read_elsewhere(before, traced)


def _rule(node: fx.Node, traced: fx.GraphModule) -> Callable[..., Any] | None:
    if node.op == "call_module":
        return MODULES.get(type(traced.get_submodule(str(node.target))))
    return FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None


def _finish(steps: Steps, value: Any) -> None:
    site = Site("output", "the network's output", steps)
    if not isinstance(value, Stream):
        site.refuse(f"expected one tensor, the logits, got {type(value).__name__}", "Return the logits alone")
    if value.decided:
        site.refuse(value.obstacle, "Logits must be affine in integers: end in a map, with normalisation or without")
    steps.append(Output(steps.unique(site.name), site.ranked(value, 2).step, value.scaling))
