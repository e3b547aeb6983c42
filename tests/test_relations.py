"""Intervals over networks against literal resampling, arrays, correlations, embeddings."""

import itertools

import numpy as np
import pytest
from scipy import stats
from study_factory import SIGMAS, bend, made_up_study, member, pair, rises

from compare.relations import (
    Barriers,
    Interval,
    RelationError,
    Sizes,
    bootstrap,
    correlations,
    embed,
)
from compare.relations.bootstrap import draws, settle
from compare.relations.intervals import (
    correlation,
    correlation_with_pairs,
    correlation_within,
    pairs_difference,
    pairs_mean,
    pairs_mean_of_each,
)
from compare.relations.measures import algorithms, angles, barriers, distances, errors, excesses, flatness, within
from compare.relations.statistics import difference, mean, pair_mean, partner_mean, rank_correlation

FEW = 400
STRATA = ("a",) * 4 + ("b",) * 3


def symmetric(seed, number, missing=()):
    upper = np.triu(np.random.default_rng(seed).normal(size=(number, number)), 1)
    matrix = upper + upper.T
    for i, j in missing:
        matrix[i, j] = matrix[j, i] = np.nan
    return matrix


def network_pairs(seed, number, *, noise=0.5):
    """Pairs with an effect of each network and noise of their own; their mean is 0."""
    generator = np.random.default_rng(seed)
    effects = generator.normal(size=number)
    upper = np.triu(noise * generator.normal(size=(number, number)), 1)
    return effects[:, None] + effects + upper + upper.T


def copies(weights):
    """The networks of a resample, each as often as it was drawn."""
    return [i for i, weight in enumerate(weights) for _ in range(int(weight))]


def literal_pair_mean(matrix, weights, where=None):
    """Mean over all two copies of different networks whose pair was measured."""
    found = [
        matrix[i, j]
        for i, j in itertools.combinations(copies(weights), 2)
        if i != j and np.isfinite(matrix[i, j]) and (where is None or where[i, j])
    ]
    return np.mean(found) if found else np.nan


def literal_ends(value, values, deviate):
    """Bias-corrected percentiles: as many deviates below and above, seen from twice the bias."""
    below = np.mean([0.5 if other == value else float(other < value) for other in values])
    bias = stats.norm.ppf(below)
    return tuple(np.quantile(values, stats.norm.cdf([2 * bias - deviate, 2 * bias + deviate])))


# Resampling


def test_networks_are_drawn_within_their_strata():
    weights = draws(("a", "b", "a", "b", "b"), seed=3, resamples=FEW)
    assert (weights[:, [0, 2]].sum(1) == 2).all()
    assert (weights[:, [1, 3, 4]].sum(1) == 3).all()
    assert {0, 1, 2} == set(weights[:, 0].astype(int).tolist())
    assert np.array_equal(weights, draws(("a", "b", "a", "b", "b"), seed=3, resamples=FEW))
    assert not np.array_equal(weights, draws(("a", "b", "a", "b", "b"), seed=4, resamples=FEW))


def test_each_statistic_is_that_of_the_copies_drawn():
    matrix, values = symmetric(0, 7, missing=[(0, 1), (2, 5)]), np.array([3.0, 1, 4, 1, 5, 9, 2])
    weights = draws(STRATA, seed=0, resamples=60)
    own = np.array(STRATA)
    same = own[:, None] == own[None]
    between = difference(pair_mean(matrix, same), mean(values, own == "b"))
    found = pair_mean(matrix)(weights), pair_mean(matrix, same)(weights), mean(values)(weights), between(weights)
    for drawn, *got in zip(weights, *found, strict=True):
        expected = [
            literal_pair_mean(matrix, drawn),
            literal_pair_mean(matrix, drawn, same),
            values[copies(drawn)].mean(),
        ]
        expected.append(expected[1] - np.mean([values[i] for i in copies(drawn) if STRATA[i] == "b"]))
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_rank_correlation_is_scipy_s_of_the_copies_drawn():
    values, other = np.array([3.0, 1, 4, 1, 5, 9, 2]), np.array([2.0, 7, 1, 8, 2, 8, 1])
    matrix = symmetric(1, 7)
    weights = draws(STRATA, seed=1, resamples=60)
    plain = rank_correlation(values, other)(weights)
    paired = rank_correlation(values, partner_mean(matrix))(weights)
    for drawn, first, second in zip(weights, plain, paired, strict=True):
        chosen = copies(drawn)
        assert first == pytest.approx(stats.spearmanr(values[chosen], other[chosen])[0], abs=1e-12)
        means = [np.mean([matrix[i, j] for j in chosen if j != i]) for i in chosen]
        # Copies of one network have equal means, up to rounding in scipy's ranks.
        assert second == pytest.approx(stats.spearmanr(values[chosen], np.round(means, 9))[0], abs=1e-12)


