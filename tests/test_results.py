"""Documents of results are what their script makes of the records beside them: no number is typed by hand."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import benchmark_matching
import exact
import precision_ladder
import pytest
import results

from compare.runs import read_records

ROOT = Path(__file__).parents[1]


def test_the_mnist_document_comes_from_its_records() -> None:
    folder = ROOT / "docs" / "results"
    records = read_records([folder / "mnist"])
    assert len(records) == 6
    assert (folder / "mnist.md").read_text(encoding="utf-8") == results.document(records)


def test_every_claim_of_the_mnist_document_holds() -> None:
    records = read_records([ROOT / "docs" / "results" / "mnist"])
    claims = list(results._claims(records))
    assert len(claims) == 6
    assert all(claim.endswith("| holds |") for claim in claims)


def test_the_ladder_document_comes_from_its_records() -> None:
    folder, order = ROOT / "docs" / "results", precision_ladder.PRECISIONS
    records = sorted(read_records([folder / "ladder-mnist"]), key=lambda record: order.index(record.precision))
    found = precision_ladder.document(records, "ladder-mnist")
    assert (folder / "ladder-mnist.md").read_text(encoding="utf-8") == found


def test_the_ladder_says_what_is_missing(tmp_path, capsys) -> None:
    assert precision_ladder.main([str(tmp_path / "run"), "--data", "mnist", "--out", str(tmp_path)]) == 2
    assert "precision_ladder.py: error: mnist: needs files, and no folder was given" in capsys.readouterr().err


@pytest.mark.parametrize("script", [results, exact])
def test_a_folder_without_a_run_is_told(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert f"{script.__name__}.py: error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_records_that_make_no_such_document_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, out = ROOT / "docs" / "results", tmp_path / "out"
    shutil.copytree(kept / "mnist", tmp_path / "full", ignore=shutil.ignore_patterns("binary*"))
    for folder in (tmp_path / "full", kept / "ladder-mnist"):
        assert results.main([str(folder), "--out", str(out)]) == 2
        assert "expected records of binary and full-precision networks on mnist" in capsys.readouterr().err
        assert not out.exists()
    for rubbish in ("{}", "rubbish"):
        (tmp_path / "exact.json").write_text(rubbish)
        assert exact.main(["--again", "--out", str(tmp_path)]) == 2
        assert "is no record of this script" in capsys.readouterr().err
    assert not (tmp_path / "exact.md").exists()


def test_documents_are_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ROOT / "docs" / "results"
    assert results.main([str(kept / "mnist"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "mnist.md").read_bytes() == (kept / "mnist.md").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        exact.main(["--again", "--out", str(tmp_path)])
    assert "--again: expected the record" in capsys.readouterr().err
    shutil.copy(kept / "exact.json", tmp_path)
    assert exact.main(["--again", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "exact.md").read_bytes() == (kept / "exact.md").read_bytes()


def test_the_matching_document_comes_from_its_record() -> None:
    folder = ROOT / "docs" / "results"
    record = json.loads((folder / "matching.json").read_text(encoding="utf-8"))
    assert (folder / "matching.md").read_text(encoding="utf-8") == benchmark_matching.document(record)


def test_the_document_of_the_exact_landscape_comes_from_its_record() -> None:
    folder = ROOT / "docs" / "results"
    record = json.loads((folder / "exact.json").read_text(encoding="utf-8"))
    assert (folder / "exact.md").read_text(encoding="utf-8") == exact.document(record)


def test_the_figures_asked_of_the_exact_landscape_are_reached_in_the_record() -> None:
    """At most 60 dense evaluations for every network of a path, and for every flip of every bit."""
    record = json.loads((ROOT / "docs" / "results" / "exact.json").read_text(encoding="utf-8"))
    costs = record["costs"]
    assert costs["flips"] > 200_000
    assert record["bits"] == 668_672
    assert costs["path"]["most"] <= 60
    assert costs["neighbourhood"]["most"] <= 60


def test_the_figures_asked_of_matching_are_reached_in_the_record() -> None:
    """On the trained pair 188.4 within 5 s and 185.4 within 0.3 s (to the length of one step), by every seed."""
    record = json.loads((ROOT / "docs" / "results" / "matching.json").read_text(encoding="utf-8"))
    for name, seconds, least in (("budget_s=0.3", 0.3, 185.4), ("budget_s=5", 5, 188.4)):
        runs = record["pair"]["runs"][name]
        assert len(runs) >= 5
        assert min(run["objective"] for run in runs) >= least
        assert max(run["seconds"] for run in runs) <= 1.05 * seconds
    assert max(found["trace_seconds"] for found in record["large"].values()) < 5
