"""A Mac stays awake while a run goes on, by caffeinate, which comes with macOS; other systems are left as they are.

caffeinate keeps a Mac from sleeping for being idle. It keeps no lid open and no battery full: those who are on battery are
told so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PMSET_S = 5.0
"""To answer what the machine runs on."""


@dataclass(frozen=True)
class Battery:
    """What a Mac runs on.

    Attributes:
        draws: whether it runs on its battery.
        percent: charge of the battery; None where it has none, or does not say.
        left: hours and minutes until it is empty, as "4:31"; "" where nobody knows.
    """

    draws: bool
    percent: int | None = None
    left: str = ""


@contextmanager
def awake(say: Callable[[str], None], platform: str = sys.platform) -> Iterator[None]:
    """Keeps a Mac awake inside, and no longer than this process lives.

    Args:
        say: told in one line that it does, with a warning where the Mac runs on its battery.
        platform: as `sys.platform`.
    """
    caffeinate = shutil.which("caffeinate") if platform == "darwin" else None
    if caffeinate is None:
        yield
        return
    # -i: idle sleep; -w: until this process ends, however it ends
    command, none = [caffeinate, "-i", "-w", str(os.getpid())], subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=none, stdout=none, stderr=none)
    say(f"this Mac stays awake until the run has ended (caffeinate){_warning(battery())}")
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def battery() -> Battery:
    """What `pmset -g batt` says; mains power where it does not answer."""
    pmset = shutil.which("pmset")
    if pmset is None:
        return Battery(False)
    try:
        done = subprocess.run([pmset, "-g", "batt"], capture_output=True, text=True, timeout=PMSET_S, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return Battery(False)
    return parsed(done.stdout)


def parsed(text: str) -> Battery:
    """Reads what `pmset -g batt` prints.

    Args:
        text: "Now drawing from 'Battery Power'", and a line for each battery, such as
            " -InternalBattery-0 (id=4653155)\\t68%; discharging; 4:31 remaining present: true".
    """
    percent = re.search(r"InternalBattery.*?(\d+)%", text)
    left = re.search(r"discharging;\s*(\d+:\d\d) remaining", text)
    return Battery(
        draws="'Battery Power'" in text,
        percent=int(percent[1]) if percent else None,
        left=left[1] if left else "",
    )


def _warning(found: Battery) -> str:
    if not found.draws:
        return ""
    facts = [f"{found.percent} %"] if found.percent is not None else []
    facts += [f"{found.left} h left"] if found.left else []
    charge = f" ({', '.join(facts)})" if facts else ""
    return f". Warning: it runs on its battery{charge}; plug it in, and leave the lid open, which sends it to sleep when closed"
