"""What the counters of a server say of its last seconds: rates, shares, and percentiles as Prometheus would give them.

The page shows these and nothing of its own, so that it and `/metrics` cannot disagree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

Wanted = str | frozenset[str]
"""The value that a label must have, or those of which it must have one."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Moment:
    """Every sample of a registry at one time.

    Attributes:
        at: seconds of `time.monotonic`.
        values: (name, labels in order) -> value.
    """

    at: float
    values: Mapping[tuple[str, Labels], float]


def moment(registry: CollectorRegistry) -> Moment:
    """The registry as it is now."""
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
        for family in registry.collect()
        for sample in family.samples
    }
    return Moment(time.monotonic(), values)


def total(now: Moment, name: str, **labels: Wanted) -> float:
    """Sum of a metric's samples that carry these labels; 0 where there is none."""
    return sum(value for _, value in _matching(now, name, labels))


def increase(before: Moment, now: Moment, name: str, **labels: Wanted) -> float:
    """By how much a counter has grown."""
    return max(0.0, total(now, name, **labels) - total(before, name, **labels))


def rate(before: Moment, now: Moment, name: str, **labels: Wanted) -> float:
    """Growth of a counter a second."""
    passed = now.at - before.at
    return increase(before, now, name, **labels) / passed if passed > 0 else 0.0


def mean(before: Moment, now: Moment, name: str, **labels: Wanted) -> float | None:
    """Mean of a histogram's observations between two moments; None without any."""
    count = increase(before, now, f"{name}_count", **labels)
    return increase(before, now, f"{name}_sum", **labels) / count if count else None


def quantile(before: Moment, now: Moment, name: str, q: float, **labels: Wanted) -> float | None:
    """A quantile of a histogram's observations between two moments, straight lines within buckets (Prometheus,
    `histogram_quantile`): in the last, endless bucket the bound below it; None without observations.

    Args:
        before: the earlier moment.
        now: the later one.
        name: of the histogram, without `_bucket`.
        q: 0 to 1.
        labels: that its samples must carry; others are summed over.
    """
    bounds: dict[float, float] = {}
    for sign, one in ((1.0, now), (-1.0, before)):
        for found, value in _matching(one, f"{name}_bucket", labels):
            bound = float(dict(found)["le"])
            bounds[bound] = bounds.get(bound, 0.0) + sign * value
    edges = sorted(bounds)
    if not edges or bounds[edges[-1]] <= 0:
        return None
    wanted, below, start = q * bounds[edges[-1]], 0.0, 0.0
    for edge in edges:
        if bounds[edge] >= wanted:
            if math.isinf(edge):
                return start
            within = bounds[edge] - below
            return start + (edge - start) * ((wanted - below) / within if within else 1.0)
        below, start = bounds[edge], edge
    return start


def _matching(one: Moment, name: str, labels: Mapping[str, Wanted]) -> list[tuple[Labels, float]]:
    allowed = {label: {value} if isinstance(value, str) else value for label, value in labels.items()}

    def wanted(found: Labels) -> bool:
        has = dict(found)
        return all(has.get(label) in values for label, values in allowed.items())

    return [(found, value) for (known, found), value in one.values.items() if known == name and wanted(found)]
