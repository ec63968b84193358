"""Everything between what was prepared and the first step: heads and adapters, optimizer, stages, batches and plans."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from honeclip.config import Config
from honeclip.data import loader
from honeclip.data.loader import Batch
from honeclip.data.order import Draw, by_length, order
from honeclip.data.pairs import Pairs
from honeclip.data.shards import far
from honeclip.device import precision
from honeclip.device.memory import budget
from honeclip.domains import domain as domains
from honeclip.evaluation.report import Report
from honeclip.model import adapt, heads
from honeclip.model.clip import Clip
from honeclip.model.towers import freeze_batch_norm
from honeclip.monitoring.terminal import Progress
from honeclip.schedule import parse, to_steps
from honeclip.stepping.cost import ROWS
from honeclip.stepping.flops import of_sample
from honeclip.stepping.plan import NO_PLAN, Levers, Plan
from honeclip.training import folder as folders
from honeclip.training import frozen, objective, optimizer, planning, ranks, resolution, stages
from honeclip.training.aims import aims as training_aims
from honeclip.training.asked import Asked
from honeclip.training.feeds import Features, ImageFeed, TextFeed
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, exact_step, gradient_scaler, text_share
from honeclip.training.planning import Subject
from honeclip.training.prepared import Prepared
from honeclip.training.stages import Stage

TIMED_STEPS, TIMED_S = 2, 1.0
"""Steps, and seconds of steps, that are timed at least for a length in minutes, after one that warms up."""

RESERVE = 0.1
"""Share of minutes that is left free: a machine that is a little slower later, events, a stall of the disk."""

PROBE_STEPS = 1000
"""Stands for a run's length while that is being worked out."""


def score_before(found: Prepared, asked: Asked, file: Path, progress: Progress) -> Report | None:
    """What the model gets on a test split before the first step; kept in the run folder, so that a resumed run asks once.

    None where the data has no test split.
    """
    stored = folders.read_json(file)
    if stored is not None:
        return Report.from_json(stored)
    if not len(asked.pairs):
        return None
    known = frozen.caches(found, stages.frozen_towers(found.clip, found.config.model.freeze))
    report = asked.report(found.clip, known, progress=progress.counter(f"scoring the start on {asked.data_name}"))
    folders.write_json(file, report.to_json())
    return report


def build(found: Prepared, freeze: frozenset[str], known: Known) -> Learner:
    """Model with its heads and adapters, optimizer and scaler, before any stage was entered.

    Args:
        found: what was prepared.
        freeze: bodies that never learn.
        known: where features of the train split are kept; fresh heads ask for those of both towers.
    """
    clip, config = found.clip, found.config
    aims = training_aims(clip, found.train, found.domain, config.data.domain, config.loss)
    if heads.takes_fresh_heads(clip):
        both = known.of(found, stages.TOWERS)
        assert both.image_NF is not None
        assert both.text_NF is not None
        heads.install(clip, both.image_NF, both.text_NF, config.train.seed)
    clip.domain = domains.to_mapping(found.domain)
    clip.model.to(precision.weight_dtype(found.precision.name))
    objective.prepare(clip, config.loss)
    names = frozenset(name for name, _ in optimizer.named_learning(clip))
    stages.enter(clip, Stage(0, 0, freeze), names)
    if config.model.last_blocks:
        adapt.keep_last(clip, config.model.last_blocks, freeze)
    if config.model.lora_rank:
        adapt.add_lora(clip, config.model.lora_rank, config.train.seed)
    learning = frozenset(name for name, _ in optimizer.named_learning(clip))
    resolution.check_tables(clip, found.resolutions, learning)
    dtype = precision.weight_dtype(found.precision.name)
    learns = sum(one.numel() * one.element_size() for one in clip.model.parameters() if one.requires_grad)
    clip.room_bytes = planning.room_bytes(clip, found.device, config.memory, learns)
    balance = objective.balance(config.loss, clip.logit_scale)
    return Learner(
        clip=clip,
        config=config,
        precision=found.precision,
        optimizer=optimizer.build(clip, config.train, freeze, balance),
        scaler=gradient_scaler(clip, found.precision),
        image_feed=ImageFeed(clip, None, dtype),
        text_feed=TextFeed(clip, None, dtype, samples=frozen.samples_of(found)),
        plan=NO_PLAN,
        factor=lambda step: 1.0,
        lengths=None if "text" in freeze else caption_lengths(clip, found.train),
        aims=aims,
        balance=balance,
        more=frozen.further_feeds(clip, config.loss, aims, dtype),
        ranks=found.ranks,
    )


