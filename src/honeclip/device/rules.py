"""The rule mode: a run on the CPU that fails wherever it does what MPS forbids.

    with rules():                        # a step: every tensor counts as one on the device
    with rules(placed_only=True):        # a whole run: only what was moved to `device.handle` counts

A breach raises `RuleBroken` at its very place and names the rule of reference mps.md (docs/mps.md). What can be seen:

    4   a convolution in half precision while gradients are computed
    5   a float64 tensor
    6   a copy that does not block
    7   a second thread that computes without the device's lock
    8   pinned memory
    9   channels-last tensors; a convolution or a batch norm of something that is not contiguous
    12  attention dropout without gradients
    20  an operation that MPS has no kernel for

and, with `placed_only`, what any GPU refuses: one operation on tensors of the host and of the device, and NumPy's view of
a tensor on the device. A tensor is on the device after `device.copy`, `tensor.to(device.handle)` or
`module.to(device.handle)`, with all that is computed from it, until `.cpu()`. It is on the host if it comes from data
(NumPy, lists) or from `.cpu()`. Of all others (made by `zeros` and the like) nothing is said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from honeclip.device.device import LOCK, Cpu

MISSING = ("linalg_eig", "_linalg_eigvals", "linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_matrix_sqrth", "ormqr")
DETOURS = ("_linalg_svd", "_linalg_eigh")
NO_KERNEL = frozenset((*MISSING, *DETOURS, "_fused_rms_norm_backward"))
"""ATen operations without an MPS kernel in the native_functions.yaml of torch 2.15, or that may go to the CPU."""

CONVOLUTIONS = frozenset(["convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution"])
BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"])
COPIES = (Tensor.to, Tensor.copy_, Tensor.cuda)
NUMPY = (Tensor.numpy, Tensor.__array__)
CROSSING = frozenset(["copy_", "index", "index_put_", "_index_put_impl_", "set_"])
"""Operations that may take tensors of both places; their results are where the first one is."""

CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)
DOUBLE = (torch.float64, torch.complex128)
NON_BLOCKING = "non_blocking reads memory that may be freed or not yet written"
Place = Literal["device", "host", "unknown"]


class RuleBroken(BaseException):
    """Something that would be wrong, crash or be missing on MPS; the message names the rule.

    No `except Exception` on the way can swallow it.
    """


@contextmanager
def rules(placed_only: bool = False, thread: str | None = None) -> Iterator[None]:
    """Within it, on this thread and on threads that start in it, what MPS forbids raises `RuleBroken`.

    Args:
        placed_only: look only at tensors that were put on the device; for runs whose work on the host is free to use
            float64 and threads. Without it a second thread may handle integers, as it does to decode pictures.
        thread: name of the one that may compute without the lock, as a server's does; None: this one.

    Raises:
        RuleBroken: at the place of the breach; at the end for one in another thread, whose error nobody asked for.
    """
    watch = _Watch(placed_only, thread or threading.current_thread().name)
    with ExitStack() as stack:
        for owner, name, watched in PATCHES:
            stack.enter_context(mock.patch.object(owner, name, watched(watch, getattr(owner, name))))
        stack.enter_context(_Functions(watch))
        stack.enter_context(_Operations(watch))
        stack.callback(watch.end)
        yield
    if watch.broken:
        raise RuleBroken(watch.broken[0])


def _watched_thread(watch: _Watch, run: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Modes belong to a thread, so each one that starts enters its own."""

    def replacement(thread: threading.Thread) -> None:
        with _Functions(watch), _Operations(watch):
            run(thread)

    return replacement


