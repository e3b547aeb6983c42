"""Networks of binarynets layers to Brevitas layers and back.

Exact, bit for bit on finite numbers: latent weights, outputs and gradients of layers without bias; there, back, and
there and back. To rounding: a layer with bias (Brevitas hands it to the product, this package adds it to the finished
sum), and whatever follows a scale that is taken out. Beyond numbers they differ: Brevitas makes -1 of NaN in silence,
this package keeps it.

Quantisers are read by what they compute, not by name, on copies: a clamp that overwrites latents does not reach those
of the argument. Such a clamp belongs to the training: behind ``from_brevitas`` it is ``clip_latents_(model, s)`` after
each step.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

import brevitas.nn as qnn
import torch
from brevitas.core.function_wrapper import TensorClamp
from brevitas.core.quant import BinaryQuant
from brevitas.nn.quant_layer import QuantNonLinearActLayer
from brevitas.quant import SignedBinaryActPerTensorConst, SignedBinaryWeightPerTensorConst
from torch import Tensor, fx, nn

from binarynets.brevitas.convert_read import (
    BINARY,
    OwnBinaryQuant,
    check_layer,
    device_of,
    read_activation,
    read_weight,
    refuse,
)
from binarynets.brevitas.errors import BrevitasError
from binarynets.layers import Binarised, BinaryConv1d, BinaryConv2d, BinaryLinear, Sign
from binarynets.quantisers import Quantiser, is_sign, magnitude_aware_sign, ste_sign
from compare.params import Params, check, parameters

_TO_BREVITAS = {BinaryLinear: qnn.QuantLinear, BinaryConv1d: qnn.QuantConv1d, BinaryConv2d: qnn.QuantConv2d}
_FROM_BREVITAS = {theirs: ours for ours, theirs in _TO_BREVITAS.items()}
_Make: TypeAlias = Callable[[nn.Module, torch.device], nn.Module]
_LINEAR = ("in_features", "out_features")
_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# f(s x) = s f(x) for s > 0: a scale may be taken out before them as well as behind them.
_HOMOGENEOUS = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)


def to_brevitas(model: nn.Module) -> nn.Module:
    """The same network in Brevitas layers, of scale 1.

    ``ste_sign`` with clip 1 or without becomes Brevitas's own quantiser, clamped or not, which never writes into
    latents; every other quantiser that gives signs, and ``magnitude_aware_sign`` of weights, becomes an
    ``OwnBinaryQuant``. One that is set anew in the course of training (``annealed_sign``) stays what it is now.

    Args:
        model: Any module with layers of ``binarynets``; other modules stay as they are. It is not changed.

    Returns:
        A new module that shares no memory with ``model``: Brevitas layers at the same paths, with the same latents
        under the same names, mode, type, ``requires_grad``; tied weights are tied. Outputs and gradients are equal bit
        for bit, with a bias to rounding.

    Raises:
        BrevitasError: If a layer has a quantiser that is not the sign, hooks, or parts of its own.

    Example:
        >>> layer = BinaryLinear(3, 2)
        >>> torch.equal(to_brevitas(layer).quant_weight().value, layer.binary_weight())
        True
    """
    _check_module(model)
    made: dict[str, _Make] = {}
    for path, module in model.named_modules():
        if isinstance(module, Binarised | Sign):
            # Here, since hooks of parameters do not survive the copy.
            check_layer(path, module)
            made[path] = partial(_brevitas_layer, path)
    return _replaced(copy.deepcopy(model), made)


def from_brevitas(model: nn.Module) -> nn.Module:
    """The same network in layers of this package, all binary weights +1 and -1.

    A constant scale s of weights is taken out: the batch normalisation that alone reads the layer, directly or behind
    pooling, dropout or ``Flatten``, gets ``running_mean / s``, ``running_var / s**2`` and ``eps / s**2``, a bias
    becomes ``bias / s``. The function is the same to rounding, in training too, and so are the gradients (of a bias: s
    times its own). The gradient decides the quantiser: ``ste_sign`` with clip 1, clip s, or no clip.

    Args:
        model: Any module with binary Brevitas layers; modules that are not of Brevitas stay as they are. So does a
            quantiser of more bits without parameters that reads the network's input alone: it prepares the data. The
            model is not changed.

    Returns:
        A new module that shares no memory with ``model``, with the same latents under the same names.

    Raises:
        BrevitasError: Naming a Brevitas layer that is not binary, has a scale that is not constant, no known gradient,
            or a scale without a normalisation that could take it.

    Example:
        >>> from_brevitas(to_brevitas(nn.Sequential(BinaryLinear(3, 2), Sign())))
        Sequential(
          (0): BinaryLinear(in_features=3, out_features=2, bias=False, quantiser=ste_sign)
          (1): Sign(quantiser=ste_sign)
        )
    """
    plan = _plan(model)
    copied = copy.deepcopy(model)
    for path, squared in plan.squares.items():
        norm = copied.get_submodule(path)
        norm.eps = float(norm.eps) / squared  # type: ignore[arg-type, assignment]
    with torch.no_grad():
        for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
            if name in plan.divisors:
                tensor.div_(plan.divisors[name])
    return _replaced(copied, {path: partial(_own_layer, quantiser) for path, quantiser in plan.quantisers.items()})


def from_brevitas_params(model: nn.Module, params: Mapping[str, Tensor]) -> Params:
    """Parameters of a Brevitas model as those of ``from_brevitas(model)``, which does the same to the model's own.

    Args:
        model: The Brevitas model; its own parameters do not count, its scales do.
        params: Parameters and buffers by name, as ``compare.parameters(model)`` gives them; not changed.

    Returns:
        Copies under the names of ``compare.parameters(from_brevitas(model))``, without entries of the quantisers.

    Raises:
        BrevitasError: As ``from_brevitas``, and if a constant of a quantiser differs from the model's.
        compare.params.ParameterError: If names or shapes do not fit the model, or numbers are not finite.
    """
    plan, reference = _plan(model), parameters(model)
    check(params, reference)
    for name in plan.dropped:
        if not torch.equal(params[name].to(reference[name]), reference[name]):
            raise BrevitasError(
                f"params: '{name}' is a constant of a quantiser, expected the model's {reference[name].tolist()}, got "
                f"{params[name].tolist()}: give the model that these parameters belong to"
            )
    kept = {name: params[name].detach().clone() for name in reference if name not in plan.dropped}
    return {
        name: tensor.div_(plan.divisors[name]) if name in plan.divisors else tensor for name, tensor in kept.items()
    }


@dataclass(frozen=True)
class _Plan:
    """What ``from_brevitas`` does.

    Attributes:
        quantisers: By path of the layer that is replaced.
        divisors: By name of a parameter or buffer.
        squares: Divisor of ``eps`` by path of the normalisation.
        dropped: Names of the quantisers' own entries.
    """

    quantisers: dict[str, Quantiser]
    divisors: dict[str, float]
    squares: dict[str, float]
    dropped: set[str]


def _plan(model: nn.Module) -> _Plan:
    _check_module(model)
    quantisers: dict[str, Quantiser] = {}
    scales: dict[str, float] = {}
    kept: list[str] = []
    for path, module in model.named_modules():
        if _is_inside(path, [*quantisers, *kept]):
            continue
        if type(module) in _FROM_BREVITAS:
            quantisers[path], scales[path] = read_weight(path, module)
        elif isinstance(module, QuantNonLinearActLayer) and _is_of_brevitas(type(module)):
            found = read_activation(path, module)
            if found is None:
                kept.append(path)
            else:
                quantisers[path] = found
        elif any(_is_of_brevitas(kind) for kind in type(module).__mro__):
            refuse(path, module, "no layer of binarynets computes the same", "Replace it by one of torch.nn")
    _check_prepare_data(model, kept)
    divisors, squares = _divisors(model, {path: scale for path, scale in scales.items() if scale != 1})
    inside = {name for name in parameters(model) if _is_inside(name, quantisers)}
    latents = {_join(path, own) for path in quantisers for own in ("weight", "bias")}
    return _Plan(quantisers, divisors, squares, inside - latents)


def _divisors(model: nn.Module, scales: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    divisors: dict[str, float] = {}
    squares: dict[str, float] = {}
    calls = _calls(model) if scales else None
    names = {id(module): path for path, module in model.named_modules()}
    for path, scale in scales.items():
        layer = model.get_submodule(path)
        assert calls is not None  # made if there is a scale
        for norm in _norms_behind(path, layer, calls, scale):
            squares[names[id(norm)]] = scale**2
            divisors[_join(names[id(norm)], "running_mean")] = scale
            divisors[_join(names[id(norm)], "running_var")] = scale**2
        if isinstance(layer.bias, Tensor):
            if sum(own is layer.bias for each in model.modules() for own in each._parameters.values()) > 1:
                refuse(path, layer, f"its bias is tied: the scale {scale:g} cannot be taken out of it", _UNIT_SCALE)
            divisors[_join(path, "bias")] = scale
    return divisors, squares


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_of_brevitas(type(m)) or not list(m.children()) or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Calls:
    """Every call of a module in the order of the forward, or the error that keeps torch.fx from telling."""

    modules: dict[fx.Node, nn.Module]
    error: str = ""

    def of(self, module: nn.Module) -> list[fx.Node]:
        return [node for node, called in self.modules.items() if called is module]


def _calls(model: nn.Module) -> _Calls:
    if _is_of_brevitas(type(model)):
        return _Calls({}, "it stands alone")
    try:
        # A copy: the user's forward may keep what it sees, here the tracer's stand-ins.
        graph = _Tracer().trace(copy.deepcopy(model))
    except Exception as error:  # fx raises whatever that forward raises on them
        return _Calls({}, f"torch.fx cannot trace {type(model).__name__}: {error}")
    named = dict(model.named_modules(remove_duplicate=False))
    return _Calls({node: named[str(node.target)] for node in graph.nodes if node.op == "call_module"})


def _norms_behind(path: str, layer: nn.Module, calls: _Calls, scale: float) -> list[nn.Module]:
    def refuse_scale(reason: str) -> NoReturn:
        refuse(path, layer, f"the scale {scale:g} of its weights cannot be taken out: {reason}", _UNIT_SCALE)

    found = []
    for start in calls.of(layer) or refuse_scale(calls.error or "torch.fx sees no call of it"):
        node = start
        while type(calls.modules.get(node)) not in _NORMS:
            if node is not start and type(calls.modules.get(node)) not in _HOMOGENEOUS:
                refuse_scale(f"expected a batch normalisation as its reader, got '{node.target}'")
            if len(node.users) != 1:
                refuse_scale(f"expected a batch normalisation as its only reader, got {len(node.users)} readers")
            node = next(iter(node.users))
        norm = calls.modules[node]
        if len(calls.of(norm)) > 1:
            refuse_scale(f"its batch normalisation '{node.target}' is used again")
        found.append(norm)
    return found


def _check_prepare_data(model: nn.Module, kept: list[str]) -> None:
    calls = _calls(model) if kept else None
    for path in kept:
        module = model.get_submodule(path)
        assert calls is not None  # made if something is kept
        nodes = calls.of(module)
        if not nodes or any(_has_layer_before(node, calls) for node in nodes):
            where = f" ({calls.error})" if calls.error else ""
            reason = f"expected a binary activation, as everywhere but on the network's input{where}"
            refuse(path, module, reason, BINARY)


def _has_layer_before(node: fx.Node, calls: _Calls) -> bool:
    before = list(node.all_input_nodes)
    for each in before:
        before += [earlier for earlier in each.all_input_nodes if earlier not in before]
    return any(each in calls.modules and next(calls.modules[each].parameters(), None) is not None for each in before)


def _own_injector(path: str, module: Binarised | Sign) -> Any:
    """The Brevitas quantiser with the values and the gradient of the layer's own."""
    if type(module) is not Sign and type(module) not in _TO_BREVITAS:
        refuse(path, module, "it is a subclass, whose forward may do anything", "Convert it by hand")
    of_weights = isinstance(module, Binarised)
    base = SignedBinaryActPerTensorConst
    if of_weights:
        # The default scale is 0.1, and the default clamp overwrites the latents.
        base = SignedBinaryWeightPerTensorConst.let(scaling_const=1.0, tensor_clamp_impl=TensorClamp)
    quantiser = module.quantiser
    if _is_ste(quantiser, 1.0):
        return base
    if _is_ste(quantiser, None):
        return base.let(tensor_quant=BinaryQuant)
    per_channel = of_weights and quantiser is magnitude_aware_sign
    if not per_channel and not is_sign(quantiser):
        name = getattr(quantiser, "__name__", repr(quantiser))
        allowed = "ste_sign, approx_sign, swish_sign or annealed_sign" + ", or magnitude_aware_sign" * of_weights
        refuse(path, module, f"its quantiser {name} does not give +1 and -1 by sign alone", f"Set {allowed}")
    return base.let(tensor_quant=OwnBinaryQuant, quantiser=quantiser, per_channel=per_channel)


