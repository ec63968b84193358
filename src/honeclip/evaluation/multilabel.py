"""Images with several labels at once: each class against the rest, by how well its scores part the images that have it.

Every figure here depends on the order of the scores alone, so neither a temperature nor a threshold has to be chosen. Images
with equal scores come at once, as in scikit-learn. All are functions of resampled images, so they have intervals and paired
differences as any other figure has; a resample is a weight an image, and nothing is sorted twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.intervals import Figure, Indices, Statistic, bootstrap, figure

Scores = NDArray[np.floating]
Truth = NDArray[np.bool_]


def truth_of(labels: Sequence[Sequence[str]], names: Sequence[str]) -> Truth:
    """(N, C) which of the classes each of N images has; labels that are no class are passed over."""
    place = {name: number for number, name in enumerate(names)}
    out = np.zeros((len(labels), len(names)), dtype=bool)
    for row, own in enumerate(labels):
        out[row, [place[label] for label in own if label in place]] = True
    return out


def separation(scores_N: Scores, truth_N: Truth) -> Statistic:
    """How well the scores of one class part the images that have it from the others, for resampled images.

    "auroc": the share of pairs of an image with and one without the class in which the one with it scores higher, equal
    scores counting half (Hanley and McNeil 1982; scikit-learn's `roc_auc_score`). "average_precision": the precision at each
    distinct score, weighted by the gain of recall there, without interpolation (`average_precision_score`). "f1_max": the
    largest F1 over all thresholds (the largest of `precision_recall_curve`): it chooses the threshold on the images that it
    is measured on, so it is what a well-chosen one could reach at most.

    A resample without an image of the class, or without one of the others, has no such figure: it is NaN there.

    Args:
        scores_N: (N,) higher is more of the class.
        truth_N: (N,) whether the image has it.
    """
    order = np.argsort(-scores_N, kind="stable")
    ordered = scores_N[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    has = truth_N[order]

    def of(indices: Indices) -> dict[str, NDArray[np.float64]]:
        resamples = len(indices)
        flat = (indices + np.arange(resamples)[:, None] * len(order)).ravel()
        weights = np.bincount(flat, minlength=resamples * len(order)).reshape(resamples, len(order))[:, order]
        with_it = np.add.reduceat(weights * has, starts, axis=1).astype(
            np.float64
        )  # by distinct score, the highest first
        without = np.add.reduceat(weights * ~has, starts, axis=1).astype(np.float64)
        hits, misses = with_it.cumsum(1), without.cumsum(1)
        positives, negatives = hits[:, -1], misses[:, -1]
        none = (positives == 0) | (negatives == 0)
        taken = np.maximum(hits + misses, 1)  # 0 only before the first image, where nothing is gained either
        below = negatives[:, None] - misses
        area = (with_it * (below + without / 2)).sum(1) / np.maximum(positives * negatives, 1)
        precision = (with_it * hits / taken).sum(1) / np.maximum(positives, 1)
        f1 = (2 * hits / np.maximum(hits + misses + positives[:, None], 1)).max(1)
        figures = {"auroc": area, "average_precision": precision, "f1_max": f1}
        return {name: np.where(none, np.nan, values) for name, values in figures.items()}

    return of


def one_against_rest(
    scores_NC: Scores, truth_NC: Truth, names: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Figure]]:
    """Figure -> class -> value with its interval, for the classes that some images have and some have not.

    Resamples that lost a class altogether do not count for its interval: with so few of its images it is too narrow.

    Args:
        scores_NC: (N, C) higher is more of the class: cosines with its prompts, or probabilities.
        truth_NC: (N, C) which classes each image has; `truth_of`.
        names: of the C classes.
        seed: of the bootstrap, which resamples the images.
    """
    out: dict[str, dict[str, Figure]] = {}
    for place, name in enumerate(names):
        mine = truth_NC[:, place]
        if mine.all() or not mine.any():
            continue
        of = separation(scores_NC[:, place], mine)
        values = of(np.arange(len(mine), dtype=np.int64)[None])
        draws = bootstrap(of, len(mine), seed)
        for what, drawn in draws.items():
            out.setdefault(what, {})[name] = figure(float(values[what][0]), drawn[~np.isnan(drawn)])
    return out
