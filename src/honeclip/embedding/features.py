"""What frozen tower bodies give, computed once and kept on disk: training and every evaluation of a run read it from
there.

The cache of a body is named by everything that decides its output: weights, buffers and effective config of the body,
the preprocessing's fingerprint, the kind of device (two kinds round differently). Within it a row is keyed by
content: the hash of an image's decoded pixels, the hash of a caption's words after the text rules. Only rows that are
missing are computed, and they are stored as they come, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from honeclip import places
from honeclip.data.pairs import ImageRef, Pairs
from honeclip.device.resident import keeping_freed
from honeclip.embedding import store
from honeclip.embedding.batches import at_once, blank, decoded, halving, longest_text, tokenised
from honeclip.errors import DataError
from honeclip.model import towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.towers import Tower
from honeclip.preprocess.preprocess import normalise

PART_ROWS = 512
FORMAT = 1  # raise it when the meaning of a stored row changes

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Features:
    """What need not be computed again while this is used.

    Attributes:
        image: the cache of the image tower's body, which stays as it is; None: that tower is computed anew.
        text: the same of the text tower's body.
        texts: embeddings of what was asked for so far, by the words that the text rules leave, where the whole text tower
            stays as it is, as in an evaluation; None: heads may learn in between, so none is held.
    """

    image: str | None = None
    text: str | None = None
    texts: dict[str, Tensor] | None = None


def caches(clip: Clip, *, image: bool = True, text: bool = True) -> Features:
    """Name the caches of the frozen bodies. Reads every weight once: call it once a run, not once a batch."""
    return Features(
        image=_name(clip, towers.image_tower(clip), clip.preprocess.image_fingerprint) if image else None,
        text=_name(clip, towers.text_tower(clip), clip.preprocess.text_fingerprint) if text else None,
    )


def kept(clip: Clip) -> Features:
    """For a model that learns no more: the caches of its bodies that are on disk already, as those of a body that a run
    has left as it was; and each text is embedded once."""
    named = caches(clip)
    image, text = (name if name and (places.features() / name).is_dir() else None for name in (named.image, named.text))
    return replace(named, image=image, text=text, texts={})


def image_features(
    clip: Clip, pairs: Pairs, *, cache: str | None = None, batch_size: int = 64, progress: Progress | None = None
) -> Tensor:
    """Body features of every image.

    Args:
        clip: its image body must not change between calls with the same `cache`.
        pairs: images equal by content are computed once.
        cache: `caches(clip).image`; None: it is worked out here.
        batch_size: images through the body at once; fewer where the model's room is smaller or memory runs out.
        progress: called with (images done, distinct images).

    Returns:
        float32 (N, F) on the CPU, aligned with the rows of `pairs`.

    Raises:
        DataError: an image could no longer be read; every such file is named.
    """
    first, content_of = distinct(pairs.image_id)
    features_UF, failed = distinct_image_features(clip, pairs.select(first), cache, batch_size, progress)
    if failed:
        raise DataError("images became unreadable since the data was checked:\n" + "\n".join(failed.values()))
    return features_UF[content_of]


def text_features(
    clip: Clip,
    captions: Sequence[str],
    *,
    cache: str | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """Body features of every caption, float32 (M, F) on the CPU; captions of the same words are computed once."""
    tower = towers.text_tower(clip)
    cache = cache or _name(clip, tower, clip.preprocess.text_fingerprint)
    words = clip.preprocess.words(captions)
    first = dict(zip(reversed(words), reversed(captions), strict=True))
    number = {text: place for place, text in enumerate(dict.fromkeys(words))}
    texts = [first[text] for text in number]  # as given, for rules of one's own may change their own result again
    keys = [hashlib.sha256(text.encode()).digest() for text in number]

    def body(tokens_BL: Tensor) -> Tensor:
        return tower.body(clip.device.copy(tokens_BL))

    def computed(missing: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        rows = at_once(clip, body, batch_size, longest_text(clip))
        for numbers, tokens_BL in tokenised(clip, [texts[place] for place in missing], rows):
            yield [missing[number] for number in numbers], halving(clip, body, tokens_BL)

    with measuring(clip):
        features_UF, _ = _through_store(cache, keys, computed, progress)
    return features_UF[[number[text] for text in words]]


def distinct(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each id, in the order of the rows, and for every row its place in that list."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order].astype(np.int64), place[inverse].astype(np.int64)


def distinct_image_features(
    clip: Clip, pairs: Pairs, cache: str | None, batch_size: int, progress: Progress | None
) -> tuple[Tensor, dict[int, str]]:
    """Features (U, F) of images that are all different, and the reason for each row that failed (it gets zeros)."""
    tower, preprocess = towers.image_tower(clip), clip.preprocess
    cache = cache or _name(clip, tower, preprocess.image_fingerprint)
    keys = [bytes.fromhex(content) for content in pairs.image_sha]
    failed: dict[int, str] = {}

    def body(pixels: Tensor) -> Tensor:
        return tower.body(normalise(clip.device.copy(pixels), preprocess.mean, preprocess.std, clip.dtype))

    def computed(missing: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        refs: list[ImageRef] = [pairs.images[row] for row in missing]
        rows = at_once(clip, body, batch_size, blank(clip))
        with keeping_freed():  # here, for giving memory back takes a while, and mostly all is on disk
            for numbers, pixels, bad in decoded(refs, preprocess, rows):
                failed.update(
                    {missing[number]: named(pairs, missing[number], reason) for number, reason in bad.items()}
                )
                if pixels is not None:
                    yield [missing[number] for number in numbers], halving(clip, body, pixels)

    with measuring(clip):
        features_UF, _ = _through_store(cache, keys, computed, progress)
    return features_UF, failed


def named(pairs: Pairs, row: int, reason: str) -> str:
    """A sentence on one row that failed: which file, which row of the manifest, why."""
    return f"{pairs.images[row].name} (row {pairs.rows[row]} of {pairs.source.name}): {reason}"


def _through_store(
    cache: str,
    keys: Sequence[bytes],
    computed: Callable[[list[int]], Iterator[tuple[list[int], Tensor]]],
    progress: Progress | None,
) -> tuple[Tensor, int]:
    """Rows (U, F) by key: what the disk has, then what `computed` yields for the rest, stored a part at a time.

    Returns:
        The rows and how many of them had to be computed. Rows that `computed` leaves out are zero.
    """
    folder = places.features() / cache
    out: Tensor | None = None
    have = np.zeros(len(keys), dtype=bool)
    for numbers, rows in store.read(folder, {key: number for number, key in enumerate(keys)}):
        out = torch.zeros(len(keys), rows.shape[1]) if out is None else out
        out[numbers] = rows
        have[numbers] = True
    missing = np.flatnonzero(~have).tolist()
    done = len(keys) - len(missing)
    if progress:
        progress(done, len(keys))

    fresh: list[int] = []
    for numbers_now, rows in computed(missing) if missing else ():
        out = torch.zeros(len(keys), rows.shape[1]) if out is None else out
        out[numbers_now] = rows
        fresh += numbers_now
        done += len(numbers_now)
        if progress:
            progress(done, len(keys))
        if len(fresh) >= PART_ROWS:
            store.write(folder, [keys[number] for number in fresh], out[fresh])
            fresh = []
    if fresh and out is not None:
        store.write(folder, [keys[number] for number in fresh], out[fresh])
    return (out if out is not None else torch.zeros(len(keys), 0)), len(missing)


def _name(clip: Clip, tower: Tower, fingerprint: str) -> str:
    """The folder of one body: tower, then a hash of all that decides what it gives."""
    # a text is the same at every image size
    config = {key: one for key, one in clip.config.items() if tower.name == "image" or key != "vision_cfg"}
    facts = {"format": FORMAT, "device": clip.device.type, "preprocess": fingerprint, "config": config}
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, value in sorted(tower.state_body().items()):
        hashed.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{tower.name}-{hashed.hexdigest()[:32]}"
