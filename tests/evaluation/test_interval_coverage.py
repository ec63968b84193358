"""How often an interval of 95 % holds the truth, for figures of the suites on drawn pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from honeclip.evaluation.calibration import BINS, brier, calibration_figure, logistic
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


def coverage(
    pictures: int, draws: int, truth: dict[str, float], seed: int, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Share of the draws whose interval holds the truth."""
    random = np.random.default_rng(seed)
    held = dict.fromkeys(truth, 0)
    for draw in range(draws):
        has = random.random(pictures) < SHARE
        scores = random.normal(size=pictures) + APART * has
        said = probability(scores)
        benefit = net_benefit(said, has, RISK)
        found = {"ece": calibration_figure(said, has, draw, resamples)}
        for of in (
            separation(scores, has),
            at_threshold(scores, has, THRESHOLD),
            brier(said, has),
            lambda indices, benefit=benefit: {"net_benefit": benefit(indices)["model"]},
        ):
            found |= known(of, pictures, draw, resamples)
        for name in truth:
            held[name] += found[name]["low"] <= truth[name] <= found[name]["high"]
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
    found = coverage(100, 300, truth, seed=1, resamples=400)
    for name, share in (found | coverage_of_ranks(100, 300, queries, seed=1)).items():
        assert 0.90 <= share <= 0.985, name


def test_a_calibrated_model_is_not_called_uncalibrated():
    """15 bins of 100 pictures: the sample's own error is 0.12 by chance alone, and its interval begins at 0 all the same."""
    random = np.random.default_rng(4)
    found = []
    for draw in range(60):
        said = random.beta(2, 2, size=100)
        found.append(calibration_figure(said, random.random(100) < said, draw))
    assert np.mean([one["value"] for one in found]) > 0.1
    assert np.mean([one["low"] == 0 for one in found]) >= 0.9
    assert all(one["low"] <= one["value"] <= one["high"] for one in found)


def test_an_uncalibrated_model_is_not_called_calibrated():
    """Logits four times too large: the true error is 0.196, and the interval holds it and not 0."""
    random = np.random.default_rng(4)
    held = 0
    for draw in range(60):
        logits = random.normal(size=400)
        one = calibration_figure(logistic(4 * logits), random.random(400) < logistic(logits), draw)
        assert one["low"] > 0.05
        held += one["low"] <= 0.196 <= one["high"]
    assert held >= 53


@pytest.mark.slow  # ten minutes in all
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("count", [100, 400])
def test_coverage_of_5000_draws(truth, queries, count):
    """93 to 97 %. Average precision of 40 positives is the exception: it is read off its own sample, so it lies too high, and
    its interval with it: 0.927 measured, held here to 0.92."""
    found = coverage(count, 5000, truth, seed=0)
    for name, share in (found | coverage_of_ranks(count, 5000, queries, seed=0)).items():
        least = 0.92 if (name, count) == ("average_precision", 100) else 0.93
        assert least <= share <= 0.97, name
