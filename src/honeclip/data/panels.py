"""Figures of several panels cut into them, each with its part of the caption: "(a) ... (b) ...".

Both sides have to agree: as many panels are found in the picture, between gutters of one colour, as the caption names, and
the caption says of each what it shows. Where they do not, the figure stays whole. Panels are taken in reading order, row by
row; letters within the picture are not read.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from honeclip.data.copies import FOLDER, store_png
from honeclip.data.found import Found, relative
from honeclip.errors import DataError
from honeclip.preprocess import images

LETTERS = "abcdefghijkl"
GUTTERS = (0.06, 0.04, 0.025, 0.015, 0.008)
"""Least widths of a gutter, as shares of the figure's shorter side: tried from the widest on, until the panels are as many
as the caption names."""

SMALLEST = 0.12
"""Of the figure's width and height: what is smaller in both is a letter or a legend, and goes with the panel beside it."""

_TOLERANCE = 24  # of 255, for a background that was saved as JPEG
_SPECKS = 0.003  # of a row or column of a gutter
_MARK = re.compile(r"\(([a-l](?:\s*(?:,|–|-|and|&)\s*[a-l])*)\)")
_BEFORE = re.compile(r"(^|[.;:,!?)”\"]|\b(and|or))\s*$")
_OF_ALL = re.compile(r"(?<=[.!?])\s+(?=(?:Both|All|In both|In all|Each|These (?:images|figures|panels))\b)")

Box = tuple[int, int, int, int]


def split(rows: Sequence[Found], out: Path, quiet: bool = False) -> tuple[list[Found], list[str]]:
    """Rows of panels in the place of rows of figures, where these can be told apart.

    Panels are PNGs without metadata in OUT/images, with columns panel and source; the group is the figure's, or else the
    figure.

    Args:
        rows: what was found.
        out: the folder of the manifest.
        quiet: no name of a file in the manifest.

    Returns:
        Rows in their order, and how many figures were split and how many not.

    Raises:
        DataError: nothing can be written there.
    """

    def one(row: Found) -> list[Found] | str:
        parts = texts(row.caption)
        if not parts:
            return "named" if len(named(row.caption)) > 1 else ""
        try:
            picture = images.decode(row.image)
        except DataError:
            return ""  # `check` will say so
        boxes = find(picture, len(parts))
        if not boxes:
            return "found"
        source = f"figure {store_png(picture, out / FOLDER).stem}" if quiet else relative(row.image, out)
        return [
            replace(
                row,
                image=store_png(picture.crop(box), out / FOLDER),
                caption=text,
                group=row.group or source,
                more={**row.more, "panel": letter, "source": source},
            )
            for (letter, text), box in zip(parts.items(), boxes, strict=True)
        ]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = list(pool.map(one, rows))
    cut = [some for some in made if isinstance(some, list)]
    notes = [f"{len(cut)} figures were cut into {sum(map(len, cut))} panels"]
    notes += [f"{count} figures stay whole: {why}" for kind, why in _WHY.items() if (count := made.count(kind))]
    found: list[Found] = []
    for row, some in zip(rows, made, strict=True):
        found += some if isinstance(some, list) else [row]
    return found, notes


_WHY = {
    "found": "the picture does not have as many panels between gutters as the caption names",
    "named": "their captions name panels, but do not say one after the other what each shows",
}


def named(caption: str) -> list[str]:
    """The letters of all panels that a caption names, in the order of their first naming."""
    return list(dict.fromkeys(letter for mark in _MARK.finditer(caption) for letter in _letters(mark[1])))


def texts(caption: str) -> dict[str, str]:
    """Letter -> text of each panel: what stands before the first mark, then its own, then what is said of all.

    Empty where fewer than two panels are named, where their letters are not a, b, c in this order, or where a mark stands
    within a sentence: "a microscope (a) and what he saw (b)" says of neither what it shows.
    """
    marks = list(_MARK.finditer(caption))
    letters = named(caption)
    if len(letters) < 2 or letters != list(LETTERS[: len(letters)]):
        return {}
    if not all(_BEFORE.search(caption[: mark.start()]) for mark in marks):
        return {}
    own: dict[str, list[str]] = defaultdict(list)
    lead, of_all = caption[: marks[0].start()].strip(), ""
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        text = caption[mark.end() : following.start() if following else None]
        if following is None:
            text, *rest = _OF_ALL.split(text, maxsplit=1)
            of_all = " ".join(rest)
        text = re.sub(r"[\s,;]*\b(and|or)?[\s,;]*$", "", text).strip()
        for letter in _letters(mark[1]):
            own[letter].append(text)
    if not all(any(own[letter]) for letter in letters):
        return {}
    return {letter: " ".join(part for part in (lead, *own[letter], of_all) if part) for letter in letters}


