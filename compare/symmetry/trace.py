"""From a network to its coupling graph: torch.fx, one rule for each operation, and proof that nothing is left over."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from compare.params import parameters
from compare.symmetry.certificate import certify as prove
from compare.symmetry.graph import Block, Graph, Layer, StandardForm, SymmetryError, Tie
from compare.symmetry.rules import FUNCTION_RULES, MODULE_RULES, Draft, Rule, Site, Stream


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


def trace(
    model: nn.Module,
    example_input: Tensor,
    family: Precision,
    *,
    rules: Mapping[type[nn.Module], Rule] | None = None,
    certify: bool = True,
) -> Graph:
    """Find the symmetries of ``model``: which axes move together, and by which diagonal group.

    Args:
        model: Any module with one input and one output that torch.fx can trace. It is not changed.
        example_input: A small input batch ``[batch, ...]``. Where its entries are integers, inputs are taken to be
            integers always (it decides whether thresholds of a binarised first layer may be put between integers).
        family: The precision, whose rules for its own layers are used.
        rules: Further rules by exact module type; they win over the family's.
        certify: Prove the graph on data before it is returned.

    Returns:
        The frozen graph.

    Raises:
        SymmetryError: For an operation without a rule, a value used twice, a parameter that no rule covers, control
            flow that depends on data, or symmetries that the certificate finds broken.

    Example:
        >>> import fullprecision
        >>> graph = trace(fullprecision.mlp(4, [3], 2), torch.randn(8, 4), fullprecision.FAMILY)
        >>> [(block.size, block.signs, block.scales) for block in graph.blocks]
        [(3, False, True)]
    """
    if not isinstance(example_input, Tensor) or example_input.ndim < 2 or len(example_input) == 0:
        raise SymmetryError("example_input: expected a batch of inputs [batch, ...], for instance data.train.x[:8]")
    known = {**MODULE_RULES, **family.rules, **(rules or {})}
    working = copy.deepcopy(model).eval()
    _try(working, example_input)
    drafts, scalable = _follow(_symbolic(working, known, example_input), known, example_input)
    graph = _freeze(drafts, parameters(model), family.standard_form, scalable=scalable)
    _prove_covered(graph, model)
    if certify:
        prove(model, graph, example_input)
    return graph


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
    def __init__(self, known: Mapping[type[nn.Module], Rule]) -> None:
        super().__init__()
        self._known = known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in self._known or super().is_leaf_module(m, module_qualified_name)


def _symbolic(model: nn.Module, known: Mapping[type[nn.Module], Rule], x: Tensor) -> fx.GraphModule:
    try:
        traced = fx.GraphModule(model, _Tracer(known).trace(model))
    except Exception as error:  # fx raises whatever the user's forward raises on proxies
        raise SymmetryError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}. Control flow that depends on data has no "
            "fixed symmetries; take it out of forward, or give the module that holds it a rule: "
            "compare.trace(..., rules={Type: rule})"
        ) from error
    if len([node for node in traced.graph.nodes if node.op == "placeholder"]) != 1:
        raise SymmetryError(f"{type(model).__name__}: expected a forward with one input")
    with torch.no_grad():
        ShapeProp(traced).propagate(x)
    return traced


def _follow(traced: fx.GraphModule, known: Mapping[type[nn.Module], Rule], x: Tensor) -> tuple[list[Draft], bool]:
    streams: dict[fx.Node, Stream] = {}
    drafts: list[Draft] = []
    visited: set[str] = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            streams[node] = Stream(integer=bool((x == x.round()).all()))
            continue
        if node.op == "get_attr":
            raise SymmetryError(
                f"'{node.target}' is used directly in forward. If it belongs to a layer of another precision (a "
                "binarised one, say), trace with that precision's FAMILY; otherwise give the module that owns it a "
                "rule: compare.trace(..., rules={Type: rule})"
            )
        source = _only_input(node)
        if node.op == "output":
            return _close(drafts, streams[source]), streams[source].scales
        site, rule = _site(traced, node, source, known)
        if node.op == "call_module":
            if node.target in visited:
                site.refuse("a module that is called twice is not supported yet")
            visited.add(str(node.target))
        streams[node] = rule(site, streams[source])
        draft = streams[node].draft
        if draft is not None and all(draft is not other for other in drafts):
            drafts.append(draft)
    raise AssertionError("a traced graph ends in an output")


def _only_input(node: fx.Node) -> fx.Node:
    name = str(node.target if node.op == "call_module" else node.name)
    sources = node.all_input_nodes
    if len(sources) != 1 or (node.op == "output" and not isinstance(node.args[0], fx.Node)):
        raise SymmetryError(
            f"'{name}': expected one value in, got {len(sources)}; operations that join values are not supported yet"
        )
    if len(sources[0].users) != 1:
        raise SymmetryError(
            f"'{name}': its input '{sources[0].name}' is used more than once, which is not supported yet"
        )
    return sources[0]


def _site(
    traced: fx.GraphModule, node: fx.Node, source: fx.Node, known: Mapping[type[nn.Module], Rule]
) -> tuple[Site, Rule]:
    shapes = source.meta["tensor_meta"].shape, node.meta["tensor_meta"].shape
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        site = Site(str(node.target), module, {}, *shapes)
        rule = known.get(type(module))
    else:
        site = Site(node.name, node.target, _arguments(node), *shapes)
        rule = FUNCTION_RULES.get(node.target)
    if rule is None:
        site.refuse("no rule is known for this operation")
    return site, rule


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments beside the input, by name; torch's builtins hide theirs, and flatten is the one that needs them."""
    try:
        names = list(inspect.signature(node.target).parameters)[1:]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        names = ["start_dim", "end_dim"]
    return {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}


