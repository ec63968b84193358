"""Manifests that are text: CSV and its kin with whatever separator, and JSON lines.

A table is records by column name, nothing resolved and nothing judged: what the columns mean is said in manifest.py.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from honeclip.errors import DataError

SEPARATORS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Table:
    """Records of a manifest in their order.

    Attributes:
        columns: the names found, as written.
        records: one a data row; values are what the format gives (text, numbers, lists, a Member for an image).
        faults: index of a record -> why that row could not be read.
        notes: what the reader should know about how the file was read.
    """

    columns: tuple[str, ...]
    records: tuple[dict[str, Any], ...]
    faults: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """A text file and a note where it is not UTF-8: a byte-order mark is obeyed and dropped, else Latin-1 is taken.

    Latin-1 is read as browsers do, as its superset Windows-1252: curly quotes and the euro sign survive.

    Raises:
        DataError: the file cannot be read, or holds no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    notes: tuple[str, ...] = ()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16", errors="replace")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            notes = (f"{path.name} is not UTF-8 (line {line}), so it was read as Latin-1",)
            try:
                text = raw.decode("cp1252")
            except UnicodeDecodeError:
                text = raw.decode("latin-1")
    if "\0" in text:
        raise DataError(f"{path}: this is no text file (it holds zero bytes); save the table as CSV in UTF-8")
    if not text.strip():
        raise DataError(f"{path}: the manifest is empty; it needs a header with `image` and `caption` and a row a pair")
    return text, notes


def read_separated(path: Path, known: Collection[str]) -> Table:
    """A CSV or TSV file; the separator is the one that finds most of the `known` column names in the header.

    Quotes, separators and line breaks inside quotes are kept. A row with more fields than the header is a fault of that
    row: most often a comma in an unquoted caption, which must not be cut silently.

    Raises:
        DataError: no text, a quote that never ends, a column twice.
    """
    text, notes = read_text(path)
    separator = _separator(text, known)
    try:
        lines = list(_records(text, separator, quoted=True))
    except csv.Error as error:
        if separator != "\t":
            raise DataError(f"{path}: {error}. A quote inside a quoted field is written twice") from None
        lines = list(_records(text, separator, quoted=False))
        notes = (*notes, f"{path.name}: quotes are not balanced, so they were taken as plain characters")
    columns = tuple(name.strip() for name in lines[0])
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header has a column twice: {', '.join(twice)}")
    faults: dict[int, str] = {}
    for index, fields in enumerate(lines[1:]):
        if any(extra.strip() for extra in fields[len(columns) :]):
            faults[index] = (
                f"{len(fields)} fields where the header has {len(columns)}: a {separator!r} inside a field needs quotes"
            )
    records = tuple(dict(zip(columns, fields, strict=False)) for fields in lines[1:])
    return Table(tuple(name for name in columns if name), records, faults, notes)


def read_json_lines(path: Path) -> Table:
    """A file with one JSON object a line; a line that is none is a fault of that row.

    Raises:
        DataError: no text, or no line that is an object.
    """
    text, notes = read_text(path)
    records: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    columns: dict[str, None] = {}
    for line in text.split("\n"):  # not splitlines(): it also cuts at characters that JSON leaves unescaped
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            record, reason = {}, f"the line is no JSON: {error}"
        else:
            reason = "" if isinstance(record, dict) else f"the line is a JSON {type(record).__name__}, not an object"
        if reason:
            faults[len(records)] = reason
            record = {}
        records.append(record)
        columns.update(dict.fromkeys(record))
    if not columns:
        first = next(iter(faults.values()), "it has no rows")
        raise DataError(f"{path}: there is no JSON object with an image and a caption in it: {first}")
    return Table(tuple(columns), tuple(records), faults, notes)


def _records(text: str, separator: str, quoted: bool) -> Iterator[list[str]]:
    """Non-blank records. Strict: a quote that is opened and never closed would swallow the rest of the file."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=True,
    )
    try:
        for fields in reader:
            if any(value.strip() for value in fields):
                yield fields
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num}: {error}") from None


def _separator(text: str, known: Collection[str]) -> str:
    """The separator whose header holds most known names, then most names at all; a comma where all are alike."""

    def score(separator: str) -> tuple[int, int]:
        try:
            header = next(_records(text, separator, quoted=True))
        except csv.Error:
            return (0, 0)
        return sum(name.strip().casefold() in known for name in header), len(header)

    return max(SEPARATORS, key=score)
