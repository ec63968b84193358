"""Pictures of the split that is asked which look like pictures of train: what was learned by heart is no answer.

Two ways, for each misses what the other finds. By a hash of what is seen: a copy that was saved anew or resized. By the
embeddings: a copy that was cropped or turned a little, but also two pictures that the model cannot tell apart; a model that was
tuned to few captions puts many of them together, and then its embeddings say nothing of copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from honeclip.data.likeness import BITS, MOST_BITS, distances, from_hex
from honeclip.evaluation.suite import Split

LEAST_COSINE = 0.999
"""Cosine of two embeddings from which on."""

CROWDED = 0.05
"""Where more than this share of the pictures has such a neighbour, it is the model that cannot tell them apart."""

NAMED = 5
CHUNK = 512


@dataclass(frozen=True)
class Near:
    """A picture that is asked and the nearest one of train, by their rows in the manifest; `near` is bits or a cosine."""

    row: int
    train_row: int
    near: float


@dataclass(frozen=True)
class Leaks:
    """Near duplicates by either way, the nearest first, among `pictures` that were asked and `train_pictures`."""

    by_hash: tuple[Near, ...]
    by_embedding: tuple[Near, ...]
    pictures: int
    train_pictures: int


def leaks(asked: Split, train: Split) -> Leaks:
    """Compare every distinct picture of a split with those of train."""
    return Leaks(_by_hash(asked, train), _by_embedding(asked, train), len(asked.rows), len(train.rows))


def _by_hash(asked: Split, train: Split) -> tuple[Near, ...]:
    mine, others = (from_hex([one.pairs.likeness[row] for row in one.rows]) for one in (asked, train))
    good, fine = mine.max(1) > 0, others.max(1) > 0
    out = []
    for start in range(0, len(mine), CHUNK):
        bits = distances(mine[start : start + CHUNK], others)
        bits[:, ~fine] = BITS
        for place in np.flatnonzero(good[start : start + CHUNK] & (bits.min(1) <= MOST_BITS)):
            out.append(_near(asked, train, start + int(place), int(bits[place].argmin()), float(bits[place].min())))
    return tuple(sorted(out, key=lambda one: (one.near, one.row)))


def _by_embedding(asked: Split, train: Split) -> tuple[Near, ...]:
    mine, others = (one.embeddings.image[one.rows].double() for one in (asked, train))
    out = []
    for start in range(0, len(mine), CHUNK):
        cosine = (mine[start : start + CHUNK] @ others.T).numpy()
        for place in np.flatnonzero(cosine.max(1) >= LEAST_COSINE):
            out.append(_near(asked, train, start + int(place), int(cosine[place].argmax()), float(cosine[place].max())))
    return tuple(sorted(out, key=lambda one: (-one.near, one.row)))


def _near(asked: Split, train: Split, place: int, train_place: int, near: float) -> Near:
    return Near(asked.pairs.rows[asked.rows[place]], train.pairs.rows[train.rows[train_place]], near)


def told(found: Leaks) -> list[str]:
    """Sentences for a report: how many pictures have a near duplicate in train, and which rows."""
    of = f"of {found.pictures} pictures (compared with {found.train_pictures} of train)"
    by_hash = f"by a hash of what is seen (at most {MOST_BITS} of {BITS} bits differ)"
    by_embedding = f"by the embedding (cosine of {LEAST_COSINE} or more)"
    out = []
    if found.by_hash:
        out.append(
            f"Possible leak, {by_hash}: {len(found.by_hash)} {of} look like one of train: {_rows(found.by_hash)}."
        )
    else:
        out.append(f"No near duplicate in train, {by_hash}: none {of}.")
    share = len(found.by_embedding) / max(1, found.pictures)
    if share > CROWDED:
        out.append(
            f"No near duplicates can be told {by_embedding}: {len(found.by_embedding)} {of} lie so close to one of train, for "
            "this model puts pictures of one kind together."
        )
    elif found.by_embedding:
        out.append(
            f"Possible leak, {by_embedding}: {len(found.by_embedding)} {of} lie so close to one of train: "
            f"{_rows(found.by_embedding)}."
        )
    else:
        out.append(f"No near duplicate in train, {by_embedding}: none {of}.")
    return out


def _rows(near: Sequence[Near]) -> str:
    shown = ", ".join(f"row {one.row} and row {one.train_row}" for one in near[:NAMED])
    return shown + (f", and {len(near) - NAMED} more" if len(near) > NAMED else "")
