"""Numbers of orbits as intervals over networks, and the claims that rest on them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from compare.relations.bootstrap import FEWEST, LEVEL, Interval
from compare.report.claims import Claim, Verdict
from compare.report.study_tables import interval_text
from compare.runs.orbits import AttackVotes, OrbitNetwork, Orbits, OrbitVotes

Variant = tuple[str, int]

EXACT = 1e-8
"""Relative change on the batch below which an action counts as exact."""

PUBLISHED = 0.005
"""[Conserved]: a moved network loses at most this much accuracy up to epsilon 0.01 (CIFAR-10, a small convnet)."""


def variants(found: Orbits) -> tuple[Variant, ...]:
    """Methods with the sizes of their batches, in the order of the record."""
    return tuple(dict.fromkeys((each.method, each.batch) for each in found.networks[0].orbits))


def shown(variant: Variant) -> str:
    """A variant in words."""
    return f"{variant[0]}, batch {variant[1]}"


def orbit_of(network: OrbitNetwork, variant: Variant, epsilon: float) -> OrbitVotes:
    """The orbit of one variant and size."""
    wanted = (*variant, epsilon)
    return next(each for each in network.orbits if (each.method, each.batch, each.epsilon) == wanted)


def attacks_of(network: OrbitNetwork, wanted: tuple[str, int, float, str, float]) -> AttackVotes:
    """The attack of one variant, epsilon, name and radius."""
    return next(
        each for each in network.attacks if (each.method, each.batch, each.epsilon, each.attack, each.radius) == wanted
    )


def over(
    networks: Sequence[OrbitNetwork],
    number: Callable[[OrbitNetwork], float],
    *,
    together: int = 1,
) -> Interval:
    """Mean over networks with its interval: Student's t, with a variance of each activation's own.

    The mean is sum_a (n_a / n) m_a over activations a, its variance sum_a (n_a / n)^2 s_a^2 / n_a, and its degrees of
    freedom those of Welch and Satterthwaite. No resampling: the tails that many intervals at once ask for lie beyond
    what resamples of a few networks reach.

    Args:
        networks: Independent ones.
        number: Of each network.
        together: So many intervals are meant to hold with 95 % all at once (Bonferroni).

    Returns:
        The interval; none where an activation has fewer than 3 networks. Where nothing varies, it is the value alone.
    """
    values: dict[str, list[float]] = {}
    for network in networks:
        values.setdefault(network.activation, []).append(number(network))
    total = len(networks)
    value = sum(map(sum, values.values())) / total
    if min(map(len, values.values())) < FEWEST:
        return Interval(value, None, None, total, 0)
    sizes = np.array([len(own) for own in values.values()])
    variances = np.array([np.var(own, ddof=1) for own in values.values()]) * sizes / total**2
    reach = 0.0
    if variances.any():
        freedom = variances.sum() ** 2 / (variances**2 / (sizes - 1)).sum()
        reach = float(stats.t.ppf(1 - (1 - LEVEL) / together / 2, freedom)) * math.sqrt(variances.sum())
    return Interval(value, value - reach, value + reach, total, 0)


def rise(variant: Variant, epsilon: float, what: str = "alone") -> Callable[[OrbitNetwork], float]:
    """Error minus that of the network itself: of moved networks ``alone`` (their mean), or of a vote."""

    def number(network: OrbitNetwork) -> float:
        votes = orbit_of(network, variant, epsilon).votes
        errors = {"alone": votes.mean_error, "majority": votes.majority, "mean probability": votes.mean_probability}
        return errors[what] - network.measured_error

    return number


def worst(attack: AttackVotes) -> float:
    """The ensemble's error (majority), where a sample counts that either attack defeats: its own, the plain network's.

    That gradients through an ensemble fail to find harmful inputs does not make it robust: inputs made for the plain
    network must fail, too.
    """
    return attack.either_majority


def decided(interval: Interval, bound: float = 0.0) -> Verdict:
    """Whether a number is below a bound: the whole interval must lie on one side."""
    if interval.low is None or interval.high is None:
        return "not decided"
    if interval.high < bound:
        return "holds"
    return "does not hold" if interval.low >= bound else "not decided"


def claims(found: Orbits) -> tuple[Claim, ...]:
    """What is claimed, and how it fares."""
    return (
        *_exactness(found),
        *_nearby(found),
        *_votes(found),
        *_robustness(found),
        *_binary(found),
    )


def _exactness(found: Orbits) -> Iterator[Claim]:
    for variant in variants(found):
        own = [each for network in found.networks for each in network.orbits if (each.method, each.batch) == variant]
        largest = max((each.independent_residual or 0.0 for each in own), default=0.0)
        elements = sum(len(each.votes.errors) for each in own)
        dependent = sum(each.dependent for each in own)
        besides = f"; {dependent} of {elements} elements make features dependent, with up to " if dependent else ""
        yield Claim(
            f"The action is exact on its batch where moved features are independent ({shown(variant)})",
            f"a relative change of {EXACT:g} or more there",
            f"at most {largest:.1e}" + besides + (f"{max(each.residual for each in own):.1e}" if dependent else ""),
            "holds" if largest < EXACT and dependent < elements else "does not hold",
        )


def _nearby(found: Orbits) -> Iterator[Claim]:
    epsilons = sorted({each.epsilon for each in found.networks[0].orbits if each.epsilon > 0})
    near, far = max((e for e in epsilons if e <= 0.01), default=epsilons[0]), epsilons[-1]
    for variant in variants(found):
        rises = {e: over(found.networks, rise(variant, e)) for e in (near, far)}
        text = {e: f"{interval_text(interval, scale=100)} pp" for e, interval in rises.items()}
        yield Claim(
            f"Published: at epsilon {near:g} a moved network errs at most 0.5 pp more ({shown(variant)})",
            "an interval of the rise above 0.5 pp",
            text[near],
            decided(rises[near], PUBLISHED),
        )
        clearly = decided(rises[far], PUBLISHED)
        opposite: dict[Verdict, Verdict] = {"holds": "does not hold", "does not hold": "holds"}
        yield Claim(
            f"Published: at epsilon {far:g} it is clearly worse ({shown(variant)})",
            "an interval of the rise below 0.5 pp",
            text[far],
            opposite.get(clearly, clearly),
        )


def _votes(found: Orbits) -> Iterator[Claim]:
    epsilons = sorted({each.epsilon for each in found.networks[0].orbits if each.epsilon > 0})
    tried = [(variant, epsilon) for variant in variants(found) for epsilon in epsilons]
    for what in ("majority", "mean probability"):
        differences = {
            f"{shown(variant)}, epsilon {epsilon:g}": over(
                found.networks, rise(variant, epsilon, what), together=len(tried)
            )
            for variant, epsilon in tried
        }
        yield _some(f"The vote of some orbit ({what}) errs less than its network", differences)


def _some(claim: str, differences: Mapping[str, Interval]) -> Claim:
    """The claim that one of several differences is below 0; intervals hold all at once."""
    name, best = min(differences.items(), key=lambda item: _end(item[1]))
    verdicts = [decided(each) for each in differences.values()]
    verdict: Verdict = "not decided"
    if "holds" in verdicts:
        verdict = "holds"
    elif set(verdicts) == {"does not hold"}:
        verdict = "does not hold"
    below = verdicts.count("holds")
    return Claim(
        claim,
        f"intervals of all {len(differences)} differences from 0 on (made for 95 % all at once)",
        f"{below} of {len(differences)} below 0; farthest: {interval_text(best, scale=100)} pp ({name})",
        verdict,
    )


def _end(interval: Interval) -> tuple[float, float]:
    return (interval.value if interval.high is None else interval.high, interval.value)


def _robustness(found: Orbits) -> Iterator[Claim]:
    ways: tuple[tuple[str, Callable[[AttackVotes], float]], ...] = (
        ("attacked in expectation", lambda attack: attack.majority),
        ("a sample counts that it, or the plain network's input, defeats", worst),
    )
    keys = [(a.method, a.batch, a.epsilon, a.attack, a.radius) for a in found.networks[0].attacks]
    for attack in dict.fromkeys(key[3] for key in keys):
        for words, error in ways:
            own = [key for key in keys if key[3] == attack]
            differences = {
                f"{shown(key[:2])}, epsilon {key[2]:g}, radius {key[4]:g}": gain(found, key, error, together=len(own))
                for key in own
            }
            yield _some(f"Under {attack.upper()} some orbit's vote errs less than its network ({words})", differences)


def gain(
    found: Orbits,
    key: tuple[str, int, float, str, float],
    error: Callable[[AttackVotes], float],
    *,
    together: int = 1,
) -> Interval:
    """An error under attack minus that of the plain network, attacked itself.

    Args:
        found: The record.
        key: Method, batch, epsilon, attack and radius.
        error: Which error.
        together: See ``over``.

    Returns:
        Mean over networks, with its interval.
    """

    def number(network: OrbitNetwork) -> float:
        attack = attacks_of(network, key)
        return error(attack) - attack.plain

    return over(found.networks, number, together=together)


def _binary(found: Orbits) -> Iterator[Claim]:
    votes = found.binary.votes
    orbits = [each for each in votes if each.voters == "orbit"]
    copies = sum(len(each.votes.errors) - 1 for each in orbits)
    same = all(each.identical and each.votes.changed == 0 for each in orbits)
    yield Claim(
        "Binary: the vote over an orbit is the network itself",
        "an output that differs in a bit, or a label",
        f"{copies} copies of {len(orbits)} networks, {orbits[0].votes.samples} images: "
        + ("all outputs equal bit for bit" if same else "some outputs differ"),
        "holds" if same else "does not hold",
    )
    for voters, words in (("path", "networks on a matched path"), ("independent", "independent networks")):
        own = [each for each in votes if each.voters == voters]
        changed = ", ".join(f"{each.votes.changed:.2%}" for each in own)
        yield Claim(
            f"Binary: the vote over {words} is not that of the first of them",
            "no label that differs",
            f"labels that differ: {changed}",
            "holds" if own and min(each.votes.changed for each in own) > 0 else "does not hold",
        )
