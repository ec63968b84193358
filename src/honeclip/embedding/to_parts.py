"""A data set through a model into a folder of Parquet parts (`parts`), to be searched or used elsewhere; it can be killed and
started again at any moment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from honeclip.checkpoint.lock import locked
from honeclip.data import manifest
from honeclip.data.pairs import ImageRef
from honeclip.data.rows import Row
from honeclip.embedding import parts
from honeclip.embedding.batches import decoded
from honeclip.embedding.embed import embed_pixels, embed_texts
from honeclip.embedding.features import Progress
from honeclip.embedding.parts import Header, Part
from honeclip.errors import DataError, NonFiniteError, RunError
from honeclip.model import fingerprint
from honeclip.model.clip import Clip

PART_ROWS = 4096
"""Of 512 dimensions 17 MB a part: what a kill costs at most."""


@dataclass(frozen=True)
class Embedded:
    """What is in the folder now.

    Attributes:
        folder: of the parts.
        header: what `index.json` says.
        rows: that were embedded.
        computed: parts that this call wrote; the others were there.
        failed: a sentence for each row that was left out.
    """

    folder: Path
    header: Header
    rows: int
    computed: int
    failed: tuple[str, ...]


def embed_to_parts(
    clip: Clip,
    data: str | Path,
    out: Path,
    *,
    part_rows: int = PART_ROWS,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Embedded:
    """Embed every row of a manifest; what is in `out` already is not computed again.

    Args:
        clip: the model.
        data: a manifest, or a folder with one named pairs.csv; a column `image` is enough.
        out: made where it is missing.
        part_rows: rows of the manifest a part.
        batch_size: images through the model at once; halved where memory runs out.
        progress: called with (rows done, rows).

    Raises:
        DataError: there is no such data, or not one image of it can be read.
        RunError: `out` is of another model, preprocessing or data, or another process is writing it.
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    rows, header = described(clip, data, part_rows)
    with locked(out):
        missing = begin(out, header)
        write_parts(clip, rows, out, header, missing, batch_size=batch_size, progress=progress)
    return finished(out, header, rows, len(missing))


def described(clip: Clip, data: str | Path, part_rows: int) -> tuple[tuple[Row, ...], Header]:
    """The rows of a manifest, and what `index.json` says of their embeddings; the same in every process."""
    read = manifest.read(data, images_alone=True)
    header = Header(
        model=clip.source,
        weights=fingerprint.of_weights(clip),
        preprocess=clip.preprocess.fingerprint,
        dim=clip.embed_dim,
        data=str(read.source),
        data_sha256=_digest(read.rows),
        rows=len(read.rows),
        part_rows=part_rows,
    )
    return read.rows, header


def begin(out: Path, header: Header) -> list[int]:
    """Writes `index.json`, or sees that the one which is there says the same. For who holds the folder's lock.

    Returns:
        The numbers of the parts that are missing.

    Raises:
        RunError: it is of something else.
    """
    parts.tidy(out)
    there = parts.read_header(out)
    if there is None:
        others = sorted(file.name for file in out.iterdir() if not file.name.startswith("."))
        if others:
            raise RunError(
                f"{out} is not empty ({', '.join(others[:3])}) and no folder of embeddings: name another --out"
            )
        parts.write_header(out, header)
    elif there.sha256 != header.sha256:
        what = {
            "weights": f"another model ({there.model})",
            "preprocess": "another preprocessing",
            "data_sha256": f"other rows ({there.data})",
            "part_rows": f"parts of {there.part_rows} rows",
        }
        differing = [words for name, words in what.items() if getattr(there, name) != getattr(header, name)]
        raise RunError(f"{out} holds embeddings of {', '.join(differing)}: name another --out, or delete that folder")
    return [number for number in range(header.parts) if not parts.is_whole(out, header, number)]


def write_parts(
    clip: Clip,
    rows: Sequence[Row],
    out: Path,
    header: Header,
    missing: Sequence[int],
    places: Iterable[int] | None = None,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> None:
    """Writes parts that are missing; several processes may do so at once, each other ones.

    Args:
        clip: the model.
        rows: of the manifest.
        out: the folder, which was begun.
        header: what it is of.
        missing: numbers of all parts that nobody has written.
        places: which of them this process writes, as places among `missing`, rising; None: all.
        batch_size: images through the model at once.
        progress: called with (rows of the missing parts up to here, all of them), after each batch too.
    """
    ends = list(accumulate((len(header.rows_of(number)) for number in missing), initial=0))
    for place in range(len(missing)) if places is None else places:
        chosen = [rows[row] for row in header.rows_of(missing[place])]

        def said(images: int, _: int, *, before: int = ends[place]) -> None:
            if progress:
                progress(before + images, ends[-1])

        parts.write(out, header, missing[place], _part(clip, chosen, batch_size, said))
        said(len(chosen), 0)


def finished(out: Path, header: Header, rows: Sequence[Row], computed: int) -> Embedded:
    """What is in a folder all of whose parts are there.

    Args:
        out: the folder.
        header: what it is of.
        rows: of the manifest.
        computed: parts that were written now.

    Raises:
        DataError: not one image could be read.
    """
    left_out = {row: why for number in range(header.parts) for row, why in parts.failed(out, number).items()}
    if len(left_out) == header.rows:
        raise DataError(f"{header.data}: none of the {header.rows} images can be read: {next(iter(left_out.values()))}")
    said = tuple(f"row {row} ({rows[row - 1].file}): {why}" for row, why in left_out.items())
    return Embedded(out, header, header.rows - len(left_out), computed, said)


def _part(clip: Clip, rows: Sequence[Row], batch_size: int, progress: Progress) -> Part:
    failed = {row.row: row.fault or "it names no image" for row in rows if row.fault or row.image is None}
    good = [row for row in rows if row.row not in failed]
    image_of: dict[ImageRef, Tensor] = {}
    refs = list(dict.fromkeys(row.image for row in good if row.image is not None))
    why: dict[ImageRef, str] = {}
    for numbers, pixels, bad in decoded(refs, clip.preprocess, batch_size):
        if pixels is not None:
            image_of.update(zip([refs[number] for number in numbers], embed_pixels(clip, pixels), strict=True))
        why.update({refs[number]: reason for number, reason in bad.items()})
        progress(len(image_of) + len(why), len(refs))
    failed.update({row.row: why[row.image] for row in good if row.image in why})
    kept = [row for row in good if row.image in image_of]
    captions = list(dict.fromkeys(row.caption for row in kept if row.caption))
    text_MD = embed_texts(clip, captions) if captions else torch.zeros(1, clip.embed_dim)
    number = {caption: place for place, caption in enumerate(captions)}
    image_ND = torch.stack([image_of[row.image] for row in kept if row.image]) if kept else text_MD[:0]
    text_ND = text_MD[[number.get(row.caption, 0) for row in kept]]
    for name, values in (("image", image_ND), ("text", text_MD)):
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(f"the {name} tower of {clip.source} gives NaN or infinite embeddings")
    return Part(
        ids=np.array([row.row for row in kept], dtype=np.int64),
        images=[row.file for row in kept],
        captions=[row.caption or None for row in kept],
        image_ND=image_ND.numpy(),
        text_ND=text_ND.numpy(),
        failed=dict(sorted(failed.items())),
    )


def _digest(rows: Sequence[Row]) -> str:
    hashed = hashlib.sha256()
    for row in rows:
        for text in (row.file, row.caption):
            hashed.update(f"{len(text.encode())}:{text}".encode())
    return hashed.hexdigest()
