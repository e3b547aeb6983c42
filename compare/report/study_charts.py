"""Charts of studies: flatness against test error, barriers as symmetries are removed, networks in a plane."""

import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from compare.relations.bootstrap import RESAMPLES
from compare.relations.intervals import pairs_mean
from compare.relations.measures import EIGENVALUE, TRACE, WORST, Barriers, Sizes, algorithms, barriers, errors, flatness
from compare.report.charts import Chart, Row, finished
from compare.report.landscape_charts import HUES
from compare.report.plane_charts import plane_chart
from compare.report.relation_tables import BEFORE_AFTER, embeddings
from compare.report.study_tables import STEPS, names, own
from compare.report.table import STATISTICS
from compare.runs.record import Statistics
from compare.runs.study import Study

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
CHARACTER = 7
"""Width of a character of a panel's title, in pixels, with some to spare."""


def study_charts(
    studies: Sequence[Study], *, sizes: Sizes | None = None, resamples: int = RESAMPLES
) -> dict[str, Chart]:
    """All charts there are numbers for.

    Args:
        studies: One for each precision.
        sizes: Which sizes of the local energy and of bit flips.
        resamples: Of the bootstrap.

    Returns:
        ``flatness``, ``barriers``, ``embedding`` and ``plane-PRECISION``, as far as they were measured.
    """
    charts = {
        "flatness": _flatness_chart(studies, sizes),
        "barriers": _barrier_chart(studies, resamples),
        "embedding": _embedding_chart(studies),
    }
    charts |= {f"plane-{study.precision}": _plane_chart(study) for study in studies}
    return {name: chart for name, chart in charts.items() if chart is not None}


def pictures(
    studies: Sequence[Study],
    *,
    sizes: Sizes | None = None,
    charts: Mapping[str, Chart] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, bytes]:
    """The charts as PNG files, by the names of ``study_charts``, which makes ``charts`` where none are given."""
    charts = study_charts(studies, sizes=sizes, resamples=resamples) if charts is None else charts
    return {name: vl_convert.vegalite_to_png(chart.spec, scale=1.25) for name, chart in charts.items()}


def _flatness_chart(studies: Sequence[Study], sizes: Sizes | None) -> Chart | None:
    """A panel for each precision and measure, a mark for each network."""
    rows = [row for study in studies for row in _flatness_rows(study, sizes)]
    if not rows:
        return None
    tooltip = ["network:N", alt.Tooltip("flatness:Q", format=".4~g"), alt.Tooltip("test:Q", format=".2f")]
    scale, few = alt.Scale(zero=False, padding=12), alt.Axis(tickCount=4, labelSeparation=10)

    def marks(first: Row) -> Any:
        return alt.Chart().mark_point(size=60, filled=True, opacity=0.85).encode(
            x=alt.X("flatness:Q", title=first["axis"], scale=scale, axis=few),
            y=alt.Y("test:Q", title="test error (%)", scale=scale, axis=few),
            color=_hue(studies),
            shape=_shape(studies),
            tooltip=tooltip,
        )  # fmt: skip

    return _finished(
        "Flatness against test error",
        "One mark for each network; further right is sharper. Rises of the error in percentage points (pp) of train "
        "samples, Hessian numbers in nats. A new row of panels for each precision; each panel has its own axes, which "
        "need not start at 0.",
        marks,
        rows,
        (250, 180, 3),
    )


def _flatness_rows(study: Study, sizes: Sizes | None) -> Iterator[Row]:
    test = errors(study, "test")
    for measure in flatness(study, sizes):
        curvature = measure.kind in (EIGENVALUE, TRACE, WORST)
        panel = f"{study.precision}: {measure.name}"
        axis = f"{'nats' if curvature else 'rise of the error (pp)'}, right is sharper"
        for i, network in enumerate(study.networks):
            if np.isfinite(measure.values[i]) and np.isfinite(test[i]):
                value = float(measure.values[i]) * (1 if curvature else 100)
                about: Row = {"precision": study.precision, "panel": panel, "axis": axis}
                about |= {"algorithm": network.algorithm, "network": network.name}
                yield {**about, "flatness": value, "test": 100 * float(test[i])}


