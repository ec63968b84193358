"""From draws to batches: images decoded, augmented and resized on the CPU, captions tokenised, identities alongside.

Images are decoded in pieces of `PIECE` rows, by worker processes (which take everything pickled, so they start under
spawn) or, with none, by threads of this process. What a batch holds depends on its draw alone: neither the number of
workers nor the place where a run was picked up changes a pixel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from honeclip.data.augment import augment, changes_nothing
from honeclip.data.order import Draw
from honeclip.data.pairs import ImageRef, Pairs
from honeclip.data.samples import Samples
from honeclip.domains.domain import AugmentRules
from honeclip.errors import DataError
from honeclip.preprocess import images
from honeclip.preprocess.preprocess import Preprocess

PIECE = 32
"""Rows that a worker decodes at a time: many workers share one batch, and a huge batch is not held twice."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One effective batch, on the CPU.

    Attributes:
        draw: what was asked for; rows whose image can no longer be read are not in it any more.
        images: uint8 (B, 3, S, S); None where features stand in for them.
        tokens: int64 (B, L); None where features stand in for them.
        caption_id: int64 (B,), equal where captions are equal.
        image_id: int64 (B,), equal where images are equal by content.
        lost: a sentence for each row that was left out.
        everyone: where several processes share a batch, draw, identities and lost rows of all of them, in the order of their
            ranks, without images and tokens; None where these are all rows.
        counts: rows of each process, where there are several.
    """

    draw: Draw
    images: Tensor | None
    tokens: Tensor | None
    caption_id: Tensor
    image_id: Tensor
    lost: tuple[str, ...] = ()
    everyone: Batch | None = None
    counts: tuple[int, ...] = ()

    @property
    def whole(self) -> Batch:
        """What the loss sees: the rows of all processes."""
        return self.everyone or self


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """The rows `start` to `stop` of a batch."""
    return replace(
        batch,
        draw=replace(batch.draw, indices=batch.draw.indices[start:stop]),
        images=None if batch.images is None else batch.images[start:stop],
        tokens=None if batch.tokens is None else batch.tokens[start:stop],
        caption_id=batch.caption_id[start:stop],
        image_id=batch.image_id[start:stop],
    )


def batches(
    pairs: Pairs,
    preprocess: Preprocess,
    draws: Iterable[Draw],
    *,
    rules: AugmentRules | None = None,
    with_images: bool = True,
    with_tokens: bool = True,
    samples: Samples | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """One batch a draw, in order.

    Args:
        pairs: the train split, to whose rows the draws refer.
        preprocess: pixels and tokens; its size must be that of the draws.
        draws: from `order.order`; may be endless.
        rules: of augmentation; None changes nothing.
        with_images: whether images are decoded.
        with_tokens: whether captions are tokenised.
        samples: what a step sees of the captions instead of all of them; None: all of them.
        workers: decoding processes; 0 decodes in threads of this one.

    Raises:
        DataError: not one image of a batch can be read any more.
    """
    decoded = _decoded(pairs, preprocess, draws, rules, workers) if with_images else ((one, None) for one in draws)
    for draw, results in decoded:
        pixels: Tensor | None = None
        lost: tuple[str, ...] = ()
        if results is not None:
            good = [place for place, result in enumerate(results) if not isinstance(result, str)]
            lost = tuple(
                f"{pairs.images[row].name} (row {pairs.rows[row]} of {pairs.source.name}): {result}"
                for row, result in zip(draw.indices.tolist(), results, strict=True)
                if isinstance(result, str)
            )
            if not good:
                raise DataError(f"step {draw.step + 1}: none of its images can be read any more: {lost[0]}")
            draw = replace(draw, indices=draw.indices[good]) if lost else draw
            pixels = torch.stack([result for result in results if not isinstance(result, str)])
        rows = draw.indices
        yield Batch(
            draw=draw,
            images=pixels,
            tokens=preprocess.texts(_texts(pairs, draw, samples)) if with_tokens else None,
            caption_id=torch.from_numpy(pairs.caption_id[rows]),
            image_id=torch.from_numpy(pairs.image_id[rows]),
            lost=lost,
        )


def _texts(pairs: Pairs, draw: Draw, samples: Samples | None) -> list[str]:
    if samples is None:
        return [pairs.captions[row] for row in draw.indices.tolist()]
    return [samples.texts[place] for place in samples.at(draw).tolist()]


@dataclass(frozen=True, eq=False)
class _Images(Dataset[list["Tensor | str"]]):
    """What a worker process gets: where the images are and what to do with them."""

    refs: Sequence[ImageRef]
    preprocess: Preprocess
    rules: AugmentRules | None

    def __getitem__(self, piece: Any) -> list[Tensor | str]:
        """A piece of a draw -> pixels uint8 (3, S, S), or the reason, for each of its rows."""
        draw: Draw = piece
        return [self._one(draw, row) for row in draw.indices.tolist()]

    def _one(self, draw: Draw, row: int) -> Tensor | str:
        ref = self.refs[row]
        try:
            image = images.decode(ref if isinstance(ref, Path) else ref.read(), windows=self.preprocess.windows)
        except (DataError, OSError) as error:
            return str(error)
        if self.rules is not None:
            seed = (draw.seed, draw.step, row)
            image = augment(image, self.rules, draw.strength, seed, self.preprocess.fill)
        return self.preprocess.image(image)


@dataclass(frozen=True)
class _Pieces(Sampler[Draw]):
    """The draws in pieces, in order: what torch's DataLoader hands to its workers, one piece at a time."""

    draws: Iterable[Draw]
    seen: list[Draw]

    def __iter__(self) -> Iterator[Draw]:
        for draw in self.draws:
            self.seen.append(draw)
            yield from _pieces(draw)


def _pieces(draw: Draw) -> list[Draw]:
    count = -(-len(draw.indices) // PIECE)
    return [replace(draw, indices=part) for part in np.array_split(draw.indices, count)]


def _decoded(
    pairs: Pairs, preprocess: Preprocess, draws: Iterable[Draw], rules: AugmentRules | None, workers: int
) -> Iterator[tuple[Draw, list[Tensor | str]]]:
    """Each draw with the pixels, or the reason, for each of its rows."""
    rules = None if rules is None or changes_nothing(rules) else rules
    dataset = _Images(pairs.images, replace(preprocess, tokenizer=None), rules)
    if workers == 0:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for draw in draws:
                yield draw, [one for part in pool.map(dataset.__getitem__, _pieces(draw)) for one in part]
        return
    sampler = _Pieces(draws, [])
    loader = DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn",
        prefetch_factor=2,
    )
    parts: list[Tensor | str] = []
    for part in loader:  # in the sampler's order, whichever worker is done first
        parts += part
        if len(parts) == len(sampler.seen[0].indices):
            yield sampler.seen.pop(0), parts
            parts = []
