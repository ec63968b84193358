"""The resident memory of this process: now, its high-water mark, and giving back what the allocator only keeps."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

_PROC = Path("/proc/self")


def now_bytes() -> int:
    """Resident memory of this process."""
    return int(_process(os.getpid()).memory_info().rss)


@functools.lru_cache(maxsize=1)
def _process(pid: int) -> psutil.Process:
    """Looked up once a process and not once a reading, which takes as long again; a fork is another process."""
    return psutil.Process(pid)


def reset_high_water(proc: Path = _PROC) -> bool:
    """Sets the kernel's high-water mark back to what is resident now; False where that is not possible.

    See proc_pid_clear_refs(5): writing 5 does it on Linux; a container may forbid it.
    """
    try:
        (proc / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def high_water_bytes(proc: Path = _PROC) -> int:
    """The kernel's high-water mark of the resident memory, since the last reset; 0 where it cannot be read."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (proc / "status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0


MAPPED_BYTES = 2**20
"""Blocks from this size on are mapped on their own, and given back when they are freed."""


def map_large_blocks() -> None:
    """Keeps glibc from moving its threshold for mapped blocks up to 32 MB, as it does when a mapped block is freed.

    Below the threshold tensors lie in the heap, whose holes stay resident: a ViT-B/32's step then held 15 % more than its
    tensors, and no time was won (docs/log.md). mallopt(3); other C libraries have no such function or ignore it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(-3, MAPPED_BYTES)  # M_MMAP_THRESHOLD


HEAP_BYTES = 32 * 2**20
"""The largest threshold that glibc takes on 64-bit machines (mallopt(3), DEFAULT_MMAP_THRESHOLD_MAX)."""


@contextlib.contextmanager
def keeping_freed() -> Iterator[None]:
    """Inside, blocks up to `HEAP_BYTES` stay in the heap when they are freed, and are used again; afterwards they go back.

    A forward pass frees and asks for blocks of the same sizes again and again. Mapped anew each time, every page of them
    is a page fault: of the CPU time of `starter` at 224 px, batches of 4, two thirds (2.3 s for 32 images, 0.7 s inside;
    measured on a virtual machine, where faults are dear). Memory that is measured inside would count the holes: measure
    it outside.
    """
    if sys.platform != "linux":
        yield
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, HEAP_BYTES)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 64 * HEAP_BYTES)  # M_TRIM_THRESHOLD: how much may be free at the heap's end
    try:
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(-1, 2 * MAPPED_BYTES)
        map_large_blocks()
        give_back_freed()


def give_back_freed() -> None:
    """Collects cycles and returns freed heap to the system, so that work done before does not count as held.

    Without it a second run in one process would reuse what the first one freed, and look as if it needed less.
    """
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without malloc_trim (musl)
            ctypes.CDLL(None).malloc_trim(0)
