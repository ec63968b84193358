"""The model call of a server: rows of one modality to unit embeddings. Runs on the device's thread and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.model import attention, towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.packed import packed
from honeclip.preprocess.preprocess import normalise
from honeclip.serving.queue import Modality

Forward: TypeAlias = Callable[[Clip, str, Modality, Tensor], Tensor]
"""A model, the name of a precision, a modality, rows -> unit float32 embeddings (B, D) on the CPU."""


def embed(clip: Clip, precision: str, modality: Modality, rows: Tensor) -> Tensor:
    """Unit float32 embeddings (B, D) on the CPU.

    Args:
        clip: the model.
        precision: name of the autocast around the tower.
        modality: which tower.
        rows: uint8 (B, 3, S, S), or tokens int64 (B, L), which are cut to the longest that counts.
    """
    count = len(rows)
    padded = _bucket(rows) if clip.device.backend == "mps" else rows
    # MPS has kernels for some sizes of heads only; CPU and CUDA choose well by themselves, and as in offline `embed`
    slices = attention.sliced("auto") if clip.device.backend == "mps" else nullcontext()
    with measuring(clip), slices, clip.device.autocast(precision), packed(clip, precision):
        if modality == "image":
            how, tower = clip.preprocess, towers.image_tower(clip)
            out = tower(normalise(clip.device.copy(padded), how.mean, how.std, clip.dtype))
        else:
            tower = towers.text_tower(clip)
            out = tower(clip.device.copy(towers.trim(tower, padded)))
        unit: Tensor = normalize(out[:count].float(), dim=-1).cpu()
    return unit


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows of several items as one batch."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _bucket(rows: Tensor) -> Tensor:
    """Rows up to the next power of two, the first one repeated: MPS compiles a graph for every new shape and keeps it."""
    wanted = 1 << (len(rows) - 1).bit_length()
    return torch.cat([rows, rows[:1].expand(wanted - len(rows), *rows.shape[1:])]) if wanted > len(rows) else rows
