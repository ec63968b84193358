"""Two models on the same queries: is the difference more than chance, and what is left of many such claims.

The p-value is that of a randomisation test (Noreen 1989; for retrieval Smucker, Allan and Carterette 2007): if neither model
were better, each picture's two outcomes could as well have come from the other model. So they are swapped at random, picture
by picture, the captions that came with a picture together with it, and p is the share of such draws whose difference is at
least as large as the one seen, either way, the one seen counted among them (Phipson and Smyth 2010: never zero). It holds
for any figure, and for a share of right answers it is McNemar's exact test. The interval beside it is the paired bootstrap's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.answers import Answers, sections
from honeclip.evaluation.intervals import BLOCK
from honeclip.evaluation.retrieval import Ids, Ranks, Right
from honeclip.evaluation.selection import Weights, combined
from honeclip.evaluation.zeroshot import Predictions

SWAPS = 9999
"""Draws of the test: p-values come in steps of 1 / 10 000."""

EQUAL = 1e-9  # differences closer than this are one: sums of the same outcomes in another order


@dataclass(frozen=True)
class Goes:
    """The picture, of I image queries, that each other query goes with: (M,) captions and (n,) labelled images."""

    images: int
    caption: Ids
    labelled: Ids


def goes_with(right: Right, labels: Sequence[Sequence[str]]) -> Goes:
    """Each distinct caption with the first picture that it is right for, each labelled image with itself.

    Args:
        right: who belongs to whom.
        labels: of each of the I image queries, () where it has none.
    """
    first = np.full(right.texts, right.images, dtype=np.int64)
    np.minimum.at(first, right.text, right.image)
    return Goes(right.images, first, np.array([row for row, own in enumerate(labels) if own], dtype=np.int64))


def p_values(
    first: Answers, second: Answers, scores: Sequence[Weights], goes: Goes, seed: int = 0, swaps: int = SWAPS
) -> list[float]:
    """Two-sided p-value of the difference of each score, from the same random swaps.

    Args:
        first: what one model answered.
        second: what the other one answered to the same queries.
        scores: each the figures that make it, with their weights.
        goes: which queries are swapped together.
        seed: of the swaps.
        swaps: how many; the smallest p is 1 / (swaps + 1).
    """
    both = sections(_joined(first, second))
    with_picture = {"image_to_text": np.arange(goes.images), "text_to_image": goes.caption, "zeroshot": goes.labelled}

    def apart(swapped: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
        """The difference of each score (r,) where the outcomes of some pictures are swapped, (r, I)."""
        one: dict[str, Any] = {}
        other: dict[str, Any] = {}
        for way, (of, twice) in both.items():
            queries = twice // 2
            moved = swapped[:, with_picture[way]] * queries
            places = np.arange(queries)
            one[way], other[way] = of(places + moved), of(places + queries - moved)
        return [combined(other, weights) - combined(one, weights) for weights in scores]

    seen = [abs(float(values[0])) for values in apart(np.zeros((1, goes.images), dtype=bool))]
    random = np.random.default_rng(seed)
    reached = np.zeros(len(scores), dtype=np.int64)
    block = max(1, BLOCK // max(goes.images, len(goes.caption)))
    for start in range(0, swaps, block):
        swapped = random.integers(0, 2, size=(min(block, swaps - start), goes.images), dtype=np.int8).astype(bool)
        for place, values in enumerate(apart(swapped)):
            reached[place] += int((np.abs(values) >= seen[place] - EQUAL).sum())
    return [float((1 + count) / (1 + swaps)) for count in reached]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in their order (Holm 1979, "A simple sequentially rejective procedure").

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below one before it, none above 1. Whoever
    calls those below 0.05 clear is wrong about any of them at most once in twenty tables, however they depend on each other.
    """
    order = np.argsort(np.asarray(p_values), kind="stable")
    out, least = [0.0] * len(p_values), 0.0
    for done, place in enumerate(order.tolist()):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        out[place] = least
    return out


def _joined(first: Answers, second: Answers) -> Answers:
    """The outcomes of one model and after them those of the other, as if all were queries of one."""
    ways = [(one.ranks.image_to_text, one.ranks.text_to_image) for one in (first, second)]
    image_to_text, text_to_image = (np.concatenate(way) for way in zip(*ways, strict=True))
    old, new = first.predictions, second.predictions
    predictions = None
    if old is not None and new is not None:
        predictions = Predictions(
            np.concatenate([old.truth, new.truth]),
            np.concatenate([old.predicted, new.predicted]),
            np.concatenate([old.confidence, new.confidence]),
            old.classes,
        )
    rows = np.concatenate([first.image_rows, second.image_rows])
    return Answers(Ranks(image_to_text, text_to_image), rows, predictions, 2 * first.pairs, "")
