"""Pictures that look alike though their pixels differ: saved anew, resized, a little brighter or cropped.

Two hashes (`preprocess.likeness`) are compared by the number of bits that differ. That is cheap and finds more than there is:
drawings with much white are told apart by few bits. So what counts as a near duplicate is looked at once more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from honeclip.data.rows import ImageRef, Member
from honeclip.errors import DataError
from honeclip.preprocess.images import decode
from honeclip.preprocess.likeness import BITS, difference_hash

__all__ = ["BITS", "MOST_BITS", "difference_hash", "distances", "hashes"]

MOST_BITS = 10
"""Bits of 256 in which the hashes of two pictures may differ and still be called alike."""


def hashes(images: Sequence[ImageRef]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(N, 32) of pictures, and (N,) whether each could be read and has any pattern: a plain area looks like every other one."""

    def one(image: ImageRef) -> NDArray[np.uint8] | None:
        try:
            return difference_hash(decode(image.read() if isinstance(image, Member) else image))
        except (DataError, OSError):
            return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(one, images))
    bits = np.stack([np.zeros(BITS // 8, dtype=np.uint8) if one is None else one for one in found])
    return bits, bits.max(axis=1) > 0


def distances(one_N: NDArray[np.uint8], other_M: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, M) differing bits of each pair."""
    return np.stack([np.bitwise_count(other_M ^ bits).sum(1, dtype=np.int64) for bits in one_N])
