"""Bootstrap intervals: coverage on known distributions, scipy's own bootstrap, and the paired difference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from honeclip.evaluation import intervals
from honeclip.evaluation.intervals import bootstrap, differences, figure, figures, resampled


def mean_of(values: np.ndarray) -> intervals.Statistic:
    return lambda indices: {"mean": values[indices].mean(1)}


def test_intervals_cover_the_truth_as_often_as_they_say():
    """A share of 0.3 of 100 queries: 95 % of the intervals should hold it; 400 experiments tell 0.95 from 0.91."""
    draw = np.random.default_rng(7)
    held = 0
    for experiment in range(400):
        found = figures(mean_of((draw.random(100) < 0.3).astype(float)), 100, seed=experiment)["mean"]
        held += found["low"] <= 0.3 <= found["high"]
    assert 0.91 <= held / 400 <= 0.98


def test_the_interval_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(0).normal(5, 2, size=800)
    found = figures(mean_of(values), 800, seed=0)["mean"]
    half = 1.96 * values.std() / np.sqrt(800)
    assert found["value"] == pytest.approx(values.mean(), abs=1e-12)
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_scipys_bootstrap_gives_the_same_interval():
    values = np.random.default_rng(3).exponential(size=90)
    expected = stats.bootstrap(
        (values,), np.median, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = figures(lambda indices: {"median": np.median(values[indices], axis=1)}, 90, seed=0)["median"]
    assert found["low"] == pytest.approx(expected.low, abs=0.05)
    assert found["high"] == pytest.approx(expected.high, abs=0.05)


def test_a_figure_that_never_varies_has_no_width():
    assert figures(mean_of(np.ones(12)), 12, seed=0)["mean"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert figures(mean_of(np.array([0.25])), 1, seed=0)["mean"] == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_a_seed_decides_and_the_size_of_the_blocks_does_not(monkeypatch):
    values = np.random.default_rng(1).random(70)
    first = bootstrap(mean_of(values), 70, seed=5)["mean"]
    assert len(first) == intervals.RESAMPLES
    assert np.array_equal(first, bootstrap(mean_of(values), 70, seed=5)["mean"])
    assert not np.array_equal(first, bootstrap(mean_of(values), 70, seed=6)["mean"])
    for block in (1, 71, 999):
        monkeypatch.setattr(intervals, "BLOCK", block)
        assert np.array_equal(first, bootstrap(mean_of(values), 70, seed=5)["mean"])


def test_resamples_are_drawn_with_replacement_from_all_queries():
    indices = np.concatenate(list(resampled(10, seed=0)))
    assert indices.shape == (intervals.RESAMPLES, 7)
    counts = np.bincount(indices.ravel(), minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert any(len(set(row)) < 7 for row in indices.tolist())


@pytest.mark.parametrize("queries", [10, 30, 100])
def test_an_interval_of_few_is_as_wide_as_students(queries):
    values = np.random.default_rng(8).normal(size=queries)
    found = figures(mean_of(values), queries, seed=0)["mean"]
    low, high = stats.t.interval(0.95, queries - 1, values.mean(), stats.sem(values))
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=0.08)


def test_a_paired_difference_is_narrower_than_two_intervals():
    """A query that is hard for one model is hard for the other, so most of what varies cancels."""
    draw = np.random.default_rng(2)
    hard = draw.random(300)
    before, after = ((draw.random(300) * 0.2 + hard < limit).astype(float) for limit in (0.5, 0.6))
    paired = differences(mean_of(before), mean_of(after), 300, seed=0)["mean"]
    one, two = (figures(mean_of(values), 300, seed=0)["mean"] for values in (before, after))
    assert paired["value"] == pytest.approx(two["value"] - one["value"], abs=1e-12)
    assert paired["high"] - paired["low"] < 0.7 * ((two["high"] - one["low"]) - (two["low"] - one["high"]))
    apart = np.hypot(one["high"] - one["low"], two["high"] - two["low"])
    assert paired["high"] - paired["low"] < 0.8 * apart
    assert paired["low"] > 0, "though the two intervals overlap"
    assert one["high"] >= two["low"]


def test_a_model_differs_by_nothing_from_itself():
    of = mean_of(np.random.default_rng(0).random(40))
    assert differences(of, of, 40, seed=0)["mean"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_only_what_both_know_is_compared():
    one = mean_of(np.ones(5))
    found = differences(one, lambda indices: {**one(indices), "other": indices[:, 0] * 1.0}, 5, seed=0)
    assert list(found) == ["mean"]


def test_the_ends_are_percentiles_where_resampling_has_no_bias():
    draws = np.arange(1001.0)
    assert figure(500, draws) == {
        "value": 500.0,
        "low": pytest.approx(25, abs=0.1),
        "high": pytest.approx(975, abs=0.1),
    }


def test_the_bias_of_resampling_is_taken_out():
    """Draws that lie half a deviation too high: for normal ones the formula gives value - bias -+ 1.96 deviations."""
    draws = stats.norm(10.5, 1).ppf((np.arange(100_000) + 0.5) / 100_000)
    found = figure(10, draws)
    assert found["low"] == pytest.approx(9.5 - 1.96, abs=0.01)
    assert found["high"] == pytest.approx(9.5 + 1.96, abs=0.01)


def test_a_value_is_never_outside_of_its_own_interval():
    assert figure(2, np.linspace(5, 6, 100)) == {"value": 2.0, "low": 2.0, "high": pytest.approx(5, abs=0.01)}
    assert figure(9, np.linspace(5, 6, 100)) == {"value": 9.0, "low": pytest.approx(6, abs=0.01), "high": 9.0}


def test_scipys_bias_corrected_interval_of_an_inflated_figure():
    """The size of a mean that is nearly zero: resampling makes it larger. (scipy's has an acceleration, here tiny.)"""
    values = np.random.default_rng(5).normal(0.05, 1, size=300)
    values += 0.05 - values.mean()
    expected = stats.bootstrap(
        (values,),
        lambda x, axis: np.abs(x.mean(axis=axis)),
        n_resamples=9999,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = figures(lambda indices: {"size": np.abs(values[indices].mean(1))}, 300, seed=0)["size"]
    assert found["low"] == pytest.approx(expected.low, abs=0.01)
    assert found["high"] == pytest.approx(expected.high, abs=0.015)
