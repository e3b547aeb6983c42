"""Orbits as one document, from their record alone."""

import vl_convert

from compare.report.claims import claim_table
from compare.report.numbers import percent
from compare.report.orbit_charts import chart
from compare.report.orbit_numbers import attacks_of, claims, gain, orbit_of, over, rise, shown, variants, worst
from compare.report.origin import made_by
from compare.report.study_tables import interval_text
from compare.report.table import Table
from compare.report.text import block, paragraph
from compare.runs.orbits import BinaryPart, OrbitNetwork, Orbits

_RULE = (
    "Differences of errors in percentage points (pp), mean over all networks [95 % interval over networks: Student's t "
    "with a variance of each activation's own, which takes differences for about normal]. 'Holds' or 'does not hold' "
    "where the whole interval says so. 'Published' is of a convolutional network on CIFAR-10 [Conserved], which is not "
    "what is measured here. Claims on some of many orbits take intervals that aim at 95 % for all at once (Bonferroni)."
)


def document(found: Orbits, name: str) -> str:
    """The page: claims first, then every number they rest on.

    Args:
        found: The record.
        name: Of the document's file without its ending; the picture is ``NAME.png`` beside it, the record
            ``NAME.json``.

    Returns:
        GitHub-flavoured Markdown.
    """
    parts: tuple[OrbitNetwork | BinaryPart, ...] = (*found.networks, found.binary)
    seconds = sum(part.seconds for part in parts)
    blocks = [
        f"# Orbits as ensembles on {found.data.name}",
        *map(paragraph, _introduction(found)),
        made_by(
            (part.provenance for part in parts),
            f"{found.provenance.threads} thread(s)",
            f", in {seconds / 60:.1f} minutes of processes. The [record]({name}.json) holds every number.",
        ),
        block(claim_table(claims(found), _RULE)),
        *map(paragraph, _reading(found)),
        f"![Rise of the test error against epsilon]({name}.png)",
        paragraph(chart(found).note),
        block(votes_table(found)),
        block(attack_table(found)),
        block(binary_table(found)),
        block(network_table(found)),
    ]
    return "\n\n".join(blocks) + "\n"


def picture(found: Orbits) -> bytes:
    """The chart as PNG."""
    return vl_convert.vegalite_to_png(chart(found).spec, scale=1.5)


def _introduction(found: Orbits) -> tuple[str, ...]:
    data, first = found.data, found.networks[0]
    activations = list(dict.fromkeys(network.activation for network in found.networks))
    members = len(first.orbits[0].votes.errors)
    return (
        "Hidden units of any activation can be moved by any invertible matrix so that all outputs stay as they are on "
        "one batch ([Zhao et al.](https://arxiv.org/abs/2210.17216), here [Conserved]; [how](../actions.md)). The "
        "moved networks differ elsewhere: an ensemble without training. Published on CIFAR-10: accuracy within 0.005 "
        "up to epsilon 0.01, clearly worse from 1, no gain by the ensemble, and some robustness, weakly shown.",
        f"{len(found.networks)} perceptrons {found.model} without normalisation ({', '.join(activations)}), trained "
        f"on {data.train} images of {data.name}; the last hidden layer is moved by g = expm(epsilon T), T normal with "
        f"variance 1 / units, {members} elements an orbit. Errors on {first.orbits[0].votes.samples} test images.",
        f"Attacks are untargeted, L-infinity, of a radius that is a fraction of the range of inputs ({_range(found)}), "
        f"to which inputs are clamped: one step (FGSM) or {found.attack_steps} (PGD). Through the ensemble, the "
        "gradient is the mean over its elements.",
    )


def _range(found: Orbits) -> str:
    ranges = dict.fromkeys(f"{a:g} to {b:g}" for a, b in zip(found.smallest, found.largest, strict=True))
    return ", ".join(ranges) + (" in each channel" if len(found.smallest) > 1 else "")


def _reading(found: Orbits) -> tuple[str, ...]:
    half, full = (found.networks[0].orbits[i].batch for i in (0, -1))
    conditions = {
        batch: max(each.condition for network in found.networks for each in network.orbits if each.batch == batch)
        for batch in (half, full)
    }
    return (
        f"On a batch of {half}, fewer than the {full} units, least squares lose what the features of the batch do not "
        f"span, also at epsilon 0; the other two ways keep it. On one of {full}, as many as units, all ways are one "
        "where moved features are independent, and no freedom is left. The more nearly dependent features are, the "
        f"more changes elsewhere may be magnified: condition numbers of moved features reach {conditions[half]:.0e} on "
        f"{half} samples and {conditions[full]:.0e} on {full}. Units that are silent on the batch may make features "
        "dependent; then no matrix need keep all outputs.",
        "That gradients through an ensemble fail to find harmful inputs does not make it robust: elements of large "
        "outputs may drown the others, which is not measured here. So inputs made for the plain network are tried on "
        "the ensemble, too, and a sample counts as an error where either attack succeeds. The plain network is "
        "attacked once alone: the comparison is hard on the ensemble.",
    )


