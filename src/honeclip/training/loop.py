"""The loop: a generator that yields once a step. Logging, evaluation and saving belong to whoever iterates."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from honeclip.config import Config
from honeclip.data.loader import Batch, rows
from honeclip.device import memory
from honeclip.device.precision import Precision, autocast_dtype
from honeclip.errors import MemoryExhausted, NonFiniteError
from honeclip.model import attention
from honeclip.model.clip import Clip
from honeclip.model.recompute import recompute
from honeclip.model.towers import freeze_batch_norm, share_of_longest
from honeclip.stepping import autopilot
from honeclip.stepping.accumulate import accumulated_step
from honeclip.stepping.autopilot import Autopilot
from honeclip.stepping.plan import Plan
from honeclip.stepping.step import StepResult, cached_step
from honeclip.training import optimizer as optimizers
from honeclip.training.aims import Aims
from honeclip.training.feeds import ImageFeed, TextFeed
from honeclip.training.objective import Balance, objective, set_scale, settle_scale
from honeclip.training.ranks import Ranks

NORM = "the gradient norm"

USUAL_MICRO_BATCH = 8
"""For which the lengths of texts in a micro-batch are foreseen; others differ by less than the prediction's own error."""


@dataclass(frozen=True)
class Step:
    """What happened in one step: its 1-based number, the result, the gradient norm before clipping, the rate,
    a sentence for each image that could not be read any more, pairs, the plan for the next step, why it changed, and whether
    the update was left out because a gradient in half precision was too large for the scale, which is smaller from here on.

    `seconds` are those of the result and the "wait" for data before it and the "optimizer" after it: the norms, the update,
    clearing gradients. An accelerator may still be busy with the update when that ends: the next step waits for it.
    `busy` is the share of the step's time in which the device was given work. `memory` is in bytes by kind.
    """

    number: int
    result: StepResult
    grad_norm: float
    lr: float
    lost: tuple[str, ...]
    pairs: int
    plan: Plan
    change: str
    skipped: bool
    grad_norms: Mapping[str, float]
    lrs: Mapping[str, float]
    seconds: Mapping[str, float]
    busy: float
    memory: Mapping[str, int]


@dataclass(eq=False)
class Mined:
    """Near misses of the train split, (rows, k) int64, and the (stretch, epoch) that they are for; none before the first."""

    of: tuple[int, int] = (-1, -1)
    neighbours: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Learner:
    """Everything that one step changes or reads.

    `flops` are those of one pair and `bound` those that the device can do in a second (`device.matmul`), 0 where nobody asked.
    `heads` is a stage's factor on the rate of heads. `lengths` are the tokens of each caption of the train split, by which
    the rows of a batch are ordered; None where the text tower cannot be given fewer tokens than it has.
    """

    clip: Clip
    config: Config
    precision: Precision
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    image_feed: ImageFeed
    text_feed: TextFeed
    plan: Plan
    factor: Callable[[int], float]
    heads: float = 1.0
    lengths: NDArray[np.int64] | None = None
    aims: Aims = field(default_factory=Aims)
    balance: Balance | None = None
    steps: int = 1
    more: tuple[ImageFeed | TextFeed, ...] = ()
    mined: Mined = field(default_factory=Mined)
    ranks: Ranks = field(default_factory=Ranks)
    flops: float = 0.0
    bound: float = 0.0

    @property
    def feeds(self) -> tuple[ImageFeed | TextFeed, ...]:
        """One a tower of the step: images, texts, images at the further scales of the loss, hard captions."""
        return (self.image_feed, self.text_feed, *self.more)


def text_share(learner: Learner, batch: int) -> float:
    """What an average micro-batch of texts keeps, as a share of the one with the longest captions."""
    if learner.lengths is None or learner.text_feed.features_NF is not None:
        return 1.0
    longest = learner.clip.preprocess.context_length
    return share_of_longest(np.minimum(learner.lengths, longest), batch, USUAL_MICRO_BATCH)


def train(learner: Learner, batches: Iterator[Batch], last_good: Callable[[], str]) -> Iterator[Step]:
    """One exact step a batch, for as long as there are batches and somebody iterates.

    Args:
        learner: model, optimizer and plan; changed in place.
        batches: in order; `batch.draw.step` is the 0-based step that it belongs to.
        last_good: names the newest checkpoint, for the message when the run must end.

    Raises:
        NonFiniteError: the loss is NaN or infinite, or a gradient is and there is no gradient scale that could be
            lowered: none is used, or it is down to 1. Weights are as before that step.
    """
    clip, optimizer = learner.clip, learner.optimizer
    clip.model.train()
    freeze_batch_norm(clip.model)
    wishes = learner.config.memory
    # a resumed run may stand at a lower plan than it was given: it grows back only to what holds now
    pilot = Autopilot(learner.plan, learner.plan, wishes.keep == "auto", wishes.recompute == "auto")
    recompute(clip, pilot.plan.recompute)
    parts = optimizers.parts_of(clip, optimizer)
    swap = memory.swap()
    for batch, wait in awaited(batches):
        came = time.perf_counter()
        step = batch.draw.step
        lr = optimizers.set_rate(optimizer, learner.factor(step), learner.heads)
        set_scale(clip, learner.config.loss, step / learner.steps)
        begun = time.perf_counter()
        result, pilot, change = _fitting_step(learner, batch, pilot)
        computed = time.perf_counter()
        _stop_unless(result.finite, step, f"the loss ({_names(result)})", last_good)
        with clip.device.lock:
            norm, norms, skipped = _update(learner, parts, step, last_good)
            optimizer.zero_grad(set_to_none=True)
            settle_scale(clip, learner.config.loss, batch.whole, learner.aims, result.parts)
        updated = time.perf_counter()
        swap, before = memory.swap(), swap
        if not change:
            available = clip.device.memory()["available"]
            pilot, change = autopilot.after(pilot, result.retries, available, swap.written > before.written)
            recompute(clip, pilot.plan.recompute)
        yield Step(
            number=step + 1,
            result=result,
            grad_norm=norm,
            lr=lr,
            lost=batch.lost,
            pairs=len(batch.whole.draw.indices),
            plan=pilot.plan,
            change=change,
            skipped=skipped,
            grad_norms=norms,
            lrs=optimizers.rates(optimizer),
            seconds={"wait": wait, **result.seconds, "optimizer": updated - computed},
            memory=memory.kinds(clip.device, swap.used),
            busy=(updated - begun) / (wait + time.perf_counter() - came),
        )


