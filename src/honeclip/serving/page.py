"""The live page: what `/metrics` says of the last half minute, drawn anew every second.

Every number on it comes from the registry that `/metrics` prints. NiceGUI brings all that the browser needs, so the page
works without a network.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from nicegui import app as nicegui
from nicegui import ui
from prometheus_client import CollectorRegistry

from honeclip.monitoring import elements
from honeclip.serving.guard import ROUTES
from honeclip.serving.metrics import STAGES
from honeclip.serving.queue import MODALITIES
from honeclip.serving.window import Moment, Wanted, increase, mean, moment, quantile, rate, total

PATH = "/dashboard"

EVERY_S = 1.0
KEPT = 300
"""Moments that the charts show: five minutes."""

SPAN = 30
"""Moments over which rates and percentiles are taken."""

API = frozenset(route for route in ROUTES if route.startswith("/v1/"))
"""Requests and latencies are those of the API: the page's own and those of Prometheus say nothing of the server."""

FAILED = frozenset(str(status) for status in range(500, 600))

ASKED, LATENCY = "honeclip_requests_total", "honeclip_request_duration_seconds"
STAGE = "honeclip_stage_duration_seconds"
SERIES = ("#1f5fc4", "#b4590c", "#17713a", "#7c4dbe")
SOFT, LINE, BAD = "#8a94a0", "#8a94a033", "#b3261e"


Line = list[tuple[float, float | None]]


@dataclass(eq=False)
class History:
    """The last moments of a registry, oldest first."""

    registry: CollectorRegistry
    moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=KEPT + SPAN))

    def look(self) -> None:
        """Adds what the registry says now."""
        self.moments.append(moment(self.registry))

    async def keep(self) -> None:
        """Looks every second, whether a page is open or not, so that one that is opened has its past at once."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def pairs(self) -> list[tuple[Moment, Moment]]:
        """For each moment that charts show: the one `SPAN` before it, or the oldest, and itself."""
        all_ = list(self.moments)
        return [(all_[max(0, place - SPAN)], all_[place]) for place in range(max(1, len(all_) - KEPT), len(all_))]


def mount(app: FastAPI, registry: CollectorRegistry, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Adds the page to an app; once a process, since NiceGUI has one set of pages.

    Args:
        app: of the server.
        registry: whose counters are shown.
        facts: what `/health` says of model, device and memory.
    """
    history = History(registry)

    @ui.page("/", title="honeclip", dark=None)
    def page() -> None:
        _page(history, facts)

    # it looks at every object of the process for a server that already runs, and torch warns when it is looked at
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"nicegui\.")
    ui.run_with(app, mount_path=PATH, show_welcome_message=False)
    nicegui.on_startup(history.keep)


def _page(history: History, facts: Callable[[], Mapping[str, Any]]) -> None:
    ui.colors(primary=SERIES[0], negative=BAD)
    with ui.column().classes("w-full max-w-6xl mx-auto gap-4 p-2"):
        with ui.row().classes("w-full items-baseline gap-4"):
            ui.label("honeclip").classes("text-2xl font-semibold")
            state = ui.badge("").classes("text-sm")
            about = ui.label("").classes("text-sm opacity-70")
        tiles = elements.tiles(TILES)
        charts = _charts()
        with ui.row().classes("w-full gap-8 items-start"):
            routes = _table(
                "Routes since the start", ("route", "answered", "2xx", "4xx", "5xx", "p50 ms", "p95 ms", "p99 ms")
            )
            rejects = _table("Turned away since the start", ("reason", "count"))
        ui.label(
            f"Rates and percentiles: the API's last {SPAN} s, from what /metrics says. Charts: {KEPT // 60} minutes."
        ).classes("text-sm opacity-70")

    def draw() -> None:
        if len(history.moments) < 2:
            return
        known = facts()
        state.set_text("ready" if known["ready"] else "not ready")
        state.props(f"color={'positive' if known['ready'] else 'negative'}")
        model, device = known["model"], known["device"]
        about.set_text(f"{model['id']} on {device['type']}, {device['precision']}, version {known['version']}")
        pairs = history.pairs()
        for name, text in figures(*pairs[-1]).items():
            tiles[name].set_text(text)
        for chart, lines in zip(charts, curves(pairs), strict=True):
            for series, values in zip(chart.options["series"], lines, strict=True):
                series["data"] = values
            chart.update()
        routes.update_rows(route_rows(pairs[-1][1]))
        rejects.update_rows(
            [
                {"reason": labels["reason"], "count": round(value)}
                for labels, value in _each(pairs[-1][1], "honeclip_rejected_total")
            ]
        )

    ui.timer(EVERY_S, draw)


TILES = {
    "requests": "requests a second",
    "images": "images computed a second",
    "texts": "texts computed a second",
    "p50": "p50",
    "p95": "p95",
    "p99": "p99",
    "queue": "items that wait",
    "fill": "batch fill",
    "hits": "from the cache",
    "errors": "server errors a second",
    "memory": "resident memory",
    "answered": "requests answered in all",
}


def figures(before: Moment, now: Moment) -> dict[str, str]:
    """The text of every tile; "-" where nothing was observed."""

    def milliseconds(q: float) -> str:
        found = quantile(before, now, LATENCY, q, route=API)
        return "-" if found is None else f"{1000 * found:.0f} ms"

    asked = increase(before, now, "honeclip_cache_requests_total")
    spared = asked - increase(before, now, "honeclip_cache_requests_total", result="miss")
    fill = mean(before, now, "honeclip_batch_fill_ratio")
    return {
        "requests": f"{rate(before, now, ASKED, route=API):.1f}",
        "images": f"{rate(before, now, 'honeclip_items_total', modality='image'):.1f}",
        "texts": f"{rate(before, now, 'honeclip_items_total', modality='text'):.1f}",
        "p50": milliseconds(0.5),
        "p95": milliseconds(0.95),
        "p99": milliseconds(0.99),
        "queue": f"{total(now, 'honeclip_queue_depth'):.0f}",
        "fill": "-" if fill is None else f"{fill:.0%}",
        "hits": f"{spared / asked:.0%}" if asked else "-",
        "errors": f"{rate(before, now, ASKED, status=FAILED):.1f}",
        "memory": f"{total(now, 'honeclip_resident_memory_bytes') / 1e9:.2f} GB",
        "answered": f"{total(now, ASKED, route=API):.0f}",
    }