def votes_table(found: Orbits) -> Table:
    """Errors of votes against epsilon."""
    rows = []
    for activation in dict.fromkeys(network.activation for network in found.networks):
        own = [network for network in found.networks if network.activation == activation]
        for variant in variants(found):
            for epsilon in dict.fromkeys(each.epsilon for each in own[0].orbits):
                orbits = [orbit_of(network, variant, epsilon) for network in own]
                rises = (
                    interval_text(over(own, rise(variant, epsilon, what)), scale=100)
                    for what in ("alone", "majority", "mean probability")
                )
                rows.append(
                    (
                        *(activation, shown(variant), f"{epsilon:g}"),
                        f"{max(each.residual for each in orbits):.0e}",
                        percent(each.output_change for each in orbits),
                        percent(each.labels_changed for each in orbits),
                        percent(network.measured_error for network in own),
                        *rises,
                        percent(each.votes.agreement for each in orbits),
                    )
                )
    return Table(
        "Moved networks and their votes",
        "On the batch: the largest relative change of the moved layer's output. Elsewhere, on test images: root mean "
        "square change of outputs in % of their root mean square, labels changed (%), each mean ± standard deviation "
        "over networks; the error of the plain network, the control; error minus that (pp) of a moved network alone, "
        "of the vote of labels, of the mean probability, mean [95 % interval]; agreement of two elements (% of "
        "labels). Intervals over few networks are wide, and no correction is made for their number.",
        (
            *("activation", "way", "epsilon", "on the batch", "outputs (%)", "labels (%)", "plain (%)"),
            *("alone (pp)", "vote (pp)", "mean probability (pp)", "agreement (%)"),
        ),
        tuple(rows),
        keys=3,
    )


def attack_table(found: Orbits) -> Table:
    """Errors under attack, over all activations."""
    rows = []
    for key in [(a.method, a.batch, a.epsilon, a.attack, a.radius) for a in found.networks[0].attacks]:
        attacks = [attacks_of(network, key) for network in found.networks]
        difference = gain(found, key, worst)
        rows.append(
            (
                *(shown(key[:2]), f"{key[2]:g}", key[3].upper(), f"{key[4]:g}"),
                percent(each.plain for each in attacks),
                percent(each.transferred_majority for each in attacks),
                percent(each.majority for each in attacks),
                percent(each.mean_probability for each in attacks),
                percent(each.either_majority for each in attacks),
                interval_text(difference, scale=100),
            )
        )
    return Table(
        "Errors under attack (%)",
        f"On {found.networks[0].attacks[0].samples} test images, mean ± standard deviation over networks of all "
        "activations. Plain: the network, attacked itself (the control). Transferred: the orbit's vote on those "
        "inputs. Expectation: the vote, and the mean probability, attacked through the whole orbit. Either: samples "
        "that the vote gets wrong under at least one of both attacks. Difference: either minus plain (pp) [95 % "
        "interval over networks, for each row alone].",
        (
            *("way", "epsilon", "attack", "radius", "plain", "transferred"),
            *("expectation", "expectation, mean probability", "either", "difference (pp)"),
        ),
        tuple(rows),
        keys=4,
    )


def binary_table(found: Orbits) -> Table:
    """Votes of binary networks."""
    names = {"orbit": "symmetric copies", "path": "on a matched path", "independent": "independent"}
    rows = tuple(
        (
            *(names[each.voters], ", ".join(map(str, each.networks)), str(len(each.votes.errors))),
            percent(each.votes.errors),
            *(f"{100 * value:.2f}" for value in (each.votes.majority, each.votes.mean_probability)),
            f"{100 * each.votes.agreement:.2f}",
            f"{100 * each.votes.changed:.2f}",
            "yes" if each.identical else "no",
        )
        for each in found.binary.votes
    )
    return Table(
        "Votes of binary networks",
        f"Networks of the same widths with normalisation, weights and activations of 1 bit; errors (%) on "
        f"{found.binary.votes[0].votes.samples} test images. Symmetric copies are made by random elements of the "
        "network's group. On a path: t = 0, 1/4, 1/2, 3/4, 1 of the line between two networks in standard form, the "
        "second matched to the first, statistics re-estimated. Changed: labels (%) by which the vote differs from the "
        "first network. A vote of labels is the first network's where all differ.",
        (
            *("voters", "made of", "number", "alone"),
            *("vote", "mean probability", "agreement", "changed", "equal bit for bit"),
        ),
        rows,
        keys=3,
    )


def network_table(found: Orbits) -> Table:
    """Errors of the networks themselves."""
    full = [
        (network.activation, str(network.seed), f"{100 * network.training_error:.2f}", f"{100 * network.error:.2f}")
        for network in found.networks
    ]
    binary = [("binary", str(seed), "", f"{100 * error:.2f}") for seed, error in enumerate(found.binary.errors)]
    return Table(
        "The networks",
        "Errors in %: train is the running mean over the last epoch, test is on all test images.",
        ("activation", "seed", "train", "test"),
        (*full, *binary),
        keys=2,
    )
