"""Bootstrap intervals of 95 %, vectorised: a statistic is a function of resampled query indices.

The same number of queries and the same seed give the same resamples, so the draws of two models over one test set can
be subtracted from each other: that is the paired difference. Bias-corrected percentiles (Efron and Tibshirani 1993,
section 14.3, without acceleration): resampling alone inflates a calibration error, and whatever rare classes drop out
of, so that plain percentiles of them lie beside the figure. Shares of queries have the same interval either way. A
bootstrap knows nothing beyond the sample: a figure that is 1.0 for every query has the interval [1.0, 1.0] however few
there are.

A resample has fewer queries than there are (`drawn_of`), so that intervals of few queries are as wide as those of Student's t;
full resamples give intervals that are too narrow by the share by which a sample's variance is too small, and by what a normal
distribution lacks against his (Hesterberg 2015, "What teachers should know about the bootstrap", section 4.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 2000
BLOCK = 2_000_000  # indices drawn at once: 16 MB

Indices = NDArray[np.int64]
Statistic = Callable[[Indices], Mapping[str, NDArray[np.float64]]]
Figure = dict[str, float]


def drawn_of(queries: int) -> int:
    """Queries in a resample: 97 of 100, 397 of 400, 7 of 10; at least half of them, and 2."""
    if queries <= 2:
        return queries
    wider = float(stdtrit(queries - 1, 0.975)) / NormalDist().inv_cdf(0.975)
    return max(2, -(-queries // 2), round((queries - 1) / wider**2))


def resampled(queries: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Indices]:
    """Blocks (r, `drawn_of(queries)`) of indices drawn with replacement, `resamples` rows in all; a seed decides."""
    random = np.random.default_rng(seed)
    width = drawn_of(queries)
    block = max(1, BLOCK // max(1, width))
    for start in range(0, resamples, block):
        yield random.integers(0, queries, size=(min(block, resamples - start), width))


def bootstrap(
    statistic: Statistic, queries: int, seed: int, resamples: int = RESAMPLES
) -> dict[str, NDArray[np.float64]]:
    """Every figure of `statistic` for every resample.

    Args:
        statistic: takes indices (r, any number) and gives, for each name, one value a row (r,).
        queries: how many there are; at least 1.
        seed: the same seed draws the same queries, for every model.
        resamples: how many.

    Returns:
        One array (resamples,) for each name.
    """
    blocks = [statistic(indices) for indices in resampled(queries, seed, resamples)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def figure(value: float, draws: NDArray[np.float64]) -> Figure:
    """`{"value", "low", "high"}`: a value and its 95 % interval from its draws; the value is never outside of it."""
    normal = NormalDist()
    below = float((draws < value).mean() + (draws <= value).mean()) / 2  # of draws that equal it half are below
    shift = normal.inv_cdf(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws)))
    ends = [100 * normal.cdf(2 * shift + normal.inv_cdf(share)) for share in (0.025, 0.975)]
    low, high = np.percentile(draws, ends)
    return {"value": float(value), "low": min(float(low), float(value)), "high": max(float(high), float(value))}


def figures(statistic: Statistic, queries: int, seed: int) -> dict[str, Figure]:
    """Every figure of `statistic` on all queries, each with its interval."""
    values = statistic(np.arange(queries, dtype=np.int64)[None])
    draws = bootstrap(statistic, queries, seed)
    return {name: figure(float(values[name][0]), draws[name]) for name in values}


def known(statistic: Statistic, queries: int, seed: int, resamples: int = RESAMPLES) -> dict[str, Figure]:
    """As `figures`, without those that cannot be computed: NaN on all queries. Resamples in which one is NaN do not count."""
    values = statistic(np.arange(queries, dtype=np.int64)[None])
    there = {name: float(value[0]) for name, value in values.items() if not np.isnan(value[0])}
    draws = bootstrap(statistic, queries, seed, resamples) if there else {}
    return {name: figure(value, draws[name][~np.isnan(draws[name])]) for name, value in there.items()}


def differences(before: Statistic, after: Statistic, queries: int, seed: int) -> dict[str, Figure]:
    """`after` minus `before` for the figures that both know, with intervals over the same resampled queries."""

    def difference(indices: Indices) -> dict[str, NDArray[np.float64]]:
        old, new = before(indices), after(indices)
        return {name: new[name] - old[name] for name in new if name in old}

    return figures(difference, queries, seed)
