"""Retrieval both ways, with every right partner of a repeated caption or image counted as right.

Candidates of image-to-text are the distinct captions; queries of text-to-image are the distinct captions and its
candidates all images. An image file that stands in several rows (one picture, five captions) is one image; two files
with the same pixels are two, and each is right for the captions of both. A caption is right for an image when any row
joins it to an image of the same content.

The rank of a query is 1 + the number of wrong candidates that score at least as high as its best right one: ties count
against the model, so an embedding that is the same for everything ends last and not first. The first wrong hit decides;
that there are several right candidates does not push any of them down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.intervals import Figure, Indices, Statistic, figures

KS = (1, 5, 10)
TIE = 1e-9  # cosines closer than this are one value: float64 rounds a dot product of unit vectors to about 1e-15
CHUNK_BYTES = 64 << 20

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Right:
    """The right pairs of image i and distinct caption j, sorted by image: `image[p]` goes with `text[p]`."""

    image: Ids
    text: Ids
    images: int
    texts: int


@dataclass(frozen=True)
class Ranks:
    """Of each query (1 is best): `image_to_text` (I,) among M captions, `text_to_image` (M,) among I images."""

    image_to_text: Ids
    text_to_image: Ids


def right_pairs(image_id: Ids, caption_of: Ids, file_of: Ids | None = None) -> tuple[Right, Ids]:
    """Who belongs to whom.

    Args:
        image_id: (N,) rows whose images are equal by content share one.
        caption_of: (N,) the index of each row's distinct caption, 0 to M - 1, each occurring.
        file_of: (N,) rows that name one image file share one; None: every row is an image of its own.

    Returns:
        The right pairs, and the first row of each of the I images (I,), in the order of the rows.
    """
    rows = np.arange(len(image_id)) if file_of is None else np.unique(file_of, return_index=True)[1]
    rows = np.sort(rows).astype(np.int64)
    texts = int(caption_of.max()) + 1
    contents, content_of = np.unique(image_id, return_inverse=True)
    joined = np.unique(content_of.astype(np.int64) * texts + caption_of)  # sorted by content, then caption
    content, text = joined // texts, joined % texts
    first = np.searchsorted(content, np.arange(len(contents)))
    count = np.bincount(content, minlength=len(contents))

    mine = content_of[rows]
    image = np.repeat(np.arange(len(rows)), count[mine])
    within = np.arange(len(image)) - np.repeat(np.cumsum(count[mine]) - count[mine], count[mine])
    return Right(image, text[np.repeat(first[mine], count[mine]) + within], len(rows), texts), rows


def ranks(image_ID: NDArray[np.floating], text_MD: NDArray[np.floating], right: Right) -> Ranks:
    """Rank every query both ways from one pass over the cosines, `CHUNK_BYTES` of them at a time.

    Args:
        image_ID: (I, D) unit embeddings.
        text_MD: (M, D) unit embeddings.
        right: of the same I and M; every image and every caption has at least one partner.
    """
    images, texts = image_ID.astype(np.float64), text_MD.astype(np.float64)
    best_image, best_text = np.full(right.images, -np.inf), np.full(right.texts, -np.inf)
    step = max(1, CHUNK_BYTES // (8 * images.shape[1]))
    for start in range(0, len(right.image), step):
        i, j = right.image[start : start + step], right.text[start : start + step]
        cosine = np.einsum("pd,pd->p", images[i], texts[j])
        np.maximum.at(best_image, i, cosine)
        np.maximum.at(best_text, j, cosine)

    image_to_text = np.ones(right.images, dtype=np.int64)
    text_to_image = np.ones(right.texts, dtype=np.int64)
    step = max(1, CHUNK_BYTES // (8 * right.texts))
    for start in range(0, right.images, step):
        stop = min(start + step, right.images)
        cosine_IM = images[start:stop] @ texts.T
        pairs = slice(*np.searchsorted(right.image, [start, stop]))
        cosine_IM[right.image[pairs] - start, right.text[pairs]] = -np.inf
        # "not below" rather than "above or equal": a NaN, if one came this far, counts against the model
        image_to_text[start:stop] += (~(cosine_IM < best_image[start:stop, None] - TIE)).sum(1)
        text_to_image += (~(cosine_IM < best_text - TIE)).sum(0)
    return Ranks(image_to_text, text_to_image)


def statistic(ranks_Q: Ids, candidates: int) -> Statistic:
    """R@k, where there are at least 5 k candidates (below that chance alone is 0.2), and the median rank."""
    ks = [k for k in KS if candidates >= 5 * k]

    def of(indices: Indices) -> dict[str, NDArray[np.float64]]:
        drawn = ranks_Q[indices]
        out = {f"R@{k}": (drawn <= k).mean(1) for k in ks}
        return {**out, "median_rank": np.median(drawn, axis=1).astype(np.float64)}

    return of


def reciprocal(ranks_Q: Ids) -> Statistic:
    """ "mrr": the mean reciprocal rank of the best right candidate (Voorhees 1999, TREC-8), for resampled queries.

    With one right candidate a query it is scikit-learn's `label_ranking_average_precision_score`.
    """
    return mean_of("mrr", 1 / ranks_Q)


def mean_of(name: str, values_Q: NDArray[np.float64]) -> Statistic:
    """The mean over resampled queries of a value that each query has."""
    return lambda indices: {name: values_Q[indices].mean(1)}


def ndcg(
    queries_QD: NDArray[np.floating],
    candidates_CD: NDArray[np.floating],
    right_QC: tuple[Ids, Ids],
    k: int = 10,
) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of the first k candidates (Jaervelin and Kekaelaeinen 2002), of each query.

    Every right candidate gains 1 / log2(1 + its place), over what the best order would gain: scikit-learn's `ndcg_score` of
    relevances 0 and 1. Where a wrong and a right candidate tie, the wrong one comes first, as in `ranks` (scikit-learn takes
    the mean over all orders). `mean_of("ndcg@10", ...)` makes a statistic of it.

    Args:
        queries_QD: (Q, D) unit embeddings.
        candidates_CD: (C, D) unit embeddings.
        right_QC: query and candidate of each right pair, each pair once; every query has at least one.
        k: how many candidates count.

    Returns:
        (Q,) from 0 to 1.
    """
    queries, candidates = queries_QD.astype(np.float64), candidates_CD.astype(np.float64)
    order = np.argsort(right_QC[0], kind="stable")
    of, to = right_QC[0][order], right_QC[1][order]
    k = min(k, len(candidates))
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], discount.cumsum()])[np.minimum(np.bincount(of, minlength=len(queries)), k)]
    gained = np.empty(len(queries))
    step = max(1, CHUNK_BYTES // (8 * len(candidates)))
    for start in range(0, len(queries), step):
        stop = min(start + step, len(queries))
        cosine_QC = queries[start:stop] @ candidates.T
        pairs = slice(*np.searchsorted(of, [start, stop]))
        right = np.zeros(cosine_QC.shape, dtype=bool)
        right[of[pairs] - start, to[pairs]] = True
        cosine_QC[right] -= TIE
        first = np.argpartition(-cosine_QC, k - 1, axis=1)[:, :k]
        first = np.take_along_axis(first, np.argsort(-np.take_along_axis(cosine_QC, first, 1), axis=1), 1)
        gained[start:stop] = (np.take_along_axis(right, first, 1) * discount).sum(1)
    out: NDArray[np.float64] = gained / best
    return out


def statistics(found: Ranks) -> dict[str, tuple[Statistic, int]]:
    """For each direction its statistic and its number of queries."""
    images, texts = len(found.image_to_text), len(found.text_to_image)
    return {
        "image_to_text": (statistic(found.image_to_text, texts), images),
        "text_to_image": (statistic(found.text_to_image, images), texts),
    }


def retrieval(found: Ranks, seed: int = 0) -> dict[str, dict[str, Figure]]:
    """The `retrieval` section of METRICS; the bootstrap resamples the queries, the gallery stays as it is."""
    return {name: figures(of, queries, seed) for name, (of, queries) in statistics(found).items()}
