"""`bench loss`: InfoNCE over a batch, forward and backward, in tiles or plainly.

seconds               forward and backward, the fastest of several rounds
peak_memory_bytes     the most bytes allocated at once, the two embeddings included
extra_memory_bytes    the same without the embeddings; the gradients of both are in it
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone reads
from torch import Tensor

from honeclip.device import detect
from honeclip.device.allocated import allocated
from honeclip.device.device import Device
from honeclip.errors import BadInput
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets

ROUNDS = 3
LOG_SCALE = 2.66
"""The logarithm of 1 / 0.07, where CLIP starts (Radford et al. 2021)."""


def run(
    batch: int, dim: int, tile: int | None = None, *, device: str = "auto", rounds: int = ROUNDS
) -> dict[str, float | int]:
    """Measures the loss on random embeddings in float32; see the top of this file for the figures.

    Args:
        batch: pairs.
        dim: dimensions of an embedding.
        tile: rows of logits at once; 0 is the plain loss, which holds the whole matrix; None is honeclip's own choice.
        device: "auto", "cpu", "mps" or "cuda".
        rounds: of which the fastest counts, after one that does not.

    Raises:
        BadInput: a batch, dimension or tile that cannot be.
    """
    for name, value, least in (("batch", batch, 2), ("dim", dim, 1), ("tile", 0 if tile is None else tile, 0)):
        if value < least:
            raise BadInput(f"--{name} {value}: it is at least {least}")
    where = detect.choose(device)
    with where.lock:
        generator = torch.Generator().manual_seed(0)
        image_BD, text_BD = (
            where.copy(torch.randn(batch, dim, generator=generator)).requires_grad_() for _ in range(2)
        )
        log_scale = where.copy(torch.tensor(LOG_SCALE)).requires_grad_()
        inputs = (image_BD, text_BD, log_scale)

        def work() -> None:
            for one in inputs:
                one.grad = None
            loss = plain(*inputs) if tile == 0 else infonce(*inputs, Targets(), "auto" if tile is None else tile)
            loss.backward()

        seconds = _fastest(work, where, rounds)
        for one in inputs:
            one.grad = None
        extra, _ = allocated(work, where)
    held = 2 * batch * dim * image_BD.element_size()
    return {"seconds": seconds, "peak_memory_bytes": extra + held, "extra_memory_bytes": extra}


def plain(image_BD: Tensor, text_BD: Tensor, log_scale: Tensor) -> Tensor:
    """The loss as it is usually written: the whole matrix of logits, and cross entropy both ways."""
    logits_BB = log_scale.exp() * F.normalize(image_BD, dim=-1) @ F.normalize(text_BD, dim=-1).T
    diagonal = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, diagonal) + F.cross_entropy(logits_BB.T, diagonal)) / 2


def _fastest(work: Callable[[], None], device: Device, rounds: int) -> float:
    work()
    taken = []
    for _ in range(max(1, rounds)):
        device.synchronise()
        started = time.perf_counter()
        work()
        device.synchronise()
        taken.append(time.perf_counter() - started)
    return min(taken)
