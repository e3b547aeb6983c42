"""Pickled byte arrays read without running anything a pickle asks for.

The Python version of CIFAR-10 comes as pickles, and a pickle may call any function it names. Here the few names those
files use stand for harmless look-alikes; every other name is an error. Not even NumPy's own constructors run, which
trust the state they are given.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from functools import partial

import numpy as np

from compare.data.source import DataError, Pixels


class PickledBytes:
    """An array of unsigned bytes as a pickle describes it.

    Attributes:
        array: The array, or None until the pickle has given its state.
    """

    def __init__(self, *_: object) -> None:
        """Ignore NumPy's placeholders for the state that follows."""
        self.array: Pixels | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, bytes]) -> None:
        """Take version, shape, type, Fortran order and content, as ``numpy.ndarray.__reduce__`` gives them.

        Raises:
            ValueError: If these are not unsigned bytes that fill the shape.
        """
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _PickledType) or dtype.code not in ("u1", b"u1"):
            raise ValueError("expected an array of unsigned bytes")
        if not isinstance(content, bytes) or math.prod(shape) != len(content):
            raise ValueError(f"the shape {shape} does not fit the array's content")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _PickledType:
    def __init__(self, code: object, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: of no meaning to single bytes."""


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old pickle; the general function could load any codec."""
    if encoding != "latin1":
        raise ValueError(f"expected bytes written as latin1, got {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): PickledBytes,
    ("numpy._core.multiarray", "_reconstruct"): PickledBytes,
    ("numpy", "ndarray"): PickledBytes,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, where: str) -> None:
        # Python 2 wrote its text as bytes.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _ADMITTED:
            raise DataError(
                f"{self._where}: refused to unpickle, it asks for {module}.{name}, which no CIFAR-10 file needs; "
                "do not trust this file"
            )
        # A fresh wrapper: a pickle can set attributes of what it is given.
        return partial(_ADMITTED[module, name])


def _check_memo(content: bytes) -> None:
    """The unpickler allocates as much memory as the largest index asks for, up to 64 GB for a file of ten bytes."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise ValueError(f"memo index {argument} in {len(content)} bytes")


def unpickle(content: bytes, *, where: str) -> object:
    """Read a pickle of dictionaries, lists, numbers, text and arrays of unsigned bytes.

    Args:
        content: The pickle.
        where: The file, for messages.

    Returns:
        What was pickled, with ``PickledBytes`` for arrays, and bytes for the text of Python 2.

    Raises:
        DataError: If the pickle is damaged, or names anything that such data do not need.

    Example:
        >>> unpickle(pickle.dumps({"labels": [3, 1]}), where="an example")
        {'labels': [3, 1]}
    """
    try:
        _check_memo(content)
        return _Unpickler(content, where).load()
    except DataError:
        raise
    except Exception as error:  # damaged pickles make the unpickler raise nearly anything
        raise DataError(
            f"{where}: not a readable pickle ({type(error).__name__}: {error}); replace the file by an undamaged copy"
        ) from error
