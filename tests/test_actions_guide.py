"""The examples of the guides to actions and to merging run as they stand."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def _printed(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    programs = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert programs
    exec(compile("\n".join(programs), name, "exec"), {})
    return capsys.readouterr().out.splitlines()


def test_the_guide_to_actions(capsys: pytest.CaptureFixture[str]) -> None:
    blocks, *methods, votes, attacked = _printed("actions.md", capsys)
    assert blocks == "1 32 False 3 16 True"
    assert [line.partition(":")[0] for line in methods] == ["least squares", "smallest change", "rotation"]
    assert all("rank 16, " in line for line in methods)
    alone, vote, agreement = map(float, re.findall(r"[\d.]+", votes))
    assert 0 < agreement < 1
    assert 0 < vote < 1 > alone > 0
    assert all(0 <= float(error) <= 1 for error in attacked.split())


def test_the_guide_to_merging(capsys: pytest.CaptureFixture[str]) -> None:
    _, *lines = _printed("merging.md", capsys)
    merged, unmatched, parts, vote = (float(number) for number in re.findall(r"([\d.]+)%", " ".join(lines)))
    assert merged < unmatched
    assert 0 < vote < 100 > parts > 0
