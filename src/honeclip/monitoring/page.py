"""The live page of runs: figures, curves, pictures and events, drawn anew when there is something new.

NiceGUI brings all that the browser needs, so the page works without a network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from honeclip.monitoring import elements, watched
from honeclip.monitoring.curves import CHARTS, View, histogram
from honeclip.monitoring.reader import moment, number, step_of
from honeclip.monitoring.rules import Finding
from honeclip.monitoring.series import RUNS
from honeclip.monitoring.watched import Watched

DRAW_S = 0.8
"""Seconds after which a page looks whether there is something new."""

SEEN_SHARE = 0.002
"""Of the steps: by so many more a curve has grown by about a pixel, and is drawn anew."""

SLOWEST_S = 5.0
"""Seconds after which it is drawn anew in any case, where there is something new."""

DRAWING_SHARE = 0.1
"""Of the time at most so much goes into drawing; where the machine is busy, curves come later and figures as soon."""

READING_S = 2.0
"""Seconds from one drawing to the next while a long file is read for the first time."""

MOST_ROWS = 40
LONGEST_CELL = 120

STATES = {
    "waiting": "grey-7",
    "reading": "grey-7",
    "training": "positive",
    "ending": "positive",
    "finished": "primary",
    "quiet": "warning",
    "stopped": "negative",
}
"""The colour of each kind of `watched.state`."""

TILES = {
    "step": "step",
    "left": "left",
    "loss": "loss of the newest steps",
    "best": "best score on val",
    "best_step": "its step",
    "speed": "samples a second",
    "each": "from step to step",
    "memory": "memory / budget",
    "busy": "device has work",
    "matmul": "of the matmul bound",
    "scale": "logit scale",
    "micro": "micro-batch",
}

RUN_COLUMNS = {"run": "run", "state": "state", **{key: TILES[key] for key in ("step", "left", "loss", "best", "speed")}}
EVENT_COLUMNS = {"step": "step", "when": "when", "event": "event", "words": "what"}
HARDEST_COLUMNS = {"rank": "rank", "similarity": "cosine", "caption": "caption", "file": "file"}

RETRIEVAL = ("R@10", "R@5", "R@1", "median_rank")
ZEROSHOT = ("balanced_accuracy", "accuracy", "macro_f1", "ece")


@dataclass(frozen=True)
class Drawing:
    """What the curves were drawn from, and when."""

    version: int
    view: View
    steps: int
    others: tuple[object, ...]
    at: float


class Page:
    """One page of one browser.

    Args:
        runs: what is watched.
        version: a number that grows with whatever is new.
        findings: what looks sick, by the name of the run.
    """

    def __init__(
        self, runs: Sequence[Watched], version: Callable[[], int], findings: Mapping[str, Sequence[Finding]]
    ) -> None:
        self.view = View(runs, runs[0])
        self.version, self.findings = version, findings
        self.drawn: Drawing | None = None
        self.took = 0.0
        self.shown: object = None

    def build(self) -> None:
        """Makes every element, and the clock that fills them."""
        several = len(self.view.runs) > 1
        ui.colors(primary=RUNS[0], negative="#b3261e", warning="#b4590c", positive="#17713a")
        with ui.column().classes("w-full max-w-screen-2xl mx-auto gap-4 p-2"):
            with ui.row().classes("w-full items-center gap-x-4 gap-y-1"):
                ui.label("honeclip").classes("text-2xl font-semibold")
                if not several:
                    ui.label(self.view.focus.name).classes("text-lg break-all")
                    self._standing()
            self.sick = ui.column().classes("w-full gap-2")
            self.tiles = {} if several else elements.tiles(TILES)
            self.table = elements.table("Runs", RUN_COLUMNS, unbroken=("state", "step", "left")) if several else None
            with ui.row().classes("w-full items-center gap-x-6 gap-y-2"):
                self._controls(several)
            with elements.grid():
                general = [elements.chart(one.title) for one in CHARTS if not one.details]
            if several:
                with ui.row().classes("w-full items-center gap-4"):
                    names = {place: run.name for place, run in enumerate(self.view.runs)}
                    ui.select(names, value=0, label="one run in detail", on_change=self._focus).classes(
                        "w-64 max-w-full"
                    )
                    self._standing()
                self.tiles = elements.tiles(TILES)
            with elements.grid():
                detailed = [elements.chart(one.title) for one in CHARTS if one.details]
                self.histogram = elements.chart("Cosines on val, newest evaluation (% of each)")
            places = {True: iter(detailed), False: iter(general)}
            self.charts = [next(places[one.details]) for one in CHARTS]
            self.examples = ui.column().classes("w-full gap-2")
            self.hardest = elements.table("Hardest pairs of val", HARDEST_COLUMNS)
            self.events = elements.table("Newest events", EVENT_COLUMNS)
            self.note = ui.label("").classes("text-sm opacity-70")
        self.draw()  # so that the first thing a browser paints is the whole page
        ui.timer(DRAW_S, self.draw, immediate=False)

    def draw(self) -> None:
        """Fills every element with what is known now; sends only what has changed."""
        kind, words = watched.state(self.view.focus)
        self.state.set_text(words)
        self.state.props(f"color={STATES[kind]}")
        if self.table is not None:
            self.table.update_rows([self._row(run) for run in self.view.runs])
        now = Drawing(self.version(), self.view, _steps(self.view), _others(self.view), time.monotonic())
        if self.drawn is not None and (now.version, now.view) == (self.drawn.version, self.drawn.view):
            return
        for name, text in watched.figures(self.view.focus).items():
            self.tiles[name].set_text(text)
        if self.drawn is not None and not _is_due(self.drawn, now, self.took):
            return
        self.drawn = now
        self._choices()
        self.about.set_text(_about(self.view.focus))
        for spec, drawn in zip(CHARTS, self.charts, strict=True):
            elements.fill(drawn, spec.series(self.view), from_zero=spec.from_zero)
        middles, bars = histogram(self.view)
        elements.fill(self.histogram, bars, middles)
        self._tables()
        self._pictures()
        self.note.set_text(_note(self.view))
        self.took = time.monotonic() - now.at

    # --- what is chosen -------------------------------------------------------------------------------------------

    def _controls(self, several: bool) -> None:
        with ui.row().classes("items-center gap-3 no-wrap"):
            ui.label("smoothing").classes("text-sm opacity-70")
            ui.slider(min=0, max=0.99, step=0.01, value=self.view.smoothing, on_change=self._smooth).classes(
                "w-32"
            ).props('aria-label="smoothing"')
        view = self.view
        self.retrieval = ui.select([view.retrieval], value=view.retrieval, label="retrieval", on_change=self._retrieval)
        self.zeroshot = ui.select([view.zeroshot], value=view.zeroshot, label="zero-shot", on_change=self._zeroshot)
        for one in (self.retrieval, self.zeroshot):
            one.classes("w-44").props("dense")
        with ui.row().classes("items-center gap-x-4 gap-y-1"):
            for colour, run in view.coloured if several else ():
                with ui.row().classes("items-center gap-2 no-wrap"):
                    ui.element("span").classes("inline-block w-3 h-3 rounded-sm").style(f"background:{colour}")
                    ui.label(run.name).classes("text-sm break-all")

    def _standing(self) -> None:
        self.state = ui.badge("").classes("text-sm").props('data-figure="state"')
        self.about = ui.label("").classes("text-sm opacity-70 break-words min-w-0")

    def _smooth(self, event: Any) -> None:
        self._change(smoothing=event.value)

    def _retrieval(self, event: Any) -> None:
        self._change(retrieval=event.value)

    def _zeroshot(self, event: Any) -> None:
        self._change(zeroshot=event.value)

    def _focus(self, event: Any) -> None:
        self._change(focus=self.view.runs[event.value])

    def _change(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)
        self.draw()

    def _choices(self) -> None:
        """Offers the figures that the runs have; what none has is never chosen."""
        newest = [run.reader.seen.evaluations[-1].get("metrics") or {} for run in self.view.runs if _evaluated(run)]
        retrieval = {key for one in newest for key in (one.get("retrieval") or {}).get("image_to_text", {})}
        zeroshot = {key for one in newest for key in one.get("zeroshot") or {}}
        for select, every, known in ((self.retrieval, RETRIEVAL, retrieval), (self.zeroshot, ZEROSHOT, zeroshot)):
            offered = [key for key in every if key in known]
            select.set_visibility(bool(offered))
            if offered and offered != select.options:
                select.set_options(offered, value=select.value if select.value in offered else offered[0])

    # --- what is shown besides the curves -------------------------------------------------------------------------

    def _row(self, run: Watched) -> dict[str, str]:
        return {"run": run.name, "state": watched.state(run)[1], **watched.figures(run)}

    def _tables(self) -> None:
        seen = self.view.focus.reader.seen
        others = [one for kind in seen.others.values() for one in kind]
        newest = sorted([*others, *seen.evaluations], key=moment, reverse=True)[:MOST_ROWS]
        elements.rows(
            self.events,
            [
                {
                    "step": step_of(one),
                    "when": time.strftime("%a %H:%M:%S", time.localtime(moment(one))),
                    "event": one["event"],
                    "words": watched.in_words(one),
                }
                for one in newest
            ],
        )
        pairs = next(
            (found for one in reversed(seen.evaluations) if (found := _list(one.get("health"), "hardest"))), []
        )
        rounded = [
            {**one, "similarity": _cosine(one.get("similarity")), "caption": _cut(str(one.get("caption", "")))}
            for one in pairs
        ]
        elements.rows(self.hardest, [{key: one.get(key, "") for key in HARDEST_COLUMNS} for one in rounded])

    def _pictures(self) -> None:
        """What looks sick, and the example pictures; made anew only when they are others."""
        found = {run.name: list(self.findings.get(run.name, ())) for run in self.view.runs}
        newest = self.view.focus.reader.seen.evaluations[-1:]
        examples = _list(newest[0], "examples") if newest else []
        if self.shown == (self.view.focus.name, found, examples):
            return
        self.shown = (self.view.focus.name, found, examples)
        self.sick.clear()
        with self.sick:
            for name, sick in found.items():
                for one in sick:
                    _finding_card(one, f"{name}, " if len(found) > 1 else "")
        self.examples.clear()
        if examples:
            with self.examples:
                self._example_cards(examples, step_of(newest[0]))

    def _example_cards(self, examples: Sequence[Mapping[str, Any]], step: int) -> None:
        run = self.view.focus
        place = list(self.view.runs).index(run)
        ui.label(f"Pictures of val and the captions that lie nearest, after step {step:,}").classes(
            "text-sm font-medium"
        )
        if run.data_folder is None:
            path = (run.config.get("data") or {}).get("path") or "its data folder"
            ui.label(f"The pictures are not shown: {path} is not on this machine.").classes(
                "text-sm opacity-70 break-all"
            )
        with ui.grid().classes("w-full grid-cols-1 sm:grid-cols-2 lg:grid-cols-4 gap-4"):
            for one in examples:
                with ui.card().classes("p-3 gap-1 min-w-0").props("flat bordered data-example"):
                    if run.data_folder is not None:
                        address = f"/pictures/{place}?{urlencode({'file': str(one.get('file', ''))})}"
                        ui.html(
                            f'<img src="{address}" alt="" class="h-40 max-w-full object-contain">',
                            sanitize=False,
                        )
                    ui.label(str(one.get("caption", ""))).classes("font-medium text-sm break-words line-clamp-3")
                    rank = number(one.get("rank"))
                    ui.label("" if rank is None else f"its caption is number {rank:.0f}").classes("text-sm opacity-70")
                    for near in _list(one, "top"):
                        right = near.get("caption") == one.get("caption")
                        with ui.row().classes("w-full no-wrap gap-2 text-sm items-start"):
                            ui.label(_cosine(near.get("similarity"))).classes("tabular-nums opacity-70")
                            ui.label(("✓ " if right else "") + str(near.get("caption", ""))).classes(
                                "break-words min-w-0 line-clamp-2" + (" font-medium" if right else "")
                            )


def _finding_card(one: Finding, whose: str) -> None:
    """What looks sick, and what to try; `whose` stands before it."""
    card = ui.card().classes("w-full p-3 gap-1 border-l-4").style("border-left-color:#b4590c").props("flat bordered")
    with card:
        ui.label(f"{whose}{one.rule}: {one.says}").classes("font-medium break-words").props("data-finding")
        ui.label(f"try: {one.advice}").classes("text-sm break-words")


def _is_due(before: Drawing, now: Drawing, took: float) -> bool:
    """Whether curves are drawn anew: to draw costs the machine that trains more than all the rest of the page."""
    waited = now.at - before.at
    if now.view != before.view:
        return True
    if waited < took / DRAWING_SHARE:
        return False
    if waited >= SLOWEST_S:
        return True
    if any(watched.state(run)[0] == "reading" for run in now.view.runs):
        return waited >= READING_S
    return now.others != before.others or abs(now.steps - before.steps) >= SEEN_SHARE * before.steps


def _steps(view: View) -> int:
    return sum(run.reader.seen.steps.count for run in view.runs)


def _others(view: View) -> tuple[object, ...]:
    """What changes with every event besides the steps, each of which is seen somewhere on the page."""
    return tuple(
        (run.reader.seen, len(run.reader.seen.evaluations), sum(run.reader.seen.counts.values())) for run in view.runs
    )


def _evaluated(run: Watched) -> bool:
    return bool(run.reader.seen.evaluations)


def _list(table: Any, key: str) -> list[dict[str, Any]]:
    """The tables in a list of a table; [] for whatever else stands there."""
    found = table.get(key) if isinstance(table, Mapping) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _cosine(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found:.2f}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


def _about(run: Watched) -> str:
    said, config = watched.begin(run), run.config
    model = (config.get("model") or {}).get("source")
    domain = (config.get("domain") or {}).get("name")
    parts = [
        str(model) if model else "",
        f"domain {domain}" if domain else "",
        f"on {said['device']}, {said['precision']}" if {"device", "precision"} <= said.keys() else "",
        f"batch {said['batch']}" if "batch" in said else "",
        watched.apart(run),
    ]
    return ", ".join(part for part in parts if part)


def _note(view: View) -> str:
    """What the curves leave out."""
    said = []
    for run in view.runs:
        steps = run.reader.seen.steps
        if steps.width > 1:
            said.append(
                f"{run.name}: {steps.count:,} steps are drawn as {len(steps.all):,} points of up to {steps.width:,} steps: "
                "the loss as the mean of all of them, in the band from the smallest to the largest; gradient norms of the "
                "first and of the two steps of these losses; everything else of the first."
            )
        if run.reader.seen.torn:
            said.append(f"{run.name}: {run.reader.seen.torn} lines of events.jsonl are no events and were passed over.")
    return " ".join(said)
