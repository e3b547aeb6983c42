"""What the guide to Brevitas models shows runs as it stands, and what it says of symmetries and traps is so."""

import re
from pathlib import Path

import brevitas.nn as qnn
import brevitas.quant as quantisers
import pytest
import torch
from torch import nn

import compare
from binarynets.brevitas import FAMILY, BrevitasError, load_state, plain, settled

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "brevitas.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
PROSE = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)
X = torch.randint(0, 17, (16, 12), generator=torch.Generator().manual_seed(0)).float() * 2 - 16
BINARY = {"weight_quant": quantisers.SignedBinaryWeightPerTensorConst}


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> list[str]:
    """Lines that all programs of the guide print, run one after the other in one name space."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("guide"))
        names = {"print": lambda *values: lines.append(" ".join(map(str, values)))}
        exec(compile("\n".join(PROGRAMS), "brevitas.md", "exec"), names)
        assert Path("report/index.html").exists()
    return lines


def test_the_script_of_the_guide_connects_two_models(printed) -> None:
    as_trained, standard, matched, page = printed[:4]
    assert [line.split(":")[0] for line in (as_trained, standard, matched)] == [
        "as trained", "standard form", "matched"
    ]  # fmt: skip
    before, after = (float(re.search(r"barrier (.*) pp", line)[1]) for line in (as_trained, matched))
    assert 40 < before < 48
    assert 3 < after < 8
    assert page == "report/index.html"


def test_single_steps_latents_and_conversion_say_what_the_guide_says(printed) -> None:
    errors, weights, own, brevitas = printed[4:]
    assert len(errors.split(",")) == 3
    count, levels = weights.split(" ", 1)
    assert int(count) > 1000
    assert levels == "tensor([-0.1000,  0.1000])"
    assert float(own) == pytest.approx(float(brevitas), abs=2 / 359)


def _sign(**options):
    return qnn.QuantIdentity(act_quant=quantisers.SignedBinaryActPerTensorConst, **options)


def _hard_tanh(narrow):
    return qnn.QuantHardTanh(bit_width=4, narrow_range=narrow, min_val=-1.0, max_val=1.0, scaling_impl_type="const")


def _block(weight, activation, *, norm):
    """Signs and scales of the one hidden layer of a small network."""
    torch.manual_seed(0)
    between = [nn.BatchNorm1d(9)] if norm else []
    layers = [
        qnn.QuantLinear(12, 9, bias=False, **weight),
        *between,
        activation,
        qnn.QuantLinear(9, 4, False, **weight),
    ]
    model = nn.Sequential(*layers)
    model.train()(X)
    (block,) = compare.trace(settled(model.eval()), X, FAMILY).blocks
    assert block.size == 9
    return block.signs, block.scales


ODD = {
    "binary": BINARY,
    "ternary": {"weight_quant": quantisers.SignedTernaryWeightPerTensorConst},
    "4 bits": {"weight_quant": quantisers.Int8WeightPerTensorFloat, "weight_bit_width": 4},
    "4 bits by channel": {"weight_quant": quantisers.Int8WeightPerChannelFloat, "weight_bit_width": 4},
}
SIGNLESS = {
    "identity": lambda: qnn.QuantIdentity(bit_width=4),
    "hard tanh": lambda: _hard_tanh(False),
    "tanh": lambda: qnn.QuantTanh(bit_width=4),
    "sigmoid": lambda: qnn.QuantSigmoid(bit_width=4),
    "relu": lambda: qnn.QuantReLU(bit_width=4),
}


@pytest.mark.parametrize("weight", ODD.values(), ids=ODD)
def test_odd_weights_have_the_signs_of_the_activation(weight) -> None:
    assert _block(weight, _hard_tanh(True), norm=False) == (True, False)
    assert _block(weight, qnn.QuantReLU(bit_width=4), norm=False) == (False, False)
    assert _block(weight, _sign(), norm=True) == (True, True)


@pytest.mark.parametrize("activation", SIGNLESS.values(), ids=SIGNLESS)
def test_an_uneven_activation_leaves_only_the_sign_that_normalisation_takes_back(activation) -> None:
    assert _block(BINARY, activation(), norm=False) == (False, False)
    assert _block(BINARY, activation(), norm=True) == (True, False)


def test_asymmetric_weights_have_no_sign() -> None:
    weight = {"weight_quant": quantisers.ShiftedUint8WeightPerTensorFloat}
    assert _block(weight, _hard_tanh(True), norm=False) == (False, False)
    assert _block(weight, _hard_tanh(True), norm=True) == (False, False)
    assert _block(weight, _sign(), norm=True) == (False, True)


@pytest.mark.parametrize(("layers", "count"), [("bs", 2), ("bsp", 1), ("bps", 1), ("pbs", 1)])
def test_no_sign_passes_max_pooling(layers, count) -> None:
    torch.manual_seed(0)
    kinds = {"b": lambda: nn.BatchNorm2d(5), "s": _sign, "p": lambda: nn.MaxPool2d(2)}
    model = nn.Sequential(
        qnn.QuantConv2d(1, 5, 3, bias=False, **BINARY),
        *(kinds[kind]() for kind in layers),
        nn.Flatten(),
        qnn.QuantLinear(45 if "p" in layers else 180, 4, bias=False, **BINARY),
    )
    images = torch.cat([X, X[:, :4]], 1).view(16, 1, 4, 4).repeat(1, 1, 2, 2)
    model.train()(images)
    block = compare.trace(model.eval(), images, FAMILY).blocks[0]
    assert len([generator for generator in block.generators if generator.kind == "sign"]) == count


def _statistical():
    torch.manual_seed(0)
    return nn.Sequential(
        qnn.QuantLinear(12, 9, bias=False, **BINARY),
        nn.BatchNorm1d(9),
        qnn.QuantReLU(bit_width=4),
        qnn.QuantLinear(9, 4, bias=False, **BINARY),
    )


def test_running_scales_are_named_and_settled() -> None:
    model = _statistical()
    model.train()(X)
    with pytest.raises(BrevitasError, match=r"'2\.act_quant.*running statistic.*settled\(model\)"):
        plain(model.eval(), X)
    assert torch.equal(settled(model)(X), model(X))
    assert torch.equal(plain(settled(model), X)(X), model(X))


def test_a_state_without_scales_is_refused_and_the_model_stays() -> None:
    state, model = _statistical().state_dict(), _statistical()
    model.train()(X)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BrevitasError, match=r"no scale for 2\.act_quant"):
        load_state(model, {name: 0 * tensor for name, tensor in state.items()})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_one_bit_of_an_integer_quantiser_and_nan_are_refused() -> None:
    with pytest.raises(BrevitasError, match=r"scale of inf.*binary quantiser"):
        plain(nn.Sequential(qnn.QuantLinear(12, 9, bias=False, weight_bit_width=1)), X)
    model = nn.Sequential(qnn.QuantLinear(12, 9, bias=False, **BINARY))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(BrevitasError, match="'0': its latent weight holds NaN"):
        plain(model, X)


def test_brevitas_overwrites_latents_and_an_analysis_does_not() -> None:
    model = nn.Sequential(qnn.QuantLinear(12, 9, bias=False, **BINARY), nn.BatchNorm1d(9)).eval()
    with torch.no_grad():
        model[0].weight.mul_(30)
    before = model[0].weight.detach().clone()
    compare.trace(model, X, FAMILY)
    plain(model, X)(X)
    assert torch.equal(model[0].weight, before)
    model(X)
    assert float(model[0].weight.abs().max().detach()) == pytest.approx(0.1)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = qnn.QuantLinear(3, 8, bias=False, **BINARY)
        self.mix = qnn.QuantMultiheadAttention(8, 2, batch_first=True)
        self.head = qnn.QuantLinear(8, 4, bias=False, **BINARY)

    def forward(self, x):
        y = self.embed(x.view(-1, 4, 3))
        return self.head(self.mix(y, y, y)[0].mean(1))


def test_a_layer_that_is_not_read_is_named_and_may_be_opaque() -> None:
    torch.manual_seed(0)
    model = _Attention()
    model.train()(X)
    model = settled(model.eval())
    with pytest.raises(compare.SymmetryError, match=r"'mix'.*QuantMultiheadAttention is not read"):
        compare.trace(model, X, FAMILY)
    assert compare.trace(model, X, FAMILY, opaque=["mix"]).blocks == ()


def test_control_flow_that_depends_on_data_is_refused() -> None:
    class Turning(nn.Sequential):
        def forward(self, x):
            return super().forward(-x if x.sum() > 0 else x)

    with pytest.raises(BrevitasError, match=r"cannot be followed by torch\.fx"):
        plain(Turning(qnn.QuantLinear(12, 9, bias=False, **BINARY)), X)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([\w./-]+)\)", PROSE))))
def test_links_of_the_guide_lead_somewhere(target) -> None:
    assert (ROOT / "docs" / target).exists()
