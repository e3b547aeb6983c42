"""Charts of what was counted exactly, as Vega-Lite specifications."""

import itertools
from collections.abc import Iterator, Sequence

import altair as alt

from compare.report.charts import BLUE, FEW_PAIRS, GREEN, ORANGE, Chart, Row, by_precision, finished, path_axis, width
from compare.report.landscape import ALL_WEIGHTS, drawn_from, measured, split_by
from compare.report.numbers import spread
from compare.report.sections import Group, Section, find, pair_name
from compare.report.table import ORDERS, SPLITS, STATISTICS, TREATMENTS
from compare.runs.landscape import ExactCurve, Neighbourhood, Order, Robustness
from compare.runs.record import Network, PathKind, Record, Statistics, Treatment

# The rest of Okabe and Ito's palette: weights are told apart by colour, all of them together are black.
BLACK = "#000000"
HUES = (BLUE, ORANGE, GREEN, "#E69F00", "#56B4E9", "#CC79A7", "#999999")

# On the networks of these orders lie the points of a usual curve.
USUAL: dict[Order, PathKind] = {"latent-line": "linear", "latent-geodesic": "geodesic"}

# A sorted profile looks the same with more points.
MOST_UNITS = 200


def exact_charts(section: Section) -> list[Chart]:
    """Exact error against t: a chart for each precision, treatment and way of statistics."""
    kinds = itertools.product(section.groups, TREATMENTS, STATISTICS)
    charts = (_exact_chart(group, treatment, statistics) for group, treatment, statistics in kinds)
    return [chart for chart in charts if chart is not None]


def _exact_chart(group: Group, treatment: Treatment, statistics: Statistics) -> Chart | None:
    """Orders in columns, splits in rows."""
    pairs = [
        (record, [c for c in record.landscape.curves if (c.treatment, c.statistics) == (treatment, statistics)])
        for record in group.records
        if record.landscape is not None
    ]
    pairs = [(record, curves) for record, curves in pairs if curves]
    if not pairs:
        return None
    (first, curves), *others = pairs
    rows = [row for curve in curves for row in _first_rows(first, curve)]
    if len(pairs) <= FEW_PAIRS:
        rows += [
            {**row, "pair": f"{number}: {pair_name(record)}"}
            for number, (record, theirs) in enumerate(others, 2)
            for curve in theirs
            for row in _steps(curve)
        ]
    layers = [_band(), _highest("first"), _tops()]
    layers += [_highest("pair")] if any("pair" in row for row in rows) else []
    layers += [_points()] if any("grid" in row for row in rows) else []
    orders = [order for order in ORDERS if any(row["order"] == order for row in rows)]
    title = f"Exact error along the path: {group.label}, {treatment}, statistics {statistics}"
    panels = alt.layer(*layers).properties(width=width(len(orders)), height=200).facet(
        column=alt.Column("order:N", sort=orders, title=None, header=alt.Header(labelFontSize=14)),
        row=alt.Row(
            "split:N",
            sort=[f"{split} samples" for split in SPLITS],
            title=None,
            header=alt.Header(labelFontSize=13),
        ),
        data=alt.InlineData(values=rows),
    )  # fmt: skip
    return Chart(title, _exact_note(pair_name(first), curves), finished(panels, title))


def _exact_note(pair: str, curves: Sequence[ExactCurve]) -> str:
    counted = "every network" if all(curve.complete for curve in curves) else "only a grid of networks"
    orders = "; columns: orders of the same flips" if len({curve.order for curve in curves}) > 1 else ""
    return (
        f"Error (% of samples) of {counted} between {pair}{orders}. Band: lowest to highest error between one t and "
        "the next; diamond: the supremum, highest of all; black points: the usual curve of 25 points, where it lies on "
        f"this path. Thin lines: highest errors of other pairs, where there are at most {FEW_PAIRS} in all."
    )


def _first_rows(record: Record, curve: ExactCurve) -> Iterator[Row]:
    yield from ({**row, "first": pair_name(record)} for row in _steps(curve))
    yield {**_about(curve), "t": curve.supremum_at, "supremum": 100 * curve.supremum, "missed": 100 * curve.missed}
    path = USUAL.get(curve.order)
    usual = path and find(
        record.curves, treatment=curve.treatment, path=path, statistics=curve.statistics, split=curve.split
    )
    if usual:
        for t, error in zip(usual.ts, usual.errors, strict=True):
            yield {**_about(curve), "t": t, "grid": 100 * error}


def _steps(curve: ExactCurve) -> Iterator[Row]:
    """Lowest and highest error from one t to the next; the last ones reach to t = 1."""
    bounds = zip(curve.lowest, curve.highest, strict=True)
    last = (curve.lowest[-1], curve.highest[-1])
    for t, (low, high) in zip(curve.ts, itertools.chain(bounds, [last]), strict=True):
        yield {**_about(curve), "t": t, "low": 100 * low, "high": 100 * high}


