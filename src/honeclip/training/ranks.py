"""A run of several processes: rank 0 leads it, and tells the others what to do, one message at a time.

Rank 0 is a run as it always is: it alone knows the run folder, the optimizer's state and the loss, evaluates, saves and
prints. What it tells lies on the way of such a run anyway: that a stage is entered, that batches begin, that there is a step.
The others hold the model and their rows of each batch, and give gradients; see `training.following`. Weights come from
rank 0 with every step, so that no two processes can drift apart.

Which rows a process has depends on the draw alone: every N-th of it, so that long captions, which stand together in a draw,
are shared out evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from honeclip.config import Config
from honeclip.data.loader import Batch
from honeclip.data.order import Draw
from honeclip.data.pairs import Pairs
from honeclip.device import world as worlds
from honeclip.device.device import Device
from honeclip.device.precision import Precision
from honeclip.device.world import ALONE, World
from honeclip.errors import ConfigError, HoneclipError, RanksError
from honeclip.model.clip import Clip
from honeclip.sizes import SizeStage
from honeclip.stepping.plan import Plan
from honeclip.stepping.ranks import Said, failure, ranked_step, said_of
from honeclip.stepping.step import Encoder, Loss, StepResult
from honeclip.training.signals import Stop
from honeclip.training.stages import Stage


@dataclass(frozen=True)
class Begin:
    """Load what the config names."""

    config: Config


@dataclass(frozen=True)
class Build:
    """Give the model its heads and adapters. The precision and the sizes are those that rank 0 settled on."""

    precision: Precision
    resolutions: tuple[SizeStage, ...]
    size_px: int


@dataclass(frozen=True)
class Enter:
    """Enter a stage: what learns, and how images are seen."""

    stage: Stage


@dataclass(frozen=True, eq=False)
class Feed:
    """Begin the batches of a stage at a step, with these near misses."""

    stage: Stage
    start: int
    neighbours: NDArray[np.int64] | None


@dataclass(frozen=True)
class Take:
    """Take the next batch and say which of its rows are there."""


@dataclass(frozen=True)
class Go:
    """Do the step of the batch that was taken. `everything`: all tensors of the model come first, not only what learns."""

    plan: Plan
    counts: tuple[int, ...]
    everything: bool


@dataclass(frozen=True)
class End:
    """The run is over on rank 0: with a result, or with an exit code and why."""

    result: Any = None
    said: Said = (0, "")


@dataclass(frozen=True, eq=False)
class Taken:
    """The answer to `Take`: rows that are there, sentences for those that are not, a signal that came, or why this rank has
    failed since it was last asked."""

    indices: NDArray[np.int64]
    lost: tuple[str, ...] = ()
    signal: int = 0
    failed: Said | None = None


@dataclass(eq=False)
class Ranks:
    """This process among those of a run; a run in one process has `Ranks()`, which says and changes nothing.

    Attributes:
        world: who this process is.
        stop: where rank 0 notes that somebody asked another rank to stop.
        everything: whether the next step has to send all tensors of the model: they may have changed outside of steps.
    """

    world: World = ALONE
    stop: Stop = field(default_factory=Stop)
    everything: bool = True

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.world.size > 1

    def tell(self, message: Any) -> None:
        """From rank 0 to the others."""
        if self.several and self.world.leads:
            self.everything |= isinstance(message, Enter)
            worlds.tell(self.world, message)

    def begin(self, config: Config, batch: int, device: Device) -> None:
        """On rank 0: the others load what the config names. Whom a run tells of itself is no business of theirs.

        Args:
            config: of the run.
            batch: the smallest effective batch.
            device: of rank 0.

        Raises:
            ConfigError: it is nothing that several processes can do together.
        """
        check(config, batch, device.backend, self.world)
        self.tell(Begin(config.model_copy(update={"notify": type(config.notify)()})))

    def rows(self, batch: int) -> int:
        """The most rows that a process has of a batch."""
        return -(-batch // self.world.size)

    def own(self, draws: Iterator[Draw]) -> Iterator[Draw]:
        """Of each draw the rows of this process."""
        if not self.several:
            return draws
        rank, size = self.world.rank, self.world.size
        return (replace(one, indices=one.indices[rank::size]) for one in draws)

    def shared(self, batches: Iterator[Batch], rows: Pairs) -> Iterator[Batch]:
        """On rank 0: its batches with what is known of the rows of all others.

        Args:
            batches: of this process's rows.
            rows: the train split.

        Raises:
            HoneclipError: another rank failed; with its words.
        """
        if not (self.several and self.world.leads):
            return batches
        return (self._with_others(own, rows) for own in batches)

    def step(
        self,
        clip: Clip,
        encoders: Sequence[Encoder],
        inputs: Sequence[Any],
        batch: Batch,
        loss: Loss,
        plan: Plan,
        of_loss: Sequence[Tensor],
        **how: Any,
    ) -> StepResult:
        """On rank 0: `stepping.ranks.ranked_step`, after the others were told of it and given the weights.

        Args:
            clip: the model.
            encoders: one a tower.
            inputs: one a tower, of this process's rows.
            batch: from `shared`.
            loss: of the embeddings of all rows.
            plan: of the step, on every rank.
            of_loss: what the loss learns beside scale and bias.
            how: `scale_loss`.
        """
        self.tell(Go(plan, batch.counts, self.everything))
        send_weights(self.world, clip, self.everything)
        self.everything = False
        learns, of_scale = learning(clip)
        return ranked_step(
            self.world,
            batch.counts,
            encoders,
            inputs,
            loss,
            learns,
            micro_batch=plan.micro_batch,
            keep=plan.keep,
            of_loss=[*of_scale, *of_loss],
            **how,
        )

    def _with_others(self, own: Batch, rows: Pairs) -> Batch:
        self.tell(Take())
        every: list[Taken] = worlds.collect(self.world, Taken(own.draw.indices, own.lost))
        for rank, one in enumerate(every):
            if one.failed is not None:
                raise failure(rank, *one.failed)
            if one.signal and not self.stop.wanted:
                self.stop.handle(one.signal, None)
        indices = np.concatenate([one.indices for one in every])
        everyone = Batch(
            draw=replace(own.draw, indices=indices),
            images=None,
            tokens=None,
            caption_id=torch.from_numpy(rows.caption_id[indices]),
            image_id=torch.from_numpy(rows.image_id[indices]),
            lost=tuple(sentence for one in every for sentence in one.lost),
        )
        return replace(own, everyone=everyone, lost=everyone.lost, counts=tuple(len(one.indices) for one in every))


def check(config: Config, batch: int, backend: str, world: World) -> None:
    """Refuses what several processes cannot do together.

    Args:
        config: of the run.
        batch: the smallest effective batch.
        backend: of the device.
        world: the processes.

    Raises:
        ConfigError: a device that others cannot reach, or a batch or a way of learning that cannot be shared out.
    """
    if world.size == 1:
        return
    if backend == "mps":
        raise ConfigError(
            f"{world.size} processes: torch.distributed has no way between tensors of MPS, and a Mac has one GPU; run fit "
            "without torchrun, or with --device cpu"
        )
    if config.train.accumulation == "plain":
        raise ConfigError(
            f"train.accumulation=plain learns from the negatives of each micro-batch, which {world.size} processes would cut "
            "otherwise than one; use exact, which sees the whole batch"
        )
    if batch < world.size:
        raise ConfigError(
            f"train.batch = {batch}: it is the batch of all {world.size} processes together, and each needs a row of it"
        )


def learning(clip: Clip) -> tuple[list[Tensor], list[Tensor]]:
    """What learns of the model, in its order: the towers', which every rank has gradients of, and scale and bias, of which
    rank 0 alone has."""
    of_loss = {id(one) for one in (clip.model.logit_scale, clip.model.logit_bias) if one is not None}
    every = [one for one in clip.model.parameters() if one.requires_grad]
    return [one for one in every if id(one) not in of_loss], [one for one in every if id(one) in of_loss]


def send_weights(world: World, clip: Clip, everything: bool) -> None:
    """From rank 0 to all: what learns, or all that the model holds. Called on every rank."""
    towers, _ = learning(clip)
    worlds.spread(world, [one.detach() for one in clip.model.state_dict().values()] if everything else towers)


@contextmanager
def led(ranks: Ranks) -> Iterator[list[Any]]:
    """On rank 0, inside is the run. What it puts into the list is what the others return; an error ends them as well."""
    result: list[Any] = []
    try:
        yield result
    except BaseException as error:
        said = said_of(error) if isinstance(error, Exception) else (1, type(error).__name__)
        with suppress(HoneclipError):  # who is gone needs not be told
            if not isinstance(error, RanksError):
                ranks.tell(End(said=said))
        raise
    ranks.tell(End(result[0] if result else None))
