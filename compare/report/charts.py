"""The report's charts, as Vega-Lite specifications. Numbers are reduced to means and ranges before they go in."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from compare.report.sections import Group, Section, find, pair_name
from compare.report.table import STATISTICS, TREATMENTS
from compare.runs.record import Curve, Network, PathKind, SplitName, Statistics, Treatment

# Okabe and Ito's palette, told apart by people of all kinds of colour vision; dashes help in print.
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"
COLOURS: dict[Treatment, str] = {"as trained": ORANGE, "standard form": BLUE, "matched": GREEN}
DASHES: dict[Treatment, list[int]] = {"as trained": [2, 3], "standard form": [7, 3], "matched": [1, 0]}

# With more pairs than this their single lines would hide the mean.
FEW_PAIRS = 6
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

Row = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart and how to read it.

    Attributes:
        title: What it shows.
        note: How to read it, in a sentence or two.
        spec: Vega-Lite specification with the data inside.
    """

    title: str
    note: str
    spec: dict[str, Any]


def path_charts(section: Section, path: PathKind) -> list[Chart]:
    """Error along one kind of path, a chart for each split that was measured."""
    splits: tuple[SplitName, ...] = ("train", "test")
    charts = (path_chart(section, path, split) for split in splits)
    return [chart for chart in charts if chart is not None]


def path_chart(section: Section, path: PathKind, split: SplitName) -> Chart | None:
    """Error along the path on one split: precisions in columns, statistics in rows, treatments in colour."""
    rows = [
        row
        for group, statistics, treatment in itertools.product(section.groups, STATISTICS, TREATMENTS)
        for row in _path_rows(group, treatment, path, statistics, split)
    ]
    if not rows:
        return None
    name = {"linear": "straight line", "geodesic": "geodesic"}[path]
    # A layer without data would make Vega complain on the console.
    singles = [_pair_lines] if any("pair" in row for row in rows) else []
    drawn = [treatment for treatment in TREATMENTS if any(row["treatment"] == treatment for row in rows)]
    layers = alt.layer(*(layer(drawn) for layer in (_band, *singles, _mean_line, _marks)))
    described = f"Error along the {name}, {split} samples"
    panels = layers.properties(width=width(len(section.groups)), height=200).facet(
        column=_column(section.groups),
        row=alt.Row(
            "statistics:N",
            sort=[f"statistics {name}" for name in STATISTICS],
            title=None,
            header=alt.Header(labelFontSize=13),
        ),
        data=alt.InlineData(values=rows),
    )
    return Chart(
        described,
        f"From the first network (t = 0) to the second (t = 1) along the {name}; a bump is a barrier. Bold line: mean "
        "over pairs of networks; shade: lowest to highest pair; thin lines: single pairs, where there are at most "
        f"{FEW_PAIRS}.",
        finished(panels, described),
    )


def error_chart(section: Section) -> Chart | None:
    """Train and test error of each network by epoch, where histories were kept."""
    rows: list[Row] = [
        {"precision": group.label, "network": network.name, "epoch": epoch.epoch, "samples": name, "error": 100 * error}
        for group, network in _networks(section)
        for epoch in network.history
        for name, error in (("train", epoch.train_error), ("test", epoch.test_error))
    ]
    if not rows:
        return None
    colour = alt.Color(
        "samples:N",
        title="samples",
        scale=alt.Scale(domain=["train", "test"], range=[BLUE, ORANGE]),
        legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=3),
    )
    lines = _epoch_lines("error:Q", "error (% of samples)", max(row["epoch"] for row in rows)).encode(color=colour)
    return Chart(
        "Training: error by epoch",
        "One line for each network. Train error is the running mean over the epoch's own batches; test error is "
        "measured after the epoch on all test samples.",
        finished(by_precision(lines, section, rows), "Train and test error by epoch"),
    )