def _noting_move(watch: _Watch, to: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """torch makes a new device object on the way to a module's tensors, by which they cannot tell where they go."""

    def replacement(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if kwargs.get("non_blocking"):
            watch.refuse(6, "Module.to", NON_BLOCKING)
        to(module, *args, **kwargs)
        target = _target((*args, *kwargs.values()))
        if target is not None:
            for tensor in (*module.parameters(), *module.buffers()):
                watch.put(tensor, target)
        return module

    return replacement


def _unwatched(watch: _Watch, method: Callable[..., Any]) -> Callable[..., Any]:
    """torch's gradient scaler uses float64 unless its scale is on a device named mps."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        watch.silent += 1
        try:
            return method(*args, **kwargs)
        finally:
            watch.silent -= 1

    return replacement


PATCHES: tuple[tuple[type, str, Callable[[_Watch, Callable[..., Any]], Callable[..., Any]]], ...] = (
    (threading.Thread, "run", _watched_thread),
    (nn.Module, "to", _noting_move),
    (torch.amp.GradScaler, "unscale_", _unwatched),
)


def _target(arguments: Iterable[Any]) -> Place | None:
    """Where `.to(*arguments)` leads; None where it changes no place.

    On a CPU all places are "cpu": the device is told by the very object that is its handle, and where
    `.to(other.device)` leads nobody can tell.
    """
    for one in arguments:
        if one is Cpu.handle:
            return "device"
        if isinstance(one, str):
            return "host" if one == "cpu" else "unknown"
        if isinstance(one, torch.device | Tensor):
            return "unknown"
    return None


class _Watch:
    """What the modes of all threads share: where storages are, and what was broken."""

    def __init__(self, placed_only: bool, owner: str) -> None:
        self.placed_only = placed_only
        self.owner = owner
        self.silent = 0
        self.broken: list[str] = []
        self.places: MutableMapping[Any, Place] = WeakIdKeyDictionary()

    def refuse(self, rule: int | None, name: str, what: str) -> None:
        self.broken.append(f"{f'rule {rule}' if rule else 'placement'}: {name}: {what}")
        raise RuleBroken(self.broken[-1])

    def end(self) -> None:
        """Threads that live on keep their modes, which see nothing any more."""
        self.silent += 1

    def place(self, tensor: Any) -> Place:
        return self.places.get(tensor.untyped_storage(), "unknown") if isinstance(tensor, Tensor) else "unknown"

    def put(self, tensor: Tensor, place: Place) -> Tensor:
        self.places[tensor.untyped_storage()] = place
        return tensor

    def concerned(self, tensors: Iterable[Any]) -> bool:
        """Whether the rules look at work on these tensors."""
        return not self.placed_only or any(self.place(one) == "device" for one in tensors)


class _Functions(TorchFunctionMode):
    """Sees what is asked in Python, before torch drops what means nothing on a CPU (non_blocking, pinned memory)."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.watch.silent:
            return func(*args, **kwargs)
        self._check(func, getattr(func, "__name__", str(func)), args, kwargs)
        result = func(*args, **kwargs)
        if not self.watch.placed_only or not isinstance(result, Tensor):
            return result
        if func in (Tensor.to, Tensor.cpu):
            return self._moved(result, "host" if func is Tensor.cpu else _target((*args[1:], *kwargs.values())))
        if kwargs.get("device") is not None:
            self.watch.put(result, "device" if kwargs["device"] is Cpu.handle else "unknown")
        return result

    def _moved(self, result: Tensor, target: Place | None) -> Tensor:
        """A tensor in its new place; a copy, if it was in the other one. Its gradient goes the other way."""
        if target is None:
            return result
        source = self.watch.place(result)
        if {source, target} == {"host", "device"}:
            result = result.clone()
            if result.requires_grad:
                result.register_hook(lambda gradient: self.watch.put(gradient.clone(), source))
        return self.watch.put(result, target)

    def _check(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positional = next((one for one in args if isinstance(one, bool)), False) if func in COPIES else False
        target = _target((*args[1:], *kwargs.values())) if func is Tensor.to else None
        # torch's gradient scaler asks for it with its scalars, which it moves to where they are
        scalar = target == "unknown" and not args[0].ndim
        if (kwargs.get("non_blocking") or positional) and not scalar:
            self.watch.refuse(6, name, NON_BLOCKING)
        if func is Tensor.pin_memory or kwargs.get("pin_memory"):
            self.watch.refuse(8, name, "MPS has no pinned memory")
        wanted = [kwargs.get("memory_format"), *args]
        if func is not Tensor.is_contiguous and any(one is last for one in wanted for last in CHANNELS_LAST):
            self.watch.refuse(9, name, "channels_last gives wrong gradients")
        if func is scaled_dot_product_attention and not torch.is_grad_enabled() and self.watch.concerned(args):
            dropout = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if dropout > 0:
                self.watch.refuse(12, name, "without gradients it has no dropout")
        if func is multi_head_attention_forward and not torch.is_grad_enabled() and self.watch.concerned(args):
            # the SDPA inside it is not seen: torch takes the mode off while this function runs
            dropout = kwargs.get("dropout_p", args[10] if len(args) > 10 else 0.0)
            if dropout > 0 and kwargs.get("training", True):
                self.watch.refuse(12, name, "without gradients it has no dropout")
        if func in NUMPY and self.watch.place(args[0]) == "device":
            self.watch.refuse(None, name, "the tensor is on the device; bring it back with .cpu() first")
        if target == "device" and args[0].dtype in DOUBLE:
            self.watch.refuse(5, name, "MPS has no float64; make it float32 first")


class _Operations(TorchDispatchMode):
    """Sees every operation, those of backward passes too."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.watch.silent:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        given = _tensors((args, kwargs))
        if self.watch.concerned(given):
            self._check_before(name, args, given)
        result = func(*args, **kwargs)
        made = _tensors(result)
        if self.watch.placed_only:
            self._note(name, given, made)
        if self.watch.concerned([*given, *made]):
            self._check_after(name, given, made)
        return result

    def _note(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        """What is computed from a tensor is where that tensor is; what comes from data is on the host.

        A fused update gives nothing back: its lists are all in one place, moments that a checkpoint brought too.
        """
        sources = given[:1] if name in CROSSING else given
        places = {"host"} if name == "lift_fresh" else {self.watch.place(one) for one in sources}
        if places & {"device", "host"}:
            for one in made or given:
                self.watch.put(one, "device" if "device" in places else "host")

    def _check_before(self, name: str, args: tuple[Any, ...], given: list[Tensor]) -> None:
        if name in NO_KERNEL:
            self.watch.refuse(20, name, "MPS has no kernel for it; compute it on the CPU")
        places = {self.watch.place(one) for one in given if one.ndim}
        if {"device", "host"} <= places and name not in CROSSING:
            self.watch.refuse(None, name, "one tensor is on the device and another on the host")
        if name in CONVOLUTIONS and args[0].dtype.itemsize == 2 and torch.is_grad_enabled():
            self.watch.refuse(4, name, f"{args[0].dtype} has no right gradient; keep the convolution in float32")
        looked_at = args[:2] if name in CONVOLUTIONS else args[:1] if name in BATCH_NORMS else ()
        if any(not one.is_contiguous() for one in looked_at):
            self.watch.refuse(9, name, "an input that is not contiguous gives wrong numbers")

    def _check_after(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        if any(one.dtype in DOUBLE for one in made):
            self.watch.refuse(5, name, "MPS has no float64")
        elsewhere = threading.current_thread().name != self.watch.owner and not LOCK._is_owned()  # type: ignore[attr-defined]
        if elsewhere and (self.watch.placed_only or any(one.is_floating_point() for one in [*given, *made])):
            self.watch.refuse(7, name, "two threads on MPS abort the process; hold device.lock")


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_iter(tree) if isinstance(one, Tensor)]
