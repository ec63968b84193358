"""From draws to batches: images decoded, augmented and resized on the CPU, captions tokenised, identities alongside.

Images are decoded in pieces of `PIECE` rows, by worker processes (which take everything pickled, so they start under
spawn) or, with none, by threads of this process. What a batch holds depends on its draw alone: neither the number of
workers nor the place where a run was picked up changes a pixel. So a worker that is killed is replaced, and what it had
in hand is decoded again; where they are killed again and again, threads go on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from honeclip.data.augment import augment, changes_nothing
from honeclip.data.order import Draw
from honeclip.data.pairs import ImageRef, Pairs
from honeclip.data.reading import LOOK_S, Watch, readers, say
from honeclip.data.samples import Samples
from honeclip.domains.domain import AugmentRules
from honeclip.errors import DataError, Unreachable
from honeclip.preprocess import images
from honeclip.preprocess.preprocess import Preprocess

PIECE = 32
"""Rows that a worker decodes at a time: many workers share one batch, and a huge batch is not held twice."""

DEATHS = 3
"""So often workers are started again for one and the same batch."""

Result = Tensor | str | Unreachable
"""What became of a row: pixels uint8 (3, S, S), why its picture cannot be read, or that its shard does not answer."""


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
        Unreachable: a shard behind an address does not answer.
    """
    decoded = _decoded(pairs, preprocess, draws, rules, workers) if with_images else ((one, None) for one in draws)
    for draw, results in decoded:
        pixels: Tensor | None = None
        lost: tuple[str, ...] = ()
        if results is not None:
            for result in results:
                if isinstance(result, Unreachable):
                    raise result
            good = [place for place, result in enumerate(results) if isinstance(result, Tensor)]
            lost = tuple(
                f"{pairs.images[row].name} (row {pairs.rows[row]} of {pairs.source.name}): {result}"
                for row, result in zip(draw.indices.tolist(), results, strict=True)
                if isinstance(result, str)
            )
            if not good:
                raise DataError(f"step {draw.step + 1}: none of its images can be read any more: {lost[0]}")
            draw = replace(draw, indices=draw.indices[good]) if lost else draw
            pixels = torch.stack([result for result in results if isinstance(result, Tensor)])
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
class Piece:
    """What a process hands over. Each tensor takes a file descriptor of its own on its way, so all pixels are one.

    Attributes:
        pixels: uint8 (n, 3, S, S) of the n rows whose pictures were decoded; None where there are none.
        faults: what became of the others, by their place.
    """

    pixels: Tensor | None
    faults: dict[int, str | Unreachable]

    @classmethod
    def of(cls, found: Sequence[Result]) -> Piece:
        """One for what became of some rows."""
        good = [one for one in found if isinstance(one, Tensor)]
        faults = {place: one for place, one in enumerate(found) if not isinstance(one, Tensor)}
        return cls(torch.stack(good) if good else None, faults)

    def results(self) -> list[Result]:
        """Of each row, in order."""
        good = iter(self.pixels if self.pixels is not None else ())
        count = len(self.faults) + (len(self.pixels) if self.pixels is not None else 0)
        return [self.faults[place] if place in self.faults else next(good) for place in range(count)]


@dataclass(frozen=True, eq=False)
class _Images(Dataset["Piece"]):
    """What a worker process gets: where the images are and what to do with them.

    `reading` is shared with the workers, int64 (workers,): the row that each is at, or -1.
    """

    refs: Sequence[ImageRef]
    preprocess: Preprocess
    rules: AugmentRules | None
    reading: Tensor | None = None

    def __getitem__(self, piece: Any) -> Piece:
        """A piece of a draw -> what became of each of its rows."""
        draw: Draw = piece
        worker = get_worker_info()
        place = worker.id if worker is not None else 0
        found = []
        for row in draw.indices.tolist():
            if self.reading is not None:
                self.reading[place] = row
            found.append(self.one(draw, row))
        if self.reading is not None:
            self.reading[place] = -1
        return Piece.of(found)

    def one(self, draw: Draw, row: int) -> Result:
        """The same of one row."""
        ref = self.refs[row]
        try:
            image = images.decode(ref if isinstance(ref, Path) else ref.read(), windows=self.preprocess.windows)
        except (DataError, OSError) as error:
            return str(error)
        except Unreachable as error:
            return error  # as a value: from a process that decodes it would come with its traceback in its words
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


Decoded = tuple[Draw, list["Result"]]
"""A draw with the pixels, or the reason, for each of its rows."""


def _decoded(
    pairs: Pairs, preprocess: Preprocess, draws: Iterable[Draw], rules: AugmentRules | None, workers: int
) -> Iterator[Decoded]:
    rules = None if rules is None or changes_nothing(rules) else rules
    dataset = _Images(pairs.images, replace(preprocess, tokenizer=None), rules)
    return _by_workers(dataset, iter(draws), workers) if workers else _by_threads(dataset, draws)


def _by_threads(dataset: _Images, draws: Iterable[Draw]) -> Iterator[Decoded]:
    with readers(min(8, os.cpu_count() or 1)) as pool:
        for draw in draws:
            rows = draw.indices.tolist()

            def one(row: int, draw: Draw = draw) -> Result:
                return dataset.one(draw, row)

            yield draw, list(pool.map(one, rows, lambda row: str(dataset.refs[row])))


def _by_workers(dataset: _Images, draws: Iterator[Draw], workers: int) -> Iterator[Decoded]:
    """As `_by_threads`, by processes; a batch that they could not finish is begun again by new ones."""
    deaths = 0
    while deaths < DEATHS:
        sampler = _Pieces(draws, [])
        try:
            for found in _by_some_workers(dataset, sampler, workers):
                deaths = 0
                yield found
            return
        except _WorkerDied as death:
            draws, deaths = chain(sampler.seen, draws), deaths + 1
            say(f"{death}; others are started, and nothing is lost")
    say(f"decoding processes have ended {deaths} times in a row; threads decode from here on, with the same result")
    yield from _by_threads(dataset, draws)


class _WorkerDied(Exception):
    """A process that decodes has ended; the message says which and how."""


def _by_some_workers(dataset: _Images, sampler: _Pieces, workers: int) -> Iterator[Decoded]:
    """As `_by_workers`, until one of them dies; draws in `sampler.seen` have not been given."""
    reading = torch.full((workers,), -1, dtype=torch.int64).share_memory_()
    loader = DataLoader(
        replace(dataset, reading=reading),
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn",
        prefetch_factor=2,
        timeout=LOOK_S,
    )
    # torch's own handler would raise wherever the training is when a worker dies, in the middle of a save as well
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    iterator = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    watch = Watch()
    since: dict[tuple[int, int], float] = {}
    parts: list[Result] = []
    while True:
        try:
            part: Piece = next(iterator)  # in the sampler's order, whichever worker is done first
        except StopIteration:
            return
        except (OSError, EOFError, UnpicklingError) as error:  # it ended while it handed something over
            raise _WorkerDied(f"a process that decodes pictures has ended ({error})") from None
        except RuntimeError as error:
            if "exited unexpectedly" in str(error):
                raise _WorkerDied(f"a process that decodes pictures has ended ({error})") from None
            if "timed out" not in str(error):
                raise
            now = time.monotonic()
            rows = [(worker, row) for worker, row in enumerate(reading.tolist()) if row >= 0]
            since = {one: since.get(one, now) for one in rows}
            watch.look([(str(dataset.refs[row]), now - begun) for (_, row), begun in since.items()])
            continue
        parts += part.results()
        if len(parts) == len(sampler.seen[0].indices):
            yield sampler.seen.pop(0), parts
            parts = []
