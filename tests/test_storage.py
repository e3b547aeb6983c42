"""Elements in files come back exactly, damage and strangers are told; optimisers' states move with parameters."""

import copy
import functools
import json
import struct

import pytest
import torch
import torch.nn.functional as F
from motifs import MOTIFS, double
from torch import nn
from zoo import FAMILIES, difference, randomised

import binarynets
from binarynets.optimisers import Bop, assign
from compare.params import Params, parameters
from compare.runs.files import OutputError
from compare.symmetry import Element, Graph, SymmetryError, identity, random_element, trace
from compare.symmetry.optimiser import apply_to_optimiser, owned_names
from compare.symmetry.storage import load_element, save_element

each = pytest.mark.parametrize("name", sorted(MOTIFS))
FULL = sorted(name for name, motif in MOTIFS.items() if motif.precision == "full")
BINARY = sorted(set(MOTIFS) - set(FULL))


@functools.cache
def _traced(name: str) -> Graph:
    motif = MOTIFS[name]
    return trace(motif.build(), motif.example(4), FAMILIES[motif.precision][1], certify=False)


def _drawn(name: str, seed: int = 0) -> Element:
    return random_element(_traced(name), torch.Generator().manual_seed(seed))


@each
def test_round_trips_are_exact(name, tmp_path) -> None:
    g = _drawn(name)
    save_element(tmp_path / "g.safetensors", g)
    again = load_element(str(tmp_path / "g.safetensors"), _traced(name))
    assert all(map(torch.equal, again.permutations, g.permutations))
    assert all(map(torch.equal, again.diagonals, g.diagonals))
    assert again.graph is _traced(name)
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


def test_a_graph_traced_anew_is_the_same_network(tmp_path) -> None:
    g, motif = _drawn("residual cnn"), MOTIFS["residual cnn"]
    save_element(tmp_path / "g", g)
    anew = trace(motif.build(), motif.example(4), FAMILIES["full"][1])
    assert load_element(tmp_path / "g", anew) == g


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        ("linear", "no biases", "expected an element of this network's 1 blocks, got one of 2"),
        ("linear", "tanh", r"expected block '0' of 6 units with .*\(sign\), got '0' of 6 units with .*\(scale\)"),
        ("batch norm", "linear", r"with generators \(scale\), got '0' of 6 units with generators \(sign, scale\)"),
    ],
)
def test_elements_of_other_networks_are_refused(saved, asked, message, tmp_path) -> None:
    save_element(tmp_path / "g", _drawn(saved))
    with pytest.raises(SymmetryError, match=message):
        load_element(tmp_path / "g", _traced(asked))


def test_equal_sizes_with_other_ties_are_refused(tmp_path) -> None:
    models = [nn.Sequential(nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3)) for bias in (True, False)]
    graphs = [trace(model, torch.randn(2, 4), FAMILIES["full"][1]) for model in models]
    save_element(tmp_path / "g", identity(graphs[0]))
    with pytest.raises(SymmetryError, match=r"same sizes and other ties or generators\. Trace the network"):
        load_element(tmp_path / "g", graphs[1])


def test_missing_damaged_and_other_files_are_told(tmp_path) -> None:
    graph, path = _traced("linear"), tmp_path / "g"
    with pytest.raises(SymmetryError, match="does not exist: expected an element's file"):
        load_element(path, graph)
    with pytest.raises(SymmetryError, match="could not read"):
        load_element(tmp_path, graph)
    save_element(path, _drawn("linear"))
    whole = path.read_bytes()
    for cut in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(SymmetryError, match=r"is not an element's file .* damaged: save the element again"):
            load_element(path, graph)
    path.write_bytes(whole[:-8] + struct.pack("<d", float("nan")))
    with pytest.raises(SymmetryError, match="damaged"):
        load_element(path, graph)
    path.write_bytes(whole.replace(b"compare element 1", b"compare element 9"))
    with pytest.raises(SymmetryError, match=r"expected an element that save_element wrote .*, got 'compare element 9'"):
        load_element(path, graph)
    path.write_bytes(whole.replace(b'"blocks"', b'"blucks"'))
    with pytest.raises(SymmetryError, match="damaged"):
        load_element(path, graph)


