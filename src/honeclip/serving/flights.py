"""What several requests want at once is computed once: the first one computes it, the others wait for it.

The first one may leave (its client hangs up), run out of its own time, or be refused as a whole: none of that is the others'
business, so one of them takes its place. A fault of an item itself, such as an image that cannot be decoded, is shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from honeclip.serving.cache import Cache

Row = NDArray[np.float32]
Outcome: TypeAlias = "Row | Exception"
Compute: TypeAlias = Callable[[Sequence[int]], Awaitable[Sequence[Outcome]]]


@dataclass(frozen=True)
class Counts:
    """Where the items of a request came from; together they are as many as its items.

    Attributes:
        hit: from the cache.
        miss: computed for this request.
        coalesced: computed for another request at the same time, or for an equal item of this one.
    """

    hit: int
    miss: int
    coalesced: int


class Flights:
    """What is being computed at the moment. To be used from one event loop."""

    def __init__(self) -> None:
        self._flying: dict[bytes, asyncio.Future[Outcome | None]] = {}  # None: it was given up, take its place

    async def embedded(self, cache: Cache, keys: Sequence[bytes], compute: Compute) -> tuple[list[Outcome], Counts]:
        """The embedding of each key: from the cache, from whoever computes it already, or computed.

        Args:
            cache: asked first; what is computed goes into it.
            keys: of N items.
            compute: from places among the items, each of another key, to an embedding or a fault of each. A TimeoutError in
                it is this request's own, and so is whatever it raises.

        Returns:
            A read-only row, or an exception that is not raised, for each of the N items; and where they came from.
        """
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        done: dict[bytes, Outcome] = {}
        hit = miss = coalesced = 0
        while left := [key for key in places if key not in done]:
            followed = {key: self._flying[key] for key in left if key in self._flying}
            led = [key for key in left if key not in followed]
            if led:
                known, made = await self._lead(cache, led, lambda some: compute([places[key][0] for key in some]))
                done.update(known)
                done.update(made)
                hit += sum(len(places[key]) for key in known)
                miss += len(made)
                coalesced += sum(len(places[key]) - 1 for key in made)
            if followed:
                await asyncio.wait(followed.values())  # which cancels none of them where this request is cancelled
            for key, flight in followed.items():
                outcome = flight.result()
                if outcome is not None:
                    done[key] = outcome
                    coalesced += len(places[key])
        return [done[key] for key in keys], Counts(hit, miss, coalesced)

    async def _lead(
        self, cache: Cache, keys: list[bytes], compute: Callable[[list[bytes]], Awaitable[Sequence[Outcome]]]
    ) -> tuple[dict[bytes, Outcome], dict[bytes, Outcome]]:
        """Looks up or computes keys that nobody computes yet: those that were known, those that were computed."""
        flights: dict[bytes, asyncio.Future[Outcome | None]] = {
            key: asyncio.get_running_loop().create_future() for key in keys
        }
        self._flying.update(flights)
        known: dict[bytes, Outcome] = {}
        made: dict[bytes, Outcome] = {}
        try:
            rows = await cache.get(keys)
            known.update({key: row for key, row in zip(keys, rows, strict=True) if row is not None})
            self._land(flights, known)
            missing = [key for key in keys if key not in known]
            if missing:
                made.update(zip(missing, map(_shared, await compute(missing)), strict=True))
                await cache.put({key: row for key, row in made.items() if not isinstance(row, Exception)})
            self._land(flights, made)
        finally:
            self._land(flights, dict.fromkeys(keys))  # whoever still waits takes this one's place
        return known, made

    def _land(
        self,
        flights: dict[bytes, asyncio.Future[Outcome | None]],
        outcomes: dict[bytes, Outcome] | dict[bytes, None],
    ) -> None:
        for key, outcome in outcomes.items():
            if not flights[key].done():
                del self._flying[key]
                flights[key].set_result(None if isinstance(outcome, TimeoutError) else outcome)


def frozen(row: Row) -> Row:
    """A row of its own that nobody can change: many answers share it, and it must not hold the batch that it was cut from."""
    own = np.array(row, dtype=np.float32, copy=True)
    own.flags.writeable = False
    return own


def _shared(outcome: Outcome) -> Outcome:
    return outcome if isinstance(outcome, Exception) else frozen(outcome)
