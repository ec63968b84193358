"""The probability of every label for every picture of a data set, with what was fitted on validation where that applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from honeclip.data import manifest
from honeclip.embedding.batches import decoded
from honeclip.embedding.embed import embed_pixels
from honeclip.embedding.features import Progress
from honeclip.errors import BadInput, DataError
from honeclip.evaluation.evaluate import in_its_domain
from honeclip.evaluation.scorer import through
from honeclip.model.calibration import Calibration
from honeclip.model.classify import MODES, embedded, kind_for, scale_of, wording
from honeclip.model.load import load


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
        mode: "softmax" or "independent"; None: see `classify.kind_for`.
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
    kind = kind_for(clip.calibration, names, mode)
    scorer = embedded(wording(chosen, names, kind), through(clip), scale_of(clip))
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
