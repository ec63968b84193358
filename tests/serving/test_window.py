"""Rates and percentiles of the page against Prometheus itself, which is asked for the same series."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from programs import needed
from prometheus_client import CollectorRegistry, Counter, Histogram

from honeclip.serving.window import Moment, increase, mean, moment, quantile, rate, total

BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0)


def observed(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 0.05, count)


def moments(registry: CollectorRegistry, work) -> tuple[Moment, Moment]:
    before = moment(registry)
    work()
    now = moment(registry)
    return Moment(0.0, before.values), Moment(30.0, now.values)


def test_percentiles_are_those_that_prometheus_gives(tmp_path: Path):
    registry = CollectorRegistry()
    made = Histogram("seconds", "s", ["route"], buckets=BOUNDS, registry=registry)
    for value in observed(1, 40):
        made.labels("/a").observe(value)  # before the window: must not count

    def work() -> None:
        for value in observed(2, 200):
            made.labels("/a").observe(value)
        for value in observed(3, 50) * 4:
            made.labels("/b").observe(value)

    before, now = moments(registry, work)
    series = []
    for (name, labels), value in now.values.items():
        if name == "seconds_bucket":
            written = ", ".join(f'{key}="{one}"' for key, one in labels)
            old = before.values.get((name, labels), 0.0)
            series.append({"series": f"seconds_bucket{{{written}}}", "values": f"{old:g} {value:g}"})
    asked = [
        (f"histogram_quantile({q}, sum by (le) (seconds_bucket{only} - seconds_bucket{only} offset 30s))", q, labels)
        for q in (0.0, 0.25, 0.5, 0.95, 0.99, 1.0)
        for only, labels in (
            ("", {}),
            ('{route="/a"}', {"route": "/a"}),
            ('{route=~"/a|/b"}', {"route": frozenset({"/a", "/b"})}),
        )
    ]
    tests = []
    for text, q, labels in asked:
        found = quantile(before, now, "seconds", q, **labels)
        expected = {"labels": "{}", "value": 1}
        tests.append({"expr": f"abs({text} - {found!r}) < bool 1e-9", "eval_time": "30s", "exp_samples": [expected]})
    file = tmp_path / "test.yml"
    group = {"interval": "30s", "input_series": series, "promql_expr_test": tests}
    file.write_text(json.dumps({"evaluation_interval": "30s", "tests": [group]}), encoding="utf-8")
    done = subprocess.run([needed("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_percentile_beyond_the_last_bound_is_that_bound_and_none_without_observations():
    registry = CollectorRegistry()
    made = Histogram("seconds", "s", buckets=BOUNDS, registry=registry)
    before, now = moments(registry, lambda: [made.observe(7.0) for _ in range(10)])
    assert quantile(before, now, "seconds", 0.5) == 1.0
    assert quantile(now, now, "seconds", 0.5) is None
    assert mean(now, now, "seconds") is None
    assert mean(before, now, "seconds") == pytest.approx(7.0)


def test_counters_grow_by_what_was_counted_in_between():
    registry = CollectorRegistry()
    made = Counter("asked", "a", ["route", "status"], registry=registry)
    made.labels("/a", "200").inc(5)

    def work() -> None:
        made.labels("/a", "200").inc(60)
        made.labels("/b", "500").inc(3)

    before, now = moments(registry, work)
    assert increase(before, now, "asked_total") == 63
    assert increase(before, now, "asked_total", status="200") == 60
    assert rate(before, now, "asked_total", route=frozenset({"/a", "/c"})) == pytest.approx(2.0)
    assert total(now, "asked_total", route="/a") == 65
    assert rate(now, now, "asked_total") == 0.0
