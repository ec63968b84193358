"""Brier score, calibration error and curve against scikit-learn and plain code; the temperature against a known one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.special import softmax as by_scipy
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from honeclip.evaluation import calibration
from honeclip.evaluation.calibration import (
    brier,
    calibration_error,
    curve,
    logistic,
    logistic_temperature,
    softmax,
    softmax_temperature,
)


@pytest.fixture
def some():
    random = np.random.default_rng(0)
    probability = random.random(300)
    return probability, random.random(300) < probability**2


def whole(statistic, count):
    return {name: float(value[0]) for name, value in statistic(np.arange(count)[None]).items()}


def test_brier_score_and_curve_are_scikit_learns(some):
    probability, truth = some
    assert whole(brier(probability, truth), 300)["brier"] == pytest.approx(brier_score_loss(truth, probability))
    true, said = calibration_curve(truth, probability, n_bins=10)
    found = curve(probability, truth)
    assert found.true == pytest.approx(true)
    assert found.said == pytest.approx(said)
    assert found.pictures.sum() == 300


@pytest.mark.parametrize("ends", [[0.0, 1.0, 0.1, 0.2], [1.0], [0.0]])
def test_a_probability_on_the_edge_of_a_bin_is_where_scikit_learn_puts_it(ends):
    truth = np.arange(len(ends)) % 2 == 0
    true, said = calibration_curve(truth, ends, n_bins=10)
    found = curve(np.array(ends), truth)
    assert found.true.tolist() == true.tolist()
    assert found.said.tolist() == said.tolist()


def test_the_calibration_error_by_hand():
    """Two bins of fifteen: (0.10, 0.12) of which one is true, 0.90 which is not."""
    probability, truth = np.array([0.10, 0.12, 0.90]), np.array([True, False, False])
    expected = (2 * abs(0.5 - 0.11) + 1 * abs(0 - 0.90)) / 3
    assert whole(calibration_error(probability, truth), 3)["ece"] == pytest.approx(expected)
    assert whole(calibration_error(np.array([1.0, 0.0]), np.array([True, False])), 2)["ece"] == 0


def test_resamples_are_pictures_again(some):
    probability, truth = some
    indices = np.random.default_rng(1).integers(0, 300, (4, 300))
    found = calibration_error(probability, truth)(indices)["ece"]
    for place, drawn in enumerate(indices):
        bins = np.minimum((probability[drawn] * 15).astype(int), 14)
        parts = [abs((truth[drawn] - probability[drawn])[bins == one].sum()) for one in range(15)]
        assert found[place] == pytest.approx(sum(parts) / 300)


def test_probabilities_are_scipys_and_do_not_overflow():
    logits = np.random.default_rng(2).normal(0, 300, (20, 4))
    assert softmax(logits, 2.0) == pytest.approx(by_scipy(logits / 2, axis=1))
    assert logistic(logits, 2.0) == pytest.approx(expit(logits / 2))


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_the_data_was_drawn_with_is_found(true):
    random = np.random.default_rng(3)
    logits = random.normal(0, 3, (20_000, 3))
    drawn = (by_scipy(logits / true, axis=1).cumsum(1) < random.random((20_000, 1))).sum(1)
    assert softmax_temperature(logits, drawn) == pytest.approx(true, rel=0.05)
    yes = random.random(20_000) < expit(logits[:, 0] / true)
    assert logistic_temperature(logits[:, 0], yes) == pytest.approx(true, rel=0.07)


def test_no_other_temperature_has_a_smaller_log_loss():
    random = np.random.default_rng(4)
    logits, truth = random.normal(0, 4, (200, 5)), random.integers(0, 5, 200)
    logits[np.arange(200), truth] += 3

    def loss(logarithm: float) -> float:
        return log_loss(truth, by_scipy(logits / np.exp(logarithm), axis=1), labels=range(5))

    best = np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x)
    assert softmax_temperature(logits, truth) == pytest.approx(best, rel=1e-4)


def test_answers_that_are_all_right_or_all_wrong_have_a_temperature_within_bounds():
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert softmax_temperature(logits, np.array([0, 1])) == pytest.approx(calibration.COOLEST)
    assert softmax_temperature(logits, np.array([1, 0])) == pytest.approx(calibration.HOTTEST)
    assert np.isfinite(softmax(logits, calibration.COOLEST)).all()
    assert calibration.COOLEST <= softmax_temperature(np.zeros((3, 2)), np.array([0, 1, 1])) <= calibration.HOTTEST
