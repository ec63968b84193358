"""What the rest of honeclip asks of a device, for a CPU, a CUDA card and Apple's GPU (MPS).

copy          tensors to it: contiguous and blocking, which is what MPS needs (docs/mps.md, rules 6, 8, 9)
lock          one for the whole process: two threads on MPS abort it (rule 7)
autocast      half precision around the towers
memory        readings in bytes; peak_bytes, where the allocator counts its own peak
timer         seconds between two synchronisations
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from honeclip.device.facts import Platform
from honeclip.device.memory import readings
from honeclip.device.precision import autocast

LOCK = threading.RLock()
"""Held by whoever runs operations on a device. Re-entrant, so that a step may embed and an embedding may copy."""


class Elapsed:
    """Seconds that a `timer` measured; 0 until it ends."""

    seconds = 0.0


class Device(Protocol):
    """A place to compute."""

    @property
    def type(self) -> str:
        """What torch calls it: "cpu", "cuda" or "mps"."""

    @property
    def backend(self) -> str:
        """Whose rules hold, in the same words; it differs from `type` only in a fake of a test."""

    @property
    def name(self) -> str:
        """In words."""

    @property
    def handle(self) -> torch.device:
        """For `tensor.to` and `device=`."""

    @property
    def reason(self) -> str:
        """Why this device, in words."""

    @property
    def platform(self) -> Platform:
        """The facts that the choice was made from."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """One re-entrant lock for the whole process."""

    def copy(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, contiguous, there when the call returns. On a CPU it may be the same tensor."""

    def synchronise(self) -> None:
        """Returns when everything that was asked of the device is done."""

    def empty_cache(self) -> None:
        """Gives memory back that the allocator holds but no tensor uses."""

    def autocast(self, precision_name: str) -> AbstractContextManager[None]:
        """Half precision for "fp16" and "bf16"; nothing for "fp32" and "fp64"."""

    def memory(self) -> dict[str, int]:
        """Bytes by kind: "total", "available" to this process now, "held" by it now."""

    def peak_bytes(self, reset: bool = False) -> int | None:
        """Largest number of bytes in tensors since the last reset; None where the device does not count it."""

    def allocator_bytes(self) -> dict[str, int]:
        """Bytes "allocated" in tensors, and those that the allocator holds of the "driver", its free blocks among them;
        nothing on a CPU."""

    def timer(self) -> AbstractContextManager[Elapsed]:
        """`with device.timer() as elapsed: ...` leaves the seconds in `elapsed.seconds`, waiting for the device."""


@dataclass(frozen=True)
class Cpu:
    """The processor; always there."""

    platform: Platform
    reason: str

    type = backend = "cpu"
    handle = torch.device("cpu")

    @property
    def name(self) -> str:
        """ "CPU (AMD EPYC, 2 cores)"."""
        cores = self.platform.cores
        return f"CPU ({self.platform.cpu}, {cores} core{'s' if cores > 1 else ''})"

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The process's lock."""
        return LOCK

    def copy(self, tensor: Tensor) -> Tensor:
        """See `Device`."""
        return tensor.to(self.handle).contiguous()

    def synchronise(self) -> None:
        """Nothing waits on a CPU."""

    def empty_cache(self) -> None:
        """Collects reference cycles, which may hold tensors."""
        gc.collect()

    def autocast(self, precision_name: str) -> AbstractContextManager[None]:
        """See `Device`."""
        return autocast(self.type, self.backend, precision_name)

    def memory(self) -> dict[str, int]:
        """See `Device`; "held" is the resident memory of the process."""
        return readings("cpu")

    def peak_bytes(self, reset: bool = False) -> int | None:
        """None: `PeakMeter` watches the process instead."""
        return None

    def allocator_bytes(self) -> dict[str, int]:
        """Nothing: `PeakMeter` watches the process instead."""
        return {}

    def timer(self) -> AbstractContextManager[Elapsed]:
        """See `Device`."""
        return timer(self)


