"""Checks of an evaluation by itself: labels that were shuffled must come out at chance, with the same scores and figures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.intervals import Figure
from honeclip.evaluation.multilabel import Scores, Truth, separation

SHUFFLES = 200


def shuffled_auroc(scores_N: Scores, truth_N: Truth, seed: int, shuffles: int = SHUFFLES) -> Figure | None:
    """The AUROC of the same scores against the labels of other pictures: its mean, and the middle 95 % of the shuffles.

    None where all pictures have the finding or none has. Chance is 0.5; how far the 95 % reach is how far an AUROC of this many
    pictures strays from it by luck.
    """
    if truth_N.all() or not truth_N.any():
        return None
    random = np.random.default_rng(seed)
    whole: NDArray[np.int64] = np.arange(len(truth_N), dtype=np.int64)[None]
    found = [float(separation(scores_N, random.permutation(truth_N))(whole)["auroc"][0]) for _ in range(shuffles)]
    low, high = np.percentile(found, [2.5, 97.5])
    return {"value": float(np.mean(found)), "low": float(low), "high": float(high)}


def at_chance(shuffled: Figure) -> bool:
    """Whether chance lies in the middle 95 % of the shuffles."""
    return shuffled["low"] <= 0.5 <= shuffled["high"]
