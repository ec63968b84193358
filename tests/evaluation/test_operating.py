"""Thresholds, sensitivity, specificity and net benefit against scikit-learn's curve and cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_curve

from honeclip.evaluation.operating import (
    at_threshold,
    net_benefit,
    threshold_of_sensitivity,
    threshold_of_specificity,
)


def whole(statistic, count):
    return {name: float(value[0]) for name, value in statistic(np.arange(count)[None]).items()}


@pytest.mark.parametrize("levels", [1000, 9], ids=["all different", "many equal"])
def test_a_threshold_is_the_best_point_of_scikit_learns_curve(levels):
    random = np.random.default_rng(levels)
    truth = random.random(400) < 0.3
    scores = np.round((random.normal(size=400) + truth) * levels / 8)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    found = whole(at_threshold(scores, truth, threshold_of_specificity(scores, truth)), 400)
    assert found["sensitivity"] == pytest.approx(true[1 - false >= 0.95 - 1e-12].max())
    assert found["specificity"] >= 0.95
    found = whole(at_threshold(scores, truth, threshold_of_sensitivity(scores, truth)), 400)
    assert found["specificity"] == pytest.approx((1 - false)[true >= 0.95 - 1e-12].max())
    assert found["sensitivity"] >= 0.95


def test_by_hand():
    """20 negatives 1..20: 95 % of them are 19, so the threshold lies just above 19; one positive of four is over it."""
    scores = np.array([*range(1, 21), 5, 18, 19, 30.0])
    truth = np.arange(24) >= 20
    threshold = threshold_of_specificity(scores, truth)
    assert 19 < threshold < 19.001
    assert whole(at_threshold(scores, truth, threshold), 24) == {"sensitivity": 0.25, "specificity": 0.95}
    assert threshold_of_sensitivity(scores, truth) == 5, "four of four, for three are 75 %"


def test_all_scores_equal():
    scores, truth = np.ones(10), np.arange(10) < 5
    assert whole(at_threshold(scores, truth, threshold_of_specificity(scores, truth)), 10)["sensitivity"] == 0
    assert whole(at_threshold(scores, truth, threshold_of_sensitivity(scores, truth)), 10)["specificity"] == 0


def test_without_a_positive_or_a_negative_there_is_no_threshold_and_no_share():
    scores = np.arange(4.0)
    assert math.isnan(threshold_of_specificity(scores, np.ones(4, dtype=bool)))
    assert math.isnan(threshold_of_sensitivity(scores, np.zeros(4, dtype=bool)))
    found = whole(at_threshold(scores, np.ones(4, dtype=bool), 2.0), 4)
    assert found["sensitivity"] == 0.5
    assert math.isnan(found["specificity"])


def test_net_benefit_is_vickers_and_elkins_formula():
    random = np.random.default_rng(5)
    truth = random.random(200) < 0.25
    probability = np.clip(0.25 + 0.3 * (truth - 0.25) + random.normal(0, 0.2, 200), 0, 1)
    for threshold in (0.05, 0.2, 0.5):
        _, false, _, true = confusion_matrix(truth, probability >= threshold).ravel()
        found = whole(net_benefit(probability, truth, threshold), 200)
        assert found["model"] == pytest.approx(true / 200 - false / 200 * threshold / (1 - threshold))
        share = truth.mean()
        assert found["all"] == pytest.approx(share - (1 - share) * threshold / (1 - threshold))
    # the threshold at which calling everybody is worth nothing is the share itself
    assert whole(net_benefit(probability, truth, truth.mean()), 200)["all"] == pytest.approx(0)