def _close(drafts: list[Draft], output: Stream) -> list[Draft]:
    if output.draft is None or output.draft is not drafts[-1]:
        raise SymmetryError("expected a network whose output comes from its last linear map; no linear map was found")
    return drafts


def _freeze(
    drafts: list[Draft], reference: Mapping[str, Tensor], standardise: StandardForm, *, scalable: bool
) -> Graph:
    layers = tuple(
        Layer(
            name=draft.name,
            weight=draft.weight,
            bias=draft.bias,
            norm=draft.norm,
            pooled=draft.pooled,
            block=index if index < len(drafts) - 1 else None,
            binarised=draft.binarised,
            step=draft.step,
            integer=draft.integer,
        )
        for index, draft in enumerate(drafts)
    )
    blocks = tuple(
        Block(draft.name, draft.size, _ties(draft), draft.signs, draft.scales, tuple(draft.notes))
        for draft in drafts[:-1]
    )
    return Graph(layers, blocks, dict(reference), standardise, scalable)


def _ties(draft: Draft) -> tuple[Tie, ...]:
    """The axes of one block. Behind pooling the normalisation, not the linear map, carries signs."""
    norm, through_map = draft.norm, not draft.pooled
    scaled = 0 if norm else 1
    ties = [Tie(draft.weight, 0, negates=through_map, scales=scaled, scored=True)]  # type: ignore[arg-type]
    if draft.bias:
        ties.append(Tie(draft.bias, 0, negates=through_map, scales=scaled, scored=norm is None))  # type: ignore[arg-type]
    if norm:
        ties += [Tie(norm.mean, 0, negates=through_map), Tie(norm.variance, 0)]
        if norm.gain and norm.offset:
            ties += [Tie(norm.gain, 0, negates=not through_map, scales=1), Tie(norm.offset, 0, negates=True, scales=1)]
    ties += [Tie(weight, 1, repeat, negates=True, scales=-1, scored=True) for weight, repeat in draft.inputs]
    return tuple(ties)


def _prove_covered(graph: Graph, model: nn.Module) -> None:
    covered: set[str] = set()
    for layer in graph.layers:
        norm = layer.norm
        names = [layer.weight, layer.bias, *((norm.gain, norm.offset, norm.mean, norm.variance) if norm else ())]
        covered |= {name for name in names if name is not None}
    left = [name for name, tensor in graph.reference.items() if name not in covered and tensor.is_floating_point()]
    if left:
        raise SymmetryError(
            f"no rule covers {', '.join(map(repr, left))}: the network may use them in a way that is not known. "
            "Give the module that owns them a rule: compare.trace(..., rules={Type: rule})"
        )
    named = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    tied = sorted(set(named) - set(graph.reference))
    if tied:
        raise SymmetryError(f"{', '.join(tied)}: parameters tied to others are not supported yet")
