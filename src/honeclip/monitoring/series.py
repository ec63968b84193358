"""Curves in ECharts' terms: lines, bands, marks. What of runs they show is `curves`' business."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from honeclip.monitoring.reader import number, step_of
from honeclip.monitoring.watched import Watched

RUNS = ("#3b82f6", "#e07b1a", "#2f9e5b", "#9b6bdf", "#d6455d", "#14a3a8", "#c2569b", "#8a8f2a")
"""Colours of runs, and of the parts of one: each can be read on white and on near black."""

SOFT, LINE = "#8a94a0", "#8a94a033"

UNLISTED = "unlisted"
"""Marks a series that the legend leaves out: of a second line in a run's colour."""

Point = list[float | None]
Data = list[Point]


def smoothed(data: Data, weight: float) -> Data:
    """The exponential moving average of a curve, without the pull to zero at its start (Kingma and Ba 2015, section 3).

    Args:
        data: (step, value) points; a missing value stays missing.
        weight: share of the past in each point, 0 to below 1.
    """
    average, norm, found = 0.0, 0.0, []
    for step, value in data:
        if value is None:
            found.append([step, None])
            continue
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        found.append([step, rounded(average / norm)])
    return found


def values(events: Iterable[dict[str, Any]], key: str, factor: float = 1.0) -> Data:
    """A figure of events by their steps, times a factor; [] where none of them has it."""
    points: Data = [[step_of(one), rounded(number(one.get(key)), factor)] for one in events]
    return points if any(value is not None for _, value in points) else []


def of_evaluations(
    run: Watched, colour: str, name: str, pick: Callable[[dict[str, Any]], Any], dashed: bool = False
) -> list[dict[str, Any]]:
    """A figure of the evaluations, a number or {value, low, high}, as a line with dots in the band of its intervals."""
    points, low, high = [], [], []
    for one in run.reader.seen.evaluations:
        found = pick(one)
        table = found if isinstance(found, Mapping) else {"value": found}
        value, step = number(table.get("value")), step_of(one)
        if value is None:
            continue
        points.append([step, rounded(value)])
        low.append([step, rounded(number(table.get("low")))])
        high.append([step, rounded(number(table.get("high")))])
    if not points:
        return []
    line = curve(name, colour, points) | {"showSymbol": len(points) <= 60, "symbolSize": 5}
    if dashed:
        line["lineStyle"] = {**line["lineStyle"], "type": "dashed"}
    known = any(value is not None for _, value in low)
    return [*(band(name, colour, low, high) if known else []), line]


def curve(
    name: str, colour: str, data: Data, *, width: float = 2, opacity: float = 1, silent: bool = False
) -> dict[str, Any]:
    """A line; a `silent` one is not in the box that shows the values under the pointer."""
    return {
        "name": name,
        "type": "line",
        "showSymbol": len(data) == 1,
        "symbolSize": 5 if opacity else 0,
        "color": colour,
        "lineStyle": {"width": width, "opacity": opacity},
        "data": data,
        **({"silent": True, "tooltip": {"show": False}} if silent else {}),
    }


def band(name: str, colour: str, low: Data, high: Data) -> list[dict[str, Any]]:
    """The area between two curves: an invisible one, and their difference stacked on it."""
    quiet = {"stack": f"{name} band", "stackStrategy": "all", "symbol": "none", "z": 1}
    height: Data = [
        [step, None if top is None or bottom is None else rounded(top - bottom)]
        for (step, bottom), (_, top) in zip(low, high, strict=True)
    ]
    return [
        curve(name, colour, low, opacity=0, silent=True) | quiet,
        curve(name, colour, height, opacity=0, silent=True) | quiet | {"areaStyle": {"opacity": 0.2}},
    ]


def level(value: float, words: str) -> dict[str, Any]:
    """A level line, named at its end: a curve that begins near it would run through the words."""
    label = {"formatter": words, "color": SOFT, "position": "insideEndTop", "fontSize": 11}
    return {
        "markLine": {
            "data": [{"yAxis": value, "label": label}],
            "symbol": "none",
            "animation": False,
            "silent": True,
            "lineStyle": {"color": SOFT, "type": "dashed", "width": 1.5},
        }
    }


def within(table: Any, *keys: str) -> Any:
    """What lies under keys of tables within tables; None where one of them is missing."""
    for key in keys:
        if not isinstance(table, Mapping):
            return None
        table = table.get(key)
    return table


def rounded(value: float | None, factor: float = 1.0) -> float | None:
    """To the digits that a chart can show: a page is sent a hundred thousand numbers."""
    return None if value is None else float(f"{factor * value:.5g}")
