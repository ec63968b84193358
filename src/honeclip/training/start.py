"""What a run began with, kept for its end: the weights that learn, as they were before the first step.

A run from `starter` begins with fresh heads that are made when it begins, and any other source may have moved by the time
it ends. So the start is in the run folder: of the weights only what learns, the rest is in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from honeclip.checkpoint import tensors
from honeclip.device.device import Device
from honeclip.errors import RunError
from honeclip.model import resize
from honeclip.model.clip import Clip, clip_json
from honeclip.model.load import from_json
from honeclip.training import folder as folders
from honeclip.training import frozen, resolution, stages
from honeclip.training.guard import Guard
from honeclip.training.optimizer import held
from honeclip.training.prepared import Prepared
from honeclip.training.stages import Stage
from honeclip.training.validation import Score, measure

WEIGHTS, CLIP, SCORES, BEFORE = "weights.safetensors", "clip.json", "scores.json", "before.json"


def learning(clip: Clip, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that changes in a run, by name: what the optimizer holds, the scale that a schedule may set, and position
    tables, whose shape follows the size of the images."""
    learns = held(clip.model, optimizer) | {"logit_scale", *resize.tables(clip)}
    return {name: one.detach() for name, one in clip.model.named_parameters() if name in learns}


def keep(folder: Path, clip: Clip, optimizer: torch.optim.Optimizer) -> None:
    """Writes what a run begins with; the JSON comes last, so that where it is, the weights are whole.

    Args:
        folder: RUN/start.
        clip: with its fresh heads and adapters, at the last size of the run.
        optimizer: of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors.write(folder / WEIGHTS, learning(clip, optimizer))
    folders.write_json(folder / CLIP, clip_json(clip))


def model(folder: Path, weights: Mapping[str, Tensor], device: Device) -> Clip:
    """The model as the run began: heads folded, adapters merged (they begin at zero).

    Args:
        folder: RUN/start.
        weights: of any checkpoint of the run, for what did not learn.
        device: where to put it.

    Raises:
        RunError: the folder is missing or damaged.
    """
    stored = folders.read_json(folder / CLIP)
    if stored is None:
        raise RunError(f"{folder} does not hold what the run began with any more; start anew with --overwrite")
    return from_json(stored, {**weights, **tensors.read(folder / WEIGHTS)}, source=str(folder), device=device)


def scores(
    folder: Path, found: Prepared, guard: Guard, optimizer: torch.optim.Optimizer, table: Sequence[Stage]
) -> dict[int, Score]:
    """What the start gets on the guard's val split, by image size; measured once, and read from the folder by a run that
    goes on.

    Args:
        folder: RUN/start.
        found: what was prepared; its model is as the run begins, and is left at another size where the run has several.
        guard: what is asked.
        optimizer: of the run, which holds the position tables.
        table: the stages, with every size.
    """
    stored = folders.read_json(folder / SCORES)
    if stored is not None:
        return {int(size): Score(**one) for size, one in stored.items()}
    out = measured(found, guard, optimizer, table)
    folders.write_json(folder / SCORES, {str(size_px): asdict(one) for size_px, one in out.items()})
    return out


def forget_scores(folder: Path, before: Path) -> None:
    """What the start got, on data that are no more: `folder` is RUN/start, `before` what it got on test."""
    for file in (before, folder / BEFORE, folder / SCORES):
        file.unlink(missing_ok=True)


def measured(
    found: Prepared, guard: Guard, optimizer: torch.optim.Optimizer, table: Sequence[Stage]
) -> dict[int, Score]:
    """As `scores`, without a folder."""
    clip = found.clip
    out = {}
    for size_px in dict.fromkeys(stage.size_px or clip.preprocess.size_px for stage in table):
        resolution.to_size(clip, optimizer, size_px, found.origin)
        caches = frozen.caches(found, stages.frozen_towers(clip, found.config.model.freeze))
        out[size_px] = measure(clip, guard.val, caches)
    return out
