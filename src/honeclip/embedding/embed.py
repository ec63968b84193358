"""A data set through a model, once: unit embeddings of every image and of every distinct caption."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.data.pairs import Pairs
from honeclip.embedding.batches import at_once, blank, decoded, halving, longest_text, tokenised
from honeclip.embedding.features import (
    Features,
    Progress,
    distinct,
    distinct_image_features,
    named,
    text_features,
)
from honeclip.errors import DataError, NonFiniteError
from honeclip.model import towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.towers import Tower
from honeclip.model.windows import over_windows
from honeclip.preprocess.preprocess import normalise

HEAD_ROWS = 4096


@dataclass(frozen=True)
class Embeddings:
    """Unit float32 embeddings on the CPU of the N rows that could be embedded and of their M distinct captions.

    Attributes:
        image: (N, D), one a row; rows with the same image hold the same values.
        text: (M, D).
        caption_of: (N,) int64, the distinct caption of each row.
        image_id: (N,) int64, equal where images are equal by content.
        captions: the M distinct captions.
        seconds: wall time.
        rows: (N,) int64, the row of the given pairs that each row is; all of them unless a picture failed.
        file_of: (N,) int64, equal where rows name the same image file.
        failed: a sentence for each picture that could not be read any more.
    """

    image: Tensor
    text: Tensor
    caption_of: NDArray[np.int64]
    image_id: NDArray[np.int64]
    captions: tuple[str, ...]
    seconds: float
    rows: NDArray[np.int64]
    file_of: NDArray[np.int64]
    failed: tuple[str, ...] = ()


def embed(
    clip: Clip,
    pairs: Pairs,
    *,
    batch_size: int = 64,
    features: Features | None = None,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed every distinct image and caption once.

    Args:
        clip: the model; each of its modules keeps its train or eval mode.
        pairs: the rows to embed.
        batch_size: images through the model at once (captions: four times as many); halved where memory runs out.
        features: caches of frozen bodies (`features.caches(clip)`): only the heads run for what is stored.
        progress: called with (images done, distinct images).

    Raises:
        DataError: there are no rows, or no picture of them can be read.
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    if not len(pairs):
        raise DataError(f"{pairs.source}: there are no rows to embed")
    started = time.perf_counter()
    first, _ = distinct(pairs.image_id)
    images_UD, failed = _embed_images(clip, pairs.select(first), features or Features(), batch_size, progress)
    (found,) = assembled(clip, pairs, [images_UD], failed, features=features, text_batch_size=4 * batch_size)
    return replace(found, seconds=time.perf_counter() - started)


def assembled(
    clip: Clip,
    pairs: Pairs,
    looks_UD: Sequence[Tensor],
    failed: Mapping[int, str],
    *,
    features: Features | None = None,
    text_batch_size: int = 256,
) -> list[Embeddings]:
    """Several embeddings of the distinct images joined with the rows; captions are embedded once for all of them.

    Args:
        clip: for the texts, and to name the model.
        pairs: N rows.
        looks_UD: each (U, D): of the images that `features.distinct` names, in that order.
        failed: place of an image to the reason why it could not be read, the same for every look.
        features: where the text tower's body is frozen, its cache.
        text_batch_size: texts through the model at once.

    Raises:
        DataError: no picture can be read.
        NonFiniteError: NaN or infinite embeddings.
    """
    first, content_of = distinct(pairs.image_id)
    good = np.array([content not in failed for content in range(len(first))])
    rows = np.flatnonzero(good[content_of])
    if not len(rows):
        raise DataError("none of the pictures can be read: " + next(iter(failed.values())))

    texts, caption_of = distinct(pairs.caption_id[rows])
    captions = tuple(pairs.captions[rows[place]] for place in texts)
    text_MD = embed_texts(clip, captions, features=features, batch_size=text_batch_size)
    looks_ND = [look_UD[content_of[rows]] for look_UD in looks_UD]
    for name, values in (*(("image", look_ND) for look_ND in looks_ND), ("text", text_MD)):
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(f"the {name} tower of {clip.source} gives NaN or infinite embeddings")
    file_of = _files(pairs)[rows]
    return [
        Embeddings(
            image=look_ND,
            text=text_MD,
            caption_of=caption_of,
            image_id=pairs.image_id[rows],
            captions=captions,
            seconds=0.0,
            rows=rows,
            file_of=file_of,
            failed=tuple(failed.values()),
        )
        for look_ND in looks_ND
    ]


def embed_texts(clip: Clip, texts: Sequence[str], *, features: Features | None = None, batch_size: int = 256) -> Tensor:
    """Unit float32 embeddings (M, D) on the CPU, through the cache of a frozen text body where there is one.

    Where `features.texts` holds what was asked for before, only texts that are not there are computed.
    """
    known = features or Features()

    def computed(some: Sequence[str]) -> Tensor:
        return over_windows(clip.preprocess, some, lambda pieces: _embed_pieces(clip, pieces, known, batch_size))

    if known.texts is None or not texts:
        return computed(texts)
    words = clip.preprocess.words(texts)  # texts that the rules make the same are one
    missing = {word: text for word, text in zip(words, texts, strict=True) if word not in known.texts}
    if missing:
        known.texts.update(zip(missing, computed(list(missing.values())), strict=True))
    return torch.stack([known.texts[word] for word in words])


def _embed_pieces(clip: Clip, texts: Sequence[str], features: Features, batch_size: int) -> Tensor:
    """Unit embeddings of texts that are cut where they are too long."""
    tower = towers.text_tower(clip)
    if features.text:
        features_MF = text_features(clip, texts, cache=features.text, batch_size=batch_size)
        return _through_head(clip, tower, features_MF)

    def run(tokens_BL: Tensor) -> Tensor:
        return tower(clip.device.copy(tokens_BL))

    out_MD = torch.empty(len(texts), clip.embed_dim)
    with measuring(clip):
        rows = at_once(clip, run, batch_size, longest_text(clip))
        for numbers, tokens_BL in tokenised(clip, texts, rows):
            out_MD[numbers] = normalize(halving(clip, run, tokens_BL), dim=-1)
    return out_MD


def embed_pixels(clip: Clip, pixels_BCHW: Tensor) -> Tensor:
    """Unit float32 embeddings (B, D) on the CPU of uint8 pixels (B, 3, S, S), in halves where memory runs out."""
    tower, how = towers.image_tower(clip), clip.preprocess

    def run(part: Tensor) -> Tensor:
        return tower(normalise(clip.device.copy(part), how.mean, how.std, clip.dtype))

    with measuring(clip):
        rows = at_once(clip, run, len(pixels_BCHW), blank(clip))
        parts = [halving(clip, run, part) for part in torch.split(pixels_BCHW, rows)]
        return normalize(torch.cat(parts), dim=-1)


def _embed_images(
    clip: Clip, pairs: Pairs, features: Features, batch_size: int, progress: Progress | None
) -> tuple[Tensor, dict[int, str]]:
    """Embeddings (U, D) of images that are all different, and the reason for each that failed (it gets zeros)."""
    if features.image:
        features_UF, failed = distinct_image_features(clip, pairs, features.image, batch_size, progress)
        good = [row for row in range(len(pairs)) if row not in failed]
        out_UD = torch.zeros(len(pairs), clip.embed_dim)
        if good:
            out_UD[good] = _through_head(clip, towers.image_tower(clip), features_UF[good])
        return out_UD, failed

    out_UD, failed, done = torch.zeros(len(pairs), clip.embed_dim), {}, 0
    for numbers, pixels, bad in decoded(pairs.images, clip.preprocess, batch_size):
        failed.update({number: named(pairs, number, reason) for number, reason in bad.items()})
        if pixels is not None:
            out_UD[numbers] = embed_pixels(clip, pixels)
        done += len(numbers) + len(bad)
        if progress:
            progress(done, len(pairs))
    return out_UD, failed


def _through_head(clip: Clip, tower: Tower, features_NF: Tensor) -> Tensor:
    def run(part: Tensor) -> Tensor:
        return tower.head(clip.device.copy(part).to(clip.dtype))

    with measuring(clip):
        parts = [halving(clip, run, part) for part in torch.split(features_NF, HEAD_ROWS)]
        return normalize(torch.cat(parts), dim=-1)


def _files(pairs: Pairs) -> NDArray[np.int64]:
    """(N,) rows that name the same file share a number."""
    number: dict[object, int] = {}
    return np.array([number.setdefault(ref, len(number)) for ref in pairs.images], dtype=np.int64)
