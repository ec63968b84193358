"""Pictures decoded by threads ahead of the model, texts cut into batches of like length, and a model call that halves
its batch when memory runs out.

Pillow gives up the interpreter's lock while it decodes and resizes, so threads do that; only the calling thread
touches the device.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from honeclip.data.pairs import ImageRef
from honeclip.data.reading import readers
from honeclip.device.oom import is_out_of_memory
from honeclip.errors import DataError, MemoryExhausted
from honeclip.model import towers
from honeclip.model.clip import Clip
from honeclip.preprocess.preprocess import Preprocess
from honeclip.stepping.cost import ROWS, Lines, passing

THREADS = min(8, os.cpu_count() or 1)

_passing: WeakKeyDictionary[nn.Module, dict[tuple[tuple[int, ...], torch.dtype], Lines]] = WeakKeyDictionary()
"""What a forward of a model takes for rows of a shape, where it was measured."""

T = TypeVar("T")


def decoded(
    refs: Sequence[ImageRef], preprocess: Preprocess, batch_size: int
) -> Iterator[tuple[list[int], Tensor | None, dict[int, str]]]:
    """Decode in order, never more than two batches ahead.

    Yields:
        For each run of `batch_size` references: the numbers that could be decoded, their pixels uint8 (n, 3, H, W)
        (None where n is 0), and the reason for each number that could not.
    """

    def pixels(ref: ImageRef) -> Tensor:
        return preprocess.image(content(ref))

    for numbers, parts, bad in ahead(refs, pixels, batch_size):
        yield numbers, torch.stack(parts) if parts else None, bad


def ahead(
    refs: Sequence[ImageRef], work: Callable[[ImageRef], T], batch_size: int
) -> Iterator[tuple[list[int], list[T], dict[int, str]]]:
    """What `work` makes of each picture, in threads, in order, never more than two batches ahead.

    Args:
        refs: the pictures.
        work: decodes one; a DataError or OSError is the reason why that picture fails, alone.
        batch_size: references of a run.

    Yields:
        For each run: the numbers that went well, what became of them, and the reason for each number that failed.
    """

    def tried(ref: ImageRef) -> tuple[T | None, str]:
        try:
            return work(ref), ""
        except (DataError, OSError) as error:
            return None, str(error) or type(error).__name__

    with readers(THREADS) as pool:
        waiting: deque[Future[tuple[T | None, str]]] = deque()
        submitted = 0
        for start in range(0, len(refs), batch_size):
            while submitted < min(len(refs), start + 2 * batch_size):
                waiting.append(pool.submit(tried, refs[submitted], str(refs[submitted])))
                submitted += 1
            numbers = range(start, min(start + batch_size, len(refs)))
            results = [(number, *pool.result(waiting.popleft())) for number in numbers]
            good = [(number, made) for number, made, _ in results if made is not None]
            bad = {number: reason for number, made, reason in results if made is None}
            yield [number for number, _ in good], [made for _, made in good], bad


def content(ref: ImageRef) -> Path | bytes:
    """What a decoder takes: the path of a file, the bytes of a member of an archive."""
    return ref if isinstance(ref, Path) else ref.read()


def tokenised(clip: Clip, texts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Tokens of texts alike in length, so that little of a batch is padding.

    Yields:
        The numbers of at most `batch_size` texts and their tokens int64 (n, L), trimmed where the tower allows it.
    """
    tower = towers.text_tower(clip)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        yield numbers, towers.trim(tower, clip.preprocess.texts([texts[number] for number in numbers]))


def at_once(clip: Clip, run: Callable[[Tensor], Tensor], wanted: int, row: Tensor) -> int:
    """How many rows go through `run` at once: `wanted`, or as many as the model's room holds, halved from there.

    Args:
        clip: `room_bytes` is the bound; without one nothing is measured.
        run: the way through a tower; it is measured on tensors without numbers.
        wanted: rows.
        row: one row of the inputs, the longest there is.
    """
    if clip.room_bytes is None:
        return wanted
    known, kind = _passing.setdefault(clip.model, {}), (tuple(row.shape), row.dtype)
    if kind not in known:
        known[kind] = passing(run, row.unsqueeze(0).expand(max(ROWS), *row.shape).contiguous())
    lines = known[kind]
    waiting = 2 * row.nbytes  # the next rows are made ready meanwhile
    while wanted > 1 and lines(wanted) + wanted * waiting > clip.room_bytes:
        wanted //= 2
    return wanted


def blank(clip: Clip) -> Tensor:
    """An image as a tower takes it, uint8 (3, S, S), black."""
    return torch.zeros(3, clip.preprocess.size_px, clip.preprocess.size_px, dtype=torch.uint8)


def longest_text(clip: Clip) -> Tensor:
    """Tokens int64 (L,) of the greatest length that the model takes."""
    return torch.ones(clip.preprocess.context_length, dtype=torch.int64)


def halving(clip: Clip, run: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """`run(batch)` on the CPU, in halves (and halves of those) when the device has no room for the whole.

    Raises:
        MemoryExhausted: a single row does not fit.
    """
    try:
        return run(batch).float().cpu()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = next(iter(str(error).splitlines()), type(error).__name__)  # Python's MemoryError says nothing
    if len(batch) == 1:
        raise MemoryExhausted(f"one row of shape {tuple(batch.shape[1:])} does not fit into memory: {message}")
    clip.device.empty_cache()  # outside the except block, whose traceback holds the tensors of the failed call
    middle = len(batch) // 2
    return torch.cat([halving(clip, run, batch[:middle]), halving(clip, run, batch[middle:])])