def _barrier_chart(studies: Sequence[Study], resamples: int) -> Chart | None:
    """A panel for each precision and kind of statistics, treatments from left to right."""
    places = _places(_algorithms(studies))
    rows = [row for study in studies for how in STATISTICS for row in _barrier_rows(study, how, places, resamples)]
    if not rows:
        return None
    height = alt.Y("barrier:Q", title="barrier (pp)", scale=alt.Scale(zero=True))
    bars = alt.Chart().transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5, opacity=0.8)
    low = alt.Y("low:Q", title="barrier (pp)")
    marks = alt.Chart().mark_point(size=60, filled=True, opacity=1)
    tooltip = [
        *("algorithm:N", "step:N", "pairs:Q"),
        *(alt.Tooltip(f"{field}:Q", format=".2f") for field in ("barrier", "low", "high")),
    ]
    layers = alt.layer(
        bars.encode(x=_steps(), y=low, y2="high:Q", color=_hue(studies)),
        marks.encode(x=_steps(), y=height, color=_hue(studies), shape=_shape(studies), tooltip=tooltip),
    )
    return _finished(
        "Barriers within an algorithm, as symmetries are removed",
        "Mean barrier of the pairs of each algorithm, train samples, in percentage points (pp); bars are 95 % "
        "intervals over networks. From left to right: as trained, in standard form, matched, each on the straight line "
        "or the geodesic. A new row of panels for each precision; each panel has its own vertical axis.",
        lambda _: layers,
        rows,
        (340, 220, 2),
    )


def _places(drawn: Sequence[str]) -> dict[str, float]:
    """How far beside a step each algorithm stands, so that bars do not hide each other."""
    apart = 0.7 / max(len(drawn), 1)
    return {name: apart * (i - (len(drawn) - 1) / 2) for i, name in enumerate(drawn)}


def _steps() -> alt.X:
    """Numbers with names: an offset of a named axis is lost in panels with scales of their own."""
    shown = [f"{treatment}, {path}" for treatment, path in STEPS]
    axis = alt.Axis(
        values=list(range(len(shown))),
        labelExpr=f"{shown}[datum.value]",
        labelAngle=-30,
        labelLimit=200,
        labelOverlap=False,
        grid=False,
    )
    return alt.X("place:Q", title=None, scale=alt.Scale(domain=[-0.5, len(shown) - 0.5], nice=False), axis=axis)


