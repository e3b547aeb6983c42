"""Which strings join a whole set of networks at the lowest energies: minimum spanning tree and minimax energies."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csgraph

from compare.strings.landscape import StringError

Pair = tuple[str, str]


@dataclass(frozen=True)
class StringTree:
    """The minimum spanning tree of networks whose edges are strings, weighted by the highest energy on each.

    Attributes:
        names: The networks.
        edges: Pairs that the tree joins, one fewer than there are networks, from the lowest energy to the highest.
        energies: Highest energy on the string of each edge.
        minimax: For each pair of networks, in the order of ``names``: the least energy that a chain of strings has to
            pass to lead from one to the other. The tree's own chains pass no more.
    """

    names: tuple[str, ...]
    edges: tuple[Pair, ...]
    energies: tuple[float, ...]
    minimax: Mapping[Pair, float]


def string_tree(names: Sequence[str], energies: Mapping[Pair, float]) -> StringTree:
    """Find the tree.

    A string that was not shown connected counts like the others, with the highest energy found on it: an upper bound.

    Args:
        names: The networks, each once, at least two.
        energies: Highest energy on the string of each pair, for instance ``String.finer_maximum``; either order of a
            pair, and pairs may be missing as long as the others join all networks.

    Returns:
        The tree. Among equal energies, pairs that come first in the order of ``names`` are taken.

    Raises:
        StringError: For names or pairs that make no set of networks, energies that are NaN or infinite, or networks
            that no chain of strings joins.

    Example:
        >>> tree = string_tree(["a", "b", "c"], {("a", "b"): 1.0, ("b", "c"): 2.0, ("a", "c"): 5.0})
        >>> tree.edges, tree.minimax["a", "c"]
        ((('a', 'b'), ('b', 'c')), 2.0)
    """
    names = tuple(names)
    found = _checked(names, energies)
    # Ranks instead of energies: csgraph takes a weight of 0 for a missing edge, and ties are to fall by order.
    pairs = sorted(found, key=lambda pair: (found[pair], names.index(pair[0]), names.index(pair[1])))
    weights = np.zeros((len(names), len(names)))
    for order, (one, other) in enumerate(pairs, 1):
        weights[names.index(one), names.index(other)] = order
    chosen = csgraph.minimum_spanning_tree(weights).tocoo()
    edges = tuple(pairs[int(order) - 1] for order in sorted(chosen.data))
    if len(edges) < len(names) - 1:
        raise StringError(f"expected strings that join all networks, got {_parts(names, edges)} separate parts")
    return StringTree(names, edges, tuple(found[edge] for edge in edges), _minimax(names, edges, found))


def _minimax(names: Sequence[str], edges: Sequence[Pair], energies: Mapping[Pair, float]) -> dict[Pair, float]:
    """Edges from low to high: the one that joins two parts is the highest on the way between any two of them."""
    part = {name: frozenset([name]) for name in names}
    between: dict[frozenset[str], float] = {}
    for one, other in edges:
        for pair in itertools.product(part[one], part[other]):
            between[frozenset(pair)] = energies[one, other]
        joined = part[one] | part[other]
        part |= dict.fromkeys(joined, joined)
    return {(one, other): between[frozenset((one, other))] for one, other in itertools.combinations(names, 2)}


def _parts(names: Sequence[str], edges: Sequence[Pair]) -> int:
    return len(names) - len(edges)


def _checked(names: Sequence[str], energies: Mapping[Pair, float]) -> dict[Pair, float]:
    """Pairs in the order of ``names``."""
    if len(names) < 2 or len(set(names)) < len(names):
        raise StringError(f"names: expected at least two networks, each once, got {', '.join(names) or 'none'}")
    found: dict[Pair, float] = {}
    for (one, other), energy in energies.items():
        if one == other or not {one, other} <= set(names):
            raise StringError(f"energies: expected pairs of two of the networks, got {one!r} and {other!r}")
        if not math.isfinite(energy):
            raise StringError(f"energies: expected finite numbers, got {energy} between {one!r} and {other!r}")
        pair = (one, other) if names.index(one) < names.index(other) else (other, one)
        if pair in found:
            raise StringError(f"energies: expected each pair once, got {one!r} and {other!r} in both orders")
        found[pair] = float(energy)
    return found
