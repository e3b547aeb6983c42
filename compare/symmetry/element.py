"""Elements of a network's symmetry group: a permutation and a diagonal for each block of units."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compare.params import Params
from compare.symmetry.graph import Block, Graph, SymmetryError, Tie
from compare.symmetry.thresholds import between_integers


@dataclass(frozen=True, eq=False)
class Element:
    """One element of the group: on each block ``x[i] -> d_i x[p_i]`` along the axes tied to it.

    Attributes:
        graph: The network's symmetries.
        permutations: For each block p, int64 ``[units]``: the unit that comes to place i is p_i.
        diagonals: For each block d, float64 ``[units]``, nonzero; negative where the unit is negated.
    """

    graph: Graph
    permutations: tuple[Tensor, ...]
    diagonals: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        """Check that each block has a permutation and an admissible diagonal."""
        if not len(self.permutations) == len(self.diagonals) == len(self.graph.blocks):
            raise SymmetryError(f"expected a permutation and a diagonal for each of {len(self.graph.blocks)} blocks")
        for block, p, d in zip(self.graph.blocks, self.permutations, self.diagonals, strict=True):
            if not torch.equal(p.sort().values, torch.arange(block.size)):
                raise SymmetryError(f"block '{block.name}': expected a permutation of {block.size} units")
            if d.shape != (block.size,) or not bool((torch.isfinite(d) & (d != 0)).all()):
                raise SymmetryError(f"block '{block.name}': expected {block.size} finite nonzero diagonal entries")
            if not block.signs and bool((d < 0).any()):
                raise SymmetryError(f"block '{block.name}' does not admit signs")
            if not block.scales and bool((d.abs() != 1).any()):
                raise SymmetryError(f"block '{block.name}' does not admit scales")

    def apply(self, params: Params) -> Params:
        """The symmetric copy of ``params``: another point of parameter space, the same function.

        sign(0) = +1, so ties are broken first, which changes no decision: a latent weight of exactly 0 becomes the
        smallest normal number, and a threshold that an integer pre-activation meets exactly moves by half an integer.
        Where pre-activations are real numbers, a negated threshold steps to the next float: x >= c becomes
        not (-x >= c'), with c' the float next to -c.

        Args:
            params: All parameters and buffers of the network.

        Returns:
            New tensors; ``params`` is not changed.

        Raises:
            ParameterError: If ``params`` do not fit the network.
        """
        self.graph.check(params)
        moved = {name: tensor.clone() for name, tensor in params.items()}
        for name in self.graph.binarised:
            moved[name] = without_zeros(moved[name])
        for name, offset in between_integers(self.graph, params, only_ties=True).items():
            moved[name] = offset.to(moved[name].dtype)
        stepping = self.graph.stepping
        for block, p, d in zip(self.graph.blocks, self.permutations, self.diagonals, strict=True):
            for tie in block.ties:
                moved[tie.name] = _act(moved[tie.name], tie, p, d, stepping=tie.name in stepping)
        return moved

    def inverse(self) -> "Element":
        """The element that undoes this one."""
        inverses = tuple(torch.argsort(p) for p in self.permutations)
        diagonals = tuple(1 / d[q] for d, q in zip(self.diagonals, inverses, strict=True))
        return Element(self.graph, inverses, diagonals)

    def compose(self, first: "Element") -> "Element":
        """The element that acts as ``first`` and then this one: ``g.compose(h).apply(x) = g.apply(h.apply(x))``."""
        if first.graph is not self.graph and first.graph.blocks != self.graph.blocks:
            raise SymmetryError("expected two elements of the same network's group")
        permutations = tuple(h[g] for g, h in zip(self.permutations, first.permutations, strict=True))
        diagonals = tuple(d * e[p] for d, e, p in zip(self.diagonals, first.diagonals, self.permutations, strict=True))
        return Element(self.graph, permutations, diagonals)


def identity(graph: Graph) -> Element:
    """The element that changes nothing."""
    sizes = [block.size for block in graph.blocks]
    return Element(
        graph,
        tuple(torch.arange(size) for size in sizes),
        tuple(torch.ones(size, dtype=torch.float64) for size in sizes),
    )


def random_element(graph: Graph, generator: torch.Generator) -> Element:
    """Draw an element: uniform permutations and signs, scales log-normal (sigma 1/2), each where it is admitted.

    Args:
        graph: The network's symmetries.
        generator: Source of randomness; it advances.

    Returns:
        The element.

    Example:
        >>> import binarynets, compare
        >>> model = binarynets.mlp(4, [6], 2)
        >>> graph = compare.trace(model, torch.ones(2, 4), binarynets.FAMILY)
        >>> g = random_element(graph, torch.Generator().manual_seed(0))
        >>> x, params = torch.tensor([[1.0, -3.0, 5.0, 7.0]]), compare.parameters(model.eval())
        >>> torch.equal(compare.call(model, params, x), compare.call(model, g.apply(params), x))
        True
    """
    return Element(
        graph,
        tuple(torch.randperm(block.size, generator=generator) for block in graph.blocks),
        tuple(_random_diagonal(block, generator) for block in graph.blocks),
    )


def _random_diagonal(block: Block, generator: torch.Generator) -> Tensor:
    d = torch.ones(block.size, dtype=torch.float64)
    if block.scales:
        d = torch.exp(0.5 * torch.randn(block.size, generator=generator, dtype=torch.float64))
    if block.signs:
        d = d * (2 * torch.randint(2, (block.size,), generator=generator) - 1)
    return d


def _act(tensor: Tensor, tie: Tie, p: Tensor, d: Tensor, *, stepping: bool) -> Tensor:
    index, factor = p, d.abs() ** tie.scales
    negative = (d < 0) & tie.negates
    if tie.repeat > 1:
        index = (p[:, None] * tie.repeat + torch.arange(tie.repeat)).flatten()
        factor, negative = factor.repeat_interleave(tie.repeat), negative.repeat_interleave(tie.repeat)
    shape = [-1 if axis == tie.axis else 1 for axis in range(tensor.ndim)]
    moved = tensor.index_select(tie.axis, index)
    if tie.scales:
        moved = (moved * factor.view(shape)).to(tensor.dtype)
    negated = -step_up(moved) if stepping else -moved
    return torch.where(negative.view(shape), negated, moved) if tie.negates else moved


def without_zeros(latent: Tensor) -> Tensor:
    """Latent weights with 0 and subnormal numbers, which count as their signs, made the smallest normal number."""
    tiny = torch.finfo(latent.dtype).tiny
    small = torch.where(latent < 0, -tiny, tiny).to(latent.dtype)
    return torch.where(latent.abs() < tiny, small, latent)


def step_up(x: Tensor) -> Tensor:
    """The next larger float, leaving out subnormal numbers (some processors take them for 0).

    x -> -step_up(x) is its own inverse, and u + x >= 0 holds exactly where -u - step_up(x) >= 0 does not.
    """
    tiny = torch.finfo(x.dtype).tiny
    x = torch.where(x.abs() < tiny, 0.0, x).to(x.dtype)
    up = torch.nextafter(x, torch.full_like(x, torch.inf))
    up = torch.where(x == 0, tiny, up).to(x.dtype)
    return torch.where(up.abs() < tiny, 0.0, up).to(x.dtype)
