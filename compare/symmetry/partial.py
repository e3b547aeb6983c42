"""Networks of one architecture and different widths: units of the narrower matched with some of the wider's."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from compare.params import Params
from compare.symmetry.element import Element, identity, inside
from compare.symmetry.graph import Block, Graph, SymmetryError
from compare.symmetry.matching import Problem, Solution, Start, bound, solve
from compare.symmetry.padding import Frame, units_at
from compare.symmetry.scores import Gains, Weights, problem_of, scored, sign_generators


@dataclass(frozen=True, eq=False)
class PartialMatch:
    """Which unit of b goes with which of a, and which ones are left over.

    Attributes:
        element: An element of b's group: matched units come in the order of a's, the others behind them (inside their
            wholes, where there are any).
        params: It applied to b: b's width, the same function.
        places: For each block int64 ``[units of b]``: the unit of a that each unit of ``params`` is matched with, -1
            where there is none.
        pairs: For each block int64 ``[matched, 2]``: units of a beside those of b, as both were given.
        extra_a: For each block the units of a without a partner, int64.
        extra_b: Likewise of b.
        share_a: For each block the part of the squared norm of a's scored tensors on it that its extra units hold.
        share_b: Likewise of b.
        objective: Sum over matched entries of <a, g b>, float64.
        seconds: Wall time.
        problem: What was solved: the ordinary problem, both padded with zeros to the larger sizes.
        constant: What entries that do not move contribute to the objective.
    """

    element: Element
    params: Params
    places: tuple[Tensor, ...]
    pairs: tuple[Tensor, ...]
    extra_a: tuple[Tensor, ...]
    extra_b: tuple[Tensor, ...]
    share_a: tuple[float, ...]
    share_b: tuple[float, ...]
    objective: float
    seconds: float
    problem: Problem = field(repr=False)
    constant: float = field(repr=False)

    @cached_property
    def bound(self) -> float:
        """No matching of units reaches more."""
        return bound(self.problem) + self.constant

    @property
    def gap(self) -> float:
        """Bound minus objective."""
        return self.bound - self.objective


def match_partial(
    graph_a: Graph,
    a: Params,
    graph_b: Graph,
    b: Params,
    *,
    seed: int = 0,
    starts: Sequence[Start] = ("annealing", "descriptors"),
    weights: Weights = "latent",
    gains: Gains = "fixed",
) -> PartialMatch:
    """Match two networks of the same architecture whose blocks differ in width.

    Both are padded with units of weight zero to the larger size of each block, and matched as ``match`` does; what is
    matched with padding is left over. Each unit of the narrower block is matched with another one of the wider. Inside
    wholes (groups, heads) that holds for each pair of wholes.

    Left out, extra units change the function: ``params`` keeps b's width. To compare b with a along a path, bring the
    narrower network to the other's width: ``embedded(graph_b, found.params, graph_a, places=found.places)``, or with
    the roles of a and b exchanged.

    Args:
        graph_a: The symmetries of a.
        a: The network that stays, in standard form.
        graph_b: The symmetries of b: the same blocks in other sizes.
        b: The network that is moved, in standard form.
        seed: Seed of the random starts and orders.
        starts: See ``match``.
        weights: Binarised weights count by their latents or by their signs.
        gains: See ``match``.

    Returns:
        Pairs, what is left over, and the bound.

    Raises:
        ParameterError: If ``a`` or ``b`` does not fit its graph.
        SymmetryError: Naming a block or tensor in which the graphs differ by more than the number of units.
        ValueError: For an unknown start, ``weights`` or ``gains``.

    Example:
        >>> import compare, fullprecision
        >>> wide, narrow = fullprecision.mlp(4, [6], 2), fullprecision.mlp(4, [5], 2)
        >>> graphs = [compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY) for model in (wide, narrow)]
        >>> found = match_partial(graphs[0], compare.parameters(wide), graphs[1], compare.parameters(narrow))
        >>> len(found.pairs[0]), len(found.extra_a[0]), len(found.extra_b[0])
        (5, 1, 0)
    """
    began = time.perf_counter()
    for name, value, known in (("weights", weights, ("latent", "binarised")), ("gains", gains, ("fixed", "free"))):
        if value not in known:
            raise ValueError(f"{name}: expected {known[0]!r} or {known[1]!r}, got {value!r}")
    graph_a.check(a, "a")
    graph_b.check(b, "b")
    frame = Frame(graph_a, graph_b)
    left, right = (
        {name: frame.padded(side, name, tensor) for name, tensor in scored(graph, params, weights).items()}
        for side, graph, params in ((0, graph_a, a), (1, graph_b, b))
    )
    problem, constant = problem_of(frame.graph, left, right, gains)
    found = solve(problem, starts=starts, seed=seed)
    element = _element(frame, found, gains)
    units = [_paired(left, right, p) for left, right, p in zip(*frame.places, found.permutations, strict=True)]
    shares = [_shares(problem, frame.places[side], units, side) for side in (0, 1)]
    return PartialMatch(
        element=element,
        params=element.apply(b),
        places=tuple(_partners(pairs, p) for pairs, p in zip(units, element.permutations, strict=True)),
        pairs=tuple(units),
        extra_a=tuple(_left(pairs[:, 0], block.size) for pairs, block in zip(units, graph_a.blocks, strict=True)),
        extra_b=tuple(_left(pairs[:, 1], block.size) for pairs, block in zip(units, graph_b.blocks, strict=True)),
        share_a=shares[0],
        share_b=shares[1],
        objective=found.objective + constant,
        seconds=time.perf_counter() - began,
        problem=problem,
        constant=constant,
    )


def _paired(places_a: Tensor, places_b: Tensor, permutation: Tensor) -> Tensor:
    left = units_at(places_a, len(permutation))
    right = units_at(places_b, len(permutation))[permutation]
    both = (left >= 0) & (right >= 0)
    return torch.stack([left[both], right[both]], dim=1)


def _partners(pairs: Tensor, permutation: Tensor) -> Tensor:
    partner = torch.full((len(permutation),), -1)
    partner[pairs[:, 1]] = pairs[:, 0]
    return partner[permutation]


def _left(matched: Tensor, size: int) -> Tensor:
    free = torch.ones(size, dtype=torch.bool)
    free[matched] = False
    return free.nonzero()[:, 0]


def _element(frame: Frame, found: Solution, gains: Gains) -> Element:
    """The units of b in the order of the padded places they came to."""
    graph = frame.graphs[1]
    permutations, diagonals = [], []
    for k, rest in enumerate(identity(graph).diagonals):
        p = found.permutations[k]
        units = units_at(frame.places[1][k], len(p))[p]
        matched = units_at(frame.places[0][k], len(p)) >= 0
        full = rest.clone()
        for row, signs in zip(sign_generators(graph, gains)[k], found.signs[k], strict=True):
            full[row] = torch.where(matched, signs.double(), 1.0)[units >= 0]
        permutations.append(units[units >= 0])
        diagonals.append(full)
    return Element(graph, tuple(permutations), tuple(diagonals))


def _shares(problem: Problem, places: list[Tensor], units: list[Tensor], side: int) -> tuple[float, ...]:
    """For each block what part of the squared norm the units without a partner hold."""
    found = []
    for k, here in enumerate(places):
        norms = torch.zeros(problem.sizes[k], dtype=torch.float64)
        for term in problem.terms:
            for axis, block in enumerate(term.blocks):
                if block == k:
                    tensor = (term.a, term.b)[side].double()
                    norms += tensor.movedim(axis, 0).flatten(1).square().sum(1)
        extra = here[_left(units[k][:, side], len(here))]
        total = float(norms.sum())
        found.append(float(norms[extra].sum()) / total if total else 0.0)
    return tuple(found)


def embedded(graph: Graph, params: Params, wider: Graph, *, places: Sequence[Tensor] | None = None) -> Params:
    """A network as one of a wider shape that computes the same: the units added have no weights, in or out.

    Their normalisations have gain 1, mean 0 and variance 1, and all other entries are 0.

    Args:
        graph: The symmetries of the narrower network.
        params: Its parameters and buffers.
        wider: The symmetries of the wider shape: the same blocks, each at least as large.
        places: For each block the unit of the wider network that each unit becomes, as ``PartialMatch.places`` has it;
            the first ones where not given.

    Returns:
        Parameters and buffers of the wider shape. The outputs are those of the narrower network, unless something runs
        over all units of a block without parameters of its own (a mean or softmax over channels, a layer normalisation
        without gains) or depends on their number (the scores of attention, divided by the root of the head's size):
        the graph does not show these, compare outputs there.

    Raises:
        ParameterError: If ``params`` do not fit ``graph``.
        SymmetryError: Naming the block: for one that is narrower in ``wider``, for latent weights (the sign of 0 is +1:
            a binary unit always adds something), for a layer or group normalisation over a block that grows, or for
            places that are none.

    Example:
        >>> import compare, fullprecision
        >>> narrow, wide = fullprecision.mlp(4, [3], 2).eval(), fullprecision.mlp(4, [5], 2).eval()
        >>> graphs = [compare.trace(model, torch.randn(8, 4), fullprecision.FAMILY) for model in (narrow, wide)]
        >>> params, x = compare.parameters(narrow), torch.randn(6, 4)
        >>> wider = embedded(graphs[0], params, graphs[1])
        >>> torch.allclose(compare.call(narrow, params, x), compare.call(wide, wider, x))
        True
    """
    graph.check(params)
    frame = Frame(wider, graph)
    for k, block in enumerate(graph.blocks):
        _check_growing(graph, wider, frame, k)
        if places is not None:
            _check_places(block, wider.blocks[k], places[k])
    wide: Params = {}
    for name, tensor in params.items():
        filled = torch.ones_like if name in graph.gains or name.endswith("running_var") else torch.zeros_like
        wide[name] = frame.padded(1, name, tensor)
        real = frame.padded(1, name, torch.ones_like(tensor)).bool()
        wide[name] = torch.where(real, wide[name], filled(wide[name]))
    if places is None:
        return wide
    permutations: list[Tensor] = []
    for k, block in enumerate(wider.blocks):
        above = None if block.parent is None else permutations[block.parent]
        permutations.append(_spread_out(block, above, places[k], frame.places[1][k]))
    return Element(wider, tuple(permutations), identity(wider).diagonals).apply(wide)


def _check_growing(graph: Graph, wider: Graph, frame: Frame, k: int) -> None:
    block, size = graph.blocks[k], wider.blocks[k].size
    if frame.graph.blocks[k].size != size:
        raise SymmetryError(
            f"block '{block.name}': expected at least as many units in the wider network, got {size} for {block.size}. "
            "Embed both into a shape that is wide enough for each"
        )
    if block.size == size:
        return
    names = sorted({tie.name for tie in block.ties})
    latent = [name for name in names if name in graph.binarised]
    if latent:
        raise SymmetryError(
            f"block '{block.name}': expected weights that can be 0, got latent weights ('{latent[0]}'): the sign of 0 "
            "is +1, so that units added to a binary network change its function"
        )
    for name in names:
        if name in graph.gains and f"{name.rpartition('.')[0]}.running_mean" not in graph.reference:
            raise SymmetryError(
                f"block '{block.name}': expected normalisations that treat each unit alone, got '{name}', which may "
                "run over all units of the block: units added change the others. Use networks of equal width there"
            )


def _check_places(narrow: Block, wide: Block, places: Tensor) -> None:
    fits = len(places) == narrow.size and bool(((places >= 0) & (places < wide.size)).all())
    if not fits or len(torch.unique(places)) != narrow.size:
        raise SymmetryError(
            f"block '{narrow.name}': expected {narrow.size} different units from 0 to {wide.size - 1} as places, got "
            f"{places.tolist()}"
        )


def _spread_out(block: Block, above: Tensor | None, targets: Tensor, sources: Tensor) -> Tensor:
    """The permutation that brings units from ``sources`` to ``targets``; what is left over fills up, whole by whole."""
    count = 1 if above is None else len(above)
    size = block.size // count
    taken = torch.full((block.size,), -1)
    taken[targets] = sources
    rows = []
    for whole, old in enumerate(range(1) if above is None else above.tolist()):
        row = taken[whole * size : (whole + 1) * size].clone()
        own = torch.arange(old * size, (old + 1) * size)
        row[row < 0] = own[~torch.isin(own, row)][: int((row < 0).sum())]
        rows.append(row % size)
    return inside(block, above, torch.stack(rows))
