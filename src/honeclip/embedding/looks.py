"""Several looks at every picture of a data set (other sizes, changed pixels), from one decoding of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from honeclip.data.pairs import ImageRef, Pairs
from honeclip.device.resident import keeping_freed
from honeclip.embedding.batches import ahead, content
from honeclip.embedding.embed import Embeddings, assembled, embed_pixels
from honeclip.embedding.features import Progress, distinct, named
from honeclip.errors import DataError
from honeclip.model.clip import Clip
from honeclip.preprocess import images

BATCH = 8
"""Pictures at once. Fewer than `embed` takes: every picture waits in as many forms as there are looks."""


def embed_looks(
    clips: Sequence[Clip],
    look: Callable[[Image.Image], Sequence[Tensor]],
    pairs: Pairs,
    *,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> list[Embeddings]:
    """Embed every distinct image in several forms, and every caption once.

    Args:
        clips: the model that sees each look; they share one text tower, that of the first.
        look: from a decoded picture (upright RGB) to the pixels of every look, uint8 (3, S, S) with the size S of its
            clip; called in threads.
        pairs: the rows to embed.
        batch_size: images through a model at once; halved where memory runs out.
        progress: called with (images done, distinct images).

    Returns:
        One for each of `clips`, of the same rows and captions. `seconds` is the time in that model's image tower.

    Raises:
        DataError: there are no rows, or no picture of them can be read.
        NonFiniteError: a model gives NaN or infinite embeddings.
    """
    if not len(pairs):
        raise DataError(f"{pairs.source}: there are no rows to embed")
    first, _ = distinct(pairs.image_id)
    chosen = pairs.select(first)
    looks_UD = [torch.zeros(len(chosen), clip.embed_dim) for clip in clips]
    failed: dict[int, str] = {}
    seconds = [0.0] * len(clips)
    done = 0

    def work(ref: ImageRef) -> Sequence[Tensor]:
        return look(images.decode(content(ref), windows=clips[0].preprocess.windows))

    with keeping_freed():
        for numbers, looks, bad in ahead(chosen.images, work, batch_size):
            failed.update({number: named(chosen, number, reason) for number, reason in bad.items()})
            for place, clip in enumerate(clips if looks else ()):
                started = time.perf_counter()
                pixels = torch.stack([one[place] for one in looks])
                looks_UD[place][numbers] = embed_pixels(clip, pixels)
                seconds[place] += time.perf_counter() - started
            done += len(numbers) + len(bad)
            if progress:
                progress(done, len(chosen))
    found = assembled(clips[0], pairs, looks_UD, failed)
    return [replace(one, seconds=took) for one, took in zip(found, seconds, strict=True)]
