"""Which suite a domain wants, and what it is given: splits of the data, each embedded once and only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from honeclip.data.pairs import Pairs
from honeclip.embedding.embed import Embeddings
from honeclip.evaluation.industrial import industrial
from honeclip.evaluation.medical import medical
from honeclip.evaluation.scientific import scientific
from honeclip.evaluation.suite import MOST_ROWS, Asked, Split, Suite, split_of

SUITES: dict[str, Callable[[Asked], Suite | None]] = {
    "medical": medical,
    "industrial": industrial,
    "scientific": scientific,
}
"""Domain.suite -> the suite, which gives None where the data has nothing that it could measure."""


def run(asked: Asked) -> Suite | None:
    """The suite of the domain on what was embedded; None where the domain names none."""
    suite = SUITES.get(asked.domain.suite)
    return suite(asked) if suite else None


def others(
    everything: Pairs, asked: str, embed: Callable[[Pairs], Embeddings], seed: int
) -> Callable[[str], Split | None]:
    """The splits of a data set by name but the one that is asked, each embedded once, when it is first asked for.

    Args:
        everything: all usable rows.
        asked: the split that is measured; it is never given.
        embed: rows through the model.
        seed: of the rows of a split that has more than `MOST_ROWS`.
    """

    @cache
    def other(name: str) -> Split | None:
        pairs = everything.split(name)
        if name == asked or not len(pairs):
            return None
        rows = np.arange(len(pairs))
        if len(pairs) > MOST_ROWS:
            rows = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:MOST_ROWS])
        chosen = pairs.select(rows)
        found = split_of(name, chosen, embed(chosen))
        return Split(name, found.pairs, found.embeddings, found.rows, found.labels, len(pairs))

    return other
