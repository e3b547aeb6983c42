"""Chart of strings: length and beads against the level, for each task and precision."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import vl_convert

from compare.report.charts import Chart, Row, finished
from compare.report.landscape_charts import HUES
from compare.report.strings_tables import PUBLISHED, Group, groups, joined, levels_of
from compare.runs.strings import Strings
from compare.runs.topology import COPY, QUADRATIC, Topology

OURS, THEIRS = "measured here", "published"


def string_chart(found: Topology) -> Chart | None:
    """Tasks in columns; normalised length above, beads below.

    Args:
        found: The study.

    Returns:
        The chart, or None where no string is shown connected.
    """
    rows = [row for group, some in groups(found).items() if group[-1] != COPY for row in _rows(group, some)]
    rows += list(_published(rows))
    if not rows:
        return None
    title = "Strings: length and beads against level"
    lines = [
        alt.hconcat(*(_panel(rows, task, measure) for task in dict.fromkeys(row["task"] for row in rows)))
        for measure in ("normalised length", "beads, ends included")
    ]
    drawn = alt.vconcat(*lines, data=alt.InlineData(values=rows)).resolve_scale(color="shared", shape="shared")
    return Chart(
        title,
        "Lower levels to the right. Mean over the strings shown connected, with the range over pairs of networks; "
        "levels are mean errors of regressions, training errors as fractions of images.",
        finished(drawn, title),
    )


def pictures(found: Topology) -> dict[str, bytes]:
    """The chart as a PNG file, by its name."""
    chart = string_chart(found)
    return {} if chart is None else {"levels": vl_convert.vegalite_to_png(chart.spec, scale=1.25)}


def _rows(group: Group, some: Sequence[Strings]) -> Iterator[Row]:
    precision, treatment, task = group
    name = f"{precision}, {treatment}" if some[0].treatment else OURS
    for level in levels_of(some):
        there = joined(some, level)
        for measure, values in (
            ("normalised length", [each.normalised_length for each in there]),
            ("beads, ends included", [float(each.beads) for each in there]),
        ):
            if values:
                about: Row = {"task": task, "networks": name, "measure": measure, "level": level}
                mean = sum(values) / len(values)
                yield {**about, "mean": mean, "low": min(values), "high": max(values), "strings": len(values)}


def _published(rows: Sequence[Row]) -> Iterator[Row]:
    if any(row["task"] == QUADRATIC for row in rows):
        for level, values in PUBLISHED.items():
            for measure, value in zip(("normalised length", "beads, ends included"), values, strict=True):
                yield {"task": QUADRATIC, "networks": THEIRS, "measure": measure, "level": level, "mean": value}


def _panel(rows: Sequence[Row], task: str, measure: str) -> Any:
    names = list(dict.fromkeys(row["networks"] for row in rows))
    hues = list(itertools.islice(itertools.cycle(HUES), len(names)))
    ticks = sorted({row["level"] for row in rows if row["task"] == task}, reverse=True)
    falling = alt.Scale(type="log", reverse=True, nice=False, padding=14)
    x = alt.X("level:Q", title="level", scale=falling, axis=alt.Axis(values=ticks, format="~g"))
    y = alt.Y("mean:Q", title=measure, scale=alt.Scale(type="log" if "beads" in measure else "linear", zero=False))
    colour = alt.Color("networks:N", title="strings", sort=names, scale=alt.Scale(domain=names, range=hues))
    shape = alt.Shape("networks:N", title="strings", sort=names, scale=alt.Scale(domain=names))
    chosen = (alt.datum.task == task) & (alt.datum.measure == measure)
    base = alt.Chart().transform_filter(chosen)
    bars = base.transform_filter("isValid(datum.low)").mark_rule(opacity=0.6)
    layers = alt.layer(
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour),
        bars.encode(x=x, y=alt.Y("low:Q", title=measure), y2="high:Q", color=colour),
        base.mark_point(size=60, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=["networks:N", "level:Q", "mean:Q", "low:Q", "high:Q"]
        ),
    )
    header = alt.Title(task, fontSize=13, fontWeight="normal", anchor="middle", limit=320)
    return layers.properties(width=230, height=180, title=header)
