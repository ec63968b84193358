"""COCO annotations: captions JSON, instances JSON (its categories become labels), or a folder with both."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honeclip.data import captions
from honeclip.data.found import Found
from honeclip.data.splits import NAMES
from honeclip.domains.domain import Domain
from honeclip.errors import DataError

_SPLIT = re.compile(r"(?<![a-z])(train|validation|valid|val|test)(?![a-z])", re.IGNORECASE)


@dataclass
class _Picture:
    """What all files together say of one image."""

    path: Path
    captions: list[str]
    labels: list[str]


def find(folder: Path) -> list[Path]:
    """The annotation files of a COCO folder; none where it is no such folder."""
    files = sorted((folder / "annotations").glob("*.json")) or sorted(folder.glob("*.json"))
    return [file for file in files if _looks_like_coco(file)]


def read(files: Sequence[Path], domain: Domain | None) -> tuple[list[Found], list[str]]:
    """A row for each caption, or for each image by its labels where no file has captions.

    Raises:
        DataError: a file is no COCO, or none of its images can be found.
    """
    pictures: dict[tuple[str, str], _Picture] = {}
    for file in files:
        _merge(pictures, file)
    if not any(picture.path.is_file() for picture in pictures.values()):
        raise DataError(f"{files[0]}: none of its images is there; looked in {', '.join(map(str, _folders(files[0])))}")
    captioned = any(picture.captions for picture in pictures.values())
    one_split = len({split for split, _ in pictures}) == 1  # then its name says nothing about this data set's parts
    rows, without = [], 0
    for (split, name), picture in pictures.items():
        labels = tuple(dict.fromkeys(picture.labels))
        texts = picture.captions
        if not captioned and labels:
            texts = [captions.from_template(domain, labels, name)]
        without += not texts
        rows += [Found(picture.path, text, labels, "" if one_split else split, "") for text in texts]
    notes = [f"{without} images have no {'caption' if captioned else 'category'} and were left out"] if without else []
    return rows, notes


def _looks_like_coco(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    return '"images"' in text and '"annotations"' in text


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: this is no JSON: {error}") from None
    parts = ("images", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise DataError(f"{file}: COCO annotations are an object with lists `images` and `annotations`; this is not")
    return content


def _merge(pictures: dict[tuple[str, str], _Picture], file: Path) -> None:
    """Add what one file says. Images of several files are the same where split and file name are."""
    content = _load(file)
    named = _SPLIT.search(re.sub(r"[\d_]+", " ", file.stem))
    split = NAMES[named[1].lower()] if named else ""
    try:
        categories = {one["id"]: str(one["name"]).replace(";", ",") for one in content.get("categories", [])}
        texts, labels = defaultdict(list), defaultdict(list)
        for note in content["annotations"]:
            if "caption" in note:
                texts[note["image_id"]].append(" ".join(str(note["caption"]).split()))
            elif note.get("category_id") in categories:
                labels[note["image_id"]].append(categories[note["category_id"]])
        folders = _folders(file)
        for image in content["images"]:
            name = str(image["file_name"])
            key = (split, name)
            if key not in pictures:
                pictures[key] = _Picture(_place(name, folders), [], [])
            pictures[key].captions += texts[image["id"]]
            pictures[key].labels += labels[image["id"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: these COCO annotations lack a field: {error}") from None


def _folders(file: Path) -> list[Path]:
    """Where the images of an annotation file usually lie: beside it, or in a sibling named as its last part."""
    part = file.stem.partition("_")[2] or file.stem  # captions_train2017 -> train2017
    bases = (file.parent, file.parent.parent) if file.parent.name == "annotations" else (file.parent,)
    return [base / inner for base in bases for inner in ("", "images", part, f"images/{part}")]


def _place(name: str, folders: Sequence[Path]) -> Path:
    return next((path for folder in folders if (path := folder / name).is_file()), folders[0] / name)
