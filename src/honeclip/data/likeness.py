"""Pictures that look alike though their pixels differ: saved anew, resized, a little brighter or cropped.

A difference hash: the picture in grey, shrunk to 17 x 16; each bit says whether a pixel is brighter than its right neighbour.
Two hashes are compared by the number of bits that differ. (N. Krawetz, "Kind of Like That", 2013, with 256 bits for 64.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from honeclip.data.rows import ImageRef, Member
from honeclip.errors import DataError
from honeclip.preprocess.images import decode

SIDE = 16
BITS = SIDE * SIDE


def difference_hash(picture: Image.Image) -> NDArray[np.uint8]:
    """(32,) uint8: the 256 bits of a picture."""
    small = picture.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1])


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
