"""From a Brevitas model to the module that stands for it: the same names, the same outputs, plain tensors."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import brevitas.nn as qnn
import torch
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, fx, nn

from binarynets import layers as own
from binarynets.brevitas.checks import check_model, is_of_brevitas, settled
from binarynets.brevitas.errors import BrevitasError
from binarynets.brevitas.layers import Activation, Map, Pool, Sum, TensorNorm, Unread, effective_tensors
from binarynets.brevitas.weights import is_plain_sign
from compare.params import Params, check, parameters

_ACTIVATIONS = (
    qnn.QuantIdentity,
    qnn.QuantReLU,
    qnn.QuantHardTanh,
    qnn.QuantTanh,
    qnn.QuantSigmoid,
    qnn.QuantHardSwish,
)
_MAPS = (
    qnn.QuantLinear,
    qnn.QuantConv1d,
    qnn.QuantConv2d,
    qnn.QuantConv3d,
    qnn.QuantConvTranspose1d,
    qnn.QuantConvTranspose2d,
    qnn.QuantConvTranspose3d,
)
_POOLS = (qnn.TruncAvgPool2d, qnn.TruncAdaptiveAvgPool2d)

_PASSING = {
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
}  # fmt: skip
_PASSING_CALLS: set[Any] = {
    "view",
    "flatten",
    "reshape",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
    "contiguous",
    torch.flatten,
}


class Plain(nn.Module):
    """Stands for a Brevitas model in every analysis: same module paths, parameters and outputs, in evaluation mode.

    Weights are quantised by Brevitas's own quantisers: once for each set of parameters that is passed as a dictionary
    (``torch.func.functional_call``; torch must see what is written into its tensors), and in each call of the module
    with its own. Parameters are never written to.
    """

    def __init__(
        self, original: nn.Module, model: nn.Module, forward: Callable[..., Any], constants: dict[str, Tensor]
    ) -> None:
        """Take over what ``model``, a copy with its layers replaced, holds.

        Args:
            original: The Brevitas model.
            model: The network.
            forward: Its forward pass, free of what Brevitas alone needs.
            constants: Tensors that the forward pass makes, by the names it knows them by.
        """
        super().__init__()
        for owned in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[owned] = getattr(model, owned)
        self.__dict__.update(constants)
        self._original, self._forward, self._constants = (original,), forward, tuple(constants)
        self.eval()

    @property
    def original(self) -> nn.Module:
        """The Brevitas model that it stands for; its own parameters do not matter."""
        return self._original[0]

    def forward(self, input: Tensor) -> Any:  # noqa: A002 (as in torch.nn)
        """What the Brevitas model gives for ``input``.

        Raises:
            BrevitasError: If a gradient is asked for.
        """
        # While it is followed by torch.fx the input is no tensor.
        asked = isinstance(input, Tensor) and input.requires_grad
        if torch.is_grad_enabled() and (asked or any(p.requires_grad for p in self.parameters())):
            raise BrevitasError(
                "what stands for a Brevitas model has no gradients of Brevitas's quantisers: expected torch.no_grad(), "
                "or the Brevitas model itself where gradients are needed"
            )
        return self._forward(self, input)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Plain:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in self._constants:
            self.__dict__[name] = fn(self.__dict__[name])
        return self


def plain(model: nn.Module, x: Tensor | None = None) -> nn.Module:
    """The module that stands for a Brevitas model in every analysis of this project.

    It has the same module paths and the same names of parameters and buffers, gives the same outputs in evaluation
    mode, and never writes into parameters. Binary layers of scale 1 without bias become layers of ``binarynets``;
    everything else computes with what Brevitas's own quantisers give, made once for each set of parameters.

    Args:
        model: A model with Brevitas layers, in any mode; it is not changed. What ``plain`` gave is returned as it is.
        x: Example inputs ``[batch, ...]``: outputs are compared with the model's own, which must be equal bit for bit.

    Returns:
        A module in evaluation mode, of which only batch normalisation may be put into training mode.

    Raises:
        BrevitasError: For a model without Brevitas layers, one whose forward torch.fx cannot follow, a scale that is 0,
            infinite or NaN, activation scales that are still being collected, or outputs that differ.

    Example:
        >>> import brevitas.nn as qnn
        >>> from brevitas.quant import SignedBinaryWeightPerTensorConst as Binary
        >>> model = nn.Sequential(qnn.QuantLinear(4, 3, bias=False, weight_quant=Binary), nn.BatchNorm1d(3))
        >>> x = torch.randn(5, 4)
        >>> torch.equal(plain(model)(x), model.eval()(x))
        True
    """
    if isinstance(model, Plain):
        return model
    check_model(model)
    if is_of_brevitas(model):
        raise BrevitasError(
            f"expected a network, got a single {type(model).__name__}: torch.nn.Sequential(layer) is one"
        )
    working = settled(model).eval()
    for parameter in working.parameters():
        parameter.requires_grad_(False)
    graph = _traced(working)
    _without_quant_tensors(graph)
    code = fx.GraphModule(working, graph)
    read = _replaced(working)
    _bind(graph, read)
    constants = {name: t for name, t in vars(code).get("_buffers", {}).items() if name.startswith("_tensor_constant")}
    constants |= {n: t for n, t in vars(code).items() if n.startswith("_tensor_constant")}
    found = Plain(copy.deepcopy(model), working, type(code).forward, constants)
    if x is not None:
        _compare(model, found, x)
    return found


def effective(model: nn.Module, params: Params) -> Params:
    """The parameters that the quantised network computes with: weights and biases as Brevitas's quantisers make them.

    Args:
        model: A Brevitas model, or what ``plain`` gave for it.
        params: Parameters and buffers by name, latent weights among them; not changed.

    Returns:
        New tensors under the same names.

    Raises:
        BrevitasError: As ``plain``.
        ParameterError: If parameters do not fit the model.
    """
    check(params, parameters(model))
    working = copy.deepcopy(plain(model))
    replaced = {name: tensor.clone() for name, tensor in params.items()}
    with torch.no_grad():
        found = _call(working, replaced)
    return {**replaced, **{name: tensor.clone() for name, tensor in found.items() if name in replaced}}


def _call(working: nn.Module, state: Params) -> Params:
    """Quantised weights of ``working`` with the parameters of ``state``."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = working

        def forward(self) -> Params:
            found = dict(effective_tensors(working))
            for name, module in working.named_modules():
                if own.is_binarised(module):
                    found[f"{name}.weight"] = module.binary_weight()
            return found

    named = {f"read.{name}": tensor for name, tensor in state.items()}
    result: Params = torch.func.functional_call(Reader(), named, ())
    return result


