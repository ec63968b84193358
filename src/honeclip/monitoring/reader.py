"""events.jsonl for whoever watches: read on from where it was read to, kept in bounded memory, whatever becomes of the file.

Most lines of a long run are steps. Of those only number and loss are taken, by a pattern, and only the lines that `thinning`
keeps are parsed, when they are asked for: a million steps are read in about the time in which their bytes are. A line that the
pattern does not know is parsed at once, so the pattern is a short cut and no rule.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from honeclip.monitoring.events import has_at, parsed_line
from honeclip.monitoring.thinning import Steps

CHUNK = 2**19
"""Bytes that are read at once: whoever reads in between other work waits so long, a millisecond or two."""

LONGEST_LINE = 64 * 2**20
"""More bytes than that without a line end are no events."""

TAIL = 2**18
"""Bytes at the end of a long file that are looked at first, so that the newest step is known before all others are."""

MARK = 256
"""Bytes before the offset that are compared, to see that the file is still the one that was read."""

MOST_EVALUATIONS = 400
MOST_OTHERS = 400
"""Events of one kind that are kept besides the steps."""

STEP = re.compile(rb'\{"event": "step", "step": (\d+), "time": [\d.]+, "loss": (-?\d[\d.]*(?:e[-+]?\d+)?),')
"""How `EventLog.append` begins the line of a step with a finite loss."""


@dataclass(eq=False)
class Seen:
    """What is known of a run's events.

    Attributes:
        steps: see `thinning`.
        last: the newest step; {} before the first.
        evaluations: in their order; all of them as long as there are few, then every other one, and always the first, the
            best and the newest.
        others: of every other event, the newest `MOST_OTHERS` of its kind.
        counts: how many lines there were of each of these others.
        torn: lines that were no event.
    """

    steps: Steps = field(default_factory=Steps)
    last: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    others: dict[str, deque[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    torn: int = 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The newest evaluation that was the best when it was made; else the one of the largest score."""
        said = [one for one in self.evaluations if one.get("best")]
        if said:
            return said[-1]
        return max(self.evaluations, key=score, default=None)

    def take(self, event: dict[str, Any]) -> None:
        """Takes an event that is no step."""
        kind = event["event"]
        if kind == "evaluation":
            for one in self.evaluations[-1:]:
                one.pop("examples", None)  # only the newest are shown, and they are what takes room
            self.evaluations.append(event)
            if len(self.evaluations) > MOST_EVALUATIONS:
                self._thin()
            return
        if kind == "rewind":
            self._back_to(step_of(event))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.others.setdefault(kind, deque(maxlen=MOST_OTHERS)).append(event)

    def events(self) -> list[dict[str, Any]]:
        """What rules are asked about, in the order of the steps: all of a run of up to `thinning.MOST` steps.

        Of a longer one the first step of each neighbourhood, whose figures are those of any step: those of the smallest and
        the largest loss would make every loss look noisier than it is. Other events are all there that are kept.
        """
        every = [one.first.event for one in self.steps.all]
        if self.last and (not every or every[-1].get("step") != self.last.get("step")):
            every.append(self.last)
        every += self.evaluations
        every += [one for kind in self.others.values() for one in kind]
        return sorted(every, key=lambda one: (step_of(one), moment(one)))

    def _thin(self) -> None:
        best = self.best
        newest = len(self.evaluations) - 1
        self.evaluations = [
            one for place, one in enumerate(self.evaluations) if place % 2 == 0 or place == newest or one is best
        ]

    def _back_to(self, step: int) -> None:
        """What a run took back is forgotten, as `events.course` does."""
        self.steps.back_to(step)
        self.evaluations = [one for one in self.evaluations if step_of(one) <= step]
        for kind, known in self.others.items():
            if kind != "rewind":
                self.others[kind] = deque((one for one in known if step_of(one) <= step), maxlen=MOST_OTHERS)
        self.last = {}
        for one in self.steps.all[-1:]:
            self.last = one.kept[-1].event


