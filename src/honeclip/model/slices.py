"""softmax(q k^T) v a slice of the queries at a time, each slice recomputed in its backward.

Nothing is kept for the backward but q, k, v and the mask, and one slice of scores lives at a time (the idea is that of
Rabe and Staats 2021, arXiv 2112.05682; the slices go over queries only, so the softmax needs no running maximum).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from honeclip.device import rng


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    queries: int,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, a slice at a time: same values and gradients, to rounding.

    The scores of a slice are computed in float32 for half precision, as SDPA's math path does, and in the precision of q
    otherwise. Under autocast q, k and v are cast as SDPA's would be. A slice is cut from whole heads where it is larger
    than one: `queries` rows a head for all heads hold as much memory as all rows of a few.

    Args:
        q: (B, H, Lq, d), or (H, Lq, d).
        k: (B, H, Lk, d).
        v: (B, H, Lk, dv).
        mask: broadcastable to (B, H, Lq, Lk): bool, True where a query may look, or added to the scores. A row without
            any key gives zeros, as in torch. It may need a gradient.
        dropout_p: share of the weights that is dropped; the backward replays what the forward drew. The draws differ
            from torch's and between slices.
        is_causal: a query sees keys up to its own place, counted from the start.
        scale: of q k^T; None is 1 / sqrt(d).
        queries: of a slice, at least 1.

    Returns:
        (B, H, Lq, dv) in the precision of q, laid out in memory as q is where dv is d.
    """
    device = q.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        lower = torch.get_autocast_dtype(device)
        q, k, v = (one if one.dtype is torch.float64 else one.to(lower) for one in (q, k, v))
    flat = q.ndim == 3
    four = None if mask is None else mask[(None,) * (4 - mask.ndim)]
    q4, k4, v4 = four_dimensions(q), four_dimensions(k), four_dimensions(v)
    rows = queries * q4.shape[0] * q4.shape[1]
    call = _Call(rows, is_causal, q.shape[-1] ** -0.5 if scale is None else scale, dropout_p)
    out: Tensor = _Sliced.apply(q4, k4, v4, four, call)
    return out[0] if flat else out


@dataclass(frozen=True)
class _Call:
    """Rows of scores that live at once, and what SDPA was asked for."""

    rows: int
    causal: bool
    scale: float
    dropout: float


