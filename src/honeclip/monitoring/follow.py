"""events.jsonl as it grows: the whole lines that came since a place, for what watches a run from outside.

Half a line is left for the next time. A resumed run cuts its file back to a checkpoint and writes on: what was read is then
no longer what the file says, and reading begins again from its start. That is seen by the last bytes that were read, for a
file that has grown again is no shorter than it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from honeclip.monitoring.events import has_at, parsed

TAIL_BYTES = 256
"""Of the last line read, by which a file that was cut back and has grown again is told: every event has its own time."""

CHUNK_BYTES = 1 << 22
"""Read at once, so that a file of a million steps is never held whole; a longer line is read whole all the same."""


@dataclass(frozen=True)
class Place:
    """How far a file was read: bytes from its start, at the end of a line, and the last of them."""

    offset: int = 0
    tail: bytes = b""


@dataclass(frozen=True)
class News:
    """What a file says that was not read before.

    Attributes:
        events: in order; lines that are no JSON object are left out.
        place: where to go on.
        again: whether the file was cut back, so that `events` begin at its start; whoever counts must begin anew.
        more: whether whole lines may be left to read.
    """

    events: tuple[dict[str, Any], ...]
    place: Place
    again: bool = False
    more: bool = False


def end(path: Path) -> Place:
    """The place after the last whole line; a missing file's is its start."""
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return Place()
    with opened as file:
        begin = max(0, file.seek(0, 2) - CHUNK_BYTES)
        file.seek(begin)
        text = file.read(CHUNK_BYTES)
    length = text.rfind(b"\n") + 1
    return Place(begin + length, _tail(text[:length])) if length else Place()


def news(path: Path, place: Place = Place(), until: int | None = None) -> News:
    """The whole lines after a place, about `CHUNK_BYTES` of them; call it again at `place` while there is `more`.

    Args:
        path: events.jsonl; a missing one is empty.
        place: of the last call; the start of the file when left out.
        until: bytes from the start of the file, at the end of a line, beyond which nothing is read.
    """
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return News((), Place(), again=place.offset > 0)
    with opened as file:
        again = not has_at(file, place.offset, place.tail)
        if again:
            place = Place()
        file.seek(place.offset)
        text, more = _whole_lines(
            file, CHUNK_BYTES if until is None else max(0, min(CHUNK_BYTES, until - place.offset))
        )
    if not text:
        return News((), place, again)
    return News(tuple(parsed(text)), Place(place.offset + len(text), _tail(text)), again, more)


def _tail(text: bytes) -> bytes:
    """Of the last line, where all of them are whole."""
    return text[text.rfind(b"\n", 0, -1) + 1 :][-TAIL_BYTES:]


def _whole_lines(file: BinaryIO, most: int) -> tuple[bytes, bool]:
    """From where the file stands up to and with the last line end of `most` bytes, and whether it may go on after that."""
    text = b""
    while chunk := file.read(most):
        text += chunk
        end = text.rfind(b"\n") + 1
        if end:
            return text[:end], len(chunk) == most
    return b"", False
