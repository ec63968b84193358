"""A Mac for tests: a CPU to torch, MPS to honeclip, with memory that follows a script. The rule mode is in rules.py.

device = FakeMps(limit_bytes=50_000_000)
with device.counting():
    ...                       # raises the real out-of-memory text where live tensors would pass 50 MB
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from honeclip.device.device import LOCK, Cpu, Elapsed, timer
from honeclip.device.facts import Platform
from honeclip.device.ledger import Ledger
from honeclip.device.precision import autocast
from honeclip.device.rules import RuleBroken, rules

__all__ = ["FakeMps", "RuleBroken", "rules"]

NO_DOUBLE = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)


class FakeMps:
    """A `Device` whose type is "cpu" and whose rules are those of MPS.

    Args:
        total_bytes: Metal's recommended working set, from which a budget is made.
        limit_bytes: what tensors may hold inside `counting()`; None: anything.
        fail_at: numbers of the copies, from 1, that run out of memory.
        available_bytes: what `memory()` says is available, reading by reading; the last one stays. Empty: what is left.
        chip: "Apple M2" or another, which decides about bf16.
        torch_version: torch before 2.13 has no half precision on MPS.

    Attributes:
        copies: how often `copy` was called.
        emptied: how often `empty_cache` was called.
    """

    type = "cpu"
    backend = "mps"
    handle = Cpu.handle
    reason = "a fake for tests"

    def __init__(
        self,
        *,
        total_bytes: int = 12_000_000_000,
        limit_bytes: int | None = None,
        fail_at: Collection[int] = (),
        available_bytes: Sequence[int] = (),
        chip: str = "Apple M2",
        torch_version: tuple[int, int] = (2, 15),
    ) -> None:
        self.platform = Platform(
            "Darwin", "arm64", macos=(26, 1), torch=torch_version, mps_built=True, mps_available=True, mps_chip=chip
        )
        self.total_bytes, self.limit_bytes = total_bytes, limit_bytes
        self.copies = self.emptied = self.held_bytes = 0
        self._fail_at, self._available = frozenset(fail_at), list(available_bytes)
        self._peak = 0

    @property
    def name(self) -> str:
        """ "Apple M2 GPU (fake MPS)"."""
        return f"{self.platform.mps_chip} GPU (fake MPS)"

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The process's lock."""
        return LOCK

    def copy(self, tensor: Tensor) -> Tensor:
        """A contiguous copy, as on MPS it never is the same tensor.

        Raises:
            TypeError: float64, with torch's text.
            RuntimeError: out of memory, where the script says so.
        """
        self.copies += 1
        if tensor.dtype is torch.float64:
            raise TypeError(NO_DOUBLE)
        if self.copies in self._fail_at:
            raise self.out_of_memory(tensor.nbytes)
        return tensor.clone(memory_format=torch.contiguous_format).to(self.handle)

    def synchronise(self) -> None:
        """Nothing waits."""

    def empty_cache(self) -> None:
        """Counts the call, and collects cycles as the real ones do."""
        gc.collect()
        self.emptied += 1

    def autocast(self, precision_name: str) -> AbstractContextManager[Any]:
        """The CPU's autocast as MPS has it, with convolutions in float32."""
        return autocast(self.type, self.backend, precision_name)

    def memory(self) -> dict[str, int]:
        """The next scripted reading; without a script what the limit leaves."""
        if len(self._available) > 1:
            available = self._available.pop(0)
        else:
            available = self._available[0] if self._available else max(0, self._most - self.held_bytes)
        return {"total": self.total_bytes, "available": available, "held": self.held_bytes}

    def peak_bytes(self, reset: bool = False) -> int | None:
        """Largest number of bytes in tensors that `counting()` saw since the last reset."""
        if reset:
            self._peak = self.held_bytes
        return self._peak

    def allocator_bytes(self) -> dict[str, int]:
        """Tensors only: there is no cache."""
        return {"allocated": self.held_bytes, "driver": self.held_bytes}

    def timer(self) -> AbstractContextManager[Elapsed]:
        """See `Device`."""
        return timer(self)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the bytes of every tensor that is made inside, while it lives, and holds them to the limit.

        Tensors that were there before (weights, mostly) are not counted. An operation that passes the limit raises what
        MPS raises. Only operations of this thread are seen, backward passes too.
        """
        with Ledger(self._take, self._release):
            yield

    def out_of_memory(self, wanted_bytes: int) -> RuntimeError:
        """The error of the MPS allocator, with its text."""
        return RuntimeError(
            f"MPS backend out of memory (MPS allocated: {_size(self.held_bytes)}, other allocations: 384.00 KiB, max "
            f"allowed: {_size(self._most)}). Tried to allocate {_size(wanted_bytes)} on private pool. Use "
            "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations (may cause system "
            "failure)."
        )

    @property
    def _most(self) -> int:
        return self.total_bytes if self.limit_bytes is None else self.limit_bytes

    def _take(self, size: int) -> None:
        if self.limit_bytes is not None and self.held_bytes + size > self.limit_bytes:
            raise self.out_of_memory(size)
        self.held_bytes += size
        self._peak = max(self._peak, self.held_bytes)

    def _release(self, size: int) -> None:
        self.held_bytes -= size


def _size(count: int) -> str:
    """As torch writes sizes: "7.50 GiB", "256 bytes"."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.2f} {unit}"
    return f"{count} bytes"
