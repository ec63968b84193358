"""Platforms as facts, and small stand-ins for torch.cuda and torch.mps."""

from __future__ import annotations

import torch

from honeclip.device.facts import Platform


def mac(**changes) -> Platform:
    """A Mac on which everything works, but for what is changed."""
    facts = {
        "system": "Darwin",
        "machine": "arm64",
        "macos": (26, 1),
        "torch": (2, 15),
        "mps_built": True,
        "mps_available": True,
        "mps_chip": "Apple M2 Pro",
        "cpu": "Apple M2 Pro",
        "cores": 10,
    }
    return Platform(**{**facts, **changes})


def linux(**changes) -> Platform:
    """A Linux machine without a GPU, but for what is changed."""
    return Platform(**{"system": "Linux", "machine": "x86_64", "cuda_built": True, "cores": 2, **changes})


def card(**changes) -> Platform:
    """A Linux machine with a CUDA card that works, but for what is changed."""
    return linux(**{"cuda_available": True, "cuda_name": "NVIDIA A100", "cuda_bf16": True, **changes})


class Generator:
    """The generator of a backend: what torch.cuda and torch.mps offer of it."""

    def __init__(self, here: bool = True) -> None:
        self.here, self.state = here, torch.arange(16, dtype=torch.uint8)

    def is_available(self) -> bool:
        return self.here

    is_initialized = is_available

    def get_rng_state(self) -> torch.Tensor:
        assert self.here
        return self.state.clone()

    def set_rng_state(self, state: torch.Tensor) -> None:
        assert self.here
        self.state = state


class Card:
    """A CUDA card of 80 GB: 10 GB taken by others, 6 GB reserved by this process, 4 GB of these in tensors."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.peak = 5_000_000_000

    def mem_get_info(self) -> tuple[int, int]:
        return 64_000_000_000, 80_000_000_000

    def memory_reserved(self) -> int:
        return 6_000_000_000

    def memory_allocated(self) -> int:
        return 4_000_000_000

    def max_memory_allocated(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.memory_allocated()

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


class Metal:
    """The GPU of a Mac with 16 GB: Metal recommends 12 GB, 3 GB are taken, 2 GB of these in tensors."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def recommended_max_memory(self) -> int:
        return 12_000_000_000

    def driver_allocated_memory(self) -> int:
        return 3_000_000_000

    def current_allocated_memory(self) -> int:
        return 2_000_000_000

    def set_per_process_memory_fraction(self, share: float) -> None:
        self.calls.append(f"fraction {share}")

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


class Statistics:
    """torch.accelerator where it counts the peak."""

    peak = 7

    def reset_peak_memory_stats(self) -> None:
        self.peak = 3

    def max_memory_allocated(self) -> int:
        return self.peak


class NoStatistics:
    """torch.accelerator on MPS before torch 2.13."""

    def max_memory_allocated(self) -> int:
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")
