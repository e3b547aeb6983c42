"""The command line as a user meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from compare.cli import _reader, main
from compare.data.names import DATA_SETS
from compare.runs.configuration import Architecture, configure

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
    assert tomllib.loads(printed)["architecture"] == {"network": "mlp", "hidden": [256, 256]}
    assert "# output folder: runs/digits-mlp-" in printed
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "4/"], "stages[1]: expected the channels of at least one convolution"),
        (["--stages", "a/4"], "(--stages): got 'a', expected a valid integer"),
        (["--seeds", "1/2"], "(--seeds): got '1/2', expected a valid integer"),
    ],
)
def test_lists_are_read(words, message, tmp_path, capsys) -> None:
    assert main(["run", "--network", "vgg", *words, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_one_stage_is_a_list_of_one() -> None:
    assert _reader(Architecture().stages)("4,6") == [["4", "6"]]
    assert _reader(Architecture().stages)("4/6, 8") == [["4"], ["6", "8"]]


def test_precisions_lists_what_is_installed(capsys) -> None:
    assert main(["precisions"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["binary", "binarynets:FAMILY"],
        ["brevitas", "binarynets.brevitas:FAMILY"],
        ["full", "fullprecision:FAMILY"],
        ["int2", "binarynets.brevitas:INT2"],
        ["int4", "binarynets.brevitas:INT4"],
        ["int8", "binarynets.brevitas:INT8"],
        ["ternary", "binarynets.brevitas:TERNARY"],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--data", "imagenet"], "data (--data): got 'imagenet', expected one of digits"),
        (
            ["run", "--dry-run", "--precisions", "int3"],
            "unknown precision 'int3': installed are binary, brevitas, full",
        ),
        (["run", "--hidden", "100000000000"], "choose smaller sizes"),
        (["run", "--widths", "8"], "the network 'mlp' has no widths"),
        (["run", "--precisions", "binary,int3"], "unknown precision 'int3': installed are binary, brevitas, full"),
        (["run", "--points", "1"], "greater than or equal to 3"),
        (["run", "--epochs", "lots"], "training.epochs"),
        (["run", "--optimiser", "bop"], "'bop' is for binary weights"),
        (["run", "--data", "mnist"], "mnist"),
        (["run", "--data", "mnist", "--data-root", "nowhere"], "nowhere"),
        (["run", "--config", "none.toml"], "could not read the configuration none.toml"),
        (["train", "--precision", "int3", "--out", "x"], "unknown precision 'int3'"),
        (["connect", "x", "y", "--out", "z"], "expected a checkpoint that"),
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


@pytest.mark.parametrize("number", ["abc", "-1", "1.5", str(2**63)])
@pytest.mark.parametrize(("command", "option"), [("run", "--threads"), ("train", "--seed"), ("connect", "--seed")])
def test_numbers_are_checked_where_they_are_typed(command, option, number, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, option, number])
    assert stopped.value.code == 2
    assert re.search(rf"{option}: expected a whole number from [01] to .*, got '{number}'", capsys.readouterr().err)


@pytest.mark.parametrize(("option", "number"), [("--points", "4"), ("--points", "1"), ("--samples", "1")])
def test_connect_refuses_numbers_that_make_no_measurement(run_folder, tmp_path, option, number, capsys) -> None:
    ends = [str(run_folder / "full" / f"seed-{seed}") for seed in (0, 1)]
    assert main(["connect", *ends, "--out", str(tmp_path / "record.json"), option, number]) == 2
    assert f"({option}): got {number}, expected" in capsys.readouterr().err


def test_nothing_foreign_is_replaced(run_folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / name for name in ("notes.txt", "site/index.html", "tables/table.md", "photos/a.jpg")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    ends = [str(run_folder / "full" / f"seed-{seed}") for seed in (0, 1)]
    commands = [
        (["connect", *ends, "--out", "notes.txt"], "notes.txt is not a record"),
        (["connect", *ends, "--out", "photos"], "could not write photos: Is a directory"),
        (["report", str(run_folder), "--out", "site"], "site/index.html is no report of compare-nets"),
        (["report", str(run_folder), "--out", "tables"], "tables/table.md is no report of compare-nets"),
        (["train", "--precision", "full", "--out", "photos"], "photos is not empty and holds no checkpoint"),
        (["train", "--precision", "full", "--out", "notes.txt"], "notes.txt is not empty and holds no checkpoint"),
    ]
    monkeypatch.setattr("compare.cli._load", lambda *_: pytest.fail("checked too late"))
    for words, message in commands:
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert {file.read_text() for file in files} == {"mine"}
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)


def test_a_report_is_written_again(run_folder, tmp_path) -> None:
    for _ in range(2):
        assert main(["report", str(run_folder), "--out", str(tmp_path / "report")]) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["precisions", "run --dry-run"])
@pytest.mark.parametrize(("output", "status"), [(">/dev/full", 2), (">&-", 2), ("| true", 0)])
def test_output_that_nobody_takes_is_told_without_a_traceback(words, output, status, tmp_path) -> None:
    command = f"set -o pipefail; {sys.executable} -m compare {words} {output}"
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # what stays in the buffer is what fails at exit
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=buffered)
    assert done.returncode == status
    assert ("error: could not write to standard output" in done.stderr) == bool(status)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_help_tells_what_is_needed_to_run(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    sample = re.search(r"its two tables:\n(.*?)\n\n", text, re.DOTALL)
    assert sample
    assert configure(tomllib.loads(sample[1])).training.epochs == 20
    for needed in (*DATA_SETS, "IDX", "train/CLASS/FILE", "CLASS/FILE", "same command again", "mlp or vgg", "bop is"):
        assert needed in text


FAKE_PYTHON = """#!/bin/sh
echo "$@" >>calls
case "$*" in
  *"-m venv"*) [ -z "$NO_VENV" ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/pip;;
  "-m pip --version") [ -e .venv/pip ];;
esac
"""


def test_a_half_made_environment_is_made_again(tmp_path) -> None:
    scripts = Path(__file__).parents[1] / "scripts"
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "environment.sh").write_text((scripts / "environment.sh").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    for python in (tmp_path / "python", tmp_path / ".venv" / "bin" / "python"):
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(FAKE_PYTHON)
        python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "python")}
    command = ["bash", "-c", ". scripts/environment.sh ''"]
    failed = subprocess.run(command, cwd=tmp_path, env={**environment, "NO_VENV": "1"}, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "apt install python3-venv" in failed.stderr
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.count("-m venv --clear .venv") == 2
    assert sum("pip install" in call for call in calls) == 1


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
    try:
        while not (folder / "network.safetensors").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command goes on from them" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in folder.iterdir()) in (
        ["network.safetensors", "training.json"],
        ["network.safetensors"],
    )