def test_what_cannot_be_written_leaves_nothing(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_element(tmp_path / "file" / "g", _drawn("linear"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_can_be_read_without_this_package(tmp_path) -> None:
    save_element(tmp_path / "g", _drawn("linear"))
    content = (tmp_path / "g").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert json.loads(header["__metadata__"]["blocks"]) == [["0", 6, ["scale"]], ["2", 5, ["scale"]]]
    assert header["permutations.0"]["dtype"] == "I64"
    assert header["diagonals.0"] | {"data_offsets": None} == {"dtype": "F64", "shape": [1, 6], "data_offsets": None}


def _params(name: str, seed: int = 0) -> tuple[nn.Module, Params]:
    model = MOTIFS[name].build().double()
    types = parameters(model)
    return model, {n: t.to(types[n].dtype) for n, t in randomised(model, seed=seed).items()}


def _loss(model: nn.Module, name: str) -> torch.Tensor:
    """Of the outputs, with targets of its own for every entry, so that no gradient vanishes."""
    output = model(double(MOTIFS[name].example(8)))
    return F.mse_loss(output, torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape))


def _gradients(model: nn.Module, params: Params, name: str) -> Params:
    model.load_state_dict(params, strict=False)  # which misses the second names of tied weights
    model.zero_grad()
    _loss(model, name).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


def _of_gradients(model: nn.Module, gradients: Params) -> dict:
    """An Adam's state made of gradients and their squares."""
    adam = torch.optim.Adam(model.parameters(), amsgrad=True)
    for parameter, gradient in zip(model.parameters(), gradients.values(), strict=True):
        adam.state[parameter] = {
            "step": torch.tensor(7.0),
            "exp_avg": gradient.clone(),
            "exp_avg_sq": gradient.square(),
            "max_exp_avg_sq": gradient.square(),
        }
    return adam.state_dict()


@pytest.mark.parametrize("name", FULL)
def test_averages_move_as_gradients_and_their_squares_do(name) -> None:
    """Scales included, against autograd: gradients at g theta are what the state becomes."""
    model, params = _params(name)
    g = _drawn(name, 1)
    before, after = (_gradients(model, p, name) for p in (params, g.apply(params)))
    given = _of_gradients(model, before)
    kept = copy.deepcopy(given)
    moved = apply_to_optimiser(g, model, given)
    scale = max(float(gradient.abs().max()) for gradient in after.values())
    for number, gradient in enumerate(after.values()):
        state = moved["state"][number]
        torch.testing.assert_close(state["exp_avg"], gradient, rtol=1e-8, atol=1e-12 * scale)
        torch.testing.assert_close(state["exp_avg_sq"], gradient.square(), rtol=1e-7, atol=1e-20 * scale**2)
        assert torch.equal(state["max_exp_avg_sq"], state["exp_avg_sq"])
        assert float(state["step"]) == 7
    assert moved["param_groups"] == given["param_groups"]
    for number, state in given["state"].items():
        assert all(torch.equal(state[key], kept["state"][number][key]) for key in state)


def _isometry(name: str, seed: int) -> Element:
    """Permutations and signs alone."""
    g = _drawn(name, seed)
    diagonals = tuple(
        torch.where(torch.tensor([[made.kind == "sign"] for made in block.generators]), d, 1.0) if len(d) else d
        for d, block in zip(g.diagonals, g.graph.blocks, strict=True)
    )
    return Element(g.graph, g.permutations, diagonals)


def _optimiser(kind: str, model: nn.Module):
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
        "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    }
    if kind != "bop":
        return makers[kind](model.parameters())
    latents = binarynets.layers.latent_weights(model)
    bop = functools.partial(Bop, threshold=1e-6, adaptivity=0.3)
    # In this order the numbers of the state are not those of the model's parameters.
    return assign(model, (lambda name: name not in latents, makers["adam"]), (latents, bop))


def _steps(model: nn.Module, params: Params, optimiser, name: str, count: int) -> Params:
    model.load_state_dict(params)
    for _ in range(count):
        optimiser.zero_grad()
        _loss(model, name).backward()
        optimiser.step()
    return parameters(model)


def _commutes(name: str, kind: str, g: Element) -> float:
    """The largest difference between stepping and moving, and moving and stepping; the state has a history."""
    model, params = _params(name)
    optimiser = _optimiser(kind, model)
    params = _steps(model, params, optimiser, name, 3)
    state = copy.deepcopy(optimiser.state_dict())
    stepped = _steps(model, params, optimiser, name, 1)
    assert difference(stepped, params) > 1e-4
    moved = apply_to_optimiser(g, model, state, names=owned_names(model, optimiser))
    optimiser.load_state_dict(moved)
    return difference(_steps(model, g.apply(params), optimiser, name, 1), g.apply(stepped))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "adamax", "rmsprop", "adagrad"])
