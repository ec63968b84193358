"""The small values that data is made of: where an image's bytes are, a row as it was written, a fault found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from honeclip.data.remote import Remote


@dataclass(frozen=True)
class Member:
    """An image that is a stretch of bytes in a larger file: a tar shard, an Arrow file, unpacked Parquet.

    Attributes:
        archive: the file that holds the bytes, here or behind an address.
        offset: where they start in it.
        length: how many they are.
        name: what a person knows the image by, for example `shard-003.tar/0042.jpg`.
    """

    archive: Path | Remote
    offset: int
    length: int
    name: str

    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            OSError: the archive cannot be read, or is shorter than it was.
            Unreachable: its address does not answer.
        """
        if isinstance(self.archive, Remote):
            data = self.archive.read(self.offset, self.length)
        else:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.length)
        if len(data) != self.length:
            raise OSError(f"{self.archive} ends before {self.name} does")
        return data


ImageRef = Path | Member


@dataclass(frozen=True)
class Row:
    """A row of a manifest, read and not yet looked at.

    Attributes:
        row: 1-based data row, the header not counted.
        file: the image as the manifest names it.
        image: where it is; None where the row names none.
        caption: cleaned text, "" where there is none.
        labels: () where there are none.
        split: as written, "" where there is none.
        group: "" where there is none.
        fault: why the row cannot be used at all, "" where it can be read.
        more: column -> value as text, of the columns that are no field of a manifest (sex, device, ...); "" where it is empty.
    """

    row: int
    file: str
    image: ImageRef | None
    caption: str
    labels: tuple[str, ...]
    split: str
    group: str
    fault: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


KINDS = (
    "missing",
    "broken",
    "empty_caption",
    "tiny",
    "duplicate_image",
    "split_leak",
    "long_caption",
    "odd_mode",
    "no_group",
)
"""Kinds of problems, the gravest first."""

UNUSABLE = KINDS[:3]
"""The kinds that make a row unusable and count for `max_bad_fraction`; all others are notes."""


@dataclass(frozen=True)
class Problem:
    """Something about a row that its owner should know.

    Attributes:
        row: 1-based data row; 0 where the whole data set is meant.
        file: the image as the manifest names it; the manifest for row 0.
        kind: one of KINDS.
        reason: in words.
    """

    row: int
    file: str
    kind: str
    reason: str
