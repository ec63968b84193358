"""What an export costs in R@10: the model and the export asked the same, and their paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from honeclip.data import pairs as manifests
from honeclip.embedding.batches import decoded
from honeclip.embedding.embed import Embeddings, embed
from honeclip.embedding.features import distinct
from honeclip.errors import DataError
from honeclip.evaluation.answers import answer, paired_difference
from honeclip.evaluation.evaluate import data_name, in_its_domain, rows_of
from honeclip.evaluation.retrieval import retrieval
from honeclip.export.encoders import Encoders
from honeclip.model.clip import Clip
from honeclip.model.windows import over_windows
from honeclip.preprocess.preprocess import normalise

BATCH_SIZE = 32
WAYS = ("image_to_text", "text_to_image")


def measured(clip: Clip, other: Encoders, data: str, split: str, domain: str | None) -> dict[str, Any]:
    """R@10 of both ways, of the model and of the export, with intervals.

    Args:
        clip: the model.
        other: what was exported.
        data: a data set.
        split: of it.
        domain: in which it is read; the model's own without.

    Returns:
        "data", "split", "pairs", and for each way "model", "export" and "difference", each as in METRICS.

    Raises:
        DataError: the data cannot be read, or has too few candidates for R@10 (fewer than 50).
    """
    clip, chosen = in_its_domain(clip, domain)
    pairs = rows_of(manifests.load(data, domain=chosen), split)
    own = embed(clip, pairs, batch_size=BATCH_SIZE)
    theirs = _embedded(clip, other, pairs, own)
    none: Sequence[Sequence[str]] = [()] * len(own.rows)
    ours, exports = answer(own, none, None), answer(theirs, none, None)
    before, after = retrieval(ours.ranks), retrieval(exports.ranks)
    apart = paired_difference(ours, exports)
    if apart is None or any("R@10" not in before[way] for way in WAYS):
        raise DataError(f"{data}: the split {split} has too few captions or images for R@10 (50 of each are needed)")
    return {
        "data": data_name(data),
        "split": split,
        "pairs": len(own.rows),
        **{
            way: {
                "model": before[way]["R@10"],
                "export": after[way]["R@10"],
                "difference": apart["retrieval"][way]["R@10"],
            }
            for way in WAYS
        },
    }


def _embedded(clip: Clip, other: Encoders, pairs: manifests.Pairs, own: Embeddings) -> Embeddings:
    """The embeddings of the export in the place of the model's."""
    how = clip.preprocess
    first, content_of = distinct(pairs.image_id)
    image_UD = torch.zeros(len(first), clip.embed_dim)
    for numbers, pixels, _ in decoded(pairs.select(first).images, how, BATCH_SIZE):
        if pixels is not None:
            image_UD[numbers] = other.image(normalise(pixels, how.mean, how.std))

    def embedded(pieces: Sequence[str]) -> Tensor:
        parts = [pieces[start : start + BATCH_SIZE] for start in range(0, len(pieces), BATCH_SIZE)]
        return torch.cat([other.text(how.texts(part)) for part in parts])

    text_MD = over_windows(how, list(own.captions), embedded)
    return replace(own, image=image_UD[content_of[own.rows]], text=text_MD)
