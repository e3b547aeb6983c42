"""A network cut behind its first linear map, where what comes before that map holds no parameters."""

import copy
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compare.params import Params

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Before the first map only what certainly depends on the input alone; anything else is left uncut.
_FREE_MODULES = (
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.ZeroPad1d, nn.ZeroPad2d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
_FREE_FUNCTIONS = (
    *(torch.flatten, torch.reshape, getattr, operator.getitem),
    *(operator.add, operator.sub, operator.mul, operator.truediv),
)
_FREE_METHODS = ("flatten", "view", "reshape", "size", "contiguous")
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Cut:
    """The parts of a network: ``rest(layer(before(x)))``.

    Attributes:
        before: From the network's input to that of the layer; it has no parameters.
        layer: The first linear map, exactly of a type in ``LINEAR``.
        name: Its path in the network.
        rest: From the layer's output, which it may overwrite, to the network's; its parameters have the same names.
        quick: As ``rest``, with other rounding in less time; called with ``scaled`` parameters.
        scalings: Normalisation that ``quick`` does with scaled parameters, by name, and its eps.
    """

    before: nn.Module
    layer: nn.Module
    name: str
    rest: nn.Module
    quick: nn.Module
    scalings: Mapping[str, float]

    def scaled(self, params: Params) -> Params:
        """Parameters of ``rest`` as ``quick`` takes them: the gain divided by the deviation, the mean in the offset."""
        new = dict(params)
        for name, eps in self.scalings.items():
            gain = params[f"{name}.weight"] * torch.rsqrt(params[f"{name}.running_var"] + eps)
            new[f"{name}.weight"] = gain
            new[f"{name}.bias"] = params[f"{name}.bias"] - params[f"{name}.running_mean"] * gain
        return new


def cut(model: nn.Module) -> Cut | None:
    """Cut a network behind its first linear map.

    Args:
        model: The network; it is not changed and shares its modules with the parts.

    Returns:
        The parts, or None where the network cannot be traced, does not begin with a linear map alone, or holds one
        tensor under several names.
    """
    if not any(type(module) in LINEAR for module in model.modules()) or _is_peculiar(model):
        return None
    try:
        traced = fx.symbolic_trace(model)
    except Exception:  # fx raises whatever the user's forward raises on proxies
        return None
    node = _first(traced)
    if node is None:
        return None
    layer = traced.get_submodule(str(node.target))
    if layer._forward_hooks or layer._forward_pre_hooks:
        return None
    inside = _ancestors(node)
    alone = all(user is node or user in inside for before in inside for user in before.users)
    if not alone or not all(_is_free(before, traced) for before in inside):
        return None
    return Cut(_before(traced, node, inside), layer, str(node.target), *_rest(traced, node, inside))


def _is_peculiar(model: nn.Module) -> bool:
    """Whether tracing would miss something: hooks of the whole, or tensors with several names."""
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    shared = len({id(tensor) for _, tensor in every}) < len(every)
    return shared or bool(model._forward_hooks or model._forward_pre_hooks)


def _first(traced: fx.GraphModule) -> fx.Node | None:
    """The only call of the first linear map, if it is one that takes a single input."""
    for node in traced.graph.nodes:
        if node.op == "call_module" and type(traced.get_submodule(str(node.target))) in LINEAR:
            calls = [other for other in traced.graph.nodes if _uses(other, str(node.target))]
            single = len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
            return node if single and calls == [node] else None
    return None


def _uses(node: fx.Node, target: str) -> bool:
    return node.op in ("call_module", "get_attr") and f"{node.target}.".startswith(f"{target}.")


def _is_read(target: str, traced: fx.GraphModule) -> bool:
    """Whether the forward reads a tensor of this module beside calling it: scaled ones would be others."""
    return any(node.op == "get_attr" and _uses(node, target) for node in traced.graph.nodes)


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        if (before := waiting.pop()) not in found:
            found.add(before)
            waiting += before.all_input_nodes
    return found


def _is_free(node: fx.Node, traced: fx.GraphModule) -> bool:
    match node.op:
        case "placeholder":
            return not node.args
        case "call_module":
            module = traced.get_submodule(str(node.target))
            return type(module) in _FREE_MODULES and not (module._forward_hooks or module._forward_pre_hooks)
        case "call_function":
            return node.target in _FREE_FUNCTIONS
        case "call_method":
            return node.target in _FREE_METHODS
    return False


def _before(traced: fx.GraphModule, node: fx.Node, inside: Iterable[fx.Node]) -> fx.GraphModule:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for before in traced.graph.nodes:
        if before in inside:
            copies[before] = graph.node_copy(before, copies.__getitem__)
    graph.output(copies[node.all_input_nodes[0]])
    return fx.GraphModule(traced, graph)


def _rest(
    traced: fx.GraphModule, node: fx.Node, inside: Iterable[fx.Node]
) -> tuple[fx.GraphModule, fx.GraphModule, dict[str, float]]:
    """What comes behind the layer, the same with normalisation in place, and which that is."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    copies[node] = graph.placeholder("first")
    calls: dict[str, list[fx.Node]] = {}
    for after in traced.graph.nodes:
        if after is not node and after not in inside:
            copies[after] = graph.node_copy(after, copies.__getitem__)
            if after.op == "call_module":
                calls.setdefault(str(after.target), []).append(after)
    rest = fx.GraphModule(traced, graph)
    for name, nodes in calls.items():
        if all(_may_overwrite(call, node, traced, _ACTIVATIONS) for call in nodes):
            rest.set_submodule(name, _in_place(rest.get_submodule(name)))
    quick, scalings = fx.GraphModule(rest, copy.deepcopy(graph)), dict[str, float]()
    for name, nodes in calls.items():
        norm = rest.get_submodule(name)
        alone = all(_may_overwrite(call, node, traced, _NORMS) for call in nodes) and not _is_read(name, traced)
        if alone and isinstance(norm, _BatchNorm) and _is_fixed(norm):
            quick.set_submodule(name, _Scaling.of(norm))
            scalings[name] = norm.eps
    return rest, quick, scalings


def _may_overwrite(node: fx.Node, first: fx.Node, traced: fx.GraphModule, types: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module of these types takes a tensor that was made for it and that nobody else reads."""
    module = traced.get_submodule(str(node.target))
    if type(module) not in types or module._forward_hooks or module._forward_pre_hooks:
        return False
    before = node.all_input_nodes[0]
    if len(node.all_input_nodes) != 1 or len(before.users) > 1:
        return False
    makes = before.op == "call_module" and type(traced.get_submodule(str(before.target)))
    return before is first or makes in (*LINEAR, *_NORMS)


def _is_fixed(norm: _BatchNorm) -> bool:
    """Whether batch normalisation takes everything that it computes with from parameters and buffers."""
    return not norm.training and norm.affine and norm.track_running_stats


def _in_place(activation: nn.Module) -> nn.Module:
    """The same activation in place: memory that was just written need not be fetched again. Numbers stay the same."""
    new = copy.copy(activation)
    vars(new)["inplace"] = True
    return new


class _Scaling(_BatchNorm):
    """``weight * input + bias`` for each channel, in place: half the time of batch normalisation."""

    @classmethod
    def of(cls, norm: nn.Module) -> nn.Module:
        """The same tensors under the same names."""
        new = cls.__new__(cls)
        vars(new).update(vars(norm))
        return new

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torch.nn)
        shape = (-1, *[1] * (input.ndim - 2))
        return torch.addcmul(self.bias.view(shape), input, self.weight.view(shape), out=input)
