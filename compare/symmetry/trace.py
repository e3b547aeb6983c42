"""From a network to its coupling graph: torch.fx, one rule for each operation, and proof that nothing is left over."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from compare.params import Params, check, parameters
from compare.symmetry.certificate import certify as prove
from compare.symmetry.graph import Graph, StandardForm, SymmetryError
from compare.symmetry.rules import FUNCTION_RULES, MODULE_RULES, Rule
from compare.symmetry.tracing.freeze import frozen_graph
from compare.symmetry.tracing.site import Tracing, remedy
from compare.symmetry.tracing.walk import Walk, tie_rates


class Precision(Protocol):
    """What tracing needs to know of a precision; a family is one."""

    @property
    def rules(self) -> Mapping[type[nn.Module], Rule]:
        """Rules for its own layers, by exact module type."""
        ...

    @property
    def standard_form(self) -> StandardForm:
        """Its standard form."""
        ...

    @property
    def plain(self) -> Callable[[nn.Module, Tensor], nn.Module]:
        """What stands for a model, see ``compare.Family``."""
        ...


def trace(
    model: nn.Module,
    example_input: Tensor,
    family: Precision,
    *,
    rules: Mapping[Any, Rule] | None = None,
    opaque: Sequence[str] = (),
    frozen: Sequence[str] = (),
    accept_ties: float = 0.0,
    at: Sequence[Params] = (),
    certify: bool = True,
) -> Graph:
    """Find the symmetries of ``model``: which axes move together, and by which diagonal group.

    Args:
        model: Any module with one input that torch.fx can trace. It is not changed.
        example_input: A small input batch ``[batch, ...]``. Where its entries are integers, inputs are taken to be
            integers always (it decides whether thresholds of a binarised first layer may be put between integers).
        family: The precision, whose rules for its own layers are used.
        rules: Further rules by exact module type, function, or method's name; they win over the family's.
        opaque: Module paths (or names of functions' places, as errors give them) that are not looked into: no unit that
            they touch moves, nor does any of their parameters.
        frozen: Module paths whose output units stay where and as they are.
        accept_ties: Signs are admitted before a sign function without an offset of its own if at most this fraction of
            its pre-activations was exactly 0 on the example, where negation is not exact. See ``Graph.tie_rates``.
        at: Parameters and buffers at which those ties are counted, in place of the model's own: the networks that will
            be compared.
        certify: Prove the graph on data before it is returned.

    Returns:
        The frozen graph.

    Raises:
        SymmetryError: For an operation without a rule, a parameter that no rule covers, control flow that depends on
            data, an unknown name in ``opaque`` or ``frozen``, or symmetries that the certificate finds broken.

    Example:
        >>> import fullprecision
        >>> graph = trace(fullprecision.mlp(4, [3], 2), torch.randn(8, 4), fullprecision.FAMILY)
        >>> [(block.size, block.signs, block.scales) for block in graph.blocks]
        [(3, True, True), (2, True, False)]
    """
    if not isinstance(example_input, Tensor) or example_input.ndim < 1 or len(example_input) == 0:
        raise SymmetryError("example_input: expected a batch of inputs [batch, ...], for instance data.train.x[:8]")
    if example_input.is_floating_point() and not bool(torch.isfinite(example_input).all()):
        raise SymmetryError("example_input: expected finite numbers, got NaN or infinity")
    _check_arguments(model, opaque, frozen, accept_ties)
    model = family.plain(model, example_input)
    known = {**MODULE_RULES, **FUNCTION_RULES, **family.rules, **(rules or {})}
    working = copy.deepcopy(model).eval()
    _try(working, example_input)
    traced = _symbolic(working, known, opaque)
    operations = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    names = dict.fromkeys(str(node.target if node.op == "call_module" else node.name) for node in operations)
    for name in (*opaque, *frozen):
        if name not in names:
            raise SymmetryError(
                f"opaque, frozen: no operation '{name}' in this network: expected one of {', '.join(names)}"
            )
    for params in at:
        check(params, parameters(model), what="at")
    walk = Walk(traced, known, frozenset(opaque), frozenset(frozen), example_input)
    reference = parameters(model)
    tracing = Tracing(
        reference=reference,
        aliases=_aliases(model, reference),
        ties=tie_rates(traced, example_input, [dict(params) for params in at] or [parameters(model)]),
        accept_ties=accept_ties,
    )
    output = walk.settle(tracing)
    graph = frozen_graph(tracing, output, family.standard_form)
    _prove_covered(tracing, walk.covered)
    if certify:
        prove(model, graph, example_input)
    return graph


def _check_arguments(model: nn.Module, opaque: Sequence[str], frozen: Sequence[str], accept_ties: float) -> None:
    if not isinstance(model, nn.Module):
        raise SymmetryError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if any(
        isinstance(tensor, UninitializedParameter | UninitializedBuffer)
        for tensor in (*model.parameters(), *model.buffers())
    ):
        raise SymmetryError("the model has layers that are not initialised yet: run it once, then trace it")
    for name, given in (("opaque", opaque), ("frozen", frozen)):
        if isinstance(given, str):
            raise SymmetryError(f"{name}: expected a list of module paths, got a string; write {name}=[{given!r}]")
    if not 0 <= accept_ties <= 1:
        raise SymmetryError(f"accept_ties: expected a fraction from 0 to 1, got {accept_ties}")


def _aliases(model: nn.Module, reference: Params) -> dict[str, str]:
    """Every name of every parameter and buffer, to the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        name: first.setdefault(id(tensor), name) for name, tensor in named if first.get(id(tensor), name) in reference
    }


