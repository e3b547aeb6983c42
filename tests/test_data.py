import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compare.data import DATA_SETS, Data, DataError, Split, load_data
from compare.data.source import Images, Source, stratified_halves
from compare.data.split import CALIBRATION, as_data
from compare.errors import CompareError


def _split(n: int) -> Split:
    x = torch.arange(float(n)).reshape(n, 1, 1, 1)
    return Split(x, torch.arange(n), calibration=x[:2])


def _equal(a: Data, b: Data) -> bool:
    tensors = [(getattr(getattr(d, half), field)) for d in (a, b) for half in ("train", "test") for field in "xy"]
    return all(torch.equal(p, q) for p, q in zip(tensors[:4], tensors[4:], strict=True))


# Subsets


@given(n=st.integers(1, 40), smaller=st.integers(1, 40), larger=st.integers(1, 40), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_a_subset_has_the_size_asked_for_keeps_pairs_and_order_and_lies_in_larger_ones(
    n: int, smaller: int, larger: int, seed: int
) -> None:
    smaller, larger = sorted((smaller, larger))
    part, more = _split(n).subset(smaller, seed=seed), _split(n).subset(larger, seed)
    chosen = part.y.tolist()
    assert len(part) == min(n, smaller) == len(chosen)
    assert chosen == sorted(set(chosen))
    assert part.x.flatten().tolist() == chosen
    assert set(chosen) <= set(more.y.tolist())


def test_a_subset_depends_on_its_seed_and_on_no_global_generator() -> None:
    split = _split(100)
    torch.manual_seed(1)
    first = split.subset(10)
    torch.manual_seed(2)
    assert torch.equal(first.y, split.subset(10, 0).y)
    assert not torch.equal(first.y, split.subset(10, 1).y)
    assert first.calibration is split.calibration


def test_a_subset_of_everything_is_the_split_itself() -> None:
    split = _split(5)
    assert split.subset(5) is split
    assert split.subset(6, seed=3) is split


@pytest.mark.parametrize("n", [0, -1])
def test_a_subset_takes_a_sample_at_least(n: int) -> None:
    with pytest.raises(DataError, match=f"at least 1 sample, got {n}"):
        _split(5).subset(n)


def test_a_split_takes_one_label_for_each_input() -> None:
    with pytest.raises(DataError, match="3 inputs and 2 labels"):
        Split(torch.zeros(3, 1, 1, 1), torch.zeros(2), calibration=torch.zeros(1, 1, 1, 1))


# From pixels to inputs


def _source(n: int, largest: int = 255) -> Source:
    pixels = (np.arange(n * 2) % (largest + 1)).astype(np.uint8).reshape(n, 1, 1, 2)
    images = Images(pixels, np.arange(n) % 3)
    return Source("an example", images, images[np.arange(3)], classes=3, largest=largest)


@pytest.mark.parametrize("largest", [255, 16])
def test_pixels_become_the_integers_that_the_methods_name(largest: int) -> None:
    source = _source(300, largest)
    data = as_data(source, seed=0)
    expected = [2 * int(p) - largest for p in source.train.pixels.flatten()]
    assert data.train.x.flatten().tolist() == expected
    assert data.test.x.flatten().tolist() == expected[:6]
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float32, torch.int64)
    assert (data.train.x.min(), data.train.x.max()) == (-largest, largest)
    assert (data.name, data.classes, data.input_shape) == ("an example", 3, (1, 1, 2))


def test_reading_only_pixels_are_not_changed() -> None:
    source = _source(5)
    before = source.train.pixels.copy()
    source.train.pixels.flags.writeable = False
    as_data(source, seed=0)
    assert np.array_equal(source.train.pixels, before)


def test_few_training_images_all_calibrate_both_splits() -> None:
    data = as_data(_source(9), seed=0)
    assert data.train.calibration is data.train.x
    assert data.test.calibration is data.train.calibration


