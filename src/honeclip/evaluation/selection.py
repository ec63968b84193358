"""The one number by which a field compares checkpoints: which figures of METRICS it is made of, its value, its interval.

The best checkpoint, early stopping, `tune` and the first sentence of a report all take it from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.domains.schema import Metric
from honeclip.evaluation.intervals import Figure, Statistic, bootstrap, figure

METRIC_WORDS: dict[Metric, str] = {
    "R@1": "R@1",
    "R@5": "R@5",
    "R@10": "R@10",
    "median_rank": "1 / median rank",
    "accuracy": "zero-shot accuracy",
    "balanced_accuracy": "zero-shot balanced accuracy",
    "macro_f1": "zero-shot macro F1",
}
"""Of every metric that a domain can name (`domains.schema.Metric`)."""

ZERO_SHOT: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")

Weights = Mapping[Metric, float]
Sections = Mapping[str, tuple[Statistic, int]]
"""`answers.sections`: image_to_text, text_to_image and, with labels, zeroshot: a statistic and its number of queries."""


def selection_score(found: Mapping[str, Any], selection: str, metrics: Weights | None = None) -> tuple[float, str]:
    """The one number by which checkpoints are compared (higher is better), and what it is in words.

    Args:
        found: METRICS of the validation split.
        selection: of the domain; see `used`.
        metrics: those of the domain, with their weights.
    """
    weights = used(found, selection, metrics)
    total = sum(weights.values())
    value = sum(weight * _value(found, name) for name, weight in weights.items()) / total
    return value, in_words(weights, metrics if selection == "metrics" else None)


def used(found: Mapping[str, Any], selection: str, metrics: Weights | None = None) -> dict[Metric, float]:
    """Which figures make the score of a split, each with its weight.

    Args:
        found: METRICS of the split: a figure that it does not have is left out together with its weight.
        selection: "metrics": the mean of `metrics` by their weights. "balanced_accuracy": that, where the data has labels.
            "retrieval" or "auto", and where the other two find nothing: R@10, and balanced accuracy where R@10 is left out
            for lack of candidates; a split too small for either has R@5, R@1, or the median rank.
        metrics: those of the domain, with their weights.
    """
    if selection == "metrics":
        there = {name: float(weight) for name, weight in (metrics or {}).items() if _has(found, name)}
        if there:
            return there
    if selection == "balanced_accuracy" and _has(found, "balanced_accuracy"):
        return {"balanced_accuracy": 1.0}
    order: tuple[Metric, ...] = ("R@10", "balanced_accuracy", "R@5", "R@1", "median_rank")
    return {next(name for name in order if _has(found, name)): 1.0}


def in_words(weights: Weights, asked: Weights | None = None) -> str:
    """What a score is made of, and which of the figures that a domain asked for are missing in it."""
    left_out = [METRIC_WORDS[name] for name in asked or {} if name not in weights]
    if len(weights) == 1:
        (name,) = weights
        said = METRIC_WORDS[name] if name in ZERO_SHOT else f"mean of both {METRIC_WORDS[name]}"
    else:
        said = "weighted mean of " + _listed([f"{METRIC_WORDS[name]} ({weight:g})" for name, weight in weights.items()])
    return f"{said}, without {_listed(left_out)}, which this split cannot give" if left_out else said


def drawn(sections: Sections, weights: Weights, seed: int = 0) -> tuple[float, NDArray[np.float64]]:
    """The score of a split and its draws (resamples,) for an interval.

    Every kind of query is drawn with the same seed. Where each picture has a caption of its own, picture and caption are so
    drawn together; where their numbers differ they are drawn apart.

    Args:
        sections: of the answers.
        weights: figures that the split has: `used`.
        seed: the same seed draws the same queries, for every model.
    """
    whole = {
        way: {name: float(values[0]) for name, values in of(np.arange(queries, dtype=np.int64)[None]).items()}
        for way, (of, queries) in sections.items()
    }
    again = {way: bootstrap(of, queries, seed) for way, (of, queries) in sections.items()}
    value: Any = combined(whole, weights)
    return float(value), np.asarray(combined(again, weights), dtype=np.float64)


def difference(before: Sections, after: Sections, weights: Weights, seed: int = 0) -> Figure:
    """The score of `after` minus that of `before` on the same resampled queries, with its 95 % interval."""
    old, new = drawn(before, weights, seed), drawn(after, weights, seed)
    return figure(new[0] - old[0], new[1] - old[1])


def combined(found: Mapping[str, Mapping[str, Any]], weights: Weights) -> Any:
    """The weighted mean of figures by section, of retrieval the mean over both directions; numbers or arrays of them."""
    total = sum(weights.values())
    return sum(weight / total * _of(found, name) for name, weight in weights.items())


def section(
    found: Mapping[str, Any], sections: Sections, selection: str, metrics: Weights | None, seed: int
) -> dict[str, Any] | None:
    """The section `selection` of METRICS: the score with its interval, what it is in words, and the weights of its figures.

    None where the score is one figure of retrieval: that leads a report anyway.
    """
    weights = used(found, selection, metrics)
    if len(weights) == 1 and not set(weights) & set(ZERO_SHOT):
        return None
    words = in_words(weights, metrics if selection == "metrics" else None)
    return {"score": figure(*drawn(sections, weights, seed)), "words": words, "weights": weights}


def _of(found: Mapping[str, Mapping[str, Any]], name: Metric) -> Any:
    if name in ZERO_SHOT:
        return found["zeroshot"][name]
    ways = [found[way][name] for way in ("image_to_text", "text_to_image")]
    return (1 / ways[0] + 1 / ways[1]) / 2 if name == "median_rank" else (ways[0] + ways[1]) / 2


def _has(found: Mapping[str, Any], name: Metric) -> bool:
    if name in ZERO_SHOT:
        return name in found.get("zeroshot", {})
    return all(name in way for way in found["retrieval"].values())


def _value(found: Mapping[str, Any], name: Metric) -> float:
    sections = {**found["retrieval"], "zeroshot": found.get("zeroshot", {})}
    values = {
        way: {key: one["value"] for key, one in figures.items() if isinstance(one, Mapping)}
        for way, figures in sections.items()
    }
    return float(_of(values, name))


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
