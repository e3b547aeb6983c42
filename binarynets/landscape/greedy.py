"""An order of flips that keeps the error low: bits with the smallest harm first."""

from collections.abc import Callable
from itertools import pairwise
from math import ceil

import numpy as np

from binarynets.landscape.flips import Ints, Timed
from binarynets.landscape.neighbourhood import FlipEffects
from compare.geometry import Path
from compare.params import Params, lerp, sign
from compare.progress import progress

ROUNDS = 100

CANDIDATES = 1.25
"""How many flips are drawn for each that is taken. With all that are left as candidates, the flips of a few units go
first, their pre-activations leave the thresholds behind, and the error rises to that of guessing."""


def greedy(
    look: Callable[[Params], FlipEffects],
    path: Path,
    line: Timed,
    *,
    rounds: int = ROUNDS,
    candidates: float = CANDIDATES,
    seed: int = 0,
    describe: str | None = None,
) -> Ints:
    """An order in which the next flips are those of the smallest effect on the error, by larger margins among equals.

    The effect of every flip that is left is known exactly for the network at hand, but not for those a few flips on. So
    there are ``rounds`` looks, and after each the best share of randomly drawn candidates is taken at once.

    Args:
        look: The effects of all single flips on a network.
        path: The straight line, along which everything but the bits moves.
        line: All flips with the times of the straight line.
        rounds: Number of looks.
        candidates: Flips drawn for each that is taken.
        seed: Of the draws.
        describe: Text before the progress line; None shows none.

    Returns:
        Places among ``line.flips``.
    """
    flips = line.flips
    bits = {name: sign(path.a[name]) for name in flips.names}
    generator = np.random.default_rng(seed)
    order = np.zeros(len(flips), np.int64)
    left = np.ones(len(flips), bool)
    bounds = np.linspace(0, len(flips), rounds + 1).astype(int)
    shares = [(start, end) for start, end in pairwise(bounds) if end > start]
    for start, end in progress(shares, describe, unit="look"):
        t = float(line.t[start - 1]) if start else 0.0
        effects = look({**lerp(path.a, path.b, t), **bits})
        harm, margin = np.zeros(len(flips)), np.zeros(len(flips))
        for layer, name in enumerate(flips.names):
            own = flips.layer == layer
            at = flips.unit[own], flips.source[own]
            harm[own], margin[own] = effects.errors[name][at].numpy(), effects.margins[name][at].numpy()
        drawn = generator.permutation(np.flatnonzero(left))[: ceil(min(candidates * (end - start), len(flips)))]
        best = drawn[np.lexsort((-margin[drawn], harm[drawn]))][: end - start]
        order[start:end], left[best] = best, False
        for layer, name in enumerate(flips.names):
            own = best[flips.layer[best] == layer]
            bits[name] = bits[name].clone()
            bits[name][flips.unit[own], flips.source[own]] *= -1
    return order
