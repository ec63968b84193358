"""A step to try out: a model with optimizer and one batch, without a run around it. `bench train` and `plan` ask it.

Every tower learns. Without data images are noise and captions have the model's whole context length, so that a step needs
what it needs at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from honeclip.config import Config, Memory, Train
from honeclip.data import loader, pairs
from honeclip.data.loader import Batch
from honeclip.data.order import Draw, by_length, order
from honeclip.data.pairs import Pairs
from honeclip.device import precision as precisions
from honeclip.device.device import Device
from honeclip.model import resize
from honeclip.model.load import load
from honeclip.model.recompute import recompute
from honeclip.model.towers import freeze_batch_norm, probes
from honeclip.stepping.cost import ROWS
from honeclip.stepping.plan import NO_PLAN, Plan
from honeclip.training import objective, optimizer, planning
from honeclip.training.feeds import ImageFeed, TextFeed
from honeclip.training.loop import Learner, exact_step, gradient_scaler, text_share
from honeclip.training.planning import Subject
from honeclip.training.setup import caption_lengths, longest


@dataclass(frozen=True)
class Trial:
    """A learner and what it could learn from.

    Attributes:
        learner: model, optimizer and plan.
        rows: the train split; None where there is no data.
        imports_bytes: what the process held before the model was loaded.
    """

    learner: Learner
    rows: Pairs | None
    imports_bytes: int | None

    def batch(self, size: int) -> Batch:
        """An effective batch, rows in the order of their captions' lengths.

        Raises:
            DataError: the data has fewer rows.
        """
        preprocess = self.learner.clip.preprocess
        if self.rows is None:
            return _noise(self.learner, size)
        draws = order(len(self.rows), size, 0, size_px=preprocess.size_px)
        if self.learner.lengths is not None:
            draws = by_length(draws, self.learner.lengths)
        return next(loader.batches(self.rows, preprocess, islice(draws, 1)))

    def subject(self, size: int) -> Subject:
        """What is planned for, with an effective batch of `size`."""
        learner = self.learner
        feeds = learner.feeds
        probe = self._probe()
        inputs = [feed.trimmed(feed.inputs(probe)) for feed in feeds]
        return Subject(
            clip=learner.clip,
            feeds=feeds,
            inputs=inputs,
            batch=size,
            input_bytes=sum(size * one[0].numel() * one.element_size() for one in inputs),
            precision=learner.precision.name,
            device=learner.clip.device,
            learning_bytes=sum(one.nbytes for group in learner.optimizer.param_groups for one in group["params"]),
            imports_bytes=self.imports_bytes,
            text_share=text_share(learner, size),
        )

    def _probe(self) -> Batch:
        """A few samples, of those that need most."""
        return _noise(self.learner, max(ROWS)) if self.rows is None else longest(self.learner, self.rows)


def make(
    model: str,
    device: Device,
    *,
    size: int | None = None,
    precision: str = "auto",
    data: str | None = None,
    imports_bytes: int | None = None,
) -> Trial:
    """Loads a model, and data where there is some.

    Args:
        model: any model source.
        device: where it computes.
        size: side of the images in pixels; None is the model's own.
        precision: as `train.precision`.
        data: a manifest; None takes noise.
        imports_bytes: what the process held after its imports.

    Raises:
        BadInput: the model, size, precision or data cannot be used.
    """
    config = Config(train=Train(precision=precision))
    how = precisions.choose(device, precision)
    clip = load(model, device)
    if size is not None and size != clip.preprocess.size_px:
        resize.resize(clip, size)
    dtype = precisions.weight_dtype(how.name)
    clip.model.to(dtype)
    objective.prepare(clip, config.loss)
    clip.model.requires_grad_(True)
    clip.model.train()
    freeze_batch_norm(clip.model)
    rows = pairs.load(data).split("train") if data else None
    learner = Learner(
        clip=clip,
        config=config,
        precision=how,
        optimizer=optimizer.build(clip, config.train, frozenset()),
        scaler=gradient_scaler(clip, how),
        image_feed=ImageFeed(clip, None, dtype),
        text_feed=TextFeed(clip, None, dtype),
        plan=NO_PLAN,
        factor=lambda step: 1.0,
        lengths=None if rows is None else caption_lengths(clip, rows),
    )
    return Trial(learner, rows, imports_bytes)


def planned(trial: Trial, size: int, memory: Memory, budget_bytes: int) -> Plan:
    """The plan of a step with an effective batch of `size`; see `planning.make_plan`."""
    return planning.make_plan(trial.subject(size), memory, budget_bytes)


def step(trial: Trial, batch: Batch, plan: Plan) -> tuple[int, int, int]:
    """One whole optimizer step; (micro-batch, kept, retries) as it was in the end."""
    learner = replace(trial.learner, plan=plan)
    recompute(learner.clip, plan.recompute)
    optimizer.set_rate(learner.optimizer, 1.0)
    result = exact_step(learner, batch)
    parameters = [one for group in learner.optimizer.param_groups for one in group["params"]]
    if learner.scaler.is_enabled():
        learner.scaler.unscale_(learner.optimizer)
    optimizer.clip_gradients(parameters, optimizer.gradient_norm(parameters), learner.config.train.grad_clip)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    objective.clamp_scale(learner.clip)
    return result.micro_batch, result.kept, result.retries


def _noise(learner: Learner, size: int) -> Batch:
    """Random images and captions of the whole context length, every pair of its own."""
    clip = learner.clip
    side, length = clip.preprocess.size_px, clip.preprocess.context_length
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    tokens_BL = probes(clip.model, length, size, lengths=(length,))
    draw = Draw(0, np.arange(size), side, 0.0, 0)
    ids = torch.arange(size)
    return Batch(draw, images_BCHW, tokens_BL, ids, ids)
