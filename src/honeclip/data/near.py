"""Pictures of val and test that are nearly one of train: saved anew, resized, brighter. Found by their hashes, then looked at.

Pictures of equal pixels are none of them: those are `split_leak` problems (`findings`).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from honeclip.data.likeness import MOST_BITS, from_hex
from honeclip.data.pairs import Pairs
from honeclip.data.rows import ImageRef, Member
from honeclip.errors import DataError
from honeclip.preprocess.images import decode

MOST_LOOKED_AT = 300
"""Pictures of val and test that are compared, evenly chosen where there are more: the share is what a run wants to know."""

CANDIDATES = 2
"""Pictures of train that are looked at for each of them, those of the nearest hashes."""

SAME = 0.995
"""Correlation of the colours of two pictures at 64 x 64 from which on they are nearly the same. Copies saved anew as JPEG of
quality 40 lie above it nine times in ten; of 209 molecules whose hashes are alike, one does."""

SIDE = 64


@dataclass(frozen=True)
class Near:
    """What was found.

    Attributes:
        rows: (row, row of train) of each near duplicate, as in the manifest, counted from 1.
        looked_at: distinct pictures of val and test that were compared with all of train.
    """

    rows: tuple[tuple[int, int], ...]
    looked_at: int


def near_duplicates(pairs: Pairs, most: int = MOST_LOOKED_AT) -> Near:
    """The pictures of val and test that are nearly one of train.

    Decodes no picture but those whose hashes are alike. 300 pictures against 300,000 of train took 1.6 s on two
    busy cores.

    Args:
        pairs: with their `likeness`.
        most: pictures that are compared at most.
    """
    if not pairs.likeness:
        return Near((), 0)
    first = np.unique(pairs.image_id, return_index=True)[1]
    in_train = np.isin(pairs.image_id[first], pairs.image_id[np.array(pairs.splits) == "train"])
    train, asked = first[in_train], first[~in_train]
    chosen = asked[np.linspace(0, len(asked) - 1, min(most, len(asked))).round().astype(np.int64)]
    train_4N = _bits(pairs, train)

    def nearest(place: int) -> tuple[int, int] | None:
        """A row and its near duplicate."""
        bits_41 = _bits(pairs, np.array([place]))
        differing = np.zeros(len(train), dtype=np.int64)
        for mine, one in zip(train_4N, bits_41, strict=True):
            differing += np.bitwise_count(mine ^ one)
        # a plain area looks like every other one
        alike = np.flatnonzero(differing <= MOST_BITS).tolist() if bits_41.any() else []
        for other in sorted(alike, key=lambda one: int(differing[one]))[:CANDIDATES]:
            if _are_nearly_the_same(pairs.images[place], pairs.images[train[other]]):
                return pairs.rows[place], pairs.rows[train[other]]
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = [one for one in pool.map(nearest, chosen.tolist()) if one is not None]
    return Near(tuple(sorted(found)), len(chosen))


def _bits(pairs: Pairs, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(4, N) the 256 bits of each picture; words of one place lie beside each other, which is what makes comparing fast."""
    bits = from_hex([pairs.likeness[place] for place in places.tolist()])
    return np.ascontiguousarray(bits.view(np.uint64).T)


def _are_nearly_the_same(one: ImageRef, other: ImageRef) -> bool:
    try:
        mine, others = _colours(one), _colours(other)
    except (DataError, OSError):  # gone since it was looked at
        return False
    size = float(np.linalg.norm(mine) * np.linalg.norm(others))
    return size > 0 and float(mine @ others) >= SAME * size


def _colours(image: ImageRef) -> NDArray[np.float64]:
    """(12288,) of the picture at 64 x 64, less their mean."""
    picture = decode(image.read() if isinstance(image, Member) else image)
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64).reshape(-1)
    return np.asarray(small - small.mean(), dtype=np.float64)
