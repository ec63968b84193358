"""What an inspection line does at a threshold: defective parts that pass, good ones that are stopped, and what both cost.

A part is stopped where its score is at the threshold or above. Escape rate: share of the defective parts that pass (1 -
sensitivity). Overkill rate: share of the good parts that are stopped (1 - specificity). Both, and the cost, are functions of
resampled pictures, so they have intervals. A rate of 0 out of few has a bootstrap interval of no width, so what must be proven
is judged by the exact interval of a share (Clopper and Pearson 1934, Biometrika 26).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from honeclip.evaluation.intervals import Indices, Statistic
from honeclip.evaluation.operating import at_threshold

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class Costs:
    """What one defective part that passes costs, and one good part that is stopped, in one unit."""

    escape: float = 10.0
    overkill: float = 1.0


def rates(scores_N: Floats, defective_N: Truth, threshold: float) -> Statistic:
    """ "escape_rate" and "overkill_rate"; NaN in a resample without a defective part, or without a good one."""
    of = at_threshold(scores_N, defective_N, threshold)

    def turned(indices: Indices) -> dict[str, Floats]:
        found = of(indices)
        return {"escape_rate": 1 - found["sensitivity"], "overkill_rate": 1 - found["specificity"]}

    return turned


def cost(scores_N: Floats, defective_N: Truth, threshold: float, costs: Costs) -> Statistic:
    """ "cost_per_part": mean over all parts, at the share of defective ones that the pictures have."""
    stopped = scores_N >= threshold
    each = np.where(defective_N & ~stopped, costs.escape, 0.0) + np.where(~defective_N & stopped, costs.overkill, 0.0)
    return lambda indices: {"cost_per_part": each[indices].mean(1)}


def cheapest_threshold(scores_N: Floats, defective_N: Truth, costs: Costs) -> float:
    """The threshold of least cost on these parts: one of their scores, or infinity, where nothing is stopped.

    Of thresholds that cost the same the highest is taken: it stops the fewest.
    """
    order = np.argsort(-scores_N, kind="stable")
    ordered, bad = scores_N[order], defective_N[order]
    last = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))  # of each distinct score
    escapes = bad.sum() - bad.cumsum()[last]
    stopped = (~bad).cumsum()[last]
    total = np.concatenate([[bad.sum() * costs.escape], escapes * costs.escape + stopped * costs.overkill])
    return float(np.concatenate([[math.inf], ordered[last]])[int(total.argmin())])


def exact(count: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share, `count` of `of`; (0, 1) of none."""
    if not of:
        return 0.0, 1.0
    found = binomtest(count, of).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)
