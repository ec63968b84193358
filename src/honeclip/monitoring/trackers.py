"""A run's figures in the tracker that somebody uses already: read from events.jsonl, while the run goes on or long after.

The loop knows nothing of trackers. A tracker is opened anew where a resumed run has cut its file back, and given everything
again; what comes after a step that the run went back from takes the place of what stood there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from honeclip.monitoring.follow import Place, news

POLL_S = 1.0
"""Between two looks at the file of a run that goes on."""

SILENCE_S = 60.0
"""Without an event, after which it is asked whether the run's process is there still: a run may begin after its tracker, and
to ask takes the run's lock for a moment."""

PREFIXES = {"step": "train", "evaluation": "val"}
"""Before the figures of an event; those of others have its name before them."""

NO_FIGURES = (
    "event",
    "step",
    "time",
    "metrics",
    "examples",
    "hardest",
    "similarity",
    "size_px",
    "before_px",
    "rewinds",
)

NO_CURVES = ("begin", "stage")
"""Events whose numbers are settings."""

Histogram = tuple[Sequence[float], Sequence[float]]
"""N + 1 edges and N counts."""


@dataclass(frozen=True)
class Figures:
    """What one event says in numbers.

    Attributes:
        step: after how many steps.
        time: seconds since 1970.
        values: by name, such as "train/loss" or "val/retrieval/image_to_text/R@10".
        histograms: by name.
    """

    step: int
    time: float
    values: dict[str, float]
    histograms: dict[str, Histogram]


class Tracker(Protocol):
    """Where figures go."""

    def write(self, figures: Figures) -> None:
        """Takes the figures of one event."""

    def back_to(self, step: int) -> None:
        """What was written of later steps no longer holds."""

    def flush(self) -> None:
        """Makes what was written visible."""

    def close(self) -> None:
        """Takes nothing more."""


@dataclass(frozen=True)
class Tracked:
    """What became of a run that was tracked.

    Attributes:
        step: the last one.
        ended: whether its events say how it ended.
    """

    step: int
    ended: bool


def track(
    file: Path,
    opened: Callable[[], Tracker],
    *,
    follow: bool = False,
    is_alive: Callable[[], bool] = lambda: True,
    silence_s: float = SILENCE_S,
) -> Tracked:
    """Gives a tracker what a file of events says.

    Args:
        file: events.jsonl.
        opened: opens the tracker, empty; again where the file was cut back.
        follow: goes on until the run has ended.
        is_alive: whether somebody is writing the file: a run that is killed says of no end.
        silence_s: it is asked when nothing has come for so long.
    """
    tracker, place, last, ended, gone, news_at = opened(), Place(), 0, False, False, time.monotonic()
    try:
        while True:
            found = news(file, place)
            place = found.place
            if found.again:
                tracker.close()
                tracker, last = opened(), 0
            for event in found.events:
                ended = event.get("event") == "end"
                last = _take(tracker, event, last)
            if found.events or found.again:
                news_at = time.monotonic()
            if found.more:
                continue
            if ended or gone or not follow:
                return Tracked(last, ended)
            if time.monotonic() - news_at >= silence_s and not is_alive():
                gone = True
                continue  # what was written before it went is read once more
            tracker.flush()
            time.sleep(POLL_S)
    finally:
        tracker.close()


def _take(tracker: Tracker, event: Mapping[str, Any], last: int) -> int:
    if event.get("event") == "rewind" and isinstance(event.get("step"), int):
        tracker.back_to(event["step"])
        return int(event["step"])
    found = figures(event)
    if found is None:
        return last
    tracker.write(found)
    return max(last, found.step)


def figures(event: Mapping[str, Any]) -> Figures | None:
    """The numbers of an event; None where it has none, or no step. Texts, pictures and intervals are left out."""
    kind, step, when = event.get("event"), event.get("step"), _number(event.get("time"))
    if not isinstance(kind, str) or kind in NO_CURVES or not isinstance(step, int) or when is None:
        return None
    prefix = PREFIXES.get(kind, kind)
    values = _flat(prefix, event)
    metrics = event.get("metrics")
    if isinstance(metrics, Mapping):
        values |= _measured(prefix, metrics)
    histograms = _histograms(prefix, event)
    return Figures(step, when, values, histograms) if values or histograms else None


def _flat(prefix: str, found: Mapping[str, Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key, one in found.items():
        if key in NO_FIGURES:
            continue
        if isinstance(one, Mapping):
            values |= _flat(f"{prefix}/{key}", one)
        elif (number := _number(one)) is not None:
            values[f"{prefix}/{key}"] = number
    return values


def _measured(prefix: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of METRICS what has an interval: the value alone. Numbers beside it are facts of the data."""
    values: dict[str, float] = {}
    for key, one in metrics.items():
        if not isinstance(one, Mapping):
            continue
        value = _number(one.get("value"))
        values |= {f"{prefix}/{key}": value} if value is not None else _measured(f"{prefix}/{key}", one)
    return values


def _histograms(prefix: str, event: Mapping[str, Any]) -> dict[str, Histogram]:
    health = event.get("health")
    found = health.get("similarity") if isinstance(health, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(edges := found.get("edges"), list):
        return {}
    counts = {key: found.get(key) for key in ("positive", "negative")}
    return {
        f"{prefix}/similarity/{key}": (edges, one)
        for key, one in counts.items()
        if isinstance(one, list) and len(one) + 1 == len(edges)
    }


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