def flip_chart(section: Section) -> Chart | None:
    """Flip ratio of each network by epoch, where weights are binary."""
    rows: list[Row] = [
        {"precision": group.label, "network": network.name, "epoch": epoch.epoch, "flips": 100 * epoch.flip_ratio}
        for group, network in _networks(section)
        for epoch in network.history
        if epoch.flip_ratio is not None
    ]
    if not rows:
        return None
    # A logarithmic axis has no place for 0.
    scale = alt.Scale(type="log" if all(row["flips"] for row in rows) else "linear")
    lines = _epoch_lines(
        "flips:Q", "flips a step (% of weights)", max(row["epoch"] for row in rows), scale=scale
    ).encode(color=alt.value(BLUE))
    return Chart(
        "Training: flip ratio by epoch",
        "One line for each network: binary weights that change sign in a step, mean over the epoch's steps. It falls "
        "as training settles. The axis is logarithmic, unless some epoch had no flip at all.",
        finished(by_precision(lines, section, rows), "Flip ratio by epoch"),
    )


def _path_rows(
    group: Group, treatment: Treatment, path: PathKind, statistics: Statistics, split: SplitName
) -> Iterator[Row]:
    found: list[tuple[str, Curve]] = []
    for record in group.records:
        curve = find(record.curves, treatment=treatment, path=path, statistics=statistics, split=split)
        if curve is not None:
            found.append((pair_name(record), curve))
    about = {"precision": group.label, "treatment": treatment, "statistics": f"statistics {statistics}"}
    yield from ({**about, **row} for row in _mean_rows([curve for _, curve in found]))
    if 1 < len(found) <= FEW_PAIRS:
        for number, (name, curve) in enumerate(found, 1):
            for t, error in zip(curve.ts, curve.errors, strict=True):
                yield {**about, "pair": f"{number}: {name}", "t": t, "error": 100 * error}


def _mean_rows(curves: Sequence[Curve]) -> Iterator[Row]:
    errors: dict[float, list[float]] = {}
    for curve in curves:
        for t, error in zip(curve.ts, curve.errors, strict=True):
            errors.setdefault(t, []).append(100 * error)
    for t, values in sorted(errors.items()):
        mean = sum(values) / len(values)
        yield {"t": t, "mean": mean, "low": min(values), "high": max(values), "pairs": len(values)}


def path_axis() -> alt.X:
    """The axis of t, the same in all charts of paths."""
    return alt.X(
        "t:Q", title="t, from first to second network", axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f")
    )


def _y(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title="error (% of samples)", scale=alt.Scale(zero=True))


def treatment_hue(drawn: Sequence[Treatment]) -> alt.Color:
    """Treatments told apart by colour, the same in all charts."""
    colours = alt.Scale(domain=list(drawn), range=[COLOURS[treatment] for treatment in drawn])
    return alt.Color("treatment:N", title="networks", scale=colours, legend=_legend())


def treatment_dash(drawn: Sequence[Treatment]) -> alt.StrokeDash:
    """Treatments told apart by dashes, beside ``treatment_hue``."""
    dashes = alt.Scale(domain=list(drawn), range=[DASHES[treatment] for treatment in drawn])
    return alt.StrokeDash("treatment:N", title="networks", scale=dashes, legend=_legend())


def _legend() -> alt.Legend:
    # Colours and dashes of all layers share domain, title and legend, or else Vega-Lite could not merge them into one.
    return alt.Legend(symbolType="stroke", symbolStrokeWidth=3, symbolSize=500, symbolOpacity=1)


def _band(drawn: Sequence[Treatment]) -> alt.Chart:
    shade = alt.Chart().transform_filter("isValid(datum.mean)").mark_area(opacity=0.15)
    layer: alt.Chart = shade.encode(x=path_axis(), y=_y("low"), y2="high:Q", color=treatment_hue(drawn))
    return layer