def _barrier_rows(study: Study, how: Statistics, places: Mapping[str, float], resamples: int) -> Iterator[Row]:
    for (number, (treatment, path)), lot in itertools.product(enumerate(STEPS), own(study)):
        matrix = barriers(study, Barriers(treatment, path, how))
        found = pairs_mean(matrix, algorithms(study), lot.where, resamples=resamples)
        if found is not None:
            ends = {} if found.low is None or found.high is None else {"low": 100 * found.low, "high": 100 * found.high}
            about: Row = {"precision": study.precision, "panel": f"{study.precision}, statistics {how}"}
            about["algorithm"] = lot.name
            about |= {"step": f"{treatment}, {path}", "pairs": int((np.isfinite(matrix) & lot.where).sum()) // 2}
            yield {**about, "place": number + places[lot.name], "barrier": 100 * found.value, **ends}


def _embedding_chart(studies: Sequence[Study]) -> Chart | None:
    """A row for each precision; the same scale for all panels, and for both directions."""
    rows = [row for study in studies for row in _embedding_rows(study)]
    if not rows:
        return None
    farthest = 1.08 * max(max(abs(row["x"]), abs(row["y"])) for row in rows)
    scale, few = alt.Scale(domain=[-farthest, farthest], nice=False), alt.Axis(tickCount=5)
    marks = alt.Chart().mark_point(size=80, filled=True, opacity=0.85).encode(
        x=alt.X("x:Q", title="radians", scale=scale, axis=few),
        y=alt.Y("y:Q", title="radians", scale=scale, axis=few),
        color=_hue(studies),
        shape=_shape(studies),
        tooltip=["network:N", "algorithm:N"],
    )  # fmt: skip
    return _finished(
        "Networks in a plane, before matching and after",
        "Metric multidimensional scaling of the distance matrix (angles, radians): networks in standard form, and "
        "matched. All panels have the same scale. The table of embeddings says how much of the distances two "
        "dimensions show; points that are all equally far apart make a disc.",
        lambda _: marks,
        rows,
        (300, 300, 2),
    )


def _embedding_rows(study: Study) -> Iterator[Row]:
    for treatment, found in embeddings(study).items():
        place = "before matching" if treatment == BEFORE_AFTER[0] else "matched"
        panel = f"{study.precision}, {place} (stress {found.stress:.2f})"
        for network, (x, y) in zip(study.networks, found.coordinates, strict=True):
            about = {"precision": study.precision, "panel": panel}
            about |= {"algorithm": network.algorithm, "network": network.name}
            yield {**about, "x": float(x), "y": float(y)}


def _plane_chart(study: Study) -> Chart | None:
    """The first plane of a study."""
    bend = next((bend for bend in study.bends if bend.plane is not None), None)
    if bend is None or bend.plane is None:
        return None
    plane = bend.plane
    points = {
        **dict(zip(bend.networks, (plane.points["a"], plane.points["b"]), strict=True)),
        "bend": plane.points["bend"],
    }
    title = f"The plane through two networks and a bend, {study.precision}"
    return plane_chart(plane, points, title=title, split=plane.split)


def _finished(
    title: str, note: str, marks: Callable[[Row], Any], rows: Sequence[Row], layout: tuple[int, int, int]
) -> Chart:
    """A panel for each value of the rows' ``panel``, those of another precision on a new line.

    ``marks`` draws a panel, given its first row; ``layout`` is width and height of each, and how many abreast.
    """
    width, height, columns = layout

    def panel(name: str) -> Any:
        drawn = marks(next(row for row in rows if row["panel"] == name)).transform_filter(alt.datum.panel == name)
        wrapped = textwrap.wrap(name, width // CHARACTER, break_on_hyphens=False)
        header = alt.Title(wrapped, fontSize=13, fontWeight="normal", anchor="middle")
        return drawn.properties(width=width, height=height, title=header)

    lines = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        names = list(dict.fromkeys(row["panel"] for row in rows if row["precision"] == precision))
        parts = (names[i : i + columns] for i in range(0, len(names), columns))
        lines += [alt.hconcat(*map(panel, part)) for part in parts]
    drawn = alt.vconcat(*lines, data=alt.InlineData(values=list(rows)))
    # Colours and shapes of all panels are the same: one legend.
    return Chart(title, note, finished(drawn.resolve_scale(color="shared", shape="shared"), title))


def _algorithms(studies: Sequence[Study]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for study in studies for name in names(study)))


def _hue(studies: Sequence[Study]) -> alt.Color:
    drawn = _algorithms(studies)
    hues = list(itertools.islice(itertools.cycle(HUES), len(drawn)))
    return alt.Color(
        "algorithm:N", title="algorithm", sort=list(drawn), scale=alt.Scale(domain=list(drawn), range=hues)
    )


def _shape(studies: Sequence[Study]) -> alt.Shape:
    drawn = _algorithms(studies)
    shapes = list(itertools.islice(itertools.cycle(SHAPES), len(drawn)))
    return alt.Shape(
        "algorithm:N", title="algorithm", sort=list(drawn), scale=alt.Scale(domain=list(drawn), range=shapes)
    )
