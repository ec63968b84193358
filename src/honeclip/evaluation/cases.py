"""Case studies: one picture each with its truth, what the model says of it and said before it was tuned, and the nearest cases
that it was trained on."""

from __future__ import annotations

import difflib
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from honeclip.data.pairs import Pairs
from honeclip.errors import BadInput
from honeclip.evaluation.calibrated import scorer_for
from honeclip.evaluation.retrieval import TIE
from honeclip.evaluation.suite import Asked, Block, Card, Said
from honeclip.model.classify import Scorer

TOP = 5
NEAREST = 3
RANDOM = "random:"


def rows_of(wanted: str, pairs: Pairs, seed: int) -> tuple[int, ...]:
    """The rows of the manifest that `--cases` names, before anything is embedded.

    Args:
        wanted: `random:N`, or ids with commas between them: a row number, or an image as the manifest names it (with or without
            its folder and suffix).
        pairs: of the split.
        seed: of the random ones.

    Raises:
        BadInput: an id that is not there, or that several pictures have; the nearest are shown.
    """
    if wanted.startswith(RANDOM):
        count = wanted.removeprefix(RANDOM)
        if not count.isascii() or not count.isdigit() or int(count) < 1:
            raise BadInput(f"--cases {wanted}: random: is followed by how many, such as random:6")
        drawn = np.random.default_rng(seed).permutation(len(pairs))[: int(count)]
        return tuple(pairs.rows[place] for place in sorted(drawn.tolist()))
    ids = [one.strip() for one in wanted.split(",") if one.strip()]
    if not ids:
        raise BadInput("--cases: give ids, such as --cases 12,images/a.png, or random:6")
    return tuple(_row(one, pairs) for one in ids)


def _row(wanted: str, pairs: Pairs) -> int:
    if wanted.isascii() and wanted.isdigit() and int(wanted) in pairs.rows:
        return int(wanted)
    files = {row: file for row, file in zip(pairs.rows, pairs.files, strict=True) if wanted in _names(file)}
    if len(set(files.values())) == 1:
        return next(iter(files))
    if files:
        raise BadInput(
            f"--cases {wanted}: several pictures are called so: {', '.join(sorted(set(files.values()))[:5])}"
        )
    near = difflib.get_close_matches(wanted, [*dict.fromkeys(pairs.files)], n=3, cutoff=0.5) or pairs.files[:3]
    raise BadInput(
        f"--cases {wanted}: the split has no such case; an id is a row of the manifest (rows {min(pairs.rows)} to "
        f"{max(pairs.rows)} here) or an image as it is named there, such as {', '.join(near)}"
    )


def _names(file: str) -> set[str]:
    path = PurePath(file)
    return {file, path.name, path.stem}


def blocks(asked: Asked, rows: tuple[int, ...], before: Asked | None = None) -> tuple[Block, ...]:
    """A block a case; one whose picture could not be read any more is left out.

    Args:
        asked: the model.
        rows: of the manifest.
        before: the model that it was tuned from, asked the same (`before.asked_before`): what it said stands beside.
    """
    split = asked.split
    place_of = {row: place for place, row in enumerate(split.pairs.rows)}
    scorer, old = _scorer(asked), _scorer(before) if before else None
    out = []
    for place in [place_of[row] for row in rows if row in place_of]:
        image, title = split.pairs.images[place], f"Truth: {_truth(split.pairs, place)}"
        cards = [Card(image, title, _captions(asked, place), "The nearest captions of the split, with their cosines.")]
        if before:
            cards.append(Card(None, "Before tuning", _captions(before, place), f"The same of {before.clip.source}."))
        if scorer is not None:
            cards.append(_labels(asked, scorer, place, "Labels"))
        if before and old is not None:
            cards.append(_labels(before, old, place, "Labels before tuning"))
        changed = _changed(asked, before, scorer, old, place) if before else ""
        title = f"Row {split.pairs.rows[place]}: {split.pairs.files[place]}"
        out.append(Block(title, changed, (), (), (*cards, *_nearest(asked, place))))
    return tuple(out)


def _scorer(asked: Asked) -> Scorer | None:
    return scorer_for(asked.clip, asked.domain, asked.labels, [asked.split], asked.classes, asked.features)


def _cosines(asked: Asked, place: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(M,) of a picture with each caption of the split, and whether it is one of its own."""
    found = asked.split.embeddings
    right = np.zeros(len(found.captions), dtype=bool)
    right[found.caption_of[found.file_of == found.file_of[place]]] = True
    return (found.text.double() @ found.image[place].double()).numpy(), right


def _captions(asked: Asked, place: int) -> tuple[Said, ...]:
    """The captions that a model finds nearest."""
    cosine, right = _cosines(asked, place)
    return tuple(
        Said(asked.split.embeddings.captions[text], f"{cosine[text]:.2f}", "right" if right[text] else "wrong")
        for text in np.argsort(-cosine, kind="stable")[:TOP].tolist()
    )


def _probability(asked: Asked, scorer: Scorer, place: int) -> tuple[NDArray[np.float64], float | None]:
    """(C,) of each label, and the temperature; None where the model has none that was fitted for them."""
    fitted = asked.clip.calibration
    temperature = fitted.temperature if fitted and fitted.fits(scorer.kind, scorer.labels) else None
    logits = scorer.logits(asked.split.embeddings.image[place][None])
    return scorer.probabilities(logits, temperature or 1.0)[0], temperature


def _labels(asked: Asked, scorer: Scorer, place: int, title: str) -> Card:
    own = asked.split.pairs.labels[place]
    probability, temperature = _probability(asked, scorer, place)
    found = [
        Said(scorer.labels[one], f"{probability[one]:.2f}", "right" if scorer.labels[one] in own else "")
        for one in np.argsort(-probability, kind="stable")[:TOP].tolist()
    ]
    how = f"at the temperature {temperature:.3g}" if temperature else "not calibrated"
    return Card(None, title, tuple(found), f"Probabilities, {how}.")


def _changed(asked: Asked, before: Asked, scorer: Scorer | None, old: Scorer | None, place: int) -> str:
    """What tuning did to a case: where its caption stands, and how probable its labels are."""
    places = []
    for one in (before, asked):
        cosine, right = _cosines(one, place)
        places.append(1 + int((cosine[~right] >= cosine[right].max() - TIE).sum()))
    said = f"Its caption is number {places[1]} of {len(right)}, and was number {places[0]} before tuning."
    if scorer is not None and old is not None and scorer.labels == old.labels:
        now, then = _probability(asked, scorer, place)[0], _probability(before, old, place)[0]
        for name in asked.split.pairs.labels[place]:
            if name in scorer.labels:
                at = scorer.labels.index(name)
                said += f" {name}: probability {now[at]:.2f}, and {then[at]:.2f} before."
    return said


def _nearest(asked: Asked, place: int) -> list[Card]:
    """The pictures of train whose embeddings are nearest."""
    train = asked.other("train")
    if train is None:
        return []
    cosine = (train.embeddings.image[train.rows].double() @ asked.split.embeddings.image[place].double()).numpy()
    out = []
    for number, one in enumerate(np.argsort(-cosine, kind="stable")[:NEAREST].tolist(), 1):
        row = int(train.rows[one])
        title = f"Nearest in train, {number}: {_truth(train.pairs, row)}"
        out.append(Card(train.pairs.images[row], title, (), f"row {train.pairs.rows[row]}, cosine {cosine[one]:.3f}"))
    return out


def _truth(pairs: Pairs, row: int) -> str:
    labels = ", ".join(pairs.labels[row])
    return f"{labels}. {pairs.captions[row]}" if labels else pairs.captions[row]
