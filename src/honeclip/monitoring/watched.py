"""A run folder that is watched: its events, its config, and what both say of it now in figures and words.

Nothing here needs the machine on which the run was made: a copied folder is watched like one that is being written.
"""

from __future__ import annotations

import contextlib
import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from honeclip.errors import RunError
from honeclip.monitoring.reader import Reader, moment, number, score, step_of
from honeclip.monitoring.terminal import duration

RECENT = 20
"""Neighbourhoods of steps of which the speed and the loss of the moment are taken."""

QUIET_S = 60.0
QUIET_STEPS = 20
"""A run is quiet when nothing was written for so many seconds, and for so many times the time of a step."""


@dataclass(eq=False)
class Watched:
    """One run.

    Attributes:
        name: what tells it from the others, the end of its path.
        folder: the run folder.
        reader: of its events.
        config: run.toml; {} where it cannot be read.
    """

    name: str
    folder: Path
    reader: Reader
    config: dict[str, Any] = field(default_factory=dict)
    _config_time: float = -1.0

    @property
    def finished(self) -> bool:
        """Whether the run has ended as it was meant to: only then there is a result."""
        return (self.folder / "result.json").is_file()

    def look(self) -> bool:
        """Reads a piece of what is new; gives whether there was something."""
        with contextlib.suppress(OSError):
            changed = (self.folder / "run.toml").stat().st_mtime
            if changed != self._config_time:
                self.config, self._config_time = _config(self.folder / "run.toml"), changed
        return self.reader.read()

    @property
    def data_folder(self) -> Path | None:
        """The folder that the pictures lie in; None where it is not on this machine.

        Where the data lay inside of the run's own folder, as the sample data do, it is found in a copy as well.
        """
        data = self.config.get("data")
        path = data.get("path") if isinstance(data, dict) else None
        if not isinstance(path, str) or not path:
            return None
        for one in (Path(path), self.folder / Path(path).name):
            if one.is_dir():
                return one
            if one.is_file():
                return one.parent
        return None


def open_runs(paths: Sequence[Path]) -> list[Watched]:
    """The runs of these folders, in their order, each once.

    Raises:
        RunError: all of them that are no run folders.
    """
    folders = list(dict.fromkeys(path.absolute() for path in paths))
    strange = [path for path in paths if not is_run(path)]
    if strange:
        names = ", ".join(map(str, strange))
        raise RunError(
            f"no run folder: {names}. A run folder holds run.toml and events.jsonl; `honeclip fit` makes one"
        )
    return [
        Watched(name, folder, Reader(folder / "events.jsonl"))
        for name, folder in zip(_names(folders), folders, strict=True)
    ]


def is_run(path: Path) -> bool:
    """Whether a run was begun in a folder, or its events were copied into it."""
    return any((path / name).is_file() for name in ("run.toml", "events.jsonl"))


def begin(run: Watched) -> dict[str, Any]:
    """What the run said when it began or went on; {} for one that was made before runs said it."""
    said = run.reader.seen.others.get("begin")
    return said[-1] if said else {}


def last_moment(run: Watched) -> float:
    """When the newest event was written, in seconds since 1970; 0 before the first."""
    seen = run.reader.seen
    newest = [run.reader.newest, *seen.evaluations[-1:], *(kind[-1] for kind in seen.others.values() if kind)]
    return max((moment(one) for one in newest), default=0.0)


def state(run: Watched, now: float | None = None) -> tuple[str, str]:
    """Where the run stands, as a kind (waiting, reading, training, ending, quiet, stopped, finished) and in words."""
    reader = run.reader
    if reader.size - reader.offset > 0 and reader.share < 0.99:
        return "reading", f"reading, {reader.share:.0%}"
    if run.finished:
        return "finished", "finished"
    if (ends := reader.seen.others.get("end")) and ends[-1].get("status") != "done":  # a run that goes on cuts it off
        return "stopped", f"{ends[-1].get('status')}: {ends[-1].get('words')}"
    last = last_moment(run)
    if not last:
        return "waiting", "waiting for the first step"
    if (total := total_steps(run)) and step_of(reader.newest) >= total:
        return "ending", "all steps are done, the report is not there yet"
    age = (time.time() if now is None else now) - last
    if age > max(QUIET_S, QUIET_STEPS * (seconds_per_step(run) or 0.0)):
        return "quiet", f"no event for {duration(age)}"
    return "training", "training" if reader.newest else "waiting for the first step"


def total_steps(run: Watched) -> int | None:
    """Steps of the whole run; None where nobody said."""
    said = number(begin(run).get("steps"))
    return None if said is None else int(said)


def seconds_per_step(run: Watched) -> float | None:
    """Seconds from step to step since the run began or went on, evaluations and saving included; None before the second."""
    first, newest = begin(run), run.reader.newest
    if not first:
        kept = run.reader.seen.steps.all
        first = kept[0].first.event if kept else {}
    steps, seconds = step_of(newest) - step_of(first), moment(newest) - moment(first)
    return seconds / steps if first and newest and steps > 0 and seconds > 0 else None


def seconds_left(run: Watched) -> float | None:
    """Seconds until the last step, by the speed since the run began or went on; None where that is not known."""
    total, each = total_steps(run), seconds_per_step(run)
    if total is None or each is None or run.finished:
        return None
    return max(0, total - step_of(run.reader.newest)) * each


