"""The scripts of orbits and of merging: what they refuse, a whole run in small, what they keep and take up."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import merge_binary
import pytest
import reproduce_orbits
import torch
from scipy import stats
from torch import nn

from compare.data import load_data
from compare.evaluation.attack import fgsm, input_range, pgd
from compare.params import call, parameters
from compare.relations.bootstrap import Interval
from compare.report import merging as merging_report
from compare.report import orbit_numbers, orbits
from compare.runs.merging import Draw, Merging
from compare.runs.orbits import AttackVotes, OrbitNetwork, Orbits
from compare.runs.study import read_part
from fullprecision.actions import hidden_units, orbit
from fullprecision.actions.measure import attack_votes, plain_attacks


def _words(folder: Path, *more: str) -> list[str]:
    return [str(folder / "run"), "--out", str(folder / "out"), "--data", "digits", "--jobs", "1", *more]


MERGING = ["--images", "300", "--calibration", "200", "--epochs", "2", "--networks", "4", "--largest", "3"]
MERGING += ["--draws", "3"]
ORBITS = ["--images", "300", "--units", "8", "--epochs", "2", "--networks", "3", "--members", "2"]
ORBITS += ["--samples", "60", "--attacked", "12"]


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (merge_binary, ["--networks", "2"], "--networks: expected at least 3, got 2"),
        (
            merge_binary,
            ["--largest", "10"],
            "--draws: expected at most 1, the number of different sets of 10 or fewer",
        ),
        (merge_binary, ["--draws", "1"], "--draws: expected at least 2, got 1"),
        (merge_binary, ["--jobs", "0"], "--jobs: expected a number of processes"),
        (merge_binary, ["--records"], r"could not read .*merging-digits\.json"),
        (reproduce_orbits, ["--units", "1"], "--units: expected at least 2, got 1"),
        (reproduce_orbits, ["--members", "1"], "--members: expected at least 2, got 1"),
        (reproduce_orbits, ["--jobs", "0"], "--jobs: expected a number of processes"),
        (reproduce_orbits, ["--records"], r"could not read .*orbits\.json"),
        (reproduce_orbits, ["--data", "mnist"], "no folder was given"),
    ],
)
def test_arguments_are_checked(
    script: ModuleType, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_words(tmp_path, *words)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_merging_is_kept_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = merge_binary.MLP.model_copy(update={"hidden": (12, 12)})
    monkeypatch.setattr(merge_binary, "SHAPES", {"digits": shape})
    words = _words(tmp_path, *MERGING)
    assert merge_binary.main(words) == 0
    out, run = tmp_path / "out", tmp_path / "run"
    text, record = (out / "merging-digits.md").read_text(), read_part(Merging, out / "merging-digits.json")
    assert (out / "merging-digits.png").read_bytes().startswith(b"\x89PNG")
    assert [len(size.draws) for size in record.sizes] == [3, 3]
    assert [len(draw.parts) for size in record.sizes for draw in size.draws] == [2] * 3 + [3] * 3
    assert record.matching.control.matched == 0 < record.matching.control.before_matching
    for size in record.sizes:
        for draw in size.draws:
            assert draw.errors == tuple(record.errors[seed] for seed in draw.parts)
            assert len(draw.merged) == 8
        assert len({draw.parts for draw in size.draws}) == 3

    # What is missing is made again, and comes out the same.
    (run / "draws-3.json").unlink()
    assert merge_binary.main(words) == 0
    assert read_part(Merging, out / "merging-digits.json").sizes[1].draws == record.sizes[1].draws
    assert merge_binary.main([*words, "--records"]) == 0
    again = (out / "merging-digits.md").read_text()
    assert _without_times(again) == _without_times(text)

    # Another run's parts are refused.
    capsys.readouterr()
    assert merge_binary.main(_words(tmp_path, *MERGING, "--draws", "2")) == 2
    assert "belongs to a run with other settings" in capsys.readouterr().err


def _without_times(text: str) -> str:
    return re.sub(r"\d+\.\d\s+(minutes|of)", "", text)


def test_orbits_are_kept_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce_orbits, "EPSILONS", (0.0, 0.01, 1.0))
    monkeypatch.setattr(reproduce_orbits, "ATTACKED", (1.0,))
    words = _words(tmp_path, *ORBITS)
    assert reproduce_orbits.main(words) == 0
    out = tmp_path / "out"
    text, record = (out / "orbits.md").read_text(), read_part(Orbits, out / "orbits.json")
    assert (out / "orbits.png").read_bytes().startswith(b"\x89PNG")
    assert (record.smallest, record.largest) == ((-16.0,), (16.0,))
    assert len(record.networks) == 9
    for network in record.networks:
        assert len(network.orbits) == 4 * 3
        assert len(network.attacks) == 3 * 1 * 4
        assert len({(each.attack, each.radius, each.plain) for each in network.attacks}) == 4  # made once
        for each in network.orbits:
            assert each.independent_residual is None or each.independent_residual < 1e-8
            if each.epsilon == 0 and (each.method != "least squares"):
                assert each.output_change < 1e-5
                assert set(each.votes.errors) == {network.measured_error}
    same = [each for each in record.binary.votes if each.voters == "orbit"]
    assert [(each.identical, each.votes.changed, len(each.votes.errors)) for each in same] == [(True, 0.0, 3)] * 3
    assert {each.voters for each in record.binary.votes} == {"orbit", "path", "independent"}

    # What is missing is made again, and comes out the same.
    missing = tmp_path / "run" / "records" / "tanh-1.json"
    before = read_part(OrbitNetwork, missing)
    missing.unlink()
    assert reproduce_orbits.main(words) == 0
    kept = {"seconds": before.seconds, "provenance": before.provenance}
    assert read_part(OrbitNetwork, missing).model_copy(update=kept) == before
    assert reproduce_orbits.main([*words, "--records"]) == 0
    assert _without_times((out / "orbits.md").read_text()) == _without_times(text)

    # Another run's parts are refused.
    capsys.readouterr()
    assert reproduce_orbits.main([*words, "--members", "3"]) == 2
    assert "belongs to a run with other settings" in capsys.readouterr().err
    _check_claims(record)
    _check_merging_claims()


def _check_claims(record: Orbits) -> None:
    """Verdicts follow the numbers: records in which everything is the opposite turn them."""
    same = Interval(0.0, 0.0, 0.0, networks=5, resamples=100)  # no difference is none
    assert orbit_numbers.decided(same) == "does not hold"
    assert orbit_numbers.decided(replace(same, low=None, high=None)) == "not decided"
    words = {claim.claim: claim.verdict for claim in orbit_numbers.claims(record)}
    assert words["Binary: the vote over an orbit is the network itself"] == "holds"
    raised = [
        network.model_copy(
            update={
                "orbits": tuple(
                    each.model_copy(
                        update={
                            "independent_residual": 1e-3,
                            "votes": each.votes.model_copy(
                                update={"majority": 0.0, "mean_probability": 1.0, "errors": (1.0, 1.0)}
                            ),
                        }
                    )
                    for each in network.orbits
                ),
                "attacks": tuple(
                    each.model_copy(update={"plain": 0.9, "majority": 0.1, "either_majority": 1.0})
                    for each in network.attacks
                ),
            }
        )
        for network in record.networks
    ]
    votes = [each.model_copy(update={"identical": False}) for each in record.binary.votes]
    other = record.model_copy(
        update={"networks": tuple(raised), "binary": record.binary.model_copy(update={"votes": tuple(votes)})}
    )
    found = {claim.claim: claim.verdict for claim in orbit_numbers.claims(other)}

    def verdicts(part: str) -> set[str]:
        return {verdict for claim, verdict in found.items() if part in claim}

    assert verdicts("The action is exact") == {"does not hold"}
    assert verdicts("errs at most 0.5 pp more") == {"does not hold"}
    assert verdicts("it is clearly worse") == {"holds"}
    assert verdicts("some orbit (majority) errs less") == {"holds"}
    assert verdicts("some orbit (mean probability) errs less") == {"does not hold"}
    assert verdicts("(attacked in expectation)") == {"holds"}
    assert verdicts("a sample counts that it, or the plain network's input, defeats") == {"does not hold"}
    assert verdicts("over an orbit") == {"does not hold"}
    text = " ".join(orbits.document(other, "orbits").split())
    assert "### Claims" in text
    assert "one step (FGSM) or 10 (PGD)" in text
    assert "On a batch of 4, fewer than the 8 units, least squares lose" in text
    assert "all ways are one where moved features are independent" in text
    steps = orbits.document(other.model_copy(update={"attack_steps": 7}), "orbits")
    assert "one step (FGSM) or 7 (PGD)" in " ".join(steps.split())
    attack = record.networks[0].attacks[0].model_dump() | {"majority": 0.5, "either_majority": 0.4}
    with pytest.raises(ValueError, match="at least as many samples wrong under either attack"):
        AttackVotes.model_validate(attack)


def test_intervals_are_those_of_welch() -> None:
    """Of two activations the t interval of a mean with Satterthwaite's degrees of freedom; of one, Student's."""

    @dataclass(frozen=True)
    class Network:
        activation: str
        value: float

    def interval(networks: list[Network], together: int = 1) -> Interval:
        return orbit_numbers.over(networks, lambda network: network.value, together=together)  # type: ignore[arg-type]

    one, other = (0.1, 0.4, 0.2, 0.9), (1.0, 1.1, 0.7, 1.3)
    networks = [Network("relu", value) for value in one]
    for together in (1, 32):
        literal = stats.ttest_1samp(one, 0).confidence_interval(1 - 0.05 / together)
        found = interval(networks, together)
        assert (found.value, found.low, found.high) == pytest.approx((0.4, literal.low, literal.high))
    # Half the sum of two means is half the difference of one and the negated other.
    welch = stats.ttest_ind(one, [-value for value in other], equal_var=False).confidence_interval()
    both = interval([*networks, *(Network("tanh", value) for value in other)])
    assert (both.low, both.high) == pytest.approx((welch.low / 2, welch.high / 2))
    assert interval([Network("relu", 0.3)] * 3).high == pytest.approx(0.3)
    assert interval(networks[:2]).low is None


def test_a_sample_counts_that_either_attack_defeats() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5)).eval()
    data, params = load_data("digits"), parameters(model)
    samples = data.test.subset(60)
    samples = replace(samples, y=model(samples.x).argmax(1))
    block, x = hidden_units(model)[0], data.train.subset(6).x
    moved = orbit(model, block, params, x, 1.0, members=3, method="rotation")
    within = input_range(data)
    plain = plain_attacks(model, params, samples, [0.05, 0.2], within=within)
    found = list(attack_votes(model, params, moved, samples, plain, within=within, method="rotation", batch=6))
    assert [(each.attack, each.radius) for each in found] == list(plain)
    for each in found:
        own = {"fgsm": fgsm, "pgd": pgd}[each.attack](model, moved.networks, samples, each.radius, within=within)
        wrong = []
        for inputs in (plain[each.attack, each.radius].x, own.x):
            columns = zip(*(call(model, network, inputs).argmax(1).tolist() for network in moved.networks), strict=True)
            voted = [Counter(column).most_common(1)[0][0] for column in columns]  # of several the first seen
            wrong.append([label != y for label, y in zip(voted, samples.y.tolist(), strict=True)])
        assert each.either_majority == pytest.approx(sum(a or b for a, b in zip(*wrong, strict=True)) / 60)
        assert each.transferred_majority == pytest.approx(sum(wrong[0]) / 60)
    assert any(each.either_majority > max(each.majority, each.transferred_majority) for each in found)


def _check_merging_claims() -> None:
    assert merging_report._decided([-0.1, -0.2]) == "holds"
    assert merging_report._decided([0.1, 0.0]) == "does not hold"
    assert merging_report._decided([0.1, -0.2]) == "not decided"
    merged = {"treatment": "matched", "how": "majority", "statistics": "averaged"}
    merged |= {"error": 0.1, "agreement": 1.0, "tied": 0.0}
    text = " ".join(merging_report._RULE.split())
    assert "in every draw of every number of networks" in text
    draw = {"errors": (0.1, 0.1), "majority": 0, "mean_probability": 0, "merged": (merged,)}
    assert Draw.model_validate({"parts": (1, 2), **draw}).mean_error == 0.1
    with pytest.raises(ValueError, match="expected each part once"):
        Draw.model_validate({"parts": (1, 1), **draw})


@pytest.mark.parametrize(("script", "name"), [(merge_binary, "trained"), (reproduce_orbits, "network")])
def test_an_interruption_says_how_to_go_on(
    script: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, name, interrupted)
    assert script.main(_words(tmp_path, *(MERGING if script is merge_binary else ORBITS))) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
