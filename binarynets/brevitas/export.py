"""QONNX: a file of one network that other tools read, written once its own execution agrees with the model.

The file holds the *effective* weights, made by Brevitas's own quantisers, each followed by its node of quantisation
(``BipolarQuant``, ``Quant``: Pappalardo et al. 2022, arXiv:2206.07527) with scale, zero point and bit width. Latents
are not in it. Every number takes 32 bits there, whatever its bit width: it is the reader that packs.
"""

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from brevitas.nn.mixin import QuantBiasMixin, QuantLayerMixin, QuantWeightMixin
from brevitas.proxy import ActQuantProxyFromInjectorBase
from torch import Tensor, nn

from binarynets.brevitas.errors import BrevitasError
from compare.params import ParameterError, Params, check, parameters
from compare.runs.files import check_writable, write_bytes

_PACKAGES = ("onnx", "onnxoptimizer", "onnxruntime", "qonnx")
_INSTALL = "pip install 'binarynets[export]'"


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far its execution is from the model.

    Attributes:
        file: Where it is.
        size: Its length in bytes.
        batch: Samples in one call of the exported graph; fixed.
        samples: Samples on which graph and model were compared.
        largest_difference: Largest absolute difference of any output of these samples.
        equal: Whether all outputs are equal bit for bit.
    """

    file: Path
    size: int
    batch: int
    samples: int
    largest_difference: float
    equal: bool


def export_qonnx(
    model: nn.Module,
    params: Mapping[str, Tensor] | None,
    x: Tensor,
    file: str | Path,
    *,
    batch: int | None = None,
    tolerance: float = 1e-5,
) -> Exported:
    """Write the quantised network to a QONNX file, after the exported graph was executed against the model.

    Args:
        model: A Brevitas model from one tensor to one tensor. It is neither changed nor put into another mode; what is
            exported is a copy in evaluation mode, on the CPU.
        params: Latent parameters and buffers by name, as ``compare.parameters(model)`` gives, of any network along the
            way: an end, a matched end, a midpoint, a bend. None: the model's own. They are not changed either.
        x: Samples ``[samples, ...]`` on which graph and model are compared.
        file: The file to write. It is replaced in one step or not touched at all.
        batch: Samples in one call of the exported graph, which is fixed in the file; ``x`` must hold a whole number of
            such batches. None: all of ``x`` in one.
        tolerance: Largest difference of an output allowed, as a fraction of the largest output, or of 1 where that is
            larger. 0 asks for equal numbers.

    Returns:
        File, size and largest difference.

    Raises:
        BrevitasError: If packages of the extra ``export`` are missing or do not fit together, ``model`` has no layer of
            Brevitas, ``params`` or ``x`` do not fit it, a quantiser's scale is not positive and finite or is still a
            running statistic that ``params`` replace, or the exported graph gives other outputs than the model.
        OutputError: If the file cannot be written.

    Example:
        >>> from binarynets.brevitas.export import export_qonnx  # doctest: +SKIP
        >>> export_qonnx(model, compare.parameters(model), images[:100], "model.onnx", batch=1)  # doctest: +SKIP
        Exported(file=PosixPath('model.onnx'), size=..., samples=100, largest_difference=0.0, equal=True)
    """
    file = Path(file)
    _check_packages()
    size = _checked_batch(x, batch)
    if not any(isinstance(module, QuantLayerMixin) for module in model.modules()):
        raise BrevitasError(
            f"{type(model).__name__} has no layer of Brevitas to export: pass the Brevitas model itself, not its plain "
            "form; for a network of binarynets' layers, convert it to Brevitas first"
        )
    check_writable(file)
    network = _frozen(model, params)
    _check_scales(network)
    _check_numbers(network)
    batches = torch.split(x.detach().cpu(), size)
    expected = torch.cat(_outputs(network, batches))
    content = _graph(network, batches[0])
    found = torch.cat(_executed(content, batches))
    difference = _difference(found, expected, tolerance)
    write_bytes(file, content)
    return Exported(file, len(content), size, len(x), difference, _same_bits(found, expected))


def _outputs(network: nn.Module, batches: tuple[Tensor, ...]) -> list[Tensor]:
    try:
        with torch.no_grad():
            found = [network(samples.clone()) for samples in batches]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BrevitasError(
            f"x: {type(network).__name__} does not take samples {list(batches[0].shape)} of {batches[0].dtype}: "
            f"{error}. Expected what the model is trained on, as data.test.x[:100]"
        ) from error
    return [_plain_tensor(output) for output in found]


def _check_packages() -> None:
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BrevitasError(f"export to QONNX needs the package {name} ({error}): {_INSTALL}") from error


def _checked_batch(x: Tensor, batch: int | None) -> int:
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x) or not bool(torch.isfinite(x).all()):
        got = f"{list(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise BrevitasError(f"x: expected finite samples [samples, ...], at least one, to compare on; got {got}")
    size = len(x) if batch is None else batch
    if size < 1 or len(x) % size:
        raise BrevitasError(f"batch: expected a divisor of the {len(x)} samples of x, got {size}: pass more or fewer")
    return size


def _frozen(model: nn.Module, params: Mapping[str, Tensor] | None) -> nn.Module:
    """A copy in evaluation mode with ``params``; the clamp of some quantisers overwrites the latents of the copy."""
    network = copy.deepcopy(model).cpu().eval()
    if params is None:
        return network
    own = parameters(network)
    try:  # names and shapes alone; a scale that is NaN gets a message of its own, see _check_scales
        mapped = isinstance(params, Mapping)
        check({n: _finite(t) for n, t in params.items()} if mapped else params, own)
    except ParameterError as error:
        raise BrevitasError(str(error)) from error
    _check_statistics(network, params, own)
    named = dict((*network.named_parameters(), *network.named_buffers()))
    with torch.no_grad():
        for name in own:
            named[name].copy_(params[name])
    return network


def _finite(tensor: Any) -> Any:
    return torch.zeros_like(tensor) if isinstance(tensor, Tensor) else tensor


def _check_statistics(network: nn.Module, params: Mapping[str, Tensor], own: Params) -> None:
    """While a scale is a running statistic it is in no parameter: those of another network would come without it."""
    other = {name for name, tensor in own.items() if not torch.equal(tensor, params[name].cpu())}
    for name, module in network.named_modules():
        steps, counter = getattr(module, "collect_stats_steps", None), getattr(module, "counter", None)
        if steps is None or counter is None or counter > steps:
            continue
        if (other and counter) or f"{name}.value" in other:
            raise BrevitasError(
                f"'{name}': its scale is still a running statistic (step {counter} of {steps}), which parameters by "
                "name do not hold, and params are those of another network: train further, or take "
                "binarynets.brevitas.settled(model) of the ends, whose scales are those that the statistics give"
            )


def _check_numbers(network: nn.Module) -> None:
    """NaN latents would become -1 in silence."""
    own: Params = parameters(network)
    try:
        check(own, own)
    except ParameterError as error:
        raise BrevitasError(f"{error} Export a network of finite parameters") from error


def _check_scales(network: nn.Module) -> None:
    for name, module in network.named_modules():
        for what, quantised in _quantisers(name, module):
            scale = quantised.scale.detach()
            if bool((torch.isfinite(scale) & (scale > 0)).all()):
                continue
            kind = next(k for k, test in _UNFIT.items() if bool(test(scale).any()))
            raise BrevitasError(f"'{name}': the scale of its {what} is {kind}: {_scale_remedy(what, quantised)}")


_UNFIT: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda scale: scale.isnan(),
    "infinite": lambda scale: scale.isinf(),
    "zero or less": lambda scale: scale <= 0,
}


def _quantisers(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What is quantised in a module itself, and something that has ``scale`` and ``bit_width`` of the quantiser."""
    with torch.no_grad():
        if isinstance(module, QuantWeightMixin) and module.weight_quant.is_quant_enabled:
            yield "weights", module.quant_weight()
        if isinstance(module, QuantBiasMixin) and module.bias is not None and _has_own_scale(module.bias_quant):
            yield "bias", module.quant_bias()
        if isinstance(module, ActQuantProxyFromInjectorBase) and module.is_quant_enabled:
            yield "activations", _Activation.of(name, module)


