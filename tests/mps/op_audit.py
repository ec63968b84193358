"""The op audit: which operations a piece of work runs, and which of them MPS has no kernel for.

    with audit() as found:
        ...                          # a training step, an inference
    found.faults                     # {"linalg_eig": "MPS has no kernel for it; at x.py:12 in f"}; empty if all is well

Each operation that torch dispatches is looked up in the native_functions.yaml inside the installed torch. It passes with
a kernel for MPS of its own, or as the functional or in-place form of one that has such a kernel (a structured delegate).
A composite one is entered, and what it calls is looked up in turn. The work runs on a CPU under the rule mode, so what has
a kernel and may not be used all the same (float64, channels-last, ...) ends it with `RuleBroken`.

Where an operation asks which device it is on, a CPU and MPS go different ways. `ON_MPS` and `ONLY_ON_MPS` name those, and
attention takes SDPA's math path, which MPS takes in training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchgen
import yaml
from torch import Tensor
from torch._C import DispatchKey
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from honeclip.device.fake import rules

YAML = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"

EXPLICIT = (DispatchKey.CompositeExplicitAutograd, DispatchKey.CompositeExplicitAutogradNonFunctional)
COMPOSITE = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")

ON_MPS = {"convolution": "_mps_convolution", "convolution_backward": "mps_convolution_backward"}
"""Composite operations that ask which device they are on -> the one that they call on MPS (ATen's Convolution.cpp)."""

ONLY_ON_MPS = (
    "linear",
    "linear_backward",
    "native_dropout",
    "native_dropout_backward",
    "_scaled_dot_product_attention_math_for_mps",
)
"""What MPS runs in the place of several smaller operations that a CPU runs; the last one is SDPA without gradients."""

UNTRUSTED = {
    "baddbmm": "with beta=0 it spreads NaN from memory that it should not read, in torch 2.13.0 (pytorch issue 187521)",
    "upsample_bicubic2d": "tables and pictures are resized on the CPU (rule 19)",
    "_upsample_bicubic2d_aa": "tables and pictures are resized on the CPU (rule 19)",
    "_fused_sdp_choice": "attention went around SDPA's math path",
}
"""Operations that are there and yet have no place in a step or an inference (reference mps.md)."""


@cache
def table() -> dict[str, tuple[frozenset[str], str | None]]:
    """For each overload, as in "add_.Tensor": its dispatch keys, and the overload that does its work."""
    found: dict[str, tuple[frozenset[str], str | None]] = {}
    for entry in yaml.load(YAML.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        keys = {one.strip() for names in entry.get("dispatch", {}) for one in names.split(",")}
        delegate = entry.get("structured_delegate")
        if not keys and delegate is None:
            keys = {"CompositeImplicitAutograd"}
        found[entry["func"].split("(")[0]] = (frozenset(keys), delegate)
        for made in entry.get("autogen", "").split(","):
            # torchgen writes these: they call the one that they are made from
            found[made.strip()] = (frozenset(["CompositeExplicitAutograd"]), None)
    return found


def verdict(overload: str) -> str:
    """What MPS has for an overload: "kernel", "composite" or "none"."""
    keys, delegate = table().get(overload, (frozenset(), None))
    if "MPS" in keys or (delegate is not None and "MPS" in table()[delegate][0]):
        return "kernel"
    return "composite" if keys.intersection(COMPOSITE) else "none"


@dataclass
class Found:
    """What was seen.

    Attributes:
        ran: overload -> how often it ran, inside composite ones too.
        faults: overload -> what is wrong with it and where it was called first.
        masks: how many calls of attention had a mask.
    """

    ran: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    masks: int = 0


@contextmanager
def audit() -> Iterator[Found]:
    """Watches every operation of this thread, those of backward passes included."""
    found = Found()
    real = functional.scaled_dot_product_attention
    with ExitStack() as stack:
        stack.enter_context(rules())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", _checked(found, real)))
        stack.enter_context(_Operations(found))
        yield found


class _Operations(TorchDispatchMode):
    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found
        self.inside: list[str] = []
        self.entered: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, has = _judged(func)
        self.found.ran[name] = self.found.ran.get(name, 0) + 1
        if has not in ("kernel", "composite") and name not in self.found.faults:
            self.found.faults[name] = f"{has}; {_place()}"
        # torch itself wraps what a composite gives in another call of `detach`: once is enough
        if has == "composite" and name not in self.inside:
            return self._entered(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _entered(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A composite operation with the audit on what it calls, once for each kind of arguments."""
        kind = (func, *((one.dtype, one.ndim, one.is_contiguous()) for one in args if isinstance(one, Tensor)))
        key = next((one for one in EXPLICIT if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), one)), None)
        if key is None or kind in self.entered:
            return func(*args, **kwargs)
        self.entered.add(kind)
        self.inside.append(name)
        try:
            with self:
                return func._op_dk(key, *args, **kwargs)
        finally:
            self.inside.pop()


@cache
def _judged(func: Any) -> tuple[str, str]:
    """The overload's name, and "kernel", "composite" or what is wrong with it."""
    space, _, plain = func._schema.name.partition("::")
    if space == "profiler":  # marks of the optimizer for a profiler that does not run
        return plain, "kernel"
    name = ".".join(part for part in (plain, func._schema.overload_name) if part)
    has = verdict(ON_MPS.get(plain, name)) if space == "aten" else "none"
    reason = UNTRUSTED.get(plain, "MPS has no kernel for it" if has == "none" else has)
    return name if space == "aten" else f"{space}::{name}", reason


def _place() -> str:
    """Where the operation that runs now was called, in words."""
    node = torch._C._current_autograd_node()
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name not in (Path(__file__).name, "rules.py") and "torch" not in path.parts:
            where = f"at {'/'.join(path.parts[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"
            return f"in the backward {node.name()} that was begun {where}" if node is not None else where
        frame = frame.f_back
    return "nowhere"


def _checked(found: Found, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Rule 14: a mask of SDPA is bool or of the queries' dtype (autocast makes it so), and each row has a key left."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **named: Any):
        if attn_mask is not None:
            found.masks += 1
            cast = torch.is_autocast_enabled(query.device.type)
            if attn_mask.dtype is not torch.bool and attn_mask.dtype is not query.dtype and not cast:
                found.faults["a mask"] = f"is {attn_mask.dtype} for queries of {query.dtype}; {_place()}"
            with torch.utils._python_dispatch._disable_current_modes():
                seen = attn_mask if attn_mask.dtype is torch.bool else attn_mask > torch.finfo(attn_mask.dtype).min
                if not bool(seen.any(-1).all()):
                    found.faults["a mask"] = f"leaves a query without a key; {_place()}"
        return real(query, key, value, attn_mask, *rest, **named)

    return attention
