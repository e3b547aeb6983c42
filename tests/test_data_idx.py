import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compare.data import DataError, load_data
from compare.data.idx import FILES, parse_idx

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def _idx(array: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _contents(shift: int = 0) -> dict[str, bytes]:
    pixels = (np.arange(6 * 20) + shift).astype(np.uint8).reshape(6, 4, 5)
    labels = np.array([5, 0, 4, 1, 9, 2], dtype=np.uint8)
    arrays = (pixels, labels, pixels[:3], labels[:3])
    return {name: _idx(array) for name, array in zip(FILES, arrays, strict=True)}


def _write(folder: Path, contents: dict[str, bytes], *, gzipped: bool = False, dotted: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        path = folder / ((name.replace("-idx", ".idx") if dotted else name) + (".gz" if gzipped else ""))
        path.write_bytes(gzip.compress(content) if gzipped else content)
    return folder


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5)))
@settings(deadline=None, max_examples=30)
def test_what_is_written_is_read(array: npt.NDArray[np.uint8]) -> None:
    assert np.array_equal(parse_idx(_idx(array), dimensions=array.ndim, where="a file"), array)


@given(st.binary(max_size=30))
@settings(deadline=None, max_examples=50)
def test_any_bytes_are_read_or_refused_by_name(content: bytes) -> None:
    try:
        array = parse_idx(content, dimensions=1, where="a file")
    except DataError as error:
        fault = str(error)
    else:
        fault = "a file: " if _idx(array) == content else f"read {array}"
    assert fault.startswith("a file: ")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_every_spelling_and_place_gives_the_same_data(
    tmp_path: Path, name: str, gzipped: bool, dotted: bool, nested: bool
) -> None:
    _write(tmp_path / name if nested else tmp_path, _contents(), gzipped=gzipped, dotted=dotted)
    data = load_data(name, str(tmp_path))
    assert data.train.x.flatten().tolist() == [2 * p - 255 for p in range(120)]
    assert data.train.x.shape == (6, 1, 4, 5)
    assert data.train.y.tolist() == [5, 0, 4, 1, 9, 2]
    assert data.test.x.shape == (3, 1, 4, 5)
    assert (data.name, data.classes, data.input_shape) == (name, 10, (1, 4, 5))


def test_the_folder_of_the_data_set_is_preferred(tmp_path: Path) -> None:
    _write(tmp_path, _contents())
    _write(tmp_path / "fashion-mnist", _contents(shift=7))
    assert load_data("fashion-mnist", tmp_path).train.x[0, 0, 0, 0] == 2 * 7 - 255
    assert load_data("mnist", tmp_path).train.x[0, 0, 0, 0] == -255


def test_files_of_two_folders_are_never_mixed(tmp_path: Path) -> None:
    contents = _contents()
    _write(tmp_path, {TRAIN_IMAGES: contents.pop(TRAIN_IMAGES)})
    _write(tmp_path / "mnist", contents)
    with pytest.raises(DataError, match="not all of them"):
        load_data("mnist", tmp_path)


def test_missing_files_are_listed_with_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    contents = _contents()
    del contents[TEST_LABELS]
    _write(tmp_path, contents)
    with pytest.raises(DataError) as caught:
        load_data("mnist", tmp_path)
    for part in (*FILES, str(tmp_path / "mnist"), "no such folder", f"which holds {TEST_IMAGES}, ", "--download"):
        assert part in str(caught.value)


DEFECTS = {
    "another magic number": (TRAIN_IMAGES, lambda c: b"\x00\x00\x0d\x03" + c[4:], "expected the magic number 00000803"),
    "labels for images": (TRAIN_IMAGES, lambda _: _contents()[TRAIN_LABELS], "got 00000801"),
    "empty": (TEST_LABELS, lambda _: b"", "got an empty file"),
    "a header cut short": (TEST_IMAGES, lambda c: c[:10], "too short, 10 bytes where the header alone takes 16"),
    "short": (TRAIN_IMAGES, lambda c: c[:-1], "too short, its header states 6 x 4 x 5 = 120 bytes and 119 follow"),
    "long": (TRAIN_LABELS, lambda c: c + b"\x01", "too long, its header states 6 = 6 bytes and 7 follow"),
    "no images": (TEST_IMAGES, lambda _: _idx(np.zeros((0, 4, 5), np.uint8)), "empty, its header states the sizes"),
    "a label out of range": (TRAIN_LABELS, lambda c: c[:-1] + b"\x0a", "labels from 0 to 9, got 10 at sample 5"),
    "more labels": (TRAIN_LABELS, lambda _: _idx(np.zeros(7, np.uint8)), "got 6 images and 7 labels"),
    "another size": (TEST_IMAGES, lambda _: _idx(np.zeros((3, 5, 4), np.uint8)), "expected images of one size"),
}


@pytest.mark.parametrize(("name", "damage", "message"), DEFECTS.values(), ids=DEFECTS)
def test_each_defect_is_named_with_its_file(tmp_path: Path, name: str, damage, message: str) -> None:
    contents = _contents()
    contents[name] = damage(contents[name])
    _write(tmp_path, contents)
    with pytest.raises(DataError) as caught:
        load_data("mnist", tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)


GZIP_DEFECTS = {
    "wrong checksum": lambda c: c[:-8] + bytes([c[-8] ^ 1]) + c[-7:],
    "cut short": lambda c: c[:-12],
    "without its trailer": lambda c: c[:-8],
    "a damaged stream": lambda c: c[:10] + b"\xff" * 10 + c[20:],
    "not gzipped": gzip.decompress,
    "followed by rubbish": lambda c: c + b"rubbish",
}


@pytest.mark.parametrize("damage", GZIP_DEFECTS.values(), ids=GZIP_DEFECTS)
def test_gzip_damage_is_named_with_its_file(tmp_path: Path, damage) -> None:
    _write(tmp_path, _contents(), gzipped=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="the compressed data are damaged") as caught:
        load_data("mnist", tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, _contents())

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=f"could not read .*{TRAIN_IMAGES}: Permission denied"):
        load_data("mnist", tmp_path)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the original MNIST files are not at ../shared/data/mnist")
def test_mnist_itself() -> None:
    data = load_data("mnist", SHARED)
    assert data.train.x.shape == (60_000, 1, 28, 28)
    assert data.test.x.shape == (10_000, 1, 28, 28)
    assert data.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert len(data.test.calibration) == 10_000
    assert (data.train.x.min(), data.train.x.max()) == (-255, 255)
    assert bool((data.train.x.remainder(2) == 1).all())


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_files_of_another_data_set_of_the_same_names_are_refused(
    tmp_path: Path, monkeypatch, name: str, gzipped: bool
) -> None:
    _write(tmp_path, _contents(), gzipped=gzipped)
    known = hashlib.md5(_contents()[name]).hexdigest()
    monkeypatch.setattr("compare.data.idx.CONTENTS", {"mnist": (known,), "fashion-mnist": ()})
    with pytest.raises(DataError, match=f"{name}.*: this is a file of 'mnist', expected one of 'fashion-mnist'"):
        load_data("fashion-mnist", tmp_path)
    assert len(load_data("mnist", tmp_path).train) == 6


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the original MNIST files are not at ../shared/data/mnist")
def test_mnist_does_not_pass_for_fashion_mnist() -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: this is a file of 'mnist'"):
        load_data("fashion-mnist", SHARED / "mnist")
