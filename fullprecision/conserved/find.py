"""From a traced network to the quantities that gradient flow conserves in it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compare.params import Params
from compare.symmetry.element import entries
from compare.symmetry.graph import Block, Generator, Graph, Layer, Tie
from fullprecision.conserved.activations import KNOWN, Activation, Elementwise, Linear, Radial
from fullprecision.conserved.between import Way, ways
from fullprecision.conserved.errors import ConservedError
from fullprecision.conserved.quantity import Condition, Kind, Quantity, Terms


def conserved_quantities(
    graph: Graph,
    model: nn.Module,
    *,
    activations: Mapping[Any, Activation] | None = None,
    samples: Tensor | None = None,
) -> tuple[Quantity, ...]:
    """All quantities of a network that are known to be conserved by gradient flow on its parameters.

    Each positive scale of the graph conserves one number for each unit, whatever lies in its block: ReLU and its leaky
    form, squares of them, convolutions, residual streams, gains and offsets of batch normalisation. Where nothing
    but a linear function lies between two linear maps, the whole matrix is conserved, and stands in place of the units.
    Rows before batch normalisation keep their norms in training mode. Elementwise and radial functions conserve a
    quantity behind the first layer if the samples are orthonormal. Weight decay, momentum and Adam are not gradient
    flow. What does not require a gradient is taken not to move; quantities that need it to are left out.

    Args:
        graph: The network's symmetries.
        model: The network that was traced; not changed.
        activations: Further functions by exact module type or function; they win over ``KNOWN``.
        samples: All samples that are trained on, orthonormal, ``[samples, features]``: ``orthonormal(x)`` makes such.
            Without them quantities that need them are left out.

    Returns:
        Quantities in the order of the graph's blocks and layers; those of one block first by generators.

    Raises:
        ConservedError: If ``samples`` are not orthonormal, or not what the first layer takes.

    Example:
        >>> import compare, fullprecision
        >>> model = fullprecision.mlp(4, [3], 2)
        >>> graph = compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY)
        >>> [(found.name, found.kind, found.formula) for found in conserved_quantities(graph, model)]
        [('linear1', 'units', '|u|^2 - |v|^2'), ('linear1', 'rows', '|v|^2'), ('linear2', 'rows', '|v|^2')]
    """
    if samples is not None:
        _check_orthonormal(samples)
    trained = frozenset(name for name, each in model.named_parameters(remove_duplicate=False) if each.requires_grad)
    found: list[Quantity] = []
    between = ways(model, graph, {**KNOWN, **(activations or {})})
    for index, block in enumerate(graph.blocks):
        own = [way for way in between if way.first.block == index]
        special = [each for way in own for each in _special(graph, block, way, samples)]
        matrix = any(each.kind == "matrix" for each in special)
        found += special
        found += [] if matrix else _scaled(graph, block)
    # What does not move takes no part in the flow; buffers are no parameters.
    return tuple(each for each in (*found, *_rows(graph)) if trained.issuperset(each.reads))


def orthonormal(x: Tensor) -> Tensor:
    """The orthonormal samples nearest to the given ones: (X X^T)^(-1/2) X, their polar factor.

    Args:
        x: ``[samples, features]``, linearly independent, so no more samples than features.

    Returns:
        Of the same shape, rows orthonormal.

    Raises:
        ConservedError: For samples that depend on each other, are not floating-point or not finite.
    """
    if x.ndim != 2 or len(x) == 0 or len(x) > x.shape[1]:
        raise ConservedError(
            f"x: expected at most as many samples as features, [samples, features], got {list(x.shape)}"
        )
    if not x.is_floating_point() or not bool(torch.isfinite(x).all()):
        raise ConservedError(f"x: expected finite floating-point numbers, got {x.dtype} or some that are not finite")
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    if not bool(values[-1] > 1e-6 * values[0]):
        raise ConservedError("x: expected linearly independent samples: leave out those that follow from others")
    nearest: Tensor = left @ right
    return nearest


def _check_orthonormal(samples: Tensor) -> None:
    if samples.ndim != 2 or len(samples) == 0:
        raise ConservedError(f"samples: expected [samples, features], got {list(samples.shape)}")
    wide = samples.double()
    off = float((wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype)).abs().max())
    if not off <= 1e-5:  # NaN, too
        raise ConservedError(
            f"samples: expected orthonormal ones, got some whose inner products are off by {off:.2g}; "
            "orthonormal(samples) makes such"
        )


def _scaled(graph: Graph, block: Block) -> Iterator[Quantity]:
    """One for each positive scale."""
    for generator in block.generators:
        if generator.kind == "scale":
            terms, formula = _of_scale(graph, block, generator)
            reads = tuple(dict.fromkeys(tie.name for tie, _ in generator.factors))
            yield _quantity(graph, block.name, "units", formula, "any data", reads, terms)


def _of_scale(graph: Graph, block: Block, generator: Generator) -> tuple[Terms, str]:
    """Noether: the squared norms on the ties, each times its exponent, sum up to a constant.

    Divided by the largest exponent of outgoing weights, with the sign that makes them positive. Where nothing goes out,
    what comes in (gain and offset included) keeps its norm.
    """
    outgoing = max((-exponent for _, exponent in generator.factors if exponent < 0), default=0.0)
    unit = -outgoing if outgoing else 1.0
    factors = [(tie, exponent / unit) for tie, exponent in generator.factors]

    def terms(params: Params) -> tuple[Tensor, Tensor]:
        sums = [torch.zeros(block.size, dtype=torch.float64) for _ in range(2)]
        for tie, factor in factors:
            sums[factor < 0] += abs(factor) * (entries(params[tie.name].double(), tie, block) ** 2).sum(1)
        return sums[0], sums[1]

    return terms, _formula({exponent for _, exponent in generator.factors})


def _formula(exponents: Collection[float]) -> str:
    """Of a scale: outgoing weights have negative exponents."""
    incoming = [exponent for exponent in exponents if exponent > 0]
    outgoing = [-exponent for exponent in exponents if exponent < 0]
    if max(len(incoming), len(outgoing)) > 1:
        return "sum of e |w|^2 over ties"
    if not (incoming and outgoing):
        return "|v|^2" if incoming else "|u|^2"
    over = outgoing[0] / incoming[0]
    return "|u|^2 - |v|^2" + ("" if over == 1 else f" / {over:g}")


def _rows(graph: Graph) -> Iterator[Quantity]:
    """Squared norms of rows that batch normalisation follows, and nothing else uses."""
    for layer in graph.layers:
        if layer.norm is not None:  # never where a weight is used twice
            yield _quantity(
                graph, layer.name, "rows", "|v|^2", "batch statistics", (layer.weight,), _squared_rows(layer)
            )


def _squared_rows(layer: Layer) -> Terms:
    def terms(params: Params) -> tuple[Tensor, Tensor]:
        rows = params[layer.weight].double().movedim(layer.axis, 0).flatten(1)
        plus = (rows**2).sum(1)
        return plus, torch.zeros_like(plus)

    return terms


def _special(graph: Graph, block: Block, way: Way, samples: Tensor | None) -> Iterator[Quantity]:
    """What only some functions between two maps conserve."""
    incoming, outgoing = _ties(block, way)
    if outgoing is None or incoming is None:
        return
    biased = way.first.bias is not None
    reads = tuple(name for name in (way.second.weight, way.first.weight, way.first.bias) if name is not None)
    acting = [each for each in way.functions if not isinstance(each, Linear)]
    vectors = _vectors(block, way, incoming, outgoing)
    if not acting:
        yield _quantity(graph, block.name, "matrix", "U^T U - V V^T", "any data", reads, _products(vectors))
        return
    if len(acting) > 1:
        return
    (activation,) = acting
    if isinstance(activation, Radial) and activation.degree is not None:
        k = activation.degree
        formula = "|U|^2 - |V|^2" + ("" if k == 1 else f" / {k:g}")
        yield _quantity(graph, block.name, "layer", formula, "any data", reads, _norms(vectors, k))
    if samples is None or not way.from_inputs or biased or graph.reference[way.first.weight].ndim != 2:
        return
    features = graph.reference[way.first.weight].shape[1 - way.first.axis]
    if samples.shape[1] != features:
        raise ConservedError(
            f"samples: expected {features} features, as '{way.first.name}' takes, got {samples.shape[1]}"
        )
    kind: Kind = "radial" if isinstance(activation, Radial) else "elementwise"
    what = "|U|^2 / 2 - sum F(|z|), F' = f / f'" if kind == "radial" else "|u|^2 / 2 - sum F(z), F' = sigma / sigma'"
    terms = _integrals(vectors, activation, samples.double())
    yield _quantity(graph, block.name, kind, what, "orthonormal samples", reads, terms)


def _ties(block: Block, way: Way) -> tuple[Tie | None, Tie | None]:
    """Where the block's units stand in the weights before and behind them; None unless each has them once, all."""
    found = []
    for layer, outputs in ((way.first, True), (way.second, False)):
        own = [tie for tie in block.ties if tie.name == layer.weight]
        fits = len(own) == 1 and own[0].along is None and own[0].start == 0 and (own[0].axis == layer.axis) == outputs
        found.append(own[0] if fits else None)
    names = {way.first.weight, way.first.bias, way.second.weight}
    # Further ties (another consumer, a residual stream) would take part.
    return (found[0], found[1]) if all(tie.name in names for tie in block.ties) else (None, None)


