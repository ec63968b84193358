"""Which precision a device computes in, and why. Weights stay float32; half precision is autocast around the towers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from honeclip.errors import ConfigError

if TYPE_CHECKING:
    from honeclip.device.device import Device

NAMES = ("auto", "fp32", "bf16", "fp16", "fp64")

HALF_ON_MPS_SINCE = (2, 13)
"""Causal attention in half precision gives wrong numbers on MPS before it (pytorch issue 195910)."""

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)

BF16_CHIP = 3
"""The first generation of Apple's M chips whose GPU computes bf16; M1 and M2 emulate it (transformers issue 40458)."""


@dataclass(frozen=True)
class Precision:
    """A choice and its reason.

    Attributes:
        name: "fp32", "bf16", "fp16" or "fp64".
        reason: why, in words.
    """

    name: str
    reason: str


def choose(device: Device, wanted: str = "auto") -> Precision:
    """The precision for training on a device.

    Args:
        device: what `detect.choose` gave.
        wanted: "auto", or a name; then it is checked against what the device computes rightly.

    Raises:
        ConfigError: an unknown name, or a precision that this device does not have.
    """
    if wanted not in NAMES:
        raise ConfigError(f"train.precision={wanted}: it is one of {', '.join(NAMES)}")
    fault = _fault(device, wanted)
    if fault:
        raise ConfigError(f"train.precision={wanted}: {fault}")
    return _automatic(device) if wanted == "auto" else Precision(wanted, _asked(device, wanted))


def autocast_dtype(name: str) -> torch.dtype | None:
    """The dtype of autocast: float16, bfloat16, or None where there is no autocast (fp32, fp64)."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name)


def weight_dtype(name: str) -> torch.dtype:
    """The dtype of weights and their gradients: float64 for fp64, otherwise float32."""
    return torch.float64 if name == "fp64" else torch.float32


@contextmanager
def autocast(device_type: str, backend: str, name: str) -> Iterator[None]:
    """Half precision around the towers; nothing for fp32 and fp64.

    On MPS convolutions stay in float32: torch's own tests leave their gradients in half precision out there (docs/mps.md,
    rule 4). In a CLIP that is the patch embedding, a small part of the work.

    Args:
        device_type: what torch calls the device.
        backend: whose rules hold.
        name: of the precision.
    """
    dtype = autocast_dtype(name)
    if dtype is None:
        yield
        return
    with torch.autocast(device_type, dtype=dtype), full_convolutions(device_type if backend == "mps" else None):
        yield


_convolves: ContextVar[str | None] = ContextVar("honeclip convolutions in float32", default=None)


def takes_full_convolutions() -> str | None:
    """What `full_convolutions` was given around here."""
    return _convolves.get()


@contextmanager
def full_convolutions(device_type: str | None) -> Iterator[None]:
    """Convolutions inside are computed in float32, whatever autocast is around it.

    A backward has to enter it again where it repeats a forward: torch takes modes off while a backward runs, and may run
    it in a thread that never had them.

    Args:
        device_type: whose autocast; None does nothing.
    """
    if device_type is None:
        yield
        return
    before = _convolves.set(device_type)
    try:
        with _FullConvolutions(device_type):
            yield
    finally:
        _convolves.reset(before)


class _FullConvolutions(TorchFunctionMode):
    """Takes convolutions out of the autocast around it."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in CONVOLUTIONS:
            return func(*args, **kwargs)
        with torch.autocast(self.device_type, enabled=False):
            return func(*(_full(one) for one in args), **{key: _full(one) for key, one in kwargs.items()})


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _automatic(device: Device) -> Precision:
    found = device.platform
    if device.backend == "mps":
        if found.torch < HALF_ON_MPS_SINCE:
            return Precision("fp32", f"torch {_dotted(found.torch)}: half precision on MPS is wrong before torch 2.13")
        bf16 = "bf16 is there when asked for" if _computes_bf16(found.mps_chip) else "its GPU only emulates bf16"
        chip = found.mps_chip or "Apple GPU"
        return Precision("fp16", f"{chip}: fp16 autocast on fp32 weights with a gradient scaler; {bf16}")
    if device.backend == "cuda":
        if found.cuda_bf16:
            return Precision("bf16", f"{found.cuda_name} computes bf16: autocast on fp32 weights, no gradient scaler")
        return Precision("fp16", f"{found.cuda_name} does not compute bf16: fp16 autocast with a gradient scaler")
    if found.cpu_bf16:
        return Precision(
            "bf16",
            f"the CPU computes bf16 itself ({found.cpu_bf16}): autocast on fp32 weights, no gradient scaler. A CPU "
            "without that flag takes fp32, so give train.precision=fp32 where runs on both are to be compared",
        )
    return Precision(
        "fp32", "bf16 needs a CPU with avx512_bf16 or amx_bf16; without, it is emulated, many times slower"
    )


def _fault(device: Device, wanted: str) -> str:
    """Why the device cannot have this precision; empty if it can."""
    found = device.platform
    if wanted == "fp64" and device.backend != "cpu":
        return f"float64 is for proofs on a CPU, and this is {device.name}; use --device cpu, or fp32"
    if device.backend == "mps" and wanted in ("fp16", "bf16") and found.torch < HALF_ON_MPS_SINCE:
        return f"torch {_dotted(found.torch)} computes half precision wrongly on MPS; use fp32, or torch 2.13 and newer"
    if device.backend == "mps" and wanted == "bf16" and not _computes_bf16(found.mps_chip):
        return f"{found.mps_chip or 'this GPU'} emulates bf16, M3 and newer compute it; use fp16 or fp32"
    if device.backend == "cuda" and wanted == "bf16" and not found.cuda_bf16:
        return f"{found.cuda_name} does not compute bf16; use fp16 or fp32"
    return ""


def _asked(device: Device, wanted: str) -> str:
    slow = device.backend == "cpu" and (wanted == "fp16" or (wanted == "bf16" and not device.platform.cpu_bf16))
    return "asked for" + (f"; this CPU emulates {wanted}, which is slower than fp32" if slow else "")


def _computes_bf16(chip: str) -> bool:
    generation = re.search(r"\bM(\d+)\b", chip)
    return generation is not None and int(generation[1]) >= BF16_CHIP


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
