"""Moves of the factors of a linear network: paths on which the product stays, or the ridge only falls.

Everything is float64 numpy. A network is a tuple of matrices, first layer first, whose product ``W_K ... W_1`` has no
more rows than columns (``theory`` transposes those that have). A piece is a function from [0, 1] to networks.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import linalg

Matrix: TypeAlias = npt.NDArray[np.float64]
Weights: TypeAlias = tuple[Matrix, ...]
Piece: TypeAlias = Callable[[float], Weights]
Signs: TypeAlias = tuple[int, ...]

# Singular values below this fraction of the largest count as 0.
RANK = 1e-10


class Form(Protocol):
    """A form that every network can be brought to, given by its product and by one sign for each hidden layer.

    A sign is -1 only where a hidden layer is as wide as the product has rows; there the group of the factors falls into
    two parts.
    """

    def reduce(self, weights: Weights) -> tuple[list[Piece], Signs]:
        """Pieces from a network to its form, the product being kept, and the signs of the form."""
        ...

    def at(self, product: Matrix, signs: Signs) -> Weights:
        """The network of this form; continuous in the product."""
        ...

    def flip(self, product: Matrix, signs: Signs, target: Signs) -> list[Piece]:
        """Pieces between the forms of one product without full rank, from one choice of signs to another."""
        ...


def product(weights: Sequence[Matrix]) -> Matrix:
    """``W_K ... W_1``."""
    found = weights[0]
    for each in weights[1:]:
        found = each @ found
    return found


def rank(matrix: Matrix) -> int:
    """Number of singular values that are not 0 to rounding."""
    sizes = np.linalg.svd(matrix, compute_uv=False)
    return int((sizes > RANK * sizes[0]).sum()) if sizes.size and sizes[0] > 0 else 0


class Pushed:
    """Upper layers ``[D, 0; 0, 0]`` with D = diag(1, ..., 1, sign), the product in the first; any number of layers.

    The layers are emptied from the top: what a layer does beside the rows in use has no effect and goes to 0, and so
    does what the layer below does where these rows, ``[m, h]``, do not look; then they move to ``[D, 0]`` through
    matrices T of full rank (but perhaps the first), while the layer below is ``T^+`` times what both do together.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Keep the shapes of the layers, first layer first."""
        self._shapes = tuple(shapes)

    def reduce(self, weights: Weights) -> tuple[list[Piece], Signs]:
        """See ``Form``."""
        rows = weights[-1].shape[0]
        current, pieces = list(weights), list[Piece]()
        signs: list[int] = []
        for k in range(len(weights) - 1, 0, -1):
            for moved in _emptied(current[k], current[k - 1], rows):
                pieces.append(_straight(tuple(current), before := _placed(current, k, *moved)))
                current = list(before)
            piece, sign = _turned(current, k, rows)
            pieces.append(piece)
            current = list(piece(1.0))
            signs.insert(0, sign)
        return pieces, tuple(signs)

    def at(self, product: Matrix, signs: Signs) -> Weights:
        """See ``Form``."""
        rows = product.shape[0]
        uppers = [
            _padded(_flat(rows, shape[1], sign), shape) for shape, sign in zip(self._shapes[1:], signs, strict=True)
        ]
        first = product.copy()
        first[-1] *= np.prod(signs)
        return (_padded(first, self._shapes[0]), *uppers)

    def flip(self, product: Matrix, signs: Signs, target: Signs) -> list[Piece]:
        """See ``Form``: turned so that the product's last row is 0, the last entries are free to pass through 0."""
        rows = product.shape[0]
        left = np.linalg.svd(product)[0].T
        if rows > 1:
            left[0] *= np.sign(np.linalg.det(left))
        turn = _rotation(left)

        def turned(s: float, of: Signs) -> Weights:
            first, *uppers = self.at(turn(s) @ product, of)
            uppers[-1] = turn(s).T @ uppers[-1]
            return (first, *uppers)

        return [
            lambda s: turned(s, signs),
            _straight(turned(1.0, signs), turned(1.0, target)),
            lambda s: turned(1 - s, target),
        ]


