"""The curves of the dashboard: from what was read of runs to the series of charts, in ECharts' terms.

Charts of the first kind hold all runs, one colour a run. Those of the second kind show the parts of one run, one colour a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from honeclip.monitoring.reader import number, step_of
from honeclip.monitoring.series import (
    RUNS,
    SOFT,
    UNLISTED,
    Data,
    band,
    curve,
    level,
    of_evaluations,
    rounded,
    smoothed,
    values,
    within,
)
from honeclip.monitoring.watched import Watched, begin

SHARE_THAT_SHOWS = 0.2
"""Of the budget; below it the line of the budget would press the memory flat, and the figures above say it."""

MOST_MARKS = 12
"""Marks of one kind that a chart shows, the newest; more of them would be a wall."""


@dataclass(frozen=True)
class View:
    """What a page is asked to draw.

    Attributes:
        runs: all that are watched, in the order of their colours.
        focus: the one whose parts are shown.
        smoothing: the share of the past in each smoothed point, 0 (none) to below 1.
        retrieval: the figure of METRICS' retrieval that is drawn.
        zeroshot: the figure of METRICS' zeroshot that is drawn.
    """

    runs: Sequence[Watched]
    focus: Watched
    smoothing: float = 0.6
    retrieval: str = "R@10"
    zeroshot: str = "balanced_accuracy"

    @property
    def coloured(self) -> list[tuple[str, Watched]]:
        """Each run with its colour."""
        return [(RUNS[place % len(RUNS)], run) for place, run in enumerate(self.runs)]


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: what it shows, with the unit.
        series: what is drawn of a view; [] hides the chart.
        details: whether it shows the parts of one run.
        from_zero: whether the axis begins at 0.
    """

    title: str
    series: Callable[[View], list[dict[str, Any]]]
    details: bool = False
    from_zero: bool = False


def loss(view: View) -> list[dict[str, Any]]:
    """Of each run the mean loss, smoothed, over what it was: the curve itself, or from the smallest to the largest."""
    series: list[dict[str, Any]] = []
    for colour, run in view.coloured:
        steps = run.reader.seen.steps
        if not steps.all:
            continue
        means: Data = [[one.first.step, rounded(one.mean)] for one in steps.all]
        if steps.width > 1:
            low: Data = [[one.first.step, one.lowest.loss if one.lowest else None] for one in steps.all]
            high: Data = [[one.first.step, one.highest.loss if one.highest else None] for one in steps.all]
            series += band(run.name, colour, low, high)
        elif view.smoothing:
            series.append(curve(run.name, colour, means, opacity=0.3, width=1, silent=True))
        series.append(curve(run.name, colour, smoothed(means, view.smoothing)) | _marks(run, view))
    return series


def loss_parts(view: View) -> list[dict[str, Any]]:
    """The parts of the loss of one run, where there are several."""
    return _several(view, "parts")


def selection_score(view: View) -> list[dict[str, Any]]:
    """Of each run the score by which its best checkpoint is chosen, with its interval where there is one."""
    series: list[dict[str, Any]] = []
    for colour, run in view.coloured:
        score = lambda one: within(one, "metrics", "selection", "score") or one.get("score")  # noqa: E731
        found = of_evaluations(run, colour, run.name, score)
        best = run.reader.seen.best
        if found and best is not None:
            mark = {"coord": [step_of(best), number(best.get("score"))], "name": "best"}
            label = {"show": True, "formatter": "best", "position": "top", "color": SOFT}
            found[-1] |= {
                "markPoint": {"data": [mark], "symbol": "circle", "symbolSize": 9, "label": label, "animation": False}
            }
            found[-1] |= _marks(run, view)
        series += found
    return series


def retrieval(view: View) -> list[dict[str, Any]]:
    """Of each run one figure of retrieval, image to text as a line and text to image dashed, with their intervals."""
    series: list[dict[str, Any]] = []
    for colour, run in view.coloured:
        listed = False
        for way, words in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
            pick = lambda one, way=way: within(one, "metrics", "retrieval", way, view.retrieval)  # noqa: E731
            dashed = way == "text_to_image"
            name = words if len(view.runs) == 1 else f"{run.name}, {words}" if dashed else run.name
            found = of_evaluations(run, colour, name, pick, dashed)
            if found and len(view.runs) > 1:
                found[-1][UNLISTED] = listed
                listed = True
            series += found
    return series


def zeroshot(view: View) -> list[dict[str, Any]]:
    """Of each run one figure of zero-shot classification with its interval, and what guessing would get."""
    series: list[dict[str, Any]] = []
    for colour, run in view.coloured:
        found = of_evaluations(run, colour, run.name, lambda one: within(one, "metrics", "zeroshot", view.zeroshot))
        newest = run.reader.seen.evaluations[-1:]
        chance = number(within(newest[0], "metrics", "zeroshot", "chance")) if newest else None
        if found and chance is not None and view.zeroshot.endswith("accuracy"):
            found[-1] |= level(chance, "chance")
        series += found
    return series


def throughput(view: View) -> list[dict[str, Any]]:
    """Samples a second of each run."""
    return _of_runs(view, "samples_per_second")