def recent(run: Watched, key: str) -> float | None:
    """The median of a figure over the newest kept steps; None where no step has it."""
    values = [number(one.first.event.get(key)) for one in run.reader.seen.steps.all[-RECENT:]]
    values = [*values, number(run.reader.newest.get(key))]
    known = [one for one in values if one is not None]
    return median(known) if known else None


def figures(run: Watched) -> dict[str, str]:
    """What the page and the table of runs say of the moment; "-" where it is not known."""
    newest, seen = run.reader.newest, run.reader.seen
    total, left, best = total_steps(run), seconds_left(run), seen.best
    each, speed, busy = seconds_per_step(run), recent(run, "samples_per_second"), recent(run, "busy")
    loss, share, scale = recent(run, "loss"), recent(run, "matmul_share"), number(newest.get("logit_scale"))
    budget, held = number(begin(run).get("budget_bytes")), number(newest.get("memory_bytes"))
    steps = f"{step_of(newest):,}" + (f" / {total:,}" if total else "")
    return {
        "step": steps if newest else "-",
        "left": "-" if left is None else duration(left),
        "loss": _short(loss),
        "best": "-" if best is None else f"{score(best):.3f}",
        "best_step": "-" if best is None else f"{step_of(best):,}",
        "speed": "-" if speed is None else f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}",
        "each": "-" if each is None else (f"{1000 * each:.0f} ms" if each < 1 else f"{each:.3g} s"),
        "memory": "-" if held is None else gigabytes(held) + (f" / {gigabytes(budget)}" if budget else "") + " GB",
        "busy": "-" if busy is None else f"{busy:.0%}",
        "matmul": "-" if share is None else f"{share:.0%}",
        "scale": _short(scale),
        "micro": str(newest.get("micro_batch", "-")),
    }


def gigabytes(number_of_bytes: float) -> str:
    """In GB (1e9 bytes), with the digits that matter."""
    return f"{number_of_bytes / 1e9:.3g}" if number_of_bytes >= 1e8 else f"{number_of_bytes / 1e9:.2f}"


def apart(run: Watched) -> str:
    """How long evaluating and saving took, in a sentence; "" where the run does not say."""
    seen, parts = run.reader.seen, []
    for words, events in (
        ("evaluations", seen.evaluations),
        ("saves", list(seen.others.get("checkpoint", ()))),
    ):
        took = [one for event in events if (one := number(event.get("seconds"))) is not None]
        if took:
            parts.append(f"{len(took)} {words} took {_briefly(sum(took))}, {_briefly(sum(took) / len(took))} each")
    return "; ".join(parts)


def in_words(event: Mapping[str, Any]) -> str:
    """An event in a sentence; one of an unknown kind as it stands."""
    kind = event.get("event")
    if kind == "begin" and event.get("steps"):
        verb = f"goes on after step {step_of(dict(event))} of" if event.get("step") else "begins:"
        return f"{verb} {event['steps']} steps on {event.get('device', '?')}, {event.get('precision', '?')}"
    if kind == "data" and isinstance(splits := event.get("splits"), Mapping):
        leaks = event.get("leaks")
        shared = leaks if isinstance(leaks, Mapping) else {}
        found = [
            f"{shared[what]} share their {what} with another split" for what in ("pixels", "group") if shared.get(what)
        ]
        if shared.get("near"):
            found.append(f"{shared['near']} of {shared.get('near_of')} held-out pictures are nearly one of train")
        rows = ", ".join(f"{count} {name}" for name, count in splits.items())
        return "; ".join([f"{event.get('rows')} rows ({rows})", *found])
    if kind == "evaluation":
        value = number(event.get("score"))
        said = "no score" if value is None else f"{event.get('words') or 'score'} {value:.3f}"
        return said + (", the best so far" if event.get("best") else "")
    if kind == "stage":
        return f"images at {event.get('size_px')} px instead of {event.get('before_px')} px: {event.get('reason', '')}"
    if kind == "rewind":
        return f"back from step {event.get('from_step')} to step {event.get('step')}: too much was forgotten"
    if kind == "checkpoint":
        took, writing, size = (number(event.get(key)) for key in ("seconds", "writing_seconds", "bytes"))
        parts = ["saved", "" if size is None else f"{size / 1e6:.3g} MB"]
        parts += ["" if took is None else f"steps waited {took:.2g} s"]
        parts += ["" if writing is None else f"written in {writing:.2g} s"]
        return ", ".join(part for part in parts if part)
    if kind == "finishing":
        return "all steps are done; the best model is scored and the report made"
    if kind == "end":
        return ": ".join(str(part) for part in (event.get("status"), event.get("words")) if part)
    if "reason" in event:
        return str(event["reason"])
    rest = {key: value for key, value in event.items() if key not in ("event", "step", "time")}
    said = json.dumps(rest, default=str, ensure_ascii=False)
    return said if len(said) <= 160 else said[:157] + "..."


def _briefly(seconds: float) -> str:
    """A duration, of a few seconds with the digits that matter."""
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _config(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # wrong TOML and wrong UTF-8 are both ValueErrors
        return {}


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = 1
    while True:
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        parts += 1
