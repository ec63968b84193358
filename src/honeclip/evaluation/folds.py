"""K-fold: every labelled picture is asked once, by what was fitted on the others. For data whose test split is too small.

What is fitted is a linear probe on the embeddings (logistic regression; its penalty is chosen on one of the other folds, and
it learns again from all of them), and the temperature of the model's own zero-shot answers. No tower learns, so embeddings
stay as they are and each is computed once. Rows of one group, and rows of equal pixels, are in one fold; labels are spread
evenly (`data.splits.assign`).

A model that was tuned has seen its train split: of such a model folds are made of the split that is asked alone, of any other
of all splits together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.data.splits import Content, assign
from honeclip.errors import BadInput, DataError
from honeclip.evaluation.calibration import calibration_figure, softmax_temperature
from honeclip.evaluation.fewshot import of_one_label, probe, single, strength
from honeclip.evaluation.intervals import Figure, differences, figures
from honeclip.evaluation.suite import Asked, Block, Cell, Split, Suite, Table, cell, table, told
from honeclip.evaluation.zeroshot import Classes, Predictions, statistic
from honeclip.model.calibration import softmax

NAME = "folds"
TITLE = "Over folds"
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "ece")
WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error",
}
"""Figures of METRICS, and how a page calls them."""

INTRO = (
    "Every picture with one label is asked once, by a linear probe that learned from the other folds. Beside it what the "
    "prompts say of the same pictures without learning; their probabilities at a temperature of the other folds as well."
)
NOTE = (
    "Small: 95 % bootstrap intervals over pictures. They hold the folds as they are, so what other pictures to learn from "
    "would have changed is not in them."
)
LIMITS = (
    "A probe that learned from this data says what is in the embeddings, not what the model does without it.",
    "Folds of one data set are alike; another camera, clinic or line may not be.",
)

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def checked(count: int) -> int:
    """The number of folds that `--folds` names.

    Raises:
        BadInput: there is nothing to learn from with fewer than two.
    """
    if count < 2:
        raise BadInput(f"--folds {count}: at least 2, one to ask and one to learn from; 5 is usual")
    return count


def over_folds(asked: Asked, count: int) -> Suite:
    """The figures of the probe, of zero-shot on the same pictures, and their difference.

    Args:
        asked: the model with what it embedded.
        count: of folds.

    Raises:
        DataError: the data has no two labels, or too few pictures or groups for so many folds.
    """
    if asked.classes is None:
        raise DataError(
            "--folds needs a column `label` with at least two different labels: a probe learns to tell them apart"
        )
    splits, note = _splits(asked)
    both = [single(split, asked.classes.names) for split in splits]
    image, truth = np.concatenate([one for one, _ in both]), np.concatenate([own for _, own in both])
    if len(np.unique(truth)) < 2:
        raise DataError(f"--folds: the {len(truth)} pictures with one label have fewer than two different ones")
    fold = _assigned(splits, count)
    learned = _learned(image, truth, fold, asked.classes)
    prompted, scaled = _prompted(image, truth, fold, asked.classes)
    found = {
        "linear_probe": _figures(learned, asked.seed),
        "zeroshot": {
            **_figures(prompted, asked.seed),
            "ece_scaled": calibration_figure(scaled.confidence, scaled.truth == scaled.predicted, asked.seed),
        },
        "difference": _chosen(differences(statistic(prompted), statistic(learned), len(truth), asked.seed)),
    }
    several = sum(len(own) > 1 for split in splits for own in split.labels)
    notes = [note, *([f"{several} pictures with several labels are left out."] if several else [])]
    return Suite(
        name=NAME,
        title=TITLE,
        verdict=f"Over {count} folds of {len(truth)} pictures a linear probe has a balanced accuracy of "
        f"{told(found['linear_probe']['balanced_accuracy'])}; the prompts alone have "
        f"{told(found['zeroshot']['balanced_accuracy'])}.",
        metrics={"folds": count, "splits": [split.name for split in splits], "pictures": len(truth), **found},
        blocks=(Block("A probe on the embeddings", INTRO, (), (_table(found),)),),
        notes=tuple(notes),
        limits=LIMITS,
    )


def _splits(asked: Asked) -> tuple[list[Split], str]:
    """The splits that folds are made of, and why."""
    name = asked.split.name
    if asked.clip.domain is not None:
        return [asked.split], (
            f"Folds are made of {name} alone: the model was tuned, and what it learned from may be in the other splits."
        )
    others = [found for one in ("train", "val", "test") if (found := asked.other(one)) is not None]
    drawn = [f"{len(one.pairs)} of {one.total_rows} of {one.name}" for one in others if len(one.pairs) < one.total_rows]
    said = f"Folds are made of {', '.join([name, *(one.name for one in others)])}: the model was tuned on none of them."
    return [asked.split, *others], said + (f" Of the rows, {' and '.join(drawn)} were drawn." if drawn else "")


def _assigned(splits: Sequence[Split], count: int) -> Ids:
    """The fold of each picture with one label.

    Raises:
        DataError: rows that belong together leave fewer parts than folds.
    """
    contents = []
    for split in splits:
        pairs = split.pairs
        for place in of_one_label(split).tolist():
            row = int(split.rows[place])
            contents.append(Content(pairs.image_sha[row], pairs.captions[row], split.labels[place], pairs.groups[row]))
    names = [str(number) for number in range(count)]
    found = np.array([int(one) for one in assign(contents, dict.fromkeys(names, 1))], dtype=np.int64)
    if len(np.unique(found)) < count:
        raise DataError(
            f"--folds {count}: the {len(contents)} pictures with one label are too few; those of one group, and those that "
            f"look alike to the pixel, stay together, which leaves {len(np.unique(found))} parts"
        )
    return found


def _learned(image: Floats, truth: Ids, fold: Ids, classes: Classes) -> Predictions:
    """What a probe says of each picture that learned from the other folds."""
    guess, confidence = np.zeros_like(truth), np.ones(len(truth))
    count = int(fold.max()) + 1
    for number in range(count):
        mine, held = fold == number, fold == (number + 1) % count
        rest = ~mine & ~held
        known = image[~mine], truth[~mine]
        if len(np.unique(known[1])) < 2:
            guess[mine] = known[1][0]  # nothing else is known
            continue
        inner = len(np.unique(truth[rest])) > 1
        inverse = strength(image[rest], truth[rest], (image[held], truth[held]) if inner else None)
        fitted = probe(*known, inverse)
        probability = fitted.predict_proba(image[mine])
        guess[mine], confidence[mine] = fitted.classes_[probability.argmax(1)], probability.max(1)
    return Predictions(truth, guess, confidence, classes.names)


def _prompted(image: Floats, truth: Ids, fold: Ids, classes: Classes) -> tuple[Predictions, Predictions]:
    """What the prompts say of each picture, as the model gives it and at the temperature of the other folds."""
    logits = classes.scale * (image @ classes.text.double().numpy().T)
    own = softmax(logits)
    scaled = np.zeros_like(own)
    for number in range(int(fold.max()) + 1):
        mine = fold == number
        scaled[mine] = softmax(logits[mine], softmax_temperature(logits[~mine], truth[~mine]))
    guess = own.argmax(1).astype(np.int64)
    first, second = (Predictions(truth, guess, one.max(1), classes.names) for one in (own, scaled))
    return first, second


def _figures(found: Predictions, seed: int) -> dict[str, Figure]:
    error = calibration_figure(found.confidence, found.truth == found.predicted, seed)
    return _chosen({**figures(statistic(found), len(found.truth), seed), "ece": error})


def _chosen(found: dict[str, Figure]) -> dict[str, Figure]:
    return {name: found[name] for name in FIGURES}


def _table(found: dict[str, Any]) -> Table:
    rows = {
        WORDS[name]: [cell(found["linear_probe"][name]), cell(found["zeroshot"][name]), cell(found["difference"][name])]
        for name in FIGURES
    }
    rows["calibration error, scaled"] = [Cell("–"), cell(found["zeroshot"]["ece_scaled"]), Cell("–")]
    return table(["linear probe", "prompts alone", "difference"], rows, NOTE)
