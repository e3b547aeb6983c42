"""Documents of results are what the scripts make of the records beside them."""

import shutil
from pathlib import Path
from types import ModuleType

import merge_binary
import pytest
import reproduce_orbits
import reproduce_topology

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (merge_binary, "merging-mnist"),
        (reproduce_orbits, "orbits"),
        (reproduce_topology, "topology-mnist"),
    ],
)
def test_the_document_is_what_the_script_makes_of_the_record(script: ModuleType, name: str, tmp_path: Path) -> None:
    shutil.copy(RESULTS / f"{name}.json", tmp_path)
    words = [str(tmp_path / "run"), "--data", "mnist", "--out", str(tmp_path), "--records"]
    assert script.main(words) == 0
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == (RESULTS / f"{name}.md").read_text(encoding="utf-8")
