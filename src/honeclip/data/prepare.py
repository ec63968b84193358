"""Turns what people have into a manifest: class folders, NAME.jpg beside NAME.txt, COCO, a table with other names, MVTec
folders, a tree of DICOM files with a table of reports.

Images stay where they are, unless copies are asked for; the manifest names them relative to itself. What cannot be
recognised is refused with the list of what can.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from honeclip.data import captions, coco, copies, manifest, mvtec, panels, tables, tiles
from honeclip.data.found import Found, left_out, relative
from honeclip.data.reports import Join
from honeclip.data.shards import IMAGE_SUFFIXES
from honeclip.data.splits import NAMES
from honeclip.data.tiles import Tiles
from honeclip.domains.domain import Domain
from honeclip.errors import DataError
from honeclip.preprocess import images

FORMS = (
    "class folders: SRC/CLASS/x.jpg, or SRC/train/CLASS/x.jpg beside SRC/val and SRC/test",
    "captions beside images: SRC/**/NAME.jpg with NAME.txt",
    "COCO: a captions or instances JSON, or a folder with annotations/*.json",
    "a CSV, TSV, JSONL or Parquet table (other column names: --columns image=...,caption=...)",
    "MVTec folders: PART/train/good, PART/test/DEFECT, PART/ground_truth/DEFECT; or one part's folder",
    "DICOM files in folders with a table of reports (--reports CSV --key AccessionNumber --columns caption=...)",
)
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")
NAME = "pairs.csv"

Copies = Literal["none", "png", "hashed"]


@dataclass(frozen=True)
class Prepared:
    """A manifest that was written.

    Attributes:
        path: of it.
        form: what the source was taken for.
        rows: how many were written.
        splits: rows by split, empty where the source has none.
        notes: what was left out, and why.
    """

    path: Path
    form: str
    rows: int
    splits: dict[str, int]
    notes: tuple[str, ...]


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    domain: Domain | None = None,
    columns: Mapping[str, str] | None = None,
    reports: Join | None = None,
    copied: Copies = "none",
    cut: Tiles | None = None,
    split_panels: bool = False,
    keep_splits: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Recognise what `source` is and write OUT/pairs.csv.

    Args:
        source: a folder or file of one of FORMS.
        out: folder for the manifest; made where it is missing.
        domain: gives captions to labels by its templates; None takes "a photo of {label}".
        columns: field -> column name, for a table with other names.
        reports: of a tree of DICOM files.
        copied: "png" writes every image to OUT/images as a PNG without metadata, "hashed" copies it there under a name that
            says nothing (DICOM without its header), "none" leaves it where it is.
        cut: cuts large images into tiles, which are PNGs without metadata in OUT/images.
        split_panels: cuts figures into the panels that their captions name, PNGs without metadata in OUT/images.
        keep_splits: of MVTec folders: train and test stay as they are.
        overwrite: whether a pairs.csv that is there may be replaced.

    Raises:
        DataError: nothing there, an unknown form, no images, or a pairs.csv in the way.
    """
    source, target = Path(source).expanduser(), Path(out).expanduser() / NAME
    if target.exists() and not overwrite:
        raise DataError(f"{target} is there already; give --overwrite to replace it, or another --out")
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    if reports is None:
        form, rows, notes = _recognise(source, domain, columns or {}, keep_splits)
    else:
        form, (rows, notes) = "DICOM files with reports", _with_reports(source, reports, columns or {}, domain)
    windows = domain.image.windows if domain else ()
    if split_panels:
        rows, more = panels.split(rows, target.parent, quiet=copied != "none")
        notes += more
    if cut is not None:
        rows, more = tiles.cut(rows, target.parent, cut, windows)
        notes += more
    elif copied == "png":
        rows, more = copies.as_png(rows, target.parent, windows)
        notes += more
    elif copied == "hashed":
        rows, more = copies.hashed(rows, target.parent)
        notes += more
    if not rows:
        raise DataError(f"{source}: taken for {form}, but it gives no row{': ' if notes else ''}{'; '.join(notes)}")
    _write(target, rows)
    counts = Counter(row.split for row in rows if row.split)
    return Prepared(target, form, len(rows), dict(counts), tuple(notes))


def _recognise(
    source: Path, domain: Domain | None, columns: Mapping[str, str], keep_splits: bool
) -> tuple[str, list[Found], list[str]]:
    """The form in words, its rows, and what was left out."""
    if source.is_file():
        if source.suffix.lower() == ".json":
            return "COCO annotations", *coco.read([source], domain)
        if source.suffix.lower() in TABLES:
            return "a table", *_table(source, domain, columns)
        raise _unknown(source, f"a file that ends in {source.suffix or 'nothing'}")
    if columns:
        raise DataError(f"--columns names the columns of a table, but {source} is a folder")
    annotations = coco.find(source)
    if annotations:
        return "COCO annotations", *coco.read(annotations, domain)
    if parts := mvtec.find(source):
        return "MVTec folders", *mvtec.read(source, parts, domain, keep_splits, _images)
    if keep_splits:
        raise DataError(
            f"{source}: --keep-splits is for MVTec folders (PART/train/good, PART/test/DEFECT); these are none"
        )
    images = list(_images(source))
    if not images:
        raise _unknown(source, f"no image in it ({', '.join(IMAGE_SUFFIXES)})")
    texts = {image: text for image in images if (text := _text_beside(image)) is not None}
    flat = all(image.parent == source for image in images)
    if texts and (flat or 2 * len(texts) >= len(images)):
        return "captions beside images", *_beside(source, images, texts)
    if flat:
        raise _unknown(source, f"{len(images)} images, none with a .txt beside it, and no class folders")
    rows, notes = _class_folders(source, images, domain)
    if texts:
        notes.append(f"only {len(texts)} of {len(images)} images have a .txt beside them, so these texts were not read")
    return "class folders", rows, notes


