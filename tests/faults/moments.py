"""Moments of a run as they are seen from outside, by what it has written: where a test kills it or sends it a signal."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from honeclip.monitoring import events

PHASES = ("start", "step", "evaluation", "save", "finish")


def count(out: Path, event: str) -> int:
    """Events of a kind so far."""
    try:
        return (out / "events.jsonl").read_bytes().count(b'{"event": "%s"' % event.encode())
    except FileNotFoundError:
        return 0


def saving(out: Path, step: int) -> bool:
    """Whether the files of a checkpoint are being written."""
    return any((out / "checkpoints").glob(f"step-{step:06d}.partial-*"))


def begins(phase: str, out: Path, step: int) -> Callable[[], object]:
    """Whether a phase has begun: the steps, the evaluation or the save after `step` steps, the end of the run."""
    return {
        "start": lambda: True,
        "step": lambda: count(out, "step") >= step,
        "evaluation": lambda: count(out, "step") >= step,
        "save": lambda: saving(out, step) or count(out, "step") > step,
        "finish": lambda: count(out, "finishing"),
    }[phase]


def lasts(whole: Path, phase: str, started: float, ended: float) -> float:
    """Seconds of a phase in a run that was not disturbed.

    Args:
        whole: the run.
        phase: of `PHASES`.
        started: when its process was started, in seconds since 1970.
        ended: when it had ended.
    """
    told = events.read(whole / "events.jsonl")
    at = {kind: [one["time"] for one in told if one["event"] == kind] for kind in ("data", "step", "finishing")}
    spent = {kind: max(one["seconds"] for one in told if one["event"] == kind) for kind in ("evaluation", "checkpoint")}
    return {
        "start": at["step"][0] - started,
        "step": (at["step"][-1] - at["step"][0]) / len(at["step"]),
        "evaluation": spent["evaluation"],
        "save": spent["checkpoint"],
        "finish": ended - at["finishing"][0],
    }[phase]


def wait(seconds: float, over: Callable[[], bool]) -> None:
    """So long, or until the process has ended."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not over():
        time.sleep(min(0.0005, seconds))
