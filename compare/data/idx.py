"""The IDX format of MNIST (http://yann.lecun.com/exdb/mnist) and the data sets stored in it."""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from compare.data.files import find_file, read_file
from compare.data.source import DataError, Images, Pixels, Source, check_labels

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
EXPECTED = f"{', '.join(FILES)}, each may be gzipped"
CLASSES = 10
_UNSIGNED_BYTE = 0x08

# MD5 of each data set's four files as in FILES, decompressed: the data sets give their files the same names and sizes.
CONTENTS: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {
        "mnist": (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        "fashion-mnist": (
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
    }
)


def parse_idx(content: bytes, *, dimensions: int, where: str) -> Pixels:
    """Read one IDX file of unsigned bytes: a magic number, big-endian sizes, the bytes in C order.

    Args:
        content: The whole file, decompressed.
        dimensions: Expected number of dimensions: 3 for images, 1 for labels.
        where: The file, for messages.

    Returns:
        An array of the sizes the file states.

    Raises:
        DataError: If the magic number is another, a size is 0, or the file is shorter or longer than its sizes say.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]), dimensions=1, where="labels")
        array([7, 2, 1], dtype=uint8)
    """
    magic, start = bytes([0, 0, _UNSIGNED_BYTE, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(
            f"{where}: expected the magic number {magic.hex()} (IDX, unsigned bytes, {dimensions} dimensions), "
            f"got {content[:4].hex() or 'an empty file'}; is it another file under this name?"
        )
    if len(content) < start:
        raise DataError(f"{where}: too short, {len(content)} bytes where the header alone takes {start}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected, found = math.prod(shape), len(content) - start
    if not expected:
        raise DataError(f"{where}: empty, its header states the sizes {shape}")
    if found != expected:
        raise DataError(
            f"{where}: too {'short' if found < expected else 'long'}, its header states {' x '.join(map(str, shape))} "
            f"= {expected} bytes and {found} follow; replace the file by an undamaged copy"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_set(folder: Path, *, name: str) -> Source | None:
    """The data set that four IDX files in one folder make.

    Args:
        folder: Holds the files of ``FILES``, each as it is or gzipped, spelled ``-idx3-`` or ``.idx3-``.
        name: Of the data set.

    Returns:
        The data set, or None if not all four files are there.

    Raises:
        DataError: Naming the file that is damaged or another data set's, or the two that do not belong together.
    """
    found = [find_file(folder, stem, stem.replace("-idx", ".idx")) for stem in FILES]
    paths = [path for path in found if path is not None]
    if len(paths) < len(FILES):
        return None
    contents = [_read_own(path, name) for path in paths]
    train, test = (_pair(paths[i : i + 2], contents[i : i + 2]) for i in (0, 2))
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise DataError(
            f"{paths[0]} and {paths[2]}: expected images of one size, got {train.pixels.shape[2:]} to train "
            f"and {test.pixels.shape[2:]} to test on"
        )
    return Source(name, train, test, classes=CLASSES)


def _read_own(path: Path, name: str) -> bytes:
    content = read_file(path)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for other, known in CONTENTS.items():
        if other != name and found in known:
            raise DataError(
                f"{path}: this is a file of '{other}', expected one of '{name}'; "
                "correct the folder, or ask for the data set that it holds"
            )
    return content


def _pair(paths: Sequence[Path], contents: Sequence[bytes]) -> Images:
    images, labels = paths
    pixels = parse_idx(contents[0], dimensions=3, where=str(images))
    classes = parse_idx(contents[1], dimensions=1, where=str(labels)).astype(np.int64)
    if len(pixels) != len(classes):
        raise DataError(
            f"{images} and {labels}: expected one label for each image, got {len(pixels)} images "
            f"and {len(classes)} labels; are they of one data set?"
        )
    check_labels(classes, CLASSES, str(labels))
    return Images(pixels[:, None], classes)
