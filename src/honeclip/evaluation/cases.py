"""Case studies: one picture each with its truth, what the model says of it, and the nearest cases that it was trained on."""

from __future__ import annotations

import difflib
from pathlib import PurePath

import numpy as np

from honeclip.data.pairs import Pairs
from honeclip.errors import BadInput
from honeclip.evaluation.calibrated import scorer_for
from honeclip.evaluation.suite import Asked, Block, Card, Said

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


def blocks(asked: Asked, rows: tuple[int, ...]) -> tuple[Block, ...]:
    """A block a case; one whose picture could not be read any more is left out."""
    split, embeddings = asked.split, asked.split.embeddings
    place_of = {row: place for place, row in enumerate(split.pairs.rows)}
    scorer = scorer_for(asked.clip, asked.domain, asked.labels, [split], asked.classes, asked.features)
    fitted = asked.clip.calibration if scorer else None
    out = []
    for place in [place_of[row] for row in rows if row in place_of]:
        own = set(split.pairs.labels[place])
        image = embeddings.image[place]
        cosine = (embeddings.text.double() @ image.double()).numpy()
        right = {int(one) for one in embeddings.caption_of[embeddings.file_of == embeddings.file_of[place]]}
        said = [
            Said(embeddings.captions[text], f"{cosine[text]:.2f}", "right" if text in right else "wrong")
            for text in np.argsort(-cosine, kind="stable")[:TOP].tolist()
        ]
        cards = [
            Card(
                split.pairs.images[place],
                f"Truth: {_truth(split.pairs, place)}",
                tuple(said),
                "The nearest captions of the split, with their cosines.",
            )
        ]
        if scorer is not None:
            fits = fitted is not None and fitted.fits(scorer.kind, scorer.labels)
            temperature = fitted.temperature if fitted is not None and fits else 1.0
            probability = scorer.probabilities(scorer.logits(image[None]), temperature)[0]
            found = [
                Said(scorer.labels[one], f"{probability[one]:.2f}", "right" if scorer.labels[one] in own else "")
                for one in np.argsort(-probability, kind="stable")[:TOP].tolist()
            ]
            how = f"Probabilities, at the temperature {temperature:.3g}." if fits else "Probabilities, not calibrated."
            cards.append(Card(None, "Labels", tuple(found), how))
        out.append(
            Block(
                f"Row {split.pairs.rows[place]}: {split.pairs.files[place]}",
                "",
                (),
                (),
                (*cards, *_nearest(asked, place)),
            )
        )
    return tuple(out)


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
