"""The plane through three networks as a map of the error, as a Vega-Lite specification."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import altair as alt

from compare.report.charts import Chart, Row, finished

Point: TypeAlias = tuple[float, float]

SIZE = 460
"""Of the longer side of the map, pixels."""


class Measured(Protocol):
    """The numbers of a plane; what ``compare.evaluation.error_plane`` gives, or a record of it."""

    @property
    def us(self) -> Sequence[float]:
        """Where, on the first axis, equally spaced."""
        ...

    @property
    def vs(self) -> Sequence[float]:
        """Where, on the second."""
        ...

    @property
    def errors(self) -> Sequence[Sequence[float]]:
        """Fraction of misclassified samples, a row for each v."""
        ...

    @property
    def samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def statistics(self) -> str:
        """What normalisation statistics are."""
        ...


def plane_chart(
    measured: Measured,
    points: Mapping[str, Point],
    *,
    title: str,
    path: Sequence[Point] | None = None,
    split: str = "train",
) -> Chart:
    """Map of the error with three networks, the path over the third and the straight line between the others.

    Args:
        measured: The numbers.
        points: Coordinates of both ends and the bend, in this order, by the names they shall have.
        title: What it shows.
        path: Coordinates of points of the path in their order, for instance of a geodesic's projection; without it
            straight lines from the first end over the bend to the second.
        split: Which samples the errors were counted on.

    Returns:
        The chart.
    """
    a, b, bend = points.values()
    straight, bent = _line(measured, [a, b], [5, 5]), _line(measured, path or [a, bend, b], [1, 0])
    across, up = _extent(measured.us), _extent(measured.vs)
    # One unit is as long on both axes: these are distances.
    width, height = (round(extent * SIZE / max(across, up)) for extent in (across, up))
    drawn: Any = alt.layer(_map(measured, height), straight, bent, *_marks(measured, points))
    note = (
        f"Error on {measured.samples} {split} samples of the networks in the plane through {', '.join(points)}, "
        f"normalisation statistics {measured.statistics}. Distances are Euclidean, between (latent) weights. Solid: "
        "the path with one bend; dashed: the straight line. The colour scale is logarithmic; no error counts as half a "
        "sample there."
    )
    spec = finished(drawn.properties(width=width, height=height), title)
    spec["config"]["legend"]["orient"] = "right"  # a gradient is read beside the map
    return Chart(title, note, spec)


def _map(measured: Measured, height: int) -> alt.Chart:
    """A rectangle for each network, as wide as the distance to the next one; ``height`` of all in pixels."""
    half_u, half_v = _step(measured.us) / 2, _step(measured.vs) / 2
    rows: list[Row] = [
        {
            "u": u, "left": u - half_u, "right": u + half_u,
            "v": v, "bottom": v - half_v, "top": v + half_v,
            "error": 100 * error, "shown": 100 * max(error, 0.5 / measured.samples),
        }
        for v, row in zip(measured.vs, measured.errors, strict=True)
        for u, error in zip(measured.us, row, strict=True)
    ]  # fmt: skip
    low, high = (extreme(row["shown"] for row in rows) for extreme in (min, max))
    hue = alt.Color(
        "shown:Q",
        title=["error", "(% of samples)"],
        # Where all errors are equal, a logarithmic scale still needs two ends.
        scale=alt.Scale(type="log", scheme="viridis", domain=[low, max(high, 2 * low)], nice=False),
        legend=alt.Legend(
            type="gradient", gradientLength=max(80, min(220, height - 45)), values=_ticks(low, high), format="~g"
        ),
    )
    tooltip = [alt.Tooltip(f"{field}:Q", format=".4~g") for field in ("u", "v", "error")]
    squares = alt.Chart(alt.InlineData(values=rows)).mark_rect()
    layer: alt.Chart = squares.encode(
        x=_x(measured, "left"), x2="right:Q", y=_y(measured, "bottom"), y2="top:Q",
        color=hue, tooltip=tooltip,
    )  # fmt: skip
    return layer


def _line(measured: Measured, points: Sequence[Point], dash: list[int]) -> alt.Chart:
    rows = [{"order": place, "u": u, "v": v} for place, (u, v) in enumerate(points)]
    line = alt.Chart(alt.InlineData(values=rows)).mark_line(color="white", strokeWidth=2, strokeDash=dash)
    layer: alt.Chart = line.encode(x=_x(measured, "u"), y=_y(measured, "v"), order="order:Q")
    return layer


def _marks(measured: Measured, points: Mapping[str, Point]) -> tuple[alt.Chart, alt.Chart, alt.Chart]:
    """The three networks with their names."""
    rows = [{"u": u, "v": v, "name": name} for name, (u, v) in points.items()]
    base = alt.Chart(alt.InlineData(values=rows)).encode(x=_x(measured, "u"), y=_y(measured, "v"))
    dots = base.mark_circle(size=110, color="white", stroke="black", strokeWidth=1.5, opacity=1)
    text = base.encode(text="name:N")
    # A dark rim keeps white letters readable on yellow.
    rim = text.mark_text(
        dy=-14, fontSize=13, fontWeight="bold", color="black", stroke="black", strokeWidth=3, opacity=0.75
    )
    letters = text.mark_text(dy=-14, fontSize=13, fontWeight="bold", color="white")
    return dots.encode(tooltip=[alt.Tooltip(field) for field in ("name:N", "u:Q", "v:Q")]), rim, letters


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between ``low`` and ``high``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def _x(measured: Measured, field: str) -> alt.X:
    title = "Euclidean distance along the straight line"
    return alt.X(f"{field}:Q", title=title, scale=_scale(measured.us), axis=alt.Axis(grid=False))


def _y(measured: Measured, field: str) -> alt.Y:
    title = "distance from the straight line"
    return alt.Y(f"{field}:Q", title=title, scale=_scale(measured.vs), axis=alt.Axis(grid=False))


def _scale(values: Sequence[float]) -> alt.Scale:
    half = _step(values) / 2
    return alt.Scale(domain=[values[0] - half, values[-1] + half], nice=False, zero=False)


def _step(values: Sequence[float]) -> float:
    return (values[-1] - values[0]) / (len(values) - 1)


def _extent(values: Sequence[float]) -> float:
    """With half a rectangle at each side."""
    return values[-1] - values[0] + _step(values)
