"""What decides claims: intervals alone, by one rule; the numbers behind them by hand."""

import numpy as np
import pytest
from study_factory import bend, made_up_study

from compare.relations import Interval, Roles, agreement, bootstrap, claims
from compare.relations.claims import Claim, overall, verdict
from compare.relations.statistics import mean

FEW = 400


@pytest.mark.parametrize(
    ("low", "high", "above", "at_most"),
    [
        (0.1, 0.2, "holds", "does not hold"),
        (0.0, 0.2, "not decided", "not decided"),
        (-0.1, 0.2, "not decided", "not decided"),
        (-0.2, 0.0, "does not hold", "holds"),
        (-0.2, -0.1, "does not hold", "holds"),
        (0.0, 0.0, "does not hold", "holds"),
        (-1e-17, 1e-17, "does not hold", "holds"),
        (None, None, "not decided", "not decided"),
    ],
)
def test_verdicts_follow_from_the_interval_alone(low, high, above, at_most):
    interval = Interval(0.1, low, high, networks=5, resamples=FEW)
    assert (verdict(interval, above=0), verdict(interval, at_most=0)) == (above, at_most)
    assert verdict(None, above=0) == verdict(None, at_most=0) == "not measured"


ABBREVIATED = {"+": "holds", "-": "does not hold", "?": "not decided", "0": "not measured"}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("++", "+"),
        ("--", "+"),
        ("+-", "-"),
        ("+?", "?"),
        ("??", "?"),
        ("+0", "0"),
        ("00", "0"),
        ("+-?", "-"),
        ("++0", "+"),
    ],
)
def test_precisions_agree_where_verdicts_are_alike(verdicts, expected):
    found = {str(i): [Claim("claim", "≤ 0", None, "", ABBREVIATED[letter])] for i, letter in enumerate(verdicts)}
    assert agreement(found) == {"claim": ABBREVIATED[expected]}


@pytest.mark.parametrize(
    ("verdicts", "expected"), [("++", "+"), ("+0", "+"), ("+?", "?"), ("+?-", "-"), ("00", "0"), ("", "0")]
)
def test_all_claims_must_fare_alike(verdicts, expected):
    assert overall({str(i): ABBREVIATED[v] for i, v in enumerate(verdicts)}) == ABBREVIATED[expected]


def verdicts(found):
    return {claim.text: claim.verdict for claim in found}


def test_a_study_that_bears_all_claims_out():
    found = claims(made_up_study("binary"), resamples=1000)
    # Within an algorithm the made-up networks differ by chance alone.
    assert {c.verdict for c in found if "within an algorithm" not in c.text} == {"holds"}
    assert len(found) == len(verdicts(found)) == 21


def test_numbers_of_claims_by_hand():
    study = made_up_study(networks=3)
    found = {claim.text: claim for claim in claims(study, resamples=FEW)}
    test = {name: np.mean([n.errors["test"] for n in study.networks if n.algorithm == name]) for name in ("sgd", "adv")}
    worse = found["adv errs more on test samples than plain training, at equal train error"]
    assert worse.interval.value == pytest.approx(test["adv"] - test["sgd"])
    assert worse.unit == "pp"
    assert worse.train == pytest.approx((0.002, 0.002), abs=0.0003)

    def barrier(treatment, path, *names):
        return np.mean(
            [
                h.barrier
                for p in study.pairs
                if {n.rsplit("-")[0] for n in p.networks} in [{name} for name in names]
                for h in p.heights
                if (h.treatment, h.path, h.statistics, h.split) == (treatment, path, "re-estimated", "train")
            ]
        )

    lower = found["Barriers of rsgd are lower than of plain training: geodesic, matched, statistics re-estimated"]
    expected = barrier("matched", "geodesic", "sgd") - barrier("matched", "geodesic", "rsgd")
    assert lower.interval.value == pytest.approx(expected)
    fall = found["Barriers fall from straight as trained to geodesic matched: statistics re-estimated"]
    everyone = ("sgd", "rsgd", "adv", "sam")
    expected = barrier("as trained", "linear", *everyone) - barrier("matched", "geodesic", *everyone)
    # As many pairs of each algorithm: their mean is that of the algorithms' means.
    assert fall.interval.value == pytest.approx(expected)


def test_roles_reversed_refute_the_claims():
    found = claims(made_up_study(), roles=Roles(wide="adv", sharp="rsgd"), resamples=1000)
    ordered = [c.verdict for c in found if "plain training" in c.text]
    assert set(ordered) == {"does not hold"}
    assert len(ordered) == 9


def test_an_absent_algorithm_is_not_measured():
    found = verdicts(claims(made_up_study(algorithms=("sgd", "adv")), resamples=FEW))
    assert {verdict for text, verdict in found.items() if "rsgd" in text} == {"not measured"}
    assert found["adv errs more on test samples than plain training, at equal train error"] == "holds"


