"""Chart of orbits: the rise of the test error against the size of their elements."""

from collections.abc import Iterator

import altair as alt

from compare.report.charts import BLUE, GREEN, ORANGE, Chart, Row, finished
from compare.report.orbit_numbers import rise, shown, variants
from compare.runs.orbits import Orbits

SERIES = {"a moved network": ORANGE, "vote of labels": BLUE, "mean probability": GREEN}


def chart(found: Orbits) -> Chart:
    """Rise of the test error against epsilon: a panel for each activation and way of moving."""
    rows = list(_rows(found))
    title = "Rise of the test error against epsilon"
    x = alt.X("epsilon:Q", title="epsilon", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=3, format="~g"))
    scale, axis = alt.Scale(type="symlog", constant=0.5), alt.Axis(values=[-1, 0, 1, 3, 10, 30])
    low, mean = (
        alt.Y(f"{field}:Q", title="rise of the error (pp)", scale=scale, axis=axis) for field in ("low", "rise")
    )
    colour = alt.Color(
        "series:N", title=None, scale=alt.Scale(domain=list(SERIES), range=list(SERIES.values())),
        legend=alt.Legend(symbolOpacity=1),
    )  # fmt: skip
    band = alt.Chart().mark_area(opacity=0.18).encode(x=x, y=low, y2="high:Q", color=colour)
    line = alt.Chart().mark_line(point=True).encode(x=x, y=mean, color=colour)
    panels = (
        alt.layer(band, line)
        .properties(width=170, height=150)
        .facet(
            column=alt.Column("way:N", title=None, sort=[shown(variant) for variant in variants(found)]),
            row=alt.Row("activation:N", title=None, sort=list(dict.fromkeys(row["activation"] for row in rows))),
            data=alt.InlineData(values=rows),
        )
    )
    note = (
        "Error minus that of the network itself, in percentage points (pp). Lines: mean over networks; bands: lowest "
        "to highest network. Epsilon 0 is left out, its axis is logarithmic; that of errors is so away from 0."
    )
    return Chart(title, note, finished(panels, title))


def _rows(found: Orbits) -> Iterator[Row]:
    kinds = dict(zip(SERIES, ("alone", "majority", "mean probability"), strict=True))
    for activation in dict.fromkeys(network.activation for network in found.networks):
        own = [network for network in found.networks if network.activation == activation]
        for variant in variants(found):
            for epsilon in dict.fromkeys(each.epsilon for each in own[0].orbits if each.epsilon > 0):
                for series, what in kinds.items():
                    values = [100 * rise(variant, epsilon, what)(network) for network in own]
                    about: Row = {"activation": activation, "way": shown(variant), "epsilon": epsilon}
                    about |= {"series": series, "rise": sum(values) / len(values)}
                    yield {**about, "low": min(values), "high": max(values)}
