"""Query-sliced attention: softmax(q k^T) v a slice of the queries at a time, each slice recomputed in its backward.

SDPA's math path holds the scores of all queries, B x H x N x N, several times over, and keeps one copy for the backward;
where a device has no kernel of its own with a backward (MPS), that is what training takes. Here nothing is kept but q, k
and v, and one slice of scores lives at a time (the idea is that of Rabe and Staats 2021, arXiv 2112.05682, sliced over
queries only, so the softmax needs no running maximum).

Every tower that calls `torch.nn.functional.scaled_dot_product_attention` can take it, with none of its code copied:
`nn.MultiheadAttention` and `Attention` of open_clip, timm, and text towers of transformers under attn_implementation
"sdpa". `sliced` routes that one function for as long as it is entered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.nn import functional
from torch.nn.attention import SDPBackend

from honeclip.model.slices import attention, four_dimensions, precise_dtype

SLICE_BYTES, CPU_SLICE_BYTES = 12 * 2**20, 2 * 2**20
"""Scores of one slice. On a CPU they are to stay in its cache: swept at 77 to 1,025 tokens, 2 MiB lay within a tenth of the
fastest and 12 MiB beyond it (docs/log.md). A GPU wants fewer, larger kernels; that figure is not measured on one."""

SLICE_COPIES = 3
"""Tensors of a slice's size that live at once in its backward: weights, their gradient, the gradient of the scores."""

INFERENCE_HEAD_DIMS = frozenset({32, 64, 72, 80, 96, 128, 256})
"""Head sizes for which a device without a fused choice of its own has a flash kernel for inference (mps.md section 4)."""


@dataclass
class Calls:
    """How many calls of attention were computed in slices, and how many were left to torch; repeated ones count again.
    `queries` is the largest slice so far, 0 before the first."""

    sliced: int = 0
    left: int = 0
    queries: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Plan:
    """What `sliced` was given; `active` shows it and `resumed` enters it again."""

    queries: int | Literal["auto"]
    budget_bytes: int | None = None
    calls: Calls = field(default_factory=Calls)


# --- the choice ---------------------------------------------------------------------------------------------------