def learning_rate(view: View) -> list[dict[str, Any]]:
    """The learning rate of each run; of a single one that of each group of parameters."""
    groups = _several(view, "lrs") if len(view.runs) == 1 else []
    return groups or _of_runs(view, "lr", smooth=False)


def grad_norm(view: View) -> list[dict[str, Any]]:
    """The gradient norm of each run before it is clipped, the spikes of the loss among its points."""
    series = []
    for colour, run in view.coloured:
        data = values([one.event for one in run.reader.seen.steps.kept()], "grad_norm")
        if data:
            series.append(curve(run.name, colour, data, width=1.5))
    return series


def logit_scale(view: View) -> list[dict[str, Any]]:
    """The logit scale of each run."""
    return _of_runs(view, "logit_scale", smooth=False)


def logit_bias(view: View) -> list[dict[str, Any]]:
    """The logit bias of each run that has one."""
    return _of_runs(view, "logit_bias", smooth=False)


def memory(view: View) -> list[dict[str, Any]]:
    """The memory of one run by kind, stacked, in GB, with the line of its budget.

    The budget is for the lowest area alone: it holds what counts against it. It is drawn where a good part of it is used.
    """
    events, run = _firsts(view.focus), view.focus
    kinds = ("allocated", "driver", "resident", "swap")
    areas: dict[str, Data] = {}
    for one in events:
        given = one.get("memory")
        known = given if isinstance(given, Mapping) else {}
        found = {kind: value for kind in kinds if (value := number(known.get(kind))) is not None}
        counted = number(one.get("memory_bytes"))
        for words, value in _layers(counted, found).items():
            areas.setdefault(words, []).append([step_of(one), rounded(value / 1e9)])
    series = [
        curve(words, RUNS[place % len(RUNS)], data, width=1) | {"stack": "memory", "areaStyle": {"opacity": 0.35}}
        for place, (words, data) in enumerate(areas.items())
    ]
    budget, most = number(begin(run).get("budget_bytes")), number(max(map(_counted, events), default=None))
    if series and budget and most and most > SHARE_THAT_SHOWS * budget:
        series[0] |= level(budget / 1e9, "budget")
        # a line beyond the axis is not drawn, and whether there is room is what one wants to see
        series.append(curve("budget", SOFT, [[step_of(events[0]), budget / 1e9]], opacity=0, silent=True))
    return series


def _counted(event: Mapping[str, Any]) -> float:
    return number(event.get("memory_bytes")) or 0.0


def _layers(counted: float | None, found: Mapping[str, float]) -> dict[str, float]:
    """Kinds of memory that lie upon one another, none of them counted twice.

    A device of its own has `allocated` tensors and what its `driver` keeps beyond them. On a CPU the tensors are a part of what
    is `resident`.
    """
    base = found.get("allocated") if counted is None else counted
    layers = {} if base is None else {"counts for the budget": base}
    if "driver" in found:
        layers["kept by the driver"] = max(0.0, found["driver"] - (base or 0.0))
        if "resident" in found:
            layers["process"] = found["resident"]
    elif "resident" in found:
        layers["rest of the process"] = max(0.0, found["resident"] - (base or 0.0))
    if "swap" in found:
        layers["swap"] = found["swap"]
    return layers


def stages(view: View) -> list[dict[str, Any]]:
    """The milliseconds of a step of one run by stage, stacked."""
    named = {"wait": "wait for data", "first": "first pass", "second": "second pass"}
    return _several(view, "seconds", 1000, stacked=True, words=named, fewest=1)


def grad_norms(view: View) -> list[dict[str, Any]]:
    """The gradient norm of each tower of one run, the spikes of the loss among its points."""
    return _several(view, "grad_norms", fewest=1, every=True)


def device(view: View) -> list[dict[str, Any]]:
    """How much of the time the device of one run had work, and of its matmul bound was reached, in %."""
    series = []
    for colour, (key, words) in zip(
        RUNS, (("busy", "has work"), ("matmul_share", "of the matmul bound")), strict=False
    ):
        if data := values(_firsts(view.focus), key, 100):
            series.append(curve(words, colour, smoothed(data, view.smoothing)))
    return series


def effective_rank(view: View) -> list[dict[str, Any]]:
    """The effective rank of the embeddings of one run."""
    return _health(view, ("effective_rank_image", "images"), ("effective_rank_text", "texts"))


def geometry(view: View) -> list[dict[str, Any]]:
    """Alignment, uniformity and modality gap of one run."""
    return _health(
        view,
        ("alignment", "alignment"),
        ("uniformity_image", "uniformity, images"),
        ("uniformity_text", "uniformity, texts"),
        ("modality_gap", "modality gap"),
    )


