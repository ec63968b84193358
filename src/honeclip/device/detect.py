"""Which device to compute on, and why in words: a pure judgement of the facts that `facts.gather` collects.

`is_available()` alone is no answer: it is True on virtual Macs where every allocation fails (pytorch issue 125197), and
False without a word where macOS is too old. So each accelerator has to compute something first.
"""

from __future__ import annotations

from dataclasses import dataclass

from honeclip.device import resident
from honeclip.device.device import Cpu, Cuda, Device, Mps
from honeclip.device.facts import Platform, gather
from honeclip.errors import BadInput

NAMES = ("auto", "cpu", "mps", "cuda")


@dataclass(frozen=True)
class Verdict:
    """Whether a kind of device can be used, and why or why not, in words."""

    works: bool
    reason: str


def choose(wanted: str | Device = "auto", platform: Platform | None = None) -> Device:
    """The device to compute on.

    Args:
        wanted: "auto" (MPS, then CUDA, then the CPU, whichever works first), or one of them. A Device is given back.
        platform: the facts to judge; None asks this machine.

    Raises:
        BadInput: an unknown name, or the device that was wanted cannot be used; the message says why.
    """
    if not isinstance(wanted, str):
        return wanted
    found = platform or gather()
    if wanted not in NAMES:
        raise BadInput(f"--device {wanted}: it is one of {', '.join(NAMES)}")
    mps, cuda = judge_mps(found), judge_cuda(found)
    asked = wanted != "auto"
    for name, verdict in (("mps", mps), ("cuda", cuda)):
        if wanted == name and not verdict.works:
            raise BadInput(f"--device {name}: {verdict.reason}. Use --device auto or cpu")
    if wanted == "mps" or (not asked and mps.works):
        return Mps(found, "asked for" if asked else mps.reason)
    if wanted == "cuda" or (not asked and cuda.works):
        return Cuda(found, "asked for" if asked else cuda.reason)
    resident.map_large_blocks()
    return Cpu(found, "asked for" if asked else f"no GPU can be used: {mps.reason if _is_mac(found) else cuda.reason}")


def judge_mps(found: Platform) -> Verdict:
    """Whether Apple's GPU can be used."""
    version = f"macOS {_dotted(found.macos)}" if found.macos else "macOS"
    needed = needed_macos(found.torch)
    torch_name = f"torch {_dotted(found.torch)}"
    if not _is_mac(found):
        return Verdict(False, f"MPS is Apple's GPU, and this is {found.system}")
    if found.translated:
        return Verdict(
            False,
            f"Rosetta translates this Python, an {found.machine} build on Apple silicon, and torch does not reach the "
            "GPU from there; install an arm64 Python (`uv python install` fetches one) and make the environment again",
        )
    if found.machine != "arm64":
        return Verdict(False, f"this is an Intel Mac ({found.machine}); torch's MPS needs Apple silicon")
    if not found.mps_built:
        return Verdict(False, f"this {torch_name} was built without MPS; install torch from PyPI's macOS arm64 wheels")
    if found.macos and found.macos[0] < needed:
        return Verdict(
            False, f"{torch_name} needs macOS {needed} or newer for MPS, and this is {version}; update macOS"
        )
    if not found.mps_available:
        return Verdict(False, f"{torch_name} says that MPS is not available, on {version} ({found.machine})")
    if found.mps_fault is not None:
        return Verdict(
            False,
            f"torch says that MPS is available, but 1 + 1 on it failed, as it does on virtual Macs: {found.mps_fault}",
        )
    return Verdict(True, f"{found.mps_chip or 'Apple GPU'}: MPS computed 1 + 1, on {version}")


def judge_cuda(found: Platform) -> Verdict:
    """Whether a CUDA card can be used."""
    torch_name = f"torch {_dotted(found.torch)}"
    if not found.cuda_built:
        return Verdict(False, f"this {torch_name} was built without CUDA")
    if not found.cuda_available:
        return Verdict(
            False, f"{torch_name} finds no CUDA card" + (f": {found.cuda_fault}" if found.cuda_fault else "")
        )
    if found.cuda_fault is not None:
        return Verdict(False, f"torch says that CUDA is available, but 1 + 1 on it failed: {found.cuda_fault}")
    return Verdict(True, f"{found.cuda_name or 'a card'}: CUDA computed 1 + 1")


def needed_macos(torch_version: tuple[int, int]) -> int:
    """The major version of macOS that a torch's MPS needs (reference mps.md section 0, from the wheels)."""
    return 15 if torch_version >= (2, 15) else 14


def _is_mac(found: Platform) -> bool:
    return found.system == "Darwin"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
