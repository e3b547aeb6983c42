"""Charts of conserved quantities: drift against step size, over training, and beside speed and curvature."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from compare.report.charts import BLUE, GREEN, ORANGE, Chart, Row, finished
from compare.report.conserved_statistics import FIRST_EIGENVALUE, LAST_EIGENVALUE, RATE
from compare.runs.conserved import Conserved

HUES = {"full": BLUE, "binary": ORANGE}


def conserved_charts(found: Conserved) -> dict[str, Chart]:
    """All charts there are numbers for: ``drift``, ``training`` and ``orbits``."""
    charts = {"drift": _drift_chart(found), "training": _training_chart(found), "orbits": _orbit_chart(found)}
    return {name: chart for name, chart in charts.items() if chart is not None}


def pictures(charts: Mapping[str, Chart]) -> dict[str, bytes]:
    """The charts as PNG files."""
    return {name: vl_convert.vegalite_to_png(chart.spec, scale=1.25) for name, chart in charts.items()}


def _drift_chart(found: Conserved) -> Chart | None:
    """On data, precisions beside each other: a panel for each quantity, a line for each seed."""
    rows: list[Row] = [
        {
            "panel": f"{law.quantity}: {law.formula}",
            "precision": law.case.removeprefix("on data, "),
            "seed": law.seed,
            "step size": rate,
            "drift": drift,
        }
        for law in found.laws
        if law.case.startswith("on data, ") and not law.control
        for rate, drift in zip(law.rates, law.drifts, strict=True)
        if drift > 0
    ]
    return _panels(
        "Drift against step size, on data",
        "Plain gradient descent for the same time with several step sizes, one line for each network; both axes are "
        "logarithmic. Gradient flow conserves a quantity whose drift falls with the step. It falls in full precision; "
        "latent weights of binary networks follow straight-through gradients.",
        rows,
        lambda: alt.Chart().mark_line(point=True, opacity=0.8).encode(
            x=alt.X(
                "step size:Q",
                title="step size",
                scale=alt.Scale(type="log", nice=False, padding=12),
                axis=alt.Axis(values=_sizes(rows), format="~g", labelOverlap=True),
            ),
            y=alt.Y(
                "drift:Q",
                title="relative drift",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e", tickCount=4),
            ),
            color=_hue(rows),
            detail="seed:N",
        ),
    )  # fmt: skip


def _training_chart(found: Conserved) -> Chart | None:
    rows: list[Row] = [
        {
            "panel": f"{course.quantity}: {course.formula}",
            "precision": course.precision,
            "seed": course.seed,
            "step": step,
            "drift": drift,
        }
        for course in found.courses
        for step, drift in zip(course.steps, course.drifts, strict=True)
    ]
    return _panels(
        "Conserved quantities over training",
        "Relative drift of each quantity while Adam trains on mini-batches, at the same learning rate for both "
        "precisions; one line for each network.",
        rows,
        lambda: alt.Chart().mark_line(opacity=0.8).encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("drift:Q", title="relative drift"),
            color=_hue(rows),
            detail="seed:N",
        ),
    )  # fmt: skip


def _orbit_chart(found: Conserved) -> Chart | None:
    rows: list[Row] = []
    for orbit in (orbit for orbit in found.orbits if orbit.arm == "same function"):
        for start in orbit.starts:
            values = {each.name: each.of(start) for each in (FIRST_EIGENVALUE, RATE, LAST_EIGENVALUE)}
            rows += [
                {"panel": name, "precision": "full", "seed": orbit.seed, "value": start.value, "number": number}
                for name, number in values.items()
                if number is not None
            ]
    return _panels(
        "Same function, another quantity",
        "Starts of each network that compute the same function and differ in Q, the mean of |u|^2 - |v|^2 over the "
        "hidden units; one line for each network. Rate: fall of the log of the loss per unit of time.",
        rows,
        lambda: alt.Chart().mark_line(point=alt.OverlayMarkDef(size=18), opacity=0.8, color=GREEN).encode(
            x=alt.X("value:Q", title="Q at the start"),
            y=alt.Y("number:Q", title=None, scale=alt.Scale(zero=True)),
            detail="seed:N",
        ),
    )  # fmt: skip


def _panels(title: str, note: str, rows: Sequence[Row], marks: Callable[[], Any]) -> Chart | None:
    """A panel for each value of ``panel``, three abreast."""
    if not rows:
        return None

    def panel(name: str) -> Any:
        header = alt.Title(name, fontSize=13, fontWeight="normal", anchor="middle", limit=340)
        return marks().transform_filter(alt.datum.panel == name).properties(width=270, height=190, title=header)

    names = list(dict.fromkeys(row["panel"] for row in rows))
    lines = [alt.hconcat(*map(panel, names[i : i + 3])) for i in range(0, len(names), 3)]
    drawn = alt.vconcat(*lines, data=alt.InlineData(values=list(rows)))
    return Chart(title, note, finished(drawn.resolve_scale(color="shared"), title))


def _hue(rows: Sequence[Row]) -> alt.Color:
    names = list(dict.fromkeys(row["precision"] for row in rows))
    scale = alt.Scale(domain=names, range=[HUES.get(name, GREEN) for name in names])
    return alt.Color("precision:N", title="precision", scale=scale)


def _sizes(rows: Sequence[Row]) -> list[float]:
    return sorted({row["step size"] for row in rows})