def test_other_train_errors_decide_nothing():
    study = made_up_study(networks=3)
    changed = tuple(
        n.model_copy(update={"errors": {**n.errors, "train": 0.01}}) if n.algorithm == "adv" else n
        for n in study.networks
    )
    study = study.model_copy(update={"networks": changed})
    found = [c for c in claims(study, resamples=FEW) if c.text.endswith("at equal train error")]
    assert {(c.verdict, c.comparable) for c in found if "adv" in c.text} == {("not decided", False)}
    assert {(c.verdict, c.comparable) for c in found if "rsgd" in c.text} == {("holds", True)}
    assert all(c.comparable for c in claims(study, equal=0.01, resamples=FEW))


def test_two_networks_decide_nothing():
    found = claims(made_up_study(networks=2), resamples=FEW)
    assert {c.verdict for c in found} == {"not decided", "not measured"}
    assert all(c.interval.low is None for c in found if c.interval is not None)


@pytest.mark.parametrize(("above", "expected"), [(0.0005, "holds"), (0.002, "holds"), (0.0031, "does not hold")])
def test_bends_may_rise_by_a_tenth_of_a_point(above, expected):
    study = made_up_study(algorithms=("sgd", "rsgd"), networks=4)
    high = (0.001, above, 0.001, 0.001, 0.001)
    bends = tuple(
        b.model_copy(update={"bends": tuple(one.model_copy(update={"errors": high}) for one in b.bends)})
        for b in study.bends
    )
    found = claims(study.model_copy(update={"bends": bends}), resamples=FEW)
    assert {c.verdict for c in found if c.text.startswith("One bend")} == {expected}


def bent(*ends, rise=0.0005):
    """A study of one algorithm with a bend between each two of ``ends``, higher by ``rise`` than its ends."""
    errors = (0.001, 0.001 + rise, 0.001, 0.001, 0.001)
    made = [bend("full", "sgd", pair) for pair in ends]
    made = [
        b.model_copy(update={"bends": tuple(one.model_copy(update={"errors": errors}) for one in b.bends)})
        for b in made
    ]
    found = claims(made_up_study(algorithms=("sgd",), networks=6, bends=tuple(made)), resamples=FEW)
    return [c for c in found if c.text.startswith("One bend")]


def test_bends_that_share_no_network_are_resampled_themselves():
    study = made_up_study(algorithms=("sgd",), networks=8)
    rises = (0.0002, 0.0011, 0.0004, 0.0009)
    made = [
        b.model_copy(
            update={"bends": tuple(o.model_copy(update={"errors": (0.0, rise, 0.0, 0.0, 0.0)}) for o in b.bends)}
        )
        for rise, b in zip(rises, (bend("full", "sgd", (2 * i, 2 * i + 1)) for i in range(4)), strict=True)
    ]
    found = claims(study.model_copy(update={"bends": tuple(made)}), resamples=1000)
    (interval,) = {c.interval for c in found if c.text.startswith("One bend")}
    expected = bootstrap(mean(np.array(rises)), ["bends"] * 4, resamples=1000)
    assert interval == expected


@pytest.mark.parametrize(
    ("ends", "number", "expected"),
    [
        (((0, 1), (2, 3), (4, 5)), 3, "holds"),
        (((0, 1), (1, 2), (2, 3), (3, 4), (4, 5)), 5, "holds"),
        (((0, 1), (2, 3)), 2, "not decided"),
        (((0, 1), (1, 0), (2, 3), (3, 2)), 2, "not decided"),
        (((0, 1), (0, 2), (0, 3), (0, 4), (0, 5)), 5, "not decided"),
        (((0, 1), (1, 2), (0, 2)), 3, "not decided"),
    ],
)
def test_three_bends_without_a_common_end_decide(ends, number, expected):
    for claim in bent(*ends):
        assert (claim.bends, claim.verdict) == (number, expected)
        assert (claim.interval.low is None) == (expected == "not decided")
        assert claim.interval.value == pytest.approx(0.0005)


def test_a_measure_that_is_the_same_for_all_decides_nothing():
    study = made_up_study(networks=3)
    flat = study.networks[0].energy
    same = tuple(n.model_copy(update={"energy": flat}) for n in study.networks)
    found = [c for c in claims(study.model_copy(update={"networks": same}), resamples=FEW) if "rank" in c.text]
    assert [(c.interval, c.verdict, c.constant) for c in found] == [(None, "not decided", True)] * 2
    assert not any(c.constant for c in claims(study, resamples=FEW))


def test_without_bends_the_claim_is_not_measured():
    found = claims(made_up_study(networks=3), resamples=FEW)
    assert [(c.verdict, c.interval) for c in found if c.text.startswith("One bend")] == [("not measured", None)]
