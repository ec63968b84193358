"""The probes of a domain within its suite: a table of kinds, and the items that the model gets most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from honeclip.errors import DomainError
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


def with_probes(suite: Suite, asked: Asked, folders: Sequence[Path]) -> Suite:
    """The suite with its domain's probes: `metrics["text"]` and a block; with a note where a file of them is not there."""
    try:
        found = probes(asked.clip, asked.domain, folders=folders, features=asked.features, seed=asked.seed)
    except DomainError as error:
        return replace(suite, notes=(*suite.notes, f"No probes: {error}"))
    if found is None:
        return suite
    return replace(suite, metrics={**suite.metrics, "text": found.metrics}, blocks=(*suite.blocks, block(found)))


def block(found: Probed) -> Block:
    """A row a kind, and its worst items as cards."""
    rows = {_name(row): [cell(row.accuracy), Cell(str(row.items)), Cell(str(row.by_rules))] for row in found.rows}
    cards = [_card(row, one) for row in found.rows for one in row.worst[:SHOWN]]
    columns = ["accuracy", "items", "by rules"]
    return Block("What it understands of the field's words", INTRO, (), (table(columns, rows, NOTE),), tuple(cards))


def _name(row: Row) -> str:
    return row.kind.replace("_", " ")


def _card(row: Row, one: Scored) -> Card:
    """The anchor, and its texts in the order in which they should stand, with their cosines."""
    said = tuple(
        Said(text, f"{cosine:.2f}", "right" if place == 0 else "")
        for place, (text, cosine) in enumerate(zip(one.item.ordered, one.cosines, strict=True))
    )
    return Card(None, f"{_name(row)}: {one.item.anchor}", said)