@dataclass(frozen=True)
class Cuda:
    """An NVIDIA or AMD card. In tests `api` stands in for `torch.cuda`."""

    platform: Platform
    reason: str
    api: Any = None

    type = backend = "cuda"
    handle = torch.device("cuda")

    @property
    def name(self) -> str:
        """ "NVIDIA H100 (CUDA)"."""
        return f"{self.platform.cuda_name or 'GPU'} (CUDA)"

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The process's lock."""
        return LOCK

    def copy(self, tensor: Tensor) -> Tensor:
        """See `Device`."""
        return tensor.contiguous().to(self.handle)

    def synchronise(self) -> None:
        """See `Device`."""
        self._api.synchronize()

    def empty_cache(self) -> None:
        """See `Device`."""
        gc.collect()
        self._api.empty_cache()

    def autocast(self, precision_name: str) -> AbstractContextManager[None]:
        """See `Device`."""
        return autocast(self.type, self.backend, precision_name)

    def memory(self) -> dict[str, int]:
        """See `Device`; "held" counts tensors, not the allocator's cache."""
        return readings("cuda", self._api)

    def peak_bytes(self, reset: bool = False) -> int | None:
        """See `Device`."""
        if reset:
            self._api.reset_peak_memory_stats()
        return int(self._api.max_memory_allocated())

    def allocator_bytes(self) -> dict[str, int]:
        """See `Device`."""
        return {"allocated": int(self._api.memory_allocated()), "driver": int(self._api.memory_reserved())}

    def timer(self) -> AbstractContextManager[Elapsed]:
        """See `Device`."""
        return timer(self)

    @property
    def _api(self) -> Any:
        return self.api or torch.cuda


@dataclass(frozen=True)
class Mps:
    """The GPU of Apple silicon. In tests `api` and `accelerator` stand in for `torch.mps` and `torch.accelerator`."""

    platform: Platform
    reason: str
    api: Any = None
    accelerator: Any = None

    type = backend = "mps"
    handle = torch.device("mps")

    @property
    def name(self) -> str:
        """ "Apple M2 Pro GPU (MPS)"."""
        return f"{self.platform.mps_chip or 'Apple'} GPU (MPS)"

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The process's lock."""
        return LOCK

    def copy(self, tensor: Tensor) -> Tensor:
        """See `Device`. Never non_blocking: the copy would read memory that is already free (pytorch issue 189690)."""
        return tensor.contiguous().to(self.handle)

    def synchronise(self) -> None:
        """See `Device`."""
        self._api.synchronize()

    def empty_cache(self) -> None:
        """See `Device`; it drops the cache of compiled graphs as well, which grows with every new shape."""
        gc.collect()
        self._api.synchronize()
        self._api.empty_cache()

    def autocast(self, precision_name: str) -> AbstractContextManager[None]:
        """See `Device`; convolutions stay in float32 (docs/mps.md, rule 4)."""
        return autocast(self.type, self.backend, precision_name)

    def memory(self) -> dict[str, int]:
        """See `Device`; "held" counts tensors, not Metal's caches."""
        return readings("mps", self._api)

    def peak_bytes(self, reset: bool = False) -> int | None:
        """See `Device`; None where `torch.accelerator` has no statistics for MPS (before torch 2.13)."""
        statistics = self.accelerator or torch.accelerator
        try:
            if reset:
                statistics.reset_peak_memory_stats()
            return int(statistics.max_memory_allocated())
        except (RuntimeError, AttributeError, KeyError):
            return None

    def allocator_bytes(self) -> dict[str, int]:
        """See `Device`; neither reading waits for the device."""
        api = self._api
        return {"allocated": int(api.current_allocated_memory()), "driver": int(api.driver_allocated_memory())}

    def timer(self) -> AbstractContextManager[Elapsed]:
        """See `Device`."""
        return timer(self)

    @property
    def _api(self) -> Any:
        return self.api or torch.mps


@contextmanager
def timer(device: Device) -> Iterator[Elapsed]:
    """Measures seconds, with the device idle before and after."""
    elapsed = Elapsed()
    device.synchronise()
    started = time.perf_counter()
    try:
        yield elapsed
    finally:
        device.synchronise()
        elapsed.seconds = time.perf_counter() - started
