"""What a look at val says besides scores: the figures of `geometry`, who is near whom, the hardest pairs, example pictures.

Everything comes from embeddings that the evaluation has. It becomes the `health` and `examples` of an evaluation event.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.data.pairs import Pairs
from honeclip.embedding.embed import Embeddings
from honeclip.evaluation import geometry, retrieval
from honeclip.evaluation.answers import Answers
from honeclip.evaluation.examples import Example

MOST = 1000
"""Pictures, and captions, whose geometry is looked at; drawn by the seed, the same at every look, where there are more."""

MOST_PAIRS = 10_000

WIDTH = 0.05
"""Of a bin of cosines."""

HARDEST, SHOWN, TOP = 3, 3, 2
"""Pairs, pictures, and captions of a picture that an event names: a run writes a kilobyte a step, not more."""

LETTERS = 72
"""Of a caption, and then an ellipsis."""

Array = NDArray[np.float64]
Ids = NDArray[np.int64]


def health(embeddings: Embeddings, answers: Answers, pairs: Pairs, seed: int = 0) -> dict[str, Any]:
    """The health of an evaluation event.

    Args:
        embeddings: of rows of `pairs`.
        answers: to the same rows.
        pairs: the rows that were asked.
        seed: of what is drawn.
    """
    right, rows = retrieval.right_pairs(embeddings.image_id, embeddings.caption_of, embeddings.file_of)
    random = np.random.default_rng(seed)
    image_ND, text_MD = embeddings.image.numpy(), embeddings.text.numpy()
    _, contents = np.unique(embeddings.image_id[rows], return_index=True)
    queries, texts = _drawn(random, contents, MOST), _drawn(random, np.arange(len(text_MD)), MOST)
    images_ID, texts_TD = image_ND[rows[queries]].astype(np.float64), text_MD[texts].astype(np.float64)
    chosen = _drawn(random, np.arange(len(right.image)), MOST_PAIRS)
    left_PD = image_ND[rows[right.image[chosen]]].astype(np.float64)
    right_PD = text_MD[right.text[chosen]].astype(np.float64)
    apart_IT = ~_among(right, queries, texts)
    found = {
        "alignment": geometry.alignment(left_PD, right_PD),
        "uniformity_image": geometry.uniformity(images_ID),
        "uniformity_text": geometry.uniformity(texts_TD),
        "modality_gap": geometry.modality_gap(images_ID, texts_TD),
        "effective_rank_image": geometry.effective_rank(images_ID),
        "effective_rank_text": geometry.effective_rank(texts_TD),
        "dead_image": geometry.dead_dimensions(images_ID),
        "dead_text": geometry.dead_dimensions(texts_TD),
    }
    cosine_P, cosine_N = (left_PD * right_PD).sum(1), (images_ID @ texts_TD.T)[apart_IT]
    return {
        **{name: round(value, 4) for name, value in found.items()},
        "similarity": histogram(cosine_P, cosine_N),
        "hardest": _hardest(embeddings, answers, pairs, right, rows),
    }


def histogram(positive_P: Array, negative_N: Array) -> dict[str, list[Any]]:
    """Counts of cosines of right pairs and of all others in bins of `WIDTH`, from the first to the last that holds any.

    A bin holds its lower edge; 1 is in the last one.
    """
    most = round(2 / WIDTH)

    def binned(cosines: Array) -> NDArray[np.int64]:
        # a cosine that lies on an edge but for rounding belongs to the bin above it
        places = np.floor((cosines + 1) / WIDTH + 1e-6).astype(np.int64)
        return np.bincount(np.clip(places, 0, most - 1), minlength=most)

    positive, negative = binned(positive_P), binned(negative_N)
    held = np.flatnonzero(positive + negative)
    first, last = int(held[0]), int(held[-1])
    return {
        "edges": [round(-1 + place * WIDTH, 2) for place in range(first, last + 2)],
        "positive": positive[first : last + 1].tolist(),
        "negative": negative[first : last + 1].tolist(),
    }


def shown(examples: Sequence[Example], answers: Answers, pairs: Pairs) -> list[dict[str, Any]]:
    """The examples of an evaluation event: the same pictures at every look, with the captions that come first now."""
    sampled = sorted((one for one in examples if one.why == "sample"), key=lambda one: one.query)[:SHOWN]
    return [
        {
            "file": name(pairs, int(answers.image_rows[one.query])),
            "caption": cut(one.captions[0]),
            "top": [{"caption": cut(each.caption), "similarity": round(each.cosine, 3)} for each in one.found[:TOP]],
            "rank": one.rank,
        }
        for one in sampled
    ]


def name(pairs: Pairs, row: int) -> str:
    """An image as its manifest names it, below the manifest's folder where it lies there."""
    ref = pairs.images[row]
    given = pairs.files[row] if pairs.files else str(ref) if isinstance(ref, Path) else ref.name
    if not isinstance(pairs.source, Path):
        return given
    folder = pairs.source.parent
    return Path(given).relative_to(folder).as_posix() if Path(given).is_relative_to(folder) else given


def cut(caption: str) -> str:
    """A caption, or its beginning."""
    return caption if len(caption) <= LETTERS else f"{caption[: LETTERS - 1]}…"


def _hardest(
    embeddings: Embeddings, answers: Answers, pairs: Pairs, right: retrieval.Right, rows: Ids
) -> list[dict[str, Any]]:
    """The pictures whose best right caption comes last, with that caption; the worst first."""
    ranks = answers.ranks.image_to_text
    out = []
    for query in np.argsort(-ranks, kind="stable")[:HARDEST].tolist():
        partners = right.text[slice(*np.searchsorted(right.image, [query, query + 1]))]
        cosine = embeddings.text[partners].double() @ embeddings.image[rows[query]].double()
        best = int(cosine.argmax())
        out.append(
            {
                "file": name(pairs, int(embeddings.rows[rows[query]])),
                "caption": cut(embeddings.captions[int(partners[best])]),
                "similarity": round(float(cosine[best]), 3),
                "rank": int(ranks[query]),
            }
        )
    return out


def _drawn(random: np.random.Generator, places: Ids, most: int) -> Ids:
    return places if len(places) <= most else np.sort(random.choice(places, most, replace=False))


def _among(right: retrieval.Right, queries: Ids, texts: Ids) -> NDArray[np.bool_]:
    """(I, T) which of the drawn pictures and captions belong together."""
    image_of, text_of = np.full(right.images, -1), np.full(right.texts, -1)
    image_of[queries], text_of[texts] = np.arange(len(queries)), np.arange(len(texts))
    i, j = image_of[right.image], text_of[right.text]
    both = (i >= 0) & (j >= 0)
    out = np.zeros((len(queries), len(texts)), dtype=bool)
    out[i[both], j[both]] = True
    return out
