"""What waits for the device: a queue a modality, from which the device takes what is there when it is free.

No batch waits for company: a batch is as large as what came in while the one before was computed (Triton's dynamic batcher
with a delay of zero). The oldest modality goes first. Of texts those alike in length go together, always with the oldest one.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from honeclip.serving.cache import Row

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")

LOOK_AHEAD = 4
"""Batches of texts among which those alike in length are looked for."""


@dataclass(eq=False)
class Item:
    """One image or text, ready for the device.

    Attributes:
        modality: which tower.
        rows: uint8 (1, 3, S, S), or tokens int64 (k, L) of the k windows of a text.
        future: of the event loop; done where nobody waits any more.
        turn: when it is due. The n-th item of a request is due as much later as the items before it take to compute, so
            that one large request does not hold up the small ones that come after it.
        length: tokens of the longest row that count; 0 for an image.
        queued: when it came, in seconds of `time.monotonic`.
    """

    modality: Modality
    rows: Tensor
    future: asyncio.Future[Row | Exception]
    turn: float
    length: int = 0
    queued: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Waiting:
    """What is in a queue: items, their rows, their bytes, and the age in seconds of the oldest (0 where there is none)."""

    items: int
    rows: int
    bytes: int
    oldest_s: float


class Queue:
    """Thread-safe; the event loop puts, the device's thread takes.

    Args:
        largest: most rows of a batch, by modality; may be changed while it runs.

    Attributes:
        dropped: items that nobody waited for any more when their turn came.
    """

    def __init__(self, largest: Mapping[Modality, int]) -> None:
        self.largest: dict[Modality, int] = dict(largest)
        self.dropped = 0
        self._heaps: dict[Modality, list[tuple[float, int, Item]]] = {one: [] for one in MODALITIES}
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, items: Iterable[Item]) -> None:
        """Adds items."""
        with self._changed:
            for item in items:
                heapq.heappush(self._heaps[item.modality], (item.turn, next(self._number), item))
            self._changed.notify()

    def take(self, wait_s: float) -> list[Item] | None:
        """The next batch, all of one modality: as soon as there is anything; [] after `wait_s` seconds without; None once
        it is closed and empty."""
        until = time.monotonic() + wait_s
        with self._changed:
            while True:
                self._drop()
                first = min((one for one in MODALITIES if self._heaps[one]), key=self._turn, default=None)
                if first is not None:
                    return self._batch(first)
                left = until - time.monotonic()
                if self._closed or left <= 0:
                    return None if self._closed else []
                self._changed.wait(left)

    def clear(self) -> list[Item]:
        """Takes everything out: a stuck device will not come for it."""
        with self._changed:
            out = [item for heap in self._heaps.values() for _, _, item in heap]
            for heap in self._heaps.values():
                heap.clear()
            return out

    def close(self) -> None:
        """`take` gives None once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def waiting(self, modality: Modality) -> Waiting:
        """What is there now, without the items that nobody waits for."""
        with self._changed:
            alive = [item for _, _, item in self._heaps[modality] if not item.future.done()]
        now = time.monotonic()
        return Waiting(
            items=len(alive),
            rows=sum(len(item.rows) for item in alive),
            bytes=sum(item.rows.nbytes for item in alive),
            oldest_s=max((now - item.queued for item in alive), default=0.0),
        )

    def _turn(self, modality: Modality) -> float:
        return self._heaps[modality][0][0]

    def _drop(self) -> None:
        for heap in self._heaps.values():
            while heap and heap[0][2].future.done():
                heapq.heappop(heap)
                self.dropped += 1

    def _batch(self, modality: Modality) -> list[Item]:
        heap, most = self._heaps[modality], self.largest[modality]
        seen: list[tuple[float, int, Item]] = []
        rows, enough = 0, most * (LOOK_AHEAD if modality == "text" else 1)
        while heap and rows < enough:
            entry = heapq.heappop(heap)
            if entry[2].future.done():
                self.dropped += 1
            else:
                seen.append(entry)
                rows += len(entry[2].rows)
        oldest, others = seen[0], sorted(seen[1:], key=lambda entry: abs(entry[2].length - seen[0][2].length))
        chosen, rows = [oldest[2]], len(oldest[2].rows)
        for entry in others:
            if rows + len(entry[2].rows) <= most:
                chosen.append(entry[2])
                rows += len(entry[2].rows)
            else:
                heapq.heappush(heap, entry)
        return chosen


def rows_of(items: Sequence[Item]) -> int:
    """Rows of several items."""
    return sum(len(item.rows) for item in items)
