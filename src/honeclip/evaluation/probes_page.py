"""The probes of a domain within its suite: a table of kinds, and the items that the model gets most wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from honeclip.errors import DomainError
from honeclip.evaluation import passages
from honeclip.evaluation.probes import CHANCE, Probed, Row, Scored, probes
from honeclip.evaluation.suite import Asked, Block, Card, Cell, Said, Suite, cell, table

SHOWN = 3
"""Items of a kind that are shown."""

INTRO = (
    "Asked by text alone: an item is right where its text is nearer to the one that means the same than to one that does not "
    "(an order of texts counts its pairs that stand the right way round; a tie counts half). What a model can tell apart here "
    "it may still not see in a picture; what it cannot, it cannot be asked for."
)
NOTE = (
    "Small: 95 % bootstrap intervals over items; items that were made by one rule are alike, so these are too narrow. "
    f"Chance is {CHANCE:g}. By rules: items that the text rules of the domain decide."
)


PASSAGES = (
    "The same questions against all texts of their kind at once, right and wrong ones: the passage of this fault code, the "
    "step that comes next, the definition of this term. Texts differ in a digit, a direction or one word, as in a manual."
)
NOTE_PASSAGES = "Small: 95 % bootstrap intervals over questions. Ties count against the model."


def with_probes(suite: Suite, asked: Asked, folders: Sequence[Path]) -> Suite:
    """The suite with its domain's probes: `metrics["text"]` and a block; with a note where a file of them is not there."""
    try:
        found = probes(asked.clip, asked.domain, folders=folders, features=asked.features, seed=asked.seed)
    except DomainError as error:
        return replace(suite, notes=(*suite.notes, f"No probes: {error}"))
    if found is None:
        return suite
    found_again = passages.retrieval(
        asked.clip, [one.item for one in found.scored], features=asked.features, seed=asked.seed
    )
    text = {
        kind: {**own, **({"retrieval": found_again[kind]} if kind in found_again else {})}
        for kind, own in found.metrics.items()
    }
    blocks = (*suite.blocks, block(found), *([_retrieved(found_again)] if found_again else []))
    return replace(suite, metrics={**suite.metrics, "text": text}, blocks=blocks)


def block(found: Probed) -> Block:
    """A row a kind, and its worst items as cards."""
    rows = {_name(row): [cell(row.accuracy), Cell(str(row.items)), Cell(str(row.by_rules))] for row in found.rows}
    cards = [_card(row, one) for row in found.rows for one in row.worst[:SHOWN]]
    columns = ["accuracy", "items", "by rules"]
    return Block("What it understands of the field's words", INTRO, (), (table(columns, rows, NOTE),), tuple(cards))


def _retrieved(found: Mapping[str, Mapping[str, Any]]) -> Block:
    """A row a kind of passage."""
    rows = {
        kind.replace("_", " "): [
            cell(own["R@1"]),
            cell(own["mrr"]),
            Cell(f"{own['chance']:.3f}"),
            Cell(str(own["passages"])),
        ]
        for kind, own in found.items()
    }
    columns = ["R@1", "MRR", "MRR by chance", "passages"]
    return Block("Which passage it finds", PASSAGES, (), (table(columns, rows, NOTE_PASSAGES),), ())


def _name(row: Row) -> str:
    return row.kind.replace("_", " ")


def _card(row: Row, one: Scored) -> Card:
    """The anchor, and its texts in the order in which they should stand, with their cosines."""
    said = tuple(
        Said(text, f"{cosine:.2f}", "right" if place == 0 else "")
        for place, (text, cosine) in enumerate(zip(one.item.ordered, one.cosines, strict=True))
    )
    return Card(None, f"{_name(row)}: {one.item.anchor}", said)
