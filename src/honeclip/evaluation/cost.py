"""What an image tower costs at a size: samples a second, the wait for one image, and memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from honeclip.data.pairs import Pairs
from honeclip.device.memory import PeakMeter
from honeclip.device.resident import keeping_freed
from honeclip.embedding.batches import decoded
from honeclip.embedding.embed import Embeddings, embed_pixels
from honeclip.embedding.features import Features, distinct
from honeclip.model.clip import Clip

BATCH = 16
SINGLES, BATCHES = 5, 3

TIMED = 64
"""Pictures that are embedded once more to time them, where those of the data came from disk."""


def cost(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Measure image towers on noise, from pixels on the CPU to embeddings on the CPU; decoding is not counted.

    Args:
        clips: one model at several sizes, or several models.

    Returns:
        For each, as plain numbers of this machine and moment:

        samples_per_second: of batches of `BATCH` images, the median of `BATCHES`.
        latency_ms: of one image, the median of `SINGLES`, after one that is not counted.
        peak_memory_bytes: while a batch goes through. On a CPU the weights of the whole model and the resident memory
            that the batch took above what the process held before; on MPS and CUDA the device's allocated peak.
        batch: `BATCH`.
    """
    peaks = [_peak_bytes(clip) for clip in clips]  # all before the first timing, which leaves holes in the heap
    return [
        {**_times(clip), "peak_memory_bytes": peak, "batch": BATCH} for clip, peak in zip(clips, peaks, strict=True)
    ]


def images_per_second(clip: Clip, pairs: Pairs, embeddings: Embeddings, features: Features | None) -> float | None:
    """Pictures of a data set that the model embeds a second, reading and decoding of files included; None: none was timed.

    Args:
        clip: the model.
        pairs: the rows that were embedded.
        embeddings: of these rows, with the time that they took.
        features: where the body's output was read from disk that time says nothing of the model, and `TIMED` pictures are
            embedded anew.
    """
    first, _ = distinct(pairs.image_id)
    if not (features and features.image):
        return len(first) / embeddings.seconds if embeddings.seconds > 0 else None
    chosen = pairs.select(first[:TIMED])
    with clip.device.lock, clip.device.timer() as elapsed:
        for _, pixels, _ in decoded(chosen.images, clip.preprocess, BATCH):
            if pixels is not None:
                embed_pixels(clip, pixels)
    return len(chosen) / elapsed.seconds


def _peak_bytes(clip: Clip) -> int:
    noise = _noise(clip)
    _seconds(clip, noise[:1])  # kernels are chosen and workspaces made in the first call
    with PeakMeter(clip.device) as meter:
        embed_pixels(clip, noise)
    return meter.peak_bytes + (_weight_bytes(clip) if clip.device.backend == "cpu" else 0)


def _times(clip: Clip) -> dict[str, float]:
    noise = _noise(clip)
    with keeping_freed():  # as `embed_looks` runs
        _seconds(clip, noise)
        latency = statistics.median(_seconds(clip, noise[:1]) for _ in range(SINGLES))
        batch = statistics.median(_seconds(clip, noise) for _ in range(BATCHES))
    return {"samples_per_second": BATCH / batch, "latency_ms": 1000 * latency}


def _noise(clip: Clip) -> Tensor:
    size = clip.preprocess.size_px
    seeded = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=seeded)


def _seconds(clip: Clip, pixels_BCHW: Tensor) -> float:
    with clip.device.lock, clip.device.timer() as elapsed:
        embed_pixels(clip, pixels_BCHW)
    return elapsed.seconds


def _weight_bytes(clip: Clip) -> int:
    tensors = {id(one): one for one in (*clip.model.parameters(), *clip.model.buffers())}
    return sum(one.numel() * one.element_size() for one in tensors.values())
