"""Embeddings that were computed before, and those that are being computed right now.

A key is the SHA-256 of the content and of everything that decides the embedding, so that a hit is never wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Row: TypeAlias = NDArray[np.float32]
ROW_OVERHEAD = 200


def key(modality: Literal["image", "text"], content: bytes, model: str, preprocess: str, precision: str) -> bytes:
    """SHA-256 (32 bytes) of an input and of all that decides its embedding."""
    digest = hashlib.sha256()
    for part in (modality, model, preprocess, precision):
        digest.update(len(part).to_bytes(4, "little") + part.encode())
    digest.update(content)
    return digest.digest()


@dataclass(frozen=True)
class CacheStats:
    """What is in a cache, and whether the shared one answers."""

    entries: int
    bytes: int
    remote: Literal["off", "up", "down"]


@dataclass(frozen=True)
class Counts:
    """Of one call: found, computed, and awaited from another call."""

    hit: int
    miss: int
    coalesced: int


class Cache:
    """In memory, bounded by bytes and age."""

    def __init__(self, max_bytes: int, ttl_s: float, url: str | None = None) -> None:
        self._max, self._ttl = max_bytes, ttl_s
        self._rows: OrderedDict[bytes, tuple[float, Row]] = OrderedDict()
        self._bytes = 0

    async def get(self, keys: Sequence[bytes]) -> list[Row | None]:
        """The embedding of each key; None where there is none."""
        return [self._get(one) for one in keys]

    async def put(self, rows: Mapping[bytes, Row]) -> None:
        """Keeps embeddings."""
        for one, row in rows.items():
            self._drop(one)
            self._rows[one] = (time.monotonic() + self._ttl, row)
            self._bytes += row.nbytes + ROW_OVERHEAD
        while self._rows and self._bytes > self._max:
            self._drop(next(iter(self._rows)))

    def stats(self) -> CacheStats:
        """What is there now."""
        return CacheStats(len(self._rows), self._bytes, "off")

    async def close(self) -> None:
        """Forgets everything."""
        self._rows.clear()

    def _get(self, one: bytes) -> Row | None:
        found = self._rows.get(one)
        if found is None:
            return None
        if found[0] < time.monotonic():
            self._drop(one)
            return None
        self._rows.move_to_end(one)
        return found[1]

    def _drop(self, one: bytes) -> None:
        found = self._rows.pop(one, None)
        if found is not None:
            self._bytes -= found[1].nbytes + ROW_OVERHEAD


class Flights:
    """Equal inputs in progress are computed once."""

    def __init__(self) -> None:
        self._flying: dict[bytes, asyncio.Future[Row | Exception | None]] = {}

    async def embedded(
        self,
        cache: Cache,
        keys: Sequence[bytes],
        compute: Callable[[Sequence[int]], Awaitable[Sequence[Row | Exception]]],
    ) -> tuple[list[Row | Exception], Counts]:
        """An embedding, or what went wrong, for every key."""
        found: list[Row | Exception | None] = [*await cache.get(keys)]
        hit = sum(one is not None for one in found)
        miss = coalesced = 0
        while True:
            open_ = [place for place, one in enumerate(found) if one is None]
            if not open_:
                return [one for one in found if one is not None], Counts(hit, miss, coalesced)
            mine: dict[bytes, int] = {}
            theirs: list[int] = []
            for place in open_:
                if keys[place] in self._flying:
                    theirs.append(place)
                else:
                    mine.setdefault(keys[place], place)
            if mine:
                miss += len(mine)
                coalesced += len(open_) - len(mine) - len(theirs)
                results = await self._lead(cache, mine, compute)
                for place in open_:
                    if keys[place] in results:
                        found[place] = results[keys[place]]
            else:
                coalesced += len(theirs)
            for place in theirs:
                flight = self._flying.get(keys[place])
                if flight is not None:
                    found[place] = await asyncio.shield(flight)
                else:
                    (found[place],) = await cache.get([keys[place]])

    async def _lead(
        self,
        cache: Cache,
        mine: Mapping[bytes, int],
        compute: Callable[[Sequence[int]], Awaitable[Sequence[Row | Exception]]],
    ) -> dict[bytes, Row | Exception]:
        loop = asyncio.get_running_loop()
        for one in mine:
            self._flying[one] = loop.create_future()
        done: dict[bytes, Row | Exception] = {}
        try:
            made = await compute(list(mine.values()))
            done = dict(zip(mine, made, strict=True))
            await cache.put({one: row for one, row in done.items() if not isinstance(row, Exception)})
            return done
        finally:
            for one in mine:
                self._flying.pop(one).set_result(done.get(one))
