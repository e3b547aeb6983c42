import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compare.data import DataError, load_data
from compare.data.images import decode


def _bytes(pixels: npt.NDArray[np.uint8], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def _grey(level: int, size: tuple[int, int] = (3, 2)) -> npt.NDArray[np.uint8]:
    return np.full(size, level, dtype=np.uint8)


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _parted() -> dict[str, bytes]:
    halves = {"train": 4, "test": 2}
    return {
        f"{half}/{name}/{i}.png": _bytes(_grey(100 * number + 10 * i))
        for half, n in halves.items()
        for number, name in enumerate(("cat", "dog"))
        for i in range(n)
    }


def test_a_tree_with_train_and_test(tmp_path: Path) -> None:
    data = load_data("images", _write(tmp_path, _parted()))
    assert (data.name, data.classes, data.input_shape) == ("images", 2, (1, 3, 2))
    assert data.train.y.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert data.test.y.tolist() == [0, 0, 1, 1]
    levels = [0, 10, 20, 30, 100, 110, 120, 130]
    assert data.train.x[:, 0, 0, 0].tolist() == [2 * level - 255 for level in levels]
    assert data.test.x[:, 0, 2, 1].tolist() == [2 * level - 255 for level in (0, 10, 100, 110)]


def test_a_tree_without_halves_is_split_by_class_and_seed(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": _bytes(_grey(i)) for name in ("cat", "dog") for i in range(10)}
    root = _write(tmp_path, files)
    first, again, other = (load_data("images", root, seed=seed) for seed in (0, 0, 1))
    assert first.train.y.bincount().tolist() == [8, 8]
    assert first.test.y.bincount().tolist() == [2, 2]
    assert first.test.x.tolist() == again.test.x.tolist() != other.test.x.tolist()
    seen = sorted((*first.train.x[:, 0, 0, 0].tolist(), *first.test.x[:, 0, 0, 0].tolist()))
    assert seen == sorted(2.0 * i - 255 for i in range(10) for _ in range(2))


def test_what_is_hidden_or_beside_the_halves_is_passed_over(tmp_path: Path) -> None:
    files = _parted() | dict.fromkeys(
        ("README", ".git/x", "train/.DS_Store", "train/cat/.hidden.png", "val/a/b/c/d"), b""
    )
    (tmp_path / "empty").mkdir()
    assert len(load_data("images", _write(tmp_path, files | {"train/labels.csv": b""})).train) == 8


def test_rgb_and_jpeg_and_upper_case(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[:, :, 0] = 200
    files = {f"{c}/{i}.JPG": _bytes(colour, "JPEG") for c in "ab" for i in range(2)}
    files |= {f"{c}/{i}.jpeg": _bytes(colour, "JPEG") for c in "ab" for i in range(3, 5)}
    data = load_data("images", _write(tmp_path, files))
    assert data.input_shape == (3, 4, 5)
    assert abs(data.train.x[0, 0, 0, 0] - (2 * 200 - 255)) <= 6
    assert data.train.x[0, 2, 0, 0] <= -249


def test_palettes_are_rgb_and_bilevel_is_grey() -> None:
    colour = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colour).quantize(4).save(file, "PNG")
    assert np.array_equal(decode(file.getvalue(), where="a file"), colour.transpose(2, 0, 1))
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(file, "PNG")
    assert decode(file.getvalue(), where="a file").tolist() == [[[0, 255]]]


def _mode(mode: str, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (2, 3)).save(file, form, **options)
    return file.getvalue()


DEFECTS = {
    "another size": (
        "train/cat/2.png",
        _bytes(_grey(1, (2, 3))),
        "got 3 x 2 grey, where test/cat/0.png is 2 x 3 grey",
    ),
    "another mode": ("test/dog/0.png", _mode("RGB"), "got 2 x 3 RGB"),
    "transparency": ("train/cat/0.png", _mode("RGBA"), "got mode RGBA"),
    "a transparent palette": ("train/cat/0.png", _mode("P", transparency=0), "got mode transparent"),
    "16 bit": ("train/cat/0.png", _mode("I;16"), "got mode I;16"),
    "print colours": ("train/cat/0.jpg", _mode("CMYK", "JPEG"), "got mode CMYK"),
    "empty": ("train/dog/1.png", b"", "not a readable PNG or JPEG"),
    "text": ("train/dog/1.png", b"hello", "not a readable PNG or JPEG"),
    "cut short": ("train/dog/1.png", _bytes(_grey(3))[:-20], "not a readable"),
    "another format": ("train/dog/1.png", _mode("RGB", "BMP"), "not a readable PNG or JPEG"),
    "another suffix": ("train/dog/1.bmp", _mode("RGB", "BMP"), "expected only images"),
    "an image too high": ("train/1.png", _bytes(_grey(1)), "expected images to lie at train/CLASS/FILE"),
    "a class to train on alone": ("train/cow/1.png", _bytes(_grey(1)), "only one of them has images of cow"),
    "a class to test on alone": ("test/cow/1.png", _bytes(_grey(1)), "only one of them has images of cow"),
    "a folder too deep": ("train/cat/more/1.png", _bytes(_grey(1)), "a folder in a class's folder"),
}


@pytest.mark.parametrize(("name", "content", "message"), DEFECTS.values(), ids=DEFECTS)
def test_each_defect_is_named_with_its_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    _write(tmp_path, _parted() | {name: content})
    with pytest.raises(DataError) as caught:
        load_data("images", tmp_path)
    assert message in str(caught.value)
    # Of a folder too deep the folder is named; of a class in one half alone the class.
    place = {"a folder": (tmp_path / name).parent, "only one": tmp_path}.get(message[:8], tmp_path / name)
    assert str(place) in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": _bytes(_grey(1))}, "1.png: expected images to lie at CLASS/FILE"),
        ({"cat/1.png": _bytes(_grey(1))}, "at least 2 classes, .* got cat"),
        ({"README": b""}, "at least 2 classes, .* got none"),
        ({"cat/1.png": _bytes(_grey(1)), "dog/1.png": _bytes(_grey(1))}, "class 'cat' has 1 image"),
        ({"train/cat/1.png": b"", "train/dog/1.png": b""}, "only one of them has images of cat, dog"),
        ({"cat/more/1.png": b""}, "cat/more/1.png: expected images to lie at CLASS/FILE"),
        ({"cat/1.png": b"", "cat/notes.txt": b""}, "cat/notes.txt: expected only images"),
    ],
)
def test_a_tree_that_is_no_data_set_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("images", _write(tmp_path, files))


