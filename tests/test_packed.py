"""Packed files, their summary, and the packed forward."""

import concurrent.futures
import json
import os
import subprocess
import sys
from pathlib import Path

import benchmark_packed as script
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

import binarynets
import compare
from binarynets.integer.affine import IntegerError
from binarynets.integer.network import IntegerNetwork, to_integer
from binarynets.integer.packed import PackedFileError, load_packed, save_packed
from binarynets.integer.packed_network import packed
from binarynets.integer.summary import summary
from compare.runs import OutputError

SHAPES = {
    "linear classifier": ((7,), lambda: binarynets.mlp(7, [], 3)),
    "two hidden layers": ((70,), lambda: binarynets.mlp(70, [65, 9], 10)),
    "no normalisation": ((6,), lambda: plain_network()),
    "convolutions": ((2, 8, 8), lambda: binarynets.vgg((2, 8, 8), [[4, 5], [8]], [16], 10)),
    "bias, stride, no normalisation": ((3, 9, 9), lambda: odd_network()),
}


def odd_network() -> nn.Module:
    return nn.Sequential(
        binarynets.BinaryConv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=True),
        binarynets.Sign(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        binarynets.BinaryLinear(54, 5, bias=True),
    )


def plain_network() -> nn.Module:
    return nn.Sequential(binarynets.BinaryLinear(6, 5), binarynets.Sign(), binarynets.BinaryLinear(5, 4))


