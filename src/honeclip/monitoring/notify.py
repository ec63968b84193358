"""Tells people of a run. A process of its own follows events.jsonl and sends what `notify.when` asks for.

Of its own, so that sending costs the training nothing and waits for nothing, that a run is told to hang when it hangs, and
that a run that was killed is told of as well: the process hears of the end by a pipe that closes, however its other end
dies. Addresses come over that pipe, for others can read a command line and an environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from honeclip import notices
from honeclip.monitoring import follow, milestones
from honeclip.monitoring.delivery import Courier, Kind, Message
from honeclip.monitoring.events import ending
from honeclip.monitoring.follow import Place, news
from honeclip.monitoring.milestones import STALLED_LEAST_S, Milestone, Seen

POLL_S = 0.5
"""Between two looks at the file."""

GAP_S = 30.0
"""Between two messages: what happens meanwhile is one message, unless it cannot wait."""

URGENT = ("stalled", "failed", "interrupted", "done")

SILENCE_S = 60.0
"""An address that has not taken a message after so long is said not to answer."""

LAST_S = 30.0
"""For what is on its way when the run has ended; after that it is given up."""

PATIENCE_S = LAST_S + 10.0
"""For the process itself to end after the run."""

READY = "ready"
"""What the process says when it knows what is in the file already."""

FINISHED = {"status": "done"}
KILLED = {
    "status": "failed",
    "words": "its process ended without a word, as one does that is killed; fit --resume goes on, or the same tune",
}
"""What the run's process says of its end where nothing went wrong, and what is said of one that says nothing."""

KINDS: dict[str, Kind] = {"failed": "failure", "stalled": "warning", "memory": "warning", "done": "success"}
"""Of milestones; the others are "info"."""


@contextmanager
def telling(
    file: Path,
    run: str,
    found: Sequence[tuple[str, str]],
    when: Sequence[str],
    say: Callable[[str], None],
    stalled_least_s: float = STALLED_LEAST_S,
) -> Iterator[None]:
    """Tells of what is written into a file of events inside; what is there already is not told again.

    Args:
        file: events.jsonl, which may be missing yet.
        run: its name, for titles.
        found: (name to show, address) of everybody who is told; nobody means no process.
        when: as `notify.when`.
        say: told in a thread where an address cannot be reached.
        stalled_least_s: see `milestones.stalled`.
    """
    if not found or not when:
        yield
        return
    orders = {
        "file": str(file.absolute()),
        "run": run,
        "found": list(found),
        "when": list(when),
        "known": follow.end(file).offset,
        "stalled_least_s": stalled_least_s,
        "parent": os.getpid(),
    }
    # -P: a file called like a library in the working directory is not that library
    command = [sys.executable, "-P", "-m", "honeclip.monitoring.notify"]
    ours = str(Path(notices.__file__).parents[1])
    path = os.pathsep.join(one for one in (ours, os.environ.get("PYTHONPATH")) if one)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # whatever a library prints there might have an address in it
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the run, of whose end it has still to tell
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ready, closing = threading.Event(), threading.Event()
    reader = threading.Thread(target=_pass_on, args=(process.stdout, say, ready, closing), daemon=True)
    reader.start()
    try:
        _write(process.stdin, orders)
        # a run that goes on may cut its file back at once, and what stays of it would look new
        ready.wait()
        yield
        _write(process.stdin, FINISHED)
    except BaseException as error:
        _write(process.stdin, ending(error))
        raise
    finally:
        closing.set()
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


def _write(pipe: IO[str], content: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):
        pipe.write(json.dumps(content) + "\n")
        pipe.flush()


def _pass_on(lines: IO[str], say: Callable[[str], None], ready: threading.Event, closing: threading.Event) -> None:
    for line in lines:
        if line.rstrip("\n") == READY:
            ready.set()
        else:
            say(line.rstrip("\n"))
    ready.set()
    if not closing.is_set():
        say("the process that sends notifications has ended, so none come any more; the run goes on")


