"""Rows by key: memory within its bounds, and a real Redis that is killed, held still, filled and damaged."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis_server import running

from honeclip.errors import BadInput
from honeclip.serving import remote
from honeclip.serving.cache import ENTRY_BYTES, Cache, CacheStats, key

DIM = 8
SIZE = 4 * DIM + ENTRY_BYTES


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def redis(tmp_path):
    yield from running(tmp_path)


def name(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def row(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=DIM).astype(np.float32)


def rows(*numbers: int) -> dict[bytes, np.ndarray]:
    return {name(number): row(number) for number in numbers}


def numbers_in(found) -> list[bool]:
    return [one is not None for one in found]


def same(found, *numbers: int) -> bool:
    return len(found) == len(numbers) and all(
        one is not None and one.dtype == np.float32 and np.array_equal(one, row(number))
        for one, number in zip(found, numbers, strict=True)
    )


# --- keys ------------------------------------------------------------------------------------------------------------

parts = st.tuples(st.sampled_from(["image", "text"]), st.binary(max_size=6), *[st.text("ab:", max_size=4)] * 3)


@given(parts, parts)
def test_other_parts_have_another_key(first, second):
    assert (key(*first) == key(*second)) == (first == second)
    assert len(key(*first)) == 32


def test_where_one_part_ends_and_the_next_begins_is_in_the_key():
    assert key("text", b"c", "ab", "", "fp32") != key("text", b"c", "a", "b", "fp32")
    assert key("text", b"32c", "m", "p", "fp") != key("text", b"c", "m", "p", "fp32")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_what_was_used_last_stays_within_the_bound(clock):
    async def play():
        cache = Cache(3 * SIZE, 60, clock=clock)
        await cache.put(rows(1, 2, 3))
        assert same(await cache.get([name(1)]), 1)
        await cache.put(rows(4))
        assert numbers_in(await cache.get([name(one) for one in (1, 2, 3, 4)])) == [True, False, True, True]
        assert cache.stats() == CacheStats(3, 3 * SIZE, "off")
        await cache.put(rows(3))
        assert cache.stats().bytes == 3 * SIZE, "stored again is not counted again"

    asyncio.run(play())


def test_bytes_are_bounded_whatever_the_rows(clock):
    async def play():
        cache = Cache(10_000, 60, clock=clock)
        for number in range(200):
            await cache.put({name(number): np.ones(number * 16, np.float32)})
            assert cache.stats().bytes <= 10_000
            assert cache.stats().entries > 0

    asyncio.run(play())


def test_a_row_that_is_too_large_pushes_nothing_out(clock):
    async def play():
        cache = Cache(2 * SIZE, 60, clock=clock)
        await cache.put(rows(1, 2))
        await cache.put({name(3): np.ones(1000, np.float32)})
        assert same(await cache.get([name(1), name(2)]), 1, 2)

    asyncio.run(play())


def test_a_row_lives_as_long_as_it_was_given(clock):
    async def play():
        cache = Cache(10 * SIZE, 60, clock=clock)
        await cache.put(rows(1))
        clock.now += 59
        assert same(await cache.get([name(1)]), 1)
        clock.now += 1
        assert await cache.get([name(1)]) == [None]
        assert cache.stats() == CacheStats(0, 0, "off")

    asyncio.run(play())


def test_nobody_can_change_what_is_kept(clock):
    async def play():
        cache, given = Cache(10 * SIZE, 60, clock=clock), row(1)
        await cache.put({name(1): given})
        given[:] = 0
        (found,) = await cache.get([name(1)])
        assert same([found], 1)
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 7

    asyncio.run(play())


def test_what_is_no_number_is_not_kept(clock):
    async def play():
        cache = Cache(10 * SIZE, 60, clock=clock)
        await cache.put({name(1): np.full(DIM, np.nan, np.float32), **rows(2)})
        assert numbers_in(await cache.get([name(1), name(2)])) == [False, True]

    asyncio.run(play())


@pytest.mark.parametrize(("size", "ttl"), [(-1, 60), (100, 0), (100, float("nan"))])
def test_bounds_that_cannot_be(size, ttl):
    with pytest.raises(BadInput, match="bytes are 0 or more"):
        Cache(size, ttl)


# --- Redis -----------------------------------------------------------------------------------------------------------


def test_several_servers_share_what_one_computed(redis, clock):
    async def play():
        first, second = Cache(10 * SIZE, 60, redis.url, clock=clock), Cache(10 * SIZE, 60, redis.url, clock=clock)
        assert first.stats().remote == "down", "nobody has asked yet"
        await first.connect()
        assert first.stats().remote == "up"
        await first.put(rows(*range(600)))
        found = await second.get([name(number) for number in range(601)])
        assert same(found[:600], *range(600))
        assert found[600] is None
        redis.kill()
        assert same(await second.get([name(599)]), 599), "and keeps it in its own memory"
        await first.close()
        await second.close()

    asyncio.run(play())


def test_redis_forgets_as_memory_does(redis, clock):
    async def play():
        cache = Cache(0, 60, redis.url, clock=clock)
        await cache.put(rows(1))
        assert same(await cache.get([name(1)]), 1), "without memory it comes from there each time"
        with Redis.from_url(redis.url) as plain:
            (stored,) = plain.keys()
            assert stored == b"honeclip:1:" + name(1).hex().encode()
            assert 50_000 < plain.pttl(stored) <= 60_000
            assert plain.get(stored)[-4 * DIM :] == row(1).astype("<f4").tobytes()
        await cache.close()

    asyncio.run(play())


def test_killed_in_the_middle_it_is_slower_and_never_wrong(redis, clock, caplog):
    async def play():
        cache = Cache(10 * SIZE, 600, redis.url, clock=clock)
        await cache.put(rows(1))
        redis.kill()
        await cache.put(rows(2))
        assert same(await cache.get([name(1), name(2)]), 1, 2), "from memory"
        assert await cache.get([name(3)]) == [None]
        assert cache.stats().remote == "down"
        redis.start()
        assert await cache.get([name(3)]) == [None]
        assert cache.stats().remote == "down", "it is left alone for a while"
        clock.now += remote.RETRY_S
        await cache.put(rows(4))
        assert cache.stats().remote == "up"
        other = Cache(0, 600, redis.url, clock=clock)
        assert numbers_in(await other.get([name(2), name(4)])) == [False, True], (
            "what came while it was gone is not there"
        )
        await cache.close()
        await other.close()

    asyncio.run(play())
    assert sum("Redis does not answer" in record.message for record in caplog.records) == 1


def test_one_that_hangs_costs_one_time_out(redis, clock):
    async def play():
        cache = Cache(0, 600, redis.url, clock=clock)
        await cache.put(rows(*range(8)))
        redis.send(signal.SIGSTOP)
        assert await cache.get([name(1)]) == [None]
        assert cache.stats().remote == "down"
        redis.send(signal.SIGCONT)
        assert await cache.get([name(2)]) == [None], "not asked"
        clock.now += remote.RETRY_S
        # the late answer to the first question must not be taken for that to another
        assert same(await cache.get([name(number) for number in range(8)]), *range(8))
        await cache.close()

    asyncio.run(play())


def test_a_server_that_is_not_there_at_the_start_is_no_fault(redis, clock):
    redis.kill()

    async def play():
        cache = Cache(10 * SIZE, 600, redis.url, clock=clock)
        await cache.put(rows(1))
        assert same(await cache.get([name(1)]), 1)
        assert cache.stats().remote == "down"
        await cache.close()

    asyncio.run(play())


def test_a_damaged_value_is_a_miss(redis, clock):
    async def play():
        writer = Cache(0, 600, redis.url, clock=clock)
        await writer.put(rows(*range(7)))
        with Redis.from_url(redis.url) as plain:
            stored = [b"honeclip:1:" + name(number).hex().encode() for number in range(7)]
            whole = [plain.get(one) for one in stored]
            plain.set(stored[0], whole[0][:-4])  # cut
            plain.set(stored[1], whole[1][:-1] + bytes([whole[1][-1] ^ 1]))  # one bit
            plain.set(stored[2], whole[3])  # of another key
            plain.set(stored[4], b"")
            plain.set(stored[5], whole[5] + b"\0\0\0\0")
            plain.delete(stored[6])
            plain.lpush(stored[6], "a list")
        assert numbers_in(await writer.get([name(number) for number in range(7)])) == [*[False] * 3, True, *[False] * 3]
        assert writer.stats().remote == "up"
        await writer.put(rows(0))
        assert same(await writer.get([name(0)]), 0), "and is mended"
        await writer.close()

    asyncio.run(play())


def test_a_redis_that_is_full_can_still_be_read(redis, clock):
    async def play():
        cache = Cache(0, 600, redis.url, clock=clock)
        await cache.put(rows(1))
        with Redis.from_url(redis.url) as plain:
            plain.config_set("maxmemory", "1")
        await cache.put(rows(2))
        assert numbers_in(await cache.get([name(1), name(2)])) == [True, False]
        assert cache.stats().remote == "up"
        await cache.close()

    asyncio.run(play())


@pytest.mark.parametrize("length", range(0, 28))
def test_any_number_of_bytes_is_judged(length):
    assert remote.unpacked(name(1), bytes(length)) is None


def test_any_flipped_bit_is_found():
    whole = remote.packed(name(1), row(1))
    assert same([remote.unpacked(name(1), whole)], 1)
    for place, bit in itertools.product(range(len(whole)), range(8)):
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        assert remote.unpacked(name(1), bytes(changed)) is None


@pytest.mark.parametrize("url", ["http://:secret@host", "localhost:6379"])
def test_an_address_that_is_none_is_refused_without_being_repeated(url):
    with pytest.raises(BadInput, match="redis://HOST:PORT") as error:
        Cache(100, 60, url)
    assert "secret" not in str(error.value)
