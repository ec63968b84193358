"""Rows in Redis, which is never waited for longer than a moment and never believed.

A value is the number of floats (uint32), a keyed hash of 16 bytes, and the floats, all little-endian. The hash is made with the
key, so that a row that was cut, changed or stored (or answered) under another key is no row. Where Redis fails or does not
answer in time it is left alone for a while: one request pays for a time-out, the next ones go on without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from honeclip.errors import BadInput

Row = NDArray[np.float32]
T = TypeVar("T")

PREFIX = b"honeclip:1:"
"""Of every key; another format of values gets another number."""

TIMEOUT_S = 0.25
"""For connecting, and for one command; a Redis on the same machine answers in a thousandth of it."""

RETRY_S = 5.0
"""For so long a Redis that failed is not asked again."""

AT_ONCE = 256
"""Keys of one command."""

_HASH_BYTES = 16
_COUNT = struct.Struct("<I")

log = logging.getLogger(__name__)


class Remote:
    """Rows by key, in Redis.

    Args:
        url: redis://, rediss:// or unix://.
        ttl_s: seconds after which Redis forgets a row.
        clock: seconds, never going back.

    Raises:
        BadInput: no such address.
    """

    def __init__(self, url: str, ttl_s: float, clock: Callable[[], float]) -> None:
        from redis.asyncio import Redis  # here, for a server without a cache in Redis needs none of it
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            self._redis: Any = Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:
            # without the address: there may be a password in it
            raise BadInput(
                "the address of the cache is none of Redis: give redis://HOST:PORT, rediss://HOST:PORT or unix://PATH"
            ) from None
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._clock = clock
        self._left_alone_until_s = float("-inf")
        self.state: Literal["up", "down"] = "down"

    async def ping(self) -> None:
        """Sets `state`."""
        await self._asked(self._redis.ping)

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that are there and whole."""
        found: dict[bytes, Row] = {}
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            values = await self._asked(partial(self._redis.mget, [_name(one) for one in some]))
            for one, value in zip(some, values or (), strict=False):
                row = None if value is None else unpacked(one, value)
                if row is not None:
                    found[one] = row
        return found

    async def put(self, rows: Mapping[bytes, Row]) -> None:
        """Stores rows, or does not."""
        every = list(rows.items())
        for start in range(0, len(every), AT_ONCE):
            some = self._redis.pipeline(transaction=False)
            for one, row in every[start : start + AT_ONCE]:
                some.set(_name(one), packed(one, row), px=self._ttl_ms)
            await self._asked(some.execute)

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def _asked(self, command: Callable[[], Awaitable[T]]) -> T | None:
        """What Redis answers; None where it fails, does not answer in time, or is left alone."""
        from redis.exceptions import RedisError, ResponseError

        now = self._clock()
        if now < self._left_alone_until_s:
            return None
        was = self.state
        if was == "down":
            self._left_alone_until_s = now + RETRY_S  # one request finds out; those beside it do not wait as well
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await command()
        except ResponseError as error:  # it is there and refuses: out of memory, read-only
            log.warning("Redis refuses: %s", error)
            answer = None
        except (RedisError, OSError, TimeoutError) as error:
            self.state, self._left_alone_until_s = "down", self._clock() + RETRY_S
            if was == "up":
                log.warning(
                    "Redis does not answer (%s): memory alone, tried again in %g s", type(error).__name__, RETRY_S
                )
            return None
        if was == "down":
            log.info("Redis answers")
        self.state, self._left_alone_until_s = "up", float("-inf")
        return answer


def packed(key: bytes, row: Row) -> bytes:
    """A row as a value of Redis."""
    floats = np.ascontiguousarray(row, dtype="<f4").tobytes()
    return _COUNT.pack(len(floats) // 4) + _hash(key, floats) + floats


def unpacked(key: bytes, value: bytes) -> Row | None:
    """The row of a value, read-only; None where it is damaged or was stored for another key."""
    start = _COUNT.size + _HASH_BYTES
    floats = value[start:]
    if len(value) <= start or 4 * _COUNT.unpack_from(value)[0] != len(floats):
        return None
    if value[_COUNT.size : start] != _hash(key, floats):
        return None
    return np.frombuffer(floats, dtype="<f4").astype(np.float32, copy=False)


def _hash(key: bytes, floats: bytes) -> bytes:
    return hashlib.blake2b(floats, digest_size=_HASH_BYTES, key=key).digest()


def _name(key: bytes) -> bytes:
    return PREFIX + key.hex().encode()
