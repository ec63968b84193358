"""What a few labelled pictures of a line are worth: a classifier on the embeddings, learned from k of each class.

Two ways. A linear probe, that is logistic regression on the unit embeddings (Radford et al. 2021, section 3.2), its penalty
chosen on validation; and the nearest neighbour by cosine, which learns nothing. Which k pictures are taken is chance, so there
are several draws, and a figure is the mean over them; its interval is that of the pictures that are asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from honeclip.evaluation.calibrated import labelled
from honeclip.evaluation.intervals import Figure, Indices, Statistic, figures
from honeclip.evaluation.suite import Split
from honeclip.evaluation.zeroshot import Predictions, statistic

SHOTS = (4, 8, 16)
DRAWS = 5
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Inverse penalties of the linear probe; unit embeddings are short, so weights must be large."""

LINEAR, NEAREST = "linear_probe", "nearest"
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1")

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def few_shot(
    asked: Split, train: Split, val: Split | None, names: Sequence[str], seed: int
) -> dict[str, dict[str, dict[str, Figure]]]:
    """Shots -> way -> accuracy, balanced accuracy, macro F1 on the split that is asked.

    Args:
        asked: its pictures with one label are asked.
        train: where the k pictures of each class are drawn from; a class that has fewer gives what it has.
        val: where the penalty is chosen; None takes the middle one.
        names: of the classes.
        seed: of the draws and of the bootstrap.

    Returns:
        Without the numbers of shots that no class of train has; {} where train has pictures of fewer than two classes.
    """
    (images, truth), (seen, classes) = single(asked, names), single(train, names)
    held = single(val, names) if val else None
    most = int(np.bincount(classes).max()) if len(classes) else 0
    out = {}
    for shots in (shots for shots in SHOTS if shots <= most):
        found: dict[str, list[Predictions]] = {LINEAR: [], NEAREST: []}
        for draw in range(DRAWS):
            rows = _drawn(classes, shots, np.random.default_rng((seed, shots, draw)))
            if len(np.unique(classes[rows])) < 2 or not len(truth):
                return {}
            known, own = seen[rows], classes[rows]
            guesses = {LINEAR: linear(known, own, images, held), NEAREST: nearest(known, own, images)}
            for way, guess in guesses.items():
                found[way].append(Predictions(truth, guess, np.ones(len(truth)), tuple(names)))
        out[str(shots)] = {way: _figures(each, seed) for way, each in found.items()}
    return out


def linear(known: Floats, own: Ids, asked: Floats, held: tuple[Floats, Ids] | None) -> Ids:
    """The classes that a linear probe gives; `held` chooses its penalty by balanced accuracy, of equals the strongest."""
    found: Ids = probe(known, own, strength(known, own, held)).predict(asked).astype(np.int64)
    return found


def strength(known: Floats, own: Ids, held: tuple[Floats, Ids] | None) -> float:
    """The inverse penalty with the best balanced accuracy on `held`, of equals the smallest; without it the second one."""
    if held is None or not len(held[1]):
        return STRENGTHS[1]

    def score(inverse: float) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what is held out may hold classes that were not drawn
            return float(balanced_accuracy_score(held[1], probe(known, own, inverse).predict(held[0])))

    return max(STRENGTHS, key=score)


def probe(known: Floats, own: Ids, inverse: float) -> LogisticRegression:
    """Logistic regression on embeddings, every class with the same weight; `own` has at least two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty on few pictures need not be exact
        return LogisticRegression(C=inverse, class_weight="balanced", max_iter=300).fit(known, own)


def nearest(known: Floats, own: Ids, asked: Floats) -> Ids:
    """The class of the nearest known picture."""
    found: Ids = KNeighborsClassifier(n_neighbors=1).fit(known, own).predict(asked).astype(np.int64)
    return found


def single(split: Split, names: Sequence[str]) -> tuple[Floats, Ids]:
    """Embeddings and classes of the pictures that have one label."""
    place = {name: number for number, name in enumerate(names)}
    kept = of_one_label(split)
    classes = np.array([place[split.labels[one][0]] for one in kept], dtype=np.int64)
    return split.embeddings.image[split.rows[kept]].double().numpy(), classes


def of_one_label(split: Split) -> Ids:
    """Places of the pictures that have one label."""
    return np.array([one for one in labelled(split).tolist() if len(split.labels[one]) == 1], dtype=np.int64)


def _drawn(classes: Ids, shots: int, random: np.random.Generator) -> Ids:
    rows = [random.permutation(np.flatnonzero(classes == one))[:shots] for one in np.unique(classes)]
    return np.concatenate(rows).astype(np.int64)


def _figures(each: Sequence[Predictions], seed: int) -> dict[str, Figure]:
    statistics = [statistic(one) for one in each]
    found = figures(_mean(statistics), len(each[0].truth), seed)
    return {name: found[name] for name in FIGURES}


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over draws, on the same resampled pictures."""

    def of(indices: Indices) -> dict[str, Floats]:
        found = [one(indices) for one in statistics]
        return {name: np.mean([one[name] for one in found], axis=0) for name in FIGURES}

    return of
