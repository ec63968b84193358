"""The pairs of a data set: every usable row with its identities, its split, and what is odd about it.

Two identities are kept apart: equal captions, and images equal by content. Both make rows partners of each other in
the loss and in retrieval; only equal images (and `group`) bind rows to one split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from honeclip.data import captions, findings, manifest, splits
from honeclip.data.inspect_images import Progress, inspect
from honeclip.data.manifest import Manifest
from honeclip.data.remote import Remote
from honeclip.data.rows import UNUSABLE, ImageRef, Problem, Row
from honeclip.data.rows import Member as Member
from honeclip.domains.domain import Domain
from honeclip.errors import DataError
from honeclip.preprocess.images import Facts

__all__ = ["ImageRef", "Member", "Pairs", "Problem", "load", "read"]

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Pairs:
    """N usable rows.

    Attributes:
        source: the manifest: a path, or an address.
        images: where each image is: a path, or a member of an archive.
        captions: cleaned text.
        labels: () where there are none.
        splits: train, val or test.
        groups: "" where there is none.
        rows: 1-based data row in the manifest, the header not counted.
        caption_id: (N,) int64; rows with equal captions share one.
        image_id: (N,) int64; rows with images of equal pixels share one.
        image_sha: sha256 hex of the decoded pixels.
        problems: everything found in the whole manifest, unusable rows included.
        total_rows: data rows in the manifest, unusable ones included.
        files: each image as the manifest names it; () where no manifest was read.
        sizes: (width, height) of each image in pixels; () where nobody looked.
        likeness: of each image, hex of a hash of what is seen (`preprocess.likeness`); () where nobody looked.
        notes: sentences on how the manifest was read and divided.
        more: column -> its value in each row as text, of the manifest's columns that mean nothing to honeclip (sex, age band,
            device, ...), for figures by subgroup.
    """

    source: Path | Remote
    images: tuple[ImageRef, ...]
    captions: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[int, ...]
    caption_id: NDArray[np.int64]
    image_id: NDArray[np.int64]
    image_sha: tuple[str, ...]
    problems: tuple[Problem, ...]
    total_rows: int
    files: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    likeness: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def split(self, name: str) -> Pairs:
        """The rows of one split; identities keep their values.

        Raises:
            DataError: there is no such split. (One without rows is empty, not an error.)
        """
        if name not in splits.SPLITS:
            raise DataError(f"unknown split {name!r}: one of {', '.join(splits.SPLITS)}")
        return self.select([row for row, split in enumerate(self.splits) if split == name])

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Pairs:
        """The given rows in the given order; identities keep their values, problems and `total_rows` stay."""
        places = np.asarray(indices, dtype=np.int64)
        chosen = places.tolist()
        return replace(
            self,
            images=tuple(self.images[row] for row in chosen),
            captions=tuple(self.captions[row] for row in chosen),
            labels=tuple(self.labels[row] for row in chosen),
            splits=tuple(self.splits[row] for row in chosen),
            groups=tuple(self.groups[row] for row in chosen),
            rows=tuple(self.rows[row] for row in chosen),
            caption_id=self.caption_id[places],
            image_id=self.image_id[places],
            image_sha=tuple(self.image_sha[row] for row in chosen),
            files=tuple(self.files[row] for row in chosen) if self.files else (),
            sizes=tuple(self.sizes[row] for row in chosen) if self.sizes else (),
            likeness=tuple(self.likeness[row] for row in chosen) if self.likeness else (),
            more={name: tuple(values[row] for row in chosen) for name, values in self.more.items()},
        )

    def bad_fraction(self) -> float:
        """Share of the manifest's rows that cannot be used."""
        return len({one.row for one in self.problems if one.kind in UNUSABLE}) / self.total_rows

    def check_fraction(self, most: float) -> None:
        """Refuse data of which more than the share `most` cannot be used.

        Raises:
            DataError: naming the first rows and what is wrong with them; also where no row is left.
        """
        bad = [one for one in self.problems if one.kind in UNUSABLE]
        if len(self) and self.bad_fraction() <= most:
            return
        lines = [f"  row {one.row} {one.file or '(no image)'}: {one.kind}: {one.reason}" for one in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more; `honeclip check {self.source}` lists them")
        raise DataError(
            f"{self.source}: {len(bad)} of {self.total_rows} rows are bad, a share of {self.bad_fraction():.3g}, and "
            f"data.max_bad_fraction is {most:g}; mend or remove them"
            + (", or raise it:\n" if len(self) else ":\n")
            + "\n".join(lines)
        )


def load(
    data: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    max_bad_fraction: float = 0.01,
    domain: Domain | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Pairs:
    """Read a manifest, look at every image once, drop what cannot be used, and divide the rest.

    Args:
        data: a manifest in any form that `manifest.FORMS` lists, or a folder with one named pairs.csv.
        columns: field -> column name, where the manifest uses other names.
        max_bad_fraction: share of unusable rows above which the data is refused.
        domain: gives captions to rows that have only labels, by its templates; None takes "a photo of {label}".
        workers: decoding threads, 0 for the number of cores.
        progress: called with (images done, distinct images).

    Raises:
        DataError: no manifest, no captions, an unknown split name, too many bad rows; the message names them.
    """
    pairs = read(data, columns=columns, domain=domain, workers=workers, progress=progress)
    pairs.check_fraction(max_bad_fraction)
    return pairs


def read(
    data: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    domain: Domain | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Pairs:
    """As `load`, but however many rows are bad: for those who want to see them all."""
    found = manifest.read(data, columns)
    facts = inspect([row.image for row in found.rows if row.image is not None and not row.fault], workers, progress)
    unusable = findings.unusable(found, facts)
    good = [row for row in found.rows if row.row not in unusable]
    seen = [fact for row in good if row.image is not None and isinstance(fact := facts[row.image], Facts)]
    shas = tuple(fact.pixels_sha256 for fact in seen)
    texts = captions.of_rows(good, shas, domain, from_labels="caption" not in found.has)
    chosen, notes = _split(found, good, shas, texts)
    pairs = Pairs(
        source=found.source,
        images=tuple(row.image for row in good if row.image is not None),
        captions=texts,
        labels=tuple(row.labels for row in good),
        splits=chosen,
        groups=tuple(row.group for row in good),
        rows=tuple(row.row for row in good),
        caption_id=_ids(texts),
        image_id=_ids(shas),
        image_sha=shas,
        files=tuple(row.file for row in good),
        sizes=tuple(fact.size for fact in seen),
        likeness=tuple(fact.likeness for fact in seen),
        problems=(),
        total_rows=len(found.rows),
        notes=(*found.notes, *notes),
        more={name: tuple(row.more[name] for row in good) for name in (good[0].more if good else ())},
    )
    problems = [*unusable.values(), *findings.notes(found, good, seen, chosen)]
    return replace(pairs, problems=tuple(sorted(problems, key=lambda one: one.row)))


def _split(
    found: Manifest, good: Sequence[Row], shas: Sequence[str], texts: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    contents = [
        splits.Content(sha, text, row.labels, row.group) for row, sha, text in zip(good, shas, texts, strict=True)
    ]
    if "split" in found.has:
        names = splits.given([row.split for row in good], [row.row for row in good], found.source)
        return splits.complete(names, contents)
    by = "group and content" if "group" in found.has else "content"
    return splits.assign(contents), (f"there is no split column: rows were divided 70/15/15 by {by}",)


def _ids(values: Sequence[str]) -> NDArray[np.int64]:
    """(N,) equal values share a number, in the order of their first appearance."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in values], dtype=np.int64)