def _try(model: nn.Module, x: Tensor) -> None:
    elsewhere = sorted({str(p.device) for p in model.parameters() if p.device.type != "cpu"})
    if elsewhere:
        raise SymmetryError(f"expected a model on the CPU, got parameters on {', '.join(elsewhere)}: trace model.cpu()")
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise SymmetryError(
            f"{type(model).__name__} does not take example_input {list(x.shape)} ({x.dtype}): {error}. "
            "Expected a batch as the model is called with, in the type of its parameters"
        ) from error


class _Tracer(fx.Tracer):
    def __init__(self, known: Mapping[Any, Rule], opaque: Sequence[str]) -> None:
        super().__init__()
        self._known, self._opaque = known, opaque
        self.failed = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m) in self._known or module_qualified_name in self._opaque
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, *arguments: Any) -> Any:
        """Keep the path of the innermost module whose forward raised."""
        try:
            return super().call_module(m, *arguments)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def _symbolic(model: nn.Module, known: Mapping[Any, Rule], opaque: Sequence[str]) -> fx.GraphModule:
    if type(model) in known and list(model.parameters(recurse=False)):
        raise SymmetryError(
            f"expected a network, got a single {type(model).__name__}: wrap it, torch.nn.Sequential(layer)"
        )
    tracer = _Tracer(known, opaque)
    try:
        traced = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # fx raises whatever the user's forward raises on proxies
        where = f"in module '{tracer.failed}'" if tracer.failed else "in its own forward"
        ways = (
            remedy(tracer.failed, model.get_submodule(tracer.failed))
            if tracer.failed
            else "Move it into a module of its own; for that one there are three ways on: pass a rule "
            "(rules={Type: rule}), mark it opaque (opaque=['its path']), or freeze the blocks it touches "
            "(frozen=['module that makes them'])"
        )
        raise SymmetryError(
            f"{type(model).__name__} cannot be traced by torch.fx, {where}: {error}. Control flow that depends on data "
            f"has no fixed symmetries. {ways}"
        ) from error
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder" and not node.args]
    if len(inputs) != 1:
        raise SymmetryError(f"{type(model).__name__}: expected a forward with one input, got {len(inputs)}")
    return traced


def _prove_covered(tracing: Tracing, opaque: set[str]) -> None:
    left = [
        name
        for name, tensor in tracing.reference.items()
        if tensor.is_floating_point() and name not in tracing.labels and name not in opaque
    ]
    if left:
        owner = left[0].rpartition(".")[0]
        raise SymmetryError(
            f"no rule covers {', '.join(map(repr, left))}: the network may use them in a way that is not known. "
            + remedy(owner, "Type")
        )
