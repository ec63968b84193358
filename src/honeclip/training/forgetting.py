"""What a run has forgotten, measured while it goes on, and whether that is within the bound.

Forgetting is the selection score that the start had on the guard minus the score now. Between steps its val split is asked:
past `evaluate.max_forgetting` the run ends, or goes back, and BEST is the best of those evaluations that kept within the bound.
Its test split is scored before the first step and at the end, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from honeclip.embedding.features import Features
from honeclip.evaluation.answers import Metrics
from honeclip.model.clip import Clip
from honeclip.training.guard import Guard
from honeclip.training.validation import Score, measure

Starts = Mapping[int, Score]
"""By image size in pixels, what the start got on the guard's val split: scores at two sizes are of different pictures."""


@dataclass(frozen=True)
class Seen:
    """One look at a guard: how much is forgotten, whether that is within the bound, METRICS, and all of it in words."""

    forgotten: float
    within: bool
    metrics: Metrics
    words: str


def look(guard: Guard, clip: Clip, features: Features, starts: Starts) -> Seen:
    """What the model has forgotten by now.

    Args:
        guard: what it is asked.
        clip: as it is now.
        features: caches of bodies that are frozen.
        starts: what the start got, with an entry for the size that the model has now.

    Raises:
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    return judged(guard, measure(clip, guard.val, features), starts[clip.preprocess.size_px])


def judged(guard: Guard, found: Score, start: Score) -> Seen:
    """What a score on the guard's val split means beside that of the start."""
    forgotten = start.value - found.value
    words = f"{found.words} on {guard.name} is {found.value:.3f} and was {start.value:.3f} at the start"
    return Seen(forgotten, forgotten <= guard.limit, found.metrics, words)


def told(metrics: Metrics, guard: Guard, of_guard: Metrics) -> Metrics:
    """METRICS with those of the guard as their section `forgetting`."""
    return {**metrics, "forgetting": {guard.name: of_guard}}