CHARTS = (
    Chart("Loss", loss),
    Chart("Selection score on val", selection_score),
    Chart("Retrieval on val", retrieval),
    Chart("Zero-shot on val", zeroshot),
    Chart("Samples a second", throughput, from_zero=True),
    Chart("Gradient norm", grad_norm, from_zero=True),
    Chart("Learning rate", learning_rate, from_zero=True),
    Chart("Logit scale", logit_scale),
    Chart("Logit bias", logit_bias),
    Chart("Memory (GB)", memory, details=True, from_zero=True),
    Chart("Time of a step by stage (ms)", stages, details=True, from_zero=True),
    Chart("Gradient norm by tower", grad_norms, details=True, from_zero=True),
    Chart("Device (%)", device, details=True, from_zero=True),
    Chart("Loss by part", loss_parts, details=True),
    Chart("Effective rank of the embeddings", effective_rank, details=True, from_zero=True),
    Chart("Alignment, uniformity, modality gap", geometry, details=True),
)


def histogram(view: View) -> tuple[list[str], list[dict[str, Any]]]:
    """How similar pairs and non-pairs of val are, as shares of each: the middles of the bins, and the two series.

    Of the newest evaluation that says so; nothing where none does.
    """
    for one in reversed(view.focus.reader.seen.evaluations):
        said = within(one, "health", "similarity")
        if not isinstance(said, Mapping):
            continue
        edges, series = said.get("edges") or [], []
        for key, words, colour in (("negative", "not pairs", RUNS[1]), ("positive", "pairs", RUNS[0])):
            counts = [number(count) or 0.0 for count in said.get(key) or []]
            total = sum(counts)
            if total and len(counts) + 1 == len(edges):
                bars = {"barGap": "-100%", "barCategoryGap": "0%", "itemStyle": {"opacity": 0.65}}
                shares = [rounded(100 * count / total) for count in counts]
                series.append({"name": words, "type": "bar", "color": colour, "data": shares, **bars})
        if series:
            return [f"{(low + high) / 2:.2f}" for low, high in pairwise(edges)], series
    return [], []


def _firsts(run: Watched) -> list[dict[str, Any]]:
    """One step of each neighbourhood, and the newest."""
    seen = run.reader.seen
    events = [one.first.event for one in seen.steps.all]
    if seen.last and (not events or step_of(seen.last) > step_of(events[-1])):
        events.append(seen.last)
    return events


def _of_runs(view: View, key: str, *, smooth: bool = True) -> list[dict[str, Any]]:
    """One figure of the steps of each run."""
    series = []
    for colour, run in view.coloured:
        if data := values(_firsts(run), key):
            series.append(curve(run.name, colour, smoothed(data, view.smoothing) if smooth else data))
    return series


def _several(
    view: View,
    key: str,
    factor: float = 1.0,
    *,
    stacked: bool = False,
    words: Mapping[str, str] | None = None,
    fewest: int = 2,
    every: bool = False,
) -> list[dict[str, Any]]:
    """Each figure of a table that the steps of one run have under `key`; [] where there are fewer than `fewest`."""
    run = view.focus
    events = [one.event for one in run.reader.seen.steps.kept()] if every else _firsts(run)
    tables = [(step_of(one), table) for one in events if isinstance(table := one.get(key), Mapping)]
    names = list(dict.fromkeys(name for _, table in tables for name in table))
    if "wait" in names:  # as the stages follow one another
        names = ["wait", *(name for name in names if name != "wait")]
    if len(names) < fewest:
        return []
    series = []
    for place, name in enumerate(names):
        data: Data = [[step, rounded(number(table.get(name)), factor)] for step, table in tables]
        line = curve((words or {}).get(name, name), RUNS[place % len(RUNS)], data, width=1.5)
        if stacked:
            line |= {"data": smoothed(data, view.smoothing), "stack": key, "areaStyle": {"opacity": 0.35}}
        series.append(line)
    return series


def _health(view: View, *wanted: tuple[str, str]) -> list[dict[str, Any]]:
    """Figures of the evaluations' health of one run."""
    series = []
    for colour, (key, words) in zip(RUNS, wanted, strict=False):
        series += of_evaluations(view.focus, colour, words, lambda one, key=key: within(one, "health", key))  # type: ignore[misc]
    return series


def _marks(run: Watched, view: View) -> dict[str, Any]:
    """Lines where the size of the images, the micro-batch or the course of a run changed."""
    others = run.reader.seen.others
    words: dict[int, list[str]] = {}
    for kind in ("stage", "memory", "rewind"):
        for one in list(others.get(kind, ()))[-MOST_MARKS:]:
            words.setdefault(step_of(one), []).append(_mark(one))
    marks = [{"xAxis": step, "label": {"formatter": ", ".join(said)}} for step, said in sorted(words.items())]
    colour = SOFT if len(view.runs) == 1 else RUNS[list(view.runs).index(run) % len(RUNS)]
    return {
        "markLine": {
            "data": marks,
            "symbol": "none",
            "animation": False,
            "silent": True,
            "lineStyle": {"color": colour, "type": "dashed", "width": 1},
            "label": {
                "color": SOFT,
                "position": "insideEnd",
                "rotate": 0,
                "align": "left",
                "padding": [2, 0, 0, 6],
                "fontSize": 11,
            },
        }
    }


def _mark(event: Mapping[str, Any]) -> str:
    if event["event"] == "stage":
        return f"{event.get('size_px')} px"
    return "back to here" if event["event"] == "rewind" else f"micro-batch {event.get('micro_batch')}"
