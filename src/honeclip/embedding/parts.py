"""Embeddings of a data set as a folder of Parquet parts, each row of the data in exactly one of them.

Part n holds rows n * part_rows up to (n + 1) * part_rows of the manifest, so that who writes which part follows from its
number alone. A part is written aside and becomes real by one rename; whatever was killed before that leaves nothing that is
read, and the next run writes the parts that are missing. `index.json` says which model, preprocessing and data the folder is
of; a hash of it stands in every part, so that a part of another folder is none of this one.

Columns: `id` (int64, the row of the manifest, from 1), `image` (as the manifest names it), `caption`, `image_embedding` and
`text_embedding` (lists of `dim` float32 of norm 1). Rows without a caption have null for it and for `text_embedding`. Rows
whose image cannot be read are left out, and the part says which and why.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from honeclip.errors import DataError, HoneclipError

INDEX = "index.json"
FORMAT = 1
COLUMNS = ("id", "image", "caption", "image_embedding", "text_embedding")
_KEY = b"honeclip"


@dataclass(frozen=True)
class Header:
    """What `index.json` says.

    Attributes:
        model: the source, for people and to load it again.
        weights: `fingerprint.of_weights` of the model.
        preprocess: `Preprocess.fingerprint`.
        dim: dimensions of an embedding.
        data: the manifest.
        data_sha256: of what the manifest says of images and captions.
        rows: of the manifest.
        part_rows: rows of it that a part covers.
    """

    model: str
    weights: str
    preprocess: str
    dim: int
    data: str
    data_sha256: str
    rows: int
    part_rows: int

    @property
    def parts(self) -> int:
        """How many there are when all is done."""
        return -(-self.rows // self.part_rows)

    @property
    def sha256(self) -> str:
        """Of all that decides what is in a part; the names of model and data do not."""
        facts = {key: value for key, value in asdict(self).items() if key not in ("model", "data")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def rows_of(self, part: int) -> range:
        """Places in the manifest, from 0, that a part covers."""
        return range(part * self.part_rows, min(self.rows, (part + 1) * self.part_rows))


@dataclass(frozen=True)
class Part:
    """Rows that could be embedded, and those that could not.

    Attributes:
        ids: (n,) int64.
        images: as the manifest names them.
        captions: None where a row has none.
        image_ND: (n, D) float32 of norm 1.
        text_ND: (n, D); rows without a caption hold anything.
        failed: row of the manifest -> why it is left out.
    """

    ids: NDArray[np.int64]
    images: Sequence[str]
    captions: Sequence[str | None]
    image_ND: NDArray[np.float32]
    text_ND: NDArray[np.float32]
    failed: dict[int, str]


def read_header(folder: Path) -> Header | None:
    """What `index.json` says; None where there is none.

    Raises:
        DataError: it is damaged, or a newer honeclip wrote it.
    """
    try:
        stored = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / INDEX} cannot be read: {error}") from None
    try:
        if stored.pop("format") != FORMAT:
            raise DataError(f"{folder / INDEX} is of another format than {FORMAT}: use the honeclip that wrote it")
        return Header(**stored)
    except (AttributeError, KeyError, TypeError):
        raise DataError(f"{folder / INDEX} is no index of `honeclip embed`") from None


def write_header(folder: Path, header: Header) -> None:
    """Writes `index.json` by one rename."""
    with _writing(folder / INDEX) as aside:
        text = json.dumps({"format": FORMAT, **asdict(header)}, indent=2, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")


def path(folder: Path, part: int) -> Path:
    """Where a part lies."""
    return folder / f"part-{part:06d}.parquet"


def is_whole(folder: Path, header: Header, part: int) -> bool:
    """Whether a part is there, of this index, and its rows are those that it should have."""
    try:
        metadata = pq.read_metadata(path(folder, part))
        said = json.loads((metadata.metadata or {})[_KEY])
        rows = metadata.num_rows + len(said["failed"])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False
    return bool(said["index"] == header.sha256 and said["part"] == part and rows == len(header.rows_of(part)))


def failed(folder: Path, part: int) -> dict[int, str]:
    """Rows of a part that were left out, with the reason."""
    said = json.loads(pq.read_metadata(path(folder, part)).metadata[_KEY])
    return {int(row): str(why) for row, why in said["failed"].items()}


def write(folder: Path, header: Header, number: int, part: Part) -> None:
    """Makes a part real.

    Raises:
        HoneclipError: the disk is full or refuses.
    """
    said = {"index": header.sha256, "part": number, "failed": part.failed}
    has_text = np.array([caption is not None for caption in part.captions], dtype=bool)
    table = pa.table(
        {
            "id": pa.array(part.ids, pa.int64()),
            "image": pa.array(part.images, pa.string()),
            "caption": pa.array(part.captions, pa.string()),
            "image_embedding": _vectors(part.image_ND, header.dim, None),
            "text_embedding": _vectors(part.text_ND, header.dim, has_text),
        },
        metadata={_KEY: json.dumps(said, ensure_ascii=False).encode()},
    )
    with _writing(path(folder, number)) as aside:
        # embeddings do not compress, and as they are they are read at the speed of the disk
        words = ["image", "caption"]
        compression = {name: "zstd" if name in words else "none" for name in _leaves(table.schema)}
        pq.write_table(
            table,
            aside,
            compression=compression,
            use_dictionary=words,
            write_statistics=False,
            write_page_checksum=True,
        )


def tidy(folder: Path) -> None:
    """Deletes what a killed process had written aside; only for who holds the folder's lock."""
    for aside in folder.glob(".*.aside-*"):
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(final: Path) -> Iterator[Path]:
    """A path to write to, which becomes `final` by one rename when the disk has it."""
    aside = final.with_name(f".{final.name}.aside-{os.getpid()}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(final)
    except OSError as error:
        raise HoneclipError(f"{final} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _vectors(rows_ND: NDArray[np.float32], dim: int, there: NDArray[np.bool_] | None) -> Any:
    flat = pa.array(np.ascontiguousarray(rows_ND, dtype=np.float32).reshape(-1), pa.float32())
    mask = None if there is None or there.all() else pa.array(~there)
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.float32(), dim), mask=mask)


def _leaves(schema: Any) -> list[str]:
    return [f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name for field in schema]
