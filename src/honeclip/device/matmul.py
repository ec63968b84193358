"""How fast a device multiplies matrices, measured: the bound beside which the speed of a step is told."""

from __future__ import annotations

import time

import torch

from honeclip.device.device import Device
from honeclip.device.precision import autocast_dtype, weight_dtype

SIDES = {"cpu": 512, "mps": 2048, "cuda": 4096}
"""Side of the square matrices: large enough to fill the device, small enough for a few products in `BUDGET_S`."""

BUDGET_S = 0.1
"""Seconds of measuring, once a process; at least `LEAST` products whatever they take."""

LEAST, AT_ONCE = 3, 4


def flops_per_second(device: Device, precision_name: str) -> float:
    """Floating-point operations a second of square matrix products, the fastest seen; measured once a process.

    A step cannot be faster than this: what its towers compute are matrix products of other shapes, and more besides.

    Args:
        device: where.
        precision_name: as in `precision.Precision`: half precision where the towers run in it.
    """
    dtype = autocast_dtype(precision_name) or weight_dtype(precision_name)
    # a fake of a test computes on the CPU whatever rules it has
    side = SIDES[device.backend] if device.type == device.backend else SIDES["cpu"]
    key = (device.type, dtype, side, torch.get_num_threads())
    if key not in _KNOWN:
        with device.lock:
            _KNOWN[key] = _measured(device, dtype, side)
    return _KNOWN[key]


_KNOWN: dict[tuple[str, torch.dtype, int, int], float] = {}
"""By device, dtype, side, and threads, of which a process may change a CPU's."""


def _measured(device: Device, dtype: torch.dtype, side: int) -> float:
    left = torch.linspace(-1, 1, side * side).reshape(side, side).to(device.handle, dtype)
    out = torch.empty_like(left)
    best, began, rounds = float("inf"), time.perf_counter(), 0
    while rounds < LEAST or time.perf_counter() - began < BUDGET_S:
        with device.timer() as elapsed:
            for _ in range(AT_ONCE):
                torch.mm(left, left, out=out)
        best, rounds = min(best, elapsed.seconds), rounds + 1
    del left, out
    if device.backend != "cpu":
        device.empty_cache()
    return float(AT_ONCE * 2 * side**3 / best)