@pytest.mark.parametrize("name", ["batch norm, tanh", "residual cnn", "grouped conv", "gated unit", "binary mlp"])
def test_a_step_commutes_with_permutations_and_signs(name, kind) -> None:
    g = _isometry(name, 2)
    assert g != identity(g.graph)
    assert _commutes(name, kind, g) < 1e-6


@pytest.mark.parametrize("name", BINARY)
def test_a_step_of_bop_beside_adam_commutes(name) -> None:
    assert _commutes(name, "bop", _isometry(name, 2)) < 1e-6


def test_the_state_has_to_move_as_well() -> None:
    """Without it the test above would fail: the momentum of one unit would go on in another."""
    name = "residual cnn"
    model, params = _params(name)
    optimiser, g = _optimiser("sgd", model), _isometry(name, 2)
    params = _steps(model, params, optimiser, name, 3)
    state = copy.deepcopy(optimiser.state_dict())
    stepped = _steps(model, params, optimiser, name, 1)
    optimiser.load_state_dict(state)
    assert difference(_steps(model, g.apply(params), optimiser, name, 1), g.apply(stepped)) > 1e-3


def test_owned_names_follow_the_optimisers_order() -> None:
    model = binarynets.mlp(4, [3], 2)
    group = _optimiser("bop", model)
    rest, latents = owned_names(model, group)
    assert latents == ["linear1.weight", "linear2.weight"]
    assert not set(rest) & set(latents)
    assert owned_names(model, torch.optim.SGD(model.parameters())) == [name for name, _ in model.named_parameters()]
    with pytest.raises(SymmetryError, match="expected parameters of this model, got 2 others"):
        owned_names(model, torch.optim.SGD(nn.Linear(2, 2).parameters()))


def test_parameters_that_are_not_trained_may_be_missing_from_the_state() -> None:
    model = MOTIFS["linear"].build()
    model[0].bias.requires_grad_(False)
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], momentum=0.9)
    model(MOTIFS["linear"].example(4)).sum().backward()
    sgd.step()
    g = _drawn("linear")
    moved = apply_to_optimiser(g, model, sgd.state_dict())
    expected = g.inverse().permutations[0]
    assert moved["state"][0]["momentum_buffer"].shape == (6, 4)
    assert not torch.equal(expected, torch.arange(6))


def test_states_of_other_things_are_refused() -> None:
    model, g = MOTIFS["linear"].build(), _drawn("linear")
    adam = torch.optim.Adam(model.parameters())
    model(MOTIFS["linear"].example(4)).sum().backward()
    adam.step()
    state = adam.state_dict()
    for change, message in (
        (lambda s: s["state"][0].update(mystery=torch.zeros(6, 4)), r"got 'mystery' \[6, 4\] of '0\.weight'"),
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(3, 4)), r"got 'exp_avg' \[3, 4\] of '0\.weight'"),
        (lambda s: s["param_groups"][0]["params"].pop(), "expected a state of 6 parameters, got one of 5"),
        (lambda s: s.pop("state"), "with 'state' and 'param_groups', got 'param_groups'"),
    ):
        wrong = copy.deepcopy(state)
        change(wrong)
        with pytest.raises(SymmetryError, match=message):
            apply_to_optimiser(g, model, wrong)
    with pytest.raises(SymmetryError, match="expected parameters of the model, got 'weight'"):
        apply_to_optimiser(g, model, state, names=["weight"] * 6)
    with pytest.raises(SymmetryError, match="a list of names for each of 1 optimisers"):
        apply_to_optimiser(g, model, {"optimisers": [state]})
    with pytest.raises(SymmetryError, match="a list of names for each of 1 optimisers"):
        apply_to_optimiser(g, model, {"optimisers": [state]}, names=["0.weight"])
