"""What is worth telling of a run, found in its events one by one: `after` takes one event, `stalled` the lack of them.

It reads what any run wrote, also one of an older or newer version: an event or a field that it does not know is passed over.
Nothing here knows the training loop, sends anything, or looks at a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from honeclip import notices
from honeclip.notices import Target

STALLED_MEDIANS = 20
"""A run has stalled when nothing has come for so many times the median step, see `patience_s`."""

STALLED_PAUSES = 3
"""And for so many times the longest pause so far: evaluations and saves lie between steps and are longer than these."""

STALLED_LEAST_S = 300.0
"""And for so long: a step of milliseconds waits longer than 20 of them for any disk."""

STEPS_KEPT = 101
"""Whose median is the length of a step."""

PLATEAU_EVALUATIONS = 3
"""So many evaluations in a row that are not the best so far are a plateau."""


@dataclass(frozen=True)
class Milestone:
    """Something to tell.

    Attributes:
        name: one of `notices.MOMENTS`, or a comparison as it is written.
        step: after how many steps; 0 where none was done.
        words: a sentence.
        time: of the event, in seconds since 1970; 0 where there is none.
    """

    name: str
    step: int
    words: str
    time: float = 0.0

    @property
    def key(self) -> tuple[str, int, float]:
        """By which the same milestone is known in a file that is read again. A run may end at one step several times; what
        it reaches at a step it reaches there again after a resume."""
        return (self.name, self.step, self.time if self.name in ("failed", "interrupted", "done") else 0.0)


@dataclass(frozen=True)
class Seen:
    """What was seen of a run so far.

    Attributes:
        step: the last one.
        evaluations: those after a step.
        best: the best score of the images' size at hand, and its step; None before it.
        size_px: of the last evaluation.
        worse: evaluations in a row that were not the best.
        reached: targets that were.
        missing: targets whose figure this data cannot give.
        pieces: the smallest micro-batch that a step was done in after running out of memory; 0 before it.
        durations_s: of the last steps.
        step_time: of the last step; None before the first, and after a break.
        last_time: of the last event.
        pause_s: the longest time between two events since the first step.
        ended: what the last `end` event said, or "".
        waits: whether steps are to be expected.
        study: whether it is no run but a study, whose `step` counts trials.
    """

    step: int = 0
    evaluations: int = 0
    best: tuple[float, int] | None = None
    size_px: object = None
    worse: int = 0
    reached: frozenset[Target] = frozenset()
    missing: frozenset[Target] = frozenset()
    pieces: int = 0
    durations_s: tuple[float, ...] = ()
    step_time: float | None = None
    last_time: float | None = None
    pause_s: float = 0.0
    ended: str = ""
    waits: bool = False
    study: bool = False


def after(seen: Seen, event: Mapping[str, Any], targets: Sequence[Target] = ()) -> tuple[Seen, tuple[Milestone, ...]]:
    """What was seen after one more event, and the milestones that it is.

    Args:
        seen: before it; `Seen()` at the start of a file.
        event: one line of events.jsonl.
        targets: figures to be reached; each is told once.
    """
    kind, time = event.get("event"), _number(event.get("time"))
    step = int(_number(event.get("step")) or 0)
    found: tuple[Milestone, ...] = ()
    if kind == "step" and step:
        seen, found = _stepped(seen, event, step, time)
    elif kind == "evaluation":
        seen, found = _evaluated(seen, event, step, targets)
    elif kind == "memory" and seen.step == step and "out of memory" in str(event.get("reason")):
        seen, found = _squeezed(seen, event, step)
    elif kind == "rewind":
        seen = replace(seen, step=step, step_time=None)
    elif kind == "trial":
        seen, found = _tried(seen, event, step)
    elif kind == "finishing":
        seen = replace(seen, waits=False, step_time=None)
    elif kind == "end":
        seen, found = _ended(seen, event)
    seen = seen if time is None else replace(_paused(seen, kind, time), last_time=time)
    return seen, tuple(replace(one, time=time or 0.0) for one in found)


def patience_s(seen: Seen, least_s: float = STALLED_LEAST_S) -> float | None:
    """Seconds without any event after which the run counts as stalled; None where no step is to be expected."""
    if not seen.waits or not seen.durations_s:
        return None
    return max(STALLED_MEDIANS * median(seen.durations_s), STALLED_PAUSES * seen.pause_s, least_s)


def stalled(seen: Seen, idle_s: float, least_s: float = STALLED_LEAST_S) -> Milestone | None:
    """The milestone of a run that says nothing any more.

    Args:
        seen: so far.
        idle_s: since the last event came, by the clock of who asks: the events' own may be that of another machine.
        least_s: a shorter silence is never a stall.
    """
    limit = patience_s(seen, least_s)
    if limit is None or idle_s < limit:
        return None
    words = (
        f"no step for {idle_s:.0f} s after step {seen.step}; a step took {median(seen.durations_s):.2g} s, the longest pause "
        f"so far {seen.pause_s:.2g} s"
    )
    return Milestone("stalled", seen.step, words)


def _paused(seen: Seen, kind: object, time: float) -> Seen:
    """With the time since the last event. A machine that slept, or a stall, is no pause that may come again: a long one
    counts before an evaluation or a checkpoint only. A clock that is set back makes no pause."""
    if not seen.waits or seen.last_time is None:
        return seen
    pause, limit = time - seen.last_time, patience_s(seen)
    usual = kind in ("evaluation", "checkpoint") or limit is None or pause < limit
    return replace(seen, pause_s=max(seen.pause_s, pause)) if usual else seen


def _stepped(seen: Seen, event: Mapping[str, Any], step: int, time: float | None) -> tuple[Seen, tuple[Milestone, ...]]:
    durations = seen.durations_s
    if time is not None and seen.step_time is not None and time >= seen.step_time and step == seen.step + 1:
        durations = (*durations, time - seen.step_time)[-STEPS_KEPT:]
    seen = replace(seen, step=step, step_time=time, durations_s=durations, waits=True, ended="")
    return _squeezed(seen, event, step) if _number(event.get("retries")) else (seen, ())


def _squeezed(seen: Seen, event: Mapping[str, Any], step: int) -> tuple[Seen, tuple[Milestone, ...]]:
    """Out of memory: told where the pieces are smaller than they ever were, so that growing back and forth is told once."""
    pieces = int(_number(event.get("micro_batch")) or 1)
    if seen.pieces and pieces >= seen.pieces:
        return seen, ()
    words = f"step {step} ran out of memory and was done again with micro-batches of {pieces}; the result is the same"
    return replace(seen, pieces=pieces), (Milestone("memory", step, words),)


def _evaluated(
    seen: Seen, event: Mapping[str, Any], step: int, targets: Sequence[Target]
) -> tuple[Seen, tuple[Milestone, ...]]:
    score, words, size_px = _number(event.get("score")), event.get("words"), event.get("size_px")
    said = f"{words} on val is {score:.3f}" if score is not None else "val was evaluated"
    missing = {target for target in targets if notices.value(event, target.figure) is None}
    seen = replace(seen, missing=seen.missing | missing)
    if seen.size_px != size_px:  # scores of two sizes are not of the same pictures
        seen = replace(seen, best=None, size_px=size_px, worse=0)
    before, found = seen.best, []
    if step == 0:  # of the start: nothing was learned
        return (seen if score is None else replace(seen, best=(score, 0))), ()
    if not seen.evaluations:
        found.append(Milestone("first", step, f"first evaluation, after step {step}: {said}{_instead(before)}"))
    seen = replace(seen, evaluations=seen.evaluations + 1)
    if event.get("best") and score is not None:
        found.append(Milestone("best", step, f"new best after step {step}: {said}{_instead(before)}"))
        seen = replace(seen, best=(score, step), worse=0)
    elif event.get("best") is False:
        seen = replace(seen, worse=seen.worse + 1)
        if seen.worse == PLATEAU_EVALUATIONS:
            best = f"; the best is {before[0]:.3f} of step {before[1]}" if before else ""
            text = f"no better score in {PLATEAU_EVALUATIONS} evaluations, after step {step}: {said}{best}"
            found.append(Milestone("plateau", step, text))
    for target in targets:
        value = notices.value(event, target.figure)
        if value is not None and target not in seen.reached and target.reached(value):
            seen = replace(seen, reached=seen.reached | {target})
            found.append(
                Milestone(
                    str(target), step, f"{target} is reached after step {step}: {target.figure} is {value:.3f} on val"
                )
            )
    return seen, tuple(found)


def _tried(seen: Seen, event: Mapping[str, Any], step: int) -> tuple[Seen, tuple[Milestone, ...]]:
    """A trial of a study. The first best one is what the study was given, and no news."""
    before, score = seen.best, _number(event.get("score"))
    seen = replace(seen, step=step, study=True)
    if not event.get("best") or score is None:
        return seen, ()
    seen = replace(seen, best=(score, step))
    if before is None:
        return seen, ()
    words = f"new best of {step} trials: {event.get('words')}, {score:.4f} on val instead of {before[0]:.4f}"
    return seen, (Milestone("best", step, words),)


def _ended(seen: Seen, event: Mapping[str, Any]) -> tuple[Seen, tuple[Milestone, ...]]:
    status, words = str(event.get("status")), str(event.get("words") or "")
    seen = replace(seen, ended=status, waits=False, step_time=None)
    if status not in ("done", "failed", "interrupted"):
        return seen, ()
    after = f"{seen.step} trials" if seen.study else f"step {seen.step}"
    text = f"{status} after {after}" + (f": {words}" if words else "")
    return seen, (Milestone(status, seen.step, text),)


def _instead(before: tuple[float, int] | None) -> str:
    if before is None:
        return ""
    return f" instead of {before[0]:.3f}" + (f" of step {before[1]}" if before[1] else " at the start")


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
