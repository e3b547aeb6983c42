"""Documents of results are what the scripts make of the records beside them."""

import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("merge_binary", "merging-mnist"),
        ("reproduce_orbits", "orbits"),
        ("reproduce_topology", "topology-mnist"),
    ],
)
def test_the_document_is_what_the_script_makes_of_the_record(script, name, tmp_path, monkeypatch) -> None:
    shutil.copy(RESULTS / f"{name}.json", tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    words = [str(tmp_path / "run"), "--data", "mnist", "--out", str(tmp_path), "--records"]
    assert runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))["main"](words) == 0
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == (RESULTS / f"{name}.md").read_text(encoding="utf-8")
