"""Plain accumulation of losses, for comparison: what most training loops call gradient accumulation.

Each micro-batch has a loss of its own, and their mean is learned from. For a contrastive loss that is another task than the
whole batch's: with B pairs in micro-batches of m, a caption is told from m - 1 others instead of B - 1, and quality falls with
the negatives (Radford et al. 2021 train with 32,768; Gao et al. 2021, arXiv 2101.06983, measure what fewer cost). It is
cheaper by the second forward. `cached_step` is the exact one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from honeclip.errors import StepError
from honeclip.stepping import inputs as tower_inputs
from honeclip.stepping.step import Encoder, Loss, StepResult, refuse_batch_statistics


def accumulated_step(
    encoders: Sequence[Encoder],
    inputs: Sequence[Any],
    loss_of: Callable[[int, int], Loss],
    *,
    micro_batch: int,
    scale_loss: Callable[[Tensor], Tensor] | None = None,
) -> StepResult:
    """Leaves in `.grad` the mean of the micro-batches' gradients, weighted by their samples.

    Args:
        encoders: one callable a tower.
        inputs: one a tower, as for `cached_step`.
        loss_of: (start, stop) -> the loss of the rows start to stop.
        micro_batch: samples of each tower at once; it decides what is learned.
        scale_loss: for a gradient scaler.

    Raises:
        StepError: unequal numbers of samples, or batch statistics in training mode.
    """
    for index, encoder in enumerate(encoders):
        refuse_batch_statistics(index, encoder)
    sizes = {tower_inputs.rows(index, value) for index, value in enumerate(inputs)}
    if len(sizes) != 1:
        raise StepError(f"towers with {sorted(sizes)} samples: plain accumulation needs the same number in each")
    size = sizes.pop()
    spans = tower_inputs.spans(size, micro_batch)
    started = time.perf_counter()
    total = 0.0
    parts: dict[str, float] = {}
    for (start, stop), pieces in zip(
        spans, zip(*(tower_inputs.chunks(value, spans) for value in inputs), strict=True), strict=True
    ):
        outputs = [encoder(piece) for encoder, piece in zip(encoders, pieces, strict=True)]
        values = [one if one.dtype is torch.float64 else one.float() for one in outputs]
        with torch.autocast(values[0].device.type, enabled=False):
            result = loss_of(start, stop)(*values)
        value, named = result if isinstance(result, tuple) else (result, {})
        share = (stop - start) / size
        (scale_loss(value * share) if scale_loss else value * share).backward()
        total += float(value.detach()) * share
        for name, part in named.items():
            parts[name] = parts.get(name, 0.0) + float(part) * share
    seconds = {"all": time.perf_counter() - started}
    return StepResult(total, min(micro_batch, size), len(spans), 0, parts, math.isfinite(total), seconds)