def enter(found: Prepared, learner: Learner, stage: Stage, known: Known, plan: Plan | None) -> Learner:
    """The learner for one stage: what learns in it, what goes through the towers, how it is cut.

    Args:
        found: what was prepared.
        learner: as the stage before left it.
        stage: the one that begins or goes on.
        known: where features of bodies that are frozen in it are kept.
        plan: the stored one of a resumed run; None makes one from counted bytes.
    """
    found.ranks.tell(ranks.Enter(stage))
    clip = learner.clip
    if stage.resolution is not None:
        resolution.enter(clip, learner.optimizer, stage.resolution, found.config.train.weight_decay, found.origin)
    # the optimizer holds everything that ever learns
    stages.enter(clip, stage, optimizer.held(clip.model, learner.optimizer))
    have = known.of(found, stage.frozen)
    scales = have.scales_NF if "image" in stage.frozen else (None,) * len(found.config.loss.scales[1:])
    hard = (have.hard_NF if "text" in stage.frozen else None,) * found.config.loss.hard_captions
    further = frozen.further_feeds(clip, found.config.loss, learner.aims, learner.image_feed.dtype)
    learner = replace(
        learner,
        more=tuple(replace(feed, features_NF=one) for feed, one in zip(further, (*scales, *hard), strict=True)),
        image_feed=replace(learner.image_feed, features_NF=have.image_NF if "image" in stage.frozen else None),
        text_feed=replace(learner.text_feed, features_NF=_text_features(have) if "text" in stage.frozen else None),
        heads=stage.heads,
    )
    return replace(learner, plan=plan or _plan(found, learner, stage))


def _text_features(have: Features) -> Tensor | None:
    return have.text_NF if have.samples_MF is None else have.samples_MF


def table(
    found: Prepared,
    total_steps: int,
    seconds: float | None,
    entered: int = 0,
    begun: Sequence[int] = (),
    now: int = 0,
) -> tuple[Stage, ...]:
    """The stages of a run.

    Args:
        found: what was prepared.
        total_steps: of the run.
        seconds: a step, for durations in minutes.
        entered: see `stages.table`.
        begun: first steps of the sizes that the run has entered.
        now: steps done.
    """

    def steps(duration: str | int) -> int:
        return to_steps(parse(duration), found.steps_per_epoch, total_steps, seconds)

    sizes = resolution.resolve(found.resolutions, total_steps, steps, begun, now)
    return stages.table(found.clip, found.config.model.freeze, total_steps, found.sizes, entered, sizes)


def batches(
    found: Prepared, learner: Learner, stage: Stage, start: int, neighbours: NDArray[np.int64] | None = None
) -> Iterator[Batch]:
    """The batches of a stage from a 0-based step on, this process's rows of each; near misses (rows, k) come into one batch."""
    found.ranks.tell(ranks.Feed(stage, start, neighbours))
    config = found.config
    pixels = learner.image_feed.features_NF is None
    draws = order(
        len(found.train),
        stage.batch,
        config.train.seed,
        start,
        size_px=found.clip.preprocess.size_px,
        strength=stage.resolution.strength if stage.resolution else 1.0,
        stretch=stage.stretch,
        since=stage.since,
        neighbours=neighbours,
        shards=far(found.train.images),
    )
    if learner.lengths is not None and learner.text_feed.features_NF is None:
        draws = by_length(draws, learner.lengths)
    own = loader.batches(
        found.train,
        found.clip.preprocess,
        islice(found.ranks.own(draws), stage.stop - start),
        rules=found.domain.augment if pixels else None,
        with_images=pixels,
        with_tokens=learner.text_feed.features_NF is None,
        samples=learner.text_feed.samples,
        workers=workers(found) if pixels else 0,
    )
    return found.ranks.shared(own, found.train)


def workers(found: Prepared) -> int:
    """Decoding processes: as asked for; "auto" has none on a CPU, whose cores the model needs, and threads decode."""
    wanted = found.config.data.workers
    if wanted != "auto":
        return wanted
    return 0 if found.device.type == "cpu" else min(8, max(1, (os.cpu_count() or 2) - 1))


