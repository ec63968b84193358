"""Memory in bytes: what the machine has, what honeclip may use of it, what is free, and the peak of a piece of work.

The budget of a run follows from what the machine is (physical memory, cgroup limit, Metal's working set), so that the
same command makes the same plan tomorrow. What is free right now serves only choices that change no bit.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import psutil
import torch

from honeclip.device import cgroup, resident, world
from honeclip.device.facts import MPS_SHARE
from honeclip.errors import ConfigError

if TYPE_CHECKING:
    from honeclip.device.device import Device

CPU_SHARE = 0.8
"""Share of the memory limit for honeclip on a CPU; the rest is for imports, decode workers and the system."""

CUDA_SHARE = 0.9
"""Share of the free memory of a card; the rest is for the context, the libraries' workspaces and fragments."""

UNIFIED_SHARE = 0.8
"""Share of the free memory of a Mac that tensors may still take: the GPU's memory is the system's."""

SAMPLE_S = 0.02
"""Seconds between two readings of the resident memory."""


@dataclass(frozen=True)
class Budget:
    """What a run may use, in bytes, and why. On a CPU it counts above what the process held after its imports."""

    bytes: int
    reason: str


def budget(device: Device, wanted_gb: float | Literal["auto"] | None = None) -> Budget:
    """The budget of a run on a device.

    Args:
        device: where it runs.
        wanted_gb: `memory.budget_gb` in GB (1e9 bytes); None or "auto" takes the device's share.

    Raises:
        ConfigError: a budget that is not above 0.
    """
    if wanted_gb is not None and wanted_gb != "auto":
        if not wanted_gb > 0:
            raise ConfigError(f"memory.budget_gb={wanted_gb}: give GB above 0, or auto")
        return Budget(int(wanted_gb * 1e9), f"memory.budget_gb = {wanted_gb:g}")
    found = device.memory()
    if device.backend == "mps":
        return _share(MPS_SHARE, found["total"], "of Metal's recommended working set")
    if device.backend == "cuda":
        # what this process holds already (weights, the cache) is its own to plan with
        return _share(CUDA_SHARE, found["available"] + found["held"], "of the card's free memory")
    limit = cgroup.limit_bytes()
    many = world.of_environment().local_size
    shared = f", shared by {many} processes" if many > 1 else ""
    if limit is not None and limit < found["total"]:
        return _share(CPU_SHARE / many, limit, f"of the cgroup's limit{shared}")
    return _share(CPU_SHARE / many, found["total"], f"of the machine's memory{shared}")


def _share(share: float, of: int, words: str) -> Budget:
    return Budget(int(share * of), f"{share:.0%} {words} ({of / 1e9:.1f} GB)")


def available_bytes(device_type: str) -> int:
    """Bytes that this process could still allocate on a kind of device, now.

    Args:
        device_type: as in `tensor.device.type`. A type that cannot be asked has 0, so that nothing is kept on trust.
    """
    return readings(device_type)["available"] if device_type in READINGS else 0


def readings(device_type: str, api: Any = None) -> dict[str, int]:
    """Memory of a kind of device by kind: "total", "available" to this process now, "held" by it now.

    Args:
        device_type: "cpu", "cuda" or "mps".
        api: `torch.cuda` or `torch.mps`, or a stand-in for it.
    """
    return READINGS[device_type](api)


@dataclass(frozen=True)
class Swap:
    """The machine's swap in bytes: `used` now, and `written` since it started; 0 where the machine does not tell."""

    used: int
    written: int


def swap() -> Swap:
    """The machine's swap, now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a container may hide the counters, and psutil warns about it
        found = psutil.swap_memory()
        return Swap(int(found.used), int(found.sout))


def kinds(device: Device, swap_used: int) -> dict[str, int]:
    """Memory in bytes by kind, those that the device knows, for whoever watches a run.

    "allocated": in tensors on an accelerator. "driver": what its allocator holds of the driver's memory, free blocks among
    it. "resident": of this process in the machine's memory. "swap": of the whole machine, as given.
    """
    return {**device.allocator_bytes(), "resident": resident.now_bytes(), "swap": swap_used}


def _address_space_bytes() -> int | None:
    """What a limit on this process's address space (`ulimit -v`) leaves; None where there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - int(psutil.Process().memory_info().vms))


