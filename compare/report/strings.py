"""A study of level sets as one document, from its records alone."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from compare.report.charts import Chart
from compare.report.origin import distinct, made_by
from compare.report.strings_charts import string_chart
from compare.report.strings_claims import claim_table, claims
from compare.report.strings_tables import faults, of_task, tables
from compare.report.text import WIDTH, block, paragraph
from compare.runs.topology import QUADRATIC, Topology


def document(found: Topology, name: str) -> str:
    """The whole document: claims first, then every number they rest on.

    Args:
        found: The study.
        name: Of the document's file without its ending: records are ``NAME.json``, the picture is ``NAME-levels.png``.

    Returns:
        GitHub-flavoured Markdown.
    """
    chart = string_chart(found)
    figure = [] if chart is None else [_figure(chart, name)]
    reasons = faults(found)
    blocks = [
        f"# Level sets on {found.data}",
        *map(paragraph, _INTRODUCTION),
        _made_by(found, name),
        paragraph(_lead(found)),
        block(claim_table(found)),
        paragraph(_count(found)),
        *figure,
        *(block(table) for table in tables(found)),
        *(["### Why strings were not shown connected", _list(reasons)] if reasons else []),
        "### Notes",
        _list([*_regression_notes(found), *_NOTES]),
    ]
    return "\n\n".join(blocks) + "\n"


def _figure(chart: Chart, name: str) -> str:
    return f"### {chart.title}\n\n![{chart.title}]({name}-levels.png)\n\n{paragraph(chart.note)}"


_INTRODUCTION = (
    "Freeman and Bruna ([Topology and Geometry of Half-Rectified Network "
    "Optimization](https://arxiv.org/abs/1611.01540)) ask whether two networks are joined by a path on which the loss "
    "never exceeds a level. They show that linear networks are, at every level; that rectified ones need not be, but "
    "nearly are when they are wide; and find, with dynamic string sampling, that such paths exist in practice, and "
    "grow longer and more crooked as the level falls. Here each claim is a number, in two precisions.",
    "A string is a chain of networks, its beads, joined by straight lines. It starts as the line between two "
    "networks. A segment on which some network of a grid has more than (1 + tolerance) times the level gets a bead, "
    "which is trained down to just below the level, and so on ([how](../strings.md)). All segments pass: connected at "
    "this level within tolerance. A bead does not come down, or a limit is met: not shown connected, which does not "
    "say that there is no string. Normalised length: that of the string over the distance of its ends, in the joint "
    "Euclidean norm of all trained parameters.",
    "The weights of a binary network are the signs of latent weights. Strings of binary networks are strings of "
    "latents, and energies those of the binarised networks; since the size of a latent weight does not change its "
    "sign, lengths of different precisions are compared with care. Matched networks are both in standard form, the "
    "second moved onto the first by a symmetry; their functions are those of the networks as trained.",
)

_NOTES = (
    "On images and of linear networks the ends of a level are those of the level before, trained further, and so are "
    "the beads.",
    "Linear networks with ridge are joined for one hidden layer wider than the smaller of inputs and outputs. With "
    "more layers they need not be: (w3 w2 w1 - 1)^2 + k (w1^2 + w2^2 + w3^2) has for small k a valley of its own "
    "around 0, apart from the other below a level above its bottom. For hidden layers exactly as wide, the sign of a "
    "determinant can keep two networks apart: w2 w1 fitted to 1 has a valley in which both numbers are positive, and "
    "one in which both are negative.",
    "Every path to the two swapped units passes a network whose first layer has at most rank 1, and none of those has "
    "less error than a floor. What stands in the claims is an upper estimate of it, the lowest error over a fine grid "
    "of directions: the floor itself is approached beside certain directions, and need not be attained.",
    "Standard form changes norms, and with them what a normalised length means: latent rows of length 1 are short "
    "beside the steps of training. So matched strings are compared with strings between the same networks in standard "
    "form.",
    "The control has a floor, too: the hidden layer's outputs on the three points are a square matrix, whose "
    "determinant changes its sign when two units are swapped; where it is singular, a mean squared error of at least "
    "1/12 remains. Its level is below that.",
    "A string that goes down the levels keeps the detours it once made, and is longer than one begun anew at each "
    "level; that holds for the strings on images, and not for the regression.",
    "A band's networks are not trained to a level: it shows how low beads at equal distances sink in a given number "
    "of sweeps.",
)


def _regression_notes(found: Topology) -> Iterator[str]:
    """What is as published, and everything that is not."""
    for each in of_task(found, QUADRATIC)[:1]:
        search, training = each.settings.get("settings", {}), each.settings.get("lowering", {})
        yield (
            "The published values are means over connected strings with new ends for each level; so are those of the "
            "regression here. It follows the authors' code: mean absolute error, no biases, sigmoids behind all "
            "layers, Adam on all samples at once, a first bead in the middle, beads at half of a segment, tolerance, "
            f"alpha and depth. Otherwise: {each.samples} inputs on a grid instead of 10,000 random ones; "
            f"{search.get('points', 'another number of')} points a segment instead of 100; a learning rate that falls "
            f"from {training.get('learning_rate', 'another number')} to 0 instead of a constant 0.001, and so a "
            f"limit of {training.get('steps', 'some')} steps a bead."
        )


def _made_by(found: Topology, name: str) -> str:
    parts = [piece.provenance for piece in found.pieces]
    return made_by(
        parts,
        f"{distinct(part.threads for part in parts)} thread for each piece",
        f". The [records]({name}.json) hold every number below, seeds and settings.",
    )


def _lead(found: Topology) -> str:
    asked = Counter(each.task for each in found.strings)
    return (
        f"Strings: {'; '.join(f'{number} on {task}' for task, number in asked.items())}. Networks on {found.data}: "
        f"{found.shape}, batch normalisation, trained on {found.images} images (fingerprint {found.fingerprint}), on "
        f"all of which errors are counted; statistics re-estimated on {found.calibration} of them for every network "
        f"measured. The {QUADRATIC}, the control and the linear networks have no normalisation and no biases."
    )


def _count(found: Topology) -> str:
    numbers = Counter(claim.verdict for claim in claims(found))
    return "Verdicts: " + ", ".join(f"{verdict} {number}" for verdict, number in numbers.items()) + "."


def _list(items: Iterable[str]) -> str:
    return "\n".join(
        textwrap.fill(f"- {item}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for item in items
    )
