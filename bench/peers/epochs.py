"""How an epoch of a loader is timed. Needs nothing that a peer's environment lacks."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator

Epoch = Callable[[], Iterator[int]]
"""Gives the number of images of each batch."""


def timed(epoch: Epoch) -> dict[str, float]:
    """Images a second after the first batch, seconds until that, and CPU seconds an image of all processes."""
    began, cpu = time.perf_counter(), _cpu()
    batches = epoch()
    count = next(batches)
    started = time.perf_counter()
    later = sum(batches)
    seconds = time.perf_counter() - started
    del batches
    return {
        "images_per_second": later / seconds,
        "first_batch_seconds": started - began,
        "cpu_seconds_per_image": (_cpu() - cpu) / (count + later),
    }


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
