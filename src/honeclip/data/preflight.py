"""What is to be known of a data set before hours are spent on it, as one JSON object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from honeclip.data.near import near_duplicates
from honeclip.data.pairs import Pairs
from honeclip.data.rows import Problem
from honeclip.data.splits import SPLITS

CountTokens = Callable[[Sequence[str]], Sequence[int]]

MOST_COMPARED = 3000
"""Pictures of val and test that are compared with those of train; evenly chosen where there are more."""

NEAR_NAMED = 20

CANDIDATES_PER_K = 5
"""R@k is left out of scores where there are fewer than this many times k candidates."""


def check(
    pairs: Pairs,
    *,
    max_bad_fraction: float = 0.01,
    count_tokens: CountTokens | None = None,
    context_length: int = 77,
    size_px: int | None = None,
) -> dict[str, Any]:
    """Counts, problems and what to expect.

    Args:
        pairs: from `pairs.read`.
        max_bad_fraction: share of unusable rows above which the data does not pass.
        count_tokens: captions -> their lengths in tokens, uncut and with the marks of start and end; None counts none.
        context_length: of the text tower, in tokens.
        size_px: side of the model's input; smaller images are counted.

    Returns:
        `rows`, `usable`, `splits` and `problems` as the contract of `check --json` has them, and more.
    """
    tokens, long = _tokens(pairs, count_tokens, context_length)
    problems = sorted([*pairs.problems, *long], key=lambda one: one.row)
    splits = Counter(pairs.splits)
    images, texts = len(set(pairs.image_sha)), len(set(pairs.caption_id.tolist()))
    result: dict[str, Any] = {
        "data": str(pairs.source),
        "passed": bool(len(pairs)) and pairs.bad_fraction() <= max_bad_fraction,
        "rows": pairs.total_rows,
        "usable": len(pairs),
        "bad_fraction": pairs.bad_fraction(),
        "max_bad_fraction": max_bad_fraction,
        "splits": {name: splits[name] for name in SPLITS},
        "distinct_images": images,
        "distinct_captions": texts,
        "duplicate_share": 1 - images / len(pairs) if len(pairs) else 0.0,
        "groups": len({group for group in pairs.groups if group}),
        "labels": dict(Counter(label for labels in pairs.labels for label in labels).most_common()),
        "kinds": dict(Counter(problem.kind for problem in problems).most_common()),
        "expected_intervals": _intervals(pairs.split("test")),
    }
    if tokens:
        result["tokens"] = tokens
    if size_px is not None:
        below = sum(min(size) < size_px for size in pairs.sizes)
        result["images_below_model_size"] = {"size_px": size_px, "images": below}
    result["notes"] = [*pairs.notes, *_advice(pairs, result), *_near(pairs)]
    result["problems"] = [
        {"row": one.row, "file": one.file, "kind": one.kind, "reason": one.reason} for one in problems
    ]
    return result


def _tokens(pairs: Pairs, count: CountTokens | None, context_length: int) -> tuple[dict[str, Any], list[Problem]]:
    """Lengths over the rows, and a problem for each row whose caption is cut."""
    if count is None or not len(pairs):
        return {}, []
    distinct = list(dict.fromkeys(pairs.captions))
    length = dict(zip(distinct, count(distinct), strict=True))
    lengths = [length[caption] for caption in pairs.captions]
    long = [
        Problem(pairs.rows[row], pairs.files[row], "long_caption", f"{tokens} tokens: cut at {context_length}")
        for row, tokens in enumerate(lengths)
        if tokens > context_length
    ]
    figures = {
        "context_length": context_length,
        "median": int(np.median(lengths)),
        "longest": max(lengths),
        "cut": len(long),
        "cut_share": len(long) / len(lengths),
    }
    return figures, long


def _intervals(test: Pairs) -> dict[str, Any]:
    """How wide a 95 % interval of a score near one half will be; scores that will be left out are left out here."""
    captions, images = len(set(test.caption_id.tolist())), len(set(test.image_id.tolist()))
    labelled = sum(bool(labels) for labels in test.labels)
    widths: dict[str, Any] = {"split": "test", "pairs": len(test)}
    if captions >= CANDIDATES_PER_K * 10:
        widths["image_to_text_R@10"] = _width(images)
    if images >= CANDIDATES_PER_K * 10:
        widths["text_to_image_R@10"] = _width(captions)
    if labelled and len({label for labels in test.labels for label in labels}) > 1:
        widths["accuracy"] = _width(labelled)
    return widths


def _width(trials: int) -> float:
    """Of the 95 % interval of a share of one half: 2 x 1.96 standard errors."""
    return min(1.0, 2 * 1.96 * math.sqrt(0.25 / trials)) if trials else 1.0


def _near(pairs: Pairs) -> list[str]:
    """A sentence on pictures of val and test that are nearly one of train; their pixels differ, so they are no split leaks."""
    found = near_duplicates(pairs, MOST_COMPARED)
    if not found.rows:
        return []
    named = "; ".join(f"row {row} and row {other}" for row, other in found.rows[:NEAR_NAMED])
    more = f"; and {len(found.rows) - NEAR_NAMED} more" if len(found.rows) > NEAR_NAMED else ""
    return [
        f"{len(found.rows)} of {found.looked_at} pictures of val and test are nearly one of train ({named}{more}): give what "
        "belongs together one `group`"
    ]


def _advice(pairs: Pairs, result: dict[str, Any]) -> list[str]:
    """Sentences on what cannot be learned or measured from this data."""
    notes = []
    if len(pairs) and result["distinct_captions"] == 1:
        notes.append("there is one caption only: nothing can be told apart, so there is nothing to learn")
    if len(result["labels"]) == 1:
        notes.append("there is one label only: zero-shot accuracy says nothing")
    notes += [f"the split {name} has no rows" for name in SPLITS if len(pairs) and not result["splits"][name]]
    test = pairs.split("test")
    captions = len(set(test.caption_id.tolist()))
    if len(test) and captions < CANDIDATES_PER_K * 10:
        notes.append(
            f"the test split has {captions} distinct captions: retrieval R@10 needs {CANDIDATES_PER_K * 10}, so it is "
            "left out"
        )
    return notes
