"""Scores while a run goes on: the val split through the model now and then, the best so far, and when to give up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from honeclip.embedding.features import Features
from honeclip.evaluation.answers import Metrics
from honeclip.evaluation.health import shown
from honeclip.evaluation.selection import selection_score
from honeclip.model.clip import Clip
from honeclip.training.asked import Asked
from honeclip.training.state import Position


@dataclass(frozen=True)
class Score:
    """One evaluation: the number by which checkpoints are compared, what it is in words, METRICS, and what else an event says
    of it: see `evaluation.health`; empty where nobody asked."""

    value: float
    words: str
    metrics: Metrics
    health: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Mapping[str, Any]] = ()


def measure(clip: Clip, asked: Asked, features: Features, healthy: bool = False) -> Score:
    """The model's score on the val split, as it is now; `healthy`: and its health, from the same embeddings."""
    report = asked.report(clip, features, healthy=healthy)
    value, words = selection_score(report.metrics, asked.domain.selection, asked.domain.metrics)
    if report.health is None:
        return Score(value, words, report.metrics)
    seen = shown(report.examples, report.answers, asked.pairs)
    return Score(value, words, report.metrics, report.health, seen)


def judge(position: Position, found: Score, within: bool = True) -> tuple[Position, bool, str]:
    """The position after an evaluation, whether it is the best so far, and a sentence where something is to be said.

    Args:
        position: before it.
        found: the score on val.
        within: whether the model has forgotten no more than it may; otherwise it cannot be the best.
    """
    best = within and (position.best_score is None or found.value > position.best_score)
    after = replace(
        position,
        best_score=found.value if best else position.best_score,
        worse=0 if best else position.worse + 1,
    )
    said = ""
    if position.start_score is not None and found.value < position.start_score:
        said = (
            f"step {position.step}: {found.words} on val is {found.value:.3f}, below the {position.start_score:.3f} that "
            "the model had at the start"
        )
    return after, best, said
