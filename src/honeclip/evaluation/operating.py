"""Operating points: the threshold that reaches a wanted specificity or sensitivity, and what a threshold gives elsewhere.

A picture is called positive where its score is at the threshold or above. A threshold is chosen on validation and applied to
test: chosen on test it would promise more than it keeps. Net benefit weighs what a threshold finds against what it calls
needlessly (Vickers and Elkin 2006, "Decision Curve Analysis", Medical Decision Making 26).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.intervals import Indices, Statistic

WANTED = 0.95
"""The specificity, or the sensitivity, that a threshold is chosen for."""

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


def threshold_of_specificity(scores_N: Floats, truth_N: Truth, wanted: float = WANTED) -> float:
    """The lowest threshold at which at least the share `wanted` of the negatives lies below it; NaN without a negative."""
    below = np.sort(scores_N[~truth_N])
    if not len(below):
        return math.nan
    return float(np.nextafter(below[_count(wanted, len(below)) - 1], np.inf))


def threshold_of_sensitivity(scores_N: Floats, truth_N: Truth, wanted: float = WANTED) -> float:
    """The highest threshold that at least the share `wanted` of the positives reaches; NaN without a positive."""
    above = np.sort(scores_N[truth_N])[::-1]
    if not len(above):
        return math.nan
    return float(above[_count(wanted, len(above)) - 1])


def _count(wanted: float, of: int) -> int:
    return max(1, math.ceil(wanted * of - 1e-9))  # 0.95 of 20 is 19, whatever the rounding


def at_threshold(scores_N: Floats, truth_N: Truth, threshold: float) -> Statistic:
    """ "sensitivity" (share of the positives called so) and "specificity" (share of the negatives not called so).

    NaN in a resample without a positive, or without a negative.
    """
    called = scores_N >= threshold

    def of(indices: Indices) -> dict[str, Floats]:
        true, yes = truth_N[indices], called[indices]
        return {
            "sensitivity": _share((true & yes).sum(1), true.sum(1)),
            "specificity": _share((~true & ~yes).sum(1), (~true).sum(1)),
        }

    return of


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    found: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return found


def net_benefit(probability_N: Floats, truth_N: Truth, threshold: float) -> Statistic:
    """ "model" and "all": net benefit of calling those at or above a threshold probability, and of calling everybody.

    TP / n - FP / n * threshold / (1 - threshold): a positive found counts 1, and one called needlessly costs the odds at the
    threshold, for who acts at a probability of 0.2 takes four needless calls for a right one. To call nobody gives 0.
    """
    odds = threshold / (1 - threshold)
    worth = np.where(truth_N, 1.0, -odds)
    called = np.where(probability_N >= threshold, worth, 0.0)
    return lambda indices: {"model": called[indices].mean(1), "all": worth[indices].mean(1)}
