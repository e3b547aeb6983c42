"""Linear networks: a path below the larger of two losses, constructed [Topology].

The loss is any convex function of the network's product ``W_K ... W_1``. Both ends are brought to one form, the product
being kept; between the forms the product moves on a straight line, on which a convex function never exceeds its ends.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize

from compare.errors import CompareError
from compare.params import Params, check, check_same_types
from compare.strings.factors import Balanced, Form, Matrix, Piece, Pushed, Signs, Weights, product, rank


class LinearPathError(CompareError, ValueError):
    """Networks between which this construction has no path."""


@dataclass(frozen=True, eq=False)
class LinearNetworkPath:
    """A path between two linear networks on which no convex loss of the product exceeds the larger of both ends.

    Attributes:
        a: Start.
        b: End.
        layers: Names of the weights, first layer first.
        pieces: The path's pieces, each over an equal part of [0, 1].
        transposed: Whether the pieces are of the transposed network.
    """

    a: Params
    b: Params
    layers: tuple[str, ...]
    pieces: tuple[Piece, ...]
    transposed: bool

    def __call__(self, t: float) -> Params:
        """Parameters at ``t``, new tensors; the ends exactly.

        Raises:
            ValueError: For t outside [0, 1].
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t: expected a number between 0 and 1, got {t!r}")
        if t in (0, 1):
            return {name: tensor.clone() for name, tensor in (self.b if t else self.a).items()}
        place = min(int(t * len(self.pieces)), len(self.pieces) - 1)
        weights = self.pieces[place](t * len(self.pieces) - place)
        if self.transposed:
            weights = _transposed(weights)
        return {
            name: torch.from_numpy(np.ascontiguousarray(weight)).to(self.a[name].dtype)
            for name, weight in zip(self.layers, weights, strict=True)
        }


def linear_network_path(a: Params, b: Params, layers: Sequence[str], *, ridge: bool = False) -> LinearNetworkPath:
    """Join two linear networks below the larger of their losses, for every convex loss of the product at once.

    Let r be the smaller of the numbers of inputs and outputs. The path exists, and is constructed, where every hidden
    layer has more than r units. Where some have exactly r, the determinants of the factors there have signs that only
    a product of rank below r lets change; then the path is constructed if

    - the signs of both networks agree, or
    - the product of either network has rank below r, or
    - there are as many inputs as outputs and the determinants of both products differ in sign.

    Otherwise none is, and there may be none: ``w_2 w_1`` of one unit, fitted to 1, has two valleys, apart below the
    loss of ``w_2 w_1 = 0``.

    With a ridge penalty, a multiple of the sum of all squared weights, there must be at most two layers. With three
    there is no such theorem: ``(w_3 w_2 w_1 - 1)^2 + k (w_1^2 + w_2^2 + w_3^2)`` has a valley of its own around 0 for
    small k.

    Args:
        a: Start: weights ``[out, in]`` by name, and nothing else; not changed.
        b: End, likewise.
        layers: Names of the weights, first layer first.
        ridge: Whether the path must also bear a ridge penalty, whatever its factor.

    Returns:
        The path; computed in float64, given in the type of the weights.

    Raises:
        ParameterError: If ``b`` does not fit ``a``, or for NaN or infinity.
        LinearPathError: If these are no linear networks of one shape, for ridge with more than two layers, for a hidden
            layer with fewer than r units, or in the cases above in which there may be no path.

    Example:
        >>> a, b = ({"first": torch.randn(4, 3), "last": torch.randn(2, 4)} for _ in range(2))
        >>> sorted(linear_network_path(a, b, ["first", "last"])(0.5))
        ['first', 'last']
    """
    start, end = _weights(a, b, layers)
    shapes = [weight.shape for weight in start]
    _check_shapes(shapes, ridge=ridge)
    transposed = shapes[-1][0] > shapes[0][1]
    if transposed:
        start, end = _transposed(start), _transposed(end)
    form = _form([weight.shape for weight in start], ridge=ridge)
    pieces = _joined(form, start, end) if form else [_line(start, end)]
    first, last = ({name: tensor.detach().clone() for name, tensor in params.items()} for params in (a, b))
    return LinearNetworkPath(first, last, tuple(layers), tuple(pieces), transposed)