def randomise_(model: nn.Module, seed: int) -> nn.Module:
    """Thresholds within reach of the sums, some of them on an integer exactly, and gains of both signs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: int, high: int) -> Tensor:
        return torch.randint(low, high, like.shape, generator=generator).to(like.dtype)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.copy_(draw(module.running_mean, -4, 5) / 2)
            module.running_var.copy_(draw(module.running_var, 1, 30) / 3)
            module.weight.data.copy_(draw(module.weight, 1, 4) * (2 * draw(module.weight, 0, 2) - 1))
            module.bias.data.copy_(draw(module.bias, -1, 2) / 4)
        elif getattr(module, "quantiser", None) is not None and hasattr(module, "weight"):
            module.weight.data.copy_(draw(module.weight, -2, 3))  # 0 is a weight of +1
            if module.bias is not None:
                module.bias.data.copy_(draw(module.bias, -3, 4) / 2)
    return model.eval()


def built(name: str, seed: int = 0) -> tuple[nn.Module, IntegerNetwork, Tensor]:
    shape, make = SHAPES[name]
    model = randomise_(make(), seed)
    x = 2.0 * torch.randint(0, 256, (20, *shape), generator=torch.Generator().manual_seed(seed)) - 255
    return model, to_integer(model, compare.parameters(model)), x


def perceptron(sizes: list[int], seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    return randomise_(binarynets.mlp(sizes[0], sizes[1:-1], sizes[-1]).to(dtype), seed)


# Files


@pytest.mark.parametrize("name", SHAPES)
def test_loaded_networks_are_equal(name: str, tmp_path: Path) -> None:
    model, network, x = built(name)
    save_packed(network, tmp_path / "net.safetensors")
    loaded = load_packed(tmp_path / "net.safetensors")
    assert loaded.plan == network.plan
    for field in ("bits", "thresholds", "negated"):
        ours, theirs = getattr(network, field), getattr(loaded, field)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)
    assert torch.equal(loaded(x), model(x))
    save_packed(loaded, str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_keep_their_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model = perceptron([9, 8, 4], 1, dtype)
    save_packed(to_integer(model, compare.parameters(model)), tmp_path / "net")
    x = torch.arange(9).to(dtype)[None]
    assert torch.equal(load_packed(tmp_path / "net")(x), model(x))
    assert load_packed(tmp_path / "net")(x).dtype == dtype


def test_bits_lie_without_gaps_first_in_the_lowest(tmp_path: Path) -> None:
    model = perceptron([3, 5, 2], 2)
    network = to_integer(model, compare.parameters(model))
    save_packed(network, tmp_path / "net")
    flat = network.bits["linear1.weight"].flatten().tolist()
    expected = [sum(int(bit) << i for i, bit in enumerate(flat[start : start + 8])) for start in range(0, 15, 8)]
    assert load((tmp_path / "net").read_bytes())["bits.linear1.weight"].tolist() == expected


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "net"
    save_packed(built("two hidden layers")[1], path)
    return path.read_bytes()


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage_is_noticed(content: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    at = data.draw(st.integers(0, len(content) - 1))
    changed = data.draw(st.integers(1, 255))
    path.write_bytes(content[:at] + bytes([content[at] ^ changed]) + content[at + 1 :])
    try:
        loaded = load_packed(path)
    except PackedFileError:
        return
    save_packed(loaded, path)  # white space for white space at the end of the header, say
    assert path.read_bytes() == content


def test_cut_files_are_refused(content: bytes, tmp_path: Path) -> None:
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(PackedFileError, match=r"cut is not a packed network.*save the network again"):
            load_packed(tmp_path / "cut")


def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match=r"none does not exist: expected a file that save_packed wrote"):
        load_packed(tmp_path / "none")
    with pytest.raises(PackedFileError, match=r"could not read .*directory"):
        load_packed(tmp_path)
    for number, foreign in enumerate([b"text", save({"a": torch.ones(2)}), save({}, {"binarynets.packed": "[]"})]):
        (tmp_path / f"{number}").write_bytes(foreign)
        with pytest.raises(PackedFileError, match=r"is not a packed network"):
            load_packed(tmp_path / f"{number}")


def test_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8:length])["__metadata__"]["binarynets.packed"])
    (tmp_path / "later").write_bytes(
        save(load(content), {"binarynets.packed": json.dumps(header | {"format": 2, "digest": ""})})
    )
    with pytest.raises(PackedFileError, match=r"later has format 2, expected 1: read it with the version"):
        load_packed(tmp_path / "later")


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = built("linear classifier")[1]
    (tmp_path / "net").write_bytes(b"before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=r"No space left"):
        save_packed(network, tmp_path / "net")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


# Summary


@pytest.mark.parametrize("name", SHAPES)
def test_total_is_the_size_of_the_file(name: str, tmp_path: Path) -> None:
    model, network, x = built(name)
    save_packed(network, tmp_path / "net")
    found = summary(model, tuple(x.shape[1:]))
    assert found.bytes == os.path.getsize(tmp_path / "net")
    assert found == summary(network, list(x.shape[1:]))
    weights = {row.name: row for row in found.rows if row.kind in ("Linear", "Convolution")}
    for name, module in model.named_modules():
        if name in weights:
            assert weights[name].bits == module.weight.numel()
            assert weights[name].bytes == -(-module.weight.numel() // 8)


@pytest.mark.parametrize("name", SHAPES)
def test_multiply_accumulates_are_those_of_the_products(name: str) -> None:
    model, _, x = built(name)
    counted = {}

    def count(name: str, module: nn.Module, output: Tensor) -> None:
        counted[name] = output[0].numel() * module.weight[0].numel()

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, _, output, path=path: count(path, module, output))
    model(x)
    found = summary(model, tuple(x.shape[1:]))
    assert {row.name: row.macs for row in found.rows if row.name in counted} == counted
    assert found.macs == sum(counted.values())


def test_summary_is_an_aligned_table() -> None:
    model = binarynets.vgg((1, 8, 8), [[4]], [], 10).eval()
    text = str(summary(model))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "kind", "shape", "bits", "bytes", "MACs"]
    assert lines[1].split() == ["convolution1_1", "Convolution", "4", "x", "1", "x", "3", "x", "3", "36", "5", "-"]
    assert lines[-1] == "MACs of convolutions need input_shape, such as (1, 28, 28)."
    assert len({len(line) for line in lines[:4]}) == 1
    known = summary(model, (1, 8, 8))
    assert "input_shape" not in str(known)
    assert known.macs == 36 * 64 + 10 * 64


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = built("convolutions")[0]
    with pytest.raises(IntegerError, match=r"input_shape: expected the shape of one sample.*got \(2, 9, 19\).*linear1"):
        summary(model, (2, 9, 19))
    with pytest.raises(IntegerError, match=r"got \(3, 8, 8\).*convolution1_1"):
        summary(model, (3, 8, 8))


# The forward


def literal(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Sums of the last layer, one unit and one weight at a time."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    values = [int(number) for number in x]
    for layer, norm in zip(layers, norms, strict=True):
        sums = [
            sum(value if weight >= 0 else -value for weight, value in zip(row, values, strict=True))
            for row in layer.weight.tolist()
        ]
        scaled = norm(torch.tensor([sums], dtype=layer.weight.dtype))[0].tolist()
        values = [1 if number >= 0 else -1 for number in scaled]
    return np.array(sums)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 140), min_size=2, max_size=5),
    seed=st.integers(0, 10**6),
    inputs=st.sampled_from(["pixels", "signs", "small", "constant", "wide"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_forward_is_the_literal_one(sizes: list[int], seed: int, inputs: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    x = {
        "pixels": 2 * rng.integers(0, 256, sizes[0]) - 255,
        "signs": 2 * rng.integers(0, 2, sizes[0]) - 1,
        "small": rng.integers(-9, 4, sizes[0]),
        "constant": np.full(sizes[0], rng.integers(-300, 300)),
        "wide": rng.choice([-1, 1], sizes[0]) * ((2**24 - 1) // sizes[0]),
    }[inputs]
    model = perceptron(sizes, seed, dtype)
    network = packed(to_integer(model, compare.parameters(model)))
    assert (network.inputs, network.classes) == (sizes[0], sizes[-1])
    assert np.array_equal(network.sums(x), literal(model, x))
    expected = model(torch.from_numpy(x).to(dtype)[None])[0]
    found = network(torch.from_numpy(x))
    assert torch.equal(found, expected)
    assert found.dtype == dtype
    assert network.predict(x) == int(expected.argmax())


def test_networks_without_normalisation() -> None:
    model, network, x = built("no normalisation")
    assert torch.equal(torch.stack([packed(network)(sample) for sample in x]), model(x))


def test_many_outputs_are_scaled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binarynets.integer.packed_network._VALUES", 0)
    model = perceptron([20, 30, 10], 3)
    x = torch.arange(20.0)
    network = packed(to_integer(model, compare.parameters(model)))
    assert torch.equal(network(x), model(x[None])[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_inputs_of_any_type_and_shape(dtype: torch.dtype) -> None:
    model = perceptron([12, 9, 4], 4)
    network = packed(to_integer(model, compare.parameters(model)))
    x = torch.arange(12).to(dtype)
    expected = model(x.float()[None])[0]
    assert torch.equal(network(x), expected)
    assert torch.equal(network(x.view(3, 4)), expected)
    assert torch.equal(network(x.repeat_interleave(2)[::2]), expected)
    assert torch.equal(network(x.float().requires_grad_()), expected)
    assert torch.equal(network(x.float().numpy()), expected)


def test_inputs_are_not_changed() -> None:
    model = perceptron([12, 9, 4], 4)
    x = torch.arange(12.0)
    packed(to_integer(model, compare.parameters(model)))(x)
    assert torch.equal(x, torch.arange(12.0))


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = perceptron([4, 3, 2], 5)
    network = packed(to_integer(model, compare.parameters(model)))
    with pytest.raises(IntegerError, match=r"expected one sample of 4 numbers, got 8; .*call the IntegerNetwork"):
        network(torch.ones(2, 4))
    with pytest.raises(IntegerError, match=r"expected integers, such as 2 p - 255"):
        network(torch.tensor([1, 2, 0.5, 0]))
    for large in (2.0**22, float("nan"), float("inf"), 1e30):
        with pytest.raises(IntegerError, match=r"sums over 4 inputs stay below 2\*\*24.* NaN or infinity"):
            network.sums(torch.tensor([1, 2, large, 0]))
    network(torch.tensor([1, 2, 2.0**22 - 1, 0]))


def test_other_networks_are_refused() -> None:
    for name, step in (("convolutions", "convolution1_1"), ("bias, stride, no normalisation", "0")):
        with pytest.raises(IntegerError, match=rf"'{step}': the packed forward takes linear layers.*got Convolution"):
            packed(built(name)[1])


def test_threads_share_a_network() -> None:
    model = perceptron([100, 70, 66, 10], 6)
    network = packed(to_integer(model, compare.parameters(model)))
    x = torch.randint(-255, 256, (300, 100), generator=torch.Generator().manual_seed(0))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = torch.stack(list(pool.map(network, x)))
    assert torch.equal(found, model(x.float()))


def test_importing_the_package_leaves_numba_alone() -> None:
    code = "import sys, binarynets; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_benchmark_document_is_made_from_its_record() -> None:
    root = Path(__file__).parents[1]
    record = json.loads((root / "docs" / "results" / "packed.json").read_text(encoding="utf-8"))
    assert (root / "docs" / "results" / "packed.md").read_text(encoding="utf-8") == script.document(record)
    layer = record["layers"]["4096"]
    assert layer[script.TORCH]["median"] >= 30 * layer[script.OURS]["median"]
    bare = {script.OURS: layer[script.OURS], script.TORCH: layer[script.TORCH]}
    shown = script.document(record | {"layers": {"4096": bare}})
    assert "| onnxruntime int8 | not installed |" in shown
    assert "| larq-compute-engine | not installed |" in shown