def _letters(mark: str) -> list[str]:
    """`a, c` names two, `a-c` three."""
    found = re.findall("[a-l]", mark.replace("and", " "))
    if re.search("[–-]", mark) and len(found) == 2:
        first, last = (LETTERS.index(one) for one in found)
        return list(LETTERS[first : last + 1])
    return found


def find(picture: Image.Image, count: int) -> list[Box]:
    """The panels of a figure (left, top, right, bottom) in reading order; [] where there are not `count` of them.

    Args:
        picture: of mode RGB.
        count: how many there should be.
    """
    full = _content(np.asarray(picture).astype(np.int16))
    for share in GUTTERS:
        gap = max(3, round(share * min(picture.size)))
        boxes = _joined(_leaves(full, (0, 0, *picture.size), gap), picture.size)
        if len(boxes) == count:
            return boxes
        if len(boxes) > count:  # narrower gutters only make more
            break
    return []


def _content(pixels: NDArray[np.int16]) -> NDArray[np.bool_]:
    """(rows, columns): what differs from the background, that is the colour of most of the edge."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(edge, axis=0)
    found: NDArray[np.bool_] = (np.abs(pixels - background) > _TOLERANCE).any(axis=-1)
    return found


def _leaves(full: NDArray[np.bool_], box: Box, gap: int) -> list[Box]:
    """Stretches of content between gutters from edge to edge: rows of them first, for so they are read."""
    left, top, right, bottom = box
    part = full[top:bottom, left:right]
    rows, columns = (_stretches(part, axis, gap) for axis in (1, 0))
    if not rows or not columns:
        return []
    if len(rows) == 1 and len(columns) == 1:
        (low, high), (start, end) = rows[0], columns[0]
        tight = (left + start, top + low, left + end, top + high)
        return [tight] if tight == box else _leaves(full, tight, gap)
    if len(rows) > 1:
        pieces = [(left, top + low, right, top + high) for low, high in rows]
    else:
        pieces = [(left + start, top, left + end, bottom) for start, end in columns]
    return [leaf for piece in pieces for leaf in _leaves(full, piece, gap)]


def _stretches(part: NDArray[np.bool_], axis: int, gap: int) -> list[tuple[int, int]]:
    """Where content is along one axis; stretches with less than `gap` between them are one."""
    there = np.flatnonzero(part.mean(axis=axis) > _SPECKS)
    if not len(there):
        return []
    ends = np.flatnonzero(np.diff(there) > gap)
    starts = [int(there[0]), *(int(there[end + 1]) for end in ends)]
    stops = [*(int(there[end]) + 1 for end in ends), int(there[-1]) + 1]
    return list(zip(starts, stops, strict=True))


def _joined(leaves: Sequence[Box], size: tuple[int, int]) -> list[Box]:
    """The panels among the leaves, each with the letters and legends nearest to it; [] where two then overlap."""
    large = [leaf for leaf in leaves if not _is_small(leaf, size)]
    if not large:
        return []
    grown = list(large)
    for leaf in leaves:
        if _is_small(leaf, size):
            near = min(range(len(large)), key=lambda at: (_distance(leaf, large[at]), leaf[1] < large[at][1]))
            box = grown[near]
            grown[near] = (
                min(box[0], leaf[0]),
                min(box[1], leaf[1]),
                max(box[2], leaf[2]),
                max(box[3], leaf[3]),
            )
    overlap = any(_distance(one, other) < 0 for at, one in enumerate(grown) for other in grown[at + 1 :])
    return [] if overlap else grown


def _is_small(box: Box, size: tuple[int, int]) -> bool:
    width, height = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    return min(width, height) < SMALLEST / 2 or max(width, height) < SMALLEST


def _distance(one: Box, other: Box) -> int:
    """Between the nearest edges, the larger of both axes; below 0 where they overlap."""
    across = max(one[0], other[0]) - min(one[2], other[2])
    down = max(one[1], other[1]) - min(one[3], other[3])
    return max(across, down)