def _cpu_readings(_: Any) -> dict[str, int]:
    memory = psutil.virtual_memory()
    available = memory.available
    left = _address_space_bytes()
    available = available if left is None else min(available, left)
    limit, used = cgroup.limit_bytes(), cgroup.used_bytes()
    if limit is not None and used is not None:
        available = min(available, max(0, limit - used))
    return {"total": memory.total, "available": available, "held": resident.now_bytes()}


def _cuda_readings(api: Any) -> dict[str, int]:
    api = api or torch.cuda
    free, total = api.mem_get_info()
    held = int(api.memory_allocated())
    return {"total": int(total), "available": int(free) + int(api.memory_reserved()) - held, "held": held}


def _mps_readings(api: Any) -> dict[str, int]:
    api = api or torch.mps
    total = int(api.recommended_max_memory())
    room = int(MPS_SHARE * total) - int(api.driver_allocated_memory())
    system = int(UNIFIED_SHARE * psutil.virtual_memory().available)
    return {"total": total, "available": max(0, min(room, system)), "held": int(api.current_allocated_memory())}


READINGS: dict[str, Callable[[Any], dict[str, int]]] = {
    "cpu": _cpu_readings,
    "cuda": _cuda_readings,
    "mps": _mps_readings,
}


def baseline_bytes(device: Device) -> int:
    """What does not count as a run's memory: on a CPU what the process holds now, after its imports; 0 elsewhere."""
    if device.backend != "cpu":
        return 0
    resident.give_back_freed()
    return resident.now_bytes()


class PeakMeter:
    """Watches the memory of a piece of work: `with PeakMeter(device) as meter: ...`, then `meter.peak_bytes`.

    On MPS and CUDA it is the allocator's own peak. On a CPU it is the resident memory of this process above the
    baseline, read every 20 ms by a thread that touches no tensor; on Linux the kernel's high-water mark, which misses
    nothing, is set back at the start and counted too, where that is allowed. Decode workers are processes of their own
    and are not counted. Several meters may run at once; one meter runs once.

    Args:
        device: where the work runs.
        baseline: what `baseline_bytes` gave after the imports and before the model; None takes it at the start.

    Attributes:
        baseline: bytes that do not count.
    """

    def __init__(self, device: Device, baseline: int | None = None) -> None:
        self.baseline = baseline or 0
        self._given = baseline is not None
        self._device = device
        self._own = device.peak_bytes() is not None
        self._resident = not self._own and device.backend == "cpu"
        self._highest = 0
        self._high_water = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="honeclip-memory", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Counts from here."""
        if self._own:
            self._device.peak_bytes(reset=True)
        if self._resident:
            resident.give_back_freed()  # freed heap that stays resident would hide what is allocated next
        if not self._given:
            self.baseline = baseline_bytes(self._device)
        if self._resident:
            for other in _running:
                other.sample()  # the kernel's mark is about to be set back for them as well
            self._high_water = resident.reset_high_water()
            self._thread.start()
        _running.append(self)

    def stop(self) -> None:
        """Takes the last reading; the peak stays."""
        if self not in _running:
            return
        self.sample()
        _running.remove(self)
        self._stop.set()
        if self._resident:
            self._thread.join()

    def sample(self) -> None:
        """Takes a reading now. Where the device does not count its own peak (MPS before torch 2.13), call it when much
        memory is in use: between the backward and `zero_grad`."""
        self._highest = max(self._highest, self._reading())

    @property
    def now_bytes(self) -> int:
        """Bytes held now, above the baseline."""
        held = resident.now_bytes() if self._resident else self._device.memory()["held"]
        return max(0, held - self.baseline)

    @property
    def peak_bytes(self) -> int:
        """The largest number of bytes between start and stop, above the baseline; while the meter runs, so far."""
        if self in _running:
            self.sample()
        return max(0, self._highest - self.baseline)

    def _reading(self) -> int:
        if self._own:
            return self._device.peak_bytes() or 0
        if not self._resident:
            return self._device.memory()["held"]
        return max(resident.now_bytes(), resident.high_water_bytes() if self._high_water else 0)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._highest = max(self._highest, resident.now_bytes())


_running: list[PeakMeter] = []
