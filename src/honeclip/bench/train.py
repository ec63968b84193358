"""`bench train`: whole optimizer steps of a model in pieces: time, memory, and the memory that was predicted.

seconds_per_step       forward, loss, backward and update of one effective batch, the median of several
samples_per_second     pairs of it
peak_memory_bytes      over all steps: on a CPU resident memory above what the imports took, weights included
predicted_peak_bytes   the same, from a few samples that were counted before the first step
"""

from __future__ import annotations

import logging
import statistics
from typing import Any

import torch

from honeclip.config import Memory
from honeclip.device import detect
from honeclip.device.memory import PeakMeter, baseline_bytes, budget
from honeclip.errors import BadInput
from honeclip.training import trial

log = logging.getLogger(__name__)

STEPS = 3


def run(
    model: str,
    batch: int,
    micro_batch: int | None = None,
    keep: int | None = None,
    *,
    size: int | None = None,
    precision: str = "auto",
    steps: int = STEPS,
    data: str | None = None,
    attention_slice: int | None = None,
    recompute: bool | None = None,
    budget_gb: float | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Measures a step; see the top of this file for the figures.

    Args:
        model: any model source; every tower learns.
        batch: effective batch in pairs.
        micro_batch: pairs through a tower at once; None takes what the plan takes, and so do the next ones.
        keep: micro-batches whose graphs stay.
        size: side of the images in pixels; None is the model's own.
        precision: as `train.precision`.
        steps: that are measured, after one that is not.
        data: a manifest; None takes noise and captions of the whole context length.
        attention_slice: queries of a slice; 0 for none.
        recompute: whether blocks are recomputed.
        budget_gb: memory of the process in GB.
        device: where it computes.

    Raises:
        BadInput: something given is out of range or cannot be used.
    """
    least = {"batch": (batch, 2), "micro-batch": (micro_batch, 1), "keep": (keep, 0), "steps": (steps, 1)}
    for name, (value, lowest) in least.items():
        if value is not None and value < lowest:
            raise BadInput(f"--{name} {value}: it is at least {lowest}")
    where = detect.choose(device)
    before = baseline_bytes(where)
    given = {
        "micro_batch": micro_batch,
        "keep": keep,
        "attention_slice": attention_slice,
        "recompute": recompute,
        "budget_gb": budget_gb,
    }
    memory = Memory(**{name: value for name, value in given.items() if value is not None})
    found = trial.make(model, where, size=size, precision=precision, data=data, imports_bytes=before)
    seconds = []
    with where.lock:
        plan = trial.planned(found, batch, memory, budget(where, memory.budget_gb).bytes)
        log.info("%s", plan.reason)
        one = found.batch(batch)
        torch.manual_seed(0)
        with PeakMeter(where, before) as meter:
            for number in range(1 + steps):
                with where.timer() as elapsed:
                    used, kept, _ = trial.step(found, one, plan)
                if number:
                    seconds.append(elapsed.seconds)
    middle = statistics.median(seconds)
    return {
        "samples_per_second": batch / middle,
        "seconds_per_step": middle,
        "peak_memory_bytes": meter.peak_bytes,
        "predicted_peak_bytes": plan.predicted_peak_bytes,
        "micro_batch": used,
        "kept": kept,
        "recompute": plan.recompute,
        "attention_slice": plan.attention_slice,
        "predicted_overhead": plan.predicted_overhead,
    }
