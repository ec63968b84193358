"""The rule mode: a run on the CPU that fails wherever it does what MPS forbids.

    with rules():
        training step, evaluation, anything

A breach raises `RuleBroken` at its very place and names the rule of reference mps.md (docs/mps.md). What can be seen:

    4   a convolution in half precision while gradients are computed
    5   a float64 tensor
    6   a copy that does not block
    7   a second thread that computes without the device's lock
    8   pinned memory
    9   channels-last tensors; a convolution or a batch norm of something that is not contiguous
    12  attention dropout without gradients
    20  an operation that MPS has no kernel for

Every tensor of the run counts as one on the device, but for integers in other threads: they decode pictures to uint8.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from honeclip.device.device import LOCK

MISSING = ("linalg_eig", "_linalg_eigvals", "linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_matrix_sqrth", "ormqr")
DETOURS = ("_linalg_svd", "_linalg_eigh")
NO_KERNEL = frozenset((*MISSING, *DETOURS, "_fused_rms_norm_backward"))
"""ATen operations without an MPS kernel in the native_functions.yaml of torch 2.15, or that may go to the CPU."""

CONVOLUTIONS = frozenset(["convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution"])
BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"])
COPIES = (Tensor.to, Tensor.copy_, Tensor.cuda)
CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)
DOUBLE = (torch.float64, torch.complex128)


class RuleBroken(BaseException):
    """Something that would be wrong, crash or be missing on MPS; the message names the rule.

    No `except Exception` on the way can swallow it.
    """


@contextmanager
def rules() -> Iterator[None]:
    """Within it, on this thread and on threads that start in it, what MPS forbids raises `RuleBroken`.

    Raises:
        RuleBroken: at the place of the breach; at the end for a breach in another thread.
    """
    watch = _Watch()
    original = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        # modes belong to a thread, so each one enters its own
        with _Functions(watch), _Operations(watch):
            original(thread)

    threading.Thread.run = run  # type: ignore[method-assign, assignment]
    try:
        with _Functions(watch), _Operations(watch):
            yield
    finally:
        threading.Thread.run = original  # type: ignore[method-assign]
        watch.over = True
    if watch.broken:
        raise RuleBroken(watch.broken[0])


class _Watch:
    """What the modes of all threads share."""

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.over = False
        self.broken: list[str] = []

    def refuse(self, rule: int, name: str, what: str) -> None:
        self.broken.append(f"rule {rule}: {name}: {what}")
        raise RuleBroken(self.broken[-1])


class _Functions(TorchFunctionMode):
    """Sees what is asked in Python, before torch drops what means nothing on a CPU (non_blocking, pinned memory)."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.watch.over:
            self._check(func, getattr(func, "__name__", str(func)), args, kwargs)
        return func(*args, **kwargs)

    def _check(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positional = next((one for one in args if isinstance(one, bool)), False) if func in COPIES else False
        if kwargs.get("non_blocking") or positional:
            self.watch.refuse(6, name, "non_blocking reads memory that may be freed or not yet written")
        if func is Tensor.pin_memory or kwargs.get("pin_memory"):
            self.watch.refuse(8, name, "MPS has no pinned memory")
        wanted = [kwargs.get("memory_format"), *args]
        if func is not Tensor.is_contiguous and any(one is last for one in wanted for last in CHANNELS_LAST):
            self.watch.refuse(9, name, "channels_last gives wrong gradients")
        if func is scaled_dot_product_attention and not torch.is_grad_enabled():
            dropout = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if dropout > 0:
                self.watch.refuse(12, name, "without gradients it has no dropout")


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, those of backward passes too."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.watch.over:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        self._check_before(name, args)
        result = func(*args, **kwargs)
        self._check_after(name, [*_tensors((args, kwargs)), *_tensors(result)], _tensors(result))
        return result

    def _check_before(self, name: str, args: tuple[Any, ...]) -> None:
        if name in NO_KERNEL:
            self.watch.refuse(20, name, "MPS has no kernel for it; compute it on the CPU")
        looked_at: tuple[Any, ...] = ()
        if name in CONVOLUTIONS:
            looked_at = args[:2]
            if args[0].dtype.itemsize == 2 and torch.is_grad_enabled():
                self.watch.refuse(4, name, f"{args[0].dtype} has no right gradient; keep the convolution in float32")
        elif name in BATCH_NORMS:
            looked_at = args[:1]
        if any(one.ndim > 3 and not one.is_contiguous() for one in looked_at):
            self.watch.refuse(9, name, "an input that is not contiguous gives wrong numbers")

    def _check_after(self, name: str, touched: list[Tensor], results: list[Tensor]) -> None:
        if any(one.dtype in DOUBLE for one in results):
            self.watch.refuse(5, name, "MPS has no float64")
        elsewhere = threading.get_ident() != self.watch.owner and not LOCK._is_owned()  # type: ignore[attr-defined]
        if elsewhere and any(one.is_floating_point() for one in touched):
            self.watch.refuse(7, name, "two threads on MPS abort the process; hold device.lock")


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_iter(tree) if isinstance(one, Tensor)]
