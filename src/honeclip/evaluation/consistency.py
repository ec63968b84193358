"""How far a model stays with its answers when pictures are shown otherwise: the same model, another size or changed pixels.

Consistency asks nothing of the truth: a model can be wrong and consistent. Beside it stands the paired difference of the
scores (`answers.paired_difference`), which does.

cosine        of an image's two embeddings, the mean over images
overlap@k     |A and B| / |A or B| (Jaccard) of the first k answers to a query before and after, the mean over queries;
              k is the largest of 10, 5, 1 with at least 5 k candidates, as for R@k
same_label    share of labelled images that are given the same label
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from honeclip.embedding.embed import Embeddings
from honeclip.evaluation.answers import Answers
from honeclip.evaluation.intervals import Figure, Indices, figures
from honeclip.evaluation.retrieval import CHUNK_BYTES, KS, Ids


def consistency(
    before: Embeddings, after: Embeddings, old: Answers, new: Answers, rows: Ids, seed: int = 0
) -> dict[str, Any]:
    """Every figure with its 95 % bootstrap interval over images (or captions, where they are the queries).

    Args:
        before: of the pictures as they are, at the model's own size.
        after: of the same rows, shown otherwise.
        old: answers of `before`.
        new: answers of `after`.
        rows: (I,) the first row of each image file, `retrieval.right_pairs`.
        seed: of the bootstrap.
    """
    one, other = before.image[rows], after.image[rows]
    cosine = cosine_similarity(one.double(), other.double(), dim=-1).numpy()
    out: dict[str, Any] = {"cosine": _mean(cosine, seed)}
    one_ID, other_ID, text_MD = one.numpy(), other.numpy(), before.text.numpy()
    for name, first, second, galleries in (
        ("image_to_text", one_ID, other_ID, (text_MD, text_MD)),
        ("text_to_image", text_MD, text_MD, (one_ID, other_ID)),
    ):
        k = ranked(len(galleries[0]))
        shared = overlap(top(first, galleries[0], k), top(second, galleries[1], k))
        out[name] = {f"overlap@{k}": _mean(shared, seed)}
    if old.predictions is not None and new.predictions is not None:
        same = old.predictions.predicted == new.predictions.predicted
        out["zeroshot"] = {"same_label": _mean(same.astype(np.float64), seed)}
    return out


def ranked(candidates: int) -> int:
    """How many answers are compared: with fewer than 5 k candidates two rankings share most of k by chance."""
    return next((k for k in reversed(KS) if candidates >= 5 * k), 1)


def top(query_QD: NDArray[np.floating], gallery_GD: NDArray[np.floating], k: int) -> Ids:
    """(Q, k) the nearest of the gallery to each query, best first; of equal cosines the first in the gallery."""
    queries, gallery = query_QD.astype(np.float64), gallery_GD.astype(np.float64)
    step = max(1, CHUNK_BYTES // (8 * len(gallery)))
    parts = [
        np.argsort(-(queries[start : start + step] @ gallery.T), axis=1, kind="stable")[:, :k]
        for start in range(0, len(queries), step)
    ]
    return np.concatenate(parts).astype(np.int64)


def overlap(first_Qk: Ids, second_Qk: Ids) -> NDArray[np.float64]:
    """(Q,) Jaccard index of two sets of k answers a query."""
    k = first_Qk.shape[1]
    shared = (first_Qk[:, :, None] == second_Qk[:, None, :]).any(2).sum(1)
    jaccard: NDArray[np.float64] = shared / (2 * k - shared)
    return jaccard


def _mean(values: NDArray[np.float64], seed: int) -> Figure:
    def of(indices: Indices) -> dict[str, NDArray[np.float64]]:
        return {"mean": values[indices].mean(1)}

    return figures(of, len(values), seed)["mean"]