class _QuantProxy(fx.Proxy):
    """Stands for a quantised tensor while a forward is followed: some models ask whether they have one."""

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> Any:
            """The class that such models ask for."""
            return QuantTensor


class LayerTracer(fx.Tracer):
    """Follows a forward, down to layers of torch, Brevitas and ``binarynets``."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` is not looked into."""
        leaf = is_of_brevitas(m) or is_tensor_norm(m) or own.is_binarised(m)
        return leaf or isinstance(m, own.Sign) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's result while the forward is followed."""
        if self._quantised(node):
            node.meta["quantised"] = True
            return _QuantProxy(node, self)
        return super().proxy(node)

    def _quantised(self, node: fx.Node) -> bool:
        handed = any(before.meta.get("quantised", False) for before in node.all_input_nodes)
        if node.op != "call_module":
            return handed and node.target is not getattr
        module = self.root.get_submodule(str(node.target))
        return bool(getattr(module, "return_quant_tensor", handed and type(module) in _PASSING))


def is_tensor_norm(module: nn.Module) -> bool:
    """Whether this is bnn_pynq's normalisation; told by its name, since its package need not be installed."""
    return type(module).__name__ == "TensorNorm" and "brevitas" in type(module).__module__


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return LayerTracer().trace(model)
    except Exception as error:  # fx raises whatever the user's forward raises on proxies
        raise BrevitasError(
            f"{type(model).__name__} cannot be followed by torch.fx: {error}. Control flow that depends on data has no "
            "fixed symmetries: expected a forward of the same operations for every input. Move what depends on data "
            "into a module of torch.nn or brevitas.nn, or out of the network"
        ) from error


_OF_TENSORS = ("shape", "device", "dtype", "ndim")


def _without_quant_tensors(graph: fx.Graph) -> None:
    """``y.value`` of a quantised tensor is the tensor itself; what plain tensors have not, or otherwise, is refused."""
    for node in list(graph.nodes):
        if not any(before.meta.get("quantised", False) for before in node.all_input_nodes):
            continue
        asked = node.args[1] if node.target is getattr else None
        if asked == "value":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif (asked is not None and asked not in _OF_TENSORS) or node.target in (operator.getitem, "int", "set"):
            what = asked if asked is not None else getattr(node.target, "__name__", node.target)
            raise BrevitasError(
                f"the forward asks a quantised tensor for '{what}' (at '{node.name}'), which plain tensors answer "
                "otherwise or not at all: expected operations on its values; take .value first, or "
                "return_quant_tensor=False"
            )


