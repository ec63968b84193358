"""By how much one model's selection score differs from another's on the same queries, with its interval.

The score is that by which checkpoints are compared (`selection.selection_score`), so that what a run has won in its field and
what it has lost elsewhere are read in the same number as BEST and `evaluate.max_forgetting`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from honeclip.domains.domain import Domain
from honeclip.evaluation import selection
from honeclip.evaluation.answers import Answers, Metrics, sections
from honeclip.evaluation.intervals import Figure, figure


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
    value, words = selection.selection_score(metrics, domain.selection, domain.metrics)
    weights = selection.used(metrics, domain.selection, domain.metrics)
    _, draws = selection.drawn(sections(answers), weights, seed)
    return Score(value, words, draws, answers.queries)


def apart(before: Score, after: Score) -> Figure | None:
    """`after` minus `before` with the interval over the same resampled queries; None where they were asked other things."""
    if before.queries != after.queries:
        return None
    return figure(after.value - before.value, after.draws - before.draws)
