"""The scripts around Brevitas: what they refuse, a whole run in small, and a document that comes from its record."""

import json
import re
from pathlib import Path

import benchmark_adapter as benchmark
import connect_brevitas as connect
import pytest
import torch

import compare
from binarynets.brevitas import plain
from compare.runs import read_record

ROOT = Path(__file__).parents[1]


def _images(count, size=28, channels=1):
    """Integers 2 p - 255, of two classes that differ in brightness on the left."""
    generator = torch.Generator().manual_seed(count)
    y = torch.arange(count) % 2
    x = torch.randint(0, 256, (count, channels, size, size), generator=generator).float() * 2 - 255
    x[:, :, :, : size // 2] += 200 * (2 * y.view(-1, 1, 1, 1) - 1)
    x[0, 0, 0, 0] = -255
    return x.clamp_(-255, 255), y


def _data(train=60, test=40, **how):
    splits = [compare.Split(*_images(count, **how), _images(train, **how)[0]) for count in (train, test)]
    return compare.Data("stand-in", *splits, 2, tuple(splits[0].x.shape[1:]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "vgg"], "--network: expected one of tfc_1w1a, .*, got 'vgg'"),
        (["--epochs", "0"], "--epochs: expected 1 or more, got 0"),
        (["--seeds", "0"], "--seeds: expected two different whole numbers, as 0,1, got '0'"),
        (["--seeds", "1,1"], "two different"),
        (["--seeds", "0,-1"], "two different"),
        (["--data", "imagenet"], "--data: invalid choice"),
    ],
)
def test_arguments_are_checked(words, message, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        connect.parsed(["--out", "x", *words])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_help_has_an_example(capsys) -> None:
    with pytest.raises(SystemExit):
        connect.parsed(["--help"])
    assert "example: python scripts/connect_brevitas.py --data-root data/mnist --out runs/tfc" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_data_that_do_not_fit_are_refused_before_training(tmp_path, capsys) -> None:
    assert connect.main(["--data", "digits", "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "tfc_1w1a takes images of 1 x 28 x 28 (--data mnist), digits has 1 x 8 x 8" in message
    assert not (tmp_path / "run").exists()


def test_missing_files_are_an_error_that_says_what_to_do(tmp_path, capsys) -> None:
    assert connect.main(["--data-root", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "mnist: its files are not there" in capsys.readouterr().err
    assert connect.main(["--out", str(tmp_path / "run")]) == 2
    assert "give the folder that holds them" in capsys.readouterr().err


def test_integers_and_pixels_have_the_same_signs_in_a_network_of_one_bit() -> None:
    """Which is why the integers stay: 2 v - 1 of v = 2 p - 255 has the sign of 2 p / 255 - 1, for each pixel p."""
    model, bits = connect.made("tfc_1w1a", 0)
    assert bits == 1
    p = torch.arange(784).remainder(256).view(1, 1, 28, 28)
    model.eval()
    assert torch.equal(model(2.0 * p - 255), model(p / 255))
    data = _data()
    assert connect.prepared(data, bits) is data


def test_inputs_of_more_bits_become_pixels_from_0_to_1() -> None:
    model, bits = connect.made("tfc_2w2a", 0)
    assert bits == 2
    data = _data()
    found = connect.prepared(data, bits)
    for split, mapped in ((data.train, found.train), (data.test, found.test)):
        pixels = (split.x + 255) / 2
        assert torch.allclose(mapped.x, pixels / 255, atol=1e-6)
        assert float(mapped.calibration.min()) >= 0
        assert float(mapped.calibration.max()) <= 1
    assert found.name == data.name
    assert plain(model.eval(), found.train.x)(found.train.x).shape == (60, 10)


def test_a_network_without_an_output_for_each_class_is_refused() -> None:
    data = _data()
    model, _ = connect.made("tfc_1w1a", 0)
    with pytest.raises(connect.FitError, match="10 outputs, stand-in has 11 classes"):
        connect.check_fit("tfc_1w1a", model, compare.Data("stand-in", data.train, data.test, 11, (1, 28, 28)))
    with pytest.raises(connect.FitError, match=r"cnv_1w1a takes images of 3 x 32 x 32 .* stand-in has 1 x 28 x 28"):
        connect.check_fit("cnv_1w1a", connect.made("cnv_1w1a", 0)[0], data)


def test_two_networks_are_trained_and_connected(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(connect.compare, "load_data", lambda name, root: _data())
    words = ["--epochs", "1", "--seeds", "3,4", "--out", str(tmp_path / "run")]
    assert connect.main(words) == 0
    out = capsys.readouterr().out
    assert "## stand-in, 784 - 64 - 64 - 64 - 10" in out
    record = read_record(tmp_path / "run" / "record.json")
    assert [network.seed for network in record.networks] == [3, 4]
    assert record.configuration["network"] == "tfc_1w1a"
    assert record.title == "tfc_1w1a of Brevitas's bnn_pynq"
    assert record.landscape is not None
    copied = record.controls[0]
    assert all(curve.barrier == 0 for curve in copied.curves if curve.treatment == "matched")
    assert (tmp_path / "run" / "index.html").exists()
    assert (tmp_path / "run" / "table.md").exists()
    kept = sorted(folder.name for folder in (tmp_path / "run" / "networks").iterdir())
    assert kept == ["tfc_1w1a-3", "tfc_1w1a-4"]


def test_networks_of_two_seeds_begin_differently_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    (a, _), (b, _), (again, _) = (connect.made("tfc_1w1a", seed) for seed in (0, 1, 0))
    assert torch.equal(torch.rand(3), expected)
    name = "features.2.weight"
    first, second, third = (compare.parameters(model)[name] for model in (a, b, again))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds: expected 1 or more, got 0"),
        (["--samples", "10"], "--samples: expected 1000 or more, got 10"),
        (["--again"], "--again: expected the record"),
    ],
)
def test_arguments_of_the_benchmark_are_checked(words, message, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark_adapter.py", *words, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_ratios_are_of_rounds_and_sums_of_steps() -> None:
    ours, theirs = ({step: [1.0, 2.0] for step in benchmark.STEPS} for _ in range(2))
    theirs["trace"] = [5.0, 4.0]
    seconds = {benchmark.OWN: ours, benchmark.UNIT: theirs}
    assert benchmark.ratios(seconds, benchmark.UNIT, "trace") == [5.0, 2.0]
    assert benchmark.ratios(seconds, benchmark.UNIT) == [8 / 4, 10 / 8]


def test_the_document_of_the_adapter_comes_from_its_record() -> None:
    folder = ROOT / "docs" / "results"
    record = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    assert (folder / "adapter.md").read_text(encoding="utf-8") == benchmark.document(record)


def test_an_analysis_through_the_adapter_costs_little_in_the_record() -> None:
    record = json.loads((ROOT / "docs" / "results" / "adapter.json").read_text(encoding="utf-8"))
    assert record["samples"] == 10_000
    for name in (benchmark.UNIT, benchmark.TENTH):
        assert sorted(benchmark.ratios(record["seconds"], name))[record["rounds"] // 2] <= benchmark.LIMIT