def test_rank_correlation_goes_on_after_the_first_chunk():
    values, other = np.arange(5.0), np.array([1.0, 3, 2, 5, 4])
    weights = draws(["a"] * 5, seed=0, resamples=2500)
    whole = rank_correlation(values, other)(weights)
    np.testing.assert_array_equal(whole[2000:], rank_correlation(values, other)(weights[2000:]))
    assert len(whole) == 2500


def test_what_is_equal_but_for_rounding_is_a_tie():
    """Else ties are broken by the order of a sum, which differs between processors."""
    values = np.array([0.3, 0.1 + 0.2, 0.5, -0.3, np.nan])
    assert values[0] != values[1]
    settled = settle(values)
    assert settled[0] == settled[1] == -settled[3]
    assert np.isnan(settled[4])
    np.testing.assert_allclose(settled, values, rtol=1e-11)
    assert settle(np.zeros(2)).tolist() == [0, 0]
    second, weights = np.array([1.0, 2.0, 3.0, 4.0]), np.ones((1, 4))
    same = np.array([0.3, 0.1 + 0.2, 0.3, 0.3])
    assert correlation(same, second, ("sgd",) * 4) is correlation_within(same, second, ("sgd",) * 4) is None
    pairs = np.where(np.eye(4) > 0, np.nan, 0.3)
    pairs[0, 1] = pairs[1, 0] = 0.1 + 0.2
    assert correlation_with_pairs(second, pairs, ("sgd",) * 4, np.ones((4, 4), dtype=bool)) is None
    exact, rounded = np.array([0.3, 0.3, 0.5, 0.4]), np.array([0.1 + 0.2, 0.3, 0.5, 0.4])
    assert rank_correlation(rounded, second)(weights) == rank_correlation(exact, second)(weights)
    assert rank_correlation(exact, second)(weights) == pytest.approx(stats.spearmanr(exact, second).statistic)


def test_the_interval_is_that_of_a_literal_loop():
    matrix = network_pairs(5, 6)
    found = bootstrap(pair_mean(matrix), ["a"] * 6, seed=2, resamples=FEW)
    values = np.array([literal_pair_mean(matrix, drawn) for drawn in draws(["a"] * 6, seed=2, resamples=FEW)])
    values = values[np.isfinite(values)]
    # One stratum: n - 1 degrees of freedom, and resampled means vary by (n - 1) / n less.
    ends = literal_ends(matrix[np.triu_indices(6, 1)].mean(), values, stats.t.ppf(0.975, 5) * np.sqrt(6 / 5))
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-12)
    assert found.value == pytest.approx(matrix[np.triu_indices(6, 1)].mean())
    assert (found.networks, found.resamples) == (6, len(values))


def test_two_strata_have_the_degrees_of_freedom_of_welch():
    values, own = np.array([1.0, 2, 3, 4, 10, 30, 80]), np.array(STRATA)
    statistic = difference(mean(values, own == "b"), mean(values, own == "a"))
    parts = [values[own == name] for name in "ab"]
    variances, sizes = np.array([part.var(ddof=1) / len(part) for part in parts]), np.array([4, 3])
    freedom = variances.sum() ** 2 / (variances**2 / (sizes - 1)).sum()
    narrow = (variances * (sizes - 1) / sizes).sum() / variances.sum()
    found = bootstrap(statistic, STRATA, seed=7, resamples=FEW)
    drawn = statistic(draws(STRATA, seed=7, resamples=FEW))
    ends = literal_ends(found.value, drawn, stats.t.ppf(0.975, freedom) / np.sqrt(narrow))
    assert (found.low, found.high) == pytest.approx(ends)


