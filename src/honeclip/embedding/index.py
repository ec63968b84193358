"""Exact nearest neighbours in a folder of embeddings (`parts`): every row is compared, none is guessed.

A row is as near as the nearer of its image and its caption, and a hit says which of the two it was. Parts are read one after
the other; they stay in memory where all of them fit in `KEEP_BYTES`, and are read again for each search where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from honeclip.embedding import parts
from honeclip.embedding.parts import Header
from honeclip.errors import BadInput, DataError, ModelError
from honeclip.model import fingerprint
from honeclip.model.clip import Clip

KEEP_BYTES = 1_000_000_000
"""Of embeddings, up to which an index stays in memory."""

Among = Literal["both", "image", "caption"]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        id: the row of the manifest, from 1.
        score: cosine with the query.
        image: as the manifest names it.
        caption: None where the row has none.
        matched: whether its image or its caption is that near.
    """

    id: int
    score: float
    image: str
    caption: str | None
    matched: Literal["image", "caption"]


@dataclass(frozen=True)
class _Loaded:
    """Embeddings of a part: (n, D) of its images, (m, D) of its captions and the rows (m,) that these belong to."""

    ids: NDArray[np.int64]
    image_ND: Vectors
    text_MD: Vectors
    row_of_text: NDArray[np.int64]


class Index:
    """A finished folder of `honeclip embed`; made by `open`.

    Attributes:
        header: what it is of.
        rows: that can be found.
    """

    def __init__(self, folder: Path, header: Header, rows: int) -> None:
        self.header = header
        self.rows = rows
        self._folder = folder
        self._kept: dict[int, _Loaded] = {}
        self._keeps = 2 * 4 * header.dim * rows <= KEEP_BYTES

    @staticmethod
    def open(folder: str | Path) -> Index:
        """Looks at every part's footer.

        Raises:
            DataError: no such folder, not finished, or damaged.
        """
        where = Path(folder).expanduser()
        header = parts.read_header(where)
        if header is None:
            raise DataError(
                f"{where} is no folder of embeddings: `honeclip embed MODEL --data D --out {where}` makes one"
            )
        missing = [number for number in range(header.parts) if not parts.is_whole(where, header, number)]
        if missing:
            raise DataError(
                f"{where} is not whole: {len(missing)} of {header.parts} parts are missing or damaged, the first is "
                f"{parts.path(where, missing[0]).name}; run the same `honeclip embed` again, and it computes those alone"
            )
        rows = sum(pq.read_metadata(parts.path(where, number)).num_rows for number in range(header.parts))
        return Index(where, header, rows)

    def check(self, clip: Clip) -> None:
        """Sees that a model's embeddings can be compared with these.

        Raises:
            ModelError: it is another model, or it sees pictures or texts otherwise.
        """
        theirs, said = self.header, f"{self._folder} holds embeddings of {self.header.model}"
        if theirs.weights != fingerprint.of_weights(clip):
            raise ModelError(
                f"{said}, and {clip.source} has other weights: its embeddings cannot be compared with those"
            )
        if theirs.preprocess != clip.preprocess.fingerprint:
            raise ModelError(
                f"{said}, and {clip.source} sees images or texts otherwise now: run `honeclip embed` again"
            )

    def search(self, query_D: Vectors, top: int = 10, among: Among = "both") -> list[Hit]:
        """The nearest rows, the nearest first; of equally near ones the first in the data.

        Args:
            query_D: float32 of norm 1.
            top: rows at most.
            among: compare with images and captions, or with one of them alone.

        Raises:
            BadInput: a query of another dimension or not finite, or fewer than one row.
        """
        query = np.ascontiguousarray(query_D, dtype=np.float32)
        if query.shape != (self.header.dim,) or not np.isfinite(query).all():
            raise BadInput(f"the query has shape {query.shape}; it is {self.header.dim} finite numbers")
        if top < 1:
            raise BadInput(f"top {top}: it is at least 1")
        best: list[tuple[float, int, int, int, bool]] = []  # -score, id, part, row in it, by its caption
        for number, loaded in self._parts():
            score_N, by_text_N = _scores(loaded, query, among)
            near = _largest(score_N, top)
            best += [
                (-float(score_N[row]), int(loaded.ids[row]), number, int(row), bool(by_text_N[row])) for row in near
            ]
            best = sorted(best)[:top]
        words = self._words([(number, row) for _, _, number, row, _ in best])
        return [
            Hit(one, -score, *words[number, row], "caption" if by_text else "image")
            for score, one, number, row, by_text in best
        ]

    def _parts(self) -> Iterator[tuple[int, _Loaded]]:
        for number in range(self.header.parts):
            loaded = self._kept.get(number)
            if loaded is None:
                loaded = self._load(number)
                if self._keeps:
                    self._kept[number] = loaded
            yield number, loaded

    def _load(self, number: int) -> _Loaded:
        table = self._read(number, ["id", "image_embedding", "text_embedding"])
        text = table["text_embedding"].combine_chunks()
        return _Loaded(
            ids=table["id"].to_numpy(),
            image_ND=self._matrix(table["image_embedding"].combine_chunks()),
            text_MD=self._matrix(text),
            row_of_text=np.flatnonzero(text.is_valid().to_numpy(zero_copy_only=False)),
        )

    def _matrix(self, vectors: Any) -> Vectors:
        """(n, D) of the n that are not null."""
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float32).reshape(-1, self.header.dim)

    def _words(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, str | None]]:
        """Image and caption of rows, read from the parts that hold one."""
        found = {}
        for number in {part for part, _ in wanted}:
            table = self._read(number, ["image", "caption"])
            for row in (row for part, row in wanted if part == number):
                found[number, row] = (table["image"][row].as_py(), table["caption"][row].as_py())
        return found

    def _read(self, number: int, columns: list[str]) -> Any:
        file = parts.path(self._folder, number)
        try:
            with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as opened:
                return opened.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read any more: {str(error).splitlines()[0]}") from None


def _scores(loaded: _Loaded, query_D: Vectors, among: Among) -> tuple[Vectors, NDArray[np.bool_]]:
    """(n,) the larger cosine of image and caption, and whether it is the caption's; -inf where there is none."""
    count = len(loaded.ids)
    image_N = loaded.image_ND @ query_D if among != "caption" else np.full(count, -np.inf, np.float32)
    text_N = np.full(count, -np.inf, np.float32)
    if among != "image":
        text_N[loaded.row_of_text] = loaded.text_MD @ query_D
    return np.maximum(image_N, text_N), text_N > image_N


def _largest(score_N: Vectors, top: int) -> NDArray[np.int64]:
    """Places of the `top` largest that are finite, and all that equal the last of them: who is first is decided later."""
    some = np.flatnonzero(np.isfinite(score_N))
    if len(some) <= top:
        return some
    least = np.partition(score_N[some], len(some) - top)[len(some) - top]
    return np.asarray(some[score_N[some] >= least])
