"""Charts against the bits of a weight, as Vega-Lite specifications."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import altair as alt

from compare.report.charts import Chart, Row, finished, treatment_dash, treatment_hue, width
from compare.report.ladder import bits, matched_angles, rises_by_sigma, rungs, samples_of
from compare.report.landscape_charts import HUES
from compare.report.numbers import spread
from compare.report.sections import Group, Section
from compare.report.table import SPLITS, STATISTICS, TREATMENTS

AXIS = "The horizontal axis is logarithmic."


def ladder_charts(section: Section) -> list[Chart]:
    """Error and distance, barriers, and local energies, where there are enough precisions."""
    groups = rungs(section)
    if not groups:
        return []
    charts = (_quality_chart(groups), _barrier_chart(groups), _energy_chart(groups))
    return [chart for chart in charts if chart is not None]


def _quality_chart(groups: Sequence[Group]) -> Chart | None:
    """Test error and matched distance side by side, each on its own scale."""
    quantities = {
        "test error (% of samples)": lambda group: [
            100 * network.errors["test"] for network in group.networks if "test" in network.errors
        ],
        "RMS angle of matched pairs (rad)": matched_angles,
    }
    rows = [
        {"quantity": name, **row}
        for (name, measured), group in itertools.product(quantities.items(), groups)
        for row in _rows(group, measured(group))
    ]
    hue = alt.Color(
        "quantity:N", legend=None, scale=alt.Scale(domain=list(quantities), range=list(HUES[: len(quantities)]))
    )
    panels = alt.layer(_bars(groups, None, hue), _means(groups, None, hue), _points(groups, None, hue, "quantity"))
    title = "Precision ladder: error and distance against bits"
    drawn = panels.properties(width=width(2), height=220).facet(
        column=_column("quantity", list(quantities)), data=alt.InlineData(values=rows)
    ).resolve_scale(y="independent")  # fmt: skip
    note = (
        "Left, the networks' own error, mean over networks; right, how far apart two of them are, mean over pairs. "
        f"Bars from the lowest to the highest. {AXIS}"
    )
    return Chart(title, note, finished(drawn, title)) if rows else None


def _barrier_chart(groups: Sequence[Group]) -> Chart | None:
    """Barriers on the straight line: splits in columns, statistics in rows, treatments in colour."""
    rows = [
        {"treatment": treatment, "statistics": f"statistics {how}", "split": f"{split} samples", **row}
        for split, how, treatment, group in itertools.product(SPLITS, STATISTICS, TREATMENTS, groups)
        for row in _rows(group, [100 * c.barrier for c in group.curves(treatment, "linear", how, split)])
    ]
    if not rows:
        return None
    shown = [treatment for treatment in TREATMENTS if any(row["treatment"] == treatment for row in rows)]
    hue, name = treatment_hue(shown), "barrier (pp)"
    lines = _means(groups, name, hue).encode(strokeDash=treatment_dash(shown))
    panels = alt.layer(_bars(groups, name, hue), lines, _points(groups, name, hue, "treatment"))
    title = "Precision ladder: barrier against bits"
    drawn = panels.properties(width=width(2), height=200).facet(
        column=_column("split", [f"{split} samples" for split in SPLITS]),
        row=alt.Row("statistics:N", sort=[f"statistics {how}" for how in STATISTICS], title=None, header=_header()),
        data=alt.InlineData(values=rows),
    )
    note = (
        "Barrier on the straight line between two networks, in percentage points (pp), for networks as trained, in "
        "standard form and matched. Means over pairs; bars from the lowest to the highest. "
        f"{AXIS}"
    )
    return Chart(title, note, finished(drawn, title))


def _energy_chart(groups: Sequence[Group]) -> Chart | None:
    """Rise of the error, a line for each size of the noise."""
    rows = [
        {"samples": f"{kind} samples", "sigma": f"{sigma:g}", **row}
        for group in groups
        for kind in dict.fromkeys(samples_of(energy) for _, energy in group.energies)
        for sigma, rises in rises_by_sigma([e for _, e in group.energies if samples_of(e) == kind]).items()
        for row in _rows(group, [100 * rise for rise in rises])
    ]
    if not rows:
        return None
    sigmas = sorted({row["sigma"] for row in rows}, key=float)
    hues = list(itertools.islice(itertools.cycle(HUES), len(sigmas)))
    hue = alt.Color("sigma:N", title="noise sigma", sort=sigmas, scale=alt.Scale(domain=sigmas, range=hues))
    kinds, name = list(dict.fromkeys(row["samples"] for row in rows)), "rise of the error (pp)"
    panels = alt.layer(_bars(groups, name, hue), _means(groups, name, hue), _points(groups, name, hue, "sigma"))
    title = "Precision ladder: local energy against bits"
    drawn = panels.properties(width=width(2), height=220).facet(
        column=_column("samples", kinds), data=alt.InlineData(values=rows)
    )
    note = (
        "How much the error rises, in percentage points (pp), when each (latent) weight w becomes w + sigma z w with z "
        "standard normal. Means over networks; bars from the lowest to the highest network. "
        f"{AXIS} The table of local energies has the standard errors over the draws of z."
    )
    return Chart(title, note, finished(drawn, title))


def _rows(group: Group, values: Iterable[float]) -> Iterator[Row]:
    """Mean and range of some numbers of one precision, or no row where there is no number."""
    found = list(values)
    numbers = spread(found)
    if numbers is not None:
        about = {"precision": group.label, "bits": bits(group), "n": numbers.n}
        yield {**about, "mean": numbers.mean, "low": min(found), "high": max(found)}


def _column(field: str, order: Sequence[str]) -> alt.Column:
    return alt.Column(f"{field}:N", sort=list(order), title=None, header=_header())


def _header() -> alt.Header:
    return alt.Header(labelFontSize=13)


def _bits_axis(groups: Sequence[Group]) -> alt.X:
    """Ticks at the precisions there are."""
    ticks = sorted({bits(group) for group in groups})
    return alt.X(
        "bits:Q",
        title="bits of a weight",
        scale=alt.Scale(type="log", base=2, nice=False, padding=14),
        axis=alt.Axis(values=ticks, format=".3~g", labelOverlap=True),
    )


def _y(field: str, title: str | None) -> alt.Y:
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=True))


def _bars(groups: Sequence[Group], title: str | None, hue: alt.Color) -> alt.Chart:
    bars = alt.Chart().mark_rule(strokeWidth=1.5, opacity=0.7)
    layer: alt.Chart = bars.encode(x=_bits_axis(groups), y=_y("low", title), y2="high:Q", color=hue)
    return layer


def _means(groups: Sequence[Group], title: str | None, hue: alt.Color) -> alt.Chart:
    line = alt.Chart().mark_line(strokeWidth=2)
    layer: alt.Chart = line.encode(x=_bits_axis(groups), y=_y("mean", title), color=hue)
    return layer


def _points(groups: Sequence[Group], title: str | None, hue: alt.Color, of: str) -> alt.Chart:
    marks = alt.Chart().mark_circle(size=55, opacity=1)
    numbers: Mapping[str, str] = {"mean": "mean", "low": "lowest", "high": "highest"}
    layer: alt.Chart = marks.encode(
        x=_bits_axis(groups),
        y=_y("mean", title),
        color=hue,
        tooltip=[
            alt.Tooltip("precision:N"),
            alt.Tooltip("bits:Q", format=".3~g"),
            alt.Tooltip(f"{of}:N"),
            *(alt.Tooltip(f"{field}:Q", title=name, format=".4~g") for field, name in numbers.items()),
            alt.Tooltip("n:Q"),
        ],
    )
    return layer
