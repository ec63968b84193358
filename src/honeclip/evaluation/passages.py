"""Retrieval of a passage by what it is about, from the probes of a field: a question finds its passage among all of its kind.

A probe asks which of two texts is nearer. A technical document has hundreds of passages that differ as little: a fault
code's own line among all fault codes, the step that follows among all steps. Candidates are the distinct texts, right and
wrong, of every item of the kind; ties count against the model, as in `evaluation.retrieval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.domains.probe_files import Item
from honeclip.embedding.embed import embed_texts
from honeclip.embedding.features import Features
from honeclip.errors import NonFiniteError
from honeclip.evaluation.intervals import Indices, Statistic, figures
from honeclip.evaluation.probes import TIE
from honeclip.model.clip import Clip

KINDS = ("fault_codes", "steps", "causes", "definitions")
"""Kinds whose texts are passages of a document; in the others a text such as "no effusion" stands for a whole caption."""


def retrieval(
    clip: Clip, items: Sequence[Item], *, features: Features | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """{kind: {"mrr": figure, "R@1": figure, "passages", "chance"}} of the kinds in `KINDS` that are there.

    Args:
        clip: the model in its domain.
        items: of any kinds; of an order of several texts the first one is the passage that is looked for.
        features: where the text tower's body is frozen, its cache.
        seed: of the bootstrap, which draws questions.

    Raises:
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    out = {}
    for kind in KINDS:
        own = [item for item in items if item.kind == kind]
        if own:
            ranks_N, passages = _ranks(clip, own, features)
            found = figures(_statistic(ranks_N), len(own), seed)
            # of a rank that is drawn evenly from 1 to P, the mean of its reciprocal
            chance = float((1 / np.arange(1, passages + 1)).mean())
            out[kind] = {**found, "passages": passages, "chance": chance}
    return out


def _ranks(clip: Clip, items: Sequence[Item], features: Features | None) -> tuple[NDArray[np.int64], int]:
    """The rank of each item's passage (1 is best), and how many passages there are."""
    given = [text for item in items for text in item.ordered]
    said = clip.preprocess.words(given)
    first = dict(zip(reversed(said), reversed(given), strict=True))  # as given: `embed_texts` applies the rules itself
    passages = {word: place for place, word in enumerate(dict.fromkeys(said))}
    starts = np.cumsum([0, *(len(item.ordered) for item in items)])[:-1]
    right = np.array([passages[said[start]] for start in starts])
    asked = [*(item.anchor for item in items), *(first[word] for word in passages)]
    text = embed_texts(clip, asked, features=features).double().numpy()
    if not np.isfinite(text).all():
        raise NonFiniteError(f"the text tower of {clip.source} gives NaN or infinite embeddings")
    cosine_NP = text[: len(items)] @ text[len(items) :].T
    best_N = cosine_NP[np.arange(len(items)), right]
    # itself stands among those that are at least as near
    ranks_N: NDArray[np.int64] = (cosine_NP >= best_N[:, None] - TIE).sum(axis=1)
    return ranks_N, len(passages)


def _statistic(ranks_N: NDArray[np.int64]) -> Statistic:
    gains_N, first_N = 1 / ranks_N, (ranks_N == 1).astype(np.float64)

    def statistic(indices: Indices) -> dict[str, NDArray[np.float64]]:
        return {"mrr": gains_N[indices].mean(axis=1), "R@1": first_N[indices].mean(axis=1)}

    return statistic
