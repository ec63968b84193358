"""Open-loop load against a server that the test writes, and what is made of its answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time

import numpy as np
import pytest

from honeclip.bench import arrivals, endurance
from honeclip.bench.arrivals import Arrivals


@contextlib.contextmanager
def answering(answer):
    """A server whose `answer(n)` gives the bytes for its n-th request, or nothing for a connection that ends; its address."""
    ready, over = threading.Event(), asyncio.Event()
    found: dict[str, object] = {}
    number = itertools.count()

    async def one(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                await reader.readexactly(length)
                said = await answer(next(number))
                if not said:
                    break
                writer.write(said)
        writer.close()

    async def serve():
        async with await asyncio.start_server(one, "127.0.0.1", 0) as server:
            found.update(loop=asyncio.get_running_loop(), port=server.sockets[0].getsockname()[1])
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    yield f"http://127.0.0.1:{found['port']}"
    found["loop"].call_soon_threadsafe(over.set)
    thread.join()


def http(status: int) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}".encode()


def test_each_answer_counts_for_what_it_is():
    async def answer(number):
        return (http(200), http(429), http(503), http(500), b"")[number % 5]

    moments = np.linspace(0, 0.2, 50, endpoint=False)
    with answering(answer) as url:
        found = arrivals.load(url, itertools.repeat(b"{}"), moments, 0.2)
    assert np.bincount(found.status, minlength=504)[[200, 429, 503, 500, 0]].tolist() == [10] * 5
    figures = found.to_json()
    assert (figures["refused"], figures["errors"]) == (20, 20)
    assert (figures["asked_per_second"], figures["answered_per_second"]) == (250, 50)
    assert (found.took_s > 0).all()


def test_who_comes_does_not_wait_for_who_came_before():
    """Nobody is answered until forty have asked: clients that wait for an answer before they ask again would wait for ever."""
    asked: list[asyncio.Event] = []

    async def answer(number):
        mine = asyncio.Event()
        asked.append(mine)
        if len(asked) == 40:
            for one in asked:
                one.set()
        await mine.wait()
        return http(200)

    moments = np.linspace(0, 0.4, 40, endpoint=False)
    with answering(answer) as url:
        found = arrivals.load(url, itertools.repeat(b"{}"), moments, 0.4)
    assert (found.status == 200).all()
    # all are answered after the last was due, so the first waited longest: from when it was due, not from when its turn came
    assert found.took_s[0] > moments[-1] - moments[0]
    assert (found.due_s + found.took_s > moments[-1]).all()


def test_requests_arrive_as_a_poisson_process():
    moments = arrivals.due(50.0, 400.0)
    counts = np.bincount(moments.astype(int), minlength=400)
    assert (np.diff(moments) > 0).all()
    assert moments[-1] < 400
    assert abs(counts.mean() - 50) < 4 * np.sqrt(50 / 400)
    assert 0.7 < counts.var() / counts.mean() < 1.3, "a Poisson count's variance is its mean"
    assert (moments == arrivals.due(50.0, 400.0)).all()
    assert len(arrivals.due(50.0, 400.0, seed=1)) != len(moments)


def spiked(late: list[tuple[float, float, int]]) -> Arrivals:
    """Answers of 0.1 s before a spike from 10 to 20 s, and what is given after it."""
    due, took, status = np.asarray([(1.0, 0.1, 200), (9.0, 0.05, 200), (15.0, 7.0, 200), *late]).T
    return Arrivals(30.0, due, took, status.astype(np.int64))


def test_a_spike_is_over_when_nobody_is_refused_or_slow_any_more():
    def seconds(*late):
        return endurance.recovered_after(spiked(list(late)), 10.0, 20.0)

    assert seconds((21.0, 0.1, 200), (29.0, 0.19, 200)) == 0.0
    assert seconds((21.0, 3.0, 200), (24.0, 0.21, 200), (29.0, 0.1, 200)) == pytest.approx(4.0)
    assert seconds((21.0, 0.1, 200), (26.0, 0.01, 429)) == pytest.approx(6.0)
    assert np.isnan(seconds((29.5, 0.5, 200))), "it was not over when the load was"
    nothing_before = Arrivals(30.0, np.asarray([1.0, 25.0]), np.asarray([0.1, 0.1]), np.asarray([500, 200]))
    assert np.isnan(endurance.recovered_after(nothing_before, 10.0, 20.0))


def mean(values):
    return float(values.mean())


def test_what_grows_is_told_from_what_only_wanders():
    """Memory that wanders as real ones do: each second is nearly that before it (AR(1), 0.9)."""
    generator = np.random.default_rng(0)
    seconds, hidden, seen = np.arange(600.0), 0, {0.0: 0, 360.0: 0}
    for _ in range(400):
        noise = np.zeros(600)
        for at in range(1, 600):
            noise[at] = 0.9 * noise[at - 1] + generator.normal()
        for growth in seen:
            found = endurance.slope(seconds, 500 + growth / 3600 * seconds + noise, 600.0, mean)
            seen[growth] += found["low"] <= growth <= found["high"]
            hidden += growth > 0 and found["low"] <= 0
    assert all(0.91 <= count / 400 <= 0.98 for count in seen.values()), seen
    assert hidden == 0, "a hundredth of an MB a second is seen in ten minutes"


def test_a_warm_up_is_no_growth_and_too_little_says_nothing():
    seconds = np.arange(100.0)
    warm = np.where(seconds < 10, seconds, 10.0)
    assert endurance.slope(seconds, warm, 100.0, mean)["value"] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(endurance.slope(seconds[:20], warm[:20], 100.0, mean)["value"])


def test_waiting_for_a_connection_counts(monkeypatch):
    came, answered = [], []

    async def answer(number):
        came.append(time.perf_counter())
        answered.append(time.perf_counter())
        return http(200)

    monkeypatch.setattr(arrivals, "CONNECTIONS", 1)
    with answering(answer) as url:
        found = arrivals.load(url, itertools.repeat(b"{}"), np.linspace(0, 1e-6, 30), 1.0)
    # all are due before the first came, and one connection takes them one after the other
    assert (np.sort(found.took_s) >= np.asarray(answered) - came[0]).all()
