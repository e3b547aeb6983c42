"""Trees of images, one folder a class: PNG and JPEG."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from compare.data.files import read_file
from compare.data.source import DataError, Images, Pixels, Source, stratified_halves

SUFFIXES = (".png", ".jpg", ".jpeg")
_TOPS = ("train/", "test/")
# Stored mode -> mode read as; bilevel is grey of two levels. Modes with transparency have no value to read.
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}


def read_images(root: Path, *, seed: int) -> Source:
    """The images under ``root/train/CLASS`` and ``root/test/CLASS``, or under ``root/CLASS`` alone.

    Classes are numbered in the order of their names. Hidden files and folders are passed over, and so is what lies
    beside ``train`` and ``test``.

    Args:
        root: The folder. Without ``train`` and ``test`` in it, 20 % of each class become the test images.
        seed: Of that choice.

    Returns:
        The data set, with images in the order of their paths.

    Raises:
        DataError: As ``read_tree``, or if a folder is empty, too deep, or cannot be read.
    """
    try:
        tops = [top for top in _TOPS if (root / top).is_dir()]
        names = [name for top in tops for name in _files(root / top, top)] if tops else list(_files(root))
    except OSError as error:
        raise DataError(f"could not read the folder {error.filename}: {error.strerror}") from error
    return read_tree(sorted(names), lambda name: read_file(root / name), name="images", where=str(root), seed=seed)


def _files(folder: Path, prefix: str = "") -> Iterator[str]:
    children = [child for child in folder.iterdir() if not child.name.startswith(".")]
    if not children:
        raise DataError(f"{folder}: an empty folder, expected images in it; add some, or remove the folder")
    for child in children:
        if not child.is_dir():
            yield prefix + child.name
        elif prefix.count("/") < 2:  # down to train/CLASS/
            yield from _files(child, f"{prefix}{child.name}/")
        else:
            raise DataError(f"{child}: a folder in a class's folder, expected images only; move its images up")


def read_tree(names: Sequence[str], read: Callable[[str], bytes], *, name: str, where: str, seed: int) -> Source:
    """Images from any place that has names and contents: a folder, an archive.

    Args:
        names: ``train/CLASS/FILE`` and ``test/CLASS/FILE``, or ``CLASS/FILE``, in the order wanted.
        read: Content by name.
        name: Of the data set.
        where: The folder or archive, for messages.
        seed: Of the choice of test images where the names make none.

    Returns:
        The data set.

    Raises:
        DataError: Naming the file that is no image, damaged, or unlike the others in size or mode; or if there are not
            at least two classes, or not the same ones to train and to test on.
    """
    parted = any(name.startswith(_TOPS) for name in names)
    chosen = _image_names(names, parted=parted, where=where)
    classes = _classes(chosen, parted=parted, where=where)
    numbers = {label: number for number, label in enumerate(classes)}
    labels = np.array([numbers[_class(name)] for name in chosen], dtype=np.int64)
    images = Images(_stacked(chosen, read, where), labels)
    if parted:
        train, test = (images[np.flatnonzero([name.startswith(top) for name in chosen])] for top in _TOPS)
    else:
        train, test = stratified_halves(images, seed=seed, classes=classes, where=where)
    return Source(name, train, test, classes=len(classes))


def _class(name: str) -> str:
    return name.split("/")[-2]


def _image_names(names: Sequence[str], *, parted: bool, where: str) -> list[str]:
    """The names at the depth of images; a README further up does no harm, an image there would be lost unseen."""
    depth, form = (2, "train/CLASS/FILE or test/CLASS/FILE") if parted else (1, "CLASS/FILE")
    chosen = [name for name in names if not parted or name.startswith(_TOPS)]
    for name in chosen:
        is_image, folders = name.lower().endswith(SUFFIXES), name.count("/")
        if folders != depth if is_image else folders >= depth:
            expected = f"images to lie at {form}" if is_image else f"only images ({', '.join(SUFFIXES)}) among images"
            raise DataError(f"{where}/{name}: expected {expected}; move or remove the file")
    return [name for name in chosen if name.count("/") == depth]


def _classes(names: Sequence[str], *, parted: bool, where: str) -> list[str]:
    classes = sorted({_class(name) for name in names})
    if len(classes) < 2:
        raise DataError(
            f"{where}: expected at least 2 classes, one folder of {', '.join(SUFFIXES)} images each "
            f"(they may lie under train/ and test/), got {', '.join(classes) or 'none'}"
        )
    train, test = ({_class(name) for name in names if name.startswith(top)} for top in _TOPS)
    if parted and train != test:
        raise DataError(
            f"{where}: expected the same classes under train/ and test/, "
            f"but only one of them has images of {', '.join(sorted(train ^ test))}"
        )
    return classes


def _stacked(names: Sequence[str], read: Callable[[str], bytes], where: str) -> Pixels:
    first = decode(read(names[0]), where=f"{where}/{names[0]}")
    pixels = np.empty((len(names), *first.shape), dtype=np.uint8)
    for i, name in enumerate(names):
        image = decode(read(name), where=f"{where}/{name}")
        if image.shape != first.shape:
            raise DataError(
                f"{where}/{name}: expected all images of one size and mode, got {_described(image)}, "
                f"where {names[0]} is {_described(first)}; convert the images first"
            )
        pixels[i] = image
    return pixels


def _described(image: Pixels) -> str:
    channels, height, width = image.shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"


def decode(content: bytes, *, where: str) -> Pixels:
    """Decode a PNG or JPEG.

    Args:
        content: The whole file.
        where: The file, for messages.

    Returns:
        ``[channels, height, width]``, 1 channel for grey, 3 for RGB and palettes; as stored, EXIF rotation not applied.

    Raises:
        DataError: If the file is damaged, no PNG or JPEG, or has another mode or transparency.
    """

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))

    try:
        opened().verify()  # a PNG's checksums; JPEG has none
        with opened() as image:  # anew, since checking uses the image up
            mode = "transparent" if "transparency" in image.info else image.mode
            pixels = np.asarray(image.convert(_MODES[mode]) if mode in _MODES else image)
    except Exception as error:  # damaged images make Pillow's decoders raise nearly anything
        raise DataError(
            f"{where}: not a readable PNG or JPEG ({error}); replace the file by an undamaged copy"
        ) from error
    if mode not in _MODES:
        raise DataError(
            f"{where}: expected an 8-bit grey or RGB image, or a palette, got mode {mode}; convert it first"
        )
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
