"""Open-loop load: requests come when they come, however slow the server is.

Clients that wait for an answer before they ask again (`clients.load`) slow down with the server, and hide how long somebody
would have waited who asked meanwhile ("coordinated omission", Tene 2015). Here requests arrive as a Poisson process of a
given rate, and a latency counts from the moment at which a request was due, not from when it could be sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from honeclip.bench import clients

REFUSED = (429, 503)
"""What a server says that has too much to do, with Retry-After."""

CONNECTIONS = 128
"""That may wait for an answer at once; a request that finds none free waits for one, and that counts as its latency."""

BROKEN = 0
"""Stands for a status where the connection ended without an answer."""


@dataclass(frozen=True)
class Arrivals:
    """What became of the requests of some seconds.

    Attributes:
        seconds: in which they were due.
        due_s: (n,) when each was due, rising, from the start.
        took_s: (n,) from then to its answer.
        status: (n,) HTTP status; `BROKEN` where no answer came.
    """

    seconds: float
    due_s: NDArray[np.float64]
    took_s: NDArray[np.float64]
    status: NDArray[np.int64]

    @property
    def good(self) -> NDArray[np.bool_]:
        """(n,) which were answered with 200."""
        return np.asarray(self.status == 200, dtype=np.bool_)

    @property
    def refused(self) -> NDArray[np.bool_]:
        """(n,) which were told to come back."""
        return np.asarray(np.isin(self.status, REFUSED), dtype=np.bool_)

    def to_json(self) -> dict[str, float]:
        """Rates a second, percentiles of good answers in ms (nan without any), and counts."""
        took = self.took_s[self.good]
        return {
            "asked_per_second": len(self.status) / self.seconds,
            "answered_per_second": took.size / self.seconds,
            **clients.percentiles_ms(took),
            "refused": int(self.refused.sum()),
            "errors": int((~self.good & ~self.refused).sum()),
        }


def due(per_second: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """(n,) moments in `seconds` at which requests are due: a Poisson process, the same in every run."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / per_second, size=int(per_second * seconds * 2) + 50)
    moments = np.cumsum(gaps)
    return moments[moments < seconds]


def load(url: str, bodies: Iterator[bytes], due_s: NDArray[np.float64], seconds: float) -> Arrivals:
    """Sends a body at each moment, and returns when all are answered.

    Args:
        url: of the server.
        bodies: of requests; none twice.
        due_s: (n,) moments, rising.
        seconds: that the moments are drawn from.
    """
    return asyncio.run(_load(url, bodies, due_s, seconds))


async def _load(url: str, bodies: Iterator[bytes], due_s: NDArray[np.float64], seconds: float) -> Arrivals:
    import httpx  # here, for `honeclip --help` needs none of it

    took = np.full(len(due_s), np.nan)
    status = np.full(len(due_s), BROKEN)
    free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()  # the last used first: its connection is open

    async def one(place: int, body: bytes) -> None:
        client = await free.get()
        try:
            answer = await client.post(clients.PATH, content=body, headers=clients.HEADERS)
            status[place] = answer.status_code
        except httpx.TransportError:
            pass  # BROKEN stands there
        finally:
            took[place] = time.perf_counter() - began - due_s[place]
            free.put_nowait(client)

    async with clients.connections(url, CONNECTIONS) as made, asyncio.TaskGroup() as running:
        for client in made:
            free.put_nowait(client)
        began = time.perf_counter()
        for place, moment in enumerate(due_s):
            body = next(bodies)
            await asyncio.sleep(max(0.0, moment - (time.perf_counter() - began)))
            running.create_task(one(place, body))
    return Arrivals(seconds, due_s, took, status)
