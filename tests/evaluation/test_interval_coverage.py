"""How often an interval of 95 % holds the truth, for figures of the suites on drawn pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from honeclip.evaluation.calibration import brier, logistic
from honeclip.evaluation.intervals import bootstrap, figure
from honeclip.evaluation.multilabel import separation
from honeclip.evaluation.operating import at_threshold

SHARE, APART, THRESHOLD = 0.4, 1.2, 1.3
RESAMPLES = 1000


def probability(scores):
    return logistic(scores - 0.8)


@pytest.fixture(scope="module")
def truth() -> dict[str, float]:
    """From the two normal distributions: by formula, and by a sum over a fine grid."""
    grid = np.linspace(-9, 11, 200_001)
    step = grid[1] - grid[0]
    with_it, without = SHARE * norm.pdf(grid - APART) * step, (1 - SHARE) * norm.pdf(grid) * step
    said = probability(grid)
    above = np.cumsum(with_it[::-1])[::-1] + np.cumsum(without[::-1])[::-1]
    precision = np.cumsum(with_it[::-1])[::-1] / above
    return {
        "auroc": norm.cdf(APART / np.sqrt(2)),
        "average_precision": float((precision * with_it).sum() / SHARE),
        "sensitivity": norm.sf(THRESHOLD - APART),
        "specificity": norm.cdf(THRESHOLD),
        "brier": float((with_it * (1 - said) ** 2 + without * said**2).sum()),
    }


def coverage(pictures: int, draws: int, truth: dict[str, float], seed: int) -> dict[str, float]:
    """Share of the draws whose interval holds the truth."""
    random = np.random.default_rng(seed)
    held = dict.fromkeys(truth, 0)
    for draw in range(draws):
        has = random.random(pictures) < SHARE
        scores = random.normal(size=pictures) + APART * has
        for of in (separation(scores, has), at_threshold(scores, has, THRESHOLD), brier(probability(scores), has)):
            values = of(np.arange(pictures)[None])
            drawn = bootstrap(of, pictures, seed=draw, resamples=RESAMPLES)
            for name in values.keys() & truth.keys():
                one = figure(float(values[name][0]), drawn[name][~np.isnan(drawn[name])])
                held[name] += one["low"] <= truth[name] <= one["high"]
    return {name: count / draws for name, count in held.items()}


def test_coverage_of_a_few_draws(truth):
    """300 draws tell 0.95 from 0.90 and no finer; the slow tier has 5,000."""
    for name, share in coverage(100, 300, truth, seed=1).items():
        assert 0.90 <= share <= 0.985, name


@pytest.mark.slow  # five minutes in all
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("pictures", [100, 400])
def test_coverage_of_5000_draws(truth, pictures):
    """93 to 97 %. Average precision of 40 positives is the exception: it is read off its own sample, so it lies too high, and
    its interval with it: 0.927 measured, held here to 0.92."""
    for name, share in coverage(pictures, 5000, truth, seed=0).items():
        least = 0.92 if (name, pictures) == ("average_precision", 100) else 0.93
        assert least <= share <= 0.97, name
