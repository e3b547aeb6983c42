"""The script that tries settings: what it refuses, trials in small, and the document that it made."""

from dataclasses import replace
from pathlib import Path

import pytest
import trial_recipes as script

from compare.runs.configuration import Architecture
from compare.training import RSGD, TrainingSettings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SHORT = TrainingSettings(epochs=1, batch=100, optimiser="sgd", learning_rate=0.05)
FEW = {"full": (SHORT, replace(SHORT, algorithm=RSGD(replicas=2))), "binary": (SHORT,)}


def _words(folder: Path, *more: str) -> list[str]:
    return [str(folder / "run"), "--data", "digits", "--images", "100", "--jobs", "1", "--out", str(folder), *more]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "99"], "--images: expected at least 100, got 99"),
        (["--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["--flat-samples", "1"], "--flat-samples: expected at least 2, got 1"),
        (["--jobs", "0"], "--jobs: expected a number of processes"),
        (["--records"], "--records: expected the records of trials in"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, capsys, words, message) -> None:
    assert script.main(_words(tmp_path, *words)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trials_in_small_are_kept_and_written_anew_from_their_records(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(script, "trials", lambda epochs: FEW)
    monkeypatch.setattr(script, "SHAPES", {"digits": Architecture(network="mlp", hidden=(8, 6))})
    words = _words(tmp_path, "--epochs", "1", "--flat-samples", "40")
    assert script.main(words) == 0
    page = tmp_path / "trials-digits.md"
    first = page.read_text()
    assert first.count("| full ") == 2
    assert first.count("| binary ") == 1
    assert "`replicas` 2" in first
    assert script.main(words) == 0
    assert "3 of 3 trials are there, 0 to do" in capsys.readouterr().err
    page.unlink()
    assert script.main([*words, "--records"]) == 0
    assert page.read_text() == first


def test_the_document_is_what_the_script_makes_of_the_records(tmp_path) -> None:
    (tmp_path / "trials-mnist.json").write_text((RESULTS / "trials-mnist.json").read_text())
    assert script.main([str(tmp_path / "run"), "--records", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "trials-mnist.md").read_text() == (RESULTS / "trials-mnist.md").read_text()


def test_the_study_trains_with_settings_that_were_tried() -> None:
    tried = script.trials(20)
    for precision, own in script.recipes("mnist", 20).items():
        assert all(settings in tried[precision] for settings in own.values())
    rows = [
        line for line in (RESULTS / "trials-mnist.md").read_text().splitlines() if line.rstrip(" |").endswith("yes")
    ]
    assert len(rows) == sum(len(own) for own in script.recipes("mnist", 20).values())
