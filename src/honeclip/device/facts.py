"""Facts about the machine and the installed versions, gathered in one place and judged elsewhere.

`gather` is the only function that asks the platform. What follows from its answers (which device, which precision) is
decided by pure functions of a `Platform`, so each Mac and each card can be written down in a test.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

MPS_SHARE = 0.9
"""Share of Metal's recommended working set that the process may allocate. torch's own limit is 1.7 times that set, more
than the memory of the machine, so that a Mac swaps where it should say out of memory (docs/mps.md, rule 16)."""

BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Flags of /proc/cpuinfo that say that the CPU multiplies bf16 itself."""

PACKAGES = (
    "honeclip",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "safetensors",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Platform:
    """What decides the device and the precision.

    Attributes:
        system: "Linux", "Darwin" or "Windows".
        machine: the architecture of this Python: "arm64", "x86_64", ...
        translated: an x86_64 Python that Rosetta runs on Apple silicon.
        macos: version of macOS as (major, minor); None elsewhere.
        torch: version of torch as (major, minor).
        cpu: name of the CPU, in words.
        cores: logical cores that this process may use.
        cpu_bf16: the CPU's flag for bf16 arithmetic; None without it.
        mps_built: torch was built with MPS.
        mps_available: what `torch.backends.mps.is_available()` says.
        mps_fault: why a real operation on MPS failed; None where it worked or was not tried.
        mps_chip: "Apple M2 Pro"; empty elsewhere.
        cuda_built: torch was built with CUDA.
        cuda_available: what `torch.cuda.is_available()` says.
        cuda_fault: why a real operation on CUDA failed, or what torch warned of; None where it worked.
        cuda_name: name of the card; empty elsewhere.
        cuda_bf16: the card computes bf16 itself.
    """

    system: str
    machine: str
    translated: bool = False
    macos: tuple[int, int] | None = None
    torch: tuple[int, int] = (2, 15)
    cpu: str = "unknown CPU"
    cores: int = 1
    cpu_bf16: str | None = None
    mps_built: bool = False
    mps_available: bool = False
    mps_fault: str | None = None
    mps_chip: str = ""
    cuda_built: bool = False
    cuda_available: bool = False
    cuda_fault: str | None = None
    cuda_name: str = ""
    cuda_bf16: bool = False


@functools.cache
def gather() -> Platform:
    """Asks this machine, once a process. Each accelerator that torch offers has to compute 1 + 1."""
    system, on_mac = platform.system(), platform.system() == "Darwin"
    cuda_available, cuda_fault = find_cuda(torch.cuda.is_available)
    if cuda_available:
        cuda_fault = probe("cuda")
    mps_available = torch.backends.mps.is_available()
    cuda_works = cuda_available and cuda_fault is None
    return Platform(
        system=system,
        machine=platform.machine(),
        translated=on_mac and _ask("sysctl", "-n", "sysctl.proc_translated") == "1",
        macos=version_pair(_ask("sw_vers", "-productVersion") or platform.mac_ver()[0]) if on_mac else None,
        torch=version_pair(torch.__version__) or (0, 0),
        cpu=cpu_name(),
        cores=cores(),
        cpu_bf16=cpu_bf16(),
        mps_built=torch.backends.mps.is_built(),
        mps_available=mps_available,
        mps_fault=probe_mps(torch.mps) if mps_available else None,
        mps_chip=_ask("sysctl", "-n", "machdep.cpu.brand_string") if on_mac else "",
        cuda_built=torch.backends.cuda.is_built(),
        cuda_available=cuda_available,
        cuda_fault=cuda_fault,
        cuda_name=torch.cuda.get_device_name() if cuda_works else "",
        cuda_bf16=cuda_works and torch.cuda.is_bf16_supported(including_emulation=False),
    )


def probe(device_type: str, ones: Callable[..., Any] = torch.ones) -> str | None:
    """Has the device add 1 and 1; None if it gives 2, otherwise the first line of what went wrong."""
    try:
        result = (ones(1, device=device_type) + 1).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None if result == 2 else f"1 + 1 gave {result}"


def probe_mps(api: Any, ones: Callable[..., Any] = torch.ones) -> str | None:
    """`probe` on MPS, after the process's share of memory was set: the limit belongs before the first allocation.

    Args:
        api: `torch.mps`, or a stand-in for it.
        ones: `torch.ones`, or a stand-in for it.
    """
    try:
        api.set_per_process_memory_fraction(MPS_SHARE)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return probe("mps", ones)


def find_cuda(is_available: Callable[[], bool]) -> tuple[bool, str | None]:
    """Whether torch finds a CUDA card, and what it warns of if not (an old driver, mostly).

    Args:
        is_available: `torch.cuda.is_available`, or a stand-in for it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = is_available()
    return available, str(caught[0].message).splitlines()[0] if caught and not available else None


def version_pair(text: str) -> tuple[int, int] | None:
    """ "15.3.1" -> (15, 3), "2.15.0+cu132" -> (2, 15), "26" -> (26, 0); None where no number stands in front."""
    found = re.match(r"(\d+)(?:\.(\d+))?", text.strip())
    return (int(found[1]), int(found[2] or 0)) if found else None


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU in words, from /proc/cpuinfo, macOS or Python."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text(cpuinfo), re.MULTILINE)
    if found:
        return found[1].strip()
    on_mac = platform.system() == "Darwin"
    return (_ask("sysctl", "-n", "machdep.cpu.brand_string") if on_mac else "") or platform.processor() or "unknown CPU"


def cpu_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The first of `BF16_FLAGS` that /proc/cpuinfo lists; None without one, on ARM, or where there is no such file."""
    found = re.search(r"^flags\s*:\s*(.+)$", _text(cpuinfo), re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return next((flag for flag in BF16_FLAGS if flag in flags), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _ask(*command: str) -> str:
    """The standard output of a short command, stripped; empty where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine() -> dict[str, Any]:
    """The machine for reports and `doctor`: system, architecture, CPU, cores, memory in GB (1e9 bytes), accelerator.

    Nothing in it names a person or a host.
    """
    found = gather()
    accelerator = found.mps_chip if found.mps_available and found.mps_fault is None else found.cuda_name
    release = ".".join(map(str, found.macos)) if found.macos else platform.release()
    facts = {
        "system": f"{'macOS' if found.system == 'Darwin' else found.system} {release}",
        "architecture": found.machine,
        "cpu": found.cpu,
        "cores": found.cores,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "accelerator": accelerator,
    }
    return {name: value for name, value in facts.items() if value}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result, read from their metadata without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
