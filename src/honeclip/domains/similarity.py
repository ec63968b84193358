"""How alike two captions are in the eyes of a field, as unit vectors: similarity = max(0, dot), between 0 and 1.

Vectors tile and gather like ids, so a loss needs nothing else of a field: no table of N x N, no model. A text of which
nothing is known has the zero vector: it is similar to nothing, itself included, and a loss then falls back on its pairs.
Three ways, chosen by `similarity.metric` of the domain: terms that both share, the labels' common path in a tree, and the
cosine of a text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from honeclip.domains.domain import Domain
from honeclip.domains.tree import ancestors
from honeclip.domains.vocabulary import Terms
from honeclip.errors import DomainError

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""N texts (or labels) -> float32 (N, K), every row of length 1 or all zero. K depends on the texts: ask for all at once."""

Encode = Callable[[Sequence[str]], NDArray[np.floating]]
"""N texts -> (N, D), the embeddings of a text tower, of any length."""

SMALLEST_NORM = 1e-6
"""Vectors of unit texts that are shorter than this after centring hold rounding errors and no direction."""


def metric(domain: Domain, terms: Terms, encode: Encode | None = None) -> Vectors:
    """The way that a domain chooses. "labels" is asked with labels (several of a row joined by `;`), the others with texts.

    Args:
        domain: `similarity` decides.
        terms: `domains.read_terms`; only "terms" looks at them.
        encode: a text tower; only "text" needs one.

    Raises:
        DomainError: the metric is "text" and there is no encoder.
    """
    rules = domain.similarity
    if rules.metric == "terms":
        return partial(term_vectors, terms=terms)
    if rules.metric == "labels":
        return partial(label_vectors, parents=rules.tree, separator=rules.separator)
    if encode is None:
        raise DomainError(
            f'domain {domain.name}: similarity.metric = "text" needs a text tower to compare texts with; '
            'without one choose "terms" or "labels"'
        )
    return partial(text_vectors, encode=encode)


def similarity(vectors: Vectors, first: Sequence[str], second: Sequence[str]) -> NDArray[np.float32]:
    """How alike each of N texts is to each of M: float32 (N, M), 0 to 1.

    Both sides are measured together, so that a term is as rare for one as for the other.
    """
    both = vectors([*first, *second])
    dots_NM: NDArray[np.float32] = both[: len(first)] @ both[len(first) :].T
    return dots_NM.clip(0.0, 1.0)


def term_vectors(texts: Sequence[str], terms: Terms) -> NDArray[np.float32]:
    """Counts of a field's terms, weighted by how rare each is in these texts: float32 (N, terms found).

    The weight of a term that n of N texts hold is log((N + 1) / n) (Sparck Jones 1972): next to nothing for what every
    caption says ("surface"), and still above zero, so that two texts with only that are alike.

    A text without a known term is similar to nothing. Its own words are no stand-in: two captions would be alike because
    both say "a picture of a", and a wrong positive costs a loss more than one that is not found.
    """
    distinct = list(dict.fromkeys(texts))
    counts = [terms.find(text) for text in distinct]
    column = {name: number for number, name in enumerate(sorted({name for one in counts for name in one}))}
    raw = np.zeros((len(distinct), len(column)), dtype=np.float32)
    for row, one in zip(raw, counts, strict=True):
        for name, count in one.items():
            row[column[name]] = count
    of = {text: number for number, text in enumerate(distinct)}
    rows = np.array([of[text] for text in texts], dtype=np.int64)
    holders = np.bincount(rows, minlength=len(distinct)).astype(np.float64) @ (raw > 0)
    raw *= np.log((len(texts) + 1) / np.maximum(holders, 1)).astype(np.float32)
    return _unit(raw).astype(np.float32, copy=False)[rows]


def label_vectors(
    labels: Sequence[str], parents: Mapping[str, str] | None = None, separator: str = "/"
) -> NDArray[np.float32]:
    """The path of each label from the top: float32 (N, nodes that occur).

    The dot product of two labels with paths of a and b nodes, c of them common, is c / sqrt(a b): 1 for equal labels, 0
    where only the (uncounted) root is common. The measure of Wu and Palmer (1994), 2 c / (a + b), has the arithmetic in
    place of the geometric mean: equal for labels of one depth, a little lower for others, but no dot product of so few
    columns.

    Args:
        labels: one of each row; several labels of a row are separated by `;`, and the mean of their vectors counts.
            A row without a label has the zero vector.
        parents: child -> parent, `similarity.tree` of the domain.
        separator: between the levels of a path.

    Raises:
        DomainError: the parents go round in a circle.
    """
    split = [[part.strip() for part in row.split(";") if part.strip()] for row in labels]
    paths = {one: ancestors(one, parents or {}, separator) for row in split for one in row}
    column = {node: number for number, node in enumerate(sorted({node for path in paths.values() for node in path}))}
    raw = np.zeros((len(labels), len(column)), dtype=np.float32)
    for row, ones in zip(raw, split, strict=True):
        for one in ones:
            row[[column[node] for node in paths[one]]] += 1 / np.sqrt(len(paths[one]))
    return _unit(raw).astype(np.float32, copy=False)


def text_vectors(texts: Sequence[str], encode: Encode) -> NDArray[np.float32]:
    """Embeddings of a text tower, centred: float32 (N, D).

    The cosines of sentence towers crowd far above zero, for all texts share a large common direction (Ethayarajh 2019;
    Mu and Viswanath 2018 take it off): with max(0, cosine) every two captions would be half alike. The mean of the
    distinct texts is taken off, so that 0 is what two captions of this data share at random. Distinct ones, or a caption
    that stands in many rows would move the middle to itself.

    Args:
        texts: N captions; each distinct one is encoded once.
        encode: texts -> (n, D).
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return np.zeros((0, 0), dtype=np.float32)
    raw = _unit(np.asarray(encode(distinct), dtype=np.float64))
    centred = _unit(raw - raw.mean(axis=0), SMALLEST_NORM).astype(np.float32)
    of = {text: number for number, text in enumerate(distinct)}
    return centred[[of[text] for text in texts]]


def _unit(raw: NDArray[np.floating], smallest: float = 0.0) -> NDArray[np.floating]:
    """Rows of length 1, of the same type; those no longer than `smallest` become zero."""
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    unit: NDArray[np.floating] = np.divide(raw, norms, out=np.zeros_like(raw), where=norms > smallest)
    return unit
