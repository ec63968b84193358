"""Which rows make each batch: a pure function of its arguments, so a run can be picked up at any step.

The rows form one endless stream of epochs, each a permutation; a batch is the next stretch of it, so no row is dropped
at an epoch's end. Where a batch crosses from one epoch into the next, rows of its first part that the new permutation
would repeat at once are moved behind the batch. Workers that know a Draw need nothing else.

Near misses change what stands together, not when an epoch ends: the batches that lie within one epoch share its rows
out anew, and the one that crosses into the next stays as it was drawn. So the draws of an epoch depend on the near misses
of that epoch alone, each row still comes once an epoch, and a start at any step needs no other epoch's near misses.

Rows that lie in shards behind an address can be drawn by blocks: a few shards, other ones in each epoch, whose rows are mixed
with each other before the next few begin. So reads of a while are near each other, and a cache on this machine need hold only
those shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from honeclip.errors import DataError

BLOCK_SHARDS, BLOCK_BATCHES = 8, 16
"""A block is as many shards as hold this many batches, and at least this many shards: what a batch is contrasted with comes
from several, and which rows meet is another matter in each epoch."""


@dataclass(frozen=True, eq=False)
class Draw:
    """A batch before anything of it was decoded.

    Attributes:
        step: 0-based optimizer step.
        indices: (B,) int64, rows of the train pairs, no one twice.
        size_px: side of the images.
        strength: of augmentation, 0 none, 1 as the domain says.
        seed: of everything random in it, together with `step` and the row.
    """

    step: int
    indices: NDArray[np.int64]
    size_px: int
    strength: float
    seed: int


def order(
    rows: int,
    batch: int,
    seed: int,
    start_step: int = 0,
    *,
    size_px: int = 224,
    strength: float = 1.0,
    stretch: int = 0,
    since: int = 0,
    neighbours: NDArray[np.int64] | None = None,
    shards: NDArray[np.int64] | None = None,
) -> Iterator[Draw]:
    """The draws from `start_step` on, without end.

    Args:
        rows: rows of the train pairs.
        batch: effective batch, at most `rows`.
        seed: decides every permutation.
        start_step: the first step wanted; the draws are those that a start at 0 gives from there on.
        size_px: side of the images, handed on.
        strength: of augmentation, handed on.
        stretch: number of the stretch of steps with this batch, where the batch grows; each has permutations of its own.
        since: the first step of that stretch, at most `start_step`.
        neighbours: (rows, k) the near misses of each row, best first; -1 is none. They are put into the row's batch. Other
            ones for another epoch: a new call with the first step that lies within it, ceil(epoch * rows / batch) after
            `since`, goes on where the draws of the call before are left.
        shards: (rows,) the shard of each row as a number from 0; rows are then mixed within blocks of shards.

    Raises:
        DataError: there are no rows, or fewer than a batch; neighbours that are no rows.
    """
    if rows < 1:
        raise DataError("there are no rows to train on: the train split is empty")
    if not 1 <= batch <= rows:
        raise DataError(f"a batch of {batch} cannot be drawn from {rows} rows; train.batch is between 1 and {rows}")
    if neighbours is not None:
        _check_neighbours(neighbours, rows)
    if shards is not None and (shards.shape != (rows,) or shards.min() < 0):
        raise DataError(f"shards of shape {shards.shape}: a number from 0 for each of the {rows} rows")
    draws = _draws(rows, batch, (seed, stretch) if stretch else (seed,), start_step - since, neighbours, shards)
    return (Draw(since + step, indices, size_px, strength, seed) for step, indices in draws)


def by_length(draws: Iterator[Draw], lengths: NDArray[np.int64]) -> Iterator[Draw]:
    """The same draws with the rows of each in the order of their captions' lengths, so that texts of one micro-batch are
    of a length. The contrastive loss does not mind the order, and it does not depend on how a step is cut.

    Args:
        draws: from `order`.
        lengths: (rows,) tokens of each caption.
    """
    return (replace(one, indices=one.indices[np.argsort(lengths[one.indices], kind="stable")]) for one in draws)


def _draws(
    rows: int,
    batch: int,
    seed: tuple[int, ...],
    start_step: int,
    neighbours: NDArray[np.int64] | None,
    shards: NDArray[np.int64] | None,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    epoch, place = divmod(start_step * batch, rows)
    epochs = _epochs(rows, batch, seed, epoch, shards)
    if neighbours is not None:
        epochs = (_regrouped(one, batch, number, neighbours) for number, one in enumerate(epochs, epoch))
    current = next(epochs)
    step = start_step
    while True:
        indices = current[place : place + batch]
        place += batch
        if place >= rows:
            current = next(epochs)
            place -= rows
            indices = np.concatenate([indices, current[:place]])
        yield step, indices
        step += 1


def _epochs(
    rows: int, batch: int, seed: tuple[int, ...], first: int, shards: NDArray[np.int64] | None
) -> Iterator[NDArray[np.int64]]:
    """The permutations of epochs `first`, `first` + 1, ...

    What an epoch moves lies within its first `batch` rows, so with two batches in an epoch its last rows are as drawn,
    and the epoch before is all that must be known. With fewer rows the chain is followed from the start: it is short.
    """

    def drawn(epoch: int) -> NDArray[np.int64]:
        return _permutation(rows, seed, epoch) if shards is None else _by_blocks(shards, batch, seed, epoch)

    known = max(0, first - 1) if rows >= 2 * batch else 0
    previous = drawn(known)
    if known == first:
        yield previous
    for epoch in range(known + 1, 2**62):
        tail = epoch * rows % batch  # rows of the crossing batch that belong to the epoch before
        current = drawn(epoch)
        if tail:
            current = _without_repeats(current, previous[rows - tail :], batch - tail)
        if epoch >= first:
            yield current
        previous = current


def _permutation(rows: int, seed: tuple[int, ...], epoch: int) -> NDArray[np.int64]:
    """A permutation from raw Philox words: numpy promises those for ever, `Generator.permutation` it may change."""
    return np.argsort(_words(rows, seed, epoch), kind="stable").astype(np.int64)


def _words(count: int, seed: tuple[int, ...], epoch: int) -> NDArray[np.uint64]:
    return np.random.Philox(np.random.SeedSequence([*seed, epoch])).random_raw(count)


def _by_blocks(shards: NDArray[np.int64], batch: int, seed: tuple[int, ...], epoch: int) -> NDArray[np.int64]:
    """A permutation of shards cut into blocks, and within each block one of its rows."""
    sizes = np.bincount(shards)
    words = _words(len(sizes) + len(shards), seed, epoch)
    block_of = np.zeros(len(sizes), dtype=np.int64)
    block, held, rows = 0, 0, 0
    for shard in np.argsort(words[: len(sizes)], kind="stable").tolist():
        block_of[shard] = block
        held, rows = held + 1, rows + int(sizes[shard])
        if held >= BLOCK_SHARDS and rows >= BLOCK_BATCHES * batch:
            block, held, rows = block + 1, 0, 0
    if block and rows:
        block_of[block_of == block] = block - 1  # what is left over is too little to be mixed by itself
    return np.lexsort((words[len(sizes) :], block_of[shards])).astype(np.int64)


def _without_repeats(current: NDArray[np.int64], tail: NDArray[np.int64], head: int) -> NDArray[np.int64]:
    """Swap what the first `head` rows share with `tail` for the next rows that are not in it."""
    repeats = np.isin(current, tail)
    taken = np.flatnonzero(repeats[:head])
    free = head + np.flatnonzero(~repeats[head:])[: len(taken)]
    out = current.copy()
    out[taken], out[free] = current[free], current[taken]
    return out


def _regrouped(
    permutation: NDArray[np.int64], batch: int, epoch: int, neighbours: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The same rows, those of whole batches shared out so that near misses stand together.

    Each batch takes the next row of the permutation that is not placed yet, then that row's neighbours that are not, and
    again until it is full. Neighbours for which it has no room keep their place in the permutation.
    """
    rows = len(permutation)
    head = -epoch * rows % batch  # rows at the start that complete the batch which crosses into this epoch
    stop = rows - (epoch + 1) * rows % batch
    waiting = np.zeros(rows, dtype=np.bool_)
    waiting[permutation[head:stop]] = True
    placed: list[int] = []
    for row in permutation[head:stop].tolist():
        if not waiting[row]:
            continue
        waiting[row] = False
        placed.append(row)
        for near in neighbours[row].tolist():
            if len(placed) % batch == 0:
                break
            if near >= 0 and waiting[near]:
                waiting[near] = False
                placed.append(near)
    out = permutation.copy()
    out[head:stop] = placed
    return out


def _check_neighbours(neighbours: NDArray[np.int64], rows: int) -> None:
    if neighbours.ndim != 2 or len(neighbours) != rows or neighbours.dtype.kind != "i":
        raise DataError(
            f"neighbours of shape {neighbours.shape} and type {neighbours.dtype}: near misses are whole numbers, "
            f"one line for each of the {rows} rows"
        )
    if neighbours.size and not -1 <= neighbours.min() <= neighbours.max() < rows:
        raise DataError(
            f"neighbours from {neighbours.min()} to {neighbours.max()}: near misses are rows 0 to {rows - 1}, or -1 for none"
        )
