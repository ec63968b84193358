"""Copies of images under names that say nothing: the hash of what is in them. For names of files that name people, and for
data that leaves the house."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image

from honeclip.data.found import Found
from honeclip.errors import DataError
from honeclip.preprocess import images
from honeclip.preprocess.windows import Asked

FOLDER = "images"


def as_png(rows: Sequence[Found], out: Path, windows: Sequence[Asked] = ()) -> tuple[list[Found], list[str]]:
    """Every image as a PNG of 8 bits without metadata: what a model would be shown.

    Args:
        rows: what was found.
        out: PNGs are written to its folder `images`.
        windows: of DICOM, as in a domain.

    Returns:
        The rows with the new files, without those whose image cannot be decoded, and a note for each reason.

    Raises:
        DataError: nothing can be written there.
    """

    def png(path: Path) -> tuple[bytes, str]:
        picture = images.decode(path, windows=windows)
        return _png(picture), ".png"

    return _copied(rows, out, png)


def hashed(rows: Sequence[Found], out: Path) -> tuple[list[Found], list[str]]:
    """Every image as it is, under a name that says nothing; DICOM without its header (`dicom_bare`).

    Returns:
        As `as_png`.

    Raises:
        DataError: nothing can be written there.
    """

    def copy(path: Path) -> tuple[bytes, str]:
        if images.is_dicom(path):
            from honeclip.preprocess import dicom_bare  # here, for pydicom takes a second to import

            return dicom_bare.bare(path), ".dcm"
        try:
            return path.read_bytes(), path.suffix.lower()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}") from None

    return _copied(rows, out, copy)


def store(content: bytes, suffix: str, folder: Path) -> Path:
    """Write a file under the hash of its content, whole or not at all; one that is there already stays.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
            aside.write_bytes(content)
            aside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def store_png(picture: Image.Image, folder: Path) -> Path:
    """Write an RGB picture as PNG under the hash of its content."""
    return store(_png(picture), ".png", folder)


def _png(picture: Image.Image) -> bytes:
    """Without metadata; with one channel where all three are the same: a third of the file."""
    red, green, blue = (channel.tobytes() for channel in picture.split())
    made = io.BytesIO()
    (picture.getchannel(0) if red == green == blue else picture).save(made, "PNG")
    return made.getvalue()


def _copied(
    rows: Sequence[Found], out: Path, content: Callable[[Path], tuple[bytes, str]]
) -> tuple[list[Found], list[str]]:
    """Rows whose image is a copy; two threads that write the same picture write the same file."""

    def one(path: Path) -> Path | str:
        try:
            made = content(path)
        except DataError as error:
            return str(error)
        return store(*made, out / FOLDER)

    distinct = list(dict.fromkeys(row.image for row in rows))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = dict(zip(distinct, pool.map(one, distinct), strict=True))
    bad: dict[str, int] = defaultdict(int)
    for copy in made.values():
        if isinstance(copy, str):
            bad[copy] += 1
    kept = [replace(row, image=copy) for row in rows if isinstance(copy := made[row.image], Path)]
    return kept, [f"{count} images were left out: {reason}" for reason, count in bad.items()]