def _about(curve: ExactCurve) -> Row:
    return {"order": curve.order, "split": f"{curve.split} samples"}


def _error_axis(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title="error (% of samples)", scale=alt.Scale(zero=True))


def _band() -> alt.Chart:
    shade = alt.Chart().transform_filter("isValid(datum.first)").mark_area(opacity=0.35, interpolate="step-after")
    layer: alt.Chart = shade.encode(x=path_axis(), y=_error_axis("low"), y2="high:Q", color=alt.value(BLUE))
    return layer


def _highest(field: str) -> alt.Chart:
    """Highest errors of pairs: of the first one over its band, and of the others."""
    thin = {"first": 1.0, "pair": 0.6}[field]
    lines = alt.Chart().transform_filter(f"isValid(datum.{field})")
    drawn = lines.mark_line(interpolate="step-after", strokeWidth=thin, opacity=thin)
    tooltip = [alt.Tooltip(f"{field}:N", title="networks"), *_at("high:Q", "highest error (%)")]
    layer: alt.Chart = drawn.encode(
        x=path_axis(), y=_error_axis("high"), detail=f"{field}:N", color=alt.value(BLUE), tooltip=tooltip
    )
    return layer


def _tops() -> alt.Chart:
    marks = alt.Chart().transform_filter("isValid(datum.supremum)").mark_point(shape="diamond", size=90, filled=True)
    tooltip = [*_at("supremum:Q", "supremum (%)"), alt.Tooltip("missed:Q", title="missed (pp)", format=".3f")]
    layer: alt.Chart = marks.encode(
        x=path_axis(), y=_error_axis("supremum"), color=alt.value(ORANGE), opacity=alt.value(1), tooltip=tooltip
    )
    return layer


def _points() -> alt.Chart:
    marks = alt.Chart().transform_filter("isValid(datum.grid)").mark_circle(size=16, opacity=1)
    layer: alt.Chart = marks.encode(
        x=path_axis(), y=_error_axis("grid"), color=alt.value(BLACK), tooltip=_at("grid:Q", "usual curve (%)")
    )
    return layer


def _at(field: str, title: str) -> list[alt.Tooltip]:
    return [alt.Tooltip("t:Q", format=".4~f"), alt.Tooltip(field, title=title, format=".3f")]


def neighbourhood_charts(section: Section) -> list[Chart]:
    """Mean effect of each unit's bits, sorted: a chart for each precision and choice of samples."""
    return [
        _unit_chart(group, samples, found)
        for group in section.groups
        for samples, found in split_by(group.neighbourhoods, lambda one: measured(one[1])).items()
        if any(layer.unit_means for _, around in found for layer in around.layers)
    ]


def _unit_chart(group: Group, samples: str, found: Sequence[tuple[Network, Neighbourhood]]) -> Chart:
    shown = enumerate(found[:FEW_PAIRS], 1)
    rows = [row for n, (network, around) in shown for row in _unit_rows(f"{n}: {network.name}", around)]
    weights = list(dict.fromkeys(row["weight"] for row in rows))
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("unit:Q"), alt.Tooltip("change:Q", format=".4~g")]
    zero = alt.Chart().mark_rule(color="#888888", strokeDash=[3, 3]).encode(y=alt.datum(0))
    lines = alt.Chart().mark_line(strokeWidth=1.6, opacity=0.8, point=alt.OverlayMarkDef(size=12)).encode(
        x=alt.X("unit:Q", title="unit, by rank", scale=alt.Scale(nice=False), axis=alt.Axis(format="d", tickMinStep=1)),
        y=alt.Y("change:Q", title="mean change (samples)"),
        detail="network:N",
        color=alt.value(BLUE),
        tooltip=tooltip,
    )  # fmt: skip
    columns = min(3, len(weights))
    title = f"Neighbourhood, unit by unit: {group.label}, {samples} samples"
    header = alt.Header(labelFontSize=13)
    panels = alt.layer(zero, lines).properties(width=width(columns), height=170).facet(
        facet=alt.Facet("weight:N", sort=weights, title=None, header=header),
        columns=columns,
        data=alt.InlineData(values=rows),
    ).resolve_scale(x="independent", y="independent")  # fmt: skip
    note = (
        "Each unit of a layer: change of the number of misclassified samples when one of its bits is flipped, mean "
        f"over its bits; units sorted from the largest. One line for each network, of at most {FEW_PAIRS}; "
        f"of wide layers {MOST_UNITS} units are drawn. Each panel has its own scale."
    )
    return Chart(title, note, finished(panels, title))


