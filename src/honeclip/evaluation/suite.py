"""What an evaluation suite is: a plain function from what was embedded once to figures, blocks of a page, and sentences.

A suite takes `Asked` and gives `Suite`. `suites` says which suite a domain wants, `suite_page` draws any of them: a suite needs
no template of its own and embeds no picture by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.data.pairs import Pairs
from honeclip.data.rows import ImageRef
from honeclip.domains.domain import Domain
from honeclip.embedding.embed import Embeddings
from honeclip.embedding.features import Features
from honeclip.evaluation.answers import labels_of_files
from honeclip.evaluation.intervals import Figure
from honeclip.evaluation.requirements import Requirements
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.clip import Clip

MOST_ROWS = 2000
"""Rows of another split that a suite is given, drawn by the seed where it has more: it chooses thresholds on them."""


@dataclass(frozen=True)
class Split:
    """One split through the model, once.

    Attributes:
        name: train, val or test.
        pairs: the N rows that were embedded, in the order of `embeddings`.
        embeddings: of the N rows. Evaluated by group, the pictures of a group share one embedding and one `file_of`.
        rows: (I,) int64, the first row of each of the I distinct pictures (or groups): a picture is asked once.
        labels: of each of the I pictures, those of all its rows; () where it has none.
        total_rows: how many rows the split has; more than N where they were drawn, or some could not be read.
    """

    name: str
    pairs: Pairs
    embeddings: Embeddings
    rows: NDArray[np.int64]
    labels: tuple[tuple[str, ...], ...]
    total_rows: int


def split_of(name: str, pairs: Pairs, embeddings: Embeddings) -> Split:
    """A split from its rows and their embeddings."""
    seen = pairs.select(embeddings.rows)
    files, rows = np.unique(embeddings.file_of, return_index=True)
    of_file = labels_of_files(embeddings.file_of, seen.labels)
    return Split(
        name, seen, embeddings, rows.astype(np.int64), tuple(of_file[file] for file in files.tolist()), len(pairs)
    )


@dataclass(frozen=True)
class Asked:
    """What a suite may look at.

    Attributes:
        clip: the model: for prompts of its own (`embed_texts`) and its logit scale.
        domain: templates, normal labels, words of labels.
        split: the split that is asked.
        other: another split by name, embedded when it is first asked for, at most `MOST_ROWS` rows of it; None where the data
            has no such split, or where it is the one that is asked: nothing may be chosen on what is measured.
        classes: names, unit embeddings and logit scale of the labels of the whole data set; None where zero-shot does not
            apply.
        labels: the distinct labels of the whole data set, sorted.
        seed: of everything that is drawn.
        requirements: what the part that is inspected must reach; only the industrial suite asks.
        features: what need not be computed again: caches of the model's bodies, and the texts that were embedded so far.
    """

    clip: Clip
    domain: Domain
    split: Split
    other: Callable[[str], Split | None]
    classes: Classes | None
    labels: tuple[str, ...]
    seed: int = 0
    requirements: Requirements | None = None
    features: Features | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, a smaller line under it (an interval), and "good" or "bad" where it is coloured."""

    text: str
    small: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Columns, and rows of a name and one cell a column; `note` stands under it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart that `pictures.charts` drew; nothing else may stand in `svg`."""

    title: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """Where a picture is, and its row in the manifest."""

    image: ImageRef
    row: int


@dataclass(frozen=True)
class Said:
    """A line of a card: a text, a short number before it, and "right" or "wrong" where it is marked."""

    text: str
    score: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Card:
    """A picture and what is to be said of it; `image` None draws no frame."""

    image: ImageRef | None
    title: str
    said: tuple[Said, ...]
    note: str = ""


@dataclass(frozen=True)
class Block:
    """A section of the page: its parts stand in the order of these attributes, those that are there."""

    title: str
    intro: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Suite:
    """What a suite found.

    Attributes:
        name: of its section in METRICS.
        title: of its part of the page.
        verdict: one sentence: the figure that matters, its interval, how many pictures.
        metrics: its section of METRICS; figures are {"value", "low", "high"}, None is not among them.
        blocks: of the page; the first table of the first one is also printed on a terminal.
        notes: what could not be computed and why, what was found on the way; one sentence each.
        limits: what it does not prove; one sentence each.
    """

    name: str
    title: str
    verdict: str
    metrics: Mapping[str, Any]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


DASH = Cell("–")


def cell(figure: Mapping[str, float] | None, digits: int = 3) -> Cell:
    """A figure with its interval; a dash where there is none."""
    if figure is None:
        return DASH
    value, low, high = (f"{figure[name]:.{digits}f}".replace("-", "−") for name in ("value", "low", "high"))
    return Cell(value, f"{low} to {high}")


def told(figure: Figure, digits: int = 3) -> str:
    """A figure for a sentence: 0.912 (95 % interval 0.880 to 0.939)."""
    one = cell(figure, digits)
    return f"{one.text} (95 % interval {one.small})"


def table(columns: Sequence[str], rows: Mapping[str, Sequence[Cell]], note: str = "") -> Table:
    """A table from its rows by name."""
    return Table(tuple(columns), tuple((name, tuple(cells)) for name, cells in rows.items()), note)
