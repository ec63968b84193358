"""Whether a probability is what it says: Brier score, calibration error and curve, and the temperature that mends it.

Every figure is a function of resampled pictures, so that it has an interval. A temperature divides the logits before the
softmax (several classes) or the logistic function (one finding, yes or no); it is fitted on validation by the log loss and
moves no order of the classes (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.intervals import Figure, Indices, Statistic
from honeclip.model.calibration import Floats, logistic, softmax

BINS = 15
"""Equally wide, as in Guo et al. 2017 and in the `zeroshot` section of METRICS."""

COOLEST, HOTTEST = 0.02, 50.0
"""A temperature stays within them: where every answer on validation is right, none is cold enough."""


def softmax_temperature(logits_NC: Floats, truth_N: NDArray[np.int64]) -> float:
    """The temperature of least log loss.

    Args:
        logits_NC: the model's own scale times the cosines.
        truth_N: the class of each picture.
    """
    own = logits_NC[np.arange(len(truth_N)), truth_N]

    def slope(inverse: float) -> float:
        return float(((softmax(logits_NC, 1 / inverse) * logits_NC).sum(1) - own).mean())

    return _where_flat(slope)


def logistic_temperature(logits: Floats, truth: NDArray[np.bool_]) -> float:
    """The same for yes and no; logits and truth have one shape, such as (pictures, findings)."""

    def slope(inverse: float) -> float:
        return float(((logistic(logits, 1 / inverse) - truth) * logits).mean())

    return _where_flat(slope)


def _where_flat(slope: Callable[[float], float]) -> float:
    """1 / the inverse temperature at which the slope of the log loss is 0; the slope rises, so its logarithm is bisected."""
    low, high = np.log(1 / HOTTEST), np.log(1 / COOLEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(float(np.exp(middle))) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def brier(probability_N: Floats, truth_N: NDArray[np.bool_]) -> Statistic:
    """ "brier": the mean squared distance of probability and truth (Brier 1950; scikit-learn's `brier_score_loss`)."""
    squared = (probability_N - truth_N) ** 2
    return lambda indices: {"brier": squared[indices].mean(1)}


def calibration_error(probability_N: Floats, truth_N: NDArray[np.bool_]) -> Statistic:
    """ "ece": over bins of the probability, the mean distance of how probable and how frequent, weighted by pictures.

    With the probability of the class that is most probable, and whether it is the right one, it is the expected calibration
    error of Guo et al. 2017, equation 3; with the probability of a finding, and whether it is there, that of a finding.
    """
    bins = _bin_of(probability_N, BINS)
    gap = truth_N - probability_N

    def of(indices: Indices) -> dict[str, Floats]:
        keys = (bins[indices] + np.arange(len(indices))[:, None] * BINS).ravel()
        summed = np.bincount(keys, gap[indices].ravel(), minlength=len(indices) * BINS).reshape(len(indices), BINS)
        return {"ece": np.abs(summed).sum(1) / indices.shape[1]}

    return of


def calibration_figure(probability_NF: Floats, truth_NF: NDArray[np.bool_], seed: int, draws: int = 1000) -> Figure:
    """The calibration error with its 95 % interval; of several findings (columns) the mean.

    The error of a sample is too large: chance alone makes bins look wrong, and a bootstrap adds as much again. So the test
    is inverted (Carpenter 1999, "Test inversion bootstrap confidence intervals"): the gaps of the bins are made larger and
    smaller by one factor, pictures are drawn as if those were the truth, and the ends are the true errors of which so
    large, and so small, an error comes up 1 time in 40. It begins at 0 where a calibrated model is not ruled out. An
    upper end below the sample's own error is raised to it.

    Args:
        probability_NF: (pictures,) or (pictures, findings).
        truth_NF: of the same shape. Findings of one picture are drawn as if they came up independently.
        seed: of the draws.
        draws: at each factor.
    """
    bins = [_bins(*pair) for pair in zip(np.atleast_2d(probability_NF.T), np.atleast_2d(truth_NF.T), strict=True)]
    value = float(np.mean([one.error(1.0) for one in bins]))

    def drawn(factor: float) -> Floats:
        random = np.random.default_rng(seed)  # the same numbers at every factor, so that shares rise with it
        return np.asarray(np.mean([one.drawn(factor, random, draws) for one in bins], axis=0))

    def end(share: float) -> float:
        low, high = 0.0, 4.0
        for _ in range(10):
            middle = (low + high) / 2
            found = drawn(middle)
            # errors of few pictures come up again and again; equal ones differ in their last bits
            above = float((found > value + 1e-9).mean() + (found > value - 1e-9).mean()) / 2
            low, high = (middle, high) if above < share else (low, middle)
        return float(np.mean([one.error(low) for one in bins]))

    return {"value": value, "low": min(end(0.025), value), "high": max(end(0.975), value)}


@dataclass(frozen=True)
class _Bins:
    """The bins that hold a picture: share of the pictures, mean probability, share that is true."""

    share: Floats
    said: Floats
    true: Floats
    pictures: int

    def true_at(self, factor: float) -> Floats:
        return np.clip(self.said + factor * (self.true - self.said), 0, 1)

    def error(self, factor: float) -> float:
        """The calibration error, were the gaps `factor` times as large."""
        return float((self.share * np.abs(self.true_at(factor) - self.said)).sum())

    def drawn(self, factor: float, random: np.random.Generator, draws: int) -> Floats:
        """The error of `draws` samples of as many pictures."""
        held = random.multinomial(self.pictures, self.share, size=draws)
        gaps = random.binomial(held, self.true_at(factor)) - held * self.said
        return np.asarray(np.abs(gaps).sum(1) / self.pictures)


def _bins(probability_N: Floats, truth_N: NDArray[np.bool_]) -> _Bins:
    one = curve(probability_N, truth_N, BINS)
    return _Bins(one.pictures / len(truth_N), one.said, one.true, len(truth_N))


@dataclass(frozen=True)
class Curve:
    """The bins that hold a picture: mean probability, share that is true, pictures; in the order of the probability."""

    said: Floats
    true: Floats
    pictures: NDArray[np.int64]


def curve(probability_N: Floats, truth_N: NDArray[np.bool_], bins: int = 10) -> Curve:
    """A calibration curve of equally wide bins, as scikit-learn's `calibration_curve` draws it."""
    place = _bin_of(probability_N, bins)
    count = np.bincount(place, minlength=bins)
    some = count > 0
    said = np.bincount(place, probability_N, minlength=bins)[some] / count[some]
    true = np.bincount(place, truth_N.astype(np.float64), minlength=bins)[some] / count[some]
    return Curve(said, true, count[some])


def _bin_of(probability_N: Floats, bins: int) -> NDArray[np.int64]:
    """Equally wide bins, each with its upper end and without its lower one (Guo et al. 2017, section 2)."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability_N)
