"""What the processes of a run do that do not lead it: load, enter stages, and give gradients, as rank 0 says.

They write nothing and say nothing. Where one fails it goes on listening until it is asked for something that it cannot give,
and says then why; so rank 0 ends the run in words. A signal is noted and passed on: the step at hand is finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rich.console import Console

from honeclip.data.loader import Batch
from honeclip.device import world as worlds
from honeclip.device.world import World
from honeclip.errors import HoneclipError, MemoryExhausted, RanksError
from honeclip.model import attention, resize
from honeclip.model.recompute import recompute
from honeclip.model.towers import freeze_batch_norm
from honeclip.monitoring.terminal import Progress
from honeclip.stepping.plan import NO_PLAN
from honeclip.stepping.ranks import ended_by_leader, ranked_step, said_of
from honeclip.training import setup, stages
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, step_seed
from honeclip.training.prepared import Prepared, prepare
from honeclip.training.ranks import Begin, Build, End, Enter, Feed, Go, Ranks, Take, Taken, learning, send_weights
from honeclip.training.signals import Stop

NO_ROWS = np.empty(0, dtype=np.int64)


def follow(world: World, device: str, stop: Stop) -> Any:
    """Does what rank 0 tells until the run is over; gives what the run returned there.

    Args:
        world: who this process is.
        device: as asked for with `--device`.
        stop: notes signals from here on.

    Raises:
        HoneclipError: the run ended with an error, on rank 0 or here; the exit code is that of rank 0.
        RanksError: another process is gone.
    """
    stop.waits = True
    follower = _Follower(world, device, stop)
    failed: Exception | None = None
    while True:
        message = worlds.hear(world)
        if isinstance(message, End):
            return _over(world, message, failed)
        try:
            if isinstance(message, Take):
                worlds.collect(world, follower.taken(failed))
            elif failed is None:
                follower.do(message)
        except RanksError:
            raise
        except MemoryExhausted:
            continue  # on every rank: rank 0 knows what to try next
        except Exception as error:
            failed = error


def _over(world: World, message: End, failed: Exception | None) -> Any:
    if not message.said[0]:
        return message.result
    ended = ended_by_leader(world, message.said)
    if failed is not None and not isinstance(failed, HoneclipError):
        raise failed  # a fault of honeclip: its traceback is wanted
    raise ended


class _Follower:
    """A rank's part of the run, as far as it was told."""

    def __init__(self, world: World, device: str, stop: Stop) -> None:
        self.world, self.device, self.stop = world, device, stop
        self.progress = Progress(Console(quiet=True))
        self.known = Known(self.progress)
        self.prepared: Prepared | None = None
        self.learner: Learner | None = None
        self.batches: Iterator[Batch] = iter(())
        self.next: Batch | None = None
        self.batch: Batch | None = None

    def do(self, message: Any) -> None:
        """What a message says."""
        if isinstance(message, Begin):
            self.prepared = prepare(message.config, self.device, lambda text: None, self.progress)
            return
        assert self.prepared is not None
        if isinstance(message, Build):
            self._build(self.prepared, message)
            return
        assert self.learner is not None
        if isinstance(message, Enter):
            self.learner = setup.enter(self.prepared, self.learner, message.stage, self.known, NO_PLAN)
            self.learner.clip.model.train()
            freeze_batch_norm(self.learner.clip.model)
        elif isinstance(message, Feed):
            self.batches = setup.batches(self.prepared, self.learner, message.stage, message.start, message.neighbours)
            self.next = next(self.batches, None)
        elif isinstance(message, Go):
            self._go(self.learner, message)
            # the next pictures are decoded while rank 0 moves the weights
            self.next = self.next or next(self.batches, None)
        else:
            raise HoneclipError(f"rank 0 says {type(message).__name__}, which this version does not know")

    def taken(self, failed: Exception | None) -> Taken:
        """The next batch's rows."""
        if failed is not None:
            return Taken(NO_ROWS, failed=said_of(failed))
        self.batch, self.next = self.next, None
        assert self.batch is not None
        return Taken(self.batch.draw.indices, self.batch.lost, self.stop.wanted)

    def _build(self, prepared: Prepared, message: Build) -> None:
        clip = prepared.clip
        if message.size_px != clip.preprocess.size_px:
            resize.resize(clip, message.size_px, prepared.origin)
        self.prepared = replace(
            prepared,
            precision=message.precision,
            resolutions=message.resolutions,
            ranks=Ranks(self.world),
        )
        frozen = stages.frozen_towers(clip, prepared.config.model.freeze)
        self.learner = setup.build(self.prepared, frozen, self.known)

    def _go(self, learner: Learner, message: Go) -> None:
        """One step's gradients of this rank's rows."""
        clip, batch, plan = learner.clip, self.batch, message.plan
        assert batch is not None
        send_weights(self.world, clip, message.everything)
        torch.manual_seed(step_seed(learner.config.train.seed, batch.draw.step, self.world.rank))
        recompute(clip, plan.recompute)
        learns, _ = learning(clip)
        device = clip.device
        with device.lock, device.autocast(learner.precision.name), attention.sliced(plan.attention_slice):
            ranked_step(
                self.world,
                message.counts,
                learner.feeds,
                [feed.inputs(batch) for feed in learner.feeds],
                None,
                learns,
                micro_batch=plan.micro_batch,
                keep=plan.keep,
            )
        for one in learns:
            one.grad = None
