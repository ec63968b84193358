"""Folders as of MVTec AD: PART/train/good, PART/test/DEFECT and PART/ground_truth/DEFECT with a mask an image.

Made for models that learn what is good alone: there is no defect among the training images. To learn defects by name they
have to be there, so that all images are divided anew, unless the splits are to be kept. MVTec LOCO (validation/good, a
folder of masks an image) and AD 2 (several exposures of a part: 000_regular.png, 000_shift_1.png) are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from honeclip.data import captions
from honeclip.data.found import Found, Piecewise, left_out, mask_of
from honeclip.data.splits import NAMES
from honeclip.domains.domain import Domain
from honeclip.errors import DataError

NORMAL = "good"
TRUTH = "ground_truth"
_SPLITS = ("train", "validation", "test")
_PART = re.compile(r"\b(a|an|the) (part|surface|product|component|object|item)\b", re.IGNORECASE)
_SHOT = re.compile(r"(\d+)_[a-z]\w*", re.IGNORECASE)


def find(source: Path) -> list[Path]:
    """The parts: `source` itself, or folders in it; none where it is no such tree."""
    if _is_part(source):
        return [source]
    return [folder for folder in _folders(source) if _is_part(folder)]


def read(
    source: Path,
    parts: Sequence[Path],
    domain: Domain | None,
    keep_splits: bool,
    listed: Callable[[Path], Iterator[Path]],
) -> tuple[list[Found], list[str]]:
    """A row an image, and what a person should know.

    Args:
        source: the folder that was named.
        parts: from `find`.
        domain: whose templates make captions.
        keep_splits: train and test stay as they are; else there is no split, and rows are divided as other data is.
        listed: the images below a folder.
    """
    rows: list[Found] = []
    notes = left_out("no part (it has no train/good and test)", [one for one in _folders(source) if one not in parts])
    notes = notes if source not in parts else []
    unmasked = broken = 0
    for part in parts:
        name = part.resolve().name
        for split in _SPLITS:
            for image in listed(part / split):
                inside = image.relative_to(part / split).parts
                label = inside[0] if len(inside) > 1 else NORMAL
                found = masks(part, label, image) if label != NORMAL else ()
                share = None if label != NORMAL else 0.0
                if found:
                    try:
                        share = float(np.mean(mask_of(found))) * 100
                    except DataError:
                        found, broken = (), broken + 1
                unmasked += label != NORMAL and not found
                shot = _SHOT.fullmatch(image.stem)
                place = "/".join((name, split, *inside[:-1], shot[1] if shot else image.stem))
                rows.append(
                    Found(
                        image,
                        _caption(domain, label, name, place),
                        (label,),
                        NAMES[split] if keep_splits else "",
                        place,
                        {"part": name, "defect_area_pct": "" if share is None else f"{share:.3f}"},
                        Piecewise(found, NORMAL, _caption(domain, NORMAL, name, place)) if found else None,
                    )
                )
    if keep_splits:
        notes.append(
            "the splits stay as they are: train holds no defect, so that no defect's name can be learnt from it"
        )
    else:
        notes.append(
            "all images are divided anew into train, val and test, each with good parts and defects: MVTec's train holds no "
            "defect to learn from (--keep-splits leaves train and test as they are; figures then compare with others')"
        )
    notes += [f"{unmasked} images of defects have no mask that can be read"] * bool(unmasked)
    notes += [f"{broken} of these masks are broken"] * bool(broken)
    return rows, notes


def masks(part: Path, label: str, image: Path) -> tuple[Path, ...]:
    """The files of an image's mask; () where there is none."""
    folder = part / TRUTH / label
    one = [path for name in (f"{image.stem}_mask.png", f"{image.stem}.png") if (path := folder / name).is_file()]
    return tuple(one[:1] or sorted((folder / image.stem).glob("*.png")))


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith((".", "__MACOSX")))


def _is_part(folder: Path) -> bool:
    """Good parts alone to train on, and defects to test: other folders called train and test are splits of classes."""
    train, test = folder / "train", folder / "test"
    if not (train / NORMAL).is_dir() or not test.is_dir():
        return False
    defects = any(one.name != NORMAL for one in _folders(test))
    return [one.name for one in _folders(train)] == [NORMAL] and (defects or (folder / TRUTH).is_dir())


def _caption(domain: Domain | None, label: str, part: str, key: str) -> str:
    """By a template, which speaks of the part by its name: `a photo of the metal nut with scratch`."""
    text = captions.from_template(domain, (label,), key)
    the_part = f"the {part.replace('_', ' ')}"
    named, count = _PART.subn(lambda _: the_part, text, count=1)
    return named if count else f"{text} on {the_part}"
