"""What is wrong or odd in a manifest whose images have been looked at: one Problem for each row and kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from honeclip.data.inspect_images import Fault
from honeclip.data.manifest import Manifest
from honeclip.data.rows import ImageRef, Problem, Row
from honeclip.data.splits import SPLITS
from honeclip.preprocess.images import Facts

SAME_PIXELS, SAME_GROUP = "the same pixels", "the same group"
"""By what a row of one split stands in another one as well, as its reason says it."""

TINY_PX = 8
"""Images whose shorter side is less are `tiny`."""

PLAIN_MODES = ("RGB", "L", "DICOM RGB", "DICOM MONOCHROME2")
CHANGED = {
    "RGBA": "transparency is put on white",
    "LA": "transparency is put on white",
    "PA": "transparency is put on white",
    "P": "a palette, turned into colours",
    "CMYK": "printing colours, turned into RGB without a colour profile",
    "YCbCr": "turned into RGB",
    "LAB": "turned into RGB",
    "HSV": "turned into RGB",
    "DICOM MONOCHROME1": "grey whose largest value is black, inverted",
    "DICOM PALETTE COLOR": "a palette, turned into colours",
    "1": "black and white only",
    "I": "grey of more than 8 bits, scaled to 8",
    "F": "grey of floating point, scaled to 8 bits",
}


def unusable(manifest: Manifest, facts: Mapping[ImageRef, Facts | Fault]) -> dict[int, Problem]:
    """Row -> why it cannot be used; one reason a row, the first that applies."""
    found = {}
    for row in manifest.rows:
        fault = _fault(row, manifest, facts)
        if fault is not None:
            found[row.row] = Problem(row.row, row.file, fault.kind, fault.reason)
    return found


def _fault(row: Row, manifest: Manifest, facts: Mapping[ImageRef, Facts | Fault]) -> Fault | None:
    if row.fault:
        return Fault("broken", row.fault)
    if row.image is None:
        return Fault("missing", "the row names no image")
    fact = facts[row.image]
    if isinstance(fact, Fault):
        return fact
    if "caption" in manifest.has:
        return None if row.caption else Fault("empty_caption", "the caption is empty")
    return None if row.labels else Fault("empty_caption", "there is no label to make a caption of")


def notes(manifest: Manifest, rows: Sequence[Row], facts: Sequence[Facts], splits: Sequence[str]) -> list[Problem]:
    """What is odd about the usable `rows`; `facts` and `splits` are theirs."""
    found = [problem for row, fact in zip(rows, facts, strict=True) for problem in _of_image(row, fact)]
    found += _duplicates(rows, facts)
    if "split" in manifest.has:
        found += _leaks(rows, splits, SAME_PIXELS, lambda place: facts[place].pixels_sha256)
        found += _leaks(rows, splits, SAME_GROUP, lambda place: rows[place].group)
    if "group" not in manifest.has and rows:
        reason = (
            "there is no `group` column: nothing keeps rows of one patient, part or paper in one split; "
            "add one where rows belong together"
        )
        found.append(Problem(0, manifest.source.name, "no_group", reason))
    return found


def _of_image(row: Row, fact: Facts) -> Iterator[Problem]:
    width, height = fact.size
    if min(width, height) < TINY_PX:
        yield Problem(row.row, row.file, "tiny", f"{width}x{height} pixels: the shorter side is under {TINY_PX}")
    if fact.mode not in PLAIN_MODES:
        how = CHANGED.get(fact.mode, "grey of more than 8 bits, scaled to 8" if fact.mode.startswith("I;") else "")
        yield Problem(row.row, row.file, "odd_mode", f"mode {fact.mode}: {how or 'turned into RGB'}")


def _duplicates(rows: Sequence[Row], facts: Sequence[Facts]) -> Iterator[Problem]:
    first: dict[str, Row] = {}
    for row, fact in zip(rows, facts, strict=True):
        before = first.setdefault(fact.pixels_sha256, row)
        if before is row:
            continue
        if before.image != row.image:
            reason = f"the same pixels as row {before.row} ({before.file})"
        elif before.caption == row.caption:
            reason = f"the same image and caption as row {before.row}"
        else:
            reason = f"the same image as row {before.row}, with another caption"
        yield Problem(row.row, row.file, "duplicate_image", reason)


def _leaks(rows: Sequence[Row], splits: Sequence[str], what: str, identity: Callable[[int], str]) -> Iterator[Problem]:
    """Rows that share an identity with a row of another split; what is held out is named, train counts as its home."""
    home: dict[str, int] = {}
    for place in sorted(range(len(rows)), key=lambda one: (SPLITS.index(splits[one]), one)):
        if not identity(place):
            continue
        other = home.setdefault(identity(place), place)
        if splits[other] != splits[place]:
            where = f"in {splits[place]}, {what} as row {rows[other].row} ({rows[other].file}) in {splits[other]}"
            yield Problem(rows[place].row, rows[place].file, "split_leak", where)
