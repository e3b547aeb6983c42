"""Elements of a network's symmetry group: a permutation and diagonals for each block of units."""

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
        permutations: For each block p, int64 ``[units]``: the unit that comes to place i is p_i. Units of nested blocks
            stay with their wholes.
        diagonals: For each block d, float64 ``[generators, units]``: +1 or -1 for signs, positive for scales, in the
            order of ``Block.generators``.
    """

    graph: Graph
    permutations: tuple[Tensor, ...]
    diagonals: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        """Check that each block has an admissible permutation and diagonals."""
        if not len(self.permutations) == len(self.diagonals) == len(self.graph.blocks):
            raise SymmetryError(f"expected a permutation and diagonals for each of {len(self.graph.blocks)} blocks")
        for block, p, d in zip(self.graph.blocks, self.permutations, self.diagonals, strict=True):
            _check_permutation(block, p, None if block.parent is None else self.permutations[block.parent])
            _check_diagonals(block, d)

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
        for layer in self.graph.layers:
            if layer.threshold and layer.norm and layer.norm.gain:
                # A unit without a gain computes the sign of its offset, which counts as +1 where it is 0.
                constant = moved[layer.norm.gain] == 0
                moved[layer.threshold] = torch.where(
                    constant, without_zeros(moved[layer.threshold]), moved[layer.threshold]
                )
        return self._moved(moved, self.graph.stepping)

    def apply_linear(self, tensors: Params) -> Params:
        """The group's action on tensors that stand beside the parameters; no ties are broken.

        Args:
            tensors: Some of the network's parameters' names, with tensors of their shapes.

        Returns:
            New tensors under the same names.
        """
        return self._moved({name: tensor.clone() for name, tensor in tensors.items()}, frozenset())

    def _moved(self, tensors: Params, stepping: frozenset[str]) -> Params:
        ordered = sorted(_placed(self.graph, tensors), key=lambda found: found[1].along is not None)
        for index, tie in ordered:
            tensors[tie.name] = _permuted(tensors[tie.name], tie, self.graph.blocks[index], self.permutations[index])
        factors = self._factors(tensors)
        for name, (sign, scale) in factors.items():
            tensor = tensors[name]
            moved = tensor if scale is None else (tensor * scale).to(tensor.dtype)
            negated = -step_up(moved) if name in stepping else -moved
            tensors[name] = moved if sign is None else torch.where(sign < 0, negated, moved)
        return tensors

    def _factors(self, tensors: Params) -> dict[str, tuple[Tensor | None, Tensor | None]]:
        """For each tensor what multiplies it: signs and positive factors, in shapes that broadcast."""
        found: dict[str, list[Tensor | None]] = {}
        for block, diagonals in zip(self.graph.blocks, self.diagonals, strict=True):
            for generator, d in zip(block.generators, diagonals, strict=True):
                if bool((d == 1).all()):
                    continue
                place = 0 if generator.kind == "sign" else 1
                for tie, exponent in generator.factors:
                    if tie.name not in tensors:
                        continue
                    factor = spread(d if exponent == 1 else d**exponent, tie, block, tensors[tie.name])
                    entry = found.setdefault(tie.name, [None, None])
                    previous = entry[place]
                    entry[place] = factor if previous is None else previous * factor
        return {name: (entry[0], entry[1]) for name, entry in found.items()}

    def inverse(self) -> "Element":
        """The element that undoes this one."""
        inverses = tuple(torch.argsort(p) for p in self.permutations)
        diagonals = tuple(1 / d[:, q] for d, q in zip(self.diagonals, inverses, strict=True))
        return Element(self.graph, inverses, diagonals)

    def compose(self, first: "Element") -> "Element":
        """The element that acts as ``first`` and then this one: ``g.compose(h).apply(x) = g.apply(h.apply(x))``."""
        if first.graph is not self.graph and first.graph.blocks != self.graph.blocks:
            raise SymmetryError("expected two elements of the same network's group")
        permutations = tuple(h[g] for g, h in zip(self.permutations, first.permutations, strict=True))
        diagonals = tuple(
            d * e[:, p] for d, e, p in zip(self.diagonals, first.diagonals, self.permutations, strict=True)
        )
        return Element(self.graph, permutations, diagonals)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same element of the same group; scales are compared to 12 digits."""
        if not isinstance(other, Element):
            return NotImplemented
        if self.graph is not other.graph and self.graph.blocks != other.graph.blocks:
            return False
        return all(map(torch.equal, self.permutations, other.permutations)) and all(
            torch.allclose(d, e, rtol=1e-12, atol=0) for d, e in zip(self.diagonals, other.diagonals, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # equality has a tolerance


def identity(graph: Graph) -> Element:
    """The element that changes nothing."""
    return Element(
        graph,
        tuple(torch.arange(block.size) for block in graph.blocks),
        tuple(torch.ones(len(block.generators), block.size, dtype=torch.float64) for block in graph.blocks),
    )


def random_element(graph: Graph, generator: torch.Generator) -> Element:
    """Draw an element: uniform permutations and signs, scales log-normal (sigma 1/2), each where it is admitted.

    Where the network is exact, scales are powers of two: no threshold is rounded, outputs stay equal bit for bit.

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
    permutations: list[Tensor] = []
    for block in graph.blocks:
        above = None if block.parent is None else permutations[block.parent]
        permutations.append(_random_permutation(block, above, generator))
    return Element(
        graph,
        tuple(permutations),
        tuple(_random_diagonals(block, generator, exact=graph.exact) for block in graph.blocks),
    )


def inside(block: Block, wholes: Tensor | None, inner: Tensor) -> Tensor:
    """The permutation of a nested block from that of its wholes and, for each new place of a whole, that inside it.

    Args:
        block: The nested block.
        wholes: Permutation of its parent's units, None where it has none.
        inner: int64 ``[wholes, units in a whole]``, or ``[1, units]`` without a parent.

    Returns:
        int64 ``[units]``.
    """
    if wholes is None:
        return inner.flatten()
    return (wholes[:, None] * (block.size // len(wholes)) + inner).flatten()


def _random_permutation(block: Block, above: Tensor | None, generator: torch.Generator) -> Tensor:
    count = 1 if above is None else len(above)
    size = block.size // count
    rows = [torch.arange(size) if block.rigid else torch.randperm(size, generator=generator) for _ in range(count)]
    return inside(block, above, torch.stack(rows))


def _random_diagonals(block: Block, generator: torch.Generator, *, exact: bool) -> Tensor:
    drawn = torch.ones(len(block.generators), block.size, dtype=torch.float64)
    for row, made in zip(drawn, block.generators, strict=True):
        if made.kind == "sign":
            row.copy_(2 * torch.randint(2, (block.size,), generator=generator) - 1)
        else:
            drawn_scales = 0.5 * torch.randn(block.size, generator=generator, dtype=torch.float64)
            row.copy_(torch.exp2((2 * drawn_scales).round()) if exact else torch.exp(drawn_scales))
    return drawn


def _check_permutation(block: Block, p: Tensor, above: Tensor | None) -> None:
    if not torch.equal(p.sort().values, torch.arange(block.size)):
        raise SymmetryError(f"block '{block.name}': expected a permutation of {block.size} units")
    count = 1 if above is None else len(above)
    size = block.size // count
    inner = p.view(count, size) % size
    # Units must go where their wholes go, and rigid ones keep their order there.
    if not torch.equal(inside(block, above, inner), p):
        raise SymmetryError(
            f"block '{block.name}': expected units to move with their wholes, the permutation tears them"
        )
    if block.rigid and not torch.equal(inner, torch.arange(size).expand(count, size)):
        raise SymmetryError(
            f"block '{block.name}': expected units to keep their order, no permutation is admitted there"
        )


def _check_diagonals(block: Block, d: Tensor) -> None:
    shape = (len(block.generators), block.size)
    if d.shape != shape or not bool((torch.isfinite(d) & (d != 0)).all()):
        raise SymmetryError(
            f"block '{block.name}': expected finite nonzero diagonals {list(shape)}, got {list(d.shape)}"
        )
    for row, generator in zip(d, block.generators, strict=True):
        if generator.kind == "sign" and bool((row.abs() != 1).any()):
            raise SymmetryError(
                f"block '{block.name}': expected signs of +1 and -1, this generator does not admit scales"
            )
        if generator.kind == "scale" and bool((row < 0).any()):
            raise SymmetryError(f"block '{block.name}': expected positive scales, this generator does not admit signs")


def _placed(graph: Graph, tensors: Params) -> list[tuple[int, Tie]]:
    return [(i, tie) for i, block in enumerate(graph.blocks) for tie in block.ties if tie.name in tensors]


def _permuted(tensor: Tensor, tie: Tie, block: Block, p: Tensor) -> Tensor:
    if torch.equal(p, torch.arange(block.size)):
        return tensor
    if tie.along is None:
        index = (p[:, None] * tie.repeat + torch.arange(tie.repeat)).flatten()
        whole = torch.arange(tensor.shape[tie.axis])
        whole[tie.start : tie.start + len(index)] = index + tie.start
        return tensor.index_select(tie.axis, whole)
    length = tensor.shape[tie.axis]
    units = length // tie.repeat
    local = (p.view(-1, units) % units)[:, :, None] * tie.repeat + torch.arange(tie.repeat)
    local = local.flatten(1).repeat_interleave(tensor.shape[tie.along] // len(local), dim=0)
    view = tensor.movedim((tie.along, tie.axis), (0, 1))
    index = local.view(*local.shape, *[1] * (view.ndim - 2)).expand(view.shape)
    return view.gather(1, index).movedim((0, 1), (tie.along, tie.axis))


def spread(d: Tensor, tie: Tie, block: Block, tensor: Tensor) -> Tensor:
    """Numbers for units, in the shape that multiplies a tensor along a tie: 1 where the tie does not reach.

    Args:
        d: float64 ``[units]``.
        tie: Where the units stand.
        block: Their block.
        tensor: The tensor tied.

    Returns:
        float64, of as many axes as ``tensor``.
    """
    if tie.along is None:
        factor = torch.ones(tensor.shape[tie.axis], dtype=d.dtype)
        factor[tie.start : tie.start + len(d) * tie.repeat] = d.repeat_interleave(tie.repeat)
        return factor.view([-1 if axis == tie.axis else 1 for axis in range(tensor.ndim)])
    local = d.view(-1, tensor.shape[tie.axis] // tie.repeat).repeat_interleave(tie.repeat, dim=1)
    local = local.repeat_interleave(tensor.shape[tie.along] // len(local), dim=0)
    if tie.along > tie.axis:
        local = local.T
    return local.reshape([tensor.shape[a] if a in (tie.axis, tie.along) else 1 for a in range(tensor.ndim)])


def entries(tensor: Tensor, tie: Tie, block: Block) -> Tensor:
    """The entries of each unit on a tie.

    Args:
        tensor: The tensor tied.
        tie: Where the units stand.
        block: Their block.

    Returns:
        ``[units, entries]``.
    """
    if tie.along is None:
        part = tensor.narrow(tie.axis, tie.start, block.size * tie.repeat)
        return part.movedim(tie.axis, 0).reshape(block.size, -1)
    units = spread(torch.arange(block.size).double(), tie, block, tensor).expand(tensor.shape).flatten()
    return tensor.flatten()[torch.argsort(units, stable=True)].view(block.size, -1)


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
