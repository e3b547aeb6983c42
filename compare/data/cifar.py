"""CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html): binary version, Python version, or JPEG."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from compare.data.files import find_file, read_archive, read_file
from compare.data.images import read_tree
from compare.data.source import DataError, Images, Labels, Pixels, Source, check_labels
from compare.data.unpickle import PickledBytes, unpickle

EXPECTED = (
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin, or the same without .bin (the Python version), each may "
    "be gzipped; or cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or images.tar.xz"
)
CLASSES = 10
SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = "test_batch"
_JPEG = "images.tar.xz"


def parse_binary(content: bytes, *, where: str) -> Images:
    """Read a batch of the binary version: records of 1 label byte and 3,072 pixel bytes, channel by channel.

    Args:
        content: The whole file, decompressed.
        where: The file, for messages.

    Returns:
        Its images ``[samples, 3, 32, 32]``.

    Raises:
        DataError: If the file is not a whole number of records, or a label is not from 0 to 9.
    """
    records, rest = divmod(len(content), 1 + _PIXELS)
    if rest or not records:
        raise DataError(
            f"{where}: expected records of {1 + _PIXELS} bytes (a label and {_PIXELS} pixels), got {len(content)} "
            f"bytes: {records} records and {rest} bytes over; replace the file by an undamaged copy"
        )
    table = np.frombuffer(content, np.uint8).reshape(records, 1 + _PIXELS)
    return _images(table[:, 1:], table[:, 0].astype(np.int64), where)


def parse_python(content: bytes, *, where: str) -> Images:
    """Read a batch of the Python version, a pickled dictionary of ``data`` ``[samples, 3072]`` and ``labels``.

    Args:
        content: The whole file, decompressed. It is unpickled without running anything it asks for.
        where: The file, for messages.

    Returns:
        Its images ``[samples, 3, 32, 32]``.

    Raises:
        DataError: If the file is damaged, is no such dictionary, asks for anything else, or has wrong labels.
    """
    batch = unpickle(content, where=where)
    data, labels = (_entry(batch, key) for key in ("data", "labels"))
    pixels = data.array if isinstance(data, PickledBytes) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or not len(pixels):
        raise DataError(f"{where}: expected a dictionary with 'data', an array of bytes of shape [samples, {_PIXELS}]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: expected 'labels' to be a list of integers")
    if len(labels) != len(pixels):
        raise DataError(
            f"{where}: expected one label for each image, got {len(pixels)} images and {len(labels)} labels"
        )
    return _images(pixels, np.array([_bounded(label) for label in labels], dtype=np.int64), where)


def _entry(batch: object, key: str) -> Any:
    """Keys are bytes in the official files, written by Python 2, and text in files written since."""
    return batch.get(key.encode(), batch.get(key)) if isinstance(batch, dict) else None


def _bounded(label: int) -> int:
    # Pickled integers have any size; what int64 cannot hold is out of range like every other wrong label.
    return label if 0 <= label < CLASSES else -1


def _images(rows: Pixels, labels: Labels, where: str) -> Images:
    check_labels(labels, CLASSES, where)
    return Images(rows.reshape(-1, *SHAPE), labels)


@dataclass(frozen=True)
class _Version:
    suffix: str
    archive: str
    unpacked: str
    parse: Callable[..., Images]


_VERSIONS = (
    _Version(".bin", "cifar-10-binary.tar.gz", "cifar-10-batches-bin", parse_binary),
    _Version("", "cifar-10-python.tar.gz", "cifar-10-batches-py", parse_python),
)


def read_cifar10(folder: Path) -> Source | None:
    """CIFAR-10 in whichever form lies in a folder.

    Looked for in this order: the files of the binary and of the Python version (in the folder, or in the one that their
    archive unpacks to), their archives, ``images.tar.xz`` with members ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``.
    A version counts as there with at least one training batch and the test batch.

    Args:
        folder: Where to look.

    Returns:
        The data set, or None if no form of it is there. The JPEG form, whose pixels differ a little from the original's
        and which takes about 12 s to decode on one core, is named "cifar10-jpeg".

    Raises:
        DataError: Naming the file that is damaged.
    """
    for version in _VERSIONS:
        for place in (folder, folder / version.unpacked):
            if found := _read_loose(place, version):
                return found
    for version in _VERSIONS:
        if (path := folder / version.archive).is_file():
            return _read_archived(path, version)
    return _read_jpeg(folder / _JPEG) if (folder / _JPEG).is_file() else None


def _read_loose(folder: Path, version: _Version) -> Source | None:
    train = [path for stem in _TRAIN if (path := find_file(folder, stem + version.suffix))]
    test = find_file(folder, _TEST + version.suffix)
    if not train or not test:
        return None
    *batches, held_out = (version.parse(read_file(path), where=str(path)) for path in (*train, test))
    return Source("cifar10", _joined(batches), held_out, CLASSES)


def _read_archived(path: Path, version: _Version) -> Source:
    members = {PurePosixPath(name).name: content for name, content in read_archive(path).items()}
    train = [name for stem in _TRAIN if (name := stem + version.suffix) in members]
    test = _TEST + version.suffix
    if not train or test not in members:
        raise DataError(
            f"{path}: expected a data_batch and a test_batch in the archive, got {', '.join(members) or 'none'}"
        )
    *batches, held_out = (version.parse(members[name], where=f"{path}: {name}") for name in (*train, test))
    return Source("cifar10", _joined(batches), held_out, CLASSES)


def _joined(batches: list[Images]) -> Images:
    return Images(np.concatenate([b.pixels for b in batches]), np.concatenate([b.labels for b in batches]))


def _read_jpeg(path: Path) -> Source:
    members = read_archive(path)
    names = sorted(name for name in members if name.startswith(("train/", "test/")))
    source = read_tree(names, members.__getitem__, name="cifar10-jpeg", where=str(path), seed=0)
    shape = source.train.pixels.shape[1:]
    if source.classes != CLASSES or shape != SHAPE:
        raise DataError(
            f"{path}: expected CIFAR-10, {CLASSES} classes of images {SHAPE} (channels, height, width), "
            f"got {source.classes} classes of {shape}; read other images as the data set 'images'"
        )
    return source
