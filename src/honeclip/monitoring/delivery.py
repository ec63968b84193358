"""A message on its way to one address, in a thread of its own: through apprise, or onto the desktop of this machine.

An address is never written anywhere, nor what a library says of it: what is said when a message does not arrive is in words
of ours.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

TRIES = 3
"""For each message; `?retry=` in an address says otherwise."""

BETWEEN_TRIES_S = 2.0

DESKTOP = "desktop://"
DESKTOP_S = 10.0
"""A program that shows a message has so long to do it."""

Kind = Literal["info", "success", "warning", "failure"]


@dataclass(frozen=True)
class Message:
    """What is sent: a title of a few words, lines of text, and how it is meant, by which some services choose a colour."""

    title: str
    body: str
    kind: Kind = "info"


Send = Callable[[Message], str]
"""Sends a message; gives "" where it arrived, else why not."""


class Courier:
    """Delivers to one address, message by message, and says once where one does not arrive.

    Args:
        name: of the address, masked.
        address: an apprise URL, or `desktop://`.
        say: told a sentence, at most once.
    """

    def __init__(self, name: str, address: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._said = False
        self._lock = threading.Lock()
        self._open = 0
        self._since = time.monotonic()
        self._waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
        # daemonic: an address that never answers must not keep the process
        threading.Thread(target=self._work, args=(address,), daemon=True).start()

    def send(self, message: Message) -> None:
        """Hands a message over and returns at once."""
        with self._lock:
            if not self._open:
                self._since = time.monotonic()
            self._open += 1
        self._waiting.put(message)

    @property
    def busy(self) -> bool:
        """Whether a message waits or is on its way."""
        return self._open > 0

    @property
    def busy_s(self) -> float:
        """For how long the message at hand has been on its way; 0.0 when there is none."""
        with self._lock:
            return time.monotonic() - self._since if self._open else 0.0

    def complain(self, why: str) -> None:
        """Says that a message did not arrive, the first time only."""
        if not self._said:
            self._said = True
            self._say(f"{self._name}: {why}. The run goes on; this is not said again")

    def _work(self, address: str) -> None:
        send: Send | None = None
        while True:
            message = self._waiting.get()
            try:
                send = send or sender(address)
                why = send(message)
            except Exception as error:  # a plugin's own fault; its text may have the address in it
                why = f"it fails with {type(error).__name__}"
            if why:
                self.complain(why)
            with self._lock:
                self._open -= 1
                self._since = time.monotonic()


def sender(address: str) -> Send:
    """How a message gets to an address."""
    if address == DESKTOP:
        return _on_desktop
    return _through_apprise(address)


def _through_apprise(address: str) -> Send:
    """Plugins have time-outs of their own (4 s to connect and 4 s to answer; mail 15 s), and apprise tries again."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="honeclip",
        app_desc="honeclip",
        async_mode=False,
        default_service_retry=TRIES - 1,
        default_service_wait=BETWEEN_TRIES_S,
    )
    made = apprise.Apprise(asset=asset)
    if not made.add(address):
        return lambda message: "apprise knows no such address, or lacks what it needs for it; see docs/notifications.md"

    def send(message: Message) -> str:
        kind = apprise.NotifyType(message.kind)
        with made.notify(body=message.body, title=message.title, notify_type=kind) as done:
            if done:
                return ""
            # of what apprise logs no more than the status of an answer: the rest may repeat parts of an address
            found = [match[1] for entry in done.logs() if (match := re.search(r"\berror=(\d{3})\b", entry.message))]
        return f"the message was not taken{f', the answer is status {found[-1]}' if found else ''}"

    return send


def _on_desktop(message: Message) -> str:
    """What comes with the system: macOS has osascript, most Linux desktops have notify-send."""
    if sys.platform == "darwin":
        program = "osascript"
        # texts are arguments and not part of the script, whatever is in them
        script = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")
        arguments = [part for line in script for part in ("-e", line)]
    else:
        program, arguments = "notify-send", ["--app-name=honeclip"]
    found = shutil.which(program)
    if found is None:
        return f"{program} is not installed, which shows messages on a desktop"
    command = [found, *arguments, message.title, message.body]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DESKTOP_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} fails with {type(error).__name__}"
    return f"{program} exits with {done.returncode}" if done.returncode else ""
