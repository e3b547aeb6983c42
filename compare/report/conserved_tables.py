"""Tables of conserved quantities."""

import math
from collections.abc import Sequence

from compare.report.conserved_statistics import (
    MEASURES,
    SIDES,
    above,
    below,
    cell,
    chosen,
    correlation,
    deviates,
    from_balance,
    grouped,
    number,
    over,
    ratio,
    slopes,
    turn,
)
from compare.report.numbers import MISSING, show
from compare.report.table import Table
from compare.runs.conserved import Conserved, Law


def law_table(found: Conserved) -> Table:
    """Slopes and drifts of every quantity, controls beside them."""
    rows = []
    for case, quantity, laws in grouped(found.laws):
        own, wrong = chosen(laws, control=False), chosen(laws, control=True)
        rows.append(
            (
                case,
                quantity,
                own[0].formula,
                cell(over(slopes(own))),
                cell(over(slopes(wrong))),
                *(_drift(own, largest) for largest in (True, False)),
                *(show([law.losses[place] for law in own], digits=3) for place in (0, 1)),
            )
        )
    return Table(
        "Drift against step size",
        "Slope of log drift against log step size, at the same total time: mean [95 % interval over "
        "seeds]. Drift: Frobenius norm of the change, in units of the quantity's scale at the start (the norm of the "
        "sum of its terms' sizes), geometric mean over seeds. Wrong: the same terms, the second one doubled. Losses: "
        "at the start, and at the end with the smallest steps, mean ± standard deviation.",
        (
            *("case", "quantity", "formula", "slope", "slope of the wrong one"),
            *("drift, largest step", "drift, smallest step", "loss at the start", "at the end"),
        ),
        tuple(rows),
        keys=3,
    )


def initial_table(found: Conserved) -> Table:
    """Moments at initialisation."""
    rows = tuple(
        (
            each.scheme,
            f"{each.inputs}-{each.hidden}-{each.outputs}",
            f"{each.mean:.4f} ± {each.mean_error:.4f}",
            f"{each.expected_mean:.4f}",
            f"{each.variance:.4f} ± {each.variance_error:.4f}",
            f"{each.expected_variance:.4f}",
            f"{max(map(abs, deviates(each))):.1f}",
        )
        for each in found.initials
    )
    networks = found.initials[0].networks if found.initials else 0
    return Table(
        "At initialisation",
        "Mean and variance of |u|^2 - |v|^2 of one hidden unit without bias, for a block of that many inputs, hidden "
        f"units and outputs: measured ± standard error over {networks} networks, and in closed form. Last column: the "
        "larger distance of the two in standard errors.",
        ("scheme", "sizes", "mean", "closed form", "variance", "closed form", "standard errors off"),
        rows,
        keys=2,
    )


def course_table(found: Conserved) -> Table:
    """What is left of each quantity after the recipes, precisions beside each other."""
    names = dict.fromkeys((course.quantity, course.formula) for course in found.courses)
    precisions = dict.fromkeys(course.precision for course in found.courses)
    rows = []
    for quantity, formula in names:
        for precision in precisions:
            own = [c for c in found.courses if (c.quantity, c.precision) == (quantity, precision)]
            rows.append(
                (
                    *(quantity, formula, precision),
                    *(show([course.means[place] for course in own], digits=3) for place in (0, -1)),
                    show([course.drifts[-1] for course in own], digits=3),
                    *(show([course.errors[place] for course in own], scale=100) for place in (0, 1)),
                )
            )
    return Table(
        "Over the training with Adam",
        "Adam, mini-batches and a falling rate are not gradient flow, so full precision drifts, too; the learning "
        "rate is the same for both. Mean of the quantity over units at the start and at the end, and relative drift "
        "at the end: mean ± standard deviation "
        "over seeds. For binary networks v and u are latent weights, clipped to [-1, 1]. Errors in %.",
        ("quantity", "formula", "precision", "start", "end", "drift", "train error", "test error"),
        tuple(rows),
        keys=3,
    )


def orbit_table(found: Conserved) -> Table:
    """Rank correlations of the quantity with speed and curvature, for both arms."""
    rows, sides = [], []
    for arm in dict.fromkeys(orbit.arm for orbit in found.orbits):
        own = [orbit for orbit in found.orbits if orbit.arm == arm]
        sides.append(f"{arm}: {number(own, above)} with Q > 0, {number(own, below)} with Q < 0")
        for measure in MEASURES:
            rows.append(
                (
                    *(arm, measure.name),
                    *(cell(over([correlation(orbit, measure, side) for orbit in own])) for side in SIDES),
                    # Balance is that of one function's orbit.
                    cell(over([from_balance(orbit, measure) for orbit in own if arm == "same function"])),
                    cell(turn(own, measure)[1]),
                    cell(ratio(own, measure)),
                    str(sum(measure.of(start) is None for orbit in own for start in orbit.starts)),
                )
            )
    return Table(
        "Quantity, speed and curvature",
        "Q is the mean of |u|^2 - |v|^2 over the hidden units. Spearman's rank correlation with |Q| over the starts of "
        "one network, mean [95 % interval over networks]. Starts of one network, "
        f"{'; '.join(sides)}. Balance: with the distance |c - c*| of the start's exponent from that at which the loss "
        "begins to fall most slowly. Turn: Q of the start with the least of the measure (of steps, the most). "
        "Ratio: of the start with the largest |Q| to that with the "
        "smallest, geometric mean [interval]; networks in which fewer than two starts have the measure, or it is not "
        "positive for all, are left out of it. Same function: elements of the block's group, so that outputs and loss "
        "are the same at the start. Initial scale: the first layer alone is scaled, so that function and loss change "
        "with Q. Missing: starts that did not reach the target.",
        ("starts", "measure", "all starts", "where Q > 0", "where Q < 0", "balance", "turn", "ratio", "missing"),
        tuple(rows),
        keys=2,
    )


def _drift(laws: Sequence[Law], largest: bool) -> str:
    found = [(max if largest else min)(zip(law.rates, law.drifts, strict=True))[1] for law in laws]
    return f"{math.exp(math.fsum(map(math.log, found)) / len(found)):.1e}" if all(found) else MISSING