class _Watch:
    """The process's view of a run: what it has seen, what it has told, and what waits to be told."""

    def __init__(self, file: Path, when: Sequence[str], stalled_least_s: float, known: int) -> None:
        self.file = file
        self.when = when
        self.targets = [one for text in when if (one := notices.target(text)) is not None]
        self.stalled_least_s = stalled_least_s
        self.place = Place()
        self.seen = Seen()
        self.told: set[tuple[str, int, float]] = set()
        self.waiting: list[Milestone] = []
        self.over = False
        self.news_at = time.monotonic()
        if known:
            self.read(known)
            # steps of before say nothing of how long it takes until there are new ones
            self.seen = replace(self.seen, waits=False)

    def read(self, until: int | None = None) -> None:
        """Takes what is new in the file.

        Args:
            until: read no further; what lies before it is known, not told.
        """
        more = True
        while more:
            found = news(self.file, self.place, until)
            self.place, more = found.place, found.more
            if found.again:
                self.seen = Seen()
            for event in found.events:
                self.take(event, is_new=until is None)
            if found.events or found.again:
                self.news_at = time.monotonic()

    def take(self, event: Mapping[str, Any], is_new: bool = True) -> None:
        """Takes one event."""
        self.seen, found = milestones.after(self.seen, event, self.targets)
        self.over = self.over or (is_new and event.get("event") == "end")
        for one in found:
            if is_new:
                self.tell(one)
            self.told.add(one.key)

    def tell(self, one: Milestone) -> None:
        """Puts a milestone among those that wait, where it was asked for and not told before."""
        if one.name not in self.when or one.key in self.told:
            return
        # of several that wait only the newest best is of interest
        self.waiting = [other for other in self.waiting if other.name != "best" or one.name != "best"] + [one]
        self.told.add(one.key)

    def look_for_a_stall(self) -> None:
        """Tells once that nothing comes; again only after further steps."""
        one = milestones.stalled(self.seen, time.monotonic() - self.news_at, self.stalled_least_s)
        if one is not None:
            self.tell(one)


def main() -> None:
    """The process: reads its orders, follows the file until the pipe closes, sends what is left, and ends."""
    orders = json.loads(sys.stdin.readline())
    end = _End(orders["parent"])
    try:
        watch = _Watch(Path(orders["file"]), orders["when"], orders["stalled_least_s"], orders["known"])
        _say(READY)
        couriers = [Courier(name, address, _say) for name, address in orders["found"]]
        _follow(watch, orders["run"], couriers, end)
        _finish(couriers)
    except Exception as error:
        _say(f"notifications have ended with {type(error).__name__}; the run goes on")
    # threads that wait for an address do not keep it
    os._exit(0)


def _follow(watch: _Watch, run: str, couriers: Sequence[Courier], end: _End) -> None:
    """Until the run has ended and everything is handed to the couriers."""
    sent_at, missing = -GAP_S, False
    while True:
        ended = end.came(POLL_S)
        watch.read()
        if ended and not watch.over and end.words != FINISHED:
            watch.take({"event": "end", "time": time.time(), **end.words})
        watch.look_for_a_stall()
        if watch.seen.missing and not missing:
            missing = True
            named = ", ".join(sorted(map(str, watch.seen.missing)))
            _say(f"notify.when: an evaluation of this run on val has no such figure, so it is never told: {named}")
        urgent = ended or any(one.name in URGENT for one in watch.waiting)
        if watch.waiting and (urgent or time.monotonic() - sent_at >= GAP_S):
            message = written(run, watch.waiting)
            for courier in couriers:
                courier.send(message)
            watch.waiting, sent_at = [], time.monotonic()
        for courier in couriers:
            if courier.busy_s > SILENCE_S:
                courier.complain("it does not answer")
        if ended:
            return


def _finish(couriers: Sequence[Courier]) -> None:
    """Waits for what is on its way, and says what had to be given up."""
    until = time.monotonic() + LAST_S
    while any(courier.busy for courier in couriers) and time.monotonic() < until:
        time.sleep(0.05)
    for courier in couriers:
        if courier.busy:
            courier.complain("it does not answer")


def written(run: str, found: Sequence[Milestone]) -> Message:
    """The message of one or more milestones; the last one gives the title."""
    last = found[-1]
    return Message(f"honeclip, {run}: {last.name}", "\n".join(one.words for one in found), KINDS.get(last.name, "info"))


class _End:
    """The end of the run's process, and what it says of it.

    Args:
        parent: the process. One that was forked from it may hold the pipe longer than it lives.
    """

    def __init__(self, parent: int) -> None:
        self.words: dict[str, str] = KILLED
        self._parent = parent
        self._gone = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def came(self, seconds: float) -> bool:
        """Waits for it so long."""
        return self._gone.wait(seconds) or (os.name == "posix" and os.getppid() != self._parent)

    def _wait(self) -> None:
        for line in sys.stdin:
            self.words = json.loads(line)
        self._gone.set()


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens any more where the run was killed
        print(text, flush=True)


if __name__ == "__main__":
    main()
