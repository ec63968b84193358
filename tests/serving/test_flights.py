"""Equal items of requests at the same time: computed once, whoever leaves and whatever fails."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest

from honeclip.serving.cache import Cache, Counts, Flights


def name(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


def row(word: str) -> np.ndarray:
    return np.frombuffer(name(word), np.uint8).astype(np.float32)


class Model:
    """What is asked of it is noted; an answer waits until `free` is set."""

    def __init__(self, *, free: bool = True) -> None:
        self.asked: list[list[str]] = []
        self.began = asyncio.Event()
        self.free = asyncio.Event()
        self.faults: dict[str, Exception] = {}
        if free:
            self.free.set()

    def of(self, words):
        async def compute(places):
            chosen = [words[place] for place in places]
            self.asked.append(chosen)
            self.began.set()
            await self.free.wait()
            return [self.faults.get(word, row(word)) for word in chosen]

        return compute


@pytest.fixture
def cache():
    return Cache(1_000_000, 60)


async def ask(flights, cache, model, *words):
    return await flights.embedded(cache, [name(word) for word in words], model.of(words))


async def turns():
    """Lets every other task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def same(found, *words) -> bool:
    return all(np.array_equal(one, row(word)) for one, word in zip(found, words, strict=True))


def test_each_distinct_item_is_computed_once_and_then_known(cache):
    async def play():
        flights, model = Flights(), Model()
        found, counts = await ask(flights, cache, model, "a", "b", "a", "a")
        assert same(found, "a", "b", "a", "a")
        assert (model.asked, counts) == ([["a", "b"]], Counts(hit=0, miss=2, coalesced=2))
        found, counts = await ask(flights, cache, model, "c", "a", "b", "a")
        assert same(found, "c", "a", "b", "a")
        assert (model.asked[1:], counts) == ([["c"]], Counts(hit=3, miss=1, coalesced=0))
        assert (await ask(flights, cache, model))[1] == Counts(0, 0, 0)

    asyncio.run(play())


def test_32_equal_requests_at_once_are_one_computation(cache):
    async def play():
        flights, model = Flights(), Model(free=False)
        tasks = [asyncio.create_task(ask(flights, cache, model, "a", "b")) for _ in range(32)]
        await turns()
        model.free.set()
        answers = await asyncio.gather(*tasks)
        assert model.asked == [["a", "b"]]
        assert all(same(found, "a", "b") for found, _ in answers)
        counts = [one for _, one in answers]
        assert (sum(one.miss for one in counts), sum(one.coalesced for one in counts)) == (2, 62)

    asyncio.run(play())


def test_requests_that_overlap_wait_for_each_other_without_a_knot(cache):
    async def play():
        flights, model = Flights(), Model(free=False)
        first = asyncio.create_task(ask(flights, cache, model, "a", "b"))
        second = asyncio.create_task(ask(flights, cache, model, "c", "b", "a"))
        third = asyncio.create_task(ask(flights, cache, model, "b", "c", "d"))
        await turns()
        model.free.set()
        answers = await asyncio.gather(first, second, third)
        assert model.asked == [["a", "b"], ["c"], ["d"]]
        assert [one for _, one in answers] == [Counts(0, 2, 0), Counts(0, 1, 2), Counts(0, 1, 2)]
        assert same(answers[2][0], "b", "c", "d")

    asyncio.run(play())


def test_one_item_that_fails_fails_alone_for_all_who_wait_and_is_not_kept(cache):
    async def play():
        flights, model = Flights(), Model(free=False)
        model.faults["bad"] = ValueError("cannot be decoded")
        tasks = [asyncio.create_task(ask(flights, cache, model, "a", "bad")) for _ in range(3)]
        await turns()
        model.free.set()
        for found, _ in await asyncio.gather(*tasks):
            assert same(found[:1], "a")
            assert isinstance(found[1], ValueError)
        assert model.asked == [["a", "bad"]]
        model.faults.clear()
        assert same((await ask(flights, cache, model, "bad"))[0], "bad")

    asyncio.run(play())


def test_a_leader_that_leaves_does_not_fail_those_who_wait_for_it(cache):
    async def play():
        flights, model = Flights(), Model(free=False)
        leader = asyncio.create_task(ask(flights, cache, model, "a", "b"))
        await turns()
        others = [asyncio.create_task(ask(flights, cache, model, "a", "b")) for _ in range(4)]
        await turns()
        leader.cancel()
        await turns()
        assert leader.cancelled()
        model.free.set()
        assert all(same(found, "a", "b") for found, _ in await asyncio.gather(*others))
        assert model.asked == [["a", "b"], ["a", "b"]], "one of them took its place"

    asyncio.run(play())


def test_one_who_waits_and_leaves_stops_nobody(cache):
    async def play():
        flights, model = Flights(), Model(free=False)
        leader = asyncio.create_task(ask(flights, cache, model, "a"))
        await turns()
        leaving, staying = (asyncio.create_task(ask(flights, cache, model, "a")) for _ in range(2))
        await turns()
        leaving.cancel()
        await turns()
        model.free.set()
        assert same((await leader)[0], "a")
        assert same((await staying)[0], "a")
        assert leaving.cancelled()
        assert model.asked == [["a"]]

    asyncio.run(play())


@pytest.mark.parametrize("way", ["raised", "answered"])
def test_the_time_of_one_request_is_not_that_of_another(cache, way):
    async def play():
        flights, patient = Flights(), Model()
        waiting = asyncio.Event()

        async def too_late(places):
            await waiting.wait()
            if way == "raised":
                raise TimeoutError("the deadline has passed")
            return [TimeoutError("the deadline has passed")] * len(places)

        hasty = asyncio.create_task(flights.embedded(cache, [name("a")], too_late))
        await turns()
        other = asyncio.create_task(ask(flights, cache, patient, "a"))
        await turns()
        waiting.set()
        assert same((await other)[0], "a")
        if way == "raised":
            with pytest.raises(TimeoutError):
                await hasty
        else:
            assert isinstance((await hasty)[0][0], TimeoutError)

    asyncio.run(play())


def test_a_request_that_is_refused_leaves_nothing_behind(cache):
    async def play():
        flights, model = Flights(), Model()

        async def refuse(_):
            raise RuntimeError("the queue is full")

        for _ in range(2):
            with pytest.raises(RuntimeError, match="the queue is full"):
                await flights.embedded(cache, [name("a"), name("b")], refuse)
        assert same((await ask(flights, cache, model, "b", "a"))[0], "b", "a")

    asyncio.run(play())


def test_answers_are_not_views_of_the_batch_and_cannot_be_changed(cache):
    async def play():
        batch = np.stack([row("a"), row("b")])

        async def compute(places):
            return list(batch)

        found, _ = await Flights().embedded(cache, [name("a"), name("b")], compute)
        batch[:] = 0
        assert same(found, "a", "b")
        with pytest.raises(ValueError, match="read-only"):
            found[0][0] = 1

    asyncio.run(play())
