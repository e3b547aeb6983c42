"""The example of docs/add-a-precision.md, installed as it stands there."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import torch
from zoo import randomised

import compare
from compare.data import Data
from compare.experiment import build
from compare.family import families
from compare.precisions import GROUP, installed
from compare.runs import Configuration
from compare.symmetry import SymmetryError
from compare.symmetry.rules import linear_map

GUIDE = (Path(__file__).parents[1] / "docs" / "add-a-precision.md").read_text(encoding="utf-8")
(PROJECT,) = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The example's module, importable and with its entry point, as pip would leave it."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads(PROJECT)["project"]
    about = folder / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = "\n".join(f"{name} = {value}" for name, value in project["entry-points"][GROUP].items())
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")
    (folder / "ternarynets.py").write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("ternarynets")
        patch.delitem(importlib.sys.modules, "ternarynets")


@pytest.fixture(scope="module")
def digits() -> Data:
    whole = compare.load_data("digits")
    return Data("some digits", whole.train.subset(1000), whole.test.subset(100), whole.classes, whole.input_shape)


def test_the_entry_point_brings_the_precision(module) -> None:
    assert {"binary", "full", "twn"} <= set(installed())
    assert families(("twn",)) == {"twn": module.FAMILY}


@pytest.mark.parametrize("shape", [{"hidden": (9, 8)}, {"network": "vgg", "hidden": (9,), "stages": ((4,), (5,))}])
def test_it_is_traced_with_signs_and_its_standard_form_keeps_outputs(module, digits, shape) -> None:
    model = build(module.FAMILY, Configuration(architecture=shape), digits, seed=0).eval()
    graph = compare.trace(model, digits.train.x[:8], module.FAMILY)
    assert not any(block.scales for block in graph.blocks)
    assert "network" in shape or all(block.signs for block in graph.blocks)
    params, x = randomised(model), digits.test.x[:50]
    standard = compare.standard_form(graph, params, invariant="loss")
    assert torch.allclose(compare.call(model, standard, x), compare.call(model, params, x), atol=1e-3)
    gains = [standard[layer.norm.gain] for layer in graph.layers if layer.norm and not layer.pooled]
    assert all(bool((gain > 0).all()) for gain in gains)
    used = module.FAMILY.effective(model, params)
    assert set(used[graph.layers[0].weight].unique().tolist()) == {-1.0, 0.0, 1.0}


def test_a_rule_that_claims_scales_is_found_out(module, digits) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), module.TernaryLinear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with pytest.raises(SymmetryError, match="do not hold"):
        compare.trace(model, digits.train.x[:8], module.FAMILY, rules={module.TernaryLinear: linear_map()})


def test_units_that_ternary_weights_read_cannot_be_scaled(module, digits) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), module.TernaryLinear(8, 3))
    (block,) = compare.trace(model, digits.train.x[:8], module.FAMILY).blocks
    assert not block.scales


def test_it_trains_and_connects(module, digits) -> None:
    family = module.FAMILY
    configuration = Configuration(architecture={"hidden": (32,)})
    ends = tuple(
        compare.train(
            build(family, configuration, digits, seed=seed),
            digits,
            family.recipe,
            settings=family.recipe.settings.changed(epochs=5, batch=50),
            seed=seed,
        )
        for seed in (0, 1)
    )
    assert all(end.history[-1].test_error < 0.3 for end in ends)
    model = build(family, configuration, digits, seed=0)
    record = compare.connect(family, model, ends[0].params, ends[1].params, digits, points=5, trained=ends)
    assert (record.precision, record.data.fingerprint) == ("twn", digits.fingerprint)
    (copied,) = (control for control in record.controls if control.name == "symmetric copy")
    heights = {curve.treatment: curve.barrier for curve in copied.curves}
    assert heights["as trained"] > 0.1
    assert heights["matched"] == 0