def awaited(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds from asking for it to having it."""
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - asked


def _fitting_step(learner: Learner, batch: Batch, pilot: Autopilot) -> tuple[StepResult, Autopilot, str]:
    """One exact step; where not even one sample at a time fits, more is computed again, and the step begins anew.

    Raises:
        MemoryExhausted: nothing is left to compute again.
    """
    change = ""
    while True:
        torch.manual_seed(step_seed(learner.config.train.seed, batch.draw.step))
        try:
            return exact_step(replace(learner, plan=pilot.plan), batch), pilot, change
        except MemoryExhausted as error:
            message = str(error)
        # outside the except block: its traceback would keep the tensors of the failed step alive
        lowered = autopilot.escalate(pilot)
        if lowered is None:
            raise MemoryExhausted(
                f"step {batch.draw.step + 1}: {message}, with blocks recomputed and attention in slices. Smaller images "
                "(resolution.stages), model.lora_rank=8 or model.freeze=towers need less"
            )
        pilot, change = lowered
        recompute(learner.clip, pilot.plan.recompute)


def exact_step(learner: Learner, batch: Batch) -> StepResult:
    """Leaves the gradients of one effective batch in `.grad`."""
    feeds = learner.feeds
    device = learner.clip.device
    scaler = learner.scaler
    plan = learner.plan
    loss, share = learner.config.loss, batch.draw.step / learner.steps
    with device.lock, device.autocast(learner.precision.name), attention.sliced(plan.attention_slice):
        if learner.config.train.accumulation == "plain":
            return accumulated_step(
                feeds,
                [feed.inputs(batch) for feed in feeds],
                lambda start, stop: objective(
                    learner.clip, rows(batch, start, stop), loss, learner.aims, learner.balance, share
                ),
                micro_batch=plan.micro_batch[0],
                scale_loss=scaler.scale if scaler.is_enabled() else None,
            )
        inputs = [feed.inputs(batch) for feed in feeds]
        of_all = objective(learner.clip, batch.whole, loss, learner.aims, learner.balance, share)
        scale_loss = scaler.scale if scaler.is_enabled() else None
        if learner.ranks.several:
            of_loss = list((learner.balance or {}).values())
            return learner.ranks.step(learner.clip, feeds, inputs, batch, of_all, plan, of_loss, scale_loss=scale_loss)
        return cached_step(feeds, inputs, of_all, micro_batch=plan.micro_batch, keep=plan.keep, scale_loss=scale_loss)


def _update(
    learner: Learner, parts: Mapping[str, Sequence[nn.Parameter]], step: int, last_good: Callable[[], str]
) -> tuple[float, dict[str, float], bool]:
    """Moves the weights along the gradients; gives the norm that these had, that of each part, and whether the weights
    stayed.

    In fp16 a scaled gradient may overflow although nothing is wrong with the run: the scaler leaves the update out and
    halves its scale. What is still not finite at a scale of 1, sixteen steps later, would be without one as well.
    """
    optimizer, scaler = learner.optimizer, learner.scaler
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
    norm, norms = optimizers.gradient_norms(parts)
    skipped = not math.isfinite(norm)
    if skipped:
        worst = _worst_gradient(learner.clip)
        # a scaler skips for a gradient that is not finite, but would not for a norm that only as a sum is not
        _stop_unless(scaler.get_scale() > 1 and worst != NORM, step, worst, last_good)
    optimizers.clip_gradients(chain.from_iterable(parts.values()), norm, learner.config.train.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    return norm, norms, skipped


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of one step's dropout: a pure function, so that a resumed run needs no generator state to go on. Each process
    of a run has its own, or rows of different processes would lose the same units."""
    digest = hashlib.sha256((f"{seed}/{step}/{rank}" if rank else f"{seed}/{step}").encode()).digest()
    return int.from_bytes(digest[:7], "big")


def gradient_scaler(clip: Clip, precision: Precision) -> torch.amp.GradScaler:
    """A gradient scaler where half precision needs one (fp16), otherwise one that does nothing."""
    return torch.amp.GradScaler(clip.device.type, enabled=autocast_dtype(precision.name) is torch.float16)


def _names(result: StepResult) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in result.parts.items()) or f"{result.loss:g}"


def _worst_gradient(clip: Clip) -> str:
    for name, one in clip.model.named_parameters():
        if one.grad is not None and not torch.isfinite(one.grad).all():
            return f"the gradient of {name}"
    return NORM


def _stop_unless(finite: bool, step: int, part: str, last_good: Callable[[], str]) -> None:
    if not finite:
        raise NonFiniteError(
            f"step {step + 1}: {part} is not finite, so the weights were left as they were; "
            f"the last good checkpoint is {last_good()}. Lower train.lr, or use train.precision=fp32"
        )