def _with_reports(
    source: Path, reports: Join, columns: Mapping[str, str], domain: Domain | None
) -> tuple[list[Found], list[str]]:
    from honeclip.data import dicom_tree  # here, for pydicom takes a second to import

    if not source.is_dir():
        raise DataError(f"{source}: --reports joins a folder of DICOM files with a table, and this is a file")
    found = list(_images(source))
    if not any(images.is_dicom(path) for path in found):
        raise DataError(
            f"{source}: --reports joins DICOM files with a table, and there is none among {len(found)} images"
        )
    return dicom_tree.read(source, found, reports, columns, domain)


def _unknown(source: Path, what: str) -> DataError:
    lines = "\n".join(f"  - {form}" for form in FORMS)
    return DataError(f"{source}: {what}; this form is unknown. Understood are:\n{lines}")


def _images(folder: Path) -> Iterator[Path]:
    """Images below `folder` in the order of their names; hidden files (a Mac leaves `._x.jpg`) are none."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(files):
            if not name.startswith(".") and _is_image(Path(root) / name):
                yield Path(root) / name


def _is_image(path: Path) -> bool:
    """By its suffix, or DICOM that has none: UIDs are names full of dots. An index of such files is no image."""
    suffix = path.suffix.lower().lstrip(".")
    if suffix in IMAGE_SUFFIXES:
        return True
    return (not suffix.isalpha() or suffix == "ima") and path.name.upper() != "DICOMDIR" and images.is_dicom(path)


def _text_beside(image: Path) -> Path | None:
    return next((path for suffix in (".txt", ".TXT") if (path := image.with_suffix(suffix)).is_file()), None)


def _beside(source: Path, images: Sequence[Path], texts: Mapping[Path, Path]) -> tuple[list[Found], list[str]]:
    """A row for each image with a text; the whole text is the caption."""
    splits = _splits(source, images)
    notes = left_out("no .txt beside it", [image for image in images if image not in texts])
    rows = []
    for image, text in texts.items():
        empty = not text.stat().st_size
        content, said = ("", ()) if empty else tables.read_text(text)
        notes += said
        rows.append(Found(image, " ".join(content.split()), (), splits.get(image, ""), ""))
    return rows, notes


def _class_folders(source: Path, images: Sequence[Path], domain: Domain | None) -> tuple[list[Found], list[str]]:
    """A row for each image in a folder; the folder (below the split's) is the label, nested ones joined by `/`."""
    splits = _splits(source, images)
    inside = {image: image.relative_to(source).parent.parts[1 if image in splits else 0 :] for image in images}
    levels = list(zip(*(parts for parts in inside.values() if parts), strict=False))
    common = len(list(takewhile(lambda names: len(set(names)) == 1, levels)))
    strip = min(common, len(levels) - 1)  # SRC/images/CLASS: "images" is no part of the label
    rows, loose = [], []
    for image, parts in inside.items():
        label = "/".join(parts[strip:]).replace(manifest.LABEL_SEPARATOR, ",")
        if not label:
            loose.append(image)
            continue
        caption = captions.from_template(domain, (label,), image.relative_to(source).as_posix())
        rows.append(Found(image, caption, (label,), splits.get(image, ""), ""))
    return rows, left_out("in no class folder", loose)


def _splits(source: Path, images: Sequence[Path]) -> dict[Path, str]:
    """The split of each image by the folder directly below `source`, where all of these are names of splits.

    Raises:
        DataError: folders of splits stand beside others.
    """
    tops = {image: parts[0] for image in images if len(parts := image.relative_to(source).parts) > 1}
    names = sorted(set(tops.values()))
    known = [name for name in names if name.casefold() in NAMES]
    if not known:
        return {}
    if len(known) < len(names):
        others = ", ".join(name for name in names if name not in known)
        raise DataError(
            f"{source}: the folders {', '.join(known)} look like splits, but {others} stand beside them; "
            "keep either splits or classes on this level"
        )
    return {image: NAMES[name.casefold()] for image, name in tops.items()}


def _table(source: Path, domain: Domain | None, columns: Mapping[str, str]) -> tuple[list[Found], list[str]]:
    """The rows of a manifest under the names of the contract."""
    found = manifest.read(source, columns)
    rows, notes = [], list(found.notes)
    for row in found.rows:
        if row.fault:
            raise DataError(f"{source}: row {row.row}: {row.fault}")
        if row.image is not None and not isinstance(row.image, Path):
            raise DataError(f"{source} holds its images in itself: it needs no `prepare`, give it to `honeclip check`")
        caption = row.caption
        if "caption" not in found.has and row.labels:
            caption = captions.from_template(domain, row.labels, row.file)
        if row.image is None:
            notes.append(f"row {row.row} names no image and was left out")
        else:
            rows.append(Found(row.image, caption, row.labels, row.split, row.group))
    return rows, notes


def _write(target: Path, rows: Sequence[Found]) -> None:
    """Write the manifest aside and rename it; columns that no row fills are left out."""
    table = [_cells(row, target.parent) for row in rows]
    columns = dict.fromkeys(name for cells in table for name in cells)
    used = [name for name in columns if name in ("image", "caption") or any(cells.get(name) for cells in table)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{NAME}.{os.getpid()}.partial")
        with aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, used, extrasaction="ignore", restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
        aside.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from None


def _cells(row: Found, folder: Path) -> dict[str, str]:
    return {
        "image": relative(row.image, folder),
        "caption": row.caption,
        "label": manifest.LABEL_SEPARATOR.join(row.labels),
        "split": row.split,
        "group": row.group,
        **row.more,
    }
