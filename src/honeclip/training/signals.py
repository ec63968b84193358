"""SIGINT and SIGTERM as a wish: the first asks for a save after the step at hand, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from honeclip.errors import Interrupted


class Stop:
    """Whether somebody asked to stop, and by which signal.

    Attributes:
        wanted: the signal's number, or 0.
        waits: True while a step is under way that can end and be saved; until then a signal stops at once.
    """

    def __init__(self) -> None:
        self.wanted = 0
        self.waits = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        if self.wanted:
            os._exit(128 + number)
        self.wanted = number
        if not self.waits:
            raise Interrupted(number, "stopped between steps; nothing was lost: what was saved goes on with --resume")

    def ask(self) -> None:
        """Called while a file does not answer, for which a signal does not wait: steps that were not saved are lost."""
        if self.wanted:
            raise Interrupted(
                self.wanted, "stopped while a file did not answer; --resume goes on from the last checkpoint"
            )


@contextmanager
def stopping() -> Iterator[Stop]:
    """Listens to both signals inside; in a thread other than the main one Python cannot, and nothing changes."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
