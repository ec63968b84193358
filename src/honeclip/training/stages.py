"""The stages of a run: which tower bodies learn from which step on, with what batch, on images of what size, and how the
learning rate moves.

A table has one row; two where fresh heads learn before whole towers do (LP-FT: Kumar et al. 2022, arXiv 2202.10054:
features are distorted when everything learns under heads that still point anywhere); and one more for each time that the
effective batch grows or the images change their size. Where the batch grows, rates grow with its square root (Malladi et
al. 2022, arXiv 2205.10287: the rule for Adam and its relatives); warm-up and decay go on over both as they would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from honeclip import schedule
from honeclip.config import Train
from honeclip.model import resize
from honeclip.model.clip import Clip
from honeclip.model.heads import takes_fresh_heads
from honeclip.model.towers import image_tower, text_tower
from honeclip.training.resolution import Resolution

TOWERS = frozenset({"image", "text"})

HEADS_FIRST = 0.8
"""Share of a run in which fresh heads learn alone, before the towers learn too."""

SETTLED_HEADS = 0.1
"""Rate of heads while whole towers learn, as a share of their rate alone: they have found their place by then."""

_FREEZE = {"none": frozenset[str](), "image": frozenset({"image"}), "text": frozenset({"text"}), "towers": TOWERS}


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        start: first step, 0-based.
        stop: the step after the last one.
        frozen: towers whose bodies do not learn in it.
        heads: factor on the rate of heads.
        batch: the effective batch; 0 where none is drawn.
        stretch: number of the stretch of steps with this batch.
        since: first step of that stretch, which may have begun in the stage before.
        resolution: how images are seen; None for a run of one size.
        table_alone: whether of the image body only the position table learns.
    """

    start: int
    stop: int
    frozen: frozenset[str]
    heads: float = 1.0
    batch: int = 0
    stretch: int = 0
    since: int = 0
    resolution: Resolution | None = None
    table_alone: bool = False

    @property
    def size_px(self) -> int:
        """Side of the images; 0 for a run of one size."""
        return self.resolution.size_px if self.resolution else 0


def frozen_towers(clip: Clip, freeze: str) -> frozenset[str]:
    """The towers whose bodies never learn: as asked, or for "auto" both of a model with fresh heads and none of a CLIP."""
    if freeze == "auto":
        return TOWERS if takes_fresh_heads(clip) else frozenset()
    return _FREEZE[freeze]


def heads_alone(clip: Clip, freeze: str) -> bool:
    """Whether there are steps in which nothing but heads learns: always, or before whole towers do."""
    return frozen_towers(clip, freeze) == TOWERS or takes_fresh_heads(clip)


def ever_frozen(clip: Clip, freeze: str) -> frozenset[str]:
    """The towers whose bodies do not learn in some stage: their features are wanted."""
    return TOWERS if takes_fresh_heads(clip) else frozen_towers(clip, freeze)


def table(
    clip: Clip,
    freeze: str,
    total_steps: int,
    batches: Sequence[tuple[float, int]] = ((0.0, 0),),
    entered: int = 0,
    resolutions: Sequence[Resolution] = (),
) -> tuple[Stage, ...]:
    """The stages of a run, in order, without gaps.

    Args:
        clip: the model.
        freeze: `model.freeze`.
        total_steps: of the run.
        batches: (share of the run, effective batch from there on), rising from 0.
        entered: first step from which the towers of a resumed run have learned; 0 where they have not. They are never
            frozen again, however much longer the run is now: their features on disk are those of the towers as they began.
        resolutions: sizes of the images, in order; none for a run of one size.
    """
    frozen = frozen_towers(clip, freeze)
    first = entered or round(total_steps * HEADS_FIRST)
    phases = [(0, frozen, 1.0)]
    if frozen != TOWERS and takes_fresh_heads(clip) and 0 < first < total_steps:
        phases = [(0, TOWERS, 1.0), (first, frozen, SETTLED_HEADS)]
    # a run of few steps may have none for a stretch: the last one that begins at a step is the one that counts
    stretches = {round(share * total_steps): (number, size) for number, (share, size) in enumerate(batches)}
    sizes: dict[int, tuple[Resolution | None, bool]] = {0: (None, False)}
    for one in resolutions:
        sizes = {start: row for start, row in sizes.items() if start < one.start or not start}
        sizes[one.start] = (one, one.table_first > 0)
        if one.table_first:
            sizes[one.start + one.table_first] = (one, False)
    changes = (one for one in (*stretches, *sizes) if one < total_steps)
    starts = sorted({0, *(start for start, *_ in phases), *changes})
    found = []
    for start, stop in zip(starts, [*starts[1:], total_steps], strict=True):
        _, still, heads = max(one for one in phases if one[0] <= start)
        since = max(one for one in stretches if one <= start)
        number, size = stretches[since]
        resolution, alone = sizes[max(one for one in sizes if one <= start)]
        found.append(Stage(start, stop, still, heads, size, number, since, resolution, alone))
    return tuple(found)


def phase(stages: Sequence[Stage], stage: Stage) -> tuple[int, int]:
    """First step, and the step after the last one, of the stages in a row that differ from this one only in batch and size."""
    same = [one for one in stages if (one.frozen, one.heads) == (stage.frozen, stage.heads)]
    return same[0].start, same[-1].stop


def at(stages: tuple[Stage, ...], step: int) -> Stage:
    """The stage of a 0-based step; the last one for steps beyond."""
    return next((stage for stage in stages if step < stage.stop), stages[-1])


def enter(clip: Clip, stage: Stage, learning: frozenset[str]) -> None:
    """Makes the bodies that learn in this stage collect gradients, and the others not.

    Args:
        clip: the model.
        stage: the one that begins.
        learning: names of all parameters that may ever learn; what is fixed for other reasons stays so.
    """
    own = {tower.name: {id(one) for one in tower.parameters_body()} for tower in (image_tower(clip), text_tower(clip))}
    still = set().union(*(own[name] for name in stage.frozen))
    if stage.table_alone and "image" not in stage.frozen:
        tables = {id(one) for name, one in clip.model.named_parameters() if name in resize.tables(clip)}
        still |= own["image"] - tables
    for name, parameter in clip.model.named_parameters():
        parameter.requires_grad_(name in learning and id(parameter) not in still)


def rate(
    stages: tuple[Stage, ...], train: Train, total_steps: int, steps_per_epoch: float, seconds: float | None
) -> Callable[[int], float]:
    """The factor on each group's peak rate at a 0-based step: warm-up and decay within each phase, the square root of what
    the batch has grown by, and what the size of the images asks for.

    Args:
        stages: of the run.
        train: warm-up and shape.
        total_steps: of the run.
        steps_per_epoch: for a warm-up in epochs.
        seconds: a step, for a warm-up in minutes.
    """
    factors = {}
    for stage in stages:
        start, stop = phase(stages, stage)
        length = stop - start
        share = length / total_steps
        warmup = schedule.to_steps(schedule.parse(train.warmup), steps_per_epoch, total_steps, seconds)
        warmup = min(length, max(1, round(warmup * share))) if warmup else 0
        factors[start] = schedule.learning_rate(length, warmup, train.schedule)

    def factor(step: int) -> float:
        stage = at(stages, step)
        start, _ = phase(stages, stage)
        grown = math.sqrt(stage.batch / stages[0].batch) if stages[0].batch else 1.0
        seen = stage.resolution.ramp(step) if stage.resolution else 1.0
        return grown * seen * factors[start](step - start)

    return factor
