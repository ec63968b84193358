"""Zero-shot classification from the `label` column: accuracy, balanced accuracy, macro F1, calibration, each class.

`model.classify` says how a label becomes a direction. The classes are those of the whole data set, whatever the
split holds, so that chance is what it says. Images without a label are left out.

An image with several labels is right when the prediction is any of them; for balanced accuracy, macro F1 and the
table of classes such an image counts under the label that was predicted if that is one of its own, else under its
first one. Balanced accuracy is the mean recall of the classes that occur, macro F1 the mean over classes that occur
or are predicted: scikit-learn's definitions. ECE: 15 equally wide bins of the largest softmax probability at the
model's own logit scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, recall_score
from torch import Tensor

from honeclip.domains.domain import Domain
from honeclip.embedding.embed import embed_texts
from honeclip.embedding.features import Features
from honeclip.evaluation.calibration import calibration_error, calibration_figure
from honeclip.evaluation.intervals import Indices, Statistic, bootstrap, figure
from honeclip.model.classify import embedded, scale_of, wording

if TYPE_CHECKING:
    from honeclip.model.clip import Clip

CHUNK = 8192  # images classified at once


@dataclass(frozen=True)
class Classes:
    """What an image is compared with: label names, their unit embeddings (C, D) and exp(logit scale)."""

    names: tuple[str, ...]
    text: Tensor
    scale: float


@dataclass(frozen=True)
class Predictions:
    """One entry a labelled image: `truth` and `predicted` (n,) index the classes, `confidence` (n,) is in 0..1."""

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    classes: tuple[str, ...]


def classes(clip: Clip, domain: Domain, labels: Sequence[str], features: Features | None = None) -> Classes:
    """Embed every label of the data set through the domain's prompt templates.

    Args:
        clip: the model.
        domain: its templates and the words of its labels.
        labels: the distinct labels of the whole data set.
        features: where the text tower's body is frozen, its cache.
    """
    found = embedded(wording(domain, labels, "softmax"), partial(embed_texts, clip, features=features), scale_of(clip))
    return Classes(found.labels, found.text_CD, found.scale)


def predict(image_ND: Tensor, labels: Sequence[Sequence[str]], known: Classes) -> Predictions | None:
    """Classify every labelled image.

    Args:
        image_ND: (N, D) unit embeddings.
        labels: the labels of each of the N images, () where it has none.
        known: at least the labels that occur.

    Returns:
        None where there are fewer than two classes or no image has a label.
    """
    index = {name: number for number, name in enumerate(known.names)}
    rows = [row for row, own in enumerate(labels) if own]
    if len(known.names) < 2 or not rows:
        return None
    predicted, confidence = [], []
    for start in range(0, len(rows), CHUNK):
        logits = known.scale * (image_ND[rows[start : start + CHUNK]].double() @ known.text.double().T)
        best = logits.softmax(-1).max(-1)
        predicted.append(best.indices.numpy())
        confidence.append(best.values.numpy())
    guess = np.concatenate(predicted).astype(np.int64)
    own = [[index[name] for name in labels[row]] for row in rows]
    truth = [int(g) if g in mine else mine[0] for g, mine in zip(guess, own, strict=True)]
    return Predictions(np.array(truth, dtype=np.int64), guess, np.concatenate(confidence), known.names)


def statistic(found: Predictions) -> Statistic:
    """The four figures for resampled images, from counts of classes; equal to scikit-learn's on all images."""
    number = len(found.classes)
    right = (found.truth == found.predicted).astype(np.float64)
    error = calibration_error(found.confidence, found.truth == found.predicted)

    def counted(keys: NDArray[np.int64], width: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        resamples = len(keys)
        flat = (keys + np.arange(resamples)[:, None] * width).ravel()
        summed = np.bincount(flat, None if weights is None else weights.ravel(), minlength=resamples * width)
        return summed.reshape(resamples, width).astype(np.float64)

    def of(indices: Indices) -> dict[str, NDArray[np.float64]]:
        hit = right[indices]
        support = counted(found.truth[indices], number)
        chosen = counted(found.predicted[indices], number)
        hits = counted(found.truth[indices], number, hit)
        recall = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
        f1 = np.divide(2 * hits, support + chosen, out=np.zeros_like(hits), where=support + chosen > 0)
        return {
            "accuracy": hit.mean(1),
            "balanced_accuracy": recall.sum(1) / (support > 0).sum(1),
            "macro_f1": f1.sum(1) / (support + chosen > 0).sum(1),
            **error(indices),
        }

    return of


def zeroshot(found: Predictions, seed: int = 0) -> dict[str, Any]:
    """The `zeroshot` section of METRICS; the bootstrap resamples the images."""
    of, truth, guess = statistic(found), found.truth, found.predicted
    draws = bootstrap(of, len(truth), seed)
    occurring = np.unique(truth)
    values: dict[str, float] = {
        "accuracy": accuracy_score(truth, guess),
        "balanced_accuracy": recall_score(truth, guess, labels=occurring, average="macro", zero_division=0),
        "macro_f1": f1_score(truth, guess, average="macro", zero_division=0),
    }
    count = len(found.classes)
    return {
        **{name: figure(values[name], draws[name]) for name in values},
        "ece": calibration_figure(found.confidence, truth == guess, seed),
        "classes": count,
        "chance": 1 / count,
    }


def per_class(found: Predictions) -> list[dict[str, Any]]:
    """For each class that occurs: images, recall, precision (None: given to no image), and what it is most often taken
    for (None: for nothing else)."""
    occurring = np.unique(found.truth)
    precision, recall, _, support = precision_recall_fscore_support(
        found.truth, found.predicted, labels=occurring, zero_division=0
    )
    out = []
    given = np.bincount(found.predicted, minlength=len(found.classes))
    for place, label in enumerate(occurring):
        wrong = found.predicted[(found.truth == label) & (found.predicted != label)]
        taken = found.classes[int(np.bincount(wrong).argmax())] if len(wrong) else None
        out.append(
            {
                "label": found.classes[int(label)],
                "images": int(support[place]),
                "recall": float(recall[place]),
                "precision": float(precision[place]) if given[label] else None,
                "taken_for": taken,
            }
        )
    return out
