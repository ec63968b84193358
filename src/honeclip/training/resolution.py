"""The size of the images over a run: where each begins, and what a change does to model and optimizer.

At a change the position table of the image tower is resized, and Adam's two moments of it with it: they belong to the same
places of the image. Towers without a table only see another size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from open_clip.transformer import PatchDropout, VisionTransformer
from torch import nn

from honeclip.config import Config
from honeclip.errors import ConfigError
from honeclip.model import resize
from honeclip.model.clip import Clip
from honeclip.model.resize import Origin
from honeclip.sizes import SizeStage
from honeclip.training import optimizer as optimizers

Moments = Literal["resized", "reset"]

MOMENTS: Moments = "resized"
"""What becomes of Adam's moments of a position table at a change of the size: resized like the table, or forgotten. Written
down here and not in the config: it is a question that an experiment answers once for everyone."""

RESET_WARMUP = 10
"""Least steps of warm-up after a change where moments are forgotten: Adam's first steps are as long as the rate allows."""


@dataclass(frozen=True)
class Resolution:
    """How images are seen from a step on, all durations in steps.

    Attributes:
        starts: first step of each size so far, this one's last.
        size_px: side of the images.
        lr_scale: factor on the learning rate.
        weight_decay: of what decays; None is that of the run.
        warmup: steps of a linear ramp of the rate.
        strength: of augmentation.
        patch_dropout: share of image patches left out.
        table_first: steps in which of the image body only the position table learns.
        patience: evaluations without a better score after which the next size begins; 0 where it begins by its share.
        patience_before: the `patience` of the size before, which led here or did not.
        last: whether no other size follows.
    """

    starts: tuple[int, ...]
    size_px: int
    lr_scale: float = 1.0
    weight_decay: float | None = None
    warmup: int = 0
    strength: float = 1.0
    patch_dropout: float = 0.0
    table_first: int = 0
    patience: int = 0
    patience_before: int = 0
    last: bool = True

    @property
    def start(self) -> int:
        """First step, 0-based."""
        return self.starts[-1]

    @property
    def row(self) -> int:
        """Number of the row of `resolution.stages`, from 0."""
        return len(self.starts) - 1

    def ramp(self, step: int) -> float:
        """The factor on the rate at a 0-based step of it."""
        return self.lr_scale * (min(1.0, (step - self.start + 1) / self.warmup) if self.warmup else 1.0)


def resolve(
    rows: Sequence[SizeStage],
    total_steps: int,
    steps: Callable[[str | int], int],
    begun: Sequence[int] = (),
    now: int = 0,
) -> tuple[Resolution, ...]:
    """The rows of a config with steps in place of shares and durations.

    Args:
        rows: `resolution.stages`; none for a run of one size.
        total_steps: of the run.
        steps: from a duration to steps.
        begun: first steps of the sizes that a run has entered: they stay where they were, also when its length changes.
        now: steps done; no size that was not entered begins before.
    """
    starts: list[int] = []
    for number, row in enumerate(rows):
        if number < len(begun):
            starts.append(begun[number])
            continue
        share = number / len(rows) if row.at == "plateau" else row.at
        # also a run of few steps ends at its last size
        starts.append(max(min(round(share * total_steps), total_steps - 1), now if begun else 0, *starts[-1:]))
    found = []
    for number, row in enumerate(rows):
        following = rows[number + 1] if number + 1 < len(rows) else None
        warmup = steps(row.warmup)
        found.append(
            Resolution(
                starts=tuple(starts[: number + 1]),
                size_px=row.size,
                lr_scale=row.lr_scale,
                weight_decay=None if row.weight_decay == "same" else row.weight_decay,
                warmup=max(warmup, RESET_WARMUP) if MOMENTS == "reset" and number else warmup,
                strength=row.strength,
                patch_dropout=row.patch_dropout,
                table_first=steps(row.table_first),
                patience=following.plateau if following is not None and following.at == "plateau" else 0,
                patience_before=row.plateau,
                last=following is None,
            )
        )
    return tuple(found)


