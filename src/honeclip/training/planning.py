"""From counted bytes and a budget to a plan, and from the data to a length.

On a CPU everything that could change a bit follows from model, sizes, batch and the memory limit alone, never from free
memory or timings, so the same command gives the same run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from honeclip.config import Memory, Train
from honeclip.device import resident, rng
from honeclip.device.device import Device
from honeclip.device.memory import budget
from honeclip.errors import BadInput
from honeclip.losses import tiles
from honeclip.model import attention
from honeclip.model.clip import Clip
from honeclip.model.recompute import recompute, recomputed
from honeclip.schedule import parse, to_steps
from honeclip.stepping import plan as plans
from honeclip.stepping.cost import TowerCost, measure
from honeclip.stepping.plan import NO_PLAN, Levers, Plan, Task

MIN_STEPS, MIN_HEAD_STEPS, AUTO_EPOCHS = 60, 100, 10
"""`train.length = "auto"`: ten times through the data, never under sixty steps; a hundred where only heads learn, whose
steps take milliseconds."""

LIBRARIES_BYTES = 150_000_000
"""What a process on a CPU takes beside tensors once it computes (oneDNN's kernels and scratch, threads, tokenizers), as far
as a micro-batch is chosen by it. The prediction has the measured figure instead."""

RESERVE = 0.15
"""Share of the budget that a run on a CPU plans to leave free: measured peaks lie up to so much above the counted bytes, most
where there is little memory (holes in the heap, kernels made for each new size; docs/log.md, 2026-11-27)."""

ENOUGH = 8
"""A micro-batch of so many samples is worth no lever: recomputation would cost more than larger pieces bring."""

MOMENTS = 2
"""Tensors that Adam holds for each one that learns."""

COPY_WORTH = 0.03
"""Share of the time that a second copy of what is saved may cost a plan, in memory that graphs then lack: about what saving
costs at the default interval where it holds up the steps."""


@dataclass(frozen=True)
class Subject:
    """What is planned for.

    Attributes:
        clip: model, in training mode, with what learns requiring gradients.
        feeds: one a tower, image first: `forward` is the way from inputs to embeddings.
        inputs: a few samples of each tower, those that need most (the longest captions), texts cut to what they need.
        batch: the pairs of this process: the effective batch, or its part of one.
        loss_batch: the effective batch where it is larger, of whose embeddings the loss is.
        text_share: see `TowerCost.share`, of the text tower.
        input_bytes: of the whole batch, waiting on the host.
        precision: of the towers, by name.
        device: where the run computes.
        learning_bytes: of everything that the optimizer holds.
        imports_bytes: what the process held after its imports, on a CPU; None where it is not known.
        saves: whether checkpoints are written between the steps.
    """

    clip: Clip
    feeds: Sequence[Any]
    inputs: Sequence[Any]
    batch: int
    input_bytes: int
    precision: str
    device: Device
    learning_bytes: int
    imports_bytes: int | None = None
    text_share: float = 1.0
    saves: bool = False
    loss_batch: int = 0

    def around(self) -> AbstractContextManager[None]:
        """Context of a step: autocast."""
        return self.device.autocast(self.precision)


Measured = dict[Levers, list[TowerCost]]
"""What the towers cost with each combination of levers that was measured."""


def make_plan(subject: Subject, memory: Memory, budget_bytes: int, known: Measured | None = None) -> Plan:
    """Measures each tower on a few samples and takes the fastest plan that fits.

    Recomputation and attention slices are tried where the user wants them, and where without them only small
    micro-batches fit.

    Args:
        subject: what is planned for.
        memory: wishes; what is set there is taken as it is.
        budget_bytes: what the process may use above its imports.
        known: what was measured for this subject before, and what is measured now.

    Raises:
        BadInput: not even one sample at a time fits the budget.
    """
    weights, libraries = _standing(subject.clip, subject.device)
    usable = 1 - RESERVE if libraries and subject.imports_bytes is not None else 1.0
    inputs = subject.input_bytes if subject.device.backend == "cpu" else 0
    task = Task(
        samples=(subject.batch,) * len(subject.feeds),
        held=weights + MOMENTS * subject.learning_bytes + inputs + libraries,
        loss_bytes=_loss_bytes(subject),
        budget_bytes=int(usable * budget_bytes),
        micro_batch=None if memory.micro_batch == "auto" else memory.micro_batch,
        keep=None if memory.keep == "auto" else memory.keep,
    )
    least = 0
    found: Plan | None = None
    plain: Sequence[TowerCost] = ()
    known = {} if known is None else known
    tried: Measured = {}
    for levers in _levers(subject, memory):
        if levers not in known:
            known[levers] = _costs(subject, levers)
        costs = [replace(one, share=share) for one, share in zip(known[levers], _shares(subject), strict=True)]
        plain = plain or costs
        costs = tried[levers] = [replace(one, work=before.work) for one, before in zip(costs, plain, strict=True)]
        plan = plans.best(task, costs, levers)
        need = plans.smallest(task, costs, levers)
        least = min(least or need, need)
        if plan is not None and (found is None or plan.predicted_overhead < found.predicted_overhead):
            found = plan
        if found is not None and (task.micro_batch or found.micro_batch[0] >= min(ENOUGH, subject.batch)):
            break
    if found is None or least > task.budget_bytes:
        raise _too_little(subject, replace(task, budget_bytes=budget_bytes), math.ceil(least / usable), levers)
    if subject.saves:
        found = _with_copy(found, subject, task, tried, weights + MOMENTS * subject.learning_bytes)
    return _as_measured(found, subject, weights, libraries)


def _with_copy(found: Plan, subject: Subject, task: Task, tried: Measured, copy_bytes: int) -> Plan:
    """The plan with room for a second copy of weights and moments, where that fits and costs next to no time; otherwise the
    one that was found, with a word on it. A card has memory of its own, and the copy lies in the host's."""
    if subject.device.backend == "cuda":
        return replace(found, copy_bytes=copy_bytes)
    if subject.device.backend == "mps":  # one memory for all, but the peak is told of the GPU's share alone
        left = replace(task, budget_bytes=task.budget_bytes - copy_bytes)
    else:
        left = replace(task, held=task.held + copy_bytes)
    some = [plan for levers, costs in tried.items() if (plan := plans.best(left, costs, levers)) is not None]
    fitting = [plan for plan in some if plan.predicted_peak_bytes <= left.budget_bytes]
    best = min(fitting, key=lambda plan: plan.predicted_overhead, default=None)
    if best is None or best.predicted_overhead > found.predicted_overhead + COPY_WORTH:
        words = f"saving holds up the steps, for a copy of {copy_bytes / 1e9:.2g} GB has no room"
        return replace(found, reason=f"{found.reason}; {words}")
    return replace(best, copy_bytes=copy_bytes)


def _shares(subject: Subject) -> tuple[float, ...]:
    return (1.0, subject.text_share, *(1.0,) * (len(subject.feeds) - 2))


def room_bytes(clip: Clip, device: Device, memory: Memory, learning_bytes: int) -> int:
    """Half of what the budget leaves beside weights, the optimizer's state and, on a CPU, the libraries.

    Half, for what a process holds beside its tensors is known only afterwards, and larger batches win next to nothing.

    Args:
        clip: its weights.
        device: where they are.
        memory: the budget.
        learning_bytes: of everything that the optimizer holds; 0 before there is one.
    """
    weights, libraries = _standing(clip, device)
    held = weights + MOMENTS * learning_bytes + libraries
    return max(0, budget(device, memory.budget_gb).bytes - held) // 2


def whole(samples: int) -> Plan:
    """The plan of an undivided step that keeps everything."""
    return replace(NO_PLAN, micro_batch=(samples, samples), keep=(1, 1), reason="undivided")


@contextmanager
def pulled(clip: Clip, levers: Levers) -> Iterator[None]:
    """The levers in place for a while, for forwards and their backwards inside."""
    with attention.sliced(levers.attention_slice):
        # a stage before may have left it on, under pressure
        recompute(clip, False)
        with recomputed(clip) if levers.recompute else nullcontext():
            yield


def least_steps(heads_only: bool) -> int:
    """Steps that no run is shorter than unless it is asked for."""
    return MIN_HEAD_STEPS if heads_only else MIN_STEPS


def total_steps(
    train: Train,
    rows: int,
    batch: float,
    seconds_per_step: float | None,
    heads_only: bool,
    before_seconds: float = 0.0,
) -> int:
    """The length of the run in steps: as asked for, or by the data; minutes are less `before_seconds`."""
    steps_per_epoch = rows / batch
    if train.length == "auto":
        return max(least_steps(heads_only), math.ceil(AUTO_EPOCHS * steps_per_epoch))
    length = parse(train.length)
    if length.unit == "minutes":
        length = replace(length, value=max(0.0, length.value - before_seconds / 60))
    return max(1, to_steps(length, steps_per_epoch, None, seconds_per_step))


def _levers(subject: Subject, memory: Memory) -> Iterator[Levers]:
    """The levers to try, those that cost no time first; what a slice would be is asked only where one is tried."""
    again = [False, True] if memory.recompute == "auto" else [memory.recompute]
    slices = [0] if memory.attention_slice == "auto" else [memory.attention_slice]
    yield Levers(again[0], slices[0])
    if memory.attention_slice == "auto" and (wanted := _slice(subject)):
        slices.append(wanted)
    yield from [Levers(recomputes, queries) for recomputes in again for queries in slices][1:]


def _slice(subject: Subject) -> int:
    """Queries of a slice where attention has no kernel of its own here; 0 where torch holds no scores anyway."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    state = rng.snapshot()
    with subject.around(), attention.sliced("auto") as calls, fake:
        for feed, inputs in zip(subject.feeds, subject.inputs, strict=True):
            feed.forward(fake.from_tensor(inputs))
    rng.restore(state)
    return calls.queries


_measured: dict[str, list[TowerCost]] = {}
"""What was measured in this process: the trials of a study and the stages of a run ask the same again and again."""


def _costs(subject: Subject, levers: Levers) -> list[TowerCost]:
    key = _key(subject, levers)
    if key not in _measured:
        _measured[key] = _measure(subject, levers)
    return _measured[key]


def _key(subject: Subject, levers: Levers) -> str:
    """All that decides the bytes: modules and their settings, what learns, the inputs' shapes, precision, levers."""
    model = subject.clip.model
    parameters = [(name, tuple(one.shape), one.dtype, one.requires_grad) for name, one in model.named_parameters()]
    towers = [
        (type(feed).__name__, feed.features_NF is None, tuple(one.shape), one.dtype)
        for feed, one in zip(subject.feeds, subject.inputs, strict=True)
    ]
    # the share that a patch dropout leaves out does not stand in its words
    training = [(module.training, getattr(module, "prob", None)) for module in model.modules()]
    backend = subject.device.backend
    words = repr((repr(model), parameters, towers, training, subject.precision, backend, levers))
    return hashlib.sha256(words.encode()).hexdigest()


def _measure(subject: Subject, levers: Levers) -> list[TowerCost]:
    with pulled(subject.clip, levers):
        return [
            measure(feed.forward, inputs, subject.around)
            for feed, inputs in zip(subject.feeds, subject.inputs, strict=True)
        ]


def _loss_bytes(subject: Subject) -> int:
    """Embeddings as they come and as one tensor, their gradients, and the tiles of the loss's backward."""
    size, element = subject.loss_batch or subject.batch, subject.clip.logit_scale.element_size()
    tile = tiles.rows(size, "auto", element) * size * element
    return len(subject.feeds) * 3 * size * subject.clip.embed_dim * element + 4 * tile


def _as_measured(plan: Plan, subject: Subject, weights: int, libraries: int) -> Plan:
    """The prediction with what the process really holds beside its tensors, where that can be read."""
    if subject.imports_bytes is None or subject.device.backend != "cpu":
        return plan
    resident.give_back_freed()
    beside = max(0, resident.now_bytes() - subject.imports_bytes - weights)
    return replace(plan, predicted_peak_bytes=plan.predicted_peak_bytes - libraries + beside)


def _too_little(subject: Subject, task: Task, least: int, levers: Levers) -> BadInput:
    """What a budget that holds not even one sample would have to be."""
    ways = ["micro-batch 1", "no graphs kept", *levers.words]
    learning = subject.learning_bytes / 1e9
    return BadInput(
        f"memory.budget_gb = {task.budget_bytes / 1e9:.3g} is too little: the smallest plan ({', '.join(ways)}) needs "
        f"{math.ceil(least / 1e7) / 100:.2f} GB, of which weights, optimizer state and inputs are {task.held / 1e9:.3g}. "
        f"{learning:.3g} GB of parameters learn: model.lora_rank=8 or model.freeze=towers would leave most of them"
    )


def _standing(clip: Clip, device: Device) -> tuple[int, int]:
    """Bytes of the weights, and of what a process on a CPU takes beside tensors."""
    weights = _nbytes(clip.model.parameters()) + _nbytes(clip.model.buffers())
    return weights, LIBRARIES_BYTES if device.backend == "cpu" else 0


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