def _replaced(model: nn.Module) -> dict[str, nn.Module]:
    """Put plain layers in the places of Brevitas's, everywhere; gives them by module path."""
    made: dict[int, nn.Module] = {}
    paths: dict[str, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if any(path.startswith(f"{outer}.") for outer in paths):
            continue
        if id(module) not in made:
            found = _plain_layer(module, path)
            if found is None:
                continue
            made[id(module)] = found
        paths[path] = made[id(module)]
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = made[id(module)]
    return paths


def _plain_layer(module: nn.Module, path: str) -> nn.Module | None:
    if not path:
        return None
    if type(module) in _MAPS:
        return _own_map(module) or Map(module, path)
    if type(module) in _ACTIVATIONS:
        found = Activation(module, path)
        return _own_sign(found) or found
    if type(module) in _POOLS:
        return Pool(module, path)
    if type(module) is qnn.QuantEltwiseAdd:
        return Sum(module, path)
    if is_tensor_norm(module):
        return TensorNorm(module)
    return Unread(module, path) if is_of_brevitas(module) else None


_OWN: dict[type[nn.Module], type[nn.Module]] = {
    qnn.QuantLinear: own.BinaryLinear,
    qnn.QuantConv1d: own.BinaryConv1d,
    qnn.QuantConv2d: own.BinaryConv2d,
}


def _own_map(module: Any) -> nn.Module | None:
    """A layer of ``binarynets`` where that computes the very same."""
    quiet = not module.input_quant.is_quant_enabled and not module.output_quant.is_quant_enabled
    if type(module) not in _OWN or module.bias is not None or not quiet or not is_plain_sign(module):
        return None
    if isinstance(module, nn.Linear):
        found: Any = own.BinaryLinear(module.in_features, module.out_features)
    elif module.padding_mode != "zeros" or getattr(module, "is_same_padded_strided", False):
        return None
    else:
        found = _OWN[type(module)](
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
        )
    if list(dict(module.named_parameters())) != ["weight"]:
        return None
    found._parameters["weight"] = module._parameters["weight"]
    return found.eval()  # type: ignore[no-any-return]


def _own_sign(activation: Activation) -> nn.Module | None:
    act = activation.act
    if activation.input.enabled or not act.enabled or act.form is None or act.form.kind != "sign":
        return None
    plain_input = isinstance(activation.layer, qnn.QuantIdentity)
    constant = not list(activation.parameters()) and bool((act.about()[0] == 1).all())
    return own.Sign().eval() if plain_input and constant else None


def _bind(graph: fx.Graph, read: dict[str, nn.Module]) -> None:
    """Tell layers that need their input's scale where it comes from."""
    sources: dict[Map | Pool, list[Any]] = {}
    for node in graph.nodes:
        layer = read.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Map | Pool):
            found = sources.setdefault(layer, [])
            found.append(_source(node.all_input_nodes[0], read))
            # At once: what comes behind a pooling asks it for the scale that it has from here.
            layer.bind(found[0] if all(source is found[0] for source in found) else None)


def _source(node: fx.Node, read: dict[str, nn.Module]) -> Any:
    while True:
        if node.op == "call_module":
            layer = read.get(str(node.target))
            if isinstance(layer, Activation | Pool | Map | Sum) and layer.emits:
                return layer
            module = node.graph.owning_module.get_submodule(str(node.target)) if node.graph.owning_module else None
            if type(module) not in _PASSING:
                return None
        elif node.target not in _PASSING_CALLS:
            return None
        node = node.all_input_nodes[0]


def _compare(model: nn.Module, found: nn.Module, x: Tensor) -> None:
    """Outputs on ``x`` must be equal bit for bit."""
    if not isinstance(x, Tensor) or (x.is_floating_point() and not bool(torch.isfinite(x).all())):
        raise BrevitasError("x: expected a batch of finite inputs [batch, ...], for instance data.train.x[:8]")
    original = copy.deepcopy(model).eval()
    with torch.no_grad():
        try:
            expected = original(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise BrevitasError(
                f"{type(model).__name__} does not take the example {list(x.shape)} ({x.dtype}): {error}"
            ) from error
        expected = getattr(expected, "value", expected)
        got = found(x)
    if isinstance(expected, Tensor) and not torch.equal(expected, got):
        worst = float((expected - got).abs().max())
        raise BrevitasError(
            f"{type(model).__name__}: what stands for it gives other outputs (largest difference {worst:.3g}): some "
            "layer does more than is known of it (a latent of two layers that one of them clamps in place, a quantiser "
            "that is called inside the forward). If it is none of these, please report it, with the model"
        )
