"""Fits on validation what a model's probabilities need: the temperature, and thresholds of the findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from honeclip.data.pairs import Pairs
from honeclip.domains.domain import Domain
from honeclip.embedding.embed import embed
from honeclip.embedding.features import Features
from honeclip.evaluation.calibration import logistic_temperature, softmax_temperature
from honeclip.evaluation.multilabel import truth_of
from honeclip.evaluation.operating import threshold_of_sensitivity, threshold_of_specificity
from honeclip.evaluation.scorer import of_classes, of_pairs
from honeclip.evaluation.suite import Split, split_of
from honeclip.evaluation.zeroshot import Classes, classes
from honeclip.model.calibration import Calibration
from honeclip.model.classify import Scorer, is_normal
from honeclip.model.clip import Clip

SPECIFICITY, SENSITIVITY = "specificity_95", "sensitivity_95"


def labelled(split: Split) -> NDArray[np.int64]:
    """Places of the pictures that have a label."""
    return np.array([place for place, own in enumerate(split.labels) if own], dtype=np.int64)


def findings_of(domain: Domain, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that do not mean "nothing wrong"."""
    return tuple(label for label in labels if not is_normal(domain, label))


def scorer_for(
    clip: Clip,
    domain: Domain,
    labels: Sequence[str],
    splits: Sequence[Split],
    known: Classes | None = None,
    features: Features | None = None,
) -> Scorer | None:
    """How the labels of a data set are scored: by a softmax where no picture has two of them, else each by itself.

    Args:
        clip: the model.
        domain: prompts and normal labels.
        labels: of the whole data set.
        splits: those that are looked at.
        known: the embedded classes, where somebody has them.
        features: where the text tower's body is frozen, its cache.

    Returns:
        None where there is nothing to tell apart: fewer than two labels, or several a picture and no words for absence.
    """
    several = any(len(own) > 1 for split in splits for own in split.labels)
    findings = findings_of(domain, labels)
    if not findings:
        return None
    if several or len(labels) < 2:
        return of_pairs(clip, domain, findings, labels, features)
    return of_classes(known or classes(clip, domain, labels, features))


def of_validation(
    clip: Clip, domain: Domain, labels: Sequence[str], val: Pairs, data: str, features: Features | None = None
) -> Calibration | None:
    """What a run stores with its model: embeds a validation split and fits on it; None where it has no labels to fit on.

    Args:
        clip: the model that is handed over.
        domain: prompts and normal labels.
        labels: of the whole data set.
        val: rows of its validation split.
        data: its name.
        features: caches of frozen tower bodies.
    """
    if not any(val.labels):
        return None
    split = split_of("val", val, embed(clip, val, features=features))
    scorer = scorer_for(clip, domain, labels, [split], features=features)
    return fit(scorer, domain, split, data) if scorer else None


def fit(scorer: Scorer, domain: Domain, val: Split, data: str) -> Calibration | None:
    """Temperature and thresholds from the labelled pictures of a validation split; None where it has none.

    A finding that all or none of them have gets no threshold, for there is nothing to choose it by.
    """
    places = labelled(val)
    if not len(places):
        return None
    logits = scorer.logits(val.embeddings.image[val.rows[places]])
    truth = truth_of([val.labels[place] for place in places], scorer.labels)
    if scorer.kind == "softmax":
        temperature = softmax_temperature(logits, truth.argmax(1).astype(np.int64))
    else:
        temperature = logistic_temperature(logits, truth)
    probability = scorer.probabilities(logits, temperature)
    thresholds = {}
    for place, name in enumerate(scorer.labels):
        mine = truth[:, place]
        if not is_normal(domain, name) and mine.any() and not mine.all():
            thresholds[name] = {
                SPECIFICITY: threshold_of_specificity(probability[:, place], mine),
                SENSITIVITY: threshold_of_sensitivity(probability[:, place], mine),
            }
    return Calibration(scorer.kind, tuple(sorted(scorer.labels)), temperature, thresholds, data, len(places))