def coverage(number, *, trials, naive=False):
    """How often the interval of a mean over pairs holds the truth, 0."""
    held = 0
    for trial in range(trials):
        matrix = network_pairs([number, trial], number)
        if naive:
            values = matrix[np.triu_indices(number, 1)]
            drawn = np.random.default_rng(trial).choice(values, size=(500, len(values))).mean(1)
            low, high = np.quantile(drawn, [0.025, 0.975])
        else:
            interval = bootstrap(pair_mean(matrix), ["a"] * number, seed=trial, resamples=1000)
            low, high = interval.low, interval.high
        held += low <= 0 <= high
    return held / trials


def test_intervals_over_networks_cover_and_those_over_pairs_do_not():
    assert 0.92 <= coverage(15, trials=400) <= 0.98
    assert coverage(15, trials=200, naive=True) <= 0.6
    # A percentile interval of so few cannot leave the range of their means.
    assert 0.86 <= coverage(5, trials=400) <= 0.96


def test_intervals_of_differences_and_correlations_cover():
    own = np.array(["a"] * 5 + ["b"] * 5)
    first, second = (np.outer(own == name, own == name) for name in "ab")
    held = []
    for trial in range(300):
        generator = np.random.default_rng(trial)
        interval = pairs_difference(network_pairs([3, trial], 10), tuple(own), first, second, resamples=1000)
        noise = generator.normal(size=(2, 15))
        ranks = bootstrap(rank_correlation(*noise), ["a"] * 5 + ["b"] * 5 + ["c"] * 5, seed=trial, resamples=1000)
        held.append([interval.low <= 0 <= interval.high, ranks.low <= 0 <= ranks.high])
    for share in np.mean(held, axis=0):
        assert 0.92 <= share <= 0.99


def test_few_networks_have_a_value_and_no_interval():
    found = bootstrap(mean(np.array([1.0, 2.0, 3.0, 5.0, 7.0])), ["a", "a", "a", "b", "b"])
    assert found == Interval(3.6, None, None, networks=5, resamples=0)


def test_resamples_without_a_value_are_left_out():
    matrix = symmetric(0, 3)
    found = bootstrap(pair_mean(matrix), ["a"] * 3, resamples=2000)
    drawn = draws(["a"] * 3, seed=0, resamples=2000)
    assert found.resamples == (drawn.max(1) < 3).sum() < 2000
    lonely = np.full((8, 8), np.nan)
    lonely[0, 1] = lonely[1, 0] = 2.0
    assert bootstrap(pair_mean(lonely), ["a"] * 8, resamples=FEW).low is None


def test_what_has_no_value_is_refused():
    with pytest.raises(RelationError, match=r"a value on all 4 networks, got none: leave out"):
        bootstrap(mean(np.full(4, np.nan)), ["a"] * 4)
    with pytest.raises(RelationError, match="all 0 networks"):
        bootstrap(mean(np.empty(0)), [])


def test_algorithms_count_alike_in_a_mean_over_all():
    matrix = symmetric(3, 7)
    found = pairs_mean_of_each(matrix, STRATA, resamples=FEW)
    means = [matrix[np.ix_(part, part)][np.triu_indices(len(part), 1)].mean() for part in (range(4), range(4, 7))]
    assert found.value == pytest.approx(np.mean(means))
    steady = np.array([[1.0 if i < 4 and j < 4 else 3.0 for j in range(7)] for i in range(7)])
    assert pairs_mean_of_each(steady, STRATA, resamples=FEW).low == pytest.approx(2)
    assert pairs_mean_of_each(np.full((7, 7), np.nan), STRATA) is None


# Arrays of a study


def test_arrays_follow_the_networks_and_leave_gaps():
    study = made_up_study(networks=3)
    shorter = study.model_copy(update={"pairs": study.pairs[1:]})
    matrix = distances(shorter, "matched")
    assert study.pairs[0].networks == ("sgd-0", "sgd-1")
    assert np.isnan(matrix[0, 1])
    assert np.isnan(matrix.diagonal()).all()
    one = next(p for p in study.pairs if p.networks == ("sgd-2", "adv-1"))
    names = [network.name for network in study.networks]
    assert matrix[names.index("adv-1"), 2] == matrix[2, names.index("adv-1")] == one.distances[-1].rms_angle
    wanted = Barriers("matched", "geodesic", "re-estimated", "test")
    height = next(
        h for h in one.heights if (h.treatment, h.path, h.statistics, h.split) == tuple(vars(wanted).values())
    )
    assert barriers(study, wanted)[2, names.index("adv-1")] == height.barrier
    assert barriers(study, wanted, "over_chord")[2, names.index("adv-1")] == height.over_chord
    assert np.isnan(distances(study, "matched", "hamming")).all()