@pytest.mark.parametrize("empty", ["", "cow"])
def test_an_empty_folder_is_named(tmp_path: Path, empty: str) -> None:
    if empty:
        _write(tmp_path, {"cat/1.png": b"", "dog/1.png": b""})
        (tmp_path / empty).mkdir()
    with pytest.raises(DataError, match="an empty folder") as caught:
        load_data("images", tmp_path)
    assert str(tmp_path / empty) in str(caught.value)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=f"could not read the folder {tmp_path}: Permission denied"):
        load_data("images", tmp_path)


NOISE = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)


@given(st.integers(0, 120), st.binary(max_size=4), st.booleans())
@settings(deadline=None, max_examples=50)
def test_no_damage_to_a_png_goes_unseen(at: int, patch: bytes, cut: bool) -> None:
    content = _bytes(NOISE)
    content = content[:at] + patch + (b"" if cut else content[at + len(patch) :])
    try:
        pixels = decode(content, where="a file")
    except DataError as error:
        fault = str(error)
    else:
        fault = "a file: " if np.array_equal(pixels[0], NOISE) else "read other pixels"
    assert fault.startswith("a file: ")


@given(st.integers(0, 350), st.binary(max_size=4), st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_damaged_jpeg_is_read_or_refused_by_name(at: int, patch: bytes, cut: bool) -> None:
    content = _bytes(NOISE, "JPEG")
    content = content[:at] + patch + (b"" if cut else content[at + len(patch) :])
    try:
        kind = str(decode(content, where="a file").dtype)
    except DataError as error:
        kind = str(error)
    assert kind.startswith(("uint8", "a file: "))
