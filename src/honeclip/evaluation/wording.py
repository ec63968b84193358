"""Figures in words: the sentence at the head of a report, the cells of its table, the rank under a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from honeclip.evaluation.answers import Answers, Metrics

DIRECTIONS = (
    ("image_to_text", "Image to text", "Image-to-text"),
    ("text_to_image", "Text to image", "Text-to-image"),
)
SHOTS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("macro_f1", "macro F1"),
    ("ece", "calibration error (ECE)"),
)
LOWER_IS_BETTER = ("median_rank", "ece")

METHOD = (
    "R@k: share of queries with a right answer among the first k; candidates of image to text are the distinct "
    "captions, of text to image all pictures; every partner of a repeated caption or picture is right; ties count "
    "against the model. Intervals: 95 %, bias-corrected bootstrap over queries with the gallery as it is. Change: both "
    "models on the same resampled queries. A figure that is the same for every query has an interval without width, "
    "however few the queries."
)
UNPAIRED = (
    "The two models were not asked the same queries (a picture could not be read once), so no change is given.",
)
EXAMPLES = (
    (
        "sample",
        "Pictures chosen at random",
        "With the captions that the model finds nearest, best first. The number is the cosine of picture and caption.",
    ),
    ("worst", "Where it fails", "The pictures whose right caption came furthest down."),
)
CLASSES = (
    "Each picture is given the label whose prompts are nearest. Recall: share of the pictures of a class that were "
    "given it; precision: share of the pictures given a class that are of it."
)


def at(found: Mapping[str, Any] | None, path: Sequence[str]) -> Any:
    """The value at a path of nested mappings, None where one is missing."""
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def verdict(
    before: Metrics | None, after: Metrics, difference: Mapping[str, Any] | None, answers: Answers | None = None
) -> str:
    """One sentence on what the domain selects by: its score where METRICS have one, else the most telling retrieval figure.

    Args:
        before: METRICS of the model before a run; None where there is one model only.
        after: METRICS.
        difference: the paired difference, where there is one.
        answers: those of `after`: what chance gives is said as well, where there is one model only.
    """
    path, words = _headline(after)
    new, old, change = at(after, path), at(before, path), at(difference, path)
    pairs = f"{after['pairs']} {'held-out' if after['split'] == 'test' else after['split']} pairs"
    if old is None:
        chance = _chance_of(path, after, answers)
        guess = "" if chance is None else f", chance {_value(path, {'value': chance})}"
        return (
            f"{words} is {_value(path, new)} (95 % interval {_span(path, new)}{guess}) on {pairs} of {after['data']}."
        )
    moved = "rose" if new["value"] > old["value"] else "fell" if new["value"] < old["value"] else "stayed"
    values = f"at {_value(path, new)}" if moved == "stayed" else f"from {_value(path, old)} to {_value(path, new)}"
    start = f"{words} {moved} {values}"
    if change is None:
        return f"{start} on {pairs} of {after['data']}."
    span = f"{_signed(path, change['low'])} to {_signed(path, change['high'])}"
    sure = "" if _clear(change) or moved == "stayed" else ": that could be chance"
    return f"{start} ({_signed(path, change['value'])}, 95 % interval {span}) on {pairs} of {after['data']}{sure}."


def facts(metrics: Metrics, environment: Mapping[str, Any]) -> str:
    """The line under the verdict: model, size, device."""
    named = [environment.get(name) for name in ("model", "device")]
    return " · ".join([str(value) for value in named if value] + [f"{metrics['size_px']} px"])


def table(
    before: Metrics | None, after: Metrics, difference: Mapping[str, Any] | None, answers: Answers
) -> dict[str, Any]:
    """Columns, groups of rows and the note of the table of scores, for the template."""
    groups = []
    counts = {"image_to_text": answers.ranks.text_to_image, "text_to_image": answers.ranks.image_to_text}
    for way, title, _ in DIRECTIONS:
        candidates = len(counts[way])
        rows = [
            _row(before, after, difference, ("retrieval", way, name), name.replace("_", " "), _chance(name, candidates))
            for name in after["retrieval"][way]
        ]
        groups.append({"title": f"{title}, {candidates} candidates", "rows": rows})
    if "zeroshot" in after:
        shot = after["zeroshot"]
        chance = {"accuracy": shot["chance"], "balanced_accuracy": shot["chance"]}
        rows = [_row(before, after, difference, ("zeroshot", name), words, chance.get(name)) for name, words in SHOTS]
        groups.append({"title": f"Zero-shot, {shot['classes']} classes", "rows": rows})
    return {
        "columns": ["before", "after", "change", "chance"] if before else ["value", "chance"],
        "groups": groups,
        "table_note": "Small: 95 % intervals. Median rank and calibration error: less is better.",
    }


def shares(metrics: Metrics) -> list[tuple[str, tuple[str, ...]]]:
    """Names and paths of the figures between 0 and 1 of which more is better, for the chart of scores."""
    out: list[tuple[str, tuple[str, ...]]] = []
    for way, title, _ in DIRECTIONS:
        out += [(f"{title} {k}", ("retrieval", way, k)) for k in metrics["retrieval"][way] if k.startswith("R@")]
    if "zeroshot" in metrics:
        out += [(f"Zero-shot {words}", ("zeroshot", name)) for name, words in SHOTS if name not in LOWER_IS_BETTER]
    return out


def rank(now: int, earlier: int | None, total: int) -> str:
    """Where the right caption came, and where it came before."""
    was = "" if earlier is None else f" (before: {earlier})"
    return f"right caption is number {now} of {total}{was}"


def score_words(scored: Sequence[Mapping[str, Any]]) -> str:
    """The caption of the validation chart: what the score is, where an event says so."""
    words = next((str(event["words"]) for event in scored if event.get("words")), "the domain's selection score")
    return f"On the validation split: {words}."


def share(value: float | None) -> str:
    """0.873 -> "0.87"; None, where there is no such figure, -> a dash."""
    return "–" if value is None else f"{value:.2f}"


def cosine(value: float) -> str:
    """0.3 -> "0.30", with a real minus sign."""
    return f"{value:.2f}".replace("-", "−")


def told(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, data and machine, a row each; what is nested becomes one row of names and values."""
    rows = []
    for name, value in environment.items():
        text = ", ".join(f"{one} {of}" for one, of in flat(value)) if isinstance(value, Mapping) else str(value)
        if value is not None and text:
            rows.append((name.replace("_", " "), text))
    return rows


def flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of dotted names and values in words."""
    out: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            out += flat(value, f"{prefix}{name}.")
        elif value is not None and value != "":
            text = ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)
            out.append((f"{prefix}{name}", text))
    return out


def _headline(metrics: Metrics) -> tuple[tuple[str, ...], str]:
    words = at(metrics, ("selection", "words"))
    if words is not None:
        return ("selection", "score"), f"{words[:1].upper()}{words[1:]}"
    ways = metrics["retrieval"]
    for k in ("R@10", "R@5", "R@1"):
        for way, _, words in DIRECTIONS:
            if k in ways[way]:
                return ("retrieval", way, k), f"{words} {k}"
    return ("retrieval", "image_to_text", "median_rank"), "Image-to-text median rank"


def _row(
    before: Metrics | None,
    after: Metrics,
    difference: Mapping[str, Any] | None,
    path: tuple[str, ...],
    name: str,
    chance: float | None,
) -> dict[str, Any]:
    cells = [_cell(path, at(after, path))]
    if before:
        cells = [_cell(path, at(before, path)), *cells, _change(path, at(difference, path))]
    return {"name": name, "cells": [*cells, {"value": _value(path, {"value": chance})} if chance is not None else None]}


def _cell(path: Sequence[str], figure: Mapping[str, float] | None) -> dict[str, str] | None:
    return {"value": _value(path, figure), "interval": _span(path, figure)} if figure else None


def _change(path: Sequence[str], figure: Mapping[str, float] | None) -> dict[str, str] | None:
    """The paired difference; marked better or worse only where its interval leaves 0 out, and in words too."""
    if not figure:
        return None
    out = {
        "value": _signed(path, figure["value"]),
        "interval": f"{_signed(path, figure['low'])} to {_signed(path, figure['high'])}",
    }
    if not _clear(figure):
        return {**out, "word": "not clear"}
    better = (figure["value"] > 0) != (path[-1] in LOWER_IS_BETTER)
    return {**out, "kind": "good" if better else "bad", "word": "better" if better else "worse"}


def _chance(name: str, candidates: int) -> float:
    """What ranking at random gives a query with one right candidate."""
    return (candidates + 1) / 2 if name == "median_rank" else min(1.0, int(name.removeprefix("R@")) / candidates)


def _chance_of(path: tuple[str, ...], metrics: Metrics, answers: Answers | None) -> float | None:
    """What guessing gives, where that is known of the figure at the head of a report."""
    if path[0] == "selection":
        named = set(metrics["selection"]["weights"])
        return float(metrics["zeroshot"]["chance"]) if named <= {"accuracy", "balanced_accuracy"} else None
    return _chance(path[-1], len(answers.ranks.text_to_image)) if answers and path[1] == "image_to_text" else None


def _clear(change: Mapping[str, float]) -> bool:
    return change["low"] > 0 or change["high"] < 0


def _value(path: Sequence[str], figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.1f}" if path[-1] == "median_rank" else f"{figure['value']:.3f}"


def _span(path: Sequence[str], figure: Mapping[str, float]) -> str:
    return " to ".join(_value(path, {"value": figure[end]}) for end in ("low", "high"))


def _signed(path: Sequence[str], value: float) -> str:
    text = f"{value:+.1f}" if path[-1] == "median_rank" else f"{value:+.3f}"
    return text.replace("-", "−")
