"""How often an interval of 95 % holds the truth, for figures of the suites on drawn pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from honeclip.evaluation.calibration import BINS, brier, calibration_error, logistic
from honeclip.evaluation.intervals import known
from honeclip.evaluation.multilabel import separation
from honeclip.evaluation.operating import at_threshold, net_benefit
from honeclip.evaluation.retrieval import mean_of, ndcg, reciprocal

SHARE, APART, THRESHOLD, RISK = 0.4, 1.2, 1.3, 0.3
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
        "ece": float(np.abs(np.bincount((said * BINS).astype(int), with_it - said * (with_it + without))).sum()),
        "net_benefit": float((with_it - without * RISK / (1 - RISK))[said >= RISK].sum()),
    }


def coverage(pictures: int, draws: int, truth: dict[str, float], seed: int) -> dict[str, float]:
    """Share of the draws whose interval holds the truth."""
    random = np.random.default_rng(seed)
    held = dict.fromkeys(truth, 0)
    for draw in range(draws):
        has = random.random(pictures) < SHARE
        scores = random.normal(size=pictures) + APART * has
        said = probability(scores)
        benefit = net_benefit(said, has, RISK)
        for of in (
            separation(scores, has),
            at_threshold(scores, has, THRESHOLD),
            brier(said, has),
            calibration_error(said, has),
            lambda indices, benefit=benefit: {"net_benefit": benefit(indices)["model"]},
        ):
            for name, one in known(of, pictures, draw, RESAMPLES).items():
                if name in truth:
                    held[name] += one["low"] <= truth[name] <= one["high"]
    return {name: count / draws for name, count in held.items()}


@pytest.fixture(scope="module")
def queries() -> dict[str, np.ndarray]:
    """Of each of 20,000 queries to one gallery of 60, what it counts for: their means are the truth."""
    random = np.random.default_rng(3)
    candidates = random.normal(size=(60, 8))
    own = np.arange(20_000) % 60
    asked = candidates[own] + random.normal(size=(20_000, 8)) * random.choice([0.6, 1.5], size=(20_000, 1))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (asked, candidates)]
    place = 1 + (unit[0] @ unit[1].T > (unit[0] * unit[1][own]).sum(1, keepdims=True) + 1e-9).sum(1)
    return {"mrr": place, "ndcg": ndcg(*unit, (np.arange(20_000), own))}


def coverage_of_ranks(count: int, draws: int, queries: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """The same for figures of ranked queries, the gallery being what it is."""
    random = np.random.default_rng(seed)
    truth = {"mrr": (1 / queries["mrr"]).mean(), "ndcg": queries["ndcg"].mean()}
    held = dict.fromkeys(truth, 0)
    for draw in range(draws):
        rows = random.integers(0, 20_000, count)
        for of in (reciprocal(queries["mrr"][rows]), mean_of("ndcg", queries["ndcg"][rows])):
            for name, one in known(of, count, draw, RESAMPLES).items():
                held[name] += one["low"] <= truth[name] <= one["high"]
    return {name: count / draws for name, count in held.items()}


def test_coverage_of_a_few_draws(truth, queries):
    """300 draws tell 0.95 from 0.90 and no finer; the slow tier has 5,000."""
    found = coverage(100, 300, truth, seed=1)
    del found["ece"]
    for name, share in (found | coverage_of_ranks(100, 300, queries, seed=1)).items():
        assert 0.90 <= share <= 0.985, name


def test_a_calibration_error_of_few_pictures_is_too_large(truth):
    """15 bins of 100 pictures: the error of a model that is nearly calibrated looks three times as large, and so do the ends of
    its interval, which docs/suites.md says. Whoever mends it mends the sentence there too."""
    assert truth["ece"] == pytest.approx(0.041, abs=0.001)
    assert coverage(100, 40, {"ece": truth["ece"]}, seed=1)["ece"] < 0.5


@pytest.mark.slow  # ten minutes in all
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("count", [100, 400])
def test_coverage_of_5000_draws(truth, queries, count):
    """93 to 97 %. Average precision of 40 positives is the exception: it is read off its own sample, so it lies too high, and
    its interval with it: 0.927 measured, held here to 0.92. The calibration error is none of these, see above."""
    found = coverage(count, 5000, {name: value for name, value in truth.items() if name != "ece"}, seed=0)
    for name, share in (found | coverage_of_ranks(count, 5000, queries, seed=0)).items():
        least = 0.92 if (name, count) == ("average_precision", 100) else 0.93
        assert least <= share <= 0.97, name
