"""What lies between two linear maps of a network, where there is but one way from one to the other."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from compare.symmetry.graph import Graph, Layer
from fullprecision.conserved.activations import Activation, Linear


@dataclass(frozen=True)
class Way:
    """From one linear map to the next.

    Attributes:
        first: The map whose outputs are the hidden units.
        functions: What acts on them, in order.
        second: The one map that takes them.
        from_inputs: The first map takes the network's inputs as they are.
    """

    first: Layer
    functions: tuple[Activation, ...]
    second: Layer
    from_inputs: bool


class _Tracer(fx.Tracer):
    """Does not look into modules that are known, that are linear maps, or that cannot be looked into."""

    def __init__(self, known: Mapping[Any, Activation], layers: Collection[str]) -> None:
        super().__init__()
        self._known, self._layers = known, layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in self._known or super().is_leaf_module(m, module_qualified_name):
            return True
        holds = any(name.startswith(f"{module_qualified_name}.") for name in self._layers)
        return not (isinstance(m, nn.Sequential) or holds or self._opens(m, module_qualified_name))

    def _opens(self, m: nn.Module, name: str) -> bool:
        """Whether a module that holds no linear map can be traced; tracing the network took it whole where not."""
        if name in self._layers:
            return False
        try:
            _Tracer(self._known, ()).trace(m)
        except Exception:  # whatever the module's own code raises
            return False
        return True


def ways(model: nn.Module, graph: Graph, known: Mapping[Any, Activation]) -> tuple[Way, ...]:
    """All ways on which nothing but known functions lie, one after the other.

    Args:
        model: The network; not changed.
        graph: Its symmetries, which name the linear maps.
        known: Functions by exact module type, function or method's name.

    Returns:
        In the order of their first maps.
    """
    traced = _Tracer(known, [layer.name for layer in graph.layers]).trace(model)
    modules = dict(model.named_modules())
    layers = {layer.name: layer for layer in graph.layers if _mixes(modules.get(layer.name))}
    nodes = [node for node in traced.nodes if node.op == "call_module" and node.target in layers]
    calls = [str(node.target) for node in nodes]
    # A map that is called twice has two ways from it.
    once = [node for node in nodes if calls.count(str(node.target)) == 1]
    return tuple(found for node in once for found in _from(node, layers, modules, known))


def _mixes(module: nn.Module | None) -> bool:
    """Whether the map's weight takes any mixture of units: a block-diagonal one does not, nor need one's own module."""
    return type(module).__module__.startswith("torch.nn") and getattr(module, "groups", 1) == 1


def _from(
    node: fx.Node, layers: Mapping[str, Layer], modules: Mapping[str, nn.Module], known: Mapping[Any, Activation]
) -> Iterator[Way]:
    functions: list[Activation] = []
    current = node
    while len(current.users) == 1:
        current = next(iter(current.users))
        if len(current.all_input_nodes) != 1:
            return
        if current.op == "call_module" and current.target in layers:
            first, second = layers[str(node.target)], layers[str(current.target)]
            yield Way(first, tuple(functions), second, _at_inputs(node, modules, known))
            return
        function = known.get(_operation(current, modules))
        if function is None:
            return
        functions.append(function)


def _at_inputs(node: fx.Node, modules: Mapping[str, nn.Module], known: Mapping[Any, Activation]) -> bool:
    current = node.all_input_nodes[0]
    # Only reshapings: pooled inputs are other samples.
    while current.op != "placeholder":
        operation = _operation(current, modules)
        if operation not in (nn.Flatten, nn.Identity, "flatten") and getattr(operation, "__name__", "") != "flatten":
            return False
        if not isinstance(known.get(operation), Linear) or len(current.all_input_nodes) != 1:
            return False
        current = current.all_input_nodes[0]
    return True


def _operation(node: fx.Node, modules: Mapping[str, nn.Module]) -> Any:
    return type(modules[str(node.target)]) if node.op == "call_module" else node.target