def _pair_lines(drawn: Sequence[Treatment]) -> alt.Chart:
    lines = alt.Chart().transform_filter("isValid(datum.pair)").mark_line(strokeWidth=0.8, opacity=0.5)
    layer: alt.Chart = lines.encode(x=path_axis(), y=_y("error"), detail="pair:N", color=treatment_hue(drawn))
    return layer


def _mean_line(drawn: Sequence[Treatment]) -> alt.Chart:
    line = alt.Chart().transform_filter("isValid(datum.mean)").mark_line(strokeWidth=2.5)
    layer: alt.Chart = line.encode(
        x=path_axis(),
        y=_y("mean"),
        color=treatment_hue(drawn),
        strokeDash=treatment_dash(drawn),
    )
    return layer


def _marks(drawn: Sequence[Treatment]) -> alt.Chart:
    """Invisible marks on the mean line, large enough for a pointer to find."""
    marks = alt.Chart().transform_filter("isValid(datum.mean)").mark_circle(size=120, opacity=0)
    layer: alt.Chart = marks.encode(
        x=path_axis(),
        y=_y("mean"),
        color=treatment_hue(drawn),
        tooltip=[
            alt.Tooltip("treatment:N", title="networks"),
            alt.Tooltip("statistics:N", title="path"),
            alt.Tooltip("precision:N"),
            alt.Tooltip("t:Q", format=".3~f"),
            alt.Tooltip("mean:Q", title="mean error (%)", format=".2f"),
            alt.Tooltip("low:Q", title="lowest (%)", format=".2f"),
            alt.Tooltip("high:Q", title="highest (%)", format=".2f"),
            alt.Tooltip("pairs:Q"),
        ],
    )
    return layer


def _epoch_lines(field: str, title: str, last: int, **more: Any) -> alt.Chart:
    lines = alt.Chart().mark_line(strokeWidth=1.6, opacity=0.8, point=alt.OverlayMarkDef(size=22))
    # Three significant digits do for errors as for flip ratios.
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("epoch:Q"), alt.Tooltip(field, title=title, format=".3~g")]
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=_ticks(last), format="d"), scale=alt.Scale(nice=False))
    drawn: alt.Chart = lines.encode(x=x, y=alt.Y(field, title=title, **more), detail="network:N", tooltip=tooltip)
    return drawn


def _ticks(last: int) -> list[int]:
    """Whole epochs, about eight of them: left alone, the axis of a short training would repeat its rounded numbers."""
    step = max(1, math.ceil(last / 8))
    return list(range(step, last + 1, step))


def by_precision(chart: alt.Chart | alt.LayerChart, section: Section, rows: Sequence[Row]) -> alt.FacetChart:
    """The same chart for each precision that has rows, side by side."""
    labels = {row["precision"] for row in rows}
    groups = [group for group in section.groups if group.label in labels]
    panels = chart.properties(width=width(len(section.groups)), height=200)
    return panels.facet(column=_column(groups), data=alt.InlineData(values=list(rows)))


def _column(groups: Sequence[Group]) -> alt.Column:
    header = alt.Header(labelFontSize=14, labelFontWeight="bold")
    return alt.Column("precision:N", sort=[group.label for group in groups], title=None, header=header)


def width(columns: int) -> int:
    """Panels that fill a page 1100 pixels wide, as far as they stay large enough to read."""
    return max(260, min(460, 960 // columns - 30))


def _networks(section: Section) -> Iterator[tuple[Group, Network]]:
    return ((group, network) for group in section.groups for network in group.networks)


def finished(chart: alt.FacetChart, description: str) -> dict[str, Any]:
    """The specification, in the style that all charts share."""
    styled = (
        chart.properties(description=description)
        .configure(font=FONT)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridColor="#e6e6e6")
        .configure_legend(orient="top", labelFontSize=13, titleFontSize=13, titleFontWeight="normal", labelLimit=400)
        .configure_view(stroke="#cccccc")
    )
    spec: dict[str, Any] = styled.to_dict()
    return spec
