"""Retrieval among figures of one paper or chapter, which look and read alike, and among those of all others.

Two galleries for each query. Within: candidates of its own paper (hard). Across: its right partners and the candidates of all
other papers (easy). A caption that stands in several papers belongs to each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.retrieval import TIE, Ids, Right

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK = 512


@dataclass(frozen=True)
class Ranked:
    """Of each query that has a wrong candidate in its gallery.

    Attributes:
        queries: (Q,) which they are.
        ranks: (Q,) of the best right candidate; ties count against the model.
        candidates: (Q,) how many it chooses from.
    """

    queries: Ids
    ranks: Ids
    candidates: Ids


def papers_of(names: Sequence[Sequence[str]], known: Sequence[str]) -> Bools:
    """(rows, papers) whether a row is of a paper."""
    place = {name: number for number, name in enumerate(known)}
    out = np.zeros((len(names), len(known)), dtype=bool)
    for row, own in enumerate(names):
        out[row, [place[name] for name in own]] = True
    return out


def ranked(queries_QD: Floats, candidates_CD: Floats, right_QC: Bools, same_QC: Bools, *, within: bool) -> Ranked:
    """Rank the right candidates of each query in one of the galleries.

    Args:
        queries_QD: (Q, D) unit embeddings.
        candidates_CD: (C, D) unit embeddings.
        right_QC: (Q, C) who is right; every query has at least one.
        same_QC: (Q, C) whether both are of one paper.
        within: the gallery of the own paper, or that of all others.
    """
    ranks = np.ones(len(queries_QD), dtype=np.int64)
    wrong_there = np.zeros(len(queries_QD), dtype=np.int64)
    for start in range(0, len(queries_QD), CHUNK):
        rows = slice(start, start + CHUNK)
        cosine = queries_QD[rows].astype(np.float64) @ candidates_CD.astype(np.float64).T
        right = right_QC[rows]
        best = np.where(right, cosine, -np.inf).max(1)
        wrong = ~right & (same_QC[rows] if within else ~same_QC[rows])
        wrong_there[rows] = wrong.sum(1)
        # "not below" rather than "above or equal", as in `retrieval.ranks`: a NaN counts against the model
        ranks[rows] += (wrong & ~(cosine < best[:, None] - TIE)).sum(1)
    asked = np.flatnonzero(wrong_there > 0)
    return Ranked(asked.astype(np.int64), ranks[asked], (wrong_there + right_QC.sum(1))[asked].astype(np.int64))


def dense(right: Right) -> Bools:
    """(images, texts) of the right pairs."""
    out = np.zeros((right.images, right.texts), dtype=bool)
    out[right.image, right.text] = True
    return out
