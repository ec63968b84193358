"""Large images in tiles that overlap, so that what is small in them is still there at the size of a model."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from honeclip.data.copies import FOLDER, store_png
from honeclip.data.found import Found, mask_of, relative
from honeclip.errors import DataError
from honeclip.preprocess import images
from honeclip.preprocess.windows import Asked

OVERLAP = 0.2
"""As a share of a tile's side: what is cut by one tile's edge is whole in the next up to that size."""


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Cut:
    """The tiles of an image with where they lie (left, top, right, bottom), and a name for the image that says nothing."""

    tiles: list[tuple[Path, Box]]
    size: tuple[int, int]
    name: str
    plain: int


@dataclass(frozen=True)
class Tiles:
    """How images are cut.

    Attributes:
        side: of a tile, in pixels.
        overlap: the least that neighbours share, as a share of the side.
        quiet: no name of a file in the manifest or in the notes.

    Raises:
        DataError: a value that cannot be.
    """

    side: int
    overlap: float = OVERLAP
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.side < 8:
            raise DataError(f"--tiles {self.side}: a tile has a side of 8 pixels or more; models see about 224")
        if not 0 <= self.overlap <= 0.9:
            raise DataError(f"--overlap {self.overlap:g}: it is a share of a tile's side, from 0 to 0.9")


def cut(rows: Sequence[Found], out: Path, how: Tiles, windows: Sequence[Asked] = ()) -> tuple[list[Found], list[str]]:
    """A row a tile, with its place in the columns tile_left, tile_top and source.

    Tiles are PNGs without metadata in OUT/images. A row without a group gets its image for one, so that its tiles stay in
    one split; a coarser group (a patient) does that already. A tile on which the mask of its image shows nothing becomes
    what `pieces` says.

    Args:
        rows: what was found.
        out: the folder of the manifest.
        how: size and overlap.
        windows: of DICOM, as in a domain.

    Returns:
        Rows, without those of images that cannot be decoded, and notes.

    Raises:
        DataError: nothing can be written there.
    """
    distinct = list(dict.fromkeys(row.image for row in rows))

    def one(path: Path) -> _Cut | str:
        try:
            picture = images.decode(path, windows=windows)
        except DataError as error:
            return str(error)
        boxes = [
            (left, top, right, bottom)
            for top, bottom in spans(picture.height, how.side, how.overlap)
            for left, right in spans(picture.width, how.side, how.overlap)
        ]
        # Tiles of one colour say nothing, and as equal images they would bind all data with a white edge to one split
        telling = [box for box in boxes if not _plain(picture.crop(box))] or boxes[:1]
        made = [(store_png(picture.crop(box), out / FOLDER), box) for box in telling]
        name = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:32]
        return _Cut(made, picture.size, name, len(boxes) - len(made))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = dict(zip(distinct, pool.map(one, distinct), strict=True))
    bad = {path: reason for path, reason in made.items() if isinstance(reason, str)}
    good = {path: tiles for path, tiles in made.items() if isinstance(tiles, _Cut)}
    kept = [row for row in rows if row.image in good]
    found = [piece for row in kept for piece in _pieces(row, good[row.image], out, how.quiet)]
    count = sum(len(one.tiles) for one in good.values())
    notes = [f"{len(good)} images were cut into {count} tiles of at most {how.side} x {how.side} pixels"]
    plain = sum(one.plain for one in good.values())
    notes += [f"{plain} tiles of one colour were left out"] * bool(plain)
    notes += [f"{'an image' if how.quiet else path.name} was left out: {reason}" for path, reason in bad.items()]
    if any(row.pieces is None and row.labels and len(good[row.image].tiles) > 1 for row in kept):
        notes.append(
            "tiles have the label and the caption of their image: a small defect is not in every one of them (where a mask "
            "of ground truth shows that it is not, the tile is normal)"
        )
    return found, notes


def spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """(start, end) of tiles along one edge: as few as will do, all of one size, at equal distances, from end to end."""
    if length <= side:
        return [(0, length)]
    step = max(1, math.floor(side * (1 - overlap)))
    count = math.ceil((length - side) / step) + 1
    starts = [round(number * (length - side) / (count - 1)) for number in range(count)]
    return [(start, start + side) for start in starts]


def _plain(picture: Image.Image) -> bool:
    pixels = np.asarray(picture)
    return bool((pixels == pixels[0, 0]).all())


def _pieces(row: Found, made: _Cut, out: Path, quiet: bool) -> list[Found]:
    mask = None if row.pieces is None else mask_of(row.pieces.masks)
    if mask is not None and mask.shape != made.size[::-1]:
        mask = None  # it belongs to another picture
    source = made.name if quiet else relative(row.image, out)
    rows = []
    for file, (left, top, right, bottom) in made.tiles:
        place = {"tile_left": str(left), "tile_top": str(top), "source": source}
        piece = replace(row, image=file, group=row.group or source, more={**row.more, **place}, pieces=None)
        if mask is not None and row.pieces is not None:
            part = mask[top:bottom, left:right]
            piece = replace(piece, more={**piece.more, "defect_area_pct": f"{np.mean(part) * 100:.3f}"})
            if not part.any():
                piece = replace(piece, labels=(row.pieces.label,), caption=row.pieces.caption)
        rows.append(piece)
    return rows
