"""Any suite for people: its blocks as the template `suite.html` takes them, and its first table as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from honeclip.evaluation.suite import Block, Suite, Table
from honeclip.pictures.contact import thumbnail
from honeclip.pictures.html import trusted
from honeclip.preprocess.images import decode


def page(suite: Suite, *, pictures: bool = True) -> dict[str, Any]:
    """Everything that the template `suite.html` names; without `pictures` the cards are left out."""
    return {
        "title": suite.title,
        "verdict": suite.verdict,
        "blocks": blocks(suite.blocks, pictures=pictures),
        "notes": suite.notes,
        "limits": suite.limits,
    }


def blocks(found: Sequence[Block], *, pictures: bool = True) -> list[dict[str, Any]]:
    """Blocks as the template `blocks.html` takes them."""
    return [_block(block, pictures) for block in found if pictures or _says_more(block)]


def _says_more(block: Block) -> bool:
    return bool(block.charts or block.tables or not block.cards)


def _block(block: Block, pictures: bool) -> dict[str, Any]:
    return {
        "title": block.title,
        "intro": block.intro,
        "charts": [{**asdict(chart), "svg": trusted(chart.svg)} for chart in block.charts],
        "tables": block.tables,
        "cards": [
            {
                "source": None if one.image is None else thumbnail(one.image, decode=_decode),
                "framed": one.image is not None,
                "title": one.title,
                "said": one.said,
                "note": one.note,
            }
            for one in (block.cards if pictures else ())
        ],
    }


def text_table(suite: Suite) -> Table | None:
    """The first table, for a terminal."""
    return next((table for block in suite.blocks for table in block.tables), None)


def _decode(image: Any) -> Any:
    return decode(image if isinstance(image, Path) else image.read())
