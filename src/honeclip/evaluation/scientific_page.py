"""The scientific suite for people: its sentences and tables, and the paragraph for a methods section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from honeclip.evaluation.suite import Block, Cell, Chart, cell, table, told
from honeclip.pictures.charts import Dot, dots

TITLE = "Figures and captions"
MOST_PAPERS = 20

NO_PAPERS = (
    "Nothing says which figures are of one paper or chapter: neither a column group nor labels that several rows share; so "
    "there is no retrieval within and across them."
)
TOO_LARGE = (
    "The split is too large to compare every figure with every caption by paper; within and across are left out."
)
LIMITS = (
    "Candidates are the captions and figures of this split: in a larger collection the right one is harder to find.",
    "A caption that fits another figure as well counts as wrong there.",
    "Chapters of one book share an author and a style; another book or journal may give other figures. Train on one data set "
    "and compare on several (honeclip compare) to see what transfers.",
)


@dataclass(frozen=True)
class Found:
    """What the page draws: the section of METRICS."""

    metrics: Mapping[str, Any]


def verdict(found: Found) -> str:
    """MRR among all, and within a paper against across papers."""
    metrics = found.metrics
    said = f"MRR {told(metrics['mrr'])}, nDCG at 10 {told(metrics['ndcg'])}, both directions together"
    if "within" in metrics and "across" in metrics:
        said += f"; within one {_paper(metrics)} MRR {told(metrics['within']['mrr'])}"
        said += f" of {metrics['within']['candidates']:.1f} candidates"
        said += f", across others {told(metrics['across']['mrr'])} of {metrics['across']['candidates']:.1f}"
    return said + "."


def blocks(found: Found) -> tuple[Block, ...]:
    """All of the page."""
    made = [_all(found), *_galleries(found), *_papers(found)]
    return (*made, Block("For a methods section", found.metrics["methods"]))


def _all(found: Found) -> Block:
    metrics = found.metrics
    ways = {"both": metrics, "image to text": metrics["image_to_text"], "text to image": metrics["text_to_image"]}
    rows = {name: [cell(one["mrr"]), cell(one["ndcg"])] for name, one in ways.items()}
    note = (
        "Small: 95 % bootstrap intervals over queries. MRR: mean of 1 / rank of the first right one. nDCG at 10: gain of the "
        f"right ones among the first ten, against the best order. Chance MRR {metrics['chance_mrr']:.3f}."
    )
    return Block("Among all of the split", "", (), (table(["MRR", "nDCG at 10"], rows, note),))


def _galleries(found: Found) -> list[Block]:
    metrics, rows = found.metrics, {}
    for name, words in (("within", f"within one {_paper(metrics)}"), ("across", f"across other {_paper(metrics)}s")):
        one = metrics.get(name)
        if one:
            rows[words] = [
                cell(one["mrr"]),
                Cell(f"{one['chance_mrr']:.3f}"),
                cell(one["R@1"]),
                Cell(f"{one['candidates']:.1f}"),
                Cell(str(one["queries"])),
            ]
    if not rows:
        return []
    intro = (
        f"Within one {_paper(metrics)} all candidates are about one thing, so only the picture itself tells them apart; "
        "across, the topic alone may do. Compare each with its chance: the galleries differ in size."
    )
    columns = ["MRR", "by chance", "R@1", "candidates", "queries"]
    return [Block("Hard and easy candidates", intro, (), (table(columns, rows),))]


def _papers(found: Found) -> list[Block]:
    each = sorted(found.metrics.get("of", {}).items(), key=lambda one: (one[1]["mrr"]["value"], one[0]))[:MOST_PAPERS]
    if not each:
        return []
    names = [f"{name[:40]} ({one['pictures']})" for name, one in each]
    says = f"MRR within {each[0][0]} is the lowest, {each[0][1]['mrr']['value']:.3f}"
    dotted = [Dot(one["mrr"]["value"], one["mrr"]["low"], one["mrr"]["high"]) for _, one in each]
    svg = dots(names, [("MRR", dotted)], x_label="MRR, image to text, within (1 is best)", says=says)
    caption = "With the number of pictures; those with fewer than five are left out. Lines are 95 % intervals."
    return [Block(f"Each {_paper(found.metrics)}", "", (Chart("MRR within", svg, caption),))]


def _paper(metrics: Mapping[str, Any]) -> str:
    return "label" if metrics.get("paper") == "label" else "group"


def methods(
    *, model: str, size_px: int, split: str, seed: int, resamples: int, versions: str, metrics: Mapping[str, Any]
) -> str:
    """A paragraph with every number that a reader needs to repeat the figures."""
    said = (
        f"Image-text retrieval was evaluated on the {split} split ({metrics['pictures']} images, {metrics['captions']} "
        f"distinct captions) with {model} at {size_px} x {size_px} pixels. Images and captions were ranked by the cosine of "
        "their embeddings; every image that belongs to a repeated caption counts as right, and ties count against the model. "
        "We report the mean reciprocal rank and the normalised discounted cumulative gain at rank 10, averaged over both "
        f"directions: MRR {told(metrics['mrr'])}, nDCG@10 {told(metrics['ndcg'])}."
    )
    if "within" in metrics:
        said += (
            f" With candidates restricted to the same {_paper(metrics)} the MRR was {told(metrics['within']['mrr'])} "
            f"({metrics['within']['candidates']:.1f} candidates on average)."
        )
    return said + (
        f" Intervals are bias-corrected percentile bootstrap intervals over queries ({resamples} resamples, seed {seed}); the "
        f"gallery was kept fixed. Software: {versions}."
    )
