"""The command line as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch

from compare.cli import main

SMALL = ["--hidden", "12", "--epochs", "2", "--seeds", "0,1", "--points", "3", "--samples", "100"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_run_writes_networks_records_table_and_page(run_folder) -> None:
    files = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    assert files == {
        "configuration.toml",
        *(
            f"{p}/seed-{s}/{f}"
            for p in ("binary", "full")
            for s in (0, 1)
            for f in ("network.safetensors", "training.json")
        ),
        "records/binary-0-1.json",
        "records/full-0-1.json",
        "report/index.html",
        "report/table.md",
    }
    assert tomllib.loads((run_folder / "configuration.toml").read_text())["architecture"]["hidden"] == [12]


def test_run_again_makes_nothing_again(run_folder, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.json")}
    assert main(["run", *SMALL, "--out", str(run_folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.json")} == before
    output = capsys.readouterr()
    assert "index.html" in output.out
    assert output.err == ""


def test_run_refuses_another_configurations_folder(run_folder, capsys) -> None:
    assert main(["run", *SMALL, "--epochs", "3", "--out", str(run_folder)]) == 2
    assert "holds another configuration's run" in capsys.readouterr().err


def test_run_from_its_own_configuration(run_folder, capsys) -> None:
    assert main(["run", "--config", str(run_folder / "configuration.toml"), "--out", str(run_folder)]) == 0
    assert "hidden = [12]" in capsys.readouterr().out


def test_dry_run_prints_the_configuration_and_stops(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert tomllib.loads(printed.partition("output folder:")[0])["data"] == "digits"
    assert "output folder: runs/digits-mlp-" in printed
    assert not list(tmp_path.iterdir())


def test_train_connect_and_report(tmp_path, capsys) -> None:
    for seed in ("3", "4"):
        words = ["train", "--precision", "full", "--hidden", "8", "--epochs", "1", "--seed", seed]
        assert main([*words, "--out", str(tmp_path / seed)]) == 0
    assert "test error" in capsys.readouterr().out
    record = tmp_path / "record.json"
    words = [
        "connect",
        str(tmp_path / "3"),
        str(tmp_path / "4"),
        "--points",
        "3",
        "--samples",
        "50",
        "--out",
        str(record),
    ]
    assert main(words) == 0
    assert json.loads(record.read_text())["networks"][1]["seed"] == 4
    assert main(["report", str(record), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_connect_refuses_networks_that_do_not_belong_together(run_folder, tmp_path, capsys) -> None:
    binary, full = (str(run_folder / precision / "seed-0") for precision in ("binary", "full"))
    assert main(["connect", binary, full, "--out", str(tmp_path / "record.json")]) == 2
    assert "differ in 'precision': 'binary' and 'full'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_convnet_is_connected_at_a_chosen_number_of_threads(tmp_path) -> None:
    words = ["run", "--network", "vgg", "--stages", "4/6", "--hidden", "8", "--epochs", "1", "--threads", "1"]
    more = ["--seeds", "0,1", "--points", "3", "--samples", "50", "--out", str(tmp_path / "run")]
    threads = torch.get_num_threads()
    try:
        assert main([*words, *more]) == 0
    finally:
        torch.set_num_threads(threads)
    record = json.loads((tmp_path / "run" / "records" / "binary-0-1.json").read_text())
    assert record["model"] == "1 - 4 (3x3) - 6 (3x3) - 8 - 10"
    assert record["provenance"]["threads"] == 1


def test_precisions_lists_what_is_installed(capsys) -> None:
    assert main(["precisions"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["binary", "binarynets:FAMILY"],
        ["full", "fullprecision:FAMILY"],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--data", "imagenet"], "unknown data set 'imagenet', expected one of digits"),
        (["run", "--precisions", "binary,int3"], "unknown precision 'int3': installed are binary, full"),
        (["run", "--points", "1"], "greater than or equal to 2"),
        (["run", "--epochs", "lots"], "training.epochs"),
        (["run", "--optimiser", "bop"], "'bop' is for binary weights"),
        (["run", "--network", "resnet"], "not supported yet"),
        (["run", "--data", "mnist"], "mnist"),
        (["run", "--data", "mnist", "--data-root", "nowhere"], "nowhere"),
        (["run", "--config", "none.toml"], "could not read the configuration none.toml"),
        (["train", "--precision", "int3", "--out", "x"], "unknown precision 'int3'"),
        (["connect", "x", "y", "--out", "z"], "does not exist"),
        (["report", "none.json", "--out", "z"], "could not read the record none.json"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"compare-nets {words[0]}: error: ")
    assert message in error
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("words", [[], ["dance"], ["run", "--colour", "red"], ["report"], ["run", "--threads", "0"]])
def test_unknown_words_show_the_usage(words, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: compare-nets" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "train", "connect", "report", "precisions"])
def test_help_has_an_example(command, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"  compare-nets {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["run", "--dry-run"], ["precisions"]])
def test_torch_is_not_imported_where_it_is_not_needed(words, tmp_path) -> None:
    program = (
        "import sys\nfrom compare.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'altair', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_leaves_finished_epochs_to_go_on_from(tmp_path) -> None:
    folder = tmp_path / "run"
    words = ["train", "--precision", "binary", "--epochs", "100000", "--hidden", "8", "--out", str(folder)]
    command = [sys.executable, "-m", "compare", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    while not (folder / "network.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from them" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in folder.iterdir()) in (
        ["network.safetensors", "training.json"],
        ["network.safetensors"],
    )
