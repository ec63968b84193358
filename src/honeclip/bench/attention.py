"""`bench attention`: one transformer block of a model's image tower, forward and backward, sliced or by the math path.

    seconds               the block's forward and backward, the fastest of several rounds
    peak_memory_bytes     the block's, weights included: on a CPU resident memory above what the imports took
    extra_memory_bytes    the attention's alone: the most bytes it has allocated at once beyond q, k, v, the block's input
                          and output, and the gradients of these, which every way of computing it must have

The extra bytes are those of torch's allocator, every one of its allocations and releases counted, while the attention of
the block runs forward and backward on the q, k and v that the block gives it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from honeclip.device import detect
from honeclip.device.allocated import allocated
from honeclip.device.device import Device
from honeclip.device.memory import PeakMeter, baseline_bytes, budget
from honeclip.errors import BadInput
from honeclip.model import attention
from honeclip.model.load import load
from honeclip.model.recompute import blocks
from honeclip.model.resize import resize
from honeclip.model.slices import four_dimensions, precise_dtype
from honeclip.model.towers import image_tower

log = logging.getLogger(__name__)

BATCH, ROUNDS = 8, 5


@dataclass(frozen=True)
class Block:
    """A block, what it was given, and what it gave its attention.

    Attributes:
        module: the block; its parameters need gradients.
        args: its positional arguments; the first is the input (B, N, width), which needs a gradient.
        kwargs: its named arguments.
        operands: q (B, H, N, d), k and v of its first call of SDPA, laid out as the block lays them out.
        options: mask, scale and the like of that call.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: tuple[Tensor, Tensor, Tensor]
    options: dict[str, Any]


def run(
    model: str,
    size: int | None = None,
    slice_: int | None = None,
    *,
    batch: int = BATCH,
    device: str = "auto",
    rounds: int = ROUNDS,
) -> dict[str, float | int]:
    """Measures one block; see the top of this file for the figures.

    Args:
        model: any model source.
        size: side of the images in pixels; None is the model's own.
        slice_: queries of a slice; 0 is SDPA's math path, which holds all scores; None is the slice that
            `attention.slice_for` chooses where SDPA has no kernel of its own.
        batch: images.
        device: of the block.
        rounds: of which the fastest counts, at least 1, after one that does not.

    Raises:
        BadInput: a size or slice that cannot be, or an image tower without attention.
    """
    if slice_ is not None and slice_ < 0:
        raise BadInput(f"--slice {slice_}: give the queries of a slice, 1 or more, or 0 for SDPA's math path")
    where = detect.choose(device)
    before = baseline_bytes(where)
    with where.lock:
        block = first_block(model, size, batch=batch, device=where)
        where.empty_cache()  # the rest of the model
        queries = chosen(block, where) if slice_ is None else slice_
        log.info(
            "attention of %d tokens: %s", block.operands[0].shape[-2], f"{queries} a slice" if queries else "math path"
        )
        seconds = sweep(block, [queries], where, rounds)[queries]
        with PeakMeter(where, before) as meter:
            once(block, queries)
            where.synchronise()
            meter.sample()
        return {
            "seconds": seconds,
            "peak_memory_bytes": meter.peak_bytes,
            "extra_memory_bytes": extra_bytes(block, queries, where),
        }


def chosen(block: Block, device: Device) -> int:
    """The slice that honeclip takes for a block where SDPA has no kernel of its own."""
    q, k, _ = block.operands
    samples, heads, queries, head_dim = four_dimensions(q).shape
    size = precise_dtype(q.dtype).itemsize
    limit = budget(device).bytes
    return attention.slice_for(samples, heads, queries, k.shape[-2], head_dim, size, limit, device_type=device.type)


# --- the block ----------------------------------------------------------------------------------------------------


class _Found(Exception):
    """Ends a forward of the tower: the rest of it is not needed."""


def first_block(model: str, size: int | None, *, batch: int, device: Device) -> Block:
    """The first block of a model's image tower that calls SDPA, and random images' way up to it.

    Raises:
        BadInput: the model or size cannot be used, or the tower has no such block.
    """
    clip = load(model, device)
    resize(clip, size or clip.preprocess.size_px)
    tower = image_tower(clip)
    given: list[Any] = []
    calls: list[Any] = []
    found: list[nn.Module] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given[:] = [args, kwargs]

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if calls:
            found.append(module)
            raise _Found

    hooks = [
        hook
        for module in blocks(clip.model.visual)
        for hook in (module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave))
    ]
    side = clip.preprocess.size_px
    images_BCHW = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), _listening(calls):
            tower(device.copy(images_BCHW))
    except _Found:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise BadInput(f"{model}: its image tower has no block with attention that goes through SDPA")
    args, kwargs = given
    operands, options = calls[0]
    return Block(found[0].requires_grad_(), (args[0].clone().requires_grad_(), *args[1:]), kwargs, operands, options)


@contextmanager
def _listening(calls: list[Any]) -> Iterator[None]:
    """Notes operands and options of every call of SDPA inside."""
    torch_attention = functional.scaled_dot_product_attention

    def listen(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = dict(zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
        calls.append(((query, key, value), options))
        return torch_attention(query, key, value, **options)

    functional.scaled_dot_product_attention = listen
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = torch_attention


# --- measuring ----------------------------------------------------------------------------------------------------


def sweep(block: Block, slices: Sequence[int], device: Device, rounds: int = ROUNDS) -> dict[int, float]:
    """Seconds of the block's forward and backward by slice, the fastest round of each.

    The slices take turns, so that what else the machine does falls on all of them; the first turn does not count.
    """
    best = dict.fromkeys(slices, float("inf"))
    for turn in range(rounds + 1):
        for queries in best:
            with device.timer() as elapsed:
                once(block, queries)
            if turn:
                best[queries] = min(best[queries], elapsed.seconds)
    return best


def once(block: Block, queries: int) -> None:
    """One forward and backward; the gradients are let go of before it."""
    block.module.zero_grad(set_to_none=True)
    block.args[0].grad = None
    with way(queries):
        output = block.module(*block.args, **block.kwargs)
    output = output if isinstance(output, Tensor) else output[0]
    output.backward(torch.ones_like(output))


@contextmanager
def way(queries: int) -> Iterator[None]:
    """Attention in slices; 0: SDPA's math path."""
    with attention.sliced(queries), sdpa_kernel(SDPBackend.MATH):
        yield


def extra_bytes(block: Block, queries: int, device: Device) -> int:
    """The most bytes of the block's attention at once beyond q, k, v, its output and the gradients of these."""
    q, k, v = (one.detach().requires_grad_() for one in block.operands)
    outputs: list[Tensor] = []

    def forward() -> None:
        with way(queries):
            outputs.append(functional.scaled_dot_product_attention(q, k, v, **block.options))

    def backward() -> None:
        outputs.append(torch.ones_like(outputs[0]))
        outputs.extend(torch.autograd.grad(outputs[0], (q, k, v), outputs[1]))

    peak_forward, kept = allocated(forward, device)
    peak_backward, _ = allocated(backward, device)
    out, *gradients = (one.untyped_storage().nbytes() for one in outputs)
    return max(peak_forward - out, kept - out + peak_backward - sum(gradients))