def test_flatness_takes_the_middle_size_or_the_one_asked_for():
    study = made_up_study("binary", networks=3)
    names = [measure.name for measure in flatness(study)]
    assert names == [
        "local energy, σ = 0.3",  # noqa: RUF001
        "rise with bit flips, 5 % of weights",
        "worst rise of the loss in a ball of bits, 10 % of them",
        "largest Hessian eigenvalue",
        "Hessian trace",
    ]
    first = study.networks[0]
    (energy, flips, *_) = flatness(study, Sizes(energy=0.5, flips=0.01))
    assert (energy.values[0], flips.values[0]) == (first.energy.rises[2], first.flips.rises[0])
    assert flatness(study)[2].values[0] == first.worst.worst_loss - first.worst.loss
    with pytest.raises(RelationError, match=r"a size that was measured, 0.1, 0.3, 0.5, got 0.2"):
        flatness(study, Sizes(energy=0.2))


def test_the_lowest_of_several_bends_of_a_pair_counts():
    study = made_up_study(algorithms=("sgd",), networks=4)
    low = study.bends[0].bends[2]
    high = low.model_copy(update={"errors": (0.0, 0.3, 0.0, 0.0, 0.0)})
    twice = study.bends[0].model_copy(update={"networks": ("sgd-1", "sgd-0"), "bends": (high,)})
    study = study.model_copy(update={"bends": (*study.bends, twice)})
    found = excesses(study, Barriers("matched", "linear", low.statistics))
    assert found[0, 1] == found[1, 0] == pytest.approx(0.0005)
    assert np.isnan(found[0, 2])


# Correlations


