"""Documents of results are what their script makes of the records beside them: no number is typed by hand."""

import importlib.util
from pathlib import Path

from compare.runs import read_records

ROOT = Path(__file__).parents[1]


def _script():
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_mnist_document_comes_from_its_records() -> None:
    folder = ROOT / "docs" / "results"
    records = read_records([folder / "mnist"])
    assert len(records) == 6
    assert (folder / "mnist.md").read_text(encoding="utf-8") == _script().document(records)


def test_every_claim_of_the_mnist_document_holds() -> None:
    records = read_records([ROOT / "docs" / "results" / "mnist"])
    claims = list(_script()._claims(records))
    assert len(claims) == 6
    assert all(claim.endswith("| holds |") for claim in claims)
