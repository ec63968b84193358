"""Tables of reports: which texts, labels and splits belong to a key such as an accession number."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from honeclip.data import manifest
from honeclip.errors import DataError
from honeclip.preprocess import rules

FIELDS = ("caption", "label", "split")
"""What a table of reports can say, besides its key."""


@dataclass(frozen=True)
class Join:
    """How DICOM files find their reports; `dicom_tree` reads them.

    Attributes:
        table: a CSV, TSV, JSONL or Parquet file.
        key: a DICOM keyword or tag, or KEYWORD=COLUMN where the table's column has another name.
        slices: "middle", "uniform:N" or "all": which slices of a series are taken.
        salt: goes into the hash of a patient's identity.
        quiet: no name of a file in the notes.
    """

    table: Path
    key: str = "AccessionNumber"
    slices: str = "middle"
    salt: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Report:
    """One report: `caption` is "" where the table has no column of texts; then there are labels."""

    caption: str
    labels: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Reports:
    """A table that was read: key -> its reports, each text once, and what was left out."""

    by_key: Mapping[str, list[Report]]
    notes: tuple[str, ...]


def read(table: Path, keyword: str, column: str, columns: Mapping[str, str]) -> Reports:
    """Read a table of reports.

    Args:
        table: a CSV, TSV, JSONL or Parquet file. Names of columns agree without regard to case, spaces and `_`.
        keyword: of the DICOM element that is the key.
        column: the key's column, where it is not named as the keyword.
        columns: field -> column, where it is not named as the field.

    Raises:
        DataError: no such file, or no column for the key or for the texts (the message lists the columns).
    """
    unknown = sorted(set(columns) - set(FIELDS))
    if unknown:
        raise DataError(f"--columns {', '.join(unknown)}: of a table of reports it names {', '.join(FIELDS)}")
    if not table.is_file():
        raise DataError(f"--reports {table}: there is no such file")
    asked = {"key": column or keyword, **columns}
    fields = {name: columns.get(name, name) for name in FIELDS}
    known = frozenset(one for name in (*asked.values(), *fields.values()) for one in _spellings(name))
    found = manifest.table(table, known)
    if found is None:
        raise DataError(f"--reports {table}: a table of reports is a CSV, TSV, JSONL or Parquet file")
    by_name = {_plain(name): name for name in reversed(found.columns)}
    there = ", ".join(found.columns)
    missing = [name for name in asked.values() if _plain(name) not in by_name]
    if missing:
        raise DataError(
            f"--reports {table}: there is no column {', '.join(missing)}; the columns found are: {there}. Name the key's as in "
            f"--key {keyword}={found.columns[0]}, the text's as in --columns caption=report"
        )
    place = {name: by_name[_plain(wanted)] for name, wanted in fields.items() if _plain(wanted) in by_name}
    if not {"caption", "label"} & set(place):
        raise DataError(
            f"--reports {table}: which column holds the text? Name it as in --columns caption=report; found are: {there}"
        )
    by_key: dict[str, list[Report]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for number, record in enumerate(found.records):
        cells = {name: rules.clean(_cell(record.get(column))) for name, column in place.items()}
        key = _cell(record.get(by_name[_plain(asked["key"])])).strip()
        labels = tuple(part.strip() for part in cells.get("label", "").split(manifest.LABEL_SEPARATOR) if part.strip())
        one = Report(cells.get("caption", ""), labels, cells.get("split", ""))
        if number in found.faults:
            counts[f"are damaged ({found.faults[number]})"] += 1
        elif not key:
            counts[f"have no {asked['key']}"] += 1
        elif not one.caption and not ("caption" not in place and labels):
            counts["have no text"] += 1
        elif one not in by_key[key]:
            by_key[key].append(one)
    notes = [f"{count} reports {why} and were left out" for why, count in counts.items()]
    return Reports({key: some for key, some in by_key.items() if some}, (*found.notes, *notes))


def _spellings(name: str) -> list[str]:
    """`AccessionNumber` as it may stand in a header, case folded."""
    apart = [re.sub(r"(?<=[a-z])(?=[A-Z])", between, name) for between in ("_", " ")]
    return [one.casefold() for one in (name, *apart)]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _cell(value: object) -> str:
    return "" if value is None else str(value)