def test_a_correlation_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15)."""
    found = rank_correlation(np.array([0.1, 0.2, 0.5, 0.9]), np.array([3.0, 1.0, 8.0, 7.0]))(np.ones((1, 4)))
    assert found[0] == pytest.approx(0.6)
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0))(np.ones((1, 3)))[0])


def test_binary_distances_are_angles_between_sign_vectors():
    binary, full = made_up_study("binary", networks=3), made_up_study("full", networks=3)
    bits = distances(binary, "matched", "hamming")
    found = angles(binary, "matched")
    assert np.allclose(np.cos(found[0, 1]), 1 - 2 * bits[0, 1])
    assert not np.allclose(found[0, 1], distances(binary, "matched")[0, 1], rtol=1e-3)
    assert np.array_equal(angles(full, "matched"), distances(full, "matched"), equal_nan=True)


def test_a_correlation_within_algorithms_is_the_mean_of_theirs():
    generator = np.random.default_rng(0)
    strata = ("sgd",) * 5 + ("adv",) * 4 + ("sam",) * 3
    x, y = generator.normal(size=12), generator.normal(size=12)
    x[5:9] += 10  # what sets an algorithm apart counts for nothing
    y[5:9] += 10
    y[9:] = 1.0  # the same for all: no ranks
    found = correlation_within(x, y, strata, resamples=FEW)
    expected = np.mean([stats.spearmanr(x[:5], y[:5])[0], stats.spearmanr(x[5:9], y[5:9])[0]])
    assert found.value == pytest.approx(expected)
    assert found.networks == 9
    assert correlation(x, y, strata, resamples=FEW).value > expected + 0.2
    assert correlation_within(np.ones(12), y, strata, resamples=FEW) is None


def test_partners_are_those_of_the_own_algorithm_or_all():
    study = made_up_study(networks=3)
    found = {(c.flatness, c.target, c.partners): c.interval for c in correlations(study, resamples=FEW)}
    strata, matrix = algorithms(study), distances(study, "matched")
    energy = flatness(study)[0]
    for partners, where in (("own algorithm", within(study)), ("all", np.ones_like(matrix, dtype=bool))):
        means = [np.nanmean(np.where(where[i], matrix[i], np.nan)) for i in range(len(strata))]
        interval = found[energy.name, "distance", partners]
        assert interval.value == pytest.approx(stats.spearmanr(energy.values, means)[0])
        assert interval.low <= interval.value <= interval.high
    plain = found[energy.name, "test error", None]
    assert plain.value == pytest.approx(stats.spearmanr(energy.values, errors(study, "test"))[0])
    assert plain.networks == 12
    assert {key[1] for key in found} == {"test error", "distance", "barrier, interpolated", "barrier, re-estimated"}


def test_what_was_not_measured_has_no_correlation():
    study = made_up_study(networks=3, pairs=(), bends=())
    found = correlations(study, resamples=FEW)
    assert all((one.interval is None) == (one.target != "test error") for one in found)
    where = np.ones((12, 12), dtype=bool)
    assert correlation_with_pairs(np.ones(12), symmetric(0, 12), algorithms(study), where) is None
    assert pairs_mean(np.full((12, 12), np.nan), algorithms(study), where) is None


def test_what_does_not_vary_has_no_correlation_and_its_number_of_networks():
    study = made_up_study(networks=3)
    same = tuple(n.model_copy(update={"curvature": study.networks[0].curvature}) for n in study.networks)
    same = (same[0].model_copy(update={"curvature": None}), *same[1:])
    found = correlations(study.model_copy(update={"networks": same, "pairs": study.pairs[3:]}), resamples=FEW)
    trace = {(c.target, c.partners): (c.interval, c.networks) for c in found if c.flatness == "Hessian trace"}
    assert trace["test error", None] == (None, 11)
    assert trace["distance", "own algorithm"] == trace["distance", "all"] == (None, 11)
    # sgd-0 has no trace; the pairs that are left out are those of its own algorithm, and one more.
    energy = {(c.target, c.partners): c.networks for c in found if c.flatness.startswith("local energy")}
    assert (energy["test error", None], energy["distance", "own algorithm"]) == (12, 11)


# Embedding


def test_points_of_a_plane_are_found_again():
    points = np.random.default_rng(0).normal(size=(8, 2))
    wanted = np.linalg.norm(points[:, None] - points[None], axis=2)
    found = embed(wanted, seed=1)
    shown = np.linalg.norm(found.coordinates[:, None] - found.coordinates[None], axis=2)
    np.testing.assert_allclose(shown, wanted, atol=0.02)
    assert found.stress < 0.01 < 0.25 < found.equidistant
    assert found.stress == pytest.approx(np.sqrt(((shown - wanted) ** 2).sum() / (wanted**2).sum()))
    np.testing.assert_array_equal(found.coordinates, embed(wanted, seed=1).coordinates)


def test_an_embedding_is_turned_by_a_rule():
    found = embed(np.abs(symmetric(2, 6)) + 3 * (1 - np.eye(6)), seed=0).coordinates
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    spread = found.T @ found
    assert abs(spread[0, 1]) < 1e-9
    assert spread[0, 0] >= spread[1, 1]
    assert (found[np.abs(found).argmax(0), [0, 1]] > 0).all()


def test_three_equidistant_points_fit_and_more_do_not():
    assert embed(1 - np.eye(3)).stress < 0.01
    found = embed(2 * (1 - np.eye(6)))
    assert found.stress == pytest.approx(found.equidistant, rel=0.02)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"square matrix for at least 3 networks, got shape \(2, 3\)"),
        (1 - np.eye(2), r"at least 3 networks, got shape \(2, 2\)"),
        (symmetric(0, 4, missing=[(0, 1), (2, 3)]), "2 of 6 are missing: measure them"),
        (-1 + np.eye(3), "not negative"),
        (np.triu(np.ones((3, 3)), 1), "symmetric"),
        (np.where(np.eye(3) > 0, 0.0, np.inf), "finite"),
        (np.ones((3, 3)), "0 on the diagonal"),
        (np.zeros((3, 3)), "not all 0"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(matrix, message):
    with pytest.raises(RelationError, match=message):
        embed(matrix)


def test_made_up_parts_are_as_sharp_as_their_algorithm():
    a, b = member("full", "sgd", 0), member("full", "adv", 0)
    assert a.energy.sizes == rises(SIGMAS, 1.0).sizes
    assert pair("full", a, a).distances[-1].rms_angle < pair("full", b, b).distances[-1].rms_angle
    assert bend("full", "sgd", (0, 1)).networks == ("sgd-0", "sgd-1")
