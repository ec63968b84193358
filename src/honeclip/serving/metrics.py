"""What a server counts, for Prometheus: names, labels and buckets stand here and nowhere else.

Counters and histograms are counted as things happen; gauges are read from the engine when they are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from honeclip.serving.queue import MODALITIES

if TYPE_CHECKING:
    from honeclip.serving.cache import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STAGES = ("decode", "queue", "forward", "post")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = self.registry
        self._requests = Counter(
            "honeclip_requests", "Requests answered, by route and status.", ["route", "status"], registry=made
        )
        self._seconds = Histogram(
            "honeclip_request_duration_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=made,
        )
        self._stages = Histogram(
            "honeclip_stage_duration_seconds",
            "Decoding or tokenising an item, its wait, a batch's forward, and what comes after it in a request.",
            ["stage", "modality"],
            buckets=SECONDS,
            registry=made,
        )
        self._items = Counter("honeclip_items", "Items that the model computed.", ["modality"], registry=made)
        self._rows = Histogram("honeclip_batch_rows", "Rows of a batch.", ["modality"], buckets=ROWS, registry=made)
        self._fill = Histogram(
            "honeclip_batch_fill_ratio",
            "Rows of a batch, as a share of the largest.",
            ["modality"],
            buckets=SHARES,
            registry=made,
        )
        self._rejected = Counter(
            "honeclip_rejected", "Requests and items that were turned away, by reason.", ["reason"], registry=made
        )
        self._cancelled = Counter("honeclip_cancelled", "Requests whose client left before the answer.", registry=made)
        self._memory = Counter(
            "honeclip_out_of_memory", "Batches that did not fit and were halved.", ["modality"], registry=made
        )
        self._cache = Counter(
            "honeclip_cache_requests",
            "Items found, computed, and awaited from an equal request.",
            ["result"],
            registry=made,
        )
        for result in ("hit", "miss", "coalesced"):
            self._cache.labels(result)
        for modality in MODALITIES:
            self._items.labels(modality)
            self._memory.labels(modality)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage(self, stage: str, modality: str, seconds: float) -> None:
        """A stage of `STAGES` ended."""
        self._stages.labels(stage, modality).observe(max(0.0, seconds))

    def batch(self, modality: str, rows: int, largest: int) -> None:
        """A batch was computed."""
        self._rows.labels(modality).observe(rows)
        self._fill.labels(modality).observe(min(1.0, rows / largest))

    def computed(self, modality: str, items: int) -> None:
        """The model gave so many embeddings."""
        self._items.labels(modality).inc(items)

    def rejected(self, reason: str) -> None:
        """A request or an item was turned away."""
        self._rejected.labels(reason).inc()

    def cancelled(self) -> None:
        """A client left."""
        self._cancelled.inc()

    def out_of_memory(self, modality: str) -> None:
        """A batch did not fit."""
        self._memory.labels(modality).inc()

    def cache(self, counts: Counts) -> None:
        """What the cache did for a request."""
        self._cache.labels("hit").inc(counts.hit)
        self._cache.labels("miss").inc(counts.miss)
        self._cache.labels("coalesced").inc(counts.coalesced)

    def watch(self, facts: Callable[[], dict[str, Any]]) -> None:
        """From now on gauges are read from the engine's facts."""
        self.registry.register(_Facts(facts))

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class _Facts(Collector):
    """Gauges that are read when Prometheus asks."""

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise ask for the facts of a server that is not up yet."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        facts = self._facts()
        yield _gauge("honeclip_ready", "1 while the server takes requests.", float(facts["ready"]))
        yield _gauge("honeclip_requests_in_progress", "Requests that wait or are computed.", facts["requests"])
        depth = GaugeMetricFamily("honeclip_queue_depth", "Items that wait for the device.", labels=["modality"])
        age = GaugeMetricFamily(
            "honeclip_queue_oldest_age_seconds", "Age of the oldest item that waits.", labels=["modality"]
        )
        held = GaugeMetricFamily("honeclip_queue_bytes", "Bytes of the items that wait.", labels=["modality"])
        largest = GaugeMetricFamily("honeclip_batch_rows_limit", "Rows of the largest batch now.", labels=["modality"])
        for modality, queue in facts["queue"].items():
            depth.add_metric([modality], queue["items"])
            age.add_metric([modality], queue["oldest_s"])
            held.add_metric([modality], queue["bytes"])
            largest.add_metric([modality], queue["largest_batch"])
        yield from (depth, age, held, largest)
        yield _gauge("honeclip_queue_limit_requests", "Most requests that may wait.", facts["limits"]["queue_requests"])
        yield _gauge("honeclip_cache_entries", "Embeddings in memory.", facts["cache"]["entries"])
        yield _gauge("honeclip_cache_bytes", "Bytes of the embeddings in memory.", facts["cache"]["bytes"])
        yield _gauge(
            "honeclip_cache_remote_up", "1 where the shared cache answers.", float(facts["cache"]["remote"] == "up")
        )
        memory = GaugeMetricFamily("honeclip_device_memory_bytes", "The device's memory.", labels=["device", "kind"])
        for kind, value in facts["memory"]["device"].items():
            memory.add_metric([facts["device"]["type"], kind], value)
        yield memory
        yield _gauge("honeclip_resident_memory_bytes", "Resident memory.", facts["memory"]["resident_bytes"])
        worker = facts["worker"]
        yield _gauge("honeclip_worker_up", "0 while a batch is stuck.", float(not worker["stuck"]))
        yield _gauge(
            "honeclip_worker_busy_seconds", "Seconds since the batch at hand began; 0: none.", worker["busy_s"]
        )
        yield _gauge(
            "honeclip_worker_last_progress_timestamp_seconds",
            "When the last batch or canary ended.",
            time.time() - worker["last_progress_s"],
        )
        yield _gauge("honeclip_worker_failures_in_a_row", "Of the model, not of inputs.", worker["failures_in_a_row"])
        yield _gauge("honeclip_start_time_seconds", "When the server was ready.", facts["started"])
        stages = GaugeMetricFamily("honeclip_start_duration_seconds", "Of each stage of the start.", labels=["stage"])
        for stage, seconds in facts["start_s"].items():
            stages.add_metric([stage], seconds)
        yield stages
        model = facts["model"]
        yield InfoMetricFamily(
            "honeclip_model",
            "The model that answers.",
            value={
                "model": model["id"],
                "fingerprint": model["fingerprint"][:16],
                "precision": facts["device"]["precision"],
                "device": facts["device"]["type"],
                "version": facts["version"],
            },
        )


def _gauge(name: str, words: str, value: float) -> Metric:
    made = GaugeMetricFamily(name, words)
    made.add_metric([], value)
    return made