CHARTS = (
    ("Requests a second", "", ("answered", "turned away")),
    ("Latency", "ms", ("p50", "p95", "p99")),
    ("Items that wait", "", MODALITIES),
    ("Mean time by stage", "ms", STAGES),
    ("Batch fill", "%", MODALITIES),
    ("Memory", "GB", ("resident", "device")),
)


def curves(pairs: list[tuple[Moment, Moment]]) -> list[list[Line]]:
    """For each chart and each of its lines, (seconds before now, value)."""
    last = pairs[-1][1].at

    def line(value: Callable[[Moment, Moment], float | None], factor: float = 1.0) -> Line:
        found = [(now.at - last, value(before, now)) for before, now in pairs]
        return [(round(at, 1), None if one is None else float(f"{factor * one:.4g}")) for at, one in found]

    def grows(name: str, **labels: Wanted) -> Line:
        return line(lambda before, now: rate(before, now, name, **labels))

    def means(name: str, factor: float, **labels: Wanted) -> Line:
        return line(lambda before, now: mean(before, now, name, **labels), factor)

    def stands(name: str, factor: float = 1.0, **labels: Wanted) -> Line:
        return line(lambda _, now: total(now, name, **labels), factor)

    def latency(q: float) -> Line:
        return line(lambda before, now: quantile(before, now, LATENCY, q, route=API), 1000)

    return [
        [grows(ASKED, route=API), grows("honeclip_rejected_total")],
        [latency(q) for q in (0.5, 0.95, 0.99)],
        [stands("honeclip_queue_depth", modality=one) for one in MODALITIES],
        [means(STAGE, 1000, stage=one) for one in STAGES],
        [means("honeclip_batch_fill_ratio", 100, modality=one) for one in MODALITIES],
        [
            stands("honeclip_resident_memory_bytes", 1e-9),
            stands("honeclip_device_memory_bytes", 1e-9, device=frozenset({"mps", "cuda"}), kind="held"),
        ],
    ]


def route_rows(now: Moment) -> list[dict[str, Any]]:
    """A row a route: answers by the first digit of their status, and percentiles, since the server started."""
    nothing = Moment(0.0, {})
    counts: dict[str, dict[str, float]] = {}
    for labels, value in _each(now, ASKED):
        by_kind = counts.setdefault(labels["route"], {"2xx": 0, "4xx": 0, "5xx": 0})
        kind = f"{labels['status'][0]}xx"
        by_kind[kind] = by_kind.get(kind, 0) + value
    rows = []
    for route, found in sorted(counts.items()):
        row: dict[str, Any] = {"route": route, "answered": round(sum(found.values()))}
        row |= {kind: round(found[kind]) for kind in ("2xx", "4xx", "5xx")}
        for q in (50, 95, 99):
            seconds = quantile(nothing, now, LATENCY, q / 100, route=route)
            row[f"p{q} ms"] = "-" if seconds is None else f"{1000 * seconds:.0f}"
        rows.append(row)
    return rows


def _each(one: Moment, name: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(labels), value) for (known, labels), value in one.values.items() if known == name]


def _charts() -> list[ui.echart]:
    made = []
    with ui.grid().classes("w-full grid-cols-1 md:grid-cols-2 gap-4"):
        for title, unit, names in CHARTS:
            with ui.card().classes("p-3 gap-1").props("flat bordered"):
                ui.label(title + (f" ({unit})" if unit else "")).classes("text-sm font-medium")
                made.append(ui.echart(_options(names)).classes("w-full h-44"))
    return made


def _options(names: tuple[str, ...]) -> dict[str, Any]:
    axis = {"axisLabel": {"color": SOFT}, "splitLine": {"lineStyle": {"color": LINE}}}
    return {
        "animation": False,
        "grid": {"left": 44, "right": 12, "top": 28, "bottom": 24},
        "legend": {"show": len(names) > 1, "top": 0, "right": 0, "icon": "rect", "textStyle": {"color": SOFT}},
        "tooltip": {"trigger": "axis"},
        "xAxis": {
            "type": "value",
            "min": -KEPT * EVERY_S,
            "max": 0,
            "interval": 60,
            "axisLabel": {"color": SOFT, ":formatter": "s => s ? (s / 60) + ' min' : 'now'"},
            "splitLine": {"show": False},
        },
        "yAxis": {"type": "value", "min": 0, "splitNumber": 3, **axis},
        "series": [
            {
                "name": name,
                "type": "line",
                "showSymbol": False,
                "lineStyle": {"width": 2},
                "color": SERIES[place],
                "data": [],
            }
            for place, name in enumerate(names)
        ],
    }


def _table(title: str, columns: tuple[str, ...]) -> ui.table:
    with ui.column().classes("gap-1 max-w-full overflow-x-auto"):
        ui.label(title).classes("text-sm font-medium")
        described = [
            {"name": one, "label": one, "field": one, "align": "left" if place == 0 else "right"}
            for place, one in enumerate(columns)
        ]
        return ui.table(columns=described, rows=[], row_key=columns[0]).props("flat dense bordered")