class Balanced:
    """Two layers of equal size, ``W_2 = (PP^T)^(1/4) [D, 0]`` and ``W_1 = [D; 0] (PP^T)^(-1/4) P``.

    On the way ``|W_1|^2 + |W_2|^2`` never rises: what the other factor does not see goes to 0, then the factors follow
    a geodesic ``g^s W_1, W_2 g^-s`` of positive definite matrices, on which it is convex, to its minimum, and last they
    turn. In this form it is twice the nuclear norm of the product P, which is convex in P.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Keep the width of the hidden layer."""
        self._width = shapes[0][0]

    def reduce(self, weights: Weights) -> tuple[list[Piece], Signs]:
        """See ``Form``."""
        below, above = weights
        seen = _projector(above.T)
        pieces: list[Piece] = [_straight(weights, weights := (seen @ below, above))]
        seen = _projector(weights[0])
        pieces.append(_straight(weights, weights := (weights[0], above @ seen)))
        pieces.append(_balancing(*weights))
        weights = pieces[-1](1.0)
        whole = product(weights)
        left, sizes, _ = np.linalg.svd(whole, full_matrices=False)
        found = rank(whole)
        left = left[:, :found]
        frame = weights[1].T @ left / np.sqrt(sizes[:found])
        aim = self._frame(left, 1)
        sign = -1 if found == self._width and np.linalg.det(frame) * np.linalg.det(aim) < 0 else 1
        pieces.append(_turning(weights, frame, self._frame(left, sign)))
        return pieces, (sign,)

    def at(self, product: Matrix, signs: Signs) -> Weights:
        """See ``Form``."""
        rows, columns = product.shape
        left, sizes, right = np.linalg.svd(product, full_matrices=False)
        flat = _flat(rows, self._width, signs[0])
        first = flat.T @ (left * np.sqrt(sizes)) @ right
        return first.reshape(self._width, columns), (left * np.sqrt(sizes)) @ left.T @ flat

    def flip(self, product: Matrix, signs: Signs, target: Signs) -> list[Piece]:
        """See ``Form``: fewer directions are in use than there are units, so both frames are a rotation apart."""
        left = np.linalg.svd(product, full_matrices=False)[0][:, : rank(product)]
        frames = (self._frame(left, sign) for sign in (*signs, *target))
        return [_turning(self.at(product, signs), *frames)]

    def _frame(self, left: Matrix, sign: int) -> Matrix:
        return _flat(left.shape[0], self._width, sign).T @ left


def _emptied(weight: Matrix, below: Matrix, rows: int) -> list[tuple[Matrix, Matrix]]:
    """Networks on the way to layers without what has no effect, the straight lines between them keeping the product."""
    used = weight.copy()
    used[rows:] = 0
    return [(used, below), (used, _projector(used[:rows].T) @ below)]


def _placed(weights: Sequence[Matrix], k: int, above: Matrix, below: Matrix) -> Weights:
    moved = list(weights)
    moved[k], moved[k - 1] = above, below
    return tuple(moved)


def _turned(weights: Sequence[Matrix], k: int, rows: int) -> tuple[Piece, int]:
    """From the rows in use, U S V^T, to ``[D, 0]``: through U ((1 - s) S + s) V^T R(s), and the sign in D.

    The layer below is the pseudo-inverse of this times the product of both, written out: inverted numerically it loses
    all digits where S is singular and s is small.
    """
    kept, shape = tuple(weights), weights[k].shape
    left, sizes, right = np.linalg.svd(weights[k][:rows], full_matrices=False)
    frame, seen = left @ right, right @ weights[k - 1]
    sign = -1 if shape[1] == rows and np.linalg.det(frame) < 0 else 1
    turn = _rotation(_completed(frame.T) @ _completed(_flat(rows, shape[1], sign).T).T)

    def at(s: float) -> Weights:
        scale = (1 - s) * sizes + s
        ratio = np.divide(sizes, scale, out=np.zeros_like(sizes), where=scale > 0)
        turned = right @ turn(s)
        return _placed(kept, k, _padded((left * scale) @ turned, shape), turned.T @ (ratio[:, None] * seen))

    return at, sign