class _Sliced(torch.autograd.Function):
    """Keeps q, k, v and the mask; the backward builds each slice's weights again.

    Samples and heads of a slice are one batch of `bmm`. Its results are copied into their places: `out=` a view has been
    silently wrong on MPS (pytorch issue 104832).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, call: _Call) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.call = call
        ctx.randomness = rng.snapshot() if call.dropout else {}
        out = torch.empty_like(q) if v.shape[-1] == q.shape[-1] else q.new_empty((*q.shape[:-1], v.shape[-1]))
        with _no_autocast(q.device.type):
            for part, spans in _slices(q.shape, call.rows):
                keys, values = _batch(k[part]), _batch(v[part])
                for span in spans:
                    weights = _weights(_batch(q[part][:, :, span]) * call.scale, keys, mask, call, part, span)
                    if call.dropout:
                        weights *= _kept(weights, call.dropout)
                    _put(out[part][:, :, span], torch.bmm(weights, values))
                    del weights
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        call, precise = ctx.call, precise_dtype(q.dtype)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        d_mask = torch.zeros_like(mask, dtype=precise) if ctx.needs_input_grad[3] else None
        outside = rng.snapshot() if call.dropout else {}
        rng.restore(ctx.randomness)
        with _no_autocast(q.device.type):
            for part, spans in _slices(q.shape, call.rows):
                keys, values = _batch(k[part]), _batch(v[part])
                d_keys: list[Tensor] = []
                d_values: list[Tensor] = []
                for span in spans:
                    asked = _batch(q[part][:, :, span]) * call.scale
                    given = _batch(d_out[part][:, :, span])
                    weights = _weights(asked, keys, mask, call, part, span)
                    d_weights = torch.bmm(given, values.mT)
                    used = weights
                    if call.dropout:
                        kept = _kept(weights, call.dropout)
                        d_weights *= kept
                        used = weights * kept
                        del kept
                    _add(d_values, torch.bmm(used.mT, given))
                    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, precise)
                    del weights, d_weights, used
                    _put(dq[part][:, :, span], torch.bmm(d_scores, keys).mul_(call.scale))
                    _add(d_keys, torch.bmm(d_scores.mT, asked))
                    if d_mask is not None:
                        place = d_mask[_of_mask(d_mask, part, span)]
                        by_head = d_scores.view(*dq[part].shape[:2], *d_scores.shape[1:])
                        place += by_head.sum_to_size(place.shape)
                    del d_scores
                _put(dk[part], *d_keys)
                _put(dv[part], *d_values)
        rng.restore(outside)
        return dq, dk, dv, None if d_mask is None else d_mask.to(mask.dtype), None


def _no_autocast(device_type: str) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device_type)  # it is not for meta tensors
    return torch.autocast(device_type, enabled=False) if available else nullcontext()


def _batch(part: Tensor) -> Tensor:
    """(b, h, L, d) as (b h, L, d) in the precision of the scores; the same memory where that is possible."""
    return part.flatten(0, 1).to(precise_dtype(part.dtype))


def _put(place: Tensor, batch: Tensor) -> None:
    """(b h, L, d) into (b, h, L, d)."""
    place.copy_(batch.view(place.shape))


def _add(total: list[Tensor], more: Tensor) -> None:
    """The sum over slices is the one tensor in `total`, in the precision of the scores."""
    if total:
        total[0] += more
    else:
        total.append(more)


def _weights(
    asked: Tensor, keys: Tensor, mask: Tensor | None, call: _Call, part: tuple[slice, slice], span: slice
) -> Tensor:
    """Softmax over the keys for one slice of scaled queries, before dropout: (b h, s, Lk)."""
    scores = torch.bmm(asked, keys.mT)
    if call.causal:
        places = torch.arange(span.start, span.stop, device=keys.device).unsqueeze(-1)
        scores.masked_fill_(torch.arange(keys.shape[-2], device=keys.device) > places, float("-inf"))
    if mask is None:
        return scores.softmax(dim=-1)
    cut = mask[_of_mask(mask, part, span)]
    by_head = scores.view(part[0].stop - part[0].start, -1, *scores.shape[1:])
    if cut.dtype == torch.bool:
        by_head.masked_fill_(~cut, float("-inf"))
    else:
        by_head += cut
    blind = scores.amax(dim=-1, keepdim=True) == float("-inf")
    return scores.softmax(dim=-1).masked_fill_(blind, 0.0)


def _slices(shape: torch.Size, rows: int) -> Iterator[tuple[tuple[slice, slice], list[slice]]]:
    """Whole samples where `rows` rows of scores hold them, else whole heads, else the queries of one head in pieces."""
    batch, heads, queries = shape[:3]
    a_head = _even(queries, rows)
    some_heads = _even(heads, rows // queries)
    for samples in _even(batch, rows // (heads * queries)):
        for group in some_heads:
            yield (samples, group), a_head


def _even(size: int, most: int) -> list[slice]:
    """`size` things in the fewest pieces of at most `most`, all but the last of one length."""
    pieces = -(-size // max(1, min(size, most)))
    length = -(-size // pieces)
    return [slice(start, min(start + length, size)) for start in range(0, size, length)]


def _of_mask(mask: Tensor, part: tuple[slice, slice], span: slice) -> tuple[slice, ...]:
    """Where the mask (4 dimensions, some of length 1) has a slice's rows."""
    return tuple(slice(None) if mask.shape[dim] == 1 else cut for dim, cut in enumerate((*part, span)))


def _kept(weights: Tensor, dropout_p: float) -> Tensor:
    """What dropout multiplies the weights with."""
    return functional.dropout(torch.ones_like(weights), dropout_p)


def four_dimensions(one: Tensor) -> Tensor:
    """(H, L, d) as (1, H, L, d); (B, H, L, d) as it is."""
    return one if one.ndim == 4 else one.unsqueeze(0)


def precise_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of a slice's scores: float32 for half precision, as in SDPA's math path."""
    return dtype if dtype is torch.float64 else torch.float32
