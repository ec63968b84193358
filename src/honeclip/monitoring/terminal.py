"""Progress for a person: one moving bar on a terminal, a few plain lines in a log, all of it on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

LOG_SHARE = 0.1
"""In a log, a line at least so often: ten of them a run, more where `every_s` says so."""


@dataclass
class _Work:
    """One piece of work: when and at what count it began, when and at what count it was last shown."""

    began_s: float
    began_at: int
    shown_s: float
    shown_at: int
    task: TaskID | None


class Progress:
    """Shows how far pieces of work have come. Use it as a context: leaving it takes the bar off the terminal.

    Args:
        console: where to write; standard error when None. Whether it is a terminal decides between bar and lines.
        every_s: seconds after which a log gets another line.
        clock: seconds, never going back.
    """

    def __init__(
        self, console: Console | None = None, every_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True)
        self._every_s = every_s
        self._clock = clock
        self._work: dict[str, _Work] = {}
        self._saved = ""
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}", markup=False),
            console=self._console,
            # No thread of its own: the bar moves when the work does. What is printed on standard output is left alone.
            auto_refresh=False,
            redirect_stdout=False,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Writes a line that stays, above the bar where there is one."""
        self._print(text)

    def step(
        self,
        done: int,
        total: int,
        *,
        loss: float,
        samples_per_second: float,
        memory_bytes: int,
        budget_bytes: int | None = None,
        best: float | None = None,
    ) -> None:
        """Shows a step of training: its 1-based number, of how many, and the figures of the moment (GB = 1e9 bytes).

        Args:
            done: the step.
            total: steps of the run.
            loss: of the step.
            samples_per_second: of the step.
            memory_bytes: what counts for the budget now.
            budget_bytes: the budget; None where it is not known.
            best: the best selection score on val so far; None before there is one.
        """
        memory = f"{memory_bytes / 1e9:.2f}{'' if budget_bytes is None else f' of {budget_bytes / 1e9:.3g}'} GB"
        figures = [f"loss {loss:.4g}", f"{samples_per_second:.3g} samples/s", memory]
        figures += [] if best is None else [f"best {best:.3f}"]
        self.update("training", done, total, ", ".join(figures + ([self._saved] if self._saved else [])))

    def saved(self, step: int, size_bytes: int, seconds: float) -> None:
        """Shows beside the steps from now on which checkpoint is the newest, how large it is and how long it was written."""
        self._saved = f"saved at {step} ({size_bytes / 1e6:.3g} MB in {seconds:.2g} s)"

    def counter(self, title: str) -> Callable[[int, int], None]:
        """A function of (done, total) that shows one piece of work, such as computing features."""
        return lambda done, total: self.update(title, done, total)

    def update(self, title: str, done: int, total: int, figures: str = "") -> None:
        """Shows that `done` of `total` are done; a log gets a line for the first, the last, and now and then."""
        now = self._clock()
        work = self._work.get(title)
        first = work is None or done < work.shown_at  # the same work can be done again, as an evaluation is
        if work is None or first:
            work = self._work[title] = _Work(now, done, now, done, work.task if work else None)
        said = ", ".join(part for part in (f"{done}/{total}", figures, self._left(work, now, done, total)) if part)
        if self._console.is_terminal:
            if work.task is None:
                work.task = self._bar.add_task(title, said="")
            self._bar.update(work.task, completed=done, total=total, said=said, visible=done < total)
            self._bar.refresh()
        elif first or done >= total or now - work.shown_s >= self._every_s or done - work.shown_at >= total * LOG_SHARE:
            work.shown_s, work.shown_at = now, done
            self._print(f"{title} {said}")

    def _print(self, text: str) -> None:
        """The text as it is: no markup, no colours, no line breaks of rich's own."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _left(self, work: _Work, now: float, done: int, total: int) -> str:
        if done <= work.began_at or done >= total:
            return ""
        return f"{duration((now - work.began_s) / (done - work.began_at) * (total - done))} left"


def duration(seconds: float) -> str:
    """Seconds as people say them: "8 s", "3 min 20 s", "2 h 05 min", and from two days on "3 days"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} days"