def _completed(frame: Matrix) -> Matrix:
    """An orthogonal matrix that begins with the columns of ``frame``, of determinant 1 where a column was added."""
    size, columns = frame.shape
    added = linalg.null_space(frame.T) if columns else np.eye(size)
    whole: Matrix = np.hstack([frame, added[:, : size - columns]])
    if columns < size and np.linalg.det(whole) < 0:
        whole[:, -1] *= -1
    return whole


def _rotation(matrix: Matrix) -> Callable[[float], Matrix]:
    """The path from the identity to a matrix of SO(n) that turns each plane at constant speed."""
    if matrix.shape[0] == 1:
        return lambda s: np.eye(1)
    form, basis = linalg.schur(matrix, output="real")
    planes, negative, i = [], [], 0
    while i < len(form):
        if i + 1 < len(form) and abs(form[i + 1, i]) > RANK:
            planes.append((i, i + 1, float(np.arctan2(form[i + 1, i], form[i, i]))))
            i += 2
            continue
        if form[i, i] < 0:
            negative.append(i)
        i += 1
    # The determinant being 1, directions that are reversed come in pairs, each a plane turned by half a turn.
    planes += [(i, j, np.pi) for i, j in zip(negative[::2], negative[1::2], strict=True)]

    def at(s: float) -> Matrix:
        turned = np.eye(len(form))
        for i, j, angle in planes:
            c, d = np.cos(s * angle), np.sin(s * angle)
            turned[i, i], turned[i, j], turned[j, i], turned[j, j] = c, -d, d, c
        moved: Matrix = basis @ turned @ basis.T
        return moved

    return at


def _turning(weights: Weights, frame: Matrix, target: Matrix) -> Piece:
    below, above = weights
    turn = _rotation(_completed(target) @ _completed(frame).T)
    return lambda s: (turn(s) @ below, above @ turn(s).T)


def _balancing(below: Matrix, above: Matrix) -> Piece:
    """The geodesic of the orbit from two factors of one rank to those of least norm.

    With ``W_1 = V X`` and ``W_2 = Y V^T`` the norm of ``g X`` and ``Y g^-1`` is least where M = g^T g solves M A M = B
    with A = X X^T and B = Y^T Y: the geometric mean of A^-1 and B. Its root comes from singular values of products of
    X and Y, of which none is squared: A and B themselves have twice as many orders of magnitude.
    """
    basis = np.linalg.svd(below, full_matrices=False)[0][:, : rank(below)]
    x, y = basis.T @ below, above @ basis
    u, sizes, _ = np.linalg.svd(x, full_matrices=False)
    _, c, w = np.linalg.svd(y @ (u * sizes) @ u.T, full_matrices=False)
    _, m, v = np.linalg.svd((np.sqrt(c)[:, None] * w) @ (u / sizes) @ u.T, full_matrices=False)
    return lambda s: (basis @ (v.T * m**s) @ v @ x, y @ (v.T * m**-s) @ v @ basis.T)


def _projector(matrix: Matrix) -> Matrix:
    """Orthogonal, onto the space of the columns."""
    basis = np.linalg.svd(matrix, full_matrices=False)[0][:, : rank(matrix)]
    found: Matrix = basis @ basis.T
    return found


def _straight(start: Weights, end: Weights) -> Piece:
    return lambda s: tuple((1 - s) * a + s * b for a, b in zip(start, end, strict=True))


def _flat(rows: int, columns: int, sign: int) -> Matrix:
    found = np.eye(rows, columns)
    found[-1, rows - 1] = sign
    return found


def _padded(matrix: Matrix, shape: Sequence[int]) -> Matrix:
    found = np.zeros(tuple(shape))
    found[: matrix.shape[0], : matrix.shape[1]] = matrix
    return found
