"""What live pages are made of, in NiceGUI: figures, charts and tables that are filled again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from honeclip.monitoring.series import LINE, SOFT, UNLISTED


@dataclass(frozen=True)
class Drawn:
    """A chart of the page: what hides it, its title, and the chart."""

    card: ui.card
    title: ui.label
    chart: ui.echart


def grid() -> ui.grid:
    """Charts side by side, as many as there is room for."""
    return ui.grid().classes("w-full grid-cols-1 md:grid-cols-2 2xl:grid-cols-3 gap-4")


def tiles(words_of: Mapping[str, str]) -> dict[str, ui.label]:
    """Figures in a grid, each with what it is below it: a label for each name, which the page's tests find by it."""
    made = {}
    with ui.grid().classes("w-full grid-cols-2 sm:grid-cols-4 lg:grid-cols-6 gap-3"):
        for name, words in words_of.items():
            with ui.card().classes("p-3 gap-0 min-w-0").props("flat bordered"):
                made[name] = ui.label("-").classes("text-xl font-semibold tabular-nums break-words max-w-full")
                made[name].props(f'data-figure="{name}"')
                ui.label(words).classes("text-sm opacity-70")
    return made


def chart(title: str) -> Drawn:
    """A chart with nothing in it, which is hidden until `fill` gives it something."""
    with ui.card().classes("p-3 gap-1 min-w-0").props("flat bordered") as card:
        label = ui.label(title).classes("text-sm font-medium")
        chart = ui.echart(_options()).classes("w-full h-56").props(f'data-chart="{title}"')
    card.set_visibility(False)
    return Drawn(card, label, chart)


def _options() -> dict[str, Any]:
    axis: dict[str, Any] = {
        "axisLabel": {"color": SOFT, "hideOverlap": True},
        "splitLine": {"lineStyle": {"color": LINE}},
    }
    ends = {**axis["axisLabel"], "alignMinLabel": "left", "alignMaxLabel": "right"}
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 32, "bottom": 4, "containLabel": True},
        "legend": {
            "type": "scroll",
            "top": 0,
            "right": 0,
            "icon": "rect",
            "itemWidth": 12,
            "textStyle": {"color": SOFT},
        },
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {
            "type": "value",
            "min": 0,
            "max": "dataMax",
            **axis,
            "axisLabel": ends,
            "splitLine": {"show": False},
            "axisLine": {"onZero": False},
        },
        "yAxis": {"type": "value", "scale": True, "splitNumber": 4, **axis},
        "series": [],
    }


def fill(
    drawn: Drawn, series: list[dict[str, Any]], categories: Sequence[str] = (), *, from_zero: bool = False
) -> None:
    """Puts series into a chart, sends it where something changed, and hides it where there is nothing."""
    drawn.card.set_visibility(bool(series))
    if not series or drawn.chart.options["series"] == series:
        return
    options = drawn.chart.options
    options["series"] = series
    names = list(dict.fromkeys(one["name"] for one in series if not one.get("silent") and not one.get(UNLISTED)))
    options["legend"]["data"] = names
    options["legend"]["show"] = len(names) > 1
    options["yAxis"]["scale"] = not from_zero and not categories
    if categories:
        options["xAxis"] |= {"type": "category", "data": list(categories), "min": None, "max": None}
    drawn.chart.update()


def table(title: str, columns: Mapping[str, str], unbroken: Sequence[str] = ()) -> ui.table:
    """A table without rows; `columns` gives each field its heading, and those in `unbroken` keep their texts on one line."""
    with ui.column().classes("gap-1 w-full max-w-full overflow-x-auto") as outer:
        ui.label(title).classes("text-sm font-medium")
        described = [
            {
                **{"name": key, "label": label, "field": key, "align": "left"},
                **({"classes": "whitespace-nowrap"} if key in unbroken else {}),
            }
            for key, label in columns.items()
        ]
        made = ui.table(columns=described, rows=[]).props(
            "flat dense bordered wrap-cells hide-pagination :rows-per-page-options='[0]'"
        )
    made.bind_visibility_to(outer)
    return made


def rows(shown: ui.table, found: list[dict[str, Any]]) -> None:
    """Puts rows into a table, sends them where they are others, and hides it where there are none."""
    if shown.rows != found:
        shown.update_rows(found)
    shown.set_visibility(bool(found))
