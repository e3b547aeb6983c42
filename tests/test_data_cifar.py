import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compare.data import Data, DataError, load_data
from compare.data import unpickle as unpickling
from compare.data.cifar import parse_python
from compare.data.unpickle import unpickle

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10" / "images.tar.xz"


def _table(samples: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (samples, 3072)).astype(np.uint8)
    return pixels, generator.integers(0, 10, samples).tolist()


BATCHES = {"data_batch_1": _table(3, 1), "data_batch_2": _table(2, 2), "test_batch": _table(2, 3)}


def _record(pixels: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


def _python3(pixels: npt.NDArray[np.uint8], labels: list[int], protocol: int = 2) -> bytes:
    return pickle.dumps({"data": pixels, "labels": labels, "filenames": ["a.png"]}, protocol=protocol)


def _python2(pixels: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """What Python 2 and the NumPy of 2009 wrote, opcode by opcode: byte strings for text, ``numpy.core``."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    shape = b"(" + b"".join(map(number, pixels.shape)) + b"t"
    array += b"(" + number(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def _binary_files() -> dict[str, bytes]:
    return {f"{name}.bin": _record(*table) for name, table in BATCHES.items()}


def _python_files() -> dict[str, bytes]:
    return {name: _python2(*table) for name, table in BATCHES.items()}


def _write(folder: Path, contents: dict[str, bytes], *, gzipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def _archive(path: Path, contents: dict[str, bytes], mode: str, folders: Iterable[str] = ()) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in folders:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _check(data: Data) -> None:
    train = np.concatenate([BATCHES["data_batch_1"][0], BATCHES["data_batch_2"][0]])
    assert (data.name, data.classes, data.input_shape) == ("cifar10", 10, (3, 32, 32))
    assert data.train.x.flatten().tolist() == (2 * train.astype(int) - 255).flatten().tolist()
    assert data.train.y.tolist() == BATCHES["data_batch_1"][1] + BATCHES["data_batch_2"][1]
    assert data.test.x.flatten().tolist() == (2 * BATCHES["test_batch"][0].astype(int) - 255).flatten().tolist()
    assert data.test.y.tolist() == BATCHES["test_batch"][1]
    # Channel-major: the first 1024 bytes of a record are red, row by row.
    assert data.test.x[0, 0, 1, 2] == 2 * int(BATCHES["test_batch"][0][0, 34]) - 255


@pytest.mark.parametrize("files", [_binary_files, _python_files], ids=["binary", "python"])
@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("place", ["", "cifar10", "cifar10/cifar-10-batches-"])
def test_files_in_every_place(tmp_path: Path, files: Callable[[], dict[str, bytes]], gzipped: bool, place: str) -> None:
    if place.endswith("-"):
        place += "bin" if files is _binary_files else "py"
    _write(tmp_path / place, files(), gzipped=gzipped)
    _check(load_data("cifar10", tmp_path))


@pytest.mark.parametrize("nested", [False, True])
def test_archives_are_read_without_unpacking(tmp_path: Path, nested: bool) -> None:
    for version, files in (("binary", _binary_files()), ("python", _python_files())):
        root = tmp_path / version
        folder = root / "cifar10" if nested else root
        folder.mkdir(parents=True)
        members = {f"./cifar-10/{name}": content for name, content in {"readme.html": b"hello", **files}.items()}
        path = _archive(folder / f"cifar-10-{version}.tar.gz", members, "w:gz", folders=["./cifar-10"])
        _check(load_data("cifar10", root))
        assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("protocol", range(2, 5))
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_python_3_and_of_both_orders_are_read(protocol: int, order: Any) -> None:
    pixels, labels = BATCHES["data_batch_1"]
    images = parse_python(_python3(np.array(pixels, order=order), labels, protocol), where="a batch")
    assert np.array_equal(images.pixels, pixels.reshape(-1, 3, 32, 32))
    assert images.labels.tolist() == labels


@pytest.mark.parametrize("missing", ["data_batch", "test_batch"])
def test_a_version_without_training_or_test_batch_is_not_there(tmp_path: Path, missing: str) -> None:
    files = {name: content for name, content in _binary_files().items() if not name.startswith(missing)}
    _write(tmp_path, files)
    with pytest.raises(DataError) as caught:
        load_data("cifar10", tmp_path)
    expected = ("data_batch_1.bin to", "cifar-10-binary.tar.gz", "images.tar.xz", str(tmp_path), "--download")
    for part in (*expected, *files):
        assert part in str(caught.value)


@pytest.mark.parametrize("missing", ["data_batch", "test_batch"])
def test_an_archive_without_training_or_test_batch_is_named(tmp_path: Path, missing: str) -> None:
    files = {name: content for name, content in _binary_files().items() if not name.startswith(missing)}
    path = _archive(tmp_path / "cifar-10-binary.tar.gz", files, "w:gz")
    with pytest.raises(DataError, match="expected a data_batch and a test_batch") as caught:
        load_data("cifar10", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-1], "expected records of 3073 bytes"),
        (lambda c: c[:-1], "2 records and 3072 bytes over"),
        (lambda c: c + b"\x00", "3 records and 1 bytes over"),
        (lambda _: b"", "got 0 bytes"),
        (lambda c: b"\x0a" + c[1:], "labels from 0 to 9, got 10 at sample 0"),
    ],
)
def test_a_damaged_binary_batch_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    files = _binary_files()
    name = "data_batch_1.bin"
    files[name] = damage(files[name])
    _write(tmp_path, files)
    with pytest.raises(DataError) as caught:
        load_data("cifar10", tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)


PIXELS, LABELS = BATCHES["test_batch"]
BAD_BATCHES = {
    "no dictionary": ([1], "expected a dictionary with 'data'"),
    "no data": ({"labels": LABELS}, "expected a dictionary with 'data'"),
    "data as a list": ({"data": [1], "labels": LABELS}, "expected a dictionary with 'data'"),
    "rows too short": ({"data": PIXELS[:, 1:], "labels": LABELS}, "shape [samples, 3072]"),
    "one dimension": ({"data": PIXELS[0], "labels": LABELS}, "shape [samples, 3072]"),
    "no images": ({"data": PIXELS[:0], "labels": []}, "shape [samples, 3072]"),
    "other numbers": ({"data": PIXELS.astype(np.int16), "labels": LABELS}, "unsigned bytes"),
    "objects": ({"data": PIXELS.astype(object), "labels": LABELS}, "unsigned bytes"),
    "no labels": ({"data": PIXELS}, "'labels' to be a list"),
    "labels as text": ({"data": PIXELS, "labels": ["cat", "dog"]}, "'labels' to be a list of integers"),
    "fewer labels": ({"data": PIXELS, "labels": LABELS[:1]}, "got 2 images and 1 labels"),
    "a label out of range": ({"data": PIXELS, "labels": [0, 10]}, "at sample 1"),
    "a huge label": ({"data": PIXELS, "labels": [10**30, 0]}, "at sample 0"),
}


@pytest.mark.parametrize(("batch", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_wrong_python_batch_is_named(batch: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_python(pickle.dumps(batch, protocol=4), where="a batch")
    assert str(caught.value).startswith("a batch: ")
    assert message in str(caught.value)


# What a pickle may not do


class _Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    content = pickle.dumps({"data": _Evil(os.system, f"touch {witness}"), "labels": []}, protocol=protocol)
    with pytest.raises(DataError, match=r"a batch: refused to unpickle, it asks for (posix|nt)\.system"):
        parse_python(content, where="a batch")
    assert not witness.exists()


@pytest.mark.parametrize("name", ["builtins\neval", "numpy\nload", "numpy.core.multiarray\nscalar", "os\nsystem"])
def test_every_other_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"asks for {name.replace(chr(10), '.')}"):
        unpickle(f"c{name}\n.".encode(), where="a batch")


def test_only_latin1_is_encoded() -> None:
    content = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zliptR."
    with pytest.raises(DataError, match="expected bytes written as latin1, got 'zlip'"):
        unpickle(content, where="a batch")


def test_a_pickle_cannot_change_the_reader_for_the_next_one() -> None:
    # The last opcode sets an attribute of whatever the name stands for.
    with pytest.raises(DataError):
        unpickle(b"\x80\x02c_codecs\nencode\n(N}X\x06\x00\x00\x00markedK\x01stb.", where="a batch")
    assert not hasattr(unpickling._encode, "marked")
    parse_python(_python2(PIXELS, LABELS), where="a batch")


def test_a_pickle_cannot_ask_for_memory_without_end() -> None:
    with pytest.raises(DataError, match="memo index 4294967295 in 9 bytes"):
        unpickle(b"\x80\x02Nr\xff\xff\xff\xff.", where="a batch")


def test_an_array_whose_shape_its_bytes_do_not_fill_is_refused() -> None:
    content = _python2(PIXELS, LABELS).replace((3072).to_bytes(4, "little"), (3073).to_bytes(4, "little"), 1)
    with pytest.raises(DataError, match="does not fit the array's content"):
        parse_python(content, where="a batch")


@given(st.integers(0, 200), st.binary(min_size=0, max_size=3), st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_damaged_pickle_is_read_or_refused_by_name(at: int, patch: bytes, cut: bool) -> None:
    content = _python3(PIXELS[:1], LABELS[:1])
    content = content[:at] + patch + (b"" if cut else content[at + len(patch) :])
    try:
        shape = parse_python(content, where="a batch").pixels.shape
    except DataError as error:
        fault = str(error)
    else:
        fault = "a batch: " if shape == (1, 3, 32, 32) else f"read {shape}"
    assert fault.startswith("a batch: ")


# Archives


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:-4] + b"\xff" * 4, lambda _: b"hello"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = _archive(tmp_path / "cifar-10-binary.tar.gz", _binary_files(), "w:gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="the compressed data are damaged") as caught:
        load_data("cifar10", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("inner", [b"hello" * 200, None], ids=["no tar", "a tar cut short"])
def test_what_is_no_whole_tar_is_named(tmp_path: Path, inner: bytes | None) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    whole = gzip.decompress(_archive(path, _binary_files(), "w:gz").read_bytes())
    path.write_bytes(gzip.compress(whole[:12_000] if inner is None else inner))
    with pytest.raises(DataError, match="not a tar archive, or a damaged one") as caught:
        load_data("cifar10", tmp_path)
    assert str(path) in str(caught.value)


# JPEG

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _jpeg(level: int, size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, "JPEG", quality=100)
    return file.getvalue()


def _jpegs(classes: list[str]) -> dict[str, bytes]:
    # Out of order in the archive, as in a real one.
    return {
        f"{half}/{name}/{i:04}.jpg": _jpeg(10 * number + 100 * i)
        for half in ("train", "test")
        for i in (1, 0)
        for number, name in reversed(list(enumerate(classes)))
    }


def test_the_jpeg_archive_is_read_in_the_order_of_names_and_named_apart(tmp_path: Path) -> None:
    folders = ["train", *(f"train/{name}" for name in CLASSES)]
    _archive(tmp_path / "images.tar.xz", {"README": b"hello", **_jpegs(CLASSES)}, "w:xz", folders=folders)
    data = load_data("cifar10", tmp_path)
    assert (data.name, data.classes, data.input_shape) == ("cifar10-jpeg", 10, (3, 32, 32))
    assert data.train.y.tolist() == data.test.y.tolist() == [number for number in range(10) for _ in range(2)]
    levels = [10 * number + 100 * i for number in range(10) for i in range(2)]
    assert data.train.x[:, 0, 0, 0].tolist() == [2 * level - 255 for level in levels]


def test_the_original_is_preferred_to_jpeg(tmp_path: Path) -> None:
    _archive(tmp_path / "images.tar.xz", _jpegs(CLASSES), "w:xz")
    _write(tmp_path, _binary_files())
    _check(load_data("cifar10", tmp_path))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (_jpegs(["cat", "dog"]), "expected CIFAR-10.* got 2 classes"),
        ({name: _jpeg(1, (16, 16)) for name in _jpegs(CLASSES)}, r"expected CIFAR-10.*\(3, 16, 16\)"),
        ({f"cat/{i}.jpg": _jpeg(1) for i in range(9)}, "expected at least 2 classes.*got none"),
        ({**_jpegs(CLASSES), "train/cat/0003.jpg": b"hello"}, r"train/cat/0003\.jpg: not a readable"),
    ],
    ids=["two classes", "small images", "no halves", "a damaged image"],
)
def test_an_archive_of_other_images_is_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = _archive(tmp_path / "images.tar.xz", members, "w:xz")
    with pytest.raises(DataError, match=message) as caught:
        load_data("cifar10", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [lambda c: c[:-40], lambda c: c[:100] + b"\xff" * 8 + c[108:]])
def test_a_damaged_xz_archive_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = _archive(tmp_path / "images.tar.xz", _jpegs(CLASSES), "w:xz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="the compressed data are damaged"):
        load_data("cifar10", tmp_path)


@pytest.mark.skipif(not SHARED.is_file(), reason="CIFAR-10 as JPEG is not at ../shared/data/cifar10")
def test_the_real_jpeg_archive_has_the_layout_that_is_read() -> None:
    # The first members only: to decode all 60,000 takes 12 s.
    with tarfile.open(SHARED, "r|xz") as archive:
        names = [member.name for member, _ in zip(archive, range(50), strict=False) if member.isfile()]
    halves, classes, files = zip(*(name.split("/") for name in names), strict=True)
    assert set(halves) <= {"train", "test"}
    assert set(classes) <= set(CLASSES)
    assert all(file.endswith(".jpg") for file in files)
