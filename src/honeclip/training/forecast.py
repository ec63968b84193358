"""`honeclip plan`: what a model's steps would be for several sizes and memories, before a byte is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from honeclip.config import Memory, Train
from honeclip.device.device import Device
from honeclip.device.memory import baseline_bytes
from honeclip.errors import BadInput, MemoryExhausted
from honeclip.stepping.plan import Levers, Plan
from honeclip.training import planning, trial
from honeclip.training.planning import Measured
from honeclip.training.trial import Trial

TIMED_ROWS = 8
"""Pairs of the step that is timed where hours are asked for."""


@dataclass(frozen=True)
class Forecast:
    """One row of the table.

    Attributes:
        size_px: side of the images.
        memory_gb: what the run may use, in GB.
        plan: the fastest one that fits; None where none does.
        reason: of the plan, or why there is none.
        hours: of a whole run with the data; None without data or without a plan.
    """

    size_px: int
    memory_gb: float
    plan: Plan | None
    reason: str
    hours: float | None = None

    def to_json(self) -> dict[str, Any]:
        """One entry of `plan --json`; figures are null where nothing fits."""
        plan = self.plan
        return {
            "size_px": self.size_px,
            "memory_gb": self.memory_gb,
            "fits": plan is not None,
            "micro_batch": plan.micro_batch[0] if plan else None,
            "kept": plan.keep[0] if plan else None,
            "attention_slice": plan.attention_slice if plan else None,
            "recompute": plan.recompute if plan else None,
            "predicted_peak_bytes": plan.predicted_peak_bytes if plan else None,
            "predicted_overhead": plan.predicted_overhead if plan else None,
            "hours": self.hours,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Table:
    """All rows, and what is the same in each.

    Attributes:
        model: its source.
        batch: the effective batch in pairs.
        precision: of the towers.
        device: in words.
        rows: by size, then memory.
        faster_frozen: by tower, how many times faster a step is where that tower is frozen and its features are stored.
    """

    model: str
    batch: int
    precision: str
    device: str
    rows: tuple[Forecast, ...]
    faster_frozen: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """What `plan --json` prints."""
        return {
            "model": self.model,
            "batch": self.batch,
            "precision": self.precision,
            "device": self.device,
            "plans": [row.to_json() for row in self.rows],
            "faster_with_frozen_tower": self.faster_frozen,
        }


def forecast(
    model: str,
    memories_gb: Sequence[float],
    device: Device,
    *,
    sizes_px: Sequence[int] = (),
    batch: int = 256,
    data: str | None = None,
    precision: str = "auto",
    config: Train | None = None,
) -> Table:
    """Counts a few samples of the model at each size and plans for each memory.

    Args:
        model: any model source; every tower learns.
        memories_gb: what a run may use, in GB (1e9 bytes).
        device: that computes.
        sizes_px: sides of the images; none is the model's own.
        batch: effective batch in pairs; with data at most its rows.
        data: a manifest, for the lengths of its captions and the hours of a run.
        precision: as `train.precision`.
        config: length of the run, for the hours.

    Raises:
        BadInput: a size, memory, batch, model or data that cannot be used.
    """
    for memory in memories_gb:
        if not memory > 0:
            raise BadInput(f"--memory {memory:g}: give GB above 0")
    if batch < 2:
        raise BadInput(f"--batch {batch}: it is at least 2 pairs")
    rows: list[Forecast] = []
    faster: dict[str, float] = {}
    precision_name = ""
    for size in sizes_px or (None,):
        before = baseline_bytes(device)
        found = trial.make(model, device, size=size, precision=precision, data=data, imports_bytes=before)
        batch = min(batch, len(found.rows)) if found.rows is not None else batch
        precision_name = found.learner.precision.name
        with device.lock:
            known: Measured = {}
            plans = [_one(found, batch, memory, known) for memory in memories_gb]
            plain = known[Levers()]
            works = [3 * one.work for one in plain]
            for name, work in zip(("image", "text"), works, strict=True):
                faster.setdefault(name, sum(works) / (sum(works) - work))
            if found.rows is not None and any(one.plan for one in plans):
                seconds = _seconds_a_pair(found)
                steps = planning.total_steps(config or Train(), len(found.rows), batch, None, heads_only=False)
                plans = [replace(one, hours=_hours(one.plan, seconds * batch * steps)) for one in plans]
            rows += plans
    return Table(model, batch, precision_name, device.name, tuple(rows), faster)


def _one(found: Trial, batch: int, memory_gb: float, known: Measured) -> Forecast:
    size = found.learner.clip.preprocess.size_px
    try:
        subject = replace(found.subject(batch), saves=True)
        plan = planning.make_plan(subject, Memory(budget_gb=memory_gb), int(memory_gb * 1e9), known)
    except BadInput as error:
        return Forecast(size, memory_gb, None, str(error).replace("memory.budget_gb", "--memory"))
    return Forecast(size, memory_gb, plan, plan.reason)


def _seconds_a_pair(found: Trial) -> float:
    """Of an undivided step, timed on a small one after another that warms up."""
    batch = found.batch(min(TIMED_ROWS, len(found.rows or ())))
    plan = planning.whole(len(batch.draw.indices))
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        try:
            trial.step(found, batch, plan)
        except MemoryExhausted:
            return float("nan")
        found.learner.clip.device.synchronise()
        taken.append(time.perf_counter() - started)
    return taken[-1] / len(batch.draw.indices)


def _hours(plan: Plan | None, seconds: float) -> float | None:
    return None if plan is None or seconds != seconds else seconds * (1 + plan.predicted_overhead) / 3600
