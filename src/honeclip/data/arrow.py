"""Parquet files and data sets saved by Hugging Face `datasets`, read with pyarrow alone.

Images may be paths, or bytes inside the file (binary, or a struct of `bytes` and `path`). Bytes in an uncompressed
Arrow file are read where they lie. Parquet compresses them in pages that cannot be entered in the middle, so they are
unpacked once, into one file among the caches of this machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from honeclip import places
from honeclip.data.rows import Member
from honeclip.data.tables import Table
from honeclip.errors import DataError

BATCH_ROWS = 256
ABSENT = -1
"""The length that stands for "no bytes here"; the row may still give a path."""


def read_parquet(path: Path, known: Collection[str]) -> Table:
    """A Parquet manifest; columns whose names are not `known` are read only where they hold one short
    value a row (others may hold embeddings, or masks).

    Raises:
        DataError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            fields = _wanted(schema, known)
            blobs = [field.name for field in fields if _holds_bytes(field.type)]
            plain = [field.name for field in fields if field.name not in blobs]
            plain += [f"{name}.path" for name in blobs if _has_path(schema.field(name).type)]
            table = file.read(columns=plain)
            members = {name: _unpacked(path, file, name) for name in blobs}
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: this is no readable Parquet file: {_first_line(error)}") from None
    return Table(tuple(schema.names), _records(table, schema, members, rows))


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` was written by `datasets`' `save_to_disk`: one split, or a dictionary of them."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved_dataset(folder: Path, known: Collection[str]) -> Table:
    """A folder written by `save_to_disk`; with several splits their names become the column `split`.

    Columns whose names are not `known` are read only where they hold one short value a row.

    Raises:
        DataError: a file of it is missing or damaged.
    """
    if not (folder / "dataset_dict.json").is_file():
        return _saved_split(folder, known)
    columns: dict[str, None] = {}
    records: list[dict[str, Any]] = []
    for name in _json(folder / "dataset_dict.json").get("splits", []):
        part = _saved_split(folder / str(name), known)
        columns.update(dict.fromkeys(part.columns))
        records += [{"split": name, **record} for record in part.records]
    columns.setdefault("split")
    return Table(tuple(columns), tuple(records))


def _saved_split(folder: Path, known: Collection[str]) -> Table:
    files = [folder / str(part["filename"]) for part in _json(folder / "state.json").get("_data_files", [])]
    records: list[dict[str, Any]] = []
    columns: tuple[str, ...] = ()
    for path in files:
        try:
            schema, part = _arrow_file(path, known)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: this is no readable Arrow file: {_first_line(error)}") from None
        columns = tuple(schema.names)
        records += part
    return Table(columns, tuple(records))


def _arrow_file(path: Path, known: Collection[str]) -> tuple[Any, list[dict[str, Any]]]:
    """Schema and records of one Arrow file, stream or random-access format."""
    records: list[dict[str, Any]] = []
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        reader: Any
        try:
            reader = pa.ipc.open_stream(whole)
            batches = list(reader)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(whole)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        schema = reader.schema
        fields = _wanted(schema, known)
        blobs = [field.name for field in fields if _holds_bytes(field.type)]
        for batch in (batch.select([field.name for field in fields]) for batch in batches):
            members = {name: _in_place(path, whole, batch.column(name), len(records)) for name in blobs}
            records += _records(pa.Table.from_batches([_without_bytes(batch, blobs)]), schema, members, batch.num_rows)
    return schema, records


def _without_bytes(batch: Any, blobs: list[str]) -> Any:
    """The batch with `path` in place of each struct of bytes and path, and without plain bytes."""
    names, arrays = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name not in blobs:
            names.append(name)
            arrays.append(column)
        elif _has_path(column.type):
            names.append(name)
            arrays.append(pa.StructArray.from_arrays([column.field("path")], names=["path"]))
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _in_place(path: Path, whole: Any, column: Any, first_row: int) -> list[Member | None]:
    """Where in the file the bytes of each row lie.

    Raises:
        DataError: the file's buffers are compressed.
    """
    blobs = column.field("bytes") if pa.types.is_struct(column.type) else column
    _, offsets, data = blobs.buffers()
    width = np.int64 if pa.types.is_large_binary(blobs.type) else np.int32
    ends = np.frombuffer(offsets, dtype=width)[blobs.offset : blobs.offset + len(blobs) + 1].astype(np.int64)
    start = (data.address if data is not None else whole.address) - whole.address
    if not 0 <= start <= whole.size:
        raise DataError(f"{path}: its buffers are compressed; save the data set again with `save_to_disk`")
    valid = blobs.is_valid().to_numpy(zero_copy_only=False) & column.is_valid().to_numpy(zero_copy_only=False)
    return [
        Member(path, int(start + ends[row]), int(ends[row + 1] - ends[row]), f"{path.name} row {first_row + row + 1}")
        if valid[row]
        else None
        for row in range(len(blobs))
    ]


def _unpacked(path: Path, file: Any, name: str) -> list[Member | None]:
    """The bytes of column `name`, copied once into a file of their own, one image after the other."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{name}".encode()).hexdigest()[:32]
    folder = places.inspections() / "unpacked"
    target, index = folder / f"{key}.bytes", folder / f"{key}.npy"
    lengths: NDArray[np.int64]
    try:
        lengths = np.load(index, allow_pickle=False)
        complete = target.stat().st_size == int(lengths[lengths > 0].sum())
    except (OSError, ValueError, EOFError):
        complete = False
    if not complete:
        lengths = _unpack(file, name, target, index)
    starts = np.cumsum(np.maximum(lengths, 0)) - np.maximum(lengths, 0)
    return [
        None if length == ABSENT else Member(target, int(start), int(length), f"{path.name} row {row + 1}")
        for row, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def _unpack(file: Any, name: str, target: Path, index: Path) -> NDArray[np.int64]:
    """Write all bytes and then their lengths, each aside and renamed: a stopped process leaves nothing half."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(f".{os.getpid()}.partial")
    lengths: list[int] = []
    try:
        with aside.open("wb") as out:
            for blob in _blobs(file, name):
                lengths.append(ABSENT if blob is None else len(blob))
                out.write(blob or b"")
        aside.replace(target)
        found = np.array(lengths, dtype=np.int64)
        with aside.open("wb") as out:
            np.save(out, found)
        aside.replace(index)
    finally:
        aside.unlink(missing_ok=True)
    return found


def _blobs(file: Any, name: str) -> Iterator[bytes | None]:
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[name]):
        for value in batch.column(0).to_pylist():
            yield value.get("bytes") if isinstance(value, dict) else value


def _records(table: Any, schema: Any, members: dict[str, list[Member | None]], rows: int) -> tuple[dict[str, Any], ...]:
    """Plain values by column; bytes as Members, else the path beside them; class numbers as their names."""
    names = _class_names(schema)
    columns: dict[str, list[Any]] = {name: list(found) for name, found in members.items()}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if name in members:
            paths = [value["path"] if value else None for value in values]
            columns[name] = [member or path for member, path in zip(members[name], paths, strict=True)]
        elif name in names:
            columns[name] = [_named(value, names[name]) for value in values]
        else:
            columns[name] = values
    return tuple({name: values[row] for name, values in columns.items()} for row in range(rows))


def _wanted(schema: Any, known: Collection[str]) -> list[Any]:
    """The columns that are read: those of the known names, and of the others those of one short value a row."""
    return [field for field in schema if field.name.strip().casefold() in known or _is_short(field.type)]


def _is_short(kind: Any) -> bool:
    """Whether a type is text, a number, a truth value or a category: what subgroups may be made of."""
    types = pa.types
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
    return bool(is_text or types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of the classes of each ClassLabel column (or list of them), from the note that `datasets` leaves."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for name, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[name] = inner["names"]
    return found


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if isinstance(value, float) and not math.isnan(value):
        value = int(value)
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _has_path(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind) and any(field.name == "path" for field in kind))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: a saved data set needs this file: {error}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
