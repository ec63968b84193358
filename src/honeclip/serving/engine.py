"""The engine: from bytes and strings to embeddings, with everything between them bounded.

Cache, admission, decoding in threads, the queue, the device's thread, the watchdog. A request is admitted or refused once, as
a whole; an item fails alone. All of it but the device's thread and the pools lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import honeclip
from honeclip.device import resident
from honeclip.errors import HoneclipError, TooManyPixels
from honeclip.preprocess.images import Limits
from honeclip.serving import cache as caches
from honeclip.serving import forward, refusals
from honeclip.serving.cache import Cache, Flights, Row
from honeclip.serving.forward import Forward
from honeclip.serving.metrics import Metrics
from honeclip.serving.queue import MODALITIES, Item, Modality, Queue
from honeclip.serving.refusals import Refused
from honeclip.serving.settings import EXIT_STUCK, Settings
from honeclip.serving.warmup import Loaded
from honeclip.serving.worker import REPEATS, Results, Worker, length_of

log = logging.getLogger(__name__)

Given: TypeAlias = "bytes | str"
"""The bytes of an image file, or a text."""

WATCH_S = 0.1

LAST_S = 15.0
"""Seconds in which a server whose device is stuck for good answers who is there, closes and ends by itself."""

SLOWEST = 10
"""A batch is not stuck before it took this many times as long as the slowest of the warm-up."""

HOPEFUL = 0.5
"""Share of the deadline that what was admitted may take. What is expected is a mean: with 0.8 one in seven of those admitted
at twice the capacity came too late after all."""

SLOWER, LEARNT = 8.0, 0.1
"""A request takes longer than the device alone would: decoding and other work on the machine take their share. So many times
at most is believed, and so much of that each request that had a second or more before it adds to what is known."""

DECODERS = max(2, min(8, os.cpu_count() or 1))


@dataclass
class _Admitted:
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0  # that the device takes for them, by the measured rate
    slower: float = 1.0  # times as long as that they take in truth


class Engine:
    """Made, started, asked, drained, stopped.

    Args:
        load: from nothing to a model; called on the device's thread.
        settings: limits and times.
        cache: of embeddings.
        metrics: where figures go.
        call: the model call.
        die: ends the process when a batch is stuck for good and the server does not end by itself.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        settings: Settings,
        cache: Cache,
        metrics: Metrics,
        *,
        call: Forward = forward.embed,
        die: Callable[[int], object] = os._exit,
    ) -> None:
        self.settings, self.cache, self.metrics = settings, cache, metrics
        self.draining = False
        self.started = 0.0
        self.loaded: Loaded
        self._queue = Queue(dict.fromkeys(MODALITIES, 1))
        self._worker = Worker(load, self._queue, settings, metrics, call, self._deliver)
        self._flights = Flights()
        self._admitted = _Admitted()
        self._die = die
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = threading.Event()
        self._pools: dict[Modality, ThreadPoolExecutor] = {
            "image": ThreadPoolExecutor(DECODERS, "honeclip-decode"),
            "text": ThreadPoolExecutor(1, "honeclip-tokens"),  # tokenizers hold the interpreter's lock
        }
        self._watchdog = threading.Thread(target=self._watch, name="honeclip-watchdog", daemon=True)

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> Loaded:
        """Loads and warms up; returns when the model is ready.

        Raises:
            HoneclipError: what loading raised.
        """
        self._worker.start()
        self.loaded = self._worker.ready.result()
        self.started = time.time()
        self.metrics.watch(self.facts)
        self._watchdog.start()
        return self.loaded

    def drain(self) -> None:
        """From now on nothing is admitted; what was admitted is finished."""
        self.draining = True

    @property
    def requests(self) -> int:
        """Admitted, and not yet answered."""
        return self._admitted.requests

    async def stop(self, within_s: float) -> bool:
        """Ends the device's thread; False where it is stuck."""
        self._queue.close()
        self._stopped.set()
        ended = await asyncio.to_thread(self._worker.join, within_s)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        await self.cache.close()
        return ended

    # --- asking ---------------------------------------------------------------------------------------------------

    async def embed(self, given: Sequence[Given]) -> Results:
        """An embedding, unit float32 (D,), read-only, or what is wrong, for every image and text, in order.

        Raises:
            Refused: nothing can be admitted now (429, 503).
        """
        keys = [self._key(one) for one in given]

        async def compute(places: Sequence[int]) -> Results:
            return await self._computed([given[place] for place in places])

        found, counts = await self._flights.embedded(self.cache, keys, compute)
        self.metrics.cache(counts)
        for one in found:
            if isinstance(one, Refused) and one.status == 503:
                raise one
        return found

    @property
    def unready(self) -> str:
        """Why no request should be sent here now; "" where all is well."""
        worker = self._worker
        if self.draining:
            return "draining: the server is about to stop"
        if worker.stuck or not worker.alive:
            return "stuck: the device does not answer"
        if worker.bad >= REPEATS:
            return f"failing: the model failed {worker.bad} times in a row"
        if self._admitted.requests >= self.settings.high_water * self.settings.queue_requests:
            return f"busy: {self._admitted.requests} requests wait"
        return ""

    @property
    def retry_after_s(self) -> float:
        """Seconds until what waits now is computed, by the measured rate; between 1 and 60."""
        return min(60.0, max(1.0, self._admitted.seconds * self._admitted.slower))

    def facts(self) -> dict[str, Any]:
        """What `/health`, `/metrics` and the page show: plain values, no path, no secret."""
        now, worker, found = time.monotonic(), self._worker, self.loaded
        running = worker.running
        stats = self.cache.stats()
        clip = found.clip
        return {
            "ready": not self.unready,
            "reason": self.unready,
            "version": honeclip.__version__,
            "started": self.started,
            "uptime_s": time.time() - self.started,
            "start_s": dict(found.seconds),
            "model": {
                "id": found.name,
                "fingerprint": found.fingerprint,
                "domain": found.domain.name,
                "embed_dim": clip.embed_dim,
                "size_px": clip.preprocess.size_px,
                "context_length": clip.preprocess.context_length,
                "logit_scale": found.scale,
                "calibrated_for": list(clip.calibration.labels) if clip.calibration else [],
            },
            "device": {
                "type": clip.device.type,
                "name": clip.device.name,
                "reason": clip.device.reason,
                "precision": found.precision.name,
                "precision_reason": found.precision.reason,
                "self_check": found.self_check,
                "threads": worker.threads,
            },
            "requests": self._admitted.requests,
            "queue": {
                one: {
                    **asdict(self._queue.waiting(one)),
                    "largest_batch": self._queue.largest[one],
                    "seconds_a_row": worker.seconds_a_row[one],
                }
                for one in MODALITIES
            },
            "dropped_items": self._queue.dropped,
            "cache": asdict(stats),
            "memory": {"device": dict(worker.memory), "resident_bytes": resident.now_bytes()},
            "worker": {
                "stuck": worker.stuck,
                "busy_s": now - running.since if running else 0.0,
                "last_progress_s": now - worker.progress,
                "failures_in_a_row": worker.bad,
            },
            "limits": asdict(self.settings),
        }

    # --- inside ---------------------------------------------------------------------------------------------------

    def _key(self, one: Given) -> bytes:
        found = self.loaded
        how = found.clip.preprocess
        image = isinstance(one, bytes)
        return caches.key(
            "image" if image else "text",
            one if isinstance(one, bytes) else one.encode(),
            found.fingerprint,
            how.image_fingerprint if image else how.text_fingerprint,
            found.precision.name,
        )

    async def _computed(self, given: Sequence[Given]) -> Results:
        self._loop = asyncio.get_running_loop()
        with self._admission(given):
            began = time.monotonic()
            ready = await asyncio.gather(*(self._prepared(one, began, place) for place, one in enumerate(given)))
            items = [one for one in ready if isinstance(one, Item)]
            if self._worker.stuck:
                raise refusals.stuck()
            self._queue.put(items)
            try:
                return [await one.future if isinstance(one, Item) else one for one in ready]
            finally:
                for item in items:
                    item.future.cancel()  # nobody waits any more; where it is done this does nothing

    @contextlib.contextmanager
    def _admission(self, given: Sequence[Given]) -> Iterator[None]:
        """Counts a request in and out.

        Raises:
            Refused: the server drains, its device is stuck, or there is no room.
        """
        settings, there = self.settings, self._admitted
        size = self.loaded.clip.preprocess.size_px
        wanted = sum(len(one) + 3 * size * size if isinstance(one, bytes) else 4 * len(one) + 1024 for one in given)
        wanted_s = sum(self._worker.seconds_a_row["image" if isinstance(one, bytes) else "text"] for one in given)
        if self.draining:
            raise Refused(503, "draining", "the server is about to stop; send this to another one", 5)
        if self._worker.stuck:
            raise refusals.stuck()
        if there.requests >= settings.queue_requests:
            words = f"{there.requests} requests wait already, as many as may"
            raise Refused(429, "queue_full", f"{words}; try again after the time in Retry-After", self.retry_after_s)
        if there.bytes + wanted > settings.queue_bytes and there.requests:
            words = f"the inputs that wait take {there.bytes / 1e6:.0f} MB, and the limit is {settings.queue_bytes / 1e6:.0f}"
            raise Refused(429, "queue_bytes", f"{words}; try again after the time in Retry-After", self.retry_after_s)
        if (there.seconds + wanted_s) * there.slower > HOPEFUL * settings.deadline_s and there.requests:
            words = (
                f"what waits takes {there.seconds * there.slower:.0f} s, and the deadline is {settings.deadline_s:g} s"
            )
            raise Refused(429, "queue_wait", f"{words}; try again after the time in Retry-After", self.retry_after_s)
        there.requests += 1
        there.bytes += wanted
        there.seconds += wanted_s
        began, expected_s, answered = time.monotonic(), there.seconds, False
        try:
            yield
            answered = True
        finally:
            took_s = time.monotonic() - began
            if expected_s >= 1 and (answered or took_s > expected_s):
                there.slower += LEARNT * (min(SLOWER, max(1.0, took_s / expected_s)) - there.slower)
            there.requests -= 1
            there.bytes -= wanted
            there.seconds = max(0.0, there.seconds - wanted_s)

    async def _prepared(self, one: Given, began: float, place: int) -> Item | Exception:
        """Decoded or tokenised in a thread; what is wrong with it is its own."""
        loop = asyncio.get_running_loop()
        modality: Modality = "image" if isinstance(one, bytes) else "text"

        def work() -> tuple[Any, int]:
            started = time.monotonic()
            clip = self.loaded.clip
            if isinstance(one, bytes):
                rows, length = clip.preprocess.image(one, Limits(self.settings.pixels)).unsqueeze(0), 0
            else:
                (pieces,) = clip.preprocess.pieces([one])
                rows = clip.preprocess.texts(pieces)
                length = length_of(clip, rows)
            self.metrics.stage("decode", modality, time.monotonic() - started)
            return rows, length

        try:
            rows, length = await loop.run_in_executor(self._pools[modality], work)
        except TooManyPixels as error:
            return refusals.too_large(refusals.public(str(error)), "pixels")
        except MemoryError:
            return refusals.no_memory()
        except (
            HoneclipError
        ) as error:  # a damaged picture, no tokenizer, a replacement of the field that takes too long
            return refusals.bad_item(refusals.public(str(error)))
        except Exception:
            log.exception("an %s could not be made ready", modality)
            return Refused(500, "decode", "this item could not be made ready; the server's log says why")
        turn = began + place * self._worker.seconds_a_row[modality]
        return Item(modality, rows, loop.create_future(), turn, length)

    def _deliver(self, items: Sequence[Item], results: Results) -> None:
        """Called on the device's thread and by the watchdog: hands results over to the event loop."""

        def hand_over() -> None:
            for item, result in zip(items, results, strict=True):
                if not item.future.done():
                    item.future.set_result(result)

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(hand_over)

    def _watch(self) -> None:
        """The watchdog: a batch that does not return turns readiness off, answers who waits, and at last ends the process."""
        settings, worker = self.settings, self._worker
        stuck_s = max(settings.stuck_s, SLOWEST * worker.slowest_s)
        exit_s = max(settings.exit_s, 3 * stuck_s)
        while not self._stopped.wait(WATCH_S):
            running = worker.running
            busy = time.monotonic() - running.since if running else 0.0
            if running is None or busy < stuck_s:
                continue
            if not worker.stuck:
                log.error("a batch has not returned for %.0f s: requests get 503 until it does", busy)
                worker.stuck = True
            if worker.running is not running:  # it returned at this very moment
                worker.stuck = False
                continue
            for items in (running.items, self._queue.clear()):
                self._deliver(items, [refusals.stuck() for _ in items])
            if busy >= exit_s:
                log.critical("a batch has not returned for %.0f s: the process ends with %d", busy, EXIT_STUCK)
                self.drain()  # who is there gets an answer, and then the server ends with the same code by itself
                if not self._stopped.wait(LAST_S):
                    self._die(EXIT_STUCK)
                return


__all__ = ["Engine", "Given", "Row"]
