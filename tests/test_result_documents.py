"""Documents of results are what the scripts make of the records beside them."""

import re
import shutil
from pathlib import Path
from types import ModuleType

import merge_binary
import pytest
import reproduce_orbits
import reproduce_topology
import reproduce_toroids

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


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_the_document_of_flat_regions_is_what_the_script_makes_of_the_records(data: str, tmp_path: Path) -> None:
    name = f"toroids-{data}"
    shutil.copytree(RESULTS / name, tmp_path / name)
    assert reproduce_toroids.main([str(tmp_path / "run"), "--data", data, "--out", str(tmp_path), "--records"]) == 0
    # On another processor sums round differently: halves of a last digit go up or down.
    (words, numbers), (kept_words, kept_numbers) = map(_parts, (tmp_path / f"{name}.md", RESULTS / f"{name}.md"))
    assert words == kept_words
    assert numbers == pytest.approx(kept_numbers, rel=0, abs=0.011)


def _parts(document: Path) -> tuple[list[str], list[float]]:
    """Words and numbers, without the table of the embedding: an optimiser ends elsewhere on another processor."""
    before, title, rest = document.read_text(encoding="utf-8").partition("### Two-dimensional embedding")
    assert title
    _, title, after = rest.partition("\n### ")
    assert title
    text, number = before + after, r"-?\d+(?:\.\d+)?"
    return re.sub(number, " ", text).split(), [float(found) for found in re.findall(number, text)]
