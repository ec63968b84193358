"""Near misses between epochs: the model as it is says which rows it takes for each other, and they come into one batch.

An epoch's near misses are found before its first step, with the weights of that moment, and kept with the run: a resumed run
repeats the epoch that it was in. The first epoch of a stretch has none: before a run a model that begins unaligned knows
nothing of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from honeclip.data.loader import Batch
from honeclip.data.pairs import Pairs
from honeclip.embedding.embed import embed
from honeclip.embedding.features import Features as Caches
from honeclip.losses.near_misses import near_misses
from honeclip.losses.targets import Targets
from honeclip.training import frozen, setup
from honeclip.training.aims import Aims
from honeclip.training.loop import Learner, Mined
from honeclip.training.prepared import Prepared
from honeclip.training.stages import Stage

NONE_YET = -1


def batches(found: Prepared, learner: Learner, stage: Stage, start: int) -> Iterator[Batch]:
    """The batches of a stage from a 0-based step on; with `loss.mining`, anew from each epoch on."""
    k = found.config.loss.mining
    if not k:
        yield from setup.batches(found, learner, stage, start)
        return
    rows, step = len(found.train), start
    while step < stage.stop:
        epoch = ((step - stage.since) * stage.batch) // rows
        stop = min(stage.stop, stage.since - (-(epoch + 1) * rows // stage.batch))
        if learner.mined.of != (stage.stretch, epoch):
            learner.mined.of = (stage.stretch, epoch)
            learner.mined.neighbours = _mine(found, learner, stage, k) if epoch else None
        yield from setup.batches(found, learner, replace(stage, stop=stop), step, learner.mined.neighbours)
        step = stop


def to_tensors(mined: Mined) -> dict[str, Tensor]:
    """For a checkpoint."""
    out = {"of": torch.tensor(mined.of)}
    return out if mined.neighbours is None else {**out, "neighbours": torch.from_numpy(mined.neighbours)}


def from_tensors(mined: Mined, stored: dict[str, Tensor]) -> None:
    """The reverse of `to_tensors`."""
    stretch, epoch = stored["of"].tolist()
    mined.of = (stretch, epoch)
    mined.neighbours = stored["neighbours"].numpy() if "neighbours" in stored else None


def _mine(found: Prepared, learner: Learner, stage: Stage, k: int) -> NDArray[np.int64]:
    """(rows, k) near misses by the model as it is; -1 where a picture can no longer be read."""
    known = frozen.caches(found, stage.frozen) if stage.frozen else Caches()
    embedded = embed(found.clip, found.train, features=known)
    rows = embedded.rows
    targets = _partners(learner.aims, found.train, rows)
    text_ND = embedded.text[torch.from_numpy(embedded.caption_of)]
    near = near_misses(embedded.image, text_ND, lambda a, b: targets.tile(a, b, len(rows)), min(k, len(rows) - 1))
    out = np.full((len(found.train), k), NONE_YET, dtype=np.int64)
    out[rows, : near.shape[1]] = np.where(near >= 0, rows[near], NONE_YET)
    return out


def _partners(aims: Aims, pairs: Pairs, rows: NDArray[np.int64]) -> Targets:
    """Who belongs to whom: an equal caption or image is no miss, nor is a label in common where labels are the targets."""
    labels = None if aims.label_NC is None else aims.label_NC[torch.from_numpy(rows)]
    return Targets(torch.from_numpy(pairs.caption_id[rows]), torch.from_numpy(pairs.image_id[rows]), labels)
