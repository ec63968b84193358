"""Pictures read by threads, with an eye on a file that does not answer: a network drive that is gone, a disk that dies.

Such a read never returns and cannot be called back. So the threads are ones that no process waits for at its end, whoever
waits for a picture looks up once a second, and a file that takes longer than `PATIENCE_S` is named.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

LOOK_S = 1.0
"""Between two looks at what is waited for."""

ASK_S = 5.0
"""A file that takes longer may be given up where somebody wants to stop; before that a read is only slow."""

PATIENCE_S = 15.0
"""A file that takes longer is named. No disk takes so long to begin to turn."""

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """What happens while a file does not answer.

    Attributes:
        say: told once of each file that takes longer than `PATIENCE_S`.
        ask: called once a second from `ASK_S` on; it may raise, and ends the wait.
    """

    say: Callable[[str], None] = logging.getLogger(__name__).warning
    ask: Callable[[], None] = lambda: None


_waiting: ContextVar[Waiting] = ContextVar("honeclip_waiting", default=Waiting())  # noqa: B039 - it is frozen


@contextmanager
def waits(waiting: Waiting) -> Iterator[None]:
    """Inside, this is what happens while a file does not answer."""
    before = _waiting.set(waiting)
    try:
        yield
    finally:
        _waiting.reset(before)


def say(text: str) -> None:
    """Tells whoever `waits` names."""
    _waiting.get().say(text)


class Watch:
    """Which files are being read since when, and which of them were named."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def look(self, reading: Iterable[tuple[str, float]]) -> None:
        """Names files that do not answer, and asks whether to wait any longer.

        Args:
            reading: name of each file that is being read, and seconds since that began.
        """
        waiting = _waiting.get()
        slow = [(name, seconds) for name, seconds in reading if seconds >= ASK_S]
        for name, seconds in slow:
            if seconds >= PATIENCE_S and name not in self._named:
                self._named.add(name)
                waiting.say(
                    f"{name} does not answer: it is being read for {seconds:.0f} s. Is its drive or its network gone? This "
                    "goes on by itself once the file can be read"
                )
        if slow:
            waiting.ask()


class Readers:
    """Threads that read. They end with the process, whatever they wait for.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self._asked: SimpleQueue[Callable[[int], None] | None] = SimpleQueue()
        self._reading: dict[int, tuple[str, float]] = {}
        self._watch = Watch()
        self._threads = [Thread(target=self._work, args=(number,), daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[A], T], item: A, name: str) -> Future[T]:
        """Has one of the threads do `work(item)`.

        Args:
            work: reads a file.
            item: its argument.
            name: of the file, for messages.
        """
        future: Future[T] = Future()

        def run(thread: int) -> None:
            self._reading[thread] = (name, time.monotonic())
            try:
                made = work(item)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(made)
            finally:
                self._reading.pop(thread, None)

        self._asked.put(run)
        return future

    def result(self, future: Future[T]) -> T:
        """What came of it; looks after files that do not answer while it waits."""
        while not futures.wait([future], LOOK_S).done:
            now = time.monotonic()
            self._watch.look([(name, now - since) for name, since in list(self._reading.values())])
        return future.result()

    def map(self, work: Callable[[A], T], items: Iterable[A], name: Callable[[A], str] = str) -> Iterator[T]:
        """`work` of each item, in order; all are begun at once."""
        begun = [self.submit(work, item, name(item)) for item in items]
        return (self.result(one) for one in begun)

    def _work(self, number: int) -> None:
        while (run := self._asked.get()) is not None:
            run(number)

    def close(self) -> None:
        """Lets the threads end after what they do now, and waits for none."""
        with suppress(Empty):  # what nobody will ask for any more
            while True:
                self._asked.get_nowait()
        for _ in self._threads:
            self._asked.put(None)


@contextmanager
def readers(threads: int) -> Iterator[Readers]:
    """`Readers` that are closed at the end."""
    made = Readers(threads)
    try:
        yield made
    finally:
        made.close()