def slice_for(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    head_dim: int,
    element_bytes: int,
    budget_bytes: int | None = None,
    *,
    fast_kernel: bool = False,
    device_type: str = "cpu",
) -> int:
    """Queries of a slice for one call of attention; 0 leaves the call to torch.

    The rule: a slice's scores fill `SLICE_BYTES` (on a CPU `CPU_SLICE_BYTES`), or less where `SLICE_COPIES` of them and
    what a slice copies of its operands would not fit the budget; at least one query, at most all. One slice that holds all
    queries still saves memory: its scores are not kept until the backward.

    Args:
        batch: samples B.
        heads: H.
        queries: tokens that ask.
        keys: tokens that answer; N of both in self-attention.
        head_dim: numbers a head.
        element_bytes: of one score: 4, also for half precision, whose slices are computed in float32; 8 for float64.
        budget_bytes: for the slices of one call; None is no limit.
        fast_kernel: SDPA has a kernel of its own here that holds no scores (flash attention on CPU and CUDA).
        device_type: "cpu", "mps" or "cuda".
    """
    if fast_kernel or not queries:
        return 0
    row = batch * heads * element_bytes
    wanted = CPU_SLICE_BYTES if device_type == "cpu" else SLICE_BYTES
    most = wanted // max(1, row * keys)
    if budget_bytes is not None:
        # beside the scores, a row has its query, output and their gradients in the precision of the scores
        most = min(most, budget_bytes // (row * (SLICE_COPIES * keys + 4 * head_dim)))
    return max(1, min(queries, most))


def has_fast_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> bool:
    """Whether torch would compute this call without holding its scores.

    CPU and CUDA choose among fused kernels that have a backward; a device that has no such choice has at most a kernel
    for inference.
    """
    if isinstance(q, FakeTensor):
        # torch's choice knows no fakes: it is asked about tensors of the same kind
        with unset_fake_temporarily():
            like = [_like(one) for one in (q, k, v)]
            like_mask = None if mask is None else _like(mask)
            return has_fast_kernel(like[0], like[1], like[2], like_mask, dropout_p, is_causal, scale)
    if _chooses(q.device.type):
        choice = torch._fused_sdp_choice(q, k, v, mask, dropout_p, is_causal, scale=scale)
        return choice not in (SDPBackend.MATH.value, SDPBackend.ERROR.value)
    trains = torch.is_grad_enabled() and any(one.requires_grad for one in (q, k, v))
    return not trains and q.shape[-1] == v.shape[-1] and q.shape[-1] in INFERENCE_HEAD_DIMS


def _like(one: Tensor) -> Tensor:
    return torch.empty_strided(
        one.shape, one.stride(), dtype=one.dtype, device=one.device, requires_grad=one.requires_grad
    )


def _chooses(device_type: str) -> bool:
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_sdp_choice", device_type.upper())
    except RuntimeError:  # a device without kernels, such as meta
        return False


# --- the route ----------------------------------------------------------------------------------------------------

_plan: ContextVar[Plan | None] = ContextVar("honeclip attention plan", default=None)
_lock = threading.Lock()
_entered = 0
_torch_attention = functional.scaled_dot_product_attention
_torch_fastpath = True


@contextmanager
def sliced(queries: int | Literal["auto"], budget_bytes: int | None = None) -> Iterator[Calls]:
    """Attention inside is computed in slices of `queries`, forward and backward, in this thread.

    A graph that was built inside may run backwards outside. The fast path of `nn.MultiheadAttention`, which goes around
    SDPA, is off inside.

    Args:
        queries: of a slice, over the whole batch and all heads; 0 leaves every call to torch; "auto" asks `slice_for`
            for each call. More than a call has is one slice.
        budget_bytes: for "auto": what the slices of one call may need.

    Yields:
        A count of the calls.

    Raises:
        ValueError: a negative number of queries.
    """
    if queries != "auto" and queries < 0:
        raise ValueError(f"an attention slice of {queries} queries: give 1 or more, 0 for none, or auto")
    plan = Plan(queries, budget_bytes)
    with resumed(plan):
        yield plan.calls


def active() -> Plan | None:
    """The plan that holds here; None where attention is torch's own."""
    return _plan.get()


@contextmanager
def resumed(plan: Plan | None) -> Iterator[None]:
    """Enters the plan that `active` gave elsewhere: a forward that is repeated in a backward must take the same slices."""
    global _entered, _torch_attention, _torch_fastpath
    before = _plan.get()
    with _lock:
        if not _entered:
            _torch_attention, _torch_fastpath = (
                functional.scaled_dot_product_attention,
                torch.backends.mha.get_fastpath_enabled(),
            )
            functional.scaled_dot_product_attention = _routed
            torch.backends.mha.set_fastpath_enabled(False)
        _entered += 1
    _plan.set(plan)
    try:
        yield
    finally:
        _plan.set(before)
        with _lock:
            _entered -= 1
            if not _entered:
                functional.scaled_dot_product_attention = _torch_attention
                torch.backends.mha.set_fastpath_enabled(_torch_fastpath)


def _routed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """In the place of torch's function while a plan is entered; a thread that entered none gets torch's own."""
    plan = _plan.get()
    queries = 0
    if plan is not None and _fits(query, key, value, attn_mask, is_causal):
        queries = _queries(plan, query, key, value, attn_mask, dropout_p, is_causal, scale)
    if plan is not None:
        plan.calls.sliced += queries > 0
        plan.calls.left += queries == 0
        plan.calls.queries = max(plan.calls.queries, queries)
    if not queries:
        return _torch_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, queries=queries)


def _queries(
    plan: Plan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> int:
    if plan.queries != "auto":
        return plan.queries
    batch, heads, queries, head_dim = four_dimensions(q).shape
    return slice_for(
        batch,
        heads,
        queries,
        k.shape[-2],
        head_dim,
        precise_dtype(q.dtype).itemsize,
        plan.budget_bytes,
        fast_kernel=has_fast_kernel(q, k, v, mask, dropout_p, is_causal, scale),
        device_type=q.device.type,
    )


def _fits(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> bool:
    """False for what is left to torch: grouped heads, broadcast batches, nested tensors, and calls that it refuses."""
    if q.ndim not in (3, 4) or q.is_nested or not q.is_floating_point() or not q.numel() or not k.numel():
        return False
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or k.shape[-2] != v.shape[-2] or q.shape[-1] != k.shape[-1]:
        return False
    if mask is None:
        return True
    full = (*four_dimensions(q).shape[:3], k.shape[-2])
    fits = mask.ndim <= q.ndim and all(
        one in (1, whole) for one, whole in zip(mask.shape[::-1], full[::-1], strict=False)
    )
    return fits and not is_causal and (mask.dtype == torch.bool or mask.is_floating_point())
