"""Linear layers on a CPU whose weights are sorted once, for inference in float32.

torch's `linear` multiplies with weights as training keeps them, and the library underneath sorts them anew in every call. For
the few rows of one image or one text that takes as long as the product. Here they are sorted once, by the operators of oneDNN
to which TorchInductor compiles a frozen model; nothing is compiled. One image through ViT-B/32 takes 0.7 of the time, one
text half of it (docs/results.md). The sorted weights lie beside the others: a model takes that much more memory.

As `attention.sliced` does for attention, `packed` routes the one function that `nn.Linear` and `nn.MultiheadAttention` call.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from honeclip.model.clip import Clip

ROWS = 256
"""oneDNN chooses an order by the rows that it is told to expect; this one was the fastest at 1 row as at 512."""


@dataclass(frozen=True)
class _Sorted:
    """A weight, how often it had been changed when it was sorted, and the sorted one."""

    weight: Tensor
    version: int
    sorted: Tensor


_known: WeakKeyDictionary[nn.Module, dict[int, _Sorted]] = WeakKeyDictionary()
_active: ContextVar[dict[int, _Sorted] | None] = ContextVar("honeclip packed weights", default=None)
_lock = threading.Lock()
_entered = 0
_torch_linear = functional.linear


def can_pack(clip: Clip, precision: str) -> bool:
    """Whether `packed` does anything: float32 on an x86 CPU, by a torch that has the operators. Elsewhere nobody measured."""
    return (
        clip.device.backend == "cpu"
        and precision == "fp32"
        and clip.dtype is torch.float32
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    )


@contextmanager
def packed(clip: Clip, precision: str) -> Iterator[None]:
    """Linear layers of the model are computed with sorted weights in this thread; other layers, and calls that need a
    gradient, as ever. Sorting happens when it is entered first, and again where weights have changed.

    Args:
        clip: the model.
        precision: of the autocast around it.
    """
    global _entered, _torch_linear
    if not can_pack(clip, precision):
        yield
        return
    before = _active.get()
    with _lock:
        weights = _sorted(clip.model)
        if not _entered:
            _torch_linear, functional.linear = functional.linear, _routed
        _entered += 1
    _active.set(weights)
    try:
        yield
    finally:
        _active.set(before)
        with _lock:
            _entered -= 1
            if not _entered:
                functional.linear = _torch_linear


def _sorted(model: nn.Module) -> dict[int, _Sorted]:
    known = _known.get(model)
    if known is None or any(found.version != _version(found.weight) for found in known.values()):
        known = {
            id(weight): _Sorted(
                weight, _version(weight), torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            )
            for weight in _weights(model)
        }
        _known[model] = known
    return known


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """What `functional.linear` is called with: (out, in), float32."""
    for module in model.modules():
        weight: Tensor | None = None
        if isinstance(module, nn.MultiheadAttention):
            weight = module.in_proj_weight
        elif isinstance(module, nn.Linear):
            weight = module.weight
        if weight is not None and weight.dtype is torch.float32 and weight.device.type == "cpu":
            yield weight


def _version(weight: Tensor) -> int:
    return -1 if weight.is_inference() else weight._version


def _routed(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """In the place of torch's function while a model is entered; a thread that entered none gets torch's own."""
    active = _active.get()
    found = None if active is None or torch.is_grad_enabled() else active.get(id(weight))
    if found is None or found.weight is not weight or input.dtype is not torch.float32 or not input.numel():
        return _torch_linear(input, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(input, found.sorted, bias, "none", [], "")
    return out
