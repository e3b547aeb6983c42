"""Data sets by name."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from compare.data import cifar, idx
from compare.data.digits import read_digits
from compare.data.fetch import cache, fetch
from compare.data.images import read_images
from compare.data.names import DATA_SETS
from compare.data.source import DataError, Source
from compare.data.split import Data, as_data

# How to read what lies in one folder, None if it is not all there, and what is looked for.
_READERS: Mapping[str, tuple[Callable[[Path], Source | None], str]] = {
    "mnist": (partial(idx.read_idx_set, name="mnist"), idx.EXPECTED),
    "fashion-mnist": (partial(idx.read_idx_set, name="fashion-mnist"), idx.EXPECTED),
    "cifar10": (cifar.read_cifar10, cifar.EXPECTED),
}


def load_data(name: str, root: str | os.PathLike[str] | None = None, *, download: bool = False, seed: int = 0) -> Data:
    """Load a data set. Nothing is augmented, and the same arguments and files give the same bits.

    Args:
        name: One of ``DATA_SETS``: "digits" is embedded; "mnist" and "fashion-mnist" are four IDX files; "cifar10" is
            its binary or Python version, in files or archive, or ``images.tar.xz``; "images" is a tree of PNG or JPEG
            images, one folder a class, under ``root/train`` and ``root/test`` or directly under ``root``.
        root: The folder with the files, or with a folder ``name`` that holds them; not needed for "digits".
        download: Fetch "mnist", "fashion-mnist" or "cifar10" into the folder ``name`` of ``root`` (by default of the
            user's cache) unless it is already there.
        seed: Of the choice of calibration images, and of the test images of "digits" and of a tree without a ``test``.

    Returns:
        The data set.

    Raises:
        DataError: If the name is unknown; if files are missing, saying where what was looked for; if a file is
            damaged or another data set's, naming it and the defect; if a folder may not be looked into; if fetching
            fails.

    Example:
        >>> data = load_data("digits")
        >>> data.input_shape, data.classes, len(data.train), len(data.test)
        ((1, 8, 8), 10, 1438, 359)
        >>> data.train.x.min().item(), data.train.x.max().item()
        (-16.0, 16.0)
    """
    if name not in DATA_SETS:
        raise DataError(f"unknown data set {name!r}, expected one of {', '.join(DATA_SETS)}")
    if seed < 0:
        raise DataError(f"seed: expected a whole number from 0 up, got {seed}")
    try:
        source = _source(name, root, download=download, seed=seed)
    except OSError as error:
        raise DataError(
            f"{name}: could not look into {error.filename or root}: {error.strerror}; "
            "correct the path (root=, --data-root), or its permissions"
        ) from error
    return as_data(source, seed=seed)


def _source(name: str, root: str | os.PathLike[str] | None, *, download: bool, seed: int) -> Source:
    if name == "digits":
        return read_digits(seed=seed)
    download = download and name in _READERS
    if root is None and not download:
        remedy = "give the folder that holds them (root=, --data-root)"
        remedy += (
            ", or let them be fetched (download=True, or `compare-nets run --download`)" if name in _READERS else ""
        )
        raise DataError(f"{name}: needs files, and no folder was given; {remedy}")
    folder = cache() if root is None else Path(root).expanduser()
    if not download and not folder.is_dir():
        raise DataError(
            f"{name}: expected the folder {folder}, and there is none; correct the path (root=, --data-root)"
        )
    return read_images(folder, seed=seed) if name == "images" else _stored(name, folder, download=download)


def _stored(name: str, root: Path, *, download: bool) -> Source:
    read, expected = _READERS[name]
    # The data set's own folder first: MNIST and Fashion-MNIST give their files the same names.
    places = (root / name, root)
    for place in places:
        if source := read(place):
            return source
    if not download:
        raise DataError(
            f"{name}: its files are not there, or not all of them. Looked for {expected}; "
            f"in {' and in '.join(map(_described, places))}. "
            "Put them there, or let them be fetched (download=True, or `compare-nets run --download`)."
        )
    fetch(name, root / name)
    source = read(root / name)
    assert source is not None
    return source


def _described(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} (no such folder)"
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    shown = ", ".join(files[:12]) + (", ..." if len(files) > 12 else "")
    return f"{folder} (which holds {shown or 'no files'})"