def _has_own_scale(bias_quantiser: Any) -> bool:
    return bool(bias_quantiser.is_quant_enabled and not bias_quantiser.requires_input_scale)


@dataclass(frozen=True)
class _Activation:
    """What an activation quantiser would do, without data."""

    scale: Tensor
    bit_width: Tensor

    @classmethod
    def of(cls, name: str, proxy: Any) -> "_Activation":
        try:
            return cls(proxy.scale(), proxy.bit_width())
        except RuntimeError as error:
            raise BrevitasError(
                f"'{name}' has no scale of its own ({error}): QONNX needs a scale that does not depend on the input; "
                "use a quantiser with a constant, learned or running scale"
            ) from error


def _scale_remedy(what: str, quantised: Any) -> str:
    if what == "weights" and float(quantised.bit_width) == 1:
        return (
            "an integer quantiser has no level but 0 at weight_bit_width=1; for one bit use a binary quantiser such as "
            "brevitas.quant.SignedBinaryWeightPerTensorConst, for an integer one weight_bit_width=2 or more"
        )
    if what == "weights":
        return "look for weights that are all zero (of a channel), NaN or infinite, or set a constant scale above 0"
    return "run some batches of finite data in training mode, load a state that has it, or set a constant above 0"


def _graph(network: nn.Module, samples: Tensor) -> bytes:
    """The exported graph with its shapes, as the bytes of the file."""
    import onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    effective = dict(_effective_weights(network))
    try:
        graph = _exporter().export(network, args=samples.clone(), opset_version=_OPSET, dynamo=False)
    except Exception as error:  # of torch, Brevitas (asserts) or onnx alike
        raise BrevitasError(
            f"Brevitas could not export {type(network).__name__}: {type(error).__name__}: {error}. Look for a layer or "
            "quantiser that QONNX does not know, or for packages of other versions than the extra names: " + _INSTALL
        ) from error
    for initializer in graph.graph.initializer:
        if initializer.name in effective:
            initializer.CopyFrom(onnx.numpy_helper.from_array(effective[initializer.name].numpy(), initializer.name))
    content: bytes = ModelWrapper(graph).transform(InferShapes()).model.SerializeToString()
    return content