def seconds_per_step(found: Prepared, learner: Learner, stage: Stage) -> float:
    """The mean of whole steps from the run's own loader, without learning anything from them.

    The update moves nothing, with gradients and rates of zero, and takes the time that it takes; Adam forgets it.
    """
    held = learner.optimizer
    assert not held.state, "timed before the first step, so that there is nothing to forget"
    learner.clip.model.train()
    freeze_batch_norm(learner.clip.model)
    optimizer.set_rate(held, 0.0)
    timed: list[float] = []
    started = time.perf_counter()
    for batch in batches(found, learner, replace(stage, stop=stage.start + PROBE_STEPS), stage.start):
        exact_step(learner, batch)
        optimizer.gradient_norm([one for group in held.param_groups for one in group["params"]])
        held.zero_grad(set_to_none=False)
        held.step()
        held.zero_grad(set_to_none=True)
        found.device.synchronise()
        timed.append(time.perf_counter() - started)
        if len(timed) > TIMED_STEPS and sum(timed[1:]) >= TIMED_S:
            break
        started = time.perf_counter()
    held.state.clear()
    return sum(timed[1:]) / len(timed[1:])


def mean_seconds(found: Prepared, learner: Learner, known: Known) -> float:
    """Seconds of a step, averaged over the stages as the run will have them, the reserve included."""
    sizes = resolution.resolve(found.resolutions, PROBE_STEPS, lambda duration: 0)
    total = 0.0
    for stage in stages.table(found.clip, found.config.model.freeze, PROBE_STEPS, found.sizes, 0, sizes):
        entered = enter(found, learner, stage, known, None)
        total += (stage.stop - stage.start) * seconds_per_step(found, entered, stage)
    return total / PROBE_STEPS / (1 - RESERVE)


def needs_timing(config: Config) -> bool:
    """Whether a duration of the config is in minutes."""
    given = [config.train.length, config.evaluate.every, config.checkpoint.every, config.train.warmup]
    if isinstance(config.resolution.stages, tuple):
        given += [one for row in config.resolution.stages for one in (row.warmup, row.table_first)]
    return any(parse(one).unit == "minutes" for one in given if one != "auto")


def flops(found: Prepared, learner: Learner, batch: int) -> float:
    """Floating-point operations of one pair in a step, in the towers alone; see `stepping.flops.of_sample`.

    Args:
        found: what was prepared.
        learner: as a stage has entered it, before its first step.
        batch: the effective batch, by which the length of an average text is foreseen.
    """

    def around() -> AbstractContextManager[None]:
        return found.device.autocast(found.precision.name)

    shares = (1.0, text_share(learner, batch), *(1.0,) * len(learner.more))
    with planning.pulled(learner.clip, Levers(False, 0)):
        return sum(
            share * of_sample(feed.forward, one, around)
            for feed, one, share in zip(learner.feeds, _inputs(found, learner), shares, strict=True)
        )


def _inputs(found: Prepared, learner: Learner) -> list[Tensor]:
    """A few samples of each tower, those that need most."""
    probe = longest(learner, found.train)
    return [feed.trimmed(feed.inputs(probe)) for feed in learner.feeds]


def _plan(found: Prepared, learner: Learner, stage: Stage) -> Plan:
    clip = learner.clip
    feeds = learner.feeds
    inputs = _inputs(found, learner)
    own = found.ranks.rows(stage.batch)
    held = {id(one): one for group in learner.optimizer.param_groups for one in group["params"]}
    clip.model.train()
    subject = Subject(
        clip=clip,
        feeds=feeds,
        inputs=inputs,
        batch=own,
        loss_batch=stage.batch,
        # the next batch is made while this one is still there
        input_bytes=sum(2 * own * one[0].numel() * one.element_size() for one in inputs),
        precision=found.precision.name,
        device=found.device,
        learning_bytes=sum(one.numel() * one.element_size() for one in held.values()),
        imports_bytes=found.imports_bytes,
        text_share=text_share(learner, own),
        saves=any(parse(one).value > 0 for one in (found.config.checkpoint.every, found.config.evaluate.every)),
    )
    return planning.make_plan(subject, found.config.memory, budget(found.device, found.config.memory.budget_gb).bytes)


def longest(learner: Learner, rows: Pairs) -> Batch:
    """A small batch of the rows with the longest captions: those of which a sample needs most."""
    by_need = np.arange(len(rows)) if learner.lengths is None else np.argsort(-learner.lengths, kind="stable")
    draw = Draw(0, by_need[: max(ROWS)], learner.clip.preprocess.size_px, 0.0, 0)
    return next(
        loader.batches(
            rows,
            learner.clip.preprocess,
            [draw],
            with_images=learner.image_feed.features_NF is None,
            with_tokens=learner.text_feed.features_NF is None,
        )
    )


def caption_lengths(clip: Clip, rows: Pairs) -> NDArray[np.int64] | None:
    """Tokens of each caption; None where the text tower cannot be given fewer of them than it has."""
    tokenizer = clip.preprocess.tokenizer
    if not clip.trims_text or tokenizer is None:
        return None
    return np.asarray(tokenizer.count(clip.preprocess.words(rows.captions)), dtype=np.int64)
