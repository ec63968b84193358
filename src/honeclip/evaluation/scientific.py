"""The scientific suite: figures and captions find each other, among all, within one paper or chapter, and across papers.

MRR and nDCG at 10 of both directions; a paper is what `group` names, or the label where there is no group. With the methods
paragraph that a paper would need to say how the figures came about. `scientific_page` draws what is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from honeclip.device import facts
from honeclip.evaluation import leaks, retrieval, scientific_page
from honeclip.evaluation.intervals import RESAMPLES, Figure, Statistic, bootstrap, figure, figures
from honeclip.evaluation.retrieval import mean_of, ndcg, reciprocal, right_pairs
from honeclip.evaluation.scientific_page import Found
from honeclip.evaluation.suite import Asked, Split, Suite
from honeclip.evaluation.within import Ranked, dense, papers_of, ranked

NAME = "scientific"
FEWEST = 5
"""Queries of a paper from which on it has a line of its own."""

MOST_CELLS = 100_000_000
"""Pictures times captions up to which papers are compared; it takes some bytes a cell."""


def scientific(asked: Asked) -> Suite | None:
    """Every figure of the suite; None where there are fewer than two pictures or captions."""
    split, embeddings, seed = asked.split, asked.split.embeddings, asked.seed
    right, rows = right_pairs(embeddings.image_id, embeddings.caption_of, embeddings.file_of)
    if right.images < 2 or right.texts < 2:
        return None
    image, text = embeddings.image[rows].double().numpy(), embeddings.text.double().numpy()
    found = retrieval.ranks(image, text, right)
    ways: dict[str, tuple[Statistic, Statistic, int]] = {
        "image_to_text": (
            reciprocal(found.image_to_text),
            mean_of("ndcg", ndcg(image, text, (right.image, right.text))),
            right.images,
        ),
        "text_to_image": (
            reciprocal(found.text_to_image),
            mean_of("ndcg", ndcg(text, image, (right.text, right.image))),
            right.texts,
        ),
    }
    metrics: dict[str, Any] = {"pictures": right.images, "captions": right.texts}
    metrics["mrr"] = _both("mrr", [(mrr, queries) for mrr, _, queries in ways.values()], seed)
    metrics["ndcg"] = _both("ndcg", [(gain, queries) for _, gain, queries in ways.values()], seed)
    for way, (mrr, gain, queries) in ways.items():
        metrics[way] = {**figures(mrr, queries, seed), **figures(gain, queries, seed)}
    metrics["chance_mrr"] = (_chance(right.texts) + _chance(right.images)) / 2
    papers, what = _papers(split)
    notes: list[str] = []
    if papers is None:
        notes.append(scientific_page.NO_PAPERS)
    elif right.images * right.texts > MOST_CELLS:
        notes.append(scientific_page.TOO_LARGE)
    else:
        known = sorted({name for own in papers for name in own})
        of_row = papers_of(papers, known)
        of_text = np.zeros((right.texts, len(known)), dtype=bool)
        np.logical_or.at(of_text, embeddings.caption_of, of_row)
        same, pairs = of_row[rows].astype(np.float32) @ of_text.T.astype(np.float32) > 0, dense(right)
        metrics["paper"], metrics["papers"] = what, len(known)
        for name, within in (("within", True), ("across", False)):
            both = [
                ranked(image, text, pairs, same, within=within),
                ranked(text, image, pairs.T, same.T, within=within),
            ]
            if all(len(one.queries) for one in both):
                metrics[name] = _gallery(both, seed)
        own = ranked(image, text, pairs, same, within=True)
        metrics["of"] = _each_paper(own, of_row[rows], known, seed)
    train = asked.other("train")
    if train:
        notes += leaks.told(leaks.leaks(split, train))
    metrics["methods"] = _methods(asked, metrics)
    metrics = {name: value for name, value in metrics.items() if value not in (None, {})}
    page = Found(metrics)
    return Suite(
        name=NAME,
        title=scientific_page.TITLE,
        verdict=scientific_page.verdict(page),
        metrics=metrics,
        blocks=scientific_page.blocks(page),
        notes=tuple(notes),
        limits=scientific_page.LIMITS,
    )


def _papers(split: Split) -> tuple[list[tuple[str, ...]] | None, str]:
    """Of each row the papers it is of, and the column that says so; None where no paper has two rows, or most rows have none.

    A row without a paper is no query within one, and a candidate across.
    """
    groups: list[tuple[str, ...]] = [(one,) if one else () for one in split.pairs.groups]
    for names, column in ((groups, "group"), (list(split.pairs.labels), "label")):
        counts: dict[str, int] = {}
        for own in names:
            for name in own:
                counts[name] = counts.get(name, 0) + 1
        if len(counts) > 1 and max(counts.values()) > 1 and 2 * sum(map(bool, names)) >= len(names):
            return names, column
    return None, ""


def _both(name: str, ways: list[tuple[Statistic, int]], seed: int) -> Figure:
    """The mean over both directions; each draws its own queries with the same seed, as the selection score does."""
    whole = [float(of(np.arange(queries, dtype=np.int64)[None])[name][0]) for of, queries in ways]
    draws = [bootstrap(of, queries, seed, RESAMPLES)[name] for of, queries in ways]
    return figure(float(np.mean(whole)), np.mean(draws, axis=0))


def _chance(candidates: int) -> float:
    """MRR of a random order with one right candidate."""
    return float((1 / np.arange(1, candidates + 1)).mean())


def _gallery(both: list[Ranked], seed: int) -> dict[str, Any]:
    ways = [(reciprocal(one.ranks), len(one.queries)) for one in both]
    first = [(mean_of("R@1", (one.ranks <= 1).astype(np.float64)), len(one.queries)) for one in both]
    return {
        "mrr": _both("mrr", ways, seed),
        "R@1": _both("R@1", first, seed),
        "queries": sum(len(one.queries) for one in both),
        "candidates": float(np.mean(np.concatenate([one.candidates for one in both]))),
        "chance_mrr": float(np.mean([_chance(int(one)) for each in both for one in each.candidates])),
    }


def _each_paper(found: Ranked, of_image: Any, known: list[str], seed: int) -> dict[str, Any]:
    """Image to text within each paper that has `FEWEST` pictures."""
    out: dict[str, Any] = {}
    for place, name in enumerate(known):
        mine = of_image[found.queries, place]
        if mine.sum() >= FEWEST:
            out[name] = {**figures(reciprocal(found.ranks[mine]), int(mine.sum()), seed), "pictures": int(mine.sum())}
    return out


def _methods(asked: Asked, metrics: Mapping[str, Any]) -> str:
    """The paragraph; what nobody can know from here (where the data is from, how it was split) is left to the author."""
    versions = facts.versions()
    said = {name: versions[name] for name in ("honeclip", "torch", "open_clip_torch") if name in versions}
    return scientific_page.methods(
        model=asked.clip.base.name,
        size_px=asked.clip.preprocess.size_px,
        split=asked.split.name,
        seed=asked.seed,
        resamples=RESAMPLES,
        versions=", ".join(f"{name} {version}" for name, version in said.items()),
        metrics=metrics,
    )
