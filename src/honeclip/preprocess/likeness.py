"""A hash of what is seen in a picture, by which pictures are found that look alike though their pixels differ.

A difference hash: the picture shrunk to 17 x 16 and made grey; each bit says whether a pixel is brighter than its right
neighbour. (N. Krawetz, "Kind of Like That", 2013, with 256 bits for 64.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE


def difference_hash(picture: Image.Image) -> NDArray[np.uint8]:
    """(32,) uint8: the 256 bits of a picture."""
    # shrunk before it is made grey: a grey copy of a large picture would be a third of its memory
    small = picture.convert("RGB").resize((SIDE + 1, SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1])
