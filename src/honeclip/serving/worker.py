"""The one thread that owns the device: it loads the model, measures batch sizes and computes batches until it is stopped.

On MPS two threads that call the device end the process, so nothing else here ever does. What can go wrong with a batch is
dealt with here: an error is narrowed down to the item that causes it, out of memory halves the largest batch, numbers that
are not finite fail the item alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from honeclip.device import resident
from honeclip.device.oom import is_out_of_memory
from honeclip.model import towers
from honeclip.model.clip import Clip
from honeclip.serving import refusals, warmup
from honeclip.serving.cache import Row
from honeclip.serving.forward import Forward, joined
from honeclip.serving.metrics import Metrics
from honeclip.serving.queue import MODALITIES, Item, Modality, Queue, rows_of
from honeclip.serving.settings import Settings
from honeclip.serving.warmup import Loaded

log = logging.getLogger(__name__)

Results: TypeAlias = "list[Row | Exception]"
Deliver: TypeAlias = Callable[[Sequence[Item], Results], None]

REPEATS = 3
"""Failures in a row, none of them the input's fault, after which the server says that it is not ready."""

SMOOTHING = 0.2
"""Weight of the newest batch in the measured service rate."""


@dataclass(frozen=True)
class Running:
    """The batch that is being computed: since when, and what."""

    since: float
    items: tuple[Item, ...]


