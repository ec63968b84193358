"""events.jsonl: one JSON object a line, appended as a run goes on, read by the report and by anything that watches.

A line is written whole and flushed at once. A process that is killed can leave half a line at the end: readers skip it,
and a resumed run cuts the file back to the offset that its checkpoint remembers, so that no step stands there twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from honeclip.errors import HoneclipError, Interrupted


class EventLog:
    """The events of one run, open for appending.

    Args:
        path: events.jsonl; made, with its folder, where it is missing. Half a line at its end is cut off.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, _whole_bytes(path))
        # unbuffered bytes: an append is one write, and the offset is the file's true size on every platform
        self._file = path.open("ab", buffering=0)

    @property
    def offset(self) -> int:
        """Bytes in the file: what a checkpoint stores as `events_offset`."""
        return self._file.tell()

    def append(self, event: str, **fields: Any) -> None:
        """Writes one line: `event`, the fields in their order, and `time` (seconds since 1970) after the step.

        JSON knows no NaN and no infinity: such a number is written as null, and under `KEY_text` as a word.

        Raises:
            HoneclipError: the disk is full or refuses; half a line is cut off again.
        """
        line: dict[str, Any] = {"event": event}
        if "step" in fields:
            line["step"] = fields.pop("step")
        line["time"] = fields.pop("time", round(time.time(), 3))
        for key, value in fields.items():
            line[key] = value
            if isinstance(value, float) and not math.isfinite(value):
                line[f"{key}_text"] = str(value)
        text = json.dumps(plain(line), allow_nan=False).encode() + b"\n"
        before = self.offset
        try:
            while text:  # a disk that becomes full takes a part, and refuses the rest
                text = text[self._file.write(text) :]
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, before)
                self._file.seek(before)
            raise HoneclipError(
                f"{self.path} cannot be written: {error.strerror or error}. Make room, then go on with --resume"
            ) from error

    def truncate(self, offset: int) -> None:
        """Cuts the file back to `offset` bytes; an offset beyond its end changes nothing."""
        if offset < self.offset:
            os.truncate(self.path, offset)
            self._file.seek(offset)

    def close(self) -> None:
        """Closes the file; closing twice is allowed."""
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole event, in order; a missing file is no events.

    Half a line, or one that is no JSON object, is skipped: a run is watched while it writes, and a crash tears lines.
    """
    if not path.is_file():
        return []
    return parsed(path.read_bytes())


def has_at(file: BinaryIO, offset: int, before: bytes) -> bool:
    """Whether a file still has right before an offset the bytes that were read there.

    A resumed run cuts its file back and writes on: its lines have other times, so that they differ even where the file is
    longer again than it was.
    """
    file.seek(offset - len(before))
    return file.read(len(before)) == before


def parsed(text: bytes) -> list[dict[str, Any]]:
    """The event of every line, in order; lines that are no JSON object are left out."""
    return [event for line in text.split(b"\n") if (event := parsed_line(line)) is not None]


def parsed_line(line: bytes) -> dict[str, Any] | None:
    """The event of one line; None where it is no JSON object."""
    try:
        event = json.loads(line)
    except ValueError:  # JSON and UTF-8 errors are both ValueErrors
        return None
    return event if isinstance(event, dict) else None


def course(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The events of the steps that a run kept: what a later `rewind` event took back is left out, and it stays."""
    kept: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("event") == "rewind":
            kept = [one for one in kept if one.get("step", 0) <= event["step"]]
        kept.append(event)
    return kept


MOST_WORDS = 500
"""Characters of an `end` event's sentence: a list of faults can be of any length."""


def ending(error: BaseException) -> dict[str, str]:
    """What the `end` event of a run says that an error ended: `status`, "interrupted" or "failed", and `words`."""
    stopped = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit))
    words = str(error) if isinstance(error, HoneclipError) else f"{type(error).__name__}: {error}"
    return {"status": "interrupted" if stopped else "failed", "words": words[:MOST_WORDS]}


def plain(value: Any) -> Any:
    """The value as JSON can say it: numpy and tensor scalars as numbers, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # numpy and torch scalars; neither library is imported for this
        return plain(value.item())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _whole_bytes(path: Path) -> int:
    """Bytes up to and with the last line end."""
    return path.read_bytes().rfind(b"\n") + 1
