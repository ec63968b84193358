"""Pictures that look alike though their pixels differ: saved anew, resized, a little brighter or cropped.

Two hashes (`preprocess.likeness`) are compared by the number of bits that differ. That is cheap and finds more than there is:
drawings with much white are told apart by few bits. So what counts as a near duplicate is looked at once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from honeclip.preprocess.likeness import BITS

__all__ = ["BITS", "MOST_BITS", "distances", "from_hex"]

MOST_BITS = 10
"""Bits of 256 in which the hashes of two pictures may differ and still be called alike."""


def from_hex(likeness: Sequence[str]) -> NDArray[np.uint8]:
    """(N, 32) of the hashes that `Pairs.likeness` has. All zeros is a plain area, which looks like every other one."""
    return np.frombuffer(bytes.fromhex("".join(likeness)), dtype=np.uint8).reshape(-1, BITS // 8)


def distances(one_N: NDArray[np.uint8], other_M: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, M) differing bits of each pair."""
    return np.stack([np.bitwise_count(other_M ^ bits).sum(1, dtype=np.int64) for bits in one_N])
