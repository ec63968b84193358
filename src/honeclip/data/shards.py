"""WebDataset shards: tar files in which the members of one sample share a name up to its first dot.

`0042.jpg` is the image; its text is `0042.txt` or the fields of `0042.json` (caption, label, split, group), `0042.cls`
is a label. Images are not unpacked: a row points at the stretch of the tar file that holds it.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

from honeclip.data.rows import Member
from honeclip.data.tables import Table
from honeclip.errors import DataError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "dcm", "dicom")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str) -> list[Path]:
    """`shard-{000..009}.tar` -> ten paths; a pattern without a range names itself."""
    found = _RANGE.search(pattern)
    if found is None:
        return [Path(pattern)]
    first, last = found[1], found[2]
    numbers = range(int(first), int(last) + 1)
    if not numbers:
        raise DataError(f"{pattern}: the range {found[0]} is empty; write the smaller number first")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [path for number in numbers for path in expand(f"{before}{number:0{len(first)}}{after}")]


def read(shards: list[Path]) -> Table:
    """The samples of all shards in their order.

    Raises:
        DataError: a shard is missing, compressed or damaged, or none holds a sample.
    """
    missing = [path for path in shards if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(shards)} shards)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}: there is no such shard{more}")
    records: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    for shard in shards:
        _read_shard(shard, records, faults)
    if not records:
        raise DataError(f"{shards[0]}: there are no samples in the shards; a sample is an image and a .txt or .json")
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    return Table(columns, tuple(records), faults)


def _read_shard(shard: Path, records: list[dict[str, Any]], faults: dict[int, str]) -> None:
    """Append the samples of one shard."""
    samples: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, slash, base = member.name.rpartition("/")
                stem, dot, suffix = base.partition(".")
                if member.isfile() and stem and dot:
                    key = f"{folder}{slash}{stem}"
                    sample = samples.setdefault(key, {})
                    reason = _add(sample, archive, shard, member, suffix.lower())
                    if reason:
                        reasons[key] = reason
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard}: {_why(shard, error)}") from None
    for key, sample in samples.items():
        if key in reasons:
            faults[len(records)] = reasons[key]
        records.append({"image": f"{shard.name}/{key}", **sample})


def _add(
    sample: dict[str, Any], archive: tarfile.TarFile, shard: Path, member: tarfile.TarInfo, suffix: str
) -> str | None:
    """Put one member into its sample; a reason where it cannot be read."""
    if suffix in IMAGE_SUFFIXES:
        sample.setdefault("image", Member(shard, member.offset_data, member.size, f"{shard.name}/{member.name}"))
    elif suffix in ("txt", "json", "cls"):
        stream = archive.extractfile(member)
        raw = stream.read() if stream else b""
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        if suffix == "json":
            return _add_fields(sample, member.name, text)
        sample["caption" if suffix == "txt" else "label"] = text.strip()
    return None


def _add_fields(sample: dict[str, Any], name: str, text: str) -> str | None:
    try:
        fields = json.loads(text)
    except ValueError as error:
        return f"{name} is no JSON: {error}"
    if not isinstance(fields, dict):
        return f"{name} holds a JSON {type(fields).__name__}, not an object"
    for field, value in fields.items():
        sample.setdefault(field, value)  # the image member and the .txt are the nearer words
    return None


def _why(shard: Path, error: Exception) -> str:
    with shard.open("rb") as file:
        start = file.read(2)
    if start == b"\x1f\x8b":
        return "the shard is compressed; unpack it with gunzip, since rows are read in any order"
    return f"the shard is damaged: {error}"
