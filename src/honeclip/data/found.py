"""What `prepare` finds in what people have, before it becomes a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = 3


@dataclass(frozen=True)
class Found:
    """A pair that was found; `split` and `group` are "" where it has none.

    Attributes:
        image: the file.
        caption: as found, or by a template.
        labels: () where there are none.
        split: "train", "val" or "test".
        group: what must stay in one split.
        more: further columns of the manifest -> their values.
    """

    image: Path
    caption: str
    labels: tuple[str, ...]
    split: str
    group: str
    more: Mapping[str, str] = field(default_factory=dict)


def left_out(why: str, files: Sequence[Path]) -> list[str]:
    """A note that names some of the files; none where there are none."""
    return [f"{why}, so left out: {shortened(files)}"] if files else []


def shortened(files: Sequence[Path]) -> str:
    """The first names, and how many there are besides."""
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"{', '.join(file.name for file in files[:SHOWN])}{more}"
