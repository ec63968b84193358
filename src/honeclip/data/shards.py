"""WebDataset shards: tar files in which the members of one sample share a name up to its first dot.

`0042.jpg` is the image; its text is `0042.txt` or the fields of `0042.json` (caption, label, split, group), `0042.cls`
is a label. Images are not unpacked: a row points at the stretch of the tar file that holds it, here or behind an address.
A shard is gone through once (`shard_index`); later starts only ask whether it is still the same.
"""

from __future__ import annotations

import json
import re
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from honeclip.data import reading, remote, shard_index
from honeclip.data.remote import Remote
from honeclip.data.rows import ImageRef, Member
from honeclip.data.shard_index import Known, Sample
from honeclip.data.tables import Table
from honeclip.errors import DataError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "dcm", "dicom")
AT_ONCE = 16
"""Shards that are asked for, or gone through, at the same time."""

SAY_S = 30.0
"""Between two words on how far it is."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

Shard = Path | Remote
A = TypeVar("A")
T = TypeVar("T")


def names(pattern: str) -> list[str]:
    """`shard-{000..009}.tar` -> ten names; a pattern without a range names itself."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found[1], found[2]
    numbers = range(int(first), int(last) + 1)
    if not numbers:
        raise DataError(f"{pattern}: the range {found[0]} is empty; write the smaller number first")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [name for number in numbers for name in names(f"{before}{number:0{len(first)}}{after}")]


def expand(pattern: str) -> list[Path]:
    """The paths that a pattern names."""
    return [Path(name) for name in names(pattern)]


def read(shards: Sequence[Shard]) -> Table:
    """The samples of all shards in their order.

    Args:
        shards: paths, or addresses whose size and version are not known yet.

    Raises:
        DataError: a shard is missing, compressed or damaged, or none holds a sample.
        Unreachable: an address does not answer.
    """
    missing = [path for path in shards if isinstance(path, Path) and not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(shards)} shards)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}: there is no such shard{more}")
    found = _each(shards, lambda shard: remote.find(shard.url) if isinstance(shard, Remote) else shard)
    known = [shard_index.recall(_known(shard)) for shard in found]
    fresh = [shard for shard, samples in zip(found, known, strict=True) if samples is None]
    if behind := sum(isinstance(shard, Remote) for shard in fresh):
        reading.say(
            f"going through {behind} of {len(shards)} shards for the first time; later starts know what is in them"
        )
    scanned = dict(zip(fresh, _each(fresh, _scanned, "shards gone through"), strict=True))
    records: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    for shard, samples in zip(found, known, strict=True):
        for sample in scanned[shard] if samples is None else samples:
            if sample.fault:
                faults[len(records)] = sample.fault
            records.append(_record(shard, sample))
    if not records:
        raise DataError(f"{shards[0]}: there are no samples in the shards; a sample is an image and a .txt or .json")
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    return Table(columns, tuple(records), faults)


def far(images: Sequence[ImageRef]) -> NDArray[np.int64] | None:
    """(N,) the shard of each image as a number, where all of them lie behind addresses; None where one does not."""
    number: dict[Remote, int] = {}
    found = np.empty(len(images), dtype=np.int64)
    for row, image in enumerate(images):
        if not isinstance(image, Member) or not isinstance(image.archive, Remote):
            return None
        found[row] = number.setdefault(image.archive, len(number))
    return found


def _each(shards: Sequence[A], work: Callable[[A], T], doing: str = "") -> list[T]:
    """`work` of each, in order; several at once, for the network lets one wait."""
    found: list[T] = []
    said = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for one in pool.map(work, shards):
            found.append(one)
            if doing and time.monotonic() - said >= SAY_S:
                said = time.monotonic()
                reading.say(f"{doing}: {len(found)} of {len(shards)}")
    return found


def _known(shard: Shard) -> Known:
    if isinstance(shard, Remote):
        return Known(shard.url, shard.size, shard.version)
    stat = shard.stat()
    return Known(str(shard.absolute()), stat.st_size, str(stat.st_mtime_ns))


def _record(shard: Shard, sample: Sample) -> dict[str, Any]:
    record: dict[str, Any] = {"image": f"{shard.name}/{sample.key}", **sample.fields}
    if sample.image is not None:
        offset, length, name = sample.image
        record["image"] = Member(shard, offset, length, f"{shard.name}/{name}")
    return record


def _scanned(shard: Shard) -> list[Sample]:
    """The samples of one shard, from the shard itself."""
    known = _known(shard)
    try:
        samples = remote.tried(shard.url, lambda: _scan(shard)) if isinstance(shard, Remote) else _scan(shard)
    except OSError as error:
        raise DataError(f"{shard}: {error.strerror or error}") from None
    shard_index.remember(known, samples)
    return samples


def _scan(shard: Shard) -> list[Sample]:
    images: dict[str, tuple[int, int, str]] = {}
    fields: dict[str, dict[str, Any]] = {}
    faults: dict[str, str] = {}
    with remote.opened(shard) if isinstance(shard, Remote) else shard.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    folder, slash, base = member.name.rpartition("/")
                    stem, dot, suffix = base.partition(".")
                    if not (member.isfile() and stem and dot):
                        continue
                    key = f"{folder}{slash}{stem}"
                    sample = fields.setdefault(key, {})
                    if suffix.lower() in IMAGE_SUFFIXES:
                        images.setdefault(key, (member.offset_data, member.size, member.name))
                    elif suffix.lower() in ("txt", "json", "cls"):
                        stream = archive.extractfile(member)
                        reason = _add(sample, member.name, suffix.lower(), stream.read() if stream else b"")
                        if reason:
                            faults[key] = reason
        except tarfile.TarError as error:
            if start == b"\x1f\x8b":
                raise DataError(
                    f"{shard}: the shard is compressed; unpack it with gunzip, since rows are read in any order"
                ) from None
            raise DataError(f"{shard}: the shard is damaged: {error}") from None
    return [Sample(key, images.get(key), sample, faults.get(key, "")) for key, sample in fields.items()]


def _add(sample: dict[str, Any], name: str, suffix: str, raw: bytes) -> str:
    """Put the text of one member into its sample; a reason where it cannot be read."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if suffix == "json":
        return _add_fields(sample, name, text)
    sample["caption" if suffix == "txt" else "label"] = text.strip()
    return ""


def _add_fields(sample: dict[str, Any], name: str, text: str) -> str:
    try:
        fields = json.loads(text)
    except ValueError as error:
        return f"{name} is no JSON: {error}"
    if not isinstance(fields, dict):
        return f"{name} holds a JSON {type(fields).__name__}, not an object"
    for field, value in fields.items():
        sample.setdefault(field, value)  # the image member and the .txt are the nearer words
    return ""
