"""Faults inside a process of a test: installed in the forked child before the command runs, as JSON asks for them.

None of them touches code of honeclip: they are what a machine does to a program. They act at moments that Python tells of
(`sys.addaudithook`: a file is opened, renamed, a folder made), so that each comes at the same moment of every run.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path

FULL = "balloon"
"""The file that takes what is free of a small disk."""


def install(faults: dict) -> None:
    for name, given in faults.items():
        _FAULTS[name](given)


def _when(folder: str, marks: list[str], act: Callable[[], None]) -> None:
    """Acts once, before a file whose path in the folder has one of the marks in it is opened for writing, or a folder made."""
    left = [1]

    def hook(event: str, arguments: tuple) -> None:
        if event not in ("open", "os.mkdir") or not left[0] or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(arguments[0])
        writes = event == "os.mkdir" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and path.startswith(folder) and any(mark in path.removeprefix(folder) for mark in marks):
            left[0] = 0
            act()

    sys.addaudithook(hook)


def fill(disk: str) -> None:
    """Writes until there is no room."""
    handle = os.open(f"{disk}/{FULL}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    os.write(handle, b"\0" * size)
                except OSError:
                    break
    finally:
        os.close(handle)


def _full(given: dict) -> None:
    """{"disk": folder, "at": [part of a path]}: the disk has no room from the moment in which such a file is made."""
    _when(given["disk"], given["at"], lambda: fill(given["disk"]))


def _clock(given: dict) -> None:
    """{"folder": of the run, "at": [part of a path], "back_s": seconds}: the clock is set back when such a file is made."""
    real, lag = time.time, [0.0]
    time.time = lambda: real() - lag[0]
    _when(given["folder"], given["at"], lambda: lag.__setitem__(0, given["back_s"]))


def _poison(given: dict) -> None:
    """{"steps": n}: after so many updates of the optimizer one weight is NaN, as from a broken memory cell."""
    import torch

    real, done = torch.optim.AdamW.step, [0]

    def step(optimizer, *arguments, **options):
        found = real(optimizer, *arguments, **options)
        done[0] += 1
        if done[0] == given["steps"]:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].view(-1)[0] = torch.nan
        return found

    torch.optim.AdamW.step = step


def _powerless(_: object) -> None:
    """Root without its powers: what a folder forbids is forbidden."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _teach(file: str) -> None:
    """Not a fault: writes down at the end what was imported and measured."""

    def write() -> None:
        from honeclip.training import planning

        Path(file).write_bytes(pickle.dumps((sorted(sys.modules), planning._measured)))

    atexit.register(write)


_FAULTS = {
    "full": _full,
    "clock": _clock,
    "poison": _poison,
    "powerless": _powerless,
    "environment": os.environ.update,
    "teach": _teach,
}
