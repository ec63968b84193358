"""What a training step sees of each caption where a field samples sentences: drawn from seed, step and row alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from honeclip.data.order import Draw
from honeclip.preprocess import sentences

WHOLE, FIRST = 0.5, 0.25
"""Shares of the steps that see the whole caption and its first sentence, which names the thing; the other sentences share
the rest. (A caption of one sentence is always whole.)"""

_STREAM = 0x5E17
"""Keeps these numbers apart from those of the augmentation, which has the same seeds."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The texts that steps draw from.

    Attributes:
        texts: (M,) of all captions one after the other, each beginning with the whole caption.
        starts: (N + 1,) int64: caption n has the texts from starts[n] to starts[n + 1].
    """

    texts: tuple[str, ...]
    starts: NDArray[np.int64]

    def at(self, draw: Draw) -> NDArray[np.int64]:
        """(B,) the place among `texts` that each row of a draw takes."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((draw.seed, draw.step, _STREAM))))
        number = random.random(len(self.starts) - 1)[draw.indices]
        starts = self.starts[draw.indices]
        further = self.starts[draw.indices + 1] - starts - 2  # sentences behind the first
        share = np.clip((number - WHOLE - FIRST) / (1 - WHOLE - FIRST), 0, 1 - 1e-12)
        later = 2 + np.floor(share * np.maximum(further, 1)).astype(np.int64)
        chosen = np.where(number < WHOLE, 0, np.where((number < WHOLE + FIRST) | (further < 1), 1, later))
        return np.where(further < 0, starts, starts + chosen)


def of(captions: Sequence[str]) -> Samples:
    """What there is to draw from, of captions in the order of the rows."""
    each = [sentences.choices(caption) for caption in captions]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in each])]).astype(np.int64)
    return Samples(tuple(text for one in each for text in one), starts)
