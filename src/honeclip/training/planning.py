"""From counted bytes and a budget to a micro-batch and kept graphs, and from the data to a length.

On a CPU everything that could change a bit follows from model, sizes, batch and the memory limit alone, never from free
memory or timings, so the same command gives the same run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from honeclip.config import Memory, Train
from honeclip.data.loader import Batch
from honeclip.device import rng
from honeclip.errors import BadInput
from honeclip.schedule import parse, to_steps
from honeclip.stepping import inputs as tower_inputs
from honeclip.stepping.count import counting

MIN_STEPS, MIN_HEAD_STEPS, AUTO_EPOCHS = 60, 100, 10
"""`train.length = "auto"`: ten times through the data, never under sixty steps; a hundred where only heads learn, whose
steps take milliseconds."""

PROBE_ROWS = 4
"""Samples that are counted; what a graph keeps grows in proportion to them."""

MAX_MICRO_BATCH = 64
"""Larger micro-batches were not faster on a CPU, and their graphs are coarser pieces to fill a budget with."""


@dataclass(frozen=True)
class Plan:
    """How a step is computed; it decides how fast and with what memory, never what.

    Attributes:
        micro_batch: samples through each tower at once.
        keep: micro-batches whose graphs stay, one number a tower.
        graph_bytes: bytes that the graphs of one micro-batch keep, all towers together.
        reason: why, in words.
    """

    micro_batch: int
    keep: tuple[int, ...]
    graph_bytes: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """For the state that a resumed run repeats."""
        return {**asdict(self), "keep": list(self.keep)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Plan:
        """The reverse of `to_json`."""
        return cls(**{**stored, "keep": tuple(stored["keep"])})


def make_plan(
    feeds: tuple[Any, ...], batch: Batch, memory: Memory, budget_bytes: int, static_bytes: int, autocast: Any
) -> Plan:
    """Counts what each tower keeps per sample and fills the budget: first one micro-batch, then kept graphs.

    Args:
        feeds: one a tower, with `.inputs(batch)` and a call to embeddings.
        batch: a real batch; a few of its rows are counted.
        memory: the config's wishes; what is set there is taken as it is.
        budget_bytes: what the process may use above its imports.
        static_bytes: weights, gradients and optimizer state.
        autocast: a context manager for the forward.

    Raises:
        BadInput: not even one sample fits the budget.
    """
    size = len(batch.draw.indices)
    per_sample = [_bytes_per_sample(feed, batch, autocast) for feed in feeds]
    room = budget_bytes - static_bytes
    if room < sum(per_sample):
        need = (static_bytes + sum(per_sample)) / 1e9
        raise BadInput(
            f"memory.budget_gb = {budget_bytes / 1e9:.3g} is too little: weights, gradients and optimizer state take "
            f"{static_bytes / 1e9:.3g} GB and one sample {sum(per_sample) / 1e9:.3g} GB; give at least {need * 1.1:.3g}, "
            "or freeze towers (model.freeze=towers)"
        )
    if memory.micro_batch == "auto":
        # half of the room for the graph, the other half for what a forward holds besides it
        micro_batch = min(size, MAX_MICRO_BATCH, max(1, int(room / 2 // max(1, sum(per_sample)))))
        micro_batch = micro_batch if micro_batch == size else 2 ** int(math.log2(micro_batch))
    else:
        micro_batch = min(size, memory.micro_batch)
    graph_bytes = micro_batch * sum(per_sample)
    pieces = len(tower_inputs.spans(size, micro_batch))
    keep = pieces if memory.keep == "auto" else min(pieces, memory.keep)
    if memory.keep == "auto":
        keep = min(pieces, max(0, int((room - graph_bytes) // max(1, graph_bytes))))
    reason = (
        f"{sum(per_sample) / 1e6:.1f} MB a sample in {room / 1e9:.2f} GB of room: {pieces} micro-batches of "
        f"{micro_batch}, {keep} of them with their graphs kept"
    )
    return Plan(micro_batch, (keep,) * len(feeds), graph_bytes, reason)


def _bytes_per_sample(feed: Any, batch: Batch, autocast: Any) -> int:
    rows = min(PROBE_ROWS, len(batch.draw.indices))
    state = rng.snapshot()
    with autocast(), counting() as kept:
        output = feed(feed.inputs(batch)[:rows])
    del output
    rng.restore(state)
    return math.ceil(kept.bytes / rows)


def total_steps(train: Train, rows: int, batch: int, seconds_per_step: float | None, heads_only: bool) -> int:
    """The length of the run in steps: as asked for, or by the data."""
    steps_per_epoch = rows / batch
    if train.length == "auto":
        return max(MIN_HEAD_STEPS if heads_only else MIN_STEPS, math.ceil(AUTO_EPOCHS * steps_per_epoch))
    return max(1, to_steps(parse(train.length), steps_per_epoch, None, seconds_per_step))
