"""Every image decoded once: its size, its mode, the hash of its pixels; remembered by path, size and time of change.

The memory is one small SQLite file among the caches of this machine. SQLite keeps it whole when processes write at the
same time or are killed; where it cannot be used (a read-only home, a damaged file) images are decoded again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from honeclip import places
from honeclip.data.reading import readers
from honeclip.data.remote import Remote
from honeclip.data.rows import ImageRef, Member
from honeclip.errors import DataError
from honeclip.preprocess import images
from honeclip.preprocess.images import Facts

CHUNK = 512
"""Images between two writes of the memory: a stopped inspection goes on from there."""

BUSY_SECONDS = 30.0

_ADDRESS = re.compile(r"(^|/)(https?|ftp|s3|gs|hdfs):/")

Progress = Callable[[int, int], None]
Key = tuple[str, int, int]


@dataclass(frozen=True)
class Fault:
    """Why there are no facts of an image. `kind` is "missing" or "broken"."""

    kind: str
    reason: str


def inspect(
    refs: Sequence[ImageRef], workers: int = 0, progress: Progress | None = None
) -> dict[ImageRef, Facts | Fault]:
    """Facts of every distinct image of `refs`, or the fault.

    Args:
        refs: images, repeats allowed.
        workers: decoding threads (Pillow gives up the interpreter's lock while it decodes); 0 takes the cores.
        progress: called with (images done, distinct images), from this thread.

    Raises:
        Unreachable: a shard behind an address does not answer; what was found until then is remembered.
    """
    distinct = list(dict.fromkeys(refs))
    found: dict[ImageRef, Facts | Fault] = {}
    with readers(workers or min(16, os.cpu_count() or 1)) as pool, _memory() as memory:
        for start in range(0, len(distinct), CHUNK):
            part = distinct[start : start + CHUNK]
            keys = dict(zip(part, pool.map(_key, part), strict=True))
            known = _recall(memory, [key for key in keys.values() if not isinstance(key, Fault)])
            fresh = [ref for ref in part if not isinstance(keys[ref], Fault) and keys[ref] not in known]
            seen = dict(zip(fresh, pool.map(_look, fresh), strict=True))
            for ref, key in keys.items():
                found[ref] = key if isinstance(key, Fault) else known[key] if key in known else seen[ref]
            good = [(keys[ref], facts) for ref, facts in seen.items() if isinstance(facts, Facts)]
            _remember(memory, [(key, facts) for key, facts in good if not isinstance(key, Fault)])
            if progress:
                progress(start + len(part), len(distinct))
    return found


def _key(ref: ImageRef) -> Key | Fault:
    """What an image is remembered by: name, bytes, time of change in nanoseconds."""
    path = ref.archive if isinstance(ref, Member) else ref
    if isinstance(ref, Member) and isinstance(path, Remote):  # asked when its shard was found
        return f"{path.url}#{ref.offset}+{ref.length}", path.size, int(path.version, 16) >> 1  # SQLite has 63 bits
    assert isinstance(path, Path)
    try:
        stat = path.stat()
        if path.is_dir():
            return Fault("broken", "this is a folder, not an image file")
    except (FileNotFoundError, NotADirectoryError):
        return Fault("missing", _nowhere(path))
    except (OSError, ValueError) as error:
        return Fault("missing", f"cannot be opened: {getattr(error, 'strerror', None) or error}")
    if isinstance(ref, Member):
        return f"{path.absolute()}#{ref.offset}+{ref.length}", stat.st_size, stat.st_mtime_ns
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def _nowhere(path: Path) -> str:
    if _ADDRESS.search(path.as_posix()):
        return "this is a network address; pictures are read from local files, or from shards behind an address"
    return f"there is no such file in {path.parent}" if path.parent.is_dir() else f"there is no folder {path.parent}"


def _look(ref: ImageRef) -> Facts | Fault:
    try:
        return images.probe(ref if isinstance(ref, Path) else ref.read())
    except DataError as error:
        return Fault("broken", str(error))
    except OSError as error:
        return Fault("broken", f"cannot be read: {error.strerror or error}")


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    """The memory, or None where it cannot be used."""
    path = places.inspections() / "images.sqlite3"
    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS pictures (rules TEXT, name TEXT, bytes INTEGER, changed INTEGER, width INTEGER, "
                "height INTEGER, mode TEXT, sha TEXT, likeness TEXT, PRIMARY KEY (rules, name)) WITHOUT ROWID"
            )
    except (OSError, sqlite3.Error):
        if connection is not None:
            connection.close()
        connection = None
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _recall(memory: sqlite3.Connection | None, keys: Sequence[Key]) -> dict[Key, Facts]:
    known: dict[Key, Facts] = {}
    if memory is None:
        return known
    question = (
        "SELECT width, height, mode, sha, likeness FROM pictures "
        "WHERE rules = ? AND name = ? AND bytes = ? AND changed = ?"
    )
    with contextlib.suppress(sqlite3.Error):
        for key in keys:
            row = memory.execute(question, (_rules(), *key)).fetchone()
            if row is not None:
                known[key] = Facts((row[0], row[1]), *row[2:])
    return known


def _remember(memory: sqlite3.Connection | None, facts: Sequence[tuple[Key, Facts]]) -> None:
    if memory is None or not facts:
        return
    rows = [(_rules(), *key, *one.size, one.mode, one.pixels_sha256, one.likeness) for key, one in facts]
    with contextlib.suppress(sqlite3.Error), memory:
        memory.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _rules() -> str:
    """What besides the file decides its pixels; facts found under other rules are not taken."""
    return f"{images.RULES} {images.HASHES} {images.LIMITS}"
