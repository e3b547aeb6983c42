"""The exact landscape of binary Brevitas models: what is counted is the same network in ``binarynets`` layers.

Scales are taken out on the way (``from_brevitas``), so that pre-activations are integers whatever the scale is. What
the forward does to its inputs before the first binary layer (a shift, a quantiser) depends on no parameter: it is
applied to the data once. A last normalisation of all outputs by the same numbers decides nothing and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from binarynets.brevitas.convert import from_brevitas, from_brevitas_params
from binarynets.brevitas.errors import BrevitasError
from binarynets.brevitas.plain import LayerTracer, Plain, is_tensor_norm
from binarynets.family import FAMILY as BINARY
from compare.data import Split
from compare.params import Params, parameters
from compare.runs import landscape as record
from compare.runs.part import SplitName
from compare.symmetry import Graph, SymmetryError, trace


@dataclasses.dataclass(frozen=True, eq=False)
class Counterpart:
    """A binary Brevitas model in ``binarynets`` layers, from its first binary layer on.

    Attributes:
        model: The network.
        prepare: What comes before it: inputs of the Brevitas model to inputs of ``model``.
        original: The Brevitas model.
        norms: Module paths of last normalisations that were left out.
    """

    model: nn.Module
    prepare: nn.Module
    original: nn.Module
    norms: tuple[str, ...]

    def params(self, params: Params) -> Params:
        """Parameters of the Brevitas model, as those of ``model``.

        Raises:
            BrevitasError: If a normalisation that was left out turns the order of the outputs round.
        """
        for norm in self.norms:
            if not bool((params[f"{norm}.weight"] > 0).all()):
                raise BrevitasError(f"'{norm}': its gain is not positive, so that it decides: expected a positive one")
        found = from_brevitas_params(self.original, params)
        return {name: found[name] for name in parameters(self.model)}

    @torch.no_grad()
    def inputs(self, x: Tensor) -> Tensor:
        """Inputs of ``model`` ``[samples, ...]``."""
        return torch.cat([self.prepare(part) for part in torch.split(x, 1000)])


def counterpart(model: nn.Module) -> Counterpart:
    """A binary Brevitas model in ``binarynets`` layers, for the integer form, exact paths and packed files.

    Args:
        model: A Brevitas model with binary weights and activations, or what ``plain`` gave for it; not changed.

    Returns:
        The network from its first binary layer on, and what prepares its inputs.

    Raises:
        BrevitasError: If some layer is not binary, a scale cannot be taken out, or the network does not split in two.

    Example:
        >>> import binarynets, brevitas.nn as qnn
        >>> from brevitas.quant import SignedBinaryWeightPerTensorConst as Binary
        >>> model = nn.Sequential(qnn.QuantLinear(4, 3, bias=False, weight_quant=Binary), nn.BatchNorm1d(3))
        >>> own = counterpart(model)
        >>> own.model, binarynets.to_integer(own.model, own.params(parameters(model))).bits["0.weight"].shape
        (GraphModule(...), torch.Size([3, 4]))
    """
    original = model.original if isinstance(model, Plain) else model
    own = from_brevitas(original).eval()
    graph = LayerTracer().trace(own)
    after = _after_parameters(graph, own)
    cut = {node for late in after for node in late.all_input_nodes if node not in after}
    if len(cut) != 1:
        raise BrevitasError(
            f"{type(original).__name__}: its forward uses its input in {len(cut)} ways before or beside the first "
            "binary layer: expected one way from the input to that layer"
        )
    (border,) = cut
    norms: list[str] = []
    later = _later(graph, own, after, border, norms)
    return Counterpart(
        model=fx.GraphModule(own, later),
        prepare=fx.GraphModule(own, _earlier(graph, after, border)),
        original=original,
        norms=tuple(norms),
    )


def _after_parameters(graph: fx.Graph, model: nn.Module) -> set[fx.Node]:
    """Nodes whose values depend on parameters."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        owns = node.op == "call_module" and bool(parameters(model.get_submodule(str(node.target))))
        if owns or any(before in found for before in node.all_input_nodes):
            found.add(node)
    return found


def _earlier(graph: fx.Graph, after: set[fx.Node], border: fx.Node) -> fx.Graph:
    made: Any = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in after:
            copies[node] = made.node_copy(node, copies.__getitem__)
        if node is border:
            made.output(copies[node])
            break
    return made  # type: ignore[no-any-return]


def _later(graph: fx.Graph, model: nn.Module, after: set[fx.Node], border: fx.Node, norms: list[str]) -> fx.Graph:
    made: Any = fx.Graph()
    copies = {border: made.placeholder("input")}
    for node in graph.nodes:
        if node not in after:
            continue
        last = node.op == "call_module" and [user.op for user in node.users] == ["output"]
        if last and is_tensor_norm(model.get_submodule(str(node.target))):
            norms.append(str(node.target))
            copies[node] = copies[node.all_input_nodes[0]]
        elif node.op == "output":
            made.output(fx.node.map_arg(node.args[0], copies.__getitem__))
        else:
            copies[node] = made.node_copy(node, copies.__getitem__)
    return made  # type: ignore[no-any-return]


def landscape(
    graph: Graph,
    model: nn.Module,
    a: Params,
    b: Params,
    splits: Mapping[SplitName, Split],
    *,
    seed: int,
    describe: str | None,
) -> tuple[record.Landscape | None, tuple[str, ...]]:
    """As ``binarynets.landscape.measure.landscape``, of a Brevitas model's counterpart; a note where it has none."""
    from binarynets.landscape.measure import landscape as counted  # numba takes its time

    if not graph.binarised:
        return None, ()
    try:
        own = counterpart(model)
        ends = own.params(a), own.params(b)
        prepared = {
            name: dataclasses.replace(split, x=own.inputs(split.x), calibration=own.inputs(split.calibration))
            for name, split in splits.items()
        }
        traced = trace(own.model, next(iter(prepared.values())).x[:16], BINARY, at=ends)
    except (BrevitasError, SymmetryError) as error:
        return None, (f"no exact landscape: {error}",)
    return counted(traced, own.model, *ends, prepared, seed=seed, describe=describe)
