"""Merging as one document, from its record alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import altair as alt
import vl_convert

from compare.report.charts import BLUE, GREEN, ORANGE, Chart, Row, finished
from compare.report.claims import Claim, Verdict, claim_table
from compare.report.numbers import percent
from compare.report.origin import made_by
from compare.report.table import Table
from compare.report.text import block, paragraph
from compare.runs.merging import Draw, MergedNetwork, Merging
from compare.runs.part import Treatment

_RULE = (
    "Differences of test errors in percentage points (pp), by number of networks: mean ± standard deviation over "
    "draws. 'Holds': in every draw of every number of networks; 'does not hold': in none; else not decided."
)
TREATMENTS: tuple[Treatment, ...] = ("standard form", "matched")


def document(found: Merging, name: str) -> str:
    """The page.

    Args:
        found: The record.
        name: Of the document's file without its ending; the picture is ``NAME.png`` beside it, the record
            ``NAME.json``.

    Returns:
        GitHub-flavoured Markdown.
    """
    parts = (found, found.matching, *found.sizes)
    blocks = [
        f"# Merging binary networks on {found.data.name}",
        *map(paragraph, _introduction(found)),
        made_by(
            (part.provenance for part in parts),
            f"{found.provenance.threads} thread(s)",
            f": {found.training_seconds / 60:.1f} minutes of training, {found.matching.seconds / 60:.1f} of matching, "
            f"{sum(s.seconds for s in found.sizes) / 60:.1f} of merging and measuring. The [record]({name}.json) holds "
            "every number.",
        ),
        block(claim_table(claims(found), _RULE)),
        *map(paragraph, _limits(found)),
        f"![Test error against the number of networks]({name}.png)",
        paragraph(chart(found).note),
        block(_errors(found)),
        block(_bits(found)),
        block(_parts(found)),
    ]
    return "\n\n".join(blocks) + "\n"


def picture(found: Merging) -> bytes:
    """The chart as PNG."""
    return vl_convert.vegalite_to_png(chart(found).spec, scale=1.5)


def claims(found: Merging) -> tuple[Claim, ...]:
    """What is claimed, and how it fares; each number of networks is decided on its own."""
    matched = _of("matched", "majority", "re-estimated")
    control = found.matching.control
    return (
        Claim(
            "Merged after matching, copies of one network are that network",
            "a test label that differs",
            f"{control.matched:.2%} of labels differ ({control.before_matching:.2%} without matching)",
            "holds" if control.matched == 0 else "does not hold",
        ),
        _compared(
            "Matching lowers the merged network's error (majority, statistics re-estimated)",
            found,
            matched,
            _of("standard form", "majority", "re-estimated"),
        ),
        _compared(
            "Re-estimated statistics lower it (majority, matched)",
            found,
            matched,
            _of("matched", "majority", "averaged"),
        ),
        _compared(
            "A majority of bits is better than the mean of latents (matched, re-estimated)",
            found,
            matched,
            _of("matched", "latents", "re-estimated"),
            fewest=3,  # of two networks ties are decided by the latents: both ways are one
        ),
        _compared(
            "The merged network errs less than its parts do on average (matched, re-estimated)",
            found,
            matched,
            lambda draw: draw.mean_error,
        ),
        _compared(
            "The vote of the parts, which takes all of them at run time, errs less than the merged network",
            found,
            lambda draw: draw.majority,
            matched,
        ),
    )


def _of(treatment: Treatment, how: str, statistics: str) -> Callable[[Draw], float]:
    def error(draw: Draw) -> float:
        return _network(draw, treatment, how, statistics).error

    return error


def _network(draw: Draw, treatment: Treatment, how: str, statistics: str) -> MergedNetwork:
    wanted = (treatment, how, statistics)
    return next(each for each in draw.merged if (each.treatment, each.how, each.statistics) == wanted)


def _compared(
    claim: str, found: Merging, first: Callable[[Draw], float], second: Callable[[Draw], float], *, fewest: int = 2
) -> Claim:
    """The claim that the first error is below the second, for every number of networks and in every draw."""
    shown, verdicts = [], []
    for size in (each for each in found.sizes if len(each.draws[0].parts) >= fewest):
        differences = [first(draw) - second(draw) for draw in size.draws]
        shown.append(f"{len(size.draws[0].parts)}: {percent(differences)}")
        verdicts.append(_decided(differences))
    words: tuple[Verdict, ...] = ("holds", "does not hold", "not decided")
    agreed = next((word for word in words if set(verdicts) == {word}), None)
    counted = ", ".join(f"{word} {verdicts.count(word)}" for word in words)
    return Claim(
        claim,
        "a difference of 0 or more in every draw of every number of networks",
        ("; ".join(shown) or "not measured") + ("" if agreed or not shown else f" (by number of networks: {counted})"),
        agreed or "not decided",
    )


def _decided(differences: Sequence[float]) -> Verdict:
    if max(differences) < 0:
        return "holds"
    return "does not hold" if min(differences) >= 0 else "not decided"


def _introduction(found: Merging) -> tuple[str, ...]:
    data = found.data
    return (
        "Several binary networks of one shape are made one of the same size: each weight takes the sign that most of "
        "them have ([how](../merging.md)). A bit says the same in all of them only once units are matched, and "
        "normalisation statistics that are averaged are those of no network.",
        f"{len(found.errors)} networks {found.model}, {found.title}, trained on {data.train} images; errors on all "
        f"{data.test} test images; statistics re-estimated on {data.calibration} training images. All networks were "
        "brought into one frame once (`compare.match_many`), and every draw merges some of them in that frame.",
    )


def _limits(found: Merging) -> tuple[str, ...]:
    return (
        f"Each number of networks has {len(found.sizes[0].draws)} different draws out of {len(found.errors)} networks. "
        "Draws share networks, the more of them the larger they are: ± is a spread over draws, no standard error, and "
        "agreement of all draws is less than independent evidence.",
    )


def _errors(found: Merging) -> Table:
    rows = []
    for size in found.sizes:
        draws = size.draws
        votes = (("parts alone", "mean of the parts", lambda d: d.mean_error),)
        own = [(what, how, percent(map(error, draws))) for what, how, error in votes]
        merged = [
            (treatment, how, *(percent(map(_of(treatment, how, s), draws)) for s in ("averaged", "re-estimated")))
            for treatment in TREATMENTS
            for how in ("majority", "latents")
        ]
        together = (
            percent(draw.majority for draw in draws),
            percent(draw.mean_probability for draw in draws),
        )
        number = str(len(draws[0].parts))
        rows += [(number, *row, own[0][2], *together) for row in merged]
    return Table(
        "Test error in %",
        "Mean ± standard deviation over draws. The last three columns do not depend on how networks are merged: the "
        "mean error of the parts, and the errors of their votes (of labels; of two networks that differ, the"
        " first's; by mean probability), which need all "
        "parts at run time.",
        (
            *("networks", "brought to", "bits by"),
            *("statistics averaged", "statistics re-estimated", "parts", "vote of labels", "mean probability"),
        ),
        tuple(rows),
        keys=3,
    )


def _bits(found: Merging) -> Table:
    rows = []
    for size in found.sizes:
        for treatment in TREATMENTS:
            own = [_network(draw, treatment, "majority", "re-estimated") for draw in size.draws]
            cells = (percent(each.agreement for each in own), percent(each.tied for each in own))
            number = len(size.draws[0].parts)
            rows.append((str(number), treatment, cells[0], f"{100 * agreement_by_lot(number):.2f}", cells[1]))
    return Table(
        "How far the parts agree on bits (%)",
        "Agreement: mean over bits and parts of how often a part has the merged bit; by lot: what bits drawn "
        "independently and evenly would give, the more the fewer networks vote. Ties are decided by the sum of the "
        "latent weights.",
        ("networks", "brought to", "agreement", "agreement by lot", "tied bits"),
        tuple(rows),
        keys=2,
    )


def agreement_by_lot(networks: int) -> float:
    """Expected agreement with the majority of bits that are drawn independently, either value with probability 1/2.

    It is E max(k, N - k) / N for k of N votes, however ties are decided.

    Args:
        networks: N, 1 or more.

    Returns:
        From 1/2 (exclusive, for many) to 1 (one network).

    Example:
        >>> agreement_by_lot(2), agreement_by_lot(3)
        (0.75, 0.75)
    """
    votes: int = sum(math.comb(networks, k) * max(k, networks - k) for k in range(networks + 1))
    return votes / (networks * (1 << networks))


def _parts(found: Merging) -> Table:
    rows = tuple(
        (str(seed), f"{100 * train:.2f}", f"{100 * test:.2f}")
        for seed, (train, test) in enumerate(zip(found.training_errors, found.errors, strict=True))
    )
    return Table(
        "The networks",
        "Errors in %: train is the running mean over the last epoch, test is on all test images.",
        ("seed", "train", "test"),
        rows,
    )


def chart(found: Merging) -> Chart:
    """Test error against the number of networks: a line for each way, a band over its draws."""
    names = list(dict.fromkeys(row["way"] for row in _rows(found)))
    colour = alt.Color(
        "way:N", title=None, scale=alt.Scale(domain=names, range=[ORANGE, BLUE, GREEN, "#56B4E9", "#CC79A7"]),
        legend=alt.Legend(columns=2, symbolOpacity=1),
    )  # fmt: skip
    x = alt.X("networks:O", title="networks merged", axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(type="log")
    low, error = (alt.Y(f"{field}:Q", title="test error (%)", scale=scale) for field in ("low", "error"))
    band = alt.Chart().mark_area(opacity=0.2).encode(x=x, y=low, y2="high:Q", color=colour)
    line = alt.Chart().mark_line(point=True).encode(x=x, y=error, color=colour)
    drawn: Any = alt.layer(band, line, data=alt.InlineData(values=list(_rows(found)))).properties(width=560, height=320)
    title = "Test error against the number of networks"
    note = "Lines: mean over draws; bands: lowest to highest draw. The axis of errors is logarithmic."
    return Chart(title, note, finished(drawn, title))


def _rows(found: Merging) -> Iterator[Row]:
    ways: tuple[tuple[str, Callable[[Draw], float]], ...] = (
        ("not matched, re-estimated", _of("standard form", "majority", "re-estimated")),
        ("matched, averaged statistics", _of("matched", "majority", "averaged")),
        ("matched, re-estimated", _of("matched", "majority", "re-estimated")),
        ("mean of the parts", lambda draw: draw.mean_error),
        ("vote of the parts", lambda draw: draw.majority),
    )
    for size in found.sizes:
        for way, error in ways:
            values = [100 * error(draw) for draw in size.draws]
            about: Row = {"networks": len(size.draws[0].parts), "way": way}
            yield {**about, "error": sum(values) / len(values), "low": min(values), "high": max(values)}
