"""The stages of a run: which tower bodies learn from which step on, and how the learning rate moves within each.

Today a table has one row, or two where fresh heads learn before whole towers do (LP-FT: Kumar et al. 2022, arXiv
2202.10054: features are distorted when everything learns under heads that still point anywhere).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from honeclip import schedule
from honeclip.config import Train
from honeclip.model.clip import Clip
from honeclip.model.heads import takes_fresh_heads
from honeclip.model.towers import image_tower, text_tower

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
    """

    start: int
    stop: int
    frozen: frozenset[str]
    heads: float = 1.0


def frozen_towers(clip: Clip, freeze: str) -> frozenset[str]:
    """The towers whose bodies never learn: as asked, or for "auto" both of a model with fresh heads and none of a CLIP."""
    if freeze == "auto":
        return TOWERS if takes_fresh_heads(clip) else frozenset()
    return _FREEZE[freeze]


def ever_frozen(clip: Clip, freeze: str) -> frozenset[str]:
    """The towers whose bodies do not learn in some stage: their features are wanted."""
    return TOWERS if takes_fresh_heads(clip) else frozen_towers(clip, freeze)


def table(clip: Clip, freeze: str, total_steps: int, entered: int = 0) -> tuple[Stage, ...]:
    """The stages of a run, in order, without gaps.

    Args:
        clip: the model.
        freeze: `model.freeze`.
        total_steps: of the run.
        entered: first step of the stage in which a resumed run stands. Towers that have learned are never frozen again,
            however much longer the run is now: their features on disk are those of the towers as they began.
    """
    frozen = frozen_towers(clip, freeze)
    first = entered or round(total_steps * HEADS_FIRST)
    if frozen == TOWERS or not takes_fresh_heads(clip) or not 0 < first < total_steps:
        return (Stage(0, total_steps, frozen),)
    return Stage(0, first, TOWERS), Stage(first, total_steps, frozen, SETTLED_HEADS)


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
    for name, parameter in clip.model.named_parameters():
        parameter.requires_grad_(name in learning and id(parameter) not in still)


def rate(
    stages: tuple[Stage, ...], train: Train, total_steps: int, steps_per_epoch: float, seconds: float | None
) -> Callable[[int], float]:
    """The factor on each group's peak rate at a 0-based step: warm-up and decay within each stage.

    Args:
        stages: of the run.
        train: warm-up and shape.
        total_steps: of the run.
        steps_per_epoch: for a warm-up in epochs.
        seconds: a step, for a warm-up in minutes.
    """
    factors = []
    for stage in stages:
        length = stage.stop - stage.start
        share = length / total_steps
        warmup = schedule.to_steps(schedule.parse(train.warmup), steps_per_epoch, total_steps, seconds)
        warmup = min(length, max(1, round(warmup * share))) if warmup else 0
        factors.append(schedule.learning_rate(length, warmup, train.schedule))

    def factor(step: int) -> float:
        stage = at(stages, step)
        return factors[stages.index(stage)](step - stage.start)

    return factor
