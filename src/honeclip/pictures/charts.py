"""Charts as inline SVG: matplotlib draws, the page colours. Text stays text, so it can be read aloud, searched and
copied.

Colours are drawn as placeholders and replaced by CSS variables of the page (`--ink`, `--line`, `--series-0` ...), so
one chart serves light, dark and print. Nothing is drawn that does not carry a figure: no frame, few ticks, thin
lines.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

WIDTH, HEIGHT = 4.4, 2.9  # inches of 72 units: small enough that text stays readable on a phone
MOST_POINTS = 600
BESIDE = 0.012  # share of the x axis between points with intervals at one x
HEAT = 0.6  # opacity of a heat map's strongest field
SERIES = ("#010200", "#010201", "#010202")  # placeholders: replaced by var(--series-0) ...
INK, SOFT, LINE = "#010300", "#010301", "#010302"
_COLOURS = {
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "honeclip",
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "font.family": "DejaVu Sans",  # comes with matplotlib: measures text; the page's own font is shown
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Series:
    """One line: its name and points; `colour` is the number of a series colour of the page, None a dashed grey line.

    `intervals` are (low, high) of each point, drawn as an upright line through it; () draws none. `labels` stand beside the
    points, those of a series that is not thinned.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int | None = 0
    intervals: Sequence[tuple[float, float]] = ()
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Dot:
    """One figure of a dot chart with its interval."""

    value: float
    low: float
    high: float


def lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    says: str,
    log_x: bool = False,
    y_range: tuple[float, float | None] | None = None,
    ticks: Sequence[float] = (),
) -> str:
    """A line chart.

    Args:
        series: at most three coloured ones; each is thinned to `MOST_POINTS` points, but those with intervals. The points
            of these stand a little beside each other, so that each interval is seen.
        x_label: with its unit.
        y_label: with its unit.
        says: one sentence for those who cannot see the chart.
        log_x: a logarithmic x axis.
        y_range: both ends of the y axis; None for both or for the upper one: as the data wants.
        ticks: of the x axis; () lets the chart choose.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for number, one in enumerate(series):
            x, y = (one.x, one.y) if one.intervals else (_thinned(one.x), _thinned(one.y))
            colour = SOFT if one.colour is None else SERIES[one.colour]
            dots = "o" if len(x) <= 12 and one.colour is not None else None
            if one.intervals:
                shift = BESIDE * (max(x) - min(x)) * (number - (len(series) - 1) / 2)
                x = [at + shift for at in x]
                axes.vlines(
                    x, [low for low, _ in one.intervals], [high for _, high in one.intervals], color=colour, lw=1.0
                )
            axes.plot(
                x, y, "--" if one.colour is None else "-", color=colour, label=one.name, marker=dots, markersize=3.5
            )
            for label, at, height in zip(one.labels, x, y, strict=False):
                axes.annotate(
                    label,
                    (at, height),
                    (4, -9),
                    textcoords="offset points",
                    color=SOFT,
                    fontsize=7,
                    annotation_clip=False,
                )
        if ticks:
            axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
        elif log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(
                MaxNLocator(6, integer=all(float(v).is_integer() for s in series for v in s.x))
            )
        if y_range is not None:
            axes.set_ylim(*y_range)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(series) > 1:
            axes.legend(loc="best")
        return _svg(figure, says)


def dots(
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[Dot | None]]],
    *,
    x_label: str,
    says: str,
    x_range: tuple[float, float] = (0.0, 1.0),
    mark: float | None = None,
    inches: float = WIDTH,
) -> str:
    """A dot a figure with its interval as a line, one row a name, the series of a row close together.

    Args:
        names: of the rows, top to bottom.
        series: at most three, each with one dot a row or None.
        x_label: what the figures are.
        says: one sentence for those who cannot see the chart.
        x_range: both ends of the axis.
        mark: where a dashed upright line stands.
        inches: wide: long names want more.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(inches, 0.8 + 0.33 * max(3, len(names))), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, found) in enumerate(series):
            shift = 0.22 * (number - (len(series) - 1) / 2)
            rows = [(row + shift, dot) for row, dot in enumerate(found) if dot is not None]
            colour = SERIES[number] if len(series) > 1 else SERIES[1]
            axes.hlines([y for y, _ in rows], [d.low for _, d in rows], [d.high for _, d in rows], color=colour, lw=1.4)
            values, heights = [d.value for _, d in rows], [y for y, _ in rows]
            axes.plot(values, heights, "o", color=colour, markersize=4.5, label=name, clip_on=False)  # whole at 0 and 1
        axes.set_yticks(range(len(names)), list(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        beyond = 0.01 * (x_range[1] - x_range[0])
        axes.set_xlim(x_range[0] - beyond, x_range[1] + beyond)
        if mark is not None:
            axes.axvline(mark, color=SOFT, ls="--", lw=1.0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        if len(series) > 1:
            figure.legend(loc="outside upper right", ncols=len(series))
        return _svg(figure, says)


def bars(names: Sequence[str], values: Sequence[float], *, x_label: str, says: str) -> str:
    """A bar a name, the first on top.

    Args:
        names: of the rows.
        values: one a name, 0 or above.
        x_label: what they are.
        says: one sentence for those who cannot see the chart.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.26 * max(3, len(names))), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(range(len(names)), list(values), height=0.6, color=SERIES[1])
        axes.set_yticks(range(len(names)), list(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
        return _svg(figure, says)


@dataclass(frozen=True)
class Field:
    """One field of a heat map.

    Attributes:
        shade: -1 to 1: strength of the colour, of one hue below 0 and of another above; 0 has none.
        text: in its middle.
        strong: whether the text is bold.
        small: a smaller line under the text, such as an interval.
    """

    shade: float
    text: str
    strong: bool = False
    small: str = ""


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    fields: Sequence[Sequence[Field | None]],
    *,
    says: str,
    column_inches: float = 1.6,
) -> str:
    """A heat map with its figures written in it.

    Args:
        rows: names, top to bottom.
        columns: names, left to right.
        fields: a row a row, a field a column; None leaves it empty.
        says: one sentence for those who cannot see the chart.
        column_inches: width of a column: its name and the text of its fields must fit.
    """
    row_inches = 0.58 if any(one is not None and one.small for row in fields for one in row) else 0.42
    with matplotlib.rc_context(_STYLE):
        figure = Figure(
            figsize=(max(WIDTH, 1.2 + column_inches * len(columns)), 0.7 + row_inches * len(rows)), layout="constrained"
        )
        axes = figure.add_subplot()
        for y, row in enumerate(fields):
            for x, one in enumerate(row):
                if one is None:
                    continue
                # pale enough that the text can be read on it, on light and on dark paper
                colour, strength = SERIES[1 if one.shade > 0 else 2], HEAT * min(1.0, abs(one.shade))
                place = Rectangle((x - 0.48, y - 0.45), 0.96, 0.9, facecolor=colour, alpha=strength, linewidth=0)
                axes.add_patch(place)
                above = 0.14 if one.small else 0.0
                axes.text(x, y - above, one.text, ha="center", va="center", weight="bold" if one.strong else "normal")
                if one.small:
                    axes.text(x, y + 0.22, one.small, ha="center", va="center", fontsize="small")
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), list(columns))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return _svg(figure, says)


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates.

    Attributes:
        name: below it.
        places: where each line crosses it, 0 at its foot to 1 at its top; None for a line that has no value there.
        foot: the value at its foot, in words.
        top: the value at its top.
    """

    name: str
    places: Sequence[float | None]
    foot: str
    top: str


def parallel(axes_: Sequence[Axis], strong: Sequence[bool], *, says: str) -> str:
    """Parallel coordinates (Inselberg 1985): one line a trial, its way from axis to axis; the strong ones in colour.

    Args:
        axes_: from left to right; each has as many places as there are lines.
        strong: which lines are drawn in colour, above the others.
        says: one sentence for those who cannot see the chart.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2 * WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for line in sorted(range(len(strong)), key=lambda one: strong[one]):
            points = [(x, place) for x, axis in enumerate(axes_) if (place := axis.places[line]) is not None]
            colour, width = (SERIES[1], 1.6) if strong[line] else (LINE, 1.0)
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, lw=width)
        for x, axis in enumerate(axes_):
            axes.axvline(x, color=SOFT, lw=0.8)
            axes.text(x, 1.04, axis.top, ha="center", va="bottom", color=SOFT, fontsize=7.5)
            axes.text(x, -0.04, axis.foot, ha="center", va="top", color=SOFT, fontsize=7.5)
        axes.set_xticks(range(len(axes_)), [axis.name for axis in axes_], fontsize=8)
        axes.tick_params(axis="x", length=0, pad=14)
        axes.set_yticks([])
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_ylim(-0.06, 1.12)
        return _svg(figure, says)


def _thinned(values: Sequence[float]) -> Sequence[float]:
    """Every k-th value and the last one."""
    step = -(-len(values) // MOST_POINTS)
    if step <= 1:
        return values
    kept = list(values[::step])
    return kept if (len(values) - 1) % step == 0 else [*kept, values[-1]]


def _svg(figure: Figure, says: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every chart: not ids of a page
    text = text.replace("xlink:href", "href")
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # would reach the whole page
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    opening = f'<svg {view[0]} class="chart" role="img" aria-label="{html.escape(says)}">'
    text = re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return text.strip()
