"""Probes: what a model understands of a field's language, asked by text alone (`domains.probe_files` has the items).

An item is right where cos(anchor, near) > cos(anchor, far); a tie counts half, so that a model that gives every text the
same embedding stands at chance, 0.5, and not below. An order of several texts counts the share of its pairs that stand
the right way round, which is (1 + Kendall's tau) / 2 and the same thing for two texts; its chance is 0.5 as well.

Each distinct text is embedded once, after the model's own text rules. Where the rules make anchor and near one text
("COPD" written out), the item is decided by them: that is what a user of the model gets, so it counts, and how many there
are is said. The texts of an item are no captions: a model may know the difference and still not see it in an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.domains import domain as domains
from honeclip.domains.domain import Domain
from honeclip.domains.probe_files import Item
from honeclip.embedding.embed import embed_texts
from honeclip.embedding.features import Features
from honeclip.errors import BadInput, NonFiniteError
from honeclip.evaluation.intervals import Figure, Indices, Statistic, differences, figures
from honeclip.model.clip import Clip

CHANCE = 0.5

TIE = 1e-6
"""Cosines nearer than this are equal: one text embedded in two batches differs by rounding of float32."""

WORST = 5


@dataclass(frozen=True)
class Scored:
    """What a model answered to one item.

    Attributes:
        item: what was asked.
        cosines: of the anchor with each text of `item.ordered`.
        right: share of pairs that stand the right way round, 0 to 1; ties count half.
        margin: the smallest difference of neighbours in the order, nearer minus farther; below 0 where one is wrong.
        by_rules: whether the text rules make the anchor and the nearest text one, case aside, and no other.
    """

    item: Item
    cosines: tuple[float, ...]
    right: float
    margin: float
    by_rules: bool


@dataclass(frozen=True)
class Row:
    """One kind of probe, for a page.

    Attributes:
        kind: such as "negation".
        items: how many.
        accuracy: `{"value", "low", "high"}`.
        by_rules: items that the text rules decided.
        worst: the items with the smallest margins that are not wholly right, the worst first.
    """

    kind: str
    items: int
    accuracy: Figure
    by_rules: int
    worst: tuple[Scored, ...]


@dataclass(frozen=True)
class Probed:
    """Every item of a domain, and the figures of each kind.

    Attributes:
        metrics: {kind: {"accuracy": figure, "items", "chance", "by_rules"}}, for METRICS.
        rows: the same for a page, with the worst items.
        scored: in the order of the files.
    """

    metrics: dict[str, Any]
    rows: tuple[Row, ...]
    scored: tuple[Scored, ...]


def probes(
    clip: Clip,
    domain: Domain,
    *,
    folders: Sequence[Path] = (Path(),),
    features: Features | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Probed | None:
    """Ask a model every probe of a domain; None where the domain has none.

    Args:
        clip: the model in the domain (`evaluate.in_its_domain`).
        domain: `probes` names the files.
        folders: where they may lie beside those that come with honeclip: `domains.term_folders(name)`.
        features: where the text tower's body is frozen, its cache.
        batch_size: texts through the model at once.
        seed: of the bootstrap.

    Raises:
        DomainError: a file is not there, or every fault of the files.
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    items = [item for file in domains.read_probes(domain, folders) for item in file.items]
    if not items:
        return None
    scored = score(clip, items, features=features, batch_size=batch_size)
    return Probed(metrics(scored, seed), rows(scored, seed), tuple(scored))


def score(
    clip: Clip, items: Sequence[Item], *, features: Features | None = None, batch_size: int = 256
) -> list[Scored]:
    """What the model answers to each item; every distinct text is embedded once.

    Raises:
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    texts = list(dict.fromkeys(text for item in items for text in (item.anchor, *item.ordered)))
    words = dict(zip(texts, clip.preprocess.words(texts), strict=True))
    first = {word: text for text, word in reversed(words.items())}  # one text for all that the rules make the same
    place = {word: number for number, word in enumerate(first)}
    text_MD = embed_texts(clip, list(first.values()), features=features, batch_size=batch_size).double().numpy()
    if not np.isfinite(text_MD).all():
        raise NonFiniteError(f"the text tower of {clip.source} gives NaN or infinite embeddings")
    out = []
    for item in items:
        ruled = [words[text] for text in (item.anchor, *item.ordered)]
        anchor, *others = (place[word] for word in ruled)
        cosines = (text_MD[others] @ text_MD[anchor]).tolist()
        margin = min(nearer - farther for nearer, farther in pairwise(cosines))
        out.append(Scored(item, tuple(cosines), share_in_order(cosines), margin, _by_rules(item, ruled)))
    return out


def _by_rules(item: Item, ruled: Sequence[str]) -> bool:
    """Whether the rules alone make the anchor and the nearest of its texts one; `ruled` begins with these two."""
    anchor, near, *others = (text.casefold() for text in ruled)
    return anchor == near and near not in others and item.anchor.casefold() != item.ordered[0].casefold()


def share_in_order(cosines: Sequence[float]) -> float:
    """Share of pairs whose first is the larger, ties half: (1 + Kendall's tau-a) / 2 of falling numbers."""
    pairs = [nearer - farther for nearer, farther in combinations(cosines, 2)]
    return sum(1.0 if one > TIE else 0.5 if one >= -TIE else 0.0 for one in pairs) / len(pairs)


def metrics(scored: Sequence[Scored], seed: int = 0) -> dict[str, Any]:
    """{kind: {"accuracy": figure, "items", "chance", "by_rules"}}; the bootstrap draws items of the kind."""
    return {
        kind: {
            "accuracy": figures(_statistic(own), len(own), seed)["accuracy"],
            "items": len(own),
            "chance": CHANCE,
            "by_rules": sum(one.by_rules for one in own),
        }
        for kind, own in by_kind(scored).items()
    }


def rows(scored: Sequence[Scored], seed: int = 0, worst: int = WORST) -> tuple[Row, ...]:
    """A row a kind, each with the items that the model gets most wrong."""
    found = metrics(scored, seed)
    return tuple(
        Row(kind, len(own), found[kind]["accuracy"], found[kind]["by_rules"], _worst(own, worst))
        for kind, own in by_kind(scored).items()
    )


def paired_difference(before: Sequence[Scored], after: Sequence[Scored], seed: int = 0) -> dict[str, dict[str, Figure]]:
    """`after` minus `before` by kind, {kind: {"accuracy": figure}}, over the same resampled items.

    Raises:
        BadInput: the two were asked other items, or in another order.
    """
    if [one.item for one in before] != [one.item for one in after]:
        raise BadInput("two models are compared on the same probes: these were asked other items, or in another order")
    old, new = by_kind(before), by_kind(after)
    return {kind: differences(_statistic(old[kind]), _statistic(new[kind]), len(new[kind]), seed) for kind in new}


def by_kind(scored: Sequence[Scored]) -> Mapping[str, list[Scored]]:
    """The items of each kind, kinds in the order in which they first come."""
    out: dict[str, list[Scored]] = {}
    for one in scored:
        out.setdefault(one.item.kind, []).append(one)
    return out


def _statistic(scored: Sequence[Scored]) -> Statistic:
    right_N = np.array([one.right for one in scored])

    def statistic(indices: Indices) -> dict[str, NDArray[np.float64]]:
        return {"accuracy": right_N[indices].mean(axis=1)}

    return statistic


def _worst(scored: Sequence[Scored], count: int) -> tuple[Scored, ...]:
    wrong = [one for one in scored if one.right < 1]
    return tuple(sorted(wrong, key=lambda one: (one.margin, one.item.id))[:count])