def test_of_many_training_images_a_seeded_choice_calibrates_apart_from_the_subset_of_that_seed() -> None:
    n = CALIBRATION + 500
    images = Images(np.zeros((n, 1, 1, 1), np.uint8), np.zeros(n, np.int64))
    # Two pixels spell the index, so that images can be told apart.
    index = np.arange(n)
    images = Images(np.stack([index // 256, index % 256], 1).astype(np.uint8).reshape(n, 1, 1, 2), images.labels)
    first, same, other = (as_data(Source("many", images, images, 1), seed=seed) for seed in (0, 0, 1))

    def indices(x: torch.Tensor) -> set[int]:
        return {int(256 * (a + 255) / 2 + (b + 255) / 2) for a, b in x.reshape(-1, 2).tolist()}

    assert torch.equal(first.train.calibration, same.train.calibration)
    chosen = indices(first.train.calibration)
    assert len(chosen) == CALIBRATION
    assert chosen <= set(range(n))
    assert chosen != indices(other.train.calibration)
    assert chosen.isdisjoint(indices(first.train.subset(500, seed=0).x))


# Stratified halves


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_halves_are_disjoint_complete_and_stratified(sizes: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = Images(np.arange(len(labels)).astype(np.uint8).reshape(-1, 1, 1, 1), labels)
    train, test = stratified_halves(images, seed=seed, classes="abcde", where="here")
    kept, held_out = (half.pixels.flatten().tolist() for half in (train, test))
    assert sorted(kept + held_out) == sorted(images.pixels.flatten().tolist())
    assert kept == sorted(kept)
    assert held_out == sorted(held_out)
    assert np.array_equal(train.labels, labels[kept])
    assert np.array_equal(test.labels, labels[held_out])
    counts = np.bincount(test.labels, minlength=len(sizes)).tolist()
    assert counts == [max(1, round(size / 5)) for size in sizes]


def test_a_class_of_one_image_cannot_be_halved() -> None:
    images = Images(np.zeros((3, 1, 1, 1), np.uint8), np.array([0, 0, 1]))
    with pytest.raises(DataError, match="here: class 'b' has 1 image"):
        stratified_halves(images, seed=0, classes="ab", where="here")


# Digits


def test_digits_are_all_there_and_split_alike_every_time() -> None:
    from sklearn.datasets import load_digits

    data, again, other = load_data("digits"), load_data("digits"), load_data("digits", seed=1)
    assert _equal(data, again)
    assert not _equal(data, other)
    assert (data.name, data.classes, data.input_shape) == ("digits", 10, (1, 8, 8))
    ours = torch.cat([data.train.x, data.test.x]).reshape(-1, 64)
    stored = load_digits()
    known = {tuple(2 * row - 16): label for row, label in zip(stored.data, stored.target, strict=True)}
    assert sorted(map(tuple, ours.tolist())) == sorted(tuple(2 * row - 16) for row in stored.data)
    labels = torch.cat([data.train.y, data.test.y]).tolist()
    assert [known[tuple(row)] for row in ours.tolist()] == labels


# Names and folders


def test_an_unknown_name_lists_the_options() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'svhn', expected one of digits, mnist, .*images") as caught:
        load_data("svhn")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CompareError)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(DataError, match=r"seed: .* got -1"):
        load_data("digits", seed=-1)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_files_are_needed_but_no_folder_is_given(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: needs files.*--data-root.*--download"):
        load_data(name)


@pytest.mark.parametrize("download", [False, True])
def test_a_tree_of_images_needs_a_folder_and_cannot_be_fetched(download: bool) -> None:
    with pytest.raises(DataError, match=r"images: needs files.*--data-root\)$"):
        load_data("images", download=download)


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "digits"])
def test_a_folder_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the folder .*nowhere, and there is none"):
        load_data(name, tmp_path / "nowhere")


def test_a_folder_may_be_given_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="mine: an empty folder"):
        load_data("images", "~/mine")


def test_the_names_come_without_heavy_imports() -> None:
    heavy = {"torch", "sklearn", "PIL", "pooch", "numpy"}
    program = f"import sys, compare.data.names; print(sorted({heavy!r} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stub_of_the_room_names_what_is_there() -> None:
    import compare.data

    assert sorted(compare.data.__all__) == ["DATA_SETS", "Data", "DataError", "Split", "load_data"]
    assert all(getattr(compare.data, name) is not None for name in compare.data.__all__)


# What cannot be looked into


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("mnist", method) for method in ("is_dir", "is_file", "iterdir")),
        *(("cifar10", method) for method in ("is_dir", "is_file", "iterdir")),
        *(("images", method) for method in ("is_dir", "iterdir")),
    ],
)
def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch, name: str, method: str) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(DataError, match=f"could not .*{tmp_path}.*: Permission denied"):
        load_data(name, tmp_path)


# Fingerprints


def _pair(train: Split, test: Split, name: str = "a") -> Data:
    return Data(name, train, test, classes=2, input_shape=(1, 1, 1))


def test_a_fingerprint_depends_on_inputs_and_labels_and_on_no_name() -> None:
    plain = _pair(_split(4), _split(3))
    assert plain.fingerprint == _pair(_split(4), _split(3), name="b").fingerprint
    assert len(plain.fingerprint) == 12
    moved = Split(_split(4).x + 1, _split(4).y, _split(4).calibration)
    train, test = (Split(part.x, part.y + 1, part.calibration) for part in (plain.train, plain.test))
    others = [_pair(moved, plain.test), _pair(train, plain.test), _pair(plain.train, test), _pair(_split(3), _split(4))]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_fingerprint_of_loaded_data_is_the_same_every_time_and_for_another_split_another() -> None:
    assert load_data("digits").fingerprint == load_data("digits").fingerprint != load_data("digits", seed=1).fingerprint
