"""Example pictures for a report, right and wrong: a fair sample and the worst, never the best only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from honeclip.data.pairs import ImageRef, Pairs
from honeclip.embedding.embed import Embeddings
from honeclip.evaluation import retrieval
from honeclip.evaluation.answers import Answers

SAMPLED, WORST, FOUND = 8, 4, 4


@dataclass(frozen=True)
class Found:
    """One caption that the model proposed: its cosine, and whether it belongs to the picture."""

    caption: str
    cosine: float
    right: bool


@dataclass(frozen=True)
class Example:
    """One test picture.

    Attributes:
        image: where it is.
        captions: its right captions.
        query: its place among the image queries, for the rank that another model gave it.
        rank: of its best right caption.
        found: the best captions, best first, and after them the best right one where it is not among them.
        why: "sample" or "worst".
    """

    image: ImageRef
    captions: tuple[str, ...]
    query: int
    rank: int
    found: tuple[Found, ...]
    why: str


def examples(pairs: Pairs, embeddings: Embeddings, answers: Answers, seed: int = 0) -> tuple[Example, ...]:
    """A seeded sample of distinct pictures, the same for every model over one split, then the worst-ranked others."""
    right, rows = retrieval.right_pairs(embeddings.image_id, embeddings.caption_of, embeddings.file_of)
    ranks = answers.ranks.image_to_text
    _, distinct = np.unique(embeddings.image_id[rows], return_index=True)
    distinct = np.random.default_rng(seed).permutation(distinct)
    sampled = sorted(distinct[:SAMPLED], key=lambda query: (ranks[query], query))
    rest = sorted(distinct[SAMPLED:], key=lambda query: (-ranks[query], query))[:WORST]
    chosen = [(int(query), "sample") for query in sampled] + [(int(query), "worst") for query in rest]

    out = []
    for query, why in chosen:
        partners = right.text[slice(*np.searchsorted(right.image, [query, query + 1]))]
        cosine = (embeddings.text.double() @ embeddings.image[rows[query]].double()).numpy()
        order = np.argsort(-cosine, kind="stable")[:FOUND].tolist()
        best = int(partners[np.argmax(cosine[partners])])
        order += [] if best in order else [best]
        own = set(partners.tolist())
        found = tuple(Found(embeddings.captions[j], float(cosine[j]), j in own) for j in order)
        captions = tuple(embeddings.captions[j] for j in partners)
        image = pairs.images[int(embeddings.rows[rows[query]])]
        out.append(Example(image, captions, query, int(ranks[query]), found, why))
    return tuple(out)
