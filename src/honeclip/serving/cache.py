"""Embeddings that were computed before: in memory, and in Redis where several servers share them or they outlive a restart.

A row is found by the hash of everything that decides it (`key`), so there is nothing to invalidate: another model, another
preprocessing or another precision has other keys. Memory holds what was used last, within a bound of bytes and a time to live.
`remote` is Redis, which may be slow, gone or full of damage: then the rows come from memory or are computed, never wrong.
`flights` sees to it that what several requests want at once is computed once.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from honeclip.errors import BadInput
from honeclip.serving.flights import Counts, Flights, frozen
from honeclip.serving.remote import Remote

__all__ = ["ENTRY_BYTES", "Cache", "CacheStats", "Counts", "Flights", "key"]

Row = NDArray[np.float32]

ENTRY_BYTES = 384
"""What Python keeps of an entry besides the numbers: key, array object, place in the table. Counted with them."""


def key(modality: Literal["image", "text"], content: bytes, model: str, preprocess: str, precision: str) -> bytes:
    """SHA-256, 32 bytes, of all that decides an embedding.

    Args:
        modality: of the content.
        content: the bytes of an image file, or the UTF-8 of a text as it goes to the tokenizer.
        model: fingerprint of the weights.
        preprocess: fingerprint of what is done to images or texts before the model.
        precision: as in "fp32".
    """
    digest = hashlib.sha256(b"honeclip:1")
    for part in (modality.encode(), model.encode(), preprocess.encode(), precision.encode(), content):
        digest.update(len(part).to_bytes(8, "little"))  # so that no two lists of parts give the same bytes
        digest.update(part)
    return digest.digest()


@dataclass(frozen=True)
class CacheStats:
    """What there is at the moment.

    Attributes:
        entries: rows in memory.
        bytes: of them, `ENTRY_BYTES` each included.
        remote: "off": there is no Redis; "up": it answered when it was last asked; "down": it did not, or was not asked yet.
    """

    entries: int
    bytes: int
    remote: Literal["off", "up", "down"]


class Cache:
    """Rows by key. To be used from one event loop.

    Args:
        max_bytes: of memory; 0 keeps nothing in memory.
        ttl_s: seconds after which a row is forgotten (in memory that came from Redis: after it was read).
        url: of Redis: redis://, rediss:// or unix://; None uses memory alone.
        clock: seconds, never going back.

    Raises:
        BadInput: a bound that cannot be, or no address of Redis.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float, url: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_bytes < 0 or not ttl_s > 0:
            raise BadInput(
                f"a cache of {max_bytes} bytes and {ttl_s:g} s: bytes are 0 or more, and seconds more than 0"
            )
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._rows: OrderedDict[bytes, tuple[float, Row]] = OrderedDict()  # the one that was used last is the last
        self._bytes = 0
        self._remote = Remote(url, ttl_s, clock) if url else None

    async def connect(self) -> None:
        """Asks Redis whether it is there, for `stats`; nothing depends on it."""
        if self._remote:
            await self._remote.ping()

    async def get(self, keys: Sequence[bytes]) -> list[Row | None]:
        """The row of each key, read-only; None where it is not known."""
        found = [self._recall(one) for one in keys]
        missing = list(dict.fromkeys(one for one, row in zip(keys, found, strict=True) if row is None))
        if not missing or self._remote is None:
            return found
        fetched = await self._remote.get(missing)
        for one, row in fetched.items():
            self._keep(one, row)
        return [fetched.get(one) if row is None else row for one, row in zip(keys, found, strict=True)]

    async def put(self, rows: Mapping[bytes, Row]) -> None:
        """Keeps rows: in memory at once, in Redis when this returns. Rows that are not finite are not kept."""
        good = {one: frozen(row) for one, row in rows.items() if np.isfinite(row).all()}
        for one, row in good.items():
            self._keep(one, row)
        if good and self._remote:
            await self._remote.put(good)

    def stats(self) -> CacheStats:
        """Figures for /health and /metrics."""
        remote: Literal["off", "up", "down"] = "off" if self._remote is None else self._remote.state
        return CacheStats(len(self._rows), self._bytes, remote)

    async def close(self) -> None:
        """Leaves Redis."""
        if self._remote:
            await self._remote.close()

    def _recall(self, one: bytes) -> Row | None:
        entry = self._rows.get(one)
        if entry is None:
            return None
        until_s, row = entry
        if self._clock() >= until_s:
            self._forget(one)
            return None
        self._rows.move_to_end(one)
        return row

    def _keep(self, one: bytes, row: Row) -> None:
        if one in self._rows:
            self._forget(one)
        if _size(row) > self._max_bytes:
            return
        self._rows[one] = (self._clock() + self._ttl_s, row)
        self._bytes += _size(row)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._rows)))

    def _forget(self, one: bytes) -> None:
        self._bytes -= _size(self._rows.pop(one)[1])


def _size(row: Row) -> int:
    return row.nbytes + ENTRY_BYTES
