"""From what was named as DATA to rows: which form it has, what its columns mean, where its images are.

Nothing is decoded here and no row is judged but by what stands in the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honeclip.data import remote, shards, tables
from honeclip.data.remote import Remote
from honeclip.data.rows import ImageRef, Member, Row
from honeclip.data.tables import Table
from honeclip.errors import DataError
from honeclip.preprocess import rules

FIELDS: dict[str, tuple[str, ...]] = {
    "image": ("image", "filepath"),
    "caption": ("caption", "title", "text"),
    "label": ("label",),
    "split": ("split",),
    "group": ("group",),
}
"""What a manifest can say of a pair, and the column names understood for it, the first found wins."""

FORMS = (
    "a CSV, TSV, JSONL or Parquet manifest with `image` and `caption` (or `label`)",
    "a folder that holds one named pairs.csv",
    "WebDataset shards such as shard-{000..009}.tar or s3://bucket/shard-{000..009}.tar",
    "a folder saved by the Hugging Face library with `save_to_disk`",
)
MANIFEST_NAMES = ("pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet")
LABEL_SEPARATOR = ";"
_SCALARS = (str, bool, int, float)


@dataclass(frozen=True)
class Manifest:
    """A manifest, read.

    Attributes:
        source: the file, folder or shard pattern that was read; behind an address it is a `Remote`.
        rows: every data row, the unusable ones too.
        has: the fields for which there is a column (or, without columns, a value in any row).
        notes: what the reader should know about how it was read.
    """

    source: Path | Remote
    rows: tuple[Row, ...]
    has: frozenset[str]
    notes: tuple[str, ...]


def read(data: str | Path, columns: Mapping[str, str] | None = None, *, images_alone: bool = False) -> Manifest:
    """Read a manifest of any form.

    Args:
        data: one of FORMS.
        columns: field -> column name, where the manifest uses other names.
        images_alone: neither captions nor labels are needed.

    Raises:
        DataError: there is nothing there, the form is unknown, no image column or neither captions nor labels (the
            message lists the columns found), or no row.
    """
    mapping = {field: str(column) for field, column in (columns or {}).items()}
    unknown = sorted(set(mapping) - set(FIELDS))
    if unknown:
        raise DataError(f"columns: {', '.join(unknown)} is no field of a manifest; the fields are {', '.join(FIELDS)}")
    source, table = _open(str(data), mapping)
    chosen = _choose(table.columns, mapping, source, images_alone)
    if not table.records:
        raise DataError(f"{source}: the manifest has columns ({', '.join(table.columns)}) but no rows")
    folder = Path() if isinstance(source, Remote) else source if source.is_dir() else source.parent
    others = [column for column in table.columns if column not in chosen.values()]
    rows = tuple(
        _row(number + 1, record, chosen, folder, table.faults.get(number, ""), others)
        for number, record in enumerate(table.records)
    )
    values = {
        "caption": any(row.caption for row in rows),
        "label": any(row.labels for row in rows),
        "split": any(row.split for row in rows),
        "group": any(row.group for row in rows),
    }
    if not (images_alone or values["caption"] or values["label"]):
        raise DataError(f"{source}: no row has a caption or a label; {_found(table.columns)}")
    return Manifest(source, rows, frozenset(name for name, there in values.items() if there), table.notes)


def _open(data: str, mapping: Mapping[str, str]) -> tuple[Path | Remote, Table]:
    """The manifest's path and its records."""
    from honeclip.data import arrow  # pyarrow takes a third of a second, in every decoding process too

    if remote.is_address(data) and remote.local(data) is None:
        if not data.endswith(".tar"):
            raise DataError(
                f"{data}: of addresses only WebDataset shards are read, such as s3://bucket/shard-{{000..009}}.tar; copy "
                "anything else to this machine"
            )
        return Remote(data), shards.read([Remote(url) for url in shards.names(data)])
    path = remote.local(data) or Path(data).expanduser()
    if path.suffix == ".tar" or "{" in path.name:
        pattern = path if path.is_file() else None
        return path, shards.read([pattern] if pattern else shards.expand(str(path)))
    if path.is_dir():
        inside = next((path / name for name in MANIFEST_NAMES if (path / name).is_file()), None)
        if inside is None and arrow.is_saved_dataset(path):
            return path, arrow.read_saved_dataset(path, _known(mapping))
        if inside is None:
            raise DataError(
                f"{path} is a folder without a manifest named pairs.csv; `honeclip prepare {path} --out DIR` makes one "
                f"from class folders, from NAME.jpg beside NAME.txt and from COCO. Understood are {_forms()}"
            )
        path = inside
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder. Understood are {_forms()}")
    found = table(path, _known(mapping))
    if found is not None:
        return path, found
    raise DataError(
        f"{path}: {path.suffix or 'a file without a suffix'} is no known form. Understood are {_forms()}; "
        "`honeclip prepare` makes a manifest of other things"
    )