def score(evaluation: dict[str, Any]) -> float:
    """The selection score of an evaluation; minus infinity where it has none."""
    value = number(evaluation.get("score"))
    return -math.inf if value is None else value


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else stands there."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def step_of(event: dict[str, Any]) -> int:
    """The step of an event; 0 where it names none."""
    return int(number(event.get("step")) or 0)


def moment(event: dict[str, Any]) -> float:
    """When an event was written, in seconds since 1970; 0 where it does not say."""
    return number(event.get("time")) or 0.0


class Reader:
    """Follows one events.jsonl.

    Args:
        path: may be missing, now or later.

    Attributes:
        seen: what was read; a new object where the file was cut back or replaced and is read anew.
        offset: bytes that were read.
        size: bytes that the file had when it was last looked at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = Seen()
        self.offset = 0
        self.size = 0
        self._mark = b""
        self._ahead: dict[str, Any] = {}

    @property
    def newest(self) -> dict[str, Any]:
        """The newest step of the file, also while the steps before it are still being read; {} before the first."""
        return self._ahead or self.seen.last

    @property
    def share(self) -> float:
        """How much of the file was read, 0 to 1."""
        return self.offset / self.size if self.size else 1.0

    def read(self, chunk: int = CHUNK) -> bool:
        """Reads at most about `chunk` bytes of what is new; gives whether there was a whole line, or the file is another.

        Half a line at the end is left for the next time. A file that is missing or may not be read is waited for.
        """
        try:
            with self.path.open("rb") as file:
                before, self.size = self.size, file.seek(0, 2)
                anew = not has_at(file, self.offset, self._mark)
                if anew:
                    self.seen, self.offset, self._mark = Seen(), 0, b""
                if self.size - self.offset <= chunk:
                    self._ahead = {}
                elif self.size != before or anew:
                    self._ahead = self._last_step(file)
                return self._read_on(file, chunk) or anew
        except OSError:
            return False

    def _last_step(self, file: BinaryIO) -> dict[str, Any]:
        file.seek(max(0, self.size - TAIL))
        lines = file.read(TAIL).split(b"\n")[1:-1]  # neither of the two ends is a whole line
        steps = (one for line in reversed(lines) if (one := _parsed(line)) and one["event"] == "step")
        return next(steps, {})

    def _read_on(self, file: BinaryIO, chunk: int) -> bool:
        file.seek(self.offset)
        data = file.read(min(chunk, max(0, self.size - self.offset)))
        while (end := data.rfind(b"\n") + 1) == 0:
            more = file.read(chunk)
            if not more and len(data) < LONGEST_LINE:
                return False  # half a line
            if len(data) >= LONGEST_LINE:
                self.seen.torn += 1
                self._read_to(data, len(data))
                return True
            data += more
        self._take(data, end)
        self._read_to(data, end)
        return True

    def _read_to(self, data: bytes, end: int) -> None:
        self.offset += end
        self._mark = (self._mark + data[max(0, end - MARK) : end])[-MARK:]

    def _take(self, data: bytes, stop: int) -> None:
        """Every line of `data[:stop]`."""
        seen, match, newest, begin = self.seen, STEP.match, -1, 0
        add = seen.steps.add
        while begin < stop:
            end = data.index(b"\n", begin)
            if found := match(data, begin, end):
                add(int(found[1]), float(found[2]), data, begin, end)
                newest = begin
            elif (event := _parsed(data[begin:end])) is None or (event["event"] == "step" and step_of(event) < 1):
                seen.torn += 1
            elif event["event"] == "step":
                add(step_of(event), number(event.get("loss")), data, begin, end)
                newest = begin
            else:
                seen.take(event)
                newest = -1 if event["event"] == "rewind" else newest
            begin = end + 1
        if newest >= 0:
            seen.last = _parsed(data[newest : data.index(b"\n", newest)]) or {}


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None where it is none, or of no kind."""
    event = parsed_line(line)
    return event if event is not None and isinstance(event.get("event"), str) else None
