"""The study's script: what it refuses, a whole study in small, what it keeps and takes up."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import reproduce_toroids as script

from compare.runs.configuration import Architecture
from compare.runs.study import Study, read_part
from compare.study import Job, Measures
from compare.training import ADV, RSGD, SAM, BendSettings, TrainingSettings

SHORT = TrainingSettings(epochs=1, batch=100, optimiser="sgd", learning_rate=0.05)
RECIPES = {
    "sgd": SHORT,
    "rsgd": replace(SHORT, algorithm=RSGD(replicas=2)),
    "adv": replace(SHORT, algorithm=ADV(random_epochs=1)),
    "sam": replace(SHORT, algorithm=SAM()),
}
SMALL = Measures(
    samples=50,
    points=3,
    flat_samples=40,
    sigmas=(0.3, 0.5),
    fractions=(0.01, 0.05),
    draws=2,
    curved_samples=20,
    plane=(3, 2),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "recipes", lambda data, epochs: {"binary": RECIPES, "full": RECIPES})
    monkeypatch.setattr(script, "ALGORITHMS", tuple(RECIPES))
    monkeypatch.setattr(script, "SHAPES", {"digits": Architecture(network="mlp", hidden=(8, 6))})
    monkeypatch.setattr(script, "BEND", BendSettings(epochs=1, points=3))
    monkeypatch.setattr(script, "Measures", lambda samples, points, **_: replace(SMALL, samples=samples, points=points))


def _words(folder: Path, *more: str) -> list[str]:
    few = ["--images", "200", "--test-images", "60", "--networks", "2", "--bends", "1", "--points", "3"]
    return [str(folder / "run"), "--out", str(folder / "out"), *few, "--samples", "50", "--jobs", "1", *more]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precisions", "binary,int3"], "--precisions: expected some of .*, got 'int3'"),
        (["--algorithms", "sgd,adagrad"], "--algorithms: expected some of .*, got 'adagrad'"),
        (["--networks", "0"], "--networks: expected at least 1, got 0"),
        (["--points", "4"], "--points: expected an odd number from 3 on, .* got 4"),
        (["--images", "1"], "--images: expected at least 100, got 1"),
        (["--test-images", "9"], "--test-images: expected at least 10, got 9"),
        (["--bends", "-1"], "--bends: expected at least 0, got -1"),
        (["--flat-samples", "1"], "--flat-samples: expected at least 2, got 1"),
        (["--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["--jobs", "0"], "--jobs: expected a number of processes, or -1 .*, got 0"),
        (["--algorithms", "adam"], "--algorithms: 'full' has none of adam: expected at least one of sgd, rsgd"),
        (["--records"], r"--records: expected records \(\*.json\) in .*toroids-digits"),
    ],
)
def test_arguments_are_checked(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_words(tmp_path, *words)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small")
def test_a_study_is_kept_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_words(tmp_path)) == 0
    out = tmp_path / "out"
    text = (out / "toroids-digits.md").read_text()
    for precision in ("binary", "full"):
        study = read_part(Study, out / "toroids-digits" / f"{precision}.json")
        assert [network.name for network in study.networks] == [f"{n}-{i}" for n in RECIPES for i in (0, 1)]
        assert (len(study.pairs), len(study.bends)) == (28, 4)
        assert (study.data.train, study.data.test) == (200, 60)
        assert [bend.plane is not None for bend in study.bends] == [True] * 4
        assert study.configuration["training"]["sam"]["algorithm"] == {"name": "sam", "rho": 0.05}
    pictures = re.findall(r"\((toroids-digits-[\w-]+\.png)\)", text)
    assert len(pictures) > 3
    assert all((out / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    before = text

    # What is there is not made again; what is missing is, and comes out the same.
    (tmp_path / "run" / "full" / "pairs" / "sgd-0--sgd-1.json").unlink()
    made: list[tuple[str, ...]] = []
    run = Job.run
    monkeypatch.setattr(Job, "run", lambda job: (made.append(job.what), run(job)))
    assert script.main(_words(tmp_path)) == 0
    assert made == [("sgd-0", "sgd-1")]
    assert (out / "toroids-digits.md").read_text() == before
    (out / "toroids-digits.md").unlink()
    assert script.main(_words(tmp_path, "--records")) == 0
    assert (out / "toroids-digits.md").read_text() == before

    # Another study's parts are not taken for this one's, and nothing of it is changed.
    described = (tmp_path / "run" / "study.json").read_text()
    for other in (["--samples", "60"], ["--images", "300"], ["--test-images", "50"]):
        capsys.readouterr()
        assert script.main(_words(tmp_path, *other)) == 2
        assert "belongs to a study with other settings" in capsys.readouterr().err
    assert (tmp_path / "run" / "study.json").read_text() == described

    # More networks are added to those that are there.
    made.clear()
    few = ["--algorithms", "sgd,sam", "--precisions", "full", "--networks", "3"]
    assert script.main(_words(tmp_path, *few)) == 0
    assert set(made[:2]) == {("sgd-2",), ("sam-2",)}
    assert all(any(name.endswith("-2") for name in names) for names in made)

    # Nor is a network taken whose record is not there yet, and whose test errors are of other images.
    shutil.rmtree(tmp_path / "run" / "full" / "pairs")
    alone = ["--algorithms", "sam", "--precisions", "full", "--bends", "0", "--test-images", "50"]
    for number in range(3):
        (tmp_path / "run" / "full" / "networks" / f"sam-{number}.json").unlink()
    assert script.main(_words(tmp_path, *alone)) == 2
    assert "trained with other settings (test_images differ)" in capsys.readouterr().err
    assert script.main(_words(tmp_path, *few)) == 0

    # A record whose network is gone says what to do.
    (tmp_path / "run" / "full" / "checkpoints" / "sgd-0" / "network.safetensors").unlink()
    (tmp_path / "run" / "full" / "pairs" / "sgd-0--sgd-1.json").unlink()
    assert script.main(_words(tmp_path, *few)) == 2
    assert re.search(r"Remove .*networks.sgd-0\.json: the network is trained again", capsys.readouterr().err)


@pytest.mark.usefixtures("small")
def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_job: Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "run", interrupted)
    assert script.main(_words(tmp_path)) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert script.main(_words(tmp_path)) == 2
    assert "Nothing was done yet" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_networks_of_one_number_begin_differently_in_each_algorithm(tmp_path: Path) -> None:
    assert script.main(_words(tmp_path, "--algorithms", "sgd,sam", "--precisions", "full", "--bends", "0")) == 0
    study = read_part(Study, tmp_path / "out" / "toroids-digits" / "full.json")
    (pair,) = (pair for pair in study.pairs if pair.networks == ("sgd-0", "sam-0"))
    (same,) = (pair for pair in study.pairs if pair.networks == ("sgd-0", "sgd-1"))
    angle = {distance.treatment: distance.rms_angle for distance in pair.distances}["as trained"]
    assert angle > 0.8 * {distance.treatment: distance.rms_angle for distance in same.distances}["as trained"]
    assert study.bends == ()
