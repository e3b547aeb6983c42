"""What the README shows runs as it stands, and the files it points to are there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "symmetry.md").read_text(encoding="utf-8")
EXACT = (ROOT / "docs" / "exact.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_runs(capsys) -> None:
    (program,) = PYTHON
    exec(compile(program, "README.md", "exec"), {})
    errors, hamming = capsys.readouterr().out.rsplit(") ", 1)
    assert len(errors.split(",")) == 5
    assert 0 < float(hamming) < 0.5


def test_the_example_of_the_guide_to_symmetries_runs(capsys) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(compile(program, "symmetry.md", "exec"), {})
    *blocks, objective = capsys.readouterr().out.splitlines()
    assert blocks[1] == "1.expand: 24 units, signs False, scales True"
    reached, best = re.findall(r"[\d.]+", objective)
    assert reached == best


def test_the_examples_of_the_guide_to_the_exact_landscape_run(capsys) -> None:
    programs = re.findall(r"```python\n(.*?)```", EXACT, flags=re.DOTALL)
    assert len(programs) == 3
    exec(compile("\n".join(programs), "exact.md", "exec"), {})
    own, path, critical, robust = capsys.readouterr().out.splitlines()[:4]
    assert 0 <= int(own) <= 359
    supremum, at, missed = path.split()
    assert 0 < int(supremum) <= 359
    assert 0 <= float(at) <= 1
    assert 0 <= int(missed) <= int(supremum)
    assert "linear" in critical
    assert robust.startswith("[")


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)  # code has no links
    targets = {each for each in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if not each.startswith("http")}
    assert [target for target in sorted(targets) if not (page.parent / target).exists()] == []


def test_the_two_commands_are_executable_scripts() -> None:
    for script in re.findall(r"^(\./scripts/\w+)", README, flags=re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_ci_is_the_test_command() -> None:
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ['exec "$(dirname "${BASH_SOURCE[0]}")/../scripts/test"']


def test_every_surface_function_of_the_package_is_there() -> None:
    import compare

    for name in compare.__all__:
        assert getattr(compare, name).__doc__