class Worker:
    """Started once; `ready` gives what was loaded, or what went wrong.

    Args:
        load: from nothing to a model; called on the device's thread.
        queue: where batches come from.
        settings: times.
        metrics: where figures go.
        forward: the model call.
        deliver: called with items and their results, on the device's thread.

    Attributes:
        running: the batch at hand; None between batches.
        progress: when the last batch or canary ended, in seconds of `time.monotonic`.
        bad: failures in a row that are not the input's fault.
        stuck: set by the watchdog; taken back when the batch ends after all.
        seconds_a_row: by modality, smoothed.
        memory: the device's readings in bytes, taken between batches.
        threads: of a CPU that compute a batch of one and a larger one, by modality, as measured; 0 elsewhere.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        queue: Queue,
        settings: Settings,
        metrics: Metrics,
        forward: Forward,
        deliver: Deliver,
    ) -> None:
        self.ready: Future[Loaded] = Future()
        self.running: Running | None = None
        self.progress = time.monotonic()
        self.bad = 0
        self.stuck = False
        self.seconds_a_row: dict[Modality, float] = dict.fromkeys(MODALITIES, 0.05)
        self.memory: dict[str, int] = {}
        self.slowest_s = 0.0
        self.threads: dict[Modality, list[int]] = {}
        self._load, self._queue, self._settings, self._metrics = load, queue, settings, metrics
        self._forward, self._deliver = forward, deliver
        self._thread = threading.Thread(target=self._run, name="honeclip-device", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Waits for the end, after the queue was closed; False where it did not come."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            loaded = self._load()
        except BaseException as error:
            self.ready.set_exception(error)
            return
        # batches free and ask for blocks of the same sizes again and again
        with resident.keeping_freed() if loaded.clip.device.backend == "cpu" else contextlib.nullcontext():
            try:
                measured = warmup.measured(loaded, self._forward, self._settings.warm_up_s)
            except BaseException as error:
                self.ready.set_exception(error)
                return
            for modality, found in measured.items():
                self._queue.largest[modality] = found.largest
                self.seconds_a_row[modality] = found.seconds_a_row
                self.slowest_s = max(self.slowest_s, found.slowest_s)
            self._loaded, self._measured = loaded, measured
            self.threads = {name: list(found.threads) for name, found in measured.items()}
            self._read_memory()
            self.progress = time.monotonic()
            self.ready.set_result(loaded)
            self._serve()

    def _serve(self) -> None:
        gave_back = False
        while (items := self._queue.take(self._settings.idle_s)) is not None:
            if items:
                gave_back = False
                self._compute(items)
                continue
            if self.bad or self.stuck or time.monotonic() - self.progress > self._settings.canary_s:
                self._canary()
            if not gave_back:
                self._loaded.clip.device.empty_cache()
                resident.give_back_freed()
                gave_back = True
            self._read_memory()

    # --- batches --------------------------------------------------------------------------------------------------

    def _compute(self, items: list[Item]) -> None:
        modality, started = items[0].modality, time.monotonic()
        rows = rows_of(items)
        for item in items:
            self._metrics.stage("queue", modality, started - item.queued)
        self.running = Running(started, tuple(items))
        try:
            results = self._results(items)
        except Exception:  # a fault of ours: the thread must outlive it, for nothing can replace it
            log.exception("the batch could not be computed")
            results = [refusals.failed()] * len(items)
        self.running, self.stuck, self.progress = None, False, time.monotonic()
        seconds = self.progress - started
        self.seconds_a_row[modality] += SMOOTHING * (seconds / rows - self.seconds_a_row[modality])
        self._metrics.stage("forward", modality, seconds)
        self._metrics.batch(modality, rows, self._queue.largest[modality])
        self._metrics.computed(modality, sum(not isinstance(one, Exception) for one in results))
        self._note(results)
        self._deliver(items, results)
        self._read_memory()

    def _results(self, items: Sequence[Item]) -> Results:
        """An embedding or an error for each item."""
        modality, most = items[0].modality, self._queue.largest[items[0].modality]
        if len(items) > 1 and rows_of(items) > most:  # the largest batch was halved meanwhile
            return self._halves(items)
        try:
            out = [self._called(modality, part) for part in torch.split(joined([one.rows for one in items]), most)]
        except Exception as error:
            short, reason = is_out_of_memory(error), error
            if not short:
                log.exception("a batch of %d %ss failed", len(items), modality)
        else:
            return self._parted(items, joined(out))
        # outside the except block, whose traceback holds the tensors of the failed call
        del reason
        if short:
            self._loaded.clip.device.empty_cache()
            self._metrics.out_of_memory(modality)
            if rows_of(items) == 1 or most == 1:
                return [refusals.no_memory()] if len(items) == 1 else self._halves(items)
            self._queue.largest[modality] = max(1, min(most, rows_of(items)) // 2)
            log.warning("out of memory: batches of %ss are %d from now on", modality, self._queue.largest[modality])
            return self._results(items)
        return [refusals.failed()] if len(items) == 1 else self._halves(items)

    def _halves(self, items: Sequence[Item]) -> Results:
        middle = len(items) // 2
        return [*self._results(items[:middle]), *self._results(items[middle:])]

    def _called(self, modality: Modality, rows: Tensor) -> Tensor:
        warmup.set_threads(self._measured[modality].threads_for(len(rows)))
        return self._forward(self._loaded.clip, self._loaded.precision.name, modality, rows)

    def _parted(self, items: Sequence[Item], out_BD: Tensor) -> Results:
        """Each item's embedding: the normalised mean over its windows, where it has several."""
        found: Results = []
        for rows_kD in torch.split(out_BD, [len(item.rows) for item in items]):
            one = rows_kD[0] if len(rows_kD) == 1 else torch.nn.functional.normalize(rows_kD.sum(0), dim=-1)
            finite = bool(torch.isfinite(one).all())
            found.append(np.asarray(one.numpy(), dtype=np.float32) if finite else refusals.not_finite())
        return found

    def _note(self, results: Results) -> None:
        """Counts failures in a row; one good answer ends them."""
        if any(not isinstance(one, Exception) for one in results):
            self.bad = 0
        else:
            self.bad += len(results)
        not_finite = sum(isinstance(one, refusals.Refused) and one.reason == "not_finite" for one in results)
        if not_finite:
            log.error("the model gave numbers that are not finite for %d items", not_finite)

    # --- between batches ------------------------------------------------------------------------------------------

    def _canary(self) -> None:
        """Computes one row of each modality while nothing else waits, so that readiness is known and may come back."""
        good = True
        self.running = Running(time.monotonic(), ())
        for modality in MODALITIES:
            row = warmup.sample(self._loaded.clip, modality, 1)
            if row is None:
                continue
            try:
                good = good and bool(torch.isfinite(self._called(modality, row)).all())
            except Exception:
                log.exception("the canary of the %s tower failed", modality)
                good = False
        self.running, self.stuck, self.progress = None, False, time.monotonic()
        self.bad = 0 if good else max(self.bad, REPEATS)

    def _read_memory(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            self.memory = self._loaded.clip.device.memory()


def length_of(clip: Clip, tokens_kL: Tensor) -> int:
    """Tokens of the longest row that the tower looks at."""
    return int(towers.trim(towers.text_tower(clip), tokens_kL).shape[1])