# The opset QONNX and the tools that read it were made for.
_OPSET = 13


def _effective_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights after their quantiser, by the name of the latents.

    Brevitas exports the latents, followed by a node that rounds them to the nearest level: that is another network
    wherever its own quantiser floors, or has a threshold (ternary). Quantising twice is quantising once, so the
    effective weights pass the node unchanged.
    """
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, QuantWeightMixin) and module.weight_quant.is_quant_enabled:
                yield f"{name}.weight" if name else "weight", module.quant_weight().value.contiguous().clone()


def _exporter() -> Any:
    """Brevitas's exporter through TorchScript: that through ``torch.export`` fails on its ResNet and takes longer."""
    with warnings.catch_warnings():  # what its import says about itself
        warnings.filterwarnings("ignore", message="brevitas.fx is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="fast_hadamard_transform package not found", category=UserWarning)
        from brevitas.export import QONNXManager
    return QONNXManager


def _executed(content: bytes, batches: tuple[Tensor, ...]) -> list[Tensor]:
    """The first output of the graph in ``content``, by the executor of qonnx."""
    import onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    graph = ModelWrapper(onnx.load_from_string(content))
    given, result = graph.graph.input[0].name, graph.graph.output[0].name
    try:
        return [torch.from_numpy(execute_onnx(graph, {given: samples.numpy()})[result]) for samples in batches]
    except Exception as error:
        if "IR version" in str(error):
            raise BrevitasError(
                f"onnx {onnx.__version__} is too new for this onnxruntime, the exported graph cannot be executed "
                f"({str(error).strip()}). Install versions that fit together: {_INSTALL} 'onnx==1.22.0'"
            ) from error
        raise BrevitasError(f"the exported graph cannot be executed: {type(error).__name__}: {error}") from error


def _plain_tensor(output: Any) -> Tensor:
    value = getattr(output, "value", output)
    if not isinstance(value, Tensor):
        raise BrevitasError(f"the model returns {type(output).__name__}, expected one tensor: wrap it in a module")
    return value


def _difference(found: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest absolute difference, if it is within ``tolerance``."""
    if found.shape != expected.shape:
        raise BrevitasError(
            f"the exported graph gives {list(found.shape)}, the model {list(expected.shape)}; nothing was written"
        )
    distance = (found.double() - expected.double()).abs().flatten(1).amax(1)
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    wrong = int((~(distance <= allowed)).sum())  # NaN is wrong
    if wrong:
        raise BrevitasError(
            f"the exported graph differs from the model by up to {float(distance.max()):.3g}, in {wrong} of "
            f"{len(found)} samples by more than the {allowed:.3g} allowed; nothing was written. Where few samples "
            "differ, a sum may lie so near a threshold that the order of summation decides: allow more by tolerance; "
            "where many do, a layer means something else in QONNX (a 1-bit QuantReLU, rounding, pooling of integers)"
        )
    return float(distance.max())


def _same_bits(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and found.numpy().tobytes() == expected.numpy().tobytes()