def _unit_rows(network: str, around: Neighbourhood) -> Iterator[Row]:
    for layer in around.layers:
        last = len(layer.unit_means) - 1
        shown = min(last, MOST_UNITS - 1)
        for unit in [i * last // max(1, shown) for i in range(shown + 1)]:
            yield {
                "weight": layer.weight,
                "network": network,
                "unit": unit + 1,
                "change": around.samples * layer.unit_means[unit],
            }


def robustness_charts(section: Section) -> list[Chart]:
    """Error against the fraction of flipped bits: a chart for each choice of samples, precisions in columns."""
    samples = dict.fromkeys(measured(curve) for group in section.groups for _, curve in group.robustness)
    charts = (_robustness_chart(section, one) for one in samples)
    return [chart for chart in charts if chart is not None]


def _robustness_chart(section: Section, samples: str) -> Chart | None:
    rows = [row for group in section.groups for row in _flipped_rows(group, samples)]
    weights = list(dict.fromkeys(row["weight"] for row in rows))
    if not weights:
        return None
    own = [_own_error()] if any("own" in row for row in rows) else []
    layers = alt.LayerChart(layer=[*own, _error_bars(weights), _flipped_lines(weights)])
    title = f"Robustness: error against the fraction of flipped bits, {samples} samples"
    note = (
        "Bits drawn at random from one weight, or from all, are flipped. Mean over draws and networks; bars: standard "
        "error over the draws (differences between networks are in the table). The dashed line is the networks' own "
        "error, with nothing flipped; the horizontal axis is logarithmic."
    )
    return Chart(title, note, finished(by_precision(layers, section, rows), title))


def _flipped_rows(group: Group, samples: str) -> list[Row]:
    found = [curve for _, curve in group.robustness if measured(curve) == samples]
    rows: list[Row] = []
    for weight, curves in split_by(found, drawn_from).items():
        for fraction, drawn in split_by(_flipped(curves), lambda one: one[0]).items():
            n = len(drawn)
            mean = 100 * sum(error for _, error, _ in drawn) / n
            # Draws of one network are independent of those of another.
            error = 100 * sum(deviation**2 for _, _, deviation in drawn) ** 0.5 / n
            about = {"precision": group.label, "weight": weight, "flipped": 100 * fraction, "networks": n}
            rows.append({**about, "mean": mean, "error": error, "low": mean - error, "high": mean + error})
    own = spread(error for c in found for fraction, error in zip(c.fractions, c.errors, strict=True) if not fraction)
    if rows and own is not None:
        # Not in a row of its own: filters in all layers would be more than Vega-Lite can merge.
        rows[0]["own"] = 100 * own.mean
    return rows


def _flipped(curves: Sequence[Robustness]) -> list[tuple[float, float, float]]:
    """Fraction, error and standard error; a logarithmic axis has no place for 0."""
    return sorted(
        point
        for curve in curves
        for point in zip(curve.fractions, curve.errors, curve.standard_errors, strict=True)
        if point[0]
    )


def _flip_axis() -> alt.X:
    return alt.X("flipped:Q", title="flipped bits (%)", scale=alt.Scale(type="log"), axis=alt.Axis(format=".3~g"))


def _weight_hue(weights: Sequence[str]) -> alt.Color:
    hues = itertools.cycle(HUES)
    colours = [BLACK if weight == ALL_WEIGHTS else next(hues) for weight in weights]
    scale = alt.Scale(domain=list(weights), range=colours)
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=3, symbolSize=500, symbolOpacity=1)
    return alt.Color("weight:N", title="bits of", scale=scale, legend=legend)


def _own_error() -> alt.Chart:
    rule = alt.Chart().transform_filter("isValid(datum.own)").mark_rule(color="#888888", strokeDash=[4, 3])
    layer: alt.Chart = rule.encode(y=_error_axis("own"), tooltip=[_tip("own:Q", "own error (%)")])
    return layer


def _error_bars(weights: Sequence[str]) -> alt.Chart:
    layer: alt.Chart = (
        alt.Chart().mark_rule().encode(x=_flip_axis(), y=_error_axis("low"), y2="high:Q", color=_weight_hue(weights))
    )
    return layer


def _flipped_lines(weights: Sequence[str]) -> alt.Chart:
    lines = alt.Chart().mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=28))
    tooltip = [
        alt.Tooltip("weight:N", title="bits of"),
        _tip("flipped:Q", "flipped (%)"),
        _tip("mean:Q", "mean error (%)"),
        _tip("error:Q", "standard error (pp)"),
        alt.Tooltip("networks:Q"),
    ]
    layer: alt.Chart = lines.encode(x=_flip_axis(), y=_error_axis("mean"), color=_weight_hue(weights), tooltip=tooltip)
    return layer


def _tip(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format=".4~g")