def take(
    clip: Clip, config: Config, origin: Origin, image_frozen: bool, say: Callable[[str], None]
) -> tuple[SizeStage, ...]:
    """Tries every size that a config asks for; the model is left at the last one, which is what it will be used at.

    Args:
        clip: as it was loaded; changed in place.
        config: of the run.
        origin: its position tables.
        image_frozen: whether the image body never learns.
        say: told of a size that is rounded to the patch.

    Returns:
        The rows of `resolution.stages` with sizes that the tower takes; none for a run of one size, or where they are not
        chosen yet (`choice.settled`).

    Raises:
        BadInput: a size below the patch or one that open_clip cannot say, patch dropout or a table alone for a tower that
            has none.
    """
    wanted = config.resolution.stages
    if wanted == "native" or wanted == "auto":
        return ()
    rows = []
    for row in (SizeStage(at=0.0, size=wanted),) if isinstance(wanted, int) else wanted:
        size_px = resize.nearest_size(clip, row.size)
        if size_px != row.size:
            patch = resize.patch_px(clip)
            say(f"resolution.stages: {row.size} px is no multiple of the patch of {patch} px: {size_px} px is taken")
        resize.resize(clip, size_px, origin)
        rows.append(row.model_copy(update={"size": size_px}))
    if any(row.patch_dropout for row in rows) and (
        image_frozen or not isinstance(clip.model.visual, VisionTransformer)
    ):
        raise ConfigError(
            f"resolution.stages: patch_dropout leaves out patches of a ViT of open_clip that learns, and the image tower of "
            f"{clip.source} {'is frozen' if image_frozen else 'is none'}: leave patch_dropout out"
        )
    return () if isinstance(wanted, int) else tuple(rows)


def check_tables(clip: Clip, rows: Sequence[SizeStage], learning: frozenset[str]) -> None:
    """Refuses `table_first` where no position table ever learns.

    Raises:
        ConfigError: so it is.
    """
    if any(row.table_first for row in rows) and not learning & resize.tables(clip).keys():
        raise ConfigError(
            f"resolution.stages: table_first asks that a position table learns alone, and the image tower of {clip.source} "
            "has none that learns: leave table_first out"
        )


def enter(clip: Clip, optimizer: torch.optim.Optimizer, resolution: Resolution, decay: float, origin: Origin) -> None:
    """Makes model and optimizer ready for a size.

    Args:
        clip: changed in place.
        optimizer: of the run; it holds the resized tables afterwards.
        resolution: what is entered, or gone on with.
        decay: the run's weight decay.
        origin: position tables of the model as it began.
    """
    to_size(clip, optimizer, resolution.size_px, origin)
    optimizers.set_decay(optimizer, decay if resolution.weight_decay is None else resolution.weight_decay)
    visual = clip.model.visual
    if isinstance(visual, VisionTransformer):
        share = resolution.patch_dropout
        visual.patch_dropout = PatchDropout(share) if share else nn.Identity()
        visual.patch_dropout.train(visual.training)


def to_size(clip: Clip, optimizer: torch.optim.Optimizer, size_px: int, origin: Origin) -> None:
    """Gives model and optimizer another size; see `MOMENTS`.

    A table that has never learned, which shows in Adam having no moments of it, comes from the model as it began: resized
    down and up again it would not be what it was.
    """
    if size_px == clip.preprocess.size_px:
        return
    before = dict(clip.model.named_parameters())
    prefixes = resize.tables(clip)
    learned = any(optimizer.state.get(before[name]) for name in prefixes)
    resize.resize(clip, size_px, None if learned else origin)
    for name, new in clip.model.named_parameters():
        if new is before[name]:
            continue
        moment = None
        if MOMENTS == "resized" and name in prefixes:
            prefix = prefixes[name]
            side = round((new.shape[-2] - prefix) ** 0.5)
            moment = _resampler(side, prefix)
        optimizers.swap(optimizer, before[name], new, moment)


def _resampler(side: int, prefix: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda moment: resize.resampled(moment, side, prefix)
