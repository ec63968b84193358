"""What a model answered to every query of a split, and the figures that follow: METRICS and the paired difference.

`Answers` is small (a rank a query, a prediction a labelled image) and becomes JSON, so the answers of the model
before a run wait in the run folder until the model after it is there, through a resume too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from honeclip.embedding.embed import Embeddings
from honeclip.evaluation import retrieval, zeroshot
from honeclip.evaluation.intervals import Figure, differences
from honeclip.evaluation.retrieval import Ids, Ranks
from honeclip.evaluation.selection import Sections, Weights, difference
from honeclip.evaluation.zeroshot import Classes, Predictions

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """The outcome of every query.

    Attributes:
        ranks: of each image among the captions, and of each distinct caption among the images.
        image_rows: (I,) the row of the pairs that each image query is.
        predictions: of the labelled images; None where zero-shot does not apply.
        pairs: rows that were scored.
        queries: a hash of what was asked; two models are paired only where it is the same.
    """

    ranks: Ranks
    image_rows: Ids
    predictions: Predictions | None
    pairs: int
    queries: str

    def to_json(self) -> dict[str, Any]:
        """Everything as lists and numbers."""
        found = self.predictions
        return {
            "image_to_text": self.ranks.image_to_text.tolist(),
            "text_to_image": self.ranks.text_to_image.tolist(),
            "image_rows": self.image_rows.tolist(),
            "pairs": self.pairs,
            "queries": self.queries,
            "zeroshot": found
            and {
                "truth": found.truth.tolist(),
                "predicted": found.predicted.tolist(),
                "confidence": found.confidence.tolist(),
                "classes": list(found.classes),
            },
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Answers:
        """The inverse of `to_json`, exact."""
        found = stored["zeroshot"]
        return Answers(
            ranks=Ranks(_ids(stored["image_to_text"]), _ids(stored["text_to_image"])),
            image_rows=_ids(stored["image_rows"]),
            predictions=found
            and Predictions(
                _ids(found["truth"]),
                _ids(found["predicted"]),
                np.asarray(found["confidence"], dtype=np.float64),
                tuple(found["classes"]),
            ),
            pairs=stored["pairs"],
            queries=stored["queries"],
        )


def answer(embeddings: Embeddings, labels: Sequence[Sequence[str]], classes: Classes | None) -> Answers:
    """Ask every query.

    Args:
        embeddings: of N rows.
        labels: of each of the N rows, () where it has none.
        classes: what zero-shot chooses from; None leaves it out.
    """
    right, rows = retrieval.right_pairs(embeddings.image_id, embeddings.caption_of, embeddings.file_of)
    found = retrieval.ranks(embeddings.image[rows].numpy(), embeddings.text.numpy(), right)
    own = labels_of_files(embeddings.file_of, labels)
    predictions = (
        zeroshot.predict(embeddings.image[rows], [own[f] for f in embeddings.file_of[rows]], classes)
        if classes
        else None
    )
    asked = hashlib.sha256(repr((right.image.tolist(), right.text.tolist(), embeddings.captions)).encode())
    if predictions:
        asked.update(repr((predictions.classes, [own[f] for f in embeddings.file_of[rows]])).encode())
    return Answers(found, embeddings.rows[rows], predictions, len(embeddings.rows), asked.hexdigest())


def metrics(answers: Answers, *, data: str, split: str, size_px: int, seed: int = 0) -> Metrics:
    """METRICS of the contract; sections that do not apply are left out."""
    out: Metrics = {"data": data, "split": split, "pairs": answers.pairs, "size_px": size_px}
    out["retrieval"] = retrieval.retrieval(answers.ranks, seed)
    if answers.predictions is not None:
        out["zeroshot"] = zeroshot.zeroshot(answers.predictions, seed)
    return out


def evaluate_embeddings(
    embeddings: Embeddings,
    labels: Sequence[Sequence[str]],
    classes: Classes | None,
    *,
    data: str,
    split: str,
    size_px: int,
    seed: int = 0,
) -> Metrics:
    """METRICS of embeddings, labels of their rows and the classes to choose from (None: no zero-shot)."""
    return metrics(answer(embeddings, labels, classes), data=data, split=split, size_px=size_px, seed=seed)


def sections(answers: Answers) -> Sections:
    """Name of a section -> its statistic over query indices, and its number of queries."""
    out = retrieval.statistics(answers.ranks)
    if answers.predictions is not None:
        out["zeroshot"] = zeroshot.statistic(answers.predictions), len(answers.predictions.truth)
    return out


def paired_difference(
    before: Answers, after: Answers, seed: int = 0, weights: Weights | None = None
) -> dict[str, Any] | None:
    """`after` minus `before` on the same resampled queries, in the shape of METRICS; None where they were asked other
    things.

    With `weights`, those of the section `selection` of METRICS, the difference of that score as well.

    An interval that does not hold 0 is a difference that this test set can tell from chance. It is narrower than what
    the two intervals side by side suggest, since a hard query is hard for both models.
    """
    if before.queries != after.queries:
        return None
    old, new = retrieval.statistics(before.ranks), retrieval.statistics(after.ranks)
    ways: dict[str, dict[str, Figure]] = {
        name: differences(old[name][0], of, queries, seed) for name, (of, queries) in new.items()
    }
    out: dict[str, Any] = {"retrieval": ways}
    if before.predictions is not None and after.predictions is not None:
        out["zeroshot"] = differences(
            zeroshot.statistic(before.predictions),
            zeroshot.statistic(after.predictions),
            len(after.predictions.truth),
            seed,
        )
    if weights:
        out["selection"] = {"score": difference(sections(before), sections(after), weights, seed)}
    return out


def labels_of_files(file_of: Ids, labels: Sequence[Sequence[str]]) -> dict[int, tuple[str, ...]]:
    """For each image file the labels of all rows that name it, in order, each once."""
    out: dict[int, tuple[str, ...]] = {}
    for file, own in zip(file_of.tolist(), labels, strict=True):
        out[file] = tuple(dict.fromkeys((*out.get(file, ()), *own)))
    return out


def _ids(values: Sequence[int]) -> Ids:
    return np.asarray(values, dtype=np.int64)
