"""By how much one model's selection score differs from another's on the same queries, with its interval.

The score is that by which checkpoints are compared (`answers.selection_score`), so that what a run has won in its field and
what it has lost elsewhere are read in the same number as BEST and `evaluate.max_forgetting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.domains.domain import Domain
from honeclip.evaluation import retrieval, zeroshot
from honeclip.evaluation.answers import Answers, Metrics, selection_score
from honeclip.evaluation.intervals import Figure, bootstrap, figure


@dataclass(frozen=True, eq=False)
class Score:
    """A model's selection score on a split.

    Attributes:
        value: higher is better.
        words: what it is.
        draws: (resamples,) the same on resampled queries; the same seed drew the same queries for every model.
        queries: a hash of what was asked.
    """

    value: float
    words: str
    draws: NDArray[np.float64]
    queries: str

    def figure(self) -> Figure:
        """With its 95 % interval."""
        return figure(self.value, self.draws)


def scored(metrics: Metrics, answers: Answers, domain: Domain, seed: int) -> Score:
    """The selection score and its draws.

    Args:
        metrics: of the split.
        answers: the outcome of every query, for the resamples.
        domain: says what the score is.
        seed: of the bootstrap.
    """
    value, words = selection_score(metrics, domain.selection)
    ways = {name: bootstrap(of, queries, seed) for name, (of, queries) in retrieval.statistics(answers.ranks).items()}
    shot: dict[str, NDArray[np.float64]] = {}
    if answers.predictions is not None:
        shot = bootstrap(zeroshot.statistic(answers.predictions), len(answers.predictions.truth), seed)
    resamples = len(next(iter(next(iter(ways.values())).values())))
    draws = [selection_score(_drawn(ways, shot, row), domain.selection)[0] for row in range(resamples)]
    return Score(value, words, np.asarray(draws, dtype=np.float64), answers.queries)


def apart(before: Score, after: Score) -> Figure | None:
    """`after` minus `before` with the interval over the same resampled queries; None where they were asked other things."""
    if before.queries != after.queries:
        return None
    return figure(after.value - before.value, after.draws - before.draws)


def _drawn(
    ways: Mapping[str, Mapping[str, NDArray[np.float64]]], shot: Mapping[str, NDArray[np.float64]], row: int
) -> dict[str, Any]:
    """METRICS, as far as a selection score reads them, of one resample."""
    found: dict[str, Any] = {
        "retrieval": {
            way: {name: {"value": float(values[row])} for name, values in of.items()} for way, of in ways.items()
        }
    }
    if shot:
        found["zeroshot"] = {name: {"value": float(values[row])} for name, values in shot.items()}
    return found
