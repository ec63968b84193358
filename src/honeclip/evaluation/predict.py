"""The probability of every label for every picture of a data set, with what was fitted on validation where that applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from honeclip.data import manifest
from honeclip.domains.domain import Domain
from honeclip.embedding.batches import decoded
from honeclip.embedding.embed import embed_pixels
from honeclip.embedding.features import Progress
from honeclip.errors import BadInput, DataError
from honeclip.evaluation.evaluate import in_its_domain
from honeclip.evaluation.scorer import Scorer, of_classes, of_pairs
from honeclip.evaluation.zeroshot import classes
from honeclip.model.calibration import Calibration
from honeclip.model.clip import Clip
from honeclip.model.load import load

MODES = {"softmax": "softmax", "independent": "pairs"}
"""What a person asks for -> how it is computed; "independent": each label by itself, for pictures with several."""


@dataclass(frozen=True)
class Predicted:
    """Probabilities of C labels for the N rows of a manifest.

    Attributes:
        files: each picture as the manifest names it.
        labels: C of them, in the order asked for.
        probability: (N, C); a row of NaN where the picture cannot be read.
        notes: whether they are calibrated, and which pictures could not be read; one sentence each.
    """

    files: tuple[str, ...]
    labels: tuple[str, ...]
    probability: NDArray[np.float64]
    notes: tuple[str, ...]


def predict(
    model: str,
    data: str | Path,
    labels: Sequence[str],
    *,
    domain: str | None = None,
    mode: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Predicted:
    """Ask a model for labels.

    Args:
        model: any model source.
        data: a manifest, or a folder with one named pairs.csv; a column `image` is enough.
        labels: at least one; words that the domain knows stand in its prompts.
        domain: name or file; None takes the model's own, else "general".
        mode: one of MODES; None: as the model's calibration was fitted where it is for these labels, else "softmax", and
            "independent" for a single label.
        device: "auto", "cpu", "mps" or "cuda".
        batch_size: images through the model at once.
        progress: called with (images done, images).

    Raises:
        BadInput: the labels, mode, model, data or domain cannot be used.
    """
    names = _checked(labels)
    if mode not in (None, *MODES):
        raise BadInput(f"--mode {mode}: it is {' or '.join(MODES)}")
    clip, chosen = in_its_domain(load(model, device=device), domain)
    rows = manifest.read(data, images_alone=True).rows
    scorer = _scorer(clip, chosen, names, MODES[mode] if mode else None)
    known = clip.calibration if clip.calibration and clip.calibration.fits(scorer.kind, names) else None
    images = [(place, row.image) for place, row in enumerate(rows) if row.image is not None and not row.fault]
    found = np.full((len(rows), len(names)), np.nan)
    notes, done = [_calibrated(known, clip.calibration, names)], 0
    for numbers, pixels, bad in decoded([image for _, image in images], clip.preprocess, batch_size):
        if pixels is not None:
            logits = scorer.logits(embed_pixels(clip, pixels))
            places = [images[number][0] for number in numbers]
            found[places] = scorer.probabilities(logits, known.temperature if known else 1.0)
        notes += [f"No probabilities for {rows[images[number][0]].file}: {why}" for number, why in bad.items()]
        done += len(numbers) + len(bad)
        if progress:
            progress(done, len(images))
    unread = set(range(len(rows))) - {place for place, _ in images}
    notes += [
        f"No probabilities for row {rows[place].row}: {rows[place].fault or 'it names no image'}"
        for place in sorted(unread)
    ]
    if np.isnan(found).all():
        raise DataError(f"{data}: none of the {len(rows)} pictures can be read. {notes[-1]}")
    return Predicted(tuple(row.file for row in rows), tuple(names), found, tuple(notes))


def _checked(labels: Sequence[str]) -> list[str]:
    names = [label.strip() for label in labels if label.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names:
        raise BadInput("--labels: name at least one label, such as --labels pneumonia,normal")
    if twice:
        raise BadInput(f"--labels: {', '.join(twice)} stands twice; name each label once")
    if "image" in names:
        raise BadInput("--labels: a label cannot be called image, for that column names the pictures; use another word")
    return names


def _scorer(clip: Clip, domain: Domain, labels: list[str], kind: str | None) -> Scorer:
    if kind is None:
        fitted = clip.calibration
        kind = fitted.kind if fitted and fitted.fits(fitted.kind, labels) else "softmax" if len(labels) > 1 else "pairs"
    if kind == "softmax":
        if len(labels) < 2:
            raise BadInput("--mode softmax: one label of one is always certain; name at least two, or use independent")
        return of_classes(classes(clip, domain, labels))
    found = of_pairs(clip, domain, labels, labels)
    if found is None:
        raise BadInput(
            f"each label by itself needs words for its absence, and domain {domain.name} has neither negative_templates nor "
            "normal_labels; name one that has (--domain medical), or at least two labels that exclude each other"
        )
    return found


def _calibrated(known: Calibration | None, stored: Calibration | None, labels: Sequence[str]) -> str:
    if known:
        return f"Probabilities at the temperature {known.temperature:.3g}, fitted on {known.pictures} pictures of {known.data}."
    if stored is None:
        return (
            "Probabilities are not calibrated: the model has no temperature; honeclip fit stores one if val has labels."
        )
    return (
        f"Probabilities are not calibrated: the model's temperature was fitted for {', '.join(stored.labels)}, and not for "
        f"{', '.join(labels)}."
    )
