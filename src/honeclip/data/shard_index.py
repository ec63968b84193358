"""What is in a shard, written down once: of each sample its name, where its picture lies, and its texts.

An index is kept among the caches of this machine by the shard's address, with its size and version (time of change, ETag): a
shard that changed is gone through again, any other one is not opened at a start. An index that is damaged, or that cannot be
written, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from honeclip import places

FORMAT = 1


@dataclass(frozen=True)
class Known:
    """By what a shard is told from others and from what it was.

    Attributes:
        url: address or absolute path.
        size: bytes.
        version: changes with the content.
    """

    url: str
    size: int
    version: str

    @property
    def file(self) -> Path:
        """Where its index lies."""
        return places.shards() / f"{hashlib.sha256(self.url.encode()).hexdigest()[:32]}.json.gz"


@dataclass(frozen=True)
class Sample:
    """Members of a shard with the same name up to the first dot.

    Attributes:
        key: that name, the folder in the archive included.
        image: offset, bytes and name of the member that is the picture; None where there is none.
        fields: caption, label and whatever else its texts say.
        fault: why the texts cannot be read; "" where they can.
    """

    key: str
    image: tuple[int, int, str] | None
    fields: dict[str, Any]
    fault: str = ""


def recall(shard: Known) -> list[Sample] | None:
    """The samples of a shard in their order; None where they are not known."""
    try:
        stored = json.loads(gzip.decompress(shard.file.read_bytes()))
        if (stored["format"], stored["shard"]) != (FORMAT, asdict(shard)):
            return None
        return [
            Sample(key, tuple(image) if image else None, fields, fault)
            for key, image, fields, fault in stored["samples"]
        ]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        return None


def remember(shard: Known, samples: Sequence[Sample]) -> None:
    """Writes an index by one rename; where it cannot, the next start goes through the shard again."""
    rows = [[one.key, one.image, one.fields, one.fault] for one in samples]
    content = json.dumps({"format": FORMAT, "shard": asdict(shard), "samples": rows}).encode()
    aside = shard.file.with_name(f".{shard.file.name}.aside-{os.getpid()}")
    with contextlib.suppress(OSError):
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
            aside.replace(shard.file)
        finally:
            aside.unlink(missing_ok=True)