def _form(shapes: Sequence[tuple[int, ...]], *, ridge: bool) -> Form | None:
    """The form that both ends are brought to; a single layer needs none."""
    pairs = [(rows, columns) for rows, columns in shapes]
    if len(pairs) == 1:
        return None
    return Balanced(pairs) if ridge else Pushed(pairs)


def _joined(form: Form, start: Weights, end: Weights) -> list[Piece]:
    (there, first), (back, last) = form.reduce(start), form.reduce(end)
    between = _between(form, product(start), product(end), first, last)
    return [*there, *between, *(_reversed(piece) for piece in reversed(back))]


def _between(form: Form, p: Matrix, q: Matrix, first: Signs, last: Signs) -> list[Piece]:
    """From the form of one product to that of the other; signs change at a product that lets them, if they must."""
    if first == last:
        return [_products(form, p, q, first)]
    if rank(p) < len(p):
        return [*form.flip(p, first, last), _products(form, p, q, last)]
    if rank(q) < len(q):
        return [_products(form, p, q, first), *form.flip(q, first, last)]
    singular = _singular(p, q)
    return [
        _products(form, p, singular, first),
        *form.flip(singular, first, last),
        _products(form, singular, q, last),
    ]


def _singular(p: Matrix, q: Matrix) -> Matrix:
    """A singular product on the straight line between two that are not.

    Raises:
        LinearPathError: If determinants do not tell that there is one.
    """
    if p.shape[0] != p.shape[1] or np.linalg.det(p) * np.linalg.det(q) > 0:
        raise LinearPathError(
            "a hidden layer has as many units as the product has rank, and the factors' determinants there differ in "
            "sign between both networks: no path is constructed, and there may be none; use wider hidden layers"
        )
    t = optimize.brentq(lambda t: np.linalg.det((1 - t) * p + t * q), 0, 1, xtol=1e-16)
    left, sizes, right = np.linalg.svd((1 - t) * p + t * q)
    sizes[-1] = 0  # which it is but for rounding
    found: Matrix = (left * sizes) @ right
    return found


def _products(form: Form, p: Matrix, q: Matrix, signs: Signs) -> Piece:
    return lambda s: form.at((1 - s) * p + s * q, signs)


def _line(start: Weights, end: Weights) -> Piece:
    return lambda s: tuple((1 - s) * x + s * y for x, y in zip(start, end, strict=True))


def _reversed(piece: Piece) -> Piece:
    return lambda s: piece(1 - s)


def _transposed(weights: Weights) -> Weights:
    return tuple(weight.T for weight in reversed(weights))


def _weights(a: Params, b: Params, layers: Sequence[str]) -> tuple[Weights, Weights]:
    if not layers or sorted(layers) != sorted(a):
        raise LinearPathError(
            f"layers: expected the names of all parameters, {', '.join(sorted(a))}, each a weight of a linear network "
            f"without biases, got {', '.join(layers) or 'none'}"
        )
    if misfit := [name for name in layers if a[name].dim() != 2 or not a[name].is_floating_point()]:
        raise LinearPathError(f"expected weights [out, in] of real numbers, got others: {', '.join(misfit)}")
    check(a, a, what="a")
    check(b, a, what="b")
    check_same_types(a, b)
    first, second = (tuple(end[name].detach().double().numpy() for name in layers) for end in (a, b))
    return first, second


def _check_shapes(shapes: Sequence[tuple[int, ...]], *, ridge: bool) -> None:
    shown = ", ".join(f"{rows}x{columns}" for rows, columns in shapes)
    if any(above[1] != below[0] for below, above in itertools.pairwise(shapes)):
        raise LinearPathError(f"expected each layer to take what the one before gives, got weights {shown}")
    smaller = min(shapes[0][1], shapes[-1][0])
    if any(rows < smaller for rows, _ in shapes[:-1]):
        raise LinearPathError(
            f"expected hidden layers of at least {smaller} units, the smaller of inputs and outputs, got {shown}"
        )
    if ridge and len(shapes) > 2:
        raise LinearPathError(
            f"ridge: expected at most two layers, got {len(shapes)}: with more, level sets of a loss with ridge need "
            "not be connected; leave ridge out"
        )