def table(path: Path, known: Collection[str]) -> Table | None:
    """The records of a CSV, TSV, JSONL or Parquet file by its suffix; None where that is another.

    Args:
        path: a file.
        known: column names by which the header is told, case folded.

    Raises:
        DataError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt", ".tab"):
        return tables.read_separated(path, known)
    if suffix in (".jsonl", ".ndjson"):
        return tables.read_json_lines(path)
    if suffix in (".parquet", ".pq"):
        from honeclip.data import arrow

        return arrow.read_parquet(path, known)
    return None


def _forms() -> str:
    return "; ".join(FORMS)


def _known(mapping: Mapping[str, str]) -> frozenset[str]:
    """Column names that a header may be recognised by, case folded."""
    names = {name for group in FIELDS.values() for name in group} | set(mapping.values())
    return frozenset(name.strip().casefold() for name in names)


def _choose(
    found: Sequence[str], mapping: Mapping[str, str], source: Path | Remote, images_alone: bool
) -> dict[str, str]:
    """Field -> column name as it stands in the manifest, for the fields that are there."""
    by_name = {name.strip().casefold(): name for name in reversed(found)}
    absent = [name for name in mapping.values() if name.strip().casefold() not in by_name]
    if absent:
        raise DataError(f"{source}: there is no column {', '.join(map(repr, absent))}; {_found(found)}")
    chosen = {}
    for field, names in FIELDS.items():
        wanted = (mapping[field],) if field in mapping else names
        column = next((by_name[name.strip().casefold()] for name in wanted if name.strip().casefold() in by_name), None)
        if column is not None:
            chosen[field] = column
    if "image" not in chosen or not (images_alone or {"caption", "label"} & set(chosen)):
        fault = "no image column" if "image" not in chosen else "no captions"
        raise DataError(
            f"{source}: {fault}; {_found(found)}. The first line must be a header with `image` and `caption` or "
            "`label` (`filepath`, `title`, `text` will do); name others with --columns image=...,caption=... (data.columns)"
        )
    return chosen


def _found(columns: Sequence[str]) -> str:
    shown = [name if len(name) <= 60 else f"{name[:57]}..." for name in columns[:40]]
    return f"the columns found are: {', '.join(shown) or 'none'}"


def _row(
    number: int,
    record: Mapping[str, Any],
    chosen: Mapping[str, str],
    folder: Path,
    fault: str,
    others: Sequence[str] = (),
) -> Row:
    values = {field: record.get(column) for field, column in chosen.items()}
    image = values.get("image")
    caption = values.get("caption")
    if isinstance(caption, list | dict) and not fault:
        fault = f"the caption is a {type(caption).__name__}, not text; a row holds one caption"
    file = image.name if isinstance(image, Member) else _text(image)
    return Row(
        row=number,
        file=file,
        image=image if isinstance(image, Member) else _path(file, folder),
        caption=rules.clean("" if fault else _text(caption)),
        labels=_labels(values.get("label")),
        split=_text(values.get("split")),
        group=_text(values.get("group")),
        fault=fault,
        more={name: _text(value) if isinstance(value := record.get(name), _SCALARS) else "" for name in others},
    )


def _path(file: str, folder: Path) -> ImageRef | None:
    """Where an image named in a manifest is: relative to the manifest's folder, or absolute."""
    if not file:
        return None
    path = folder / file
    if "\\" in file and os.sep == "/" and not path.exists():
        return folder / file.replace("\\", "/")  # written on Windows
    return path


def _labels(value: Any) -> tuple[str, ...]:
    """The distinct labels of a row in their order: a list, or text separated by `;`."""
    parts = value if isinstance(value, list | tuple) else _text(value).split(LABEL_SEPARATOR)
    return tuple(dict.fromkeys(text for text in map(_text, parts) if text))


def _text(value: Any) -> str:
    """A cell as text: nothing and NaN are "", a whole number that became a float (a gap in pandas) loses its ".0"."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def parse_columns(text: str) -> dict[str, str]:
    """`image=photo,caption=description` as a mapping; "" gives none.

    Raises:
        DataError: a part is not FIELD=COLUMN.
    """
    mapping = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        field, equals, column = part.partition("=")
        if not equals or not field.strip() or not column.strip():
            raise DataError(f"--columns {text}: write FIELD=COLUMN,..., for example image=photo,caption=description")
        mapping[field.strip()] = column.strip()
    return mapping