Vectors = Callable[[Params], tuple[Tensor, Tensor]]
"""Outgoing and incoming weights of each unit, float64 ``[units, outgoing]`` and ``[units, incoming]``, bias behind."""


def _vectors(block: Block, way: Way, incoming: Tie, outgoing: Tie) -> Vectors:
    def vectors(params: Params) -> tuple[Tensor, Tensor]:
        v = entries(params[incoming.name].double(), incoming, block)
        if way.first.bias is not None:
            v = torch.cat([v, params[way.first.bias].double()[:, None]], 1)
        return entries(params[outgoing.name].double(), outgoing, block), v

    return vectors


def _products(vectors: Vectors) -> Terms:
    def terms(params: Params) -> tuple[Tensor, Tensor]:
        u, v = vectors(params)
        return u @ u.T, v @ v.T

    return terms


def _norms(vectors: Vectors, degree: float) -> Terms:
    def terms(params: Params) -> tuple[Tensor, Tensor]:
        u, v = vectors(params)
        return (u**2).sum()[None], (v**2).sum()[None] / degree

    return terms


def _integrals(vectors: Vectors, activation: Elementwise | Radial, samples: Tensor) -> Terms:
    def terms(params: Params) -> tuple[Tensor, Tensor]:
        u, v = vectors(params)
        z = v @ samples.T
        if isinstance(activation, Radial):
            return (u**2).sum()[None] / 2, activation.antiderivative(torch.linalg.vector_norm(z, dim=0)).sum()[None]
        return (u**2).sum(1) / 2, activation.antiderivative(z).sum(1)

    return terms


def _quantity(
    graph: Graph, name: str, kind: Kind, formula: str, condition: Condition, reads: tuple[str, ...], terms: Terms
) -> Quantity:
    return Quantity(name, kind, formula, condition, reads, graph.straight_through, terms)
