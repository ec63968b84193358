"""Clients of `bench serving`: each asks, waits for the answer, and asks again, all of them in one thread of one process.

Bodies are made before the clock runs, or by joining strings that are: what a client computes it takes from the server, which
runs on the same cores.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATH = "/v1/embeddings"
HEADERS = {"content-type": "application/json"}
CYCLES = 3
"""Answers of each client that are counted at least."""

LONGEST = 6.0
"""Times the seconds asked for, after which a slow server is let go."""


@dataclass(frozen=True)
class Load:
    """What so many clients saw.

    Attributes:
        clients: how many.
        per_second: items answered, over whole turns of all clients.
        latency_s: (n,) of each answer that counts.
        errors: answers other than 200, by status.
    """

    clients: int
    per_second: float
    latency_s: Sequence[float]
    errors: dict[int, int]

    def to_json(self) -> dict[str, float]:
        """Figures in milliseconds."""
        return {
            "per_second": self.per_second,
            **percentiles_ms(self.latency_s),
            "answers": len(self.latency_s),
            "errors": sum(self.errors.values()),
        }


def percentiles_ms(seconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """p50_ms, p95_ms and p99_ms of (n,) seconds; nan without any."""
    found = (np.percentile(seconds, [50, 95, 99]) * 1e3).tolist() if len(seconds) else [float("nan")] * 3
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), found, strict=True))


def image_bodies(files: Sequence[bytes]) -> Iterator[bytes]:
    """Requests for one image each, without end and all different: a comment in the file holds a number.

    A comment changes no pixel and no time that it takes to decode the file; only its hash is another.
    """
    rest = [base64.b64encode(file[2:]) for file in files]
    for number in itertools.count():
        # start of image, comment segment (ISO/IEC 10918-1, B.2.4.5): 18 bytes are whole groups of base64
        head = base64.b64encode(b"\xff\xd8\xff\xfe" + (14).to_bytes(2, "big") + f"{number:012d}".encode())
        yield b"".join(
            (
                b'{"model": "m", "encoding_format": "base64", "input": [{"image": "',
                head,
                rest[number % len(rest)],
                b'"}]}',
            )
        )


def text_bodies(texts: Sequence[str]) -> Iterator[bytes]:
    """Requests for one text each, without end and all different: a number stands at its end."""
    for number in itertools.count():
        text = f"{texts[number % len(texts)]} {number}"
        yield json.dumps({"model": "m", "encoding_format": "base64", "input": text}).encode()


def load(
    url: str, bodies: Iterator[bytes], clients: int, seconds: float, *, path: str = PATH, cycles: int = CYCLES
) -> Load:
    """Closed-loop load on a server.

    Args:
        url: of the server.
        bodies: of requests; none twice.
        clients: that ask at once.
        seconds: for about so long; longer where fewer than `cycles` answers a client came.
        path: of the route.
        cycles: at least so many answers a client are counted.
    """
    return asyncio.run(_load(url, bodies, clients, seconds, path, cycles))


def at_once(url: str, body: bytes, clients: int) -> list[int]:
    """Status of so many equal requests that are sent at the same time."""

    async def all_of_them() -> list[int]:
        async with connections(url, clients) as each:
            answers = await asyncio.gather(*(one.post(PATH, content=body, headers=HEADERS) for one in each))
            return [answer.status_code for answer in answers]

    return asyncio.run(all_of_them())


async def _load(url: str, bodies: Iterator[bytes], clients: int, seconds: float, path: str, cycles: int) -> Load:
    done: list[tuple[float, float]] = []  # when an answer came, and how long it took
    errors: dict[int, int] = {}
    skipped = max(clients, 2)  # the first turn: connections are made, and the queue fills

    def over() -> bool:
        spent = time.perf_counter() - began
        return spent > LONGEST * seconds or (spent > seconds and len(done) > skipped + cycles * clients)

    async def one(client: Any) -> None:
        while not over():
            body = next(bodies)
            asked = time.perf_counter()
            answer = await client.post(path, content=body, headers=HEADERS)
            if answer.status_code != 200:
                errors[answer.status_code] = errors.get(answer.status_code, 0) + 1
            elif not over():
                done.append((time.perf_counter(), time.perf_counter() - asked))

    async with connections(url, clients) as each:
        began = time.perf_counter()
        await asyncio.gather(*(one(client) for client in each))
    # Answers come in bursts, a batch each. Over whole turns of all clients both ends lie at the same place in a burst
    turns = (len(done) - 1 - skipped) // clients
    if turns < 1:
        return Load(clients, 0.0, [float("nan")], errors)
    last = skipped + turns * clients
    return Load(
        clients, turns * clients / (done[last][0] - done[skipped][0]), [took for _, took in done[skipped:]], errors
    )


@contextlib.asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Any]]:
    """Clients with a connection each. One client with many looks at all of its connections for every request, which for
    32 of them took more of the machine than the server did."""
    import httpx  # here, for `honeclip --help` needs none of it

    trusted = ssl.create_default_context()  # nothing is encrypted here, but each client would make one of its own
    async with contextlib.AsyncExitStack() as stack:
        made = [httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, verify=trusted) for _ in range(count)]
        yield [await stack.enter_async_context(one) for one in made]