def _is_ste(quantiser: Quantiser, clip: float | None) -> bool:
    if isinstance(quantiser, partial) and quantiser.func is ste_sign and not quantiser.args:
        return bool(quantiser.keywords.get("clip", 1.0) == clip)
    return quantiser is ste_sign and clip == 1.0


def _brevitas_layer(path: str, module: Any, device: torch.device) -> nn.Module:
    injector = _own_injector(path, module)
    if isinstance(module, Sign):
        return _finished(qnn.QuantIdentity(act_quant=injector), module, device)
    kind = _TO_BREVITAS[type(module)]
    # Without storage: nothing is drawn from the generator of random numbers.
    made = kind(**_sizes(module), bias=module.bias is not None, weight_quant=injector, device="meta")
    return _finished(made, module, device)


def _own_layer(quantiser: Quantiser, module: Any, device: torch.device) -> nn.Module:
    if isinstance(module, QuantNonLinearActLayer):
        return _finished(Sign(quantiser), module, device)
    with torch.device("meta"):
        made = _FROM_BREVITAS[type(module)](**_sizes(module), bias=module.bias is not None, quantiser=quantiser)
    return _finished(made, module, device)


def _sizes(module: nn.Module) -> dict[str, Any]:
    names = _LINEAR if isinstance(module, nn.Linear) else _CONVOLUTION
    return {name: getattr(module, name) for name in names}


def _finished(made: nn.Module, module: nn.Module, device: torch.device) -> nn.Module:
    for name, parameter in module._parameters.items():
        setattr(made, name, parameter)
    return made.to(device_of(module, device)).train(module.training)


def _replaced(model: nn.Module, made: Mapping[str, _Make]) -> nn.Module:
    """``model`` itself with the modules at the given paths replaced, wherever they stand."""
    device = device_of(model, torch.device("cpu"))
    old = {path: model.get_submodule(path) for path in made}
    new = {id(module): made[path](module, device) for path, module in old.items()}
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return model


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise BrevitasError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def _is_of_brevitas(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "brevitas"


def _is_inside(name: str, paths: Collection[str]) -> bool:
    return any(path == "" or name.startswith(path + ".") for path in paths)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_UNIT_SCALE = "Put a batch normalisation behind it, or give its weights the scale 1: weight_scaling_const=1.0"
