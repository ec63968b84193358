"""Eight pairs by which a checkpoint is known: their embeddings are stored with it, and `check` computes them once more.

Hashes say that files are as they were written. That a model built from them gives what the run's model gave, with its
tokenizer, its image size and its adapters, only a forward says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from honeclip.checkpoint import load as checkpoints
from honeclip.data import remote
from honeclip.data.inspect_images import inspect
from honeclip.data.pairs import ImageRef, Member, Pairs
from honeclip.data.remote import Remote
from honeclip.device import detect
from honeclip.embedding.embed import embed
from honeclip.embedding.features import Features
from honeclip.errors import DataError, HoneclipError, Unreachable
from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.preprocess.images import Facts

PAIRS = 8

SAME_DEVICE, OTHER_DEVICE = 1e-4, 1e-3
"""The most by which a number of a unit embedding may differ: heads are folded and adapters merged when a checkpoint is read,
and batches are cut otherwise, which rounds otherwise; another kind of device has other kernels."""


@dataclass(frozen=True)
class Eight:
    """The pairs as a checkpoint keeps them.

    Attributes:
        tensors: "image" and "text", (N, D) unit embeddings, float32.
        about: what JSON says of them: where the pictures are, their hashes, the captions, the kind of device.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]


@dataclass(frozen=True)
class Again:
    """What came of computing them again: whether it was done and came out, and a sentence."""

    done: bool
    same: bool
    words: str


def choose(val: Pairs, train: Pairs) -> Pairs:
    """Up to eight pairs, evenly over the val split, or over the train split where there is no val."""
    rows = val if len(val) else train
    return rows.select(np.unique(np.linspace(0, len(rows) - 1, PAIRS).round().astype(np.int64)))


def of(clip: Clip, pairs: Pairs, features: Features | None = None) -> Eight | None:
    """The pairs with their embeddings by the model as it is now, in eval mode; no generator moves. None where none of
    their pictures can be read any more.

    Args:
        clip: the model; its modules keep their modes.
        pairs: what `choose` gave.
        features: caches of bodies that never learn, as for an evaluation.
    """
    try:
        found = embed(clip, pairs, features=features)
    except (DataError, Unreachable):  # a run does not end for what only a check would have asked for
        return None
    kept = pairs.select(found.rows)
    about = {
        "device": clip.device.backend,
        "images": [_where(one) for one in kept.images],
        "sha256": list(kept.image_sha),
        "captions": list(kept.captions),
    }
    return Eight({"image": found.image, "text": found.text[found.caption_of]}, about)


def again(checkpoint: Path) -> Again:
    """Builds the model of a whole checkpoint and embeds its pairs once more, where their pictures are what they were."""
    state = checkpoints.read(checkpoint)
    about: Mapping[str, Any] | None = state.json.get("pairs")
    if about is None or "pairs" not in state.tensors:
        return Again(False, False, "it was saved without embeddings to compare with")
    try:
        refs = [_ref(one) for one in about["images"]]
        facts = inspect(refs)
    except (DataError, Unreachable) as error:
        return Again(False, False, str(error))
    for ref, sha in zip(refs, about["sha256"], strict=True):
        seen = facts[ref]
        if not isinstance(seen, Facts):
            return Again(False, False, f"{ref.name} cannot be read: {seen.reason}")
        if seen.pixels_sha256 != sha:
            return Again(False, False, f"{ref.name} is another picture now")
    device = detect.choose("auto")
    most = SAME_DEVICE if device.backend == about["device"] else OTHER_DEVICE
    try:
        found = embed(load(str(checkpoint), device), _pairs(checkpoint, refs, about))
    except HoneclipError as error:
        return Again(True, False, f"its model does not give embeddings any more: {error}")
    now = {"image": found.image, "text": found.text[found.caption_of]}
    apart = {name: float((now[name] - one).abs().max()) for name, one in state.tensors["pairs"].items()}
    worst = max(apart, key=lambda name: apart[name])
    words = f"{len(refs)} pairs, {worst} embeddings at most {apart[worst]:.1g} apart, and {most:g} is rounding"
    return Again(True, apart[worst] <= most, words)


def _pairs(source: Path, refs: Sequence[ImageRef], about: Mapping[str, Any]) -> Pairs:
    """The stored pairs as rows, which is what embeds."""
    captions, number = tuple(about["captions"]), len(refs)
    shas = tuple(about["sha256"])
    return Pairs(
        source=source,
        images=tuple(refs),
        captions=captions,
        labels=((),) * number,
        splits=("val",) * number,
        groups=("",) * number,
        rows=tuple(range(1, number + 1)),
        caption_id=np.unique(captions, return_inverse=True)[1].astype(np.int64),
        image_id=np.unique(shas, return_inverse=True)[1].astype(np.int64),
        image_sha=shas,
        problems=(),
        total_rows=number,
    )


def _where(ref: ImageRef) -> dict[str, Any]:
    if isinstance(ref, Member):
        archive = ref.archive.url if isinstance(ref.archive, Remote) else str(ref.archive.absolute())
        return {**asdict(ref), "archive": archive}
    return {"path": str(ref.absolute())}


def _ref(stored: Mapping[str, Any]) -> ImageRef:
    if "path" in stored:
        return Path(stored["path"])
    where = stored["archive"]
    archive = remote.find(where) if remote.is_address(where) else Path(where)
    return Member(archive, stored["offset"], stored["length"], stored["name"])
