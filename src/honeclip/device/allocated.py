"""Bytes of torch's own allocator during a piece of work: every allocation and release of it counted, none sampled."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch.profiler import ProfilerActivity, profile

from honeclip.device.device import Device


def allocated(work: Callable[[], Any], device: Device) -> tuple[int, int]:
    """Bytes above those before `work`: the most at once while it ran, and those that are there after it.

    On a CPU the profiler's memory events are summed up in order; what a library allocates behind torch's back is not
    among them. It makes small operations slower, so time is measured elsewhere. Other devices count their own peak.

    Args:
        work: what it leaves behind must be kept by the caller to be counted as there.
        device: where it allocates.
    """
    levels = timeline(work, device)
    return max(levels), levels[-1]


def timeline(work: Callable[[], Any], device: Device) -> list[int]:
    """Bytes above those before `work`, after each allocation and release in order; the first entry is 0.

    A device that counts its own peak has no events: there the list is [0, peak, bytes after it].
    """
    if device.peak_bytes() is not None:
        held = device.memory()["held"]
        device.peak_bytes(reset=True)
        work()
        device.synchronise()
        return [0, (device.peak_bytes() or 0) - held, device.memory()["held"] - held]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes its start and stop to standard error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    assert profiler.profiler is not None
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    return [0, *accumulate(one.nbytes() for one in sorted(events, key=lambda event: event.start_ns()))]
