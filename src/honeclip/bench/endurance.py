"""`bench serving` beyond one rate: steps up to and over capacity, a spike, and hours of work in small (`--soak`).

Capacity is what closed-loop clients got at most. All load here is open-loop (`arrivals`).

    steps.PERCENT_percent  the load at so much of capacity: rates, percentiles, refused, errors
    spike                  calm, three times capacity, calm again: refused, errors, seconds until answers are quick again
    soak                   images and texts together at 0.8 of capacity: percentiles and errors of each; `memory_mb_per_hour`
                           and `p99_ms_per_hour` with intervals, which hold 0 where nothing grows

A soak's memory is the resident memory of the server less what its cache of embeddings holds, which grows up to its bound and is
meant to (`cache_mb`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import stats

from honeclip.bench import arrivals
from honeclip.bench.arrivals import Arrivals
from honeclip.bench.server_process import Running

STEPS = (0.25, 0.5, 0.8, 1.0, 1.5)
CALM, SPIKE, SLOW = 0.5, 3.0, 2.0
SOAK = 0.8
PARTS = 10
"""Of a soak: its first tenth warms up and counts for no slope."""

EVERY_S = 2.0
SHORTEST_S = PARTS * EVERY_S
MB = 1e6


@dataclass(frozen=True)
class Capacity:
    """Requests of one modality, without end and all different, and how many of them a second a server answers at most."""

    bodies: Iterator[bytes]
    per_second: float


def steps(server: Running, capacity: Capacity, seconds: float) -> dict[str, dict[str, float]]:
    """So many seconds at each share of capacity, each begun when the one before is answered."""
    found = {}
    for share in STEPS:
        due = arrivals.due(share * capacity.per_second, seconds)
        found[f"{round(100 * share)}_percent"] = arrivals.load(server.url, capacity.bodies, due, seconds).to_json()
    return found


def spike(server: Running, capacity: Capacity, seconds: float) -> dict[str, float]:
    """Calm for so many seconds, three times capacity for a quarter of that, and calm for twice as long.

    What comes too much is half of what a server does in `seconds`, and is done after as long again beside what comes meanwhile.
    """
    parts = ((CALM, seconds), (SPIKE, seconds / 4), (CALM, 2 * seconds))
    begins = np.cumsum([0.0, *(length for _, length in parts)])
    due = np.concatenate(
        [
            begin + arrivals.due(share * capacity.per_second, length, number)
            for number, (begin, (share, length)) in enumerate(zip(begins, parts, strict=False))
        ]
    )
    found = arrivals.load(server.url, capacity.bodies, due, float(begins[-1]))
    return {**found.to_json(), "recovered_after_s": recovered_after(found, float(begins[1]), float(begins[2]))}


def recovered_after(found: Arrivals, begins_s: float, ends_s: float) -> float:
    """Seconds from the end of a spike until the last request was due that was refused, or took more than `SLOW` times as long
    as the slowest before the spike. 0.0 where there is none after it; nan where there still are some in the last tenth of the
    time, or nothing was answered before."""
    before = found.took_s[found.good & (found.due_s < begins_s)]
    if not before.size:
        return float("nan")
    late = found.due_s[(found.due_s > ends_s) & (~found.good | (found.took_s > SLOW * before.max()))]
    if not late.size:
        return 0.0
    after = float(late.max() - ends_s)
    return after if after < 0.9 * (found.seconds - ends_s) else float("nan")


def soak(server: Running, sides: Mapping[str, Capacity], seconds: float) -> dict[str, Any]:
    """All modalities at once, each at its share of 0.8 of what a machine can do, for so many seconds: `SHORTEST_S` or more."""
    rates = {name: SOAK / len(sides) * side.per_second for name, side in sides.items()}
    with ThreadPoolExecutor(len(sides)) as pool:
        loads = {
            name: pool.submit(arrivals.load, server.url, side.bodies, arrivals.due(rates[name], seconds, seed), seconds)
            for seed, (name, side) in enumerate(sides.items())
        }
        times, resident, cached = _memory(server, list(loads.values()))
        found = {name: one.result() for name, one in loads.items()}
    own = resident - cached
    return {
        "seconds": seconds,
        **{name: _of_a_side(one) for name, one in found.items()},
        "resident_mb": {"first": float(resident[0]), "last": float(resident[-1]), "most": float(resident.max())},
        "memory_mb": {"first": float(own[0]), "last": float(own[-1]), "most": float(own.max())},
        "cache_mb": float(cached[-1]),
        "memory_mb_per_hour": slope(times, own, seconds, lambda part: float(part.mean())),
    }


def slope(
    times_s: NDArray[np.float64],
    values: NDArray[np.float64],
    seconds: float,
    summary: Callable[[NDArray[np.float64]], float],
) -> dict[str, float]:
    """What a figure gains an hour, with a 95 % interval: {"value", "low", "high"}.

    Values that follow each other are alike, so a line through all of them would be far too sure. It goes through one summary
    (mean, percentile) of each of nine parts of the time, the tenth before them left out (batch means, Law & Kelton 1984), with
    Student's interval of a least-squares slope.

    Args:
        times_s: (n,) from the start.
        values: (n,) at these times.
        seconds: of all parts together.
        summary: of an array, as one number.
    """
    edges = np.linspace(0, seconds, PARTS + 1)[1:]
    parts = [
        (float(times_s[inside].mean()), summary(values[inside]))
        for low, high in itertools.pairwise(edges)
        if (inside := (times_s >= low) & (times_s < high)).any()
    ]
    if len(parts) < 3:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    x, y = np.asarray(parts).T
    line = stats.linregress(x / 3600, y)
    wide = float(stats.t.ppf(0.975, len(parts) - 2) * line.stderr)
    value = float(line.slope)
    return {"value": value, "low": value - wide, "high": value + wide}


def _of_a_side(found: Arrivals) -> dict[str, Any]:
    def p99_ms(took_s: NDArray[np.float64]) -> float:
        return float(np.percentile(took_s, 99)) * 1e3

    due, took = found.due_s[found.good], found.took_s[found.good]
    return {**found.to_json(), "p99_ms_per_hour": slope(due, took, found.seconds, p99_ms)}


def _memory(server: Running, loads: Sequence[Future[Arrivals]]) -> tuple[NDArray[np.float64], ...]:
    """(n,) seconds, (n,) MB of the process and (n,) MB of the embeddings that it keeps, until the loads are over."""
    process, began = psutil.Process(server.process), time.perf_counter()
    rows: list[tuple[float, float, float]] = []
    while not rows or wait(loads, timeout=EVERY_S).not_done:
        at = time.perf_counter() - began
        rows.append((at, process.memory_info().rss / MB, server.metric("honeclip_cache_bytes") / MB))
    return tuple(np.asarray(rows, dtype=np.float64).T)
