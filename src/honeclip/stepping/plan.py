"""The plan of a step: micro-batches, kept graphs, recomputation and attention slices that are fastest within a budget.

Pure arithmetic on what `cost.measure` counted. A plan decides how fast and with what memory, never what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from honeclip.stepping import inputs as tower_inputs
from honeclip.stepping.cost import TowerCost, peak_bytes

MAX_MICRO_BATCH = 64
"""Larger micro-batches were not faster on a CPU, and their graphs are coarser pieces to fill a budget with."""

SMALL_COST = 0.4
"""A micro-batch of m samples takes 1 + SMALL_COST / m times what a large one takes a sample (docs/log.md)."""

BACKWARD = 2.0
"""A backward in forwards: two matrix products for each one (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""

SLICING = 0.1
"""What query-sliced attention adds to a forward and backward, in forwards."""


@dataclass(frozen=True)
class Levers:
    """What is computed again instead of being kept, inside the towers.

    Attributes:
        recompute: blocks keep their inputs only.
        attention_slice: queries of a slice; 0 leaves attention to torch.
    """

    recompute: bool = False
    attention_slice: int = 0

    @property
    def words(self) -> list[str]:
        """What is pulled, for messages."""
        slices = [f"attention in slices of {self.attention_slice}"] if self.attention_slice else []
        return (["blocks recomputed"] if self.recompute else []) + slices


@dataclass(frozen=True)
class Plan:
    """How a step is computed.

    Attributes:
        micro_batch: samples through each tower at once, one number a tower, the image tower first.
        keep: micro-batches of each tower whose graphs stay.
        recompute: see `Levers`.
        attention_slice: see `Levers`.
        graph_bytes: of the graphs of one micro-batch, all towers together.
        step_bytes: what a step needs beyond what is there between steps.
        predicted_peak_bytes: the most at once in a step, with all that is there throughout.
        predicted_overhead: time beyond that of an undivided step that keeps everything, as a share of it.
        reason: why, in words.
        copy_bytes: of a second copy of what a run saves, for which there is room: it is then written while steps go on.
            0: there is none, and saving holds up the steps.
    """

    micro_batch: tuple[int, ...]
    keep: tuple[int, ...]
    recompute: bool
    attention_slice: int
    graph_bytes: int
    step_bytes: int
    predicted_peak_bytes: int
    predicted_overhead: float
    reason: str
    copy_bytes: int = 0

    @property
    def levers(self) -> Levers:
        """What is computed again inside the towers."""
        return Levers(self.recompute, self.attention_slice)

    def to_json(self) -> dict[str, Any]:
        """For the state that a resumed run repeats."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Plan:
        """The reverse of `to_json`."""
        lists = {name: tuple(stored[name]) for name in ("micro_batch", "keep")}
        return cls(**{**stored, **lists})


NO_PLAN = Plan((1, 1), (0, 0), False, 0, 0, 0, 0, 0.0, "none yet")


@dataclass(frozen=True)
class Task:
    """What a step has to do, and with what.

    Attributes:
        samples: of the effective batch, one number a tower.
        held: bytes that are there throughout: weights, optimizer state, inputs, what the libraries take.
        loss_bytes: embeddings, their gradients and the loss's tiles.
        budget_bytes: what may be used.
        micro_batch: as wished for, for all towers; None leaves it to the plan.
        keep: micro-batches of the image tower, as wished for; None keeps what fits.
    """

    samples: tuple[int, ...]
    held: int
    loss_bytes: int
    budget_bytes: int
    micro_batch: int | None = None
    keep: int | None = None


def best(task: Task, costs: Sequence[TowerCost], levers: Levers) -> Plan | None:
    """The fastest plan with these levers that fits the budget; None where none does.

    What is wished for is taken as it is, whether it fits or not.

    Args:
        task: what is to be done.
        costs: of the towers, measured with these levers.
        levers: that they were measured with.
    """
    largest = min(MAX_MICRO_BATCH, task.samples[0])
    choices = [task.micro_batch] if task.micro_batch else _falling(largest)
    found = [plan for size in choices if (plan := _filled(task, costs, levers, size)) is not None]
    if not found:
        # another tower's larger micro-batch may be what does not fit
        last = at(task, costs, levers, [1] * len(costs), [task.keep or 0] * len(costs))
        return last if last.predicted_peak_bytes <= task.budget_bytes else None
    return min(found, key=lambda plan: plan.predicted_overhead)


def smallest(task: Task, costs: Sequence[TowerCost], levers: Levers) -> int:
    """Bytes of the plan with these levers that needs least: one sample at a time, nothing kept."""
    ones = [1] * len(costs)
    return peak_bytes(costs, task.samples, ones, [0] * len(costs), task.held, task.loss_bytes)


def at(task: Task, costs: Sequence[TowerCost], levers: Levers, micro_batch: Sequence[int], keep: Sequence[int]) -> Plan:
    """The plan with these numbers, whatever it needs."""
    pieces = _pieces(task.samples, micro_batch)
    keep = tuple(min(wanted, most) for wanted, most in zip(keep, pieces, strict=True))
    peak = peak_bytes(costs, task.samples, micro_batch, keep, task.held, task.loss_bytes)
    graphs = sum(int(cost.graph * one * cost.share) for cost, one in zip(costs, micro_batch, strict=True))
    again = "".join(f", {one}" for one in levers.words)
    sizes = " and ".join(map(str, dict.fromkeys(micro_batch)))
    reason = (
        f"{pieces[0]} micro-batches of {sizes}, {keep[0]} of them with their graphs kept{again}: "
        f"{peak / 1e9:.2f} of {task.budget_bytes / 1e9:.2f} GB"
    )
    overhead = _overhead(task.samples, costs, levers, micro_batch, keep)
    return Plan(
        tuple(micro_batch),
        keep,
        levers.recompute,
        levers.attention_slice,
        graphs,
        peak - task.held,
        peak,
        overhead,
        reason,
    )


def _filled(task: Task, costs: Sequence[TowerCost], levers: Levers, size: int) -> Plan | None:
    """Micro-batches of `size` with as many kept graphs as fit; None where not even none fits."""
    micro_batch = [min(size, task.samples[0])]
    for cost, samples in zip(costs[1:], task.samples[1:], strict=True):
        micro_batch.append(_beside(costs[0], cost, micro_batch[0], samples) if not task.micro_batch else size)
    micro_batch = [min(one, samples) for one, samples in zip(micro_batch, task.samples, strict=True)]
    pieces = _pieces(task.samples, micro_batch)

    def shared(kept: int) -> list[int]:
        """The same share of every tower's micro-batches as `kept` is of the first tower's."""
        return [kept, *(round(kept / pieces[0] * many) for many in pieces[1:])]

    if task.keep is not None:
        found = at(task, costs, levers, micro_batch, shared(min(task.keep, pieces[0])))
        fits = found.predicted_peak_bytes <= task.budget_bytes
        return found if fits or task.micro_batch else None
    low, high = 0, pieces[0]
    while low < high:
        middle = (low + high + 1) // 2
        need = peak_bytes(costs, task.samples, micro_batch, shared(middle), task.held, task.loss_bytes)
        low, high = (middle, high) if need <= task.budget_bytes else (low, middle - 1)
    found = at(task, costs, levers, micro_batch, shared(low))
    return found if found.predicted_peak_bytes <= task.budget_bytes or task.micro_batch else None


def _beside(first: TowerCost, other: TowerCost, micro_batch: int, samples: int) -> int:
    """Another tower's micro-batch: the first one's, doubled for as long as it takes no more bytes than that one."""
    size = micro_batch
    while size * 2 <= min(MAX_MICRO_BATCH, samples) and other.forward(size * 2) <= first.forward(micro_batch):
        size *= 2
    return size


def _falling(largest: int) -> list[int]:
    """`largest`, then the powers of two below it."""
    return [largest, *(2**power for power in range(largest.bit_length() - 1, -1, -1) if 2**power < largest)]


def _pieces(samples: Sequence[int], micro_batch: Sequence[int]) -> list[int]:
    return [len(tower_inputs.spans(size, one)) for size, one in zip(samples, micro_batch, strict=True)]


def _overhead(
    samples: Sequence[int], costs: Sequence[TowerCost], levers: Levers, micro_batch: Sequence[int], keep: Sequence[int]
) -> float:
    """Time beyond an undivided step's, as a share; a tower's work is taken to be in proportion to what its graph keeps."""
    spent = plain = 0.0
    for size, cost, one, kept in zip(samples, costs, micro_batch, keep, strict=True):
        work = size * cost.work * cost.share
        backward = BACKWARD + levers.recompute + (SLICING if levers.attention_slice else 0) if cost.gradients else 0.0
        twice = max(0, size - kept * one) / size if cost.gradients else 0.0
        spent += work * (1 + SMALL_COST / one) * (1 + twice + backward)
        plain += work * (1 + SMALL_COST / size) * (1 + (BACKWARD if cost.gradients else 0.0))
    return max(0.0, spent / plain - 1) if plain else 0.0
